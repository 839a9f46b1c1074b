//! Access logs as providers state them: where they go, what a line looks like, and which requests stand there.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileTypeExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use common::config::access_format::Format;
use common::config::expression::Expression;
use common::config::mesh::{FileLog, LogEncoding, LogFormat, MeshConfig};
use common::telemetry::access::AccessLog;
use common::telemetry::formatted::Shape;
use common::telemetry::line;
use common::telemetry::request_line::RequestLine;
use common::telemetry::sink::{LogGuard, LogSink};
use http::HeaderName;

/// Files other than standard output that logs are written to at once.
pub const MAX_LOG_FILES: usize = 16;
/// Longest path of such a file, in bytes.
const MAX_PATH_BYTES: usize = 4096;
/// Where a provider writes that states no file.
const STDOUT: &str = "/dev/stdout";

/// One log.
#[derive(Debug, Clone)]
pub struct Log {
    shape: Shape,
    filter: Option<Expression>,
    out: AccessLog,
    /// Kept open for as long as somebody writes to it.
    _file: Option<Arc<File>>,
}

impl Log {
    /// As a provider states it.
    ///
    /// # Errors
    /// In words, when a format cannot be read, or a file not be written.
    pub fn new(
        stated: &FileLog,
        filter: Option<Expression>,
        mesh: &MeshConfig,
        (own, files): (&AccessLog, &Files),
    ) -> Result<Self, String> {
        let (shape, format) = shape(stated, mesh, own.format())?;
        let (out, file) = match &*stated.path {
            "" | STDOUT => (own.in_format(format), None),
            path => {
                let file = files.open(path, format)?;
                (AccessLog::new(file.sink.clone(), format), Some(file))
            }
        };
        Ok(Self { shape, filter, out, _file: file })
    }

    /// Writes the line of a request, if it stands here.
    pub fn tell(&self, line: &RequestLine<'_>, failed: bool) {
        if self.filter.as_ref().is_none_or(|it| it.holds(line)) {
            self.out.shaped(&self.shape, line, failed);
        }
    }

    /// Headers of requests and of answers that it asks for.
    pub fn headers(&self) -> (Vec<HeaderName>, Vec<HeaderName>) {
        let (mut request, mut response) = self.filter.as_ref().map(Expression::headers).unwrap_or_default();
        let formats: Vec<&Format> = match &self.shape {
            Shape::Default => Vec::new(),
            Shape::Text(format) => vec![format],
            Shape::Labels { fields, .. } => fields.iter().map(|(_, format)| format).collect(),
        };
        for format in formats {
            let (of_request, of_response) = format.headers();
            request.extend(of_request);
            response.extend(of_response);
        }
        (request, response)
    }
}

/// What lines look like, and the format of those of no stated shape.
fn shape(
    stated: &FileLog,
    mesh: &MeshConfig,
    own: line::LogFormat,
) -> Result<(Shape, line::LogFormat), String> {
    let read = |text: &str| Format::read(text, |name| std::env::var(name).ok());
    Ok(match &stated.format {
        Some(LogFormat::Text(text)) => (Shape::Text(read(text)?), own),
        Some(LogFormat::Labels(labels)) => {
            let of = |(key, text): &(Arc<str>, Arc<str>)| {
                read(text).map(|it| (key.clone(), it)).map_err(|why| format!("{key}: {why}"))
            };
            let fields: Result<Vec<_>, String> = labels.iter().map(of).collect();
            (Shape::Labels { fields: fields?.into(), omits_empty: stated.omit_empty }, own)
        }
        None if mesh.access_log_encoding == LogEncoding::Json => (Shape::Default, line::LogFormat::Json),
        None => match mesh.access_log_format.as_deref().filter(|it| !it.is_empty()) {
            Some(text) => (Shape::Text(read(text)?), own),
            None => (Shape::Default, own),
        },
    })
}

/// A file that is written to by a thread of its own.
pub struct File {
    sink: LogSink,
    _guard: LogGuard,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").finish_non_exhaustive()
    }
}

/// Files that are open, by their paths. They are closed here and nowhere else, because the last lines are waited for, which
/// no request may have to do.
#[derive(Debug, Default)]
pub struct Files(Mutex<BTreeMap<String, Arc<File>>>);

impl Files {
    /// Closes those that nobody writes to any more.
    pub fn sweep(&self) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|_, it| Arc::strong_count(it) > 1);
    }

    fn open(&self, path: &str, format: line::LogFormat) -> Result<Arc<File>, String> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(path) {
            return Ok(file.clone());
        }
        if files.len() >= MAX_LOG_FILES {
            return Err(format!("{path}: more than {MAX_LOG_FILES} files"));
        }
        if !path.starts_with('/') || path.len() > MAX_PATH_BYTES {
            return Err(format!("{path:?} is no absolute path of at most {MAX_PATH_BYTES} bytes"));
        }
        let out: Box<dyn Write + Send> = match path {
            "/dev/stderr" => Box::new(std::io::stderr()),
            path => {
                // A pipe that nobody reads would keep whoever opens it waiting, and that is who applies changes.
                let is_pipe = std::fs::metadata(path).is_ok_and(|it| it.file_type().is_fifo());
                if is_pipe {
                    return Err(format!("{path}: a pipe; name a file, /dev/stdout or /dev/stderr"));
                }
                let opened = OpenOptions::new().append(true).create(true).open(path);
                Box::new(opened.map_err(|error| format!("{path}: {error}"))?)
            }
        };
        let (sink, guard) = LogSink::start(out, format).map_err(|error| format!("{path}: {error}"))?;
        let file = Arc::new(File { sink, _guard: guard });
        files.insert(path.to_owned(), file.clone());
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_is_refused_and_waited_for_by_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let path = path.to_str().unwrap();
        let refused = Files::default().open(path, line::LogFormat::Plain).err().unwrap();
        assert!(refused.contains("a pipe"), "{refused}");
        let file = directory.path().join("log");
        assert!(Files::default().open(file.to_str().unwrap(), line::LogFormat::Plain).is_ok());
    }
}
