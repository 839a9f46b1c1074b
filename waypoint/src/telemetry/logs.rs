//! Access logs as providers state them: where they go, what a line looks like, and which requests stand there.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileTypeExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use common::config::access_format::Format;
use common::config::expression::Expression;
use common::config::mesh::{FileLog, LogEncoding, LogFormat, MeshConfig, OtelLog};
use common::spans::Entry;
use common::spans::export::Exporter;
use common::telemetry::access::AccessLog;
use common::telemetry::formatted::{Shape, rendered};
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

/// Istio's format of a line, for collectors to which no other is stated.
const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
    \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
    %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%";

/// One log.
#[derive(Debug, Clone)]
pub struct Log {
    shape: Shape,
    filter: Option<Expression>,
    out: Out,
}

/// Where a log goes.
#[derive(Debug, Clone)]
enum Out {
    /// To a file, which is kept open for as long as somebody writes to it.
    Written { log: AccessLog, _file: Option<Arc<File>> },
    /// To a collector: a line as the format has it, and what is told beside it.
    Sent(Arc<Exporter>, Format),
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
        Ok(Self { shape, filter, out: Out::Written { log: out, _file: file } })
    }

    /// As a provider of OpenTelemetry's protocol states it.
    ///
    /// # Errors
    /// In words, when a format cannot be read.
    pub fn sent(
        stated: &OtelLog,
        filter: Option<Expression>,
        exporter: Arc<Exporter>,
    ) -> Result<Self, String> {
        let body = read(stated.text.as_deref().unwrap_or(DEFAULT_FORMAT))?;
        let shape = Shape::Labels { fields: fields(&stated.labels)?, omits_empty: false };
        Ok(Self { shape, filter, out: Out::Sent(exporter, body) })
    }

    /// Writes the line of a request, if it stands here.
    pub fn tell(&self, line: &RequestLine<'_>, failed: bool) {
        if self.filter.as_ref().is_some_and(|it| !it.holds(line)) {
            return;
        }
        match &self.out {
            Out::Written { log, .. } => log.shaped(&self.shape, line, failed),
            Out::Sent(exporter, body) => exporter.log(self.entry(body, line)),
        }
    }

    fn entry(&self, body: &Format, line: &RequestLine<'_>) -> Entry {
        let attributes = match &self.shape {
            Shape::Labels { fields, .. } => {
                fields.iter().map(|(key, format)| (key.clone(), rendered(format, line))).collect()
            }
            Shape::Default | Shape::Text(_) => Vec::new(),
        };
        let now = SystemTime::now();
        Entry {
            at: now.checked_sub(line.duration).unwrap_or(now),
            body: rendered(body, line),
            attributes,
            trace: line.more.and_then(|it| it.trace_id()),
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
        let sent = match &self.out {
            Out::Sent(_, body) => Some(body),
            Out::Written { .. } => None,
        };
        for format in formats.into_iter().chain(sent) {
            let (of_request, of_response) = format.headers();
            request.extend(of_request);
            response.extend(of_response);
        }
        (request, response)
    }
}

fn read(text: &str) -> Result<Format, String> {
    Format::read(text, |name| std::env::var(name).ok())
}

/// Keys, and what stands there.
type Fields = Box<[(Arc<str>, Format)]>;

fn fields(labels: &[(Arc<str>, Arc<str>)]) -> Result<Fields, String> {
    let of = |(key, text): &(Arc<str>, Arc<str>)| {
        read(text).map(|it| (key.clone(), it)).map_err(|why| format!("{key}: {why}"))
    };
    labels.iter().map(of).collect()
}

/// What lines look like, and the format of those of no stated shape.
fn shape(
    stated: &FileLog,
    mesh: &MeshConfig,
    own: line::LogFormat,
) -> Result<(Shape, line::LogFormat), String> {
    Ok(match &stated.format {
        Some(LogFormat::Text(text)) => (Shape::Text(read(text)?), own),
        Some(LogFormat::Labels(labels)) => {
            (Shape::Labels { fields: fields(labels)?, omits_empty: stated.omit_empty }, own)
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
