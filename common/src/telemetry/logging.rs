//! Turns `tracing` events into lines of the log, and lets the levels be changed while running.
//!
//! Spans are not written: a line says by its fields what it is about. The surprising thing: the access log does not
//! come through here, it only asks the same levels (`access.rs`).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::access::AccessLog;
use super::line::{Line, LogFormat};
use super::sink::{LogGuard, LogSink};

/// How many targets may have a level of their own through `/logging` before it must be reset.
pub const MAX_LEVEL_OVERRIDES: usize = 64;

/// Everything `init` sets up.
pub struct Logging {
    /// Writes access log lines.
    pub access: AccessLog,
    /// Changes levels at run time.
    pub control: LogControl,
    /// Where lines go, for its count of dropped lines.
    pub sink: LogSink,
    /// Writes the last lines when dropped: to be held by `main`.
    pub guard: LogGuard,
}

/// Why logging cannot be set up or its levels not be changed.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// `RUST_LOG` or its flag is not a filter.
    #[error("log filter {filter:?} is not one: {reason}; write for example info,access=debug")]
    Filter {
        /// What was given.
        filter: String,
        /// What the parser said.
        reason: String,
    },
    /// A level asked for at run time does not exist.
    #[error("{0:?} is not a level: use error, warn, info, debug, trace or off, or target:level")]
    Level(String),
    /// A target is not spelled like one.
    #[error("{0:?} is not a log target: letters, digits, '_', '-' and '::' only")]
    Target(String),
    /// More than [`MAX_LEVEL_OVERRIDES`] targets.
    #[error("more than {MAX_LEVEL_OVERRIDES} targets have a level of their own; reset first")]
    TooMany,
    /// A logger is installed already, or the writing thread did not start.
    #[error("logging cannot be started: {0}")]
    Start(String),
}

/// Starts logging to standard output for the whole process. `filter` is in the syntax of `RUST_LOG`.
///
/// # Errors
/// When the filter is not one, or a logger is installed already.
pub fn init(filter: &str, format: LogFormat) -> Result<Logging, LevelError> {
    let (logging, subscriber) = build(filter, format, Box::new(std::io::stdout()))?;
    tracing::subscriber::set_global_default(subscriber).map_err(|e| LevelError::Start(e.to_string()))?;
    Ok(logging)
}

/// Builds what [`init`] installs, writing to `out`.
///
/// # Errors
/// When the filter is not one.
pub fn build(
    filter: &str,
    format: LogFormat,
    out: Box<dyn Write + Send>,
) -> Result<(Logging, impl Subscriber + Send + Sync + 'static), LevelError> {
    let (layer, handle) = reload::Layer::new(parse_filter(filter)?);
    let (sink, guard) = LogSink::start(out, format).map_err(|e| LevelError::Start(e.to_string()))?;
    let subscriber =
        tracing_subscriber::registry().with(layer).with(EventLines { sink: sink.clone(), format });
    let control = LogControl {
        inner: Arc::new(Control { handle, initial: filter.to_owned(), overrides: Mutex::default() }),
    };
    let access = AccessLog::new(sink.clone(), format);
    Ok((Logging { access, control, sink, guard }, subscriber))
}

fn parse_filter(filter: &str) -> Result<EnvFilter, LevelError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|e| LevelError::Filter { filter: filter.to_owned(), reason: e.to_string() })
}

/// Changes log levels while the program runs (`/logging` of the admin server). Cheap to clone.
#[derive(Clone)]
pub struct LogControl {
    inner: Arc<Control>,
}

struct Control {
    handle: reload::Handle<EnvFilter, Registry>,
    initial: String,
    /// Target to level; the empty target is the level of everything without one of its own.
    overrides: Mutex<BTreeMap<String, String>>,
}

impl LogControl {
    /// The filter in force, in the syntax of `RUST_LOG`.
    pub fn current(&self) -> String {
        self.inner.handle.with_current(ToString::to_string).unwrap_or_else(|_| "off".into())
    }

    /// Applies `level` or `target:level,...`, as Istio's `/logging?level=` takes them; on top of the filter the
    /// program was started with when `reset`, else on top of the one in force.
    ///
    /// # Errors
    /// When a level or target is misspelled or there are too many; then nothing changes.
    pub fn set(&self, levels: &str, reset: bool) -> Result<(), LevelError> {
        let mut overrides = self.inner.overrides.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = if reset { BTreeMap::new() } else { overrides.clone() };
        for part in levels.split(',').filter(|part| !part.is_empty()) {
            let (target, level) = directive(part)?;
            next.insert(target, level);
        }
        if next.len() > MAX_LEVEL_OVERRIDES {
            return Err(LevelError::TooMany);
        }
        let mut filter = self.inner.initial.clone();
        for (target, level) in &next {
            filter.push(',');
            if !target.is_empty() {
                filter.push_str(target);
                filter.push('=');
            }
            filter.push_str(level);
        }
        let filter = parse_filter(&filter)?;
        self.inner.handle.reload(filter).map_err(|e| LevelError::Start(e.to_string()))?;
        *overrides = next;
        Ok(())
    }
}

/// Reads `level` or `target:level`; a target may contain `::`.
fn directive(part: &str) -> Result<(String, String), LevelError> {
    let (target, level) = part.rsplit_once(':').unwrap_or(("", part));
    let level = level.to_ascii_lowercase();
    if !matches!(level.as_str(), "error" | "warn" | "warning" | "info" | "debug" | "trace" | "off") {
        return Err(LevelError::Level(part.to_owned()));
    }
    let spelled = target.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b':'));
    if !spelled || (target.is_empty() && part.contains(':')) {
        return Err(LevelError::Target(target.to_owned()));
    }
    let level = if level == "warning" { "warn".to_owned() } else { level };
    Ok((target.to_owned(), level))
}

/// Writes each event as one line.
struct EventLines {
    sink: LogSink,
    format: LogFormat,
}

thread_local! {
    // Taken while a line is written and given back after, so that a value that logs while it is displayed finds an
    // empty buffer instead of a borrowed one.
    static LINE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Runs `write` with this thread's reused line buffer and hands the line to `sink`.
pub(super) fn with_line(sink: &LogSink, write: impl FnOnce(&mut Vec<u8>)) {
    let mut buffer = LINE.take();
    buffer.clear();
    write(&mut buffer);
    sink.push(&buffer);
    LINE.set(buffer);
}

impl<S: Subscriber> Layer<S> for EventLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut message = Message(String::new());
        event.record(&mut message);
        with_line(&self.sink, |buffer| {
            let head = (SystemTime::now(), *metadata.level(), short_target(metadata.target()));
            let mut line = Line::begin(buffer, self.format, head, &message.0);
            event.record(&mut Fields(&mut line));
            line.end();
        });
    }
}

/// A target without the name of our own crate, as Istio's ztunnel shows it.
fn short_target(target: &str) -> &str {
    target.strip_prefix("ztunnel::").or_else(|| target.strip_prefix("common::")).unwrap_or(target)
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

struct Fields<'a, 'b>(&'a mut Line<'b>);

impl Visit for Fields<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != "message" {
            self.0.text(field.name(), value);
        }
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.number(field.name(), &value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.number(field.name(), &value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.number(field.name(), &value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != "message" {
            self.0.display(field.name(), &format_args!("{value:?}"));
        }
    }
}

#[cfg(test)]
#[path = "logging_tests.rs"]
mod tests;
