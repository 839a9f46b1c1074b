//! Tags that an operator adds to spans: read when the Telemetry is, but for what only a request knows.

use std::sync::Arc;

use common::config::access_format::Format;
use common::config::telemetry::{CustomTag, TagSource};
use common::telemetry::formatted::rendered;
use common::telemetry::request_line::RequestLine;
use http::HeaderName;

/// One tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Its name.
    pub name: Arc<str>,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Known(Arc<str>),
    Header(HeaderName, Option<Arc<str>>),
    Formatted(Arc<Format>),
}

impl Tag {
    /// As stated. `variable` answers for the environment. `None` where the value is one that there is not.
    pub fn new(stated: &CustomTag, variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let value = match &stated.value {
            TagSource::Literal(text) => Value::Known(text.clone()),
            TagSource::Environment(name, other) => {
                Value::Known(variable(name).map(Into::into).or_else(|| other.clone())?)
            }
            TagSource::Header(name, other) => Value::Header(name.clone(), other.clone()),
            TagSource::Formatter(format) => Value::Formatted(format.clone()),
        };
        Some(Self { name: stated.name.clone(), value })
    }

    /// Headers of the request and of the answer that it tells of.
    pub fn headers(&self) -> (Vec<HeaderName>, Vec<HeaderName>) {
        match &self.value {
            Value::Known(_) => (Vec::new(), Vec::new()),
            Value::Header(name, _) => (vec![name.clone()], Vec::new()),
            Value::Formatted(format) => format.headers(),
        }
    }

    /// What it says of a request; `None` where it says nothing.
    pub fn value(&self, line: &RequestLine<'_>) -> Option<String> {
        match &self.value {
            Value::Known(text) => Some(text.to_string()),
            Value::Header(name, other) => {
                let sent = line.more.and_then(|more| more.request_header(name));
                let sent = sent.map(|it| String::from_utf8_lossy(it).into_owned());
                sent.or_else(|| other.as_ref().map(ToString::to_string))
            }
            Value::Formatted(format) => Some(rendered(format, line)),
        }
    }
}
