//! The shape of a log line, text or JSON, as Istio's ztunnel writes it.
//!
//! Text: time TAB level TAB target TAB message TAB `key=value key=value`. JSON: `level`, `time`, `scope`, `message`,
//! then the fields. Values are escaped the same way in both (as JSON strings are), so that nothing a peer sends can
//! end a line or begin a field.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use tracing::Level;

use super::timestamp;

/// How log lines are written (environment variable `LOG_FORMAT`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Tab-separated text with `key=value` fields.
    #[default]
    #[value(alias = "text")]
    Plain,
    /// One JSON object a line.
    Json,
}

/// The longest value written of one field, in bytes; longer ones are cut and end in `...`.
pub const MAX_VALUE_BYTES: usize = 2048;

/// Appends one line to a buffer, field by field.
pub struct Line<'a> {
    out: &'a mut Vec<u8>,
    format: LogFormat,
    fields: bool,
}

impl<'a> Line<'a> {
    /// Starts a line. `target` and `message` are constants of the program or rendered by it.
    pub fn begin(
        out: &'a mut Vec<u8>,
        format: LogFormat,
        (at, level, target): (SystemTime, Level, &str),
        message: &dyn fmt::Display,
    ) -> Self {
        match format {
            LogFormat::Plain => {
                timestamp::write(out, at);
                out.push(b'\t');
                out.extend_from_slice(level_name(level).as_bytes());
                out.push(b'\t');
                out.extend_from_slice(target.as_bytes());
                out.push(b'\t');
                escape(out, message);
            }
            LogFormat::Json => {
                out.extend_from_slice(b"{\"level\":\"");
                out.extend_from_slice(level_name(level).as_bytes());
                out.extend_from_slice(b"\",\"time\":\"");
                timestamp::write(out, at);
                out.extend_from_slice(b"\",\"scope\":\"");
                out.extend_from_slice(target.as_bytes());
                out.extend_from_slice(b"\",\"message\":\"");
                escape(out, message);
                out.push(b'"');
            }
        }
        Self { out, format, fields: false }
    }

    /// A text field, quoted in both forms.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        self.out.push(b'"');
        Escaped::new(self.out).push(value);
        self.out.push(b'"');
        self
    }

    /// A field of something that displays itself, quoted in both forms.
    pub fn display(&mut self, key: &str, value: &dyn fmt::Display) -> &mut Self {
        self.key(key);
        self.out.push(b'"');
        escape(self.out, value);
        self.out.push(b'"');
        self
    }

    /// An address or another value without blanks or quotes: bare in text, quoted in JSON.
    pub fn bare(&mut self, key: &str, value: &dyn fmt::Display) -> &mut Self {
        if self.format == LogFormat::Json {
            return self.display(key, value);
        }
        self.key(key);
        escape(self.out, value);
        self
    }

    /// A number or a truth value, bare in both forms.
    pub fn number(&mut self, key: &str, value: &dyn fmt::Display) -> &mut Self {
        self.key(key);
        escape(self.out, value);
        self
    }

    /// Ends the line.
    pub fn end(self) {
        if self.format == LogFormat::Json {
            self.out.push(b'}');
        }
        self.out.push(b'\n');
    }

    /// Writes the separator and the key, and leaves the buffer ready for the value.
    fn key(&mut self, key: &str) {
        match self.format {
            LogFormat::Plain => {
                self.out.push(if self.fields { b' ' } else { b'\t' });
                self.out.extend_from_slice(key.as_bytes());
                self.out.push(b'=');
            }
            LogFormat::Json => {
                self.out.extend_from_slice(b",\"");
                self.out.extend_from_slice(key.as_bytes());
                self.out.extend_from_slice(b"\":");
            }
        }
        self.fields = true;
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn escape(out: &mut Vec<u8>, value: &dyn fmt::Display) {
    // The only error is the one that says the value was cut, which is written into the line.
    let _ = write!(Escaped::new(out), "{value}");
}

/// Escapes what is written through it as the inside of a JSON string, up to [`MAX_VALUE_BYTES`].
struct Escaped<'a> {
    out: &'a mut Vec<u8>,
    left: usize,
}

impl<'a> Escaped<'a> {
    fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, left: MAX_VALUE_BYTES }
    }

    /// Returns whether everything was written.
    fn push(&mut self, text: &str) -> bool {
        let fits = text.len() <= self.left;
        let text = if fits { text } else { &text[..text.floor_char_boundary(self.left)] };
        self.left -= text.len();
        if text.bytes().any(needs_escape) {
            text.bytes().for_each(|byte| self.byte(byte));
        } else {
            self.out.extend_from_slice(text.as_bytes());
        }
        if !fits {
            self.left = 0;
            self.out.extend_from_slice(b"...");
        }
        fits
    }

    fn byte(&mut self, byte: u8) {
        match byte {
            b'"' | b'\\' => self.out.extend_from_slice(&[b'\\', byte]),
            b'\n' => self.out.extend_from_slice(b"\\n"),
            b'\r' => self.out.extend_from_slice(b"\\r"),
            b'\t' => self.out.extend_from_slice(b"\\t"),
            0..=0x1f | 0x7f => self.out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => self.out.push(byte),
        }
    }
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\' || byte == 0x7f
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.push(text) { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn line(format: LogFormat, value: &str) -> String {
        let mut out = Vec::new();
        let mut line = Line::begin(&mut out, format, (UNIX_EPOCH, Level::WARN, "pods"), &"hello");
        line.text("a", value).number("b", &7).bare("c", &"1.2.3.4:5").display("d", &value);
        line.end();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_lines_are_tab_separated_and_values_quoted() {
        assert_eq!(
            line(LogFormat::Plain, "x"),
            "1970-01-01T00:00:00.000000Z\twarn\tpods\thello\ta=\"x\" b=7 c=1.2.3.4:5 d=\"x\"\n"
        );
    }

    #[test]
    fn nothing_a_peer_sends_can_end_a_line_or_begin_a_field() {
        let evil = "x\" dst.identity=\"spiffe://td/ns/a/sa/admin\n\r\t\0\u{7f}\\ \u{e9}";
        let text = line(LogFormat::Plain, evil);
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(!text.contains("x\" dst"), "{text:?}");
        let json: serde_json::Value = serde_json::from_str(&line(LogFormat::Json, evil)).unwrap();
        assert_eq!(json["a"], evil);
        assert_eq!(json["d"], evil);
        assert_eq!(json["b"], 7);
    }

    #[test]
    fn a_long_value_is_cut_at_a_character() {
        let text = line(LogFormat::Json, &"\u{e9}".repeat(MAX_VALUE_BYTES));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let value = json["a"].as_str().unwrap();
        assert!(value.ends_with("\u{e9}...") && value.len() <= MAX_VALUE_BYTES + 3);
        assert_eq!(json["a"], json["d"]);
    }
}
