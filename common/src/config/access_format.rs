//! Lines of an access log as stated in Envoy's command operators: read once, written for each request.
//!
//! Knows no request. The surprising thing: an operator that is not known is refused and never written as it stands, as in
//! Envoy, so that a misspelt one is not found out when the line is needed.

use std::sync::Arc;

use http::HeaderName;

use super::expression::Expression;
use super::time_format::TimeFormat;

/// Longest format, in bytes.
pub const MAX_FORMAT_BYTES: usize = 16 << 10;
/// Most operators of one format.
pub const MAX_FORMAT_OPERATORS: usize = 256;

/// A compiled format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    pieces: Box<[Piece]>,
}

/// A part of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// As it stands.
    Literal(Arc<str>),
    /// What an operator stands for, at most so many bytes of it.
    Operator(Operator, Option<usize>),
}

/// What is told of a request (Envoy "Command Operators").
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the operator of its name")]
pub enum Operator {
    StartTime,
    /// `%START_TIME(...)%`.
    StartTimeAs(TimeFormat),
    Method,
    Path,
    Authority,
    /// A header of the request, and another that stands for it.
    RequestHeader(HeaderName, Option<HeaderName>),
    ResponseHeader(HeaderName, Option<HeaderName>),
    /// The path as the client sent it: `%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%`.
    OriginalPath,
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    GrpcStatus,
    ConnectionTerminationDetails,
    UpstreamTransportFailureReason,
    BytesReceived,
    BytesSent,
    Duration,
    UpstreamHost,
    UpstreamCluster,
    UpstreamLocalAddress,
    DownstreamLocalAddress,
    DownstreamLocalAddressWithoutPort,
    DownstreamLocalPort,
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    DownstreamPeerUriSan,
    RequestedServerName,
    RouteName,
    TraceId,
    /// An expression (`%CEL(...)%`).
    Expression(Expression),
    /// A value that was known when the format was read: `%HOSTNAME%`, `%ENVIRONMENT(...)%`.
    Known(Arc<str>),
}

static PLAIN: [(&str, Operator); 28] = [
    ("START_TIME", Operator::StartTime),
    ("PROTOCOL", Operator::Protocol),
    ("RESPONSE_CODE", Operator::ResponseCode),
    ("RESPONSE_CODE_DETAILS", Operator::ResponseCodeDetails),
    ("RESPONSE_FLAGS", Operator::ResponseFlags),
    ("GRPC_STATUS_NUMBER", Operator::GrpcStatus),
    ("CONNECTION_TERMINATION_DETAILS", Operator::ConnectionTerminationDetails),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", Operator::UpstreamTransportFailureReason),
    ("BYTES_RECEIVED", Operator::BytesReceived),
    ("BYTES_SENT", Operator::BytesSent),
    ("DURATION", Operator::Duration),
    ("UPSTREAM_HOST", Operator::UpstreamHost),
    ("UPSTREAM_REMOTE_ADDRESS", Operator::UpstreamHost),
    ("UPSTREAM_CLUSTER", Operator::UpstreamCluster),
    ("UPSTREAM_CLUSTER_RAW", Operator::UpstreamCluster),
    ("UPSTREAM_LOCAL_ADDRESS", Operator::UpstreamLocalAddress),
    ("DOWNSTREAM_LOCAL_ADDRESS", Operator::DownstreamLocalAddress),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Operator::DownstreamLocalAddressWithoutPort),
    ("DOWNSTREAM_LOCAL_PORT", Operator::DownstreamLocalPort),
    ("DOWNSTREAM_REMOTE_ADDRESS", Operator::DownstreamRemoteAddress),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", Operator::DownstreamRemoteAddress),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Operator::DownstreamRemoteAddressWithoutPort),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Operator::DownstreamRemoteAddressWithoutPort),
    ("DOWNSTREAM_PEER_URI_SAN", Operator::DownstreamPeerUriSan),
    ("REQUESTED_SERVER_NAME", Operator::RequestedServerName),
    ("ROUTE_NAME", Operator::RouteName),
    ("TRACE_ID", Operator::TraceId),
    ("STREAM_ID", Operator::RequestHeader(HeaderName::from_static("x-request-id"), None)),
];

impl Format {
    /// Reads a format. `variable` answers for variables of the environment.
    ///
    /// # Errors
    /// In words, when an operator is not known or not closed.
    pub fn read(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        if text.len() > MAX_FORMAT_BYTES {
            return Err(format!("more than {MAX_FORMAT_BYTES} bytes"));
        }
        let (mut pieces, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find('%') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            let end = end(rest).ok_or_else(|| format!("%{rest}: without its closing %"))?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
            }
            let (operator, most) = operator(&rest[..end], &variable)?;
            pieces.push(Piece::Operator(operator, most));
            if pieces.len() > 2 * MAX_FORMAT_OPERATORS {
                return Err(format!("more than {MAX_FORMAT_OPERATORS} operators"));
            }
            rest = &rest[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.into()));
        }
        Ok(Self { pieces: pieces.into() })
    }

    /// Its parts, in their order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Headers of the request and of the answer that it tells.
    pub fn headers(&self) -> (Vec<HeaderName>, Vec<HeaderName>) {
        let (mut request, mut response) = (Vec::new(), Vec::new());
        for piece in &self.pieces {
            match piece {
                Piece::Operator(Operator::RequestHeader(name, other), _) => {
                    request.extend([name.clone()].into_iter().chain(other.clone()));
                }
                Piece::Operator(Operator::ResponseHeader(name, other), _) => {
                    response.extend([name.clone()].into_iter().chain(other.clone()));
                }
                Piece::Operator(Operator::Expression(expression), _) => {
                    let (of_request, of_response) = expression.headers();
                    request.extend(of_request);
                    response.extend(of_response);
                }
                _ => {}
            }
        }
        (request, response)
    }
}

/// Where an operator ends: at the next `%` that is not in brackets.
fn end(text: &str) -> Option<usize> {
    let mut depth = 0_u32;
    let mut quote = None;
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') if depth > 0 => quote = Some(byte),
            (None, b'(') => depth += 1,
            (None, b')') => depth = depth.checked_sub(1)?,
            (None, b'%') if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

/// `NAME`, `NAME(argument)`, `NAME:9` or `NAME(argument):9`.
fn operator(
    text: &str,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<(Operator, Option<usize>), String> {
    let name_end = text.find(['(', ':']).unwrap_or(text.len());
    let (name, rest) = text.split_at(name_end);
    let unknown = || format!("the operator %{text}% is not known");
    let (argument, rest) = match rest.strip_prefix('(') {
        Some(inside) => {
            let close = inside.rfind(')').ok_or_else(unknown)?;
            (Some(&inside[..close]), &inside[close + 1..])
        }
        None => (None, rest),
    };
    let most = match rest.strip_prefix(':') {
        Some(digits) => Some(digits.parse().map_err(|_| unknown())?),
        None if rest.is_empty() => None,
        None => return Err(unknown()),
    };
    let operator = match (name, argument) {
        ("REQ", Some(names)) => request(names)?,
        ("RESP" | "TRAILER", Some(names)) => {
            let (name, other) = alternatives(names)?;
            Operator::ResponseHeader(name, other)
        }
        ("CEL", Some(text)) => Operator::Expression(Expression::value(text.into())?),
        ("ENVIRONMENT", Some(name)) => Operator::Known(variable(name).unwrap_or_else(|| "-".into()).into()),
        ("HOSTNAME", None) => Operator::Known(variable("HOSTNAME").unwrap_or_else(|| "-".into()).into()),
        // Envoy takes a format of nothing for none.
        ("START_TIME", Some("")) => Operator::StartTime,
        ("START_TIME", Some(format)) => Operator::StartTimeAs(TimeFormat::read(format)?),
        (name, None) => {
            let found = PLAIN.iter().find(|(known, _)| *known == name);
            found.map(|(_, operator)| operator.clone()).ok_or_else(unknown)?
        }
        _ => return Err(unknown()),
    };
    Ok((operator, most))
}

/// The argument of `REQ`.
fn request(names: &str) -> Result<Operator, String> {
    let lower = names.to_ascii_lowercase();
    Ok(match lower.as_str() {
        ":method" => Operator::Method,
        ":path" => Operator::Path,
        ":authority" | "host" => Operator::Authority,
        "x-envoy-original-path?:path" => Operator::OriginalPath,
        _ => {
            let (name, other) = alternatives(&lower)?;
            Operator::RequestHeader(name, other)
        }
    })
}

fn alternatives(names: &str) -> Result<(HeaderName, Option<HeaderName>), String> {
    let read =
        |name: &str| name.parse::<HeaderName>().map_err(|_| format!("{name:?} is no name of a header"));
    match names.split_once('?') {
        Some((name, other)) => Ok((read(name)?, Some(read(other)?))),
        None => Ok((read(names)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Format, String> {
        Format::read(text, |name| (name == "POD").then(|| "web-1".to_owned()))
    }

    fn header(name: &'static str) -> HeaderName {
        HeaderName::from_static(name)
    }

    #[test]
    fn a_format_is_literals_and_operators() {
        let read =
            read("[%START_TIME%] 100%% %REQ(:METHOD)% %REQ(X-A?B):7%|%ENVIRONMENT(POD)%%CEL(request.host)%")
                .unwrap();
        let literal = |text: &str| Piece::Literal(text.into());
        let expression = Expression::value("request.host".into()).unwrap();
        let expected = [
            literal("["),
            Piece::Operator(Operator::StartTime, None),
            literal("] 100% "),
            Piece::Operator(Operator::Method, None),
            literal(" "),
            Piece::Operator(Operator::RequestHeader(header("x-a"), Some(header("b"))), Some(7)),
            literal("|"),
            Piece::Operator(Operator::Known("web-1".into()), None),
            Piece::Operator(Operator::Expression(expression), None),
        ];
        assert_eq!(read.pieces(), expected);
        assert_eq!(read.headers().0, [header("x-a"), header("b")]);
    }

    #[test]
    fn a_time_may_have_a_format_of_its_own() {
        let read = |text| read(text).unwrap().pieces().to_vec();
        let operator = Operator::StartTimeAs(TimeFormat::read("%Y/%m %T.%3f%%").unwrap());
        assert_eq!(read("%START_TIME(%Y/%m %T.%3f%%)%"), [Piece::Operator(operator, None)]);
        assert_eq!(read("%START_TIME()%"), read("%START_TIME%"));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (text, why) in [
            ("%BYTES%", "%BYTES% is not known"),
            ("%RESPONSE_CODE", "without its closing %"),
            ("%REQ(a b)%", "no name of a header"),
            ("%REQ(a", "without its closing %"),
            ("%DURATION:x%", "is not known"),
            ("%DURATION(x)%", "is not known"),
            ("%START_TIME(%s %k)%", "%k at byte 4 of the time's format"),
            ("%CEL(request.time)%", "the attribute request.time"),
            (&"%DURATION%".repeat(2 * MAX_FORMAT_OPERATORS + 1), "more than 256 operators"),
            (&"a".repeat(MAX_FORMAT_BYTES + 1), "bytes"),
        ] {
            let refused = read(text).expect_err(text);
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
