//! The headers by which a request is found again elsewhere: its id, its trace, and how it came to the mesh.
//!
//! Pure. What a client sends is passed on unchanged when it is well-formed, and replaced when it is not; what is missing
//! is made. W3C (`traceparent`, `tracestate`) and B3 (`b3` and `x-b3-*`) are made to agree. Where nobody asks for spans the
//! waypoint is none of its own, and the next hop sees the caller's span as its parent; else [`hand_on`] puts its own there,
//! in every form that was met.
//!
//! `x-forwarded-proto` is set to `http` only when it is missing, and `x-forwarded-for` is never touched: an Istio
//! waypoint runs Envoy with `use_remote_address: false`, because behind it the connection still comes from the client's
//! own address and whoever stands at the edge of the mesh has said the rest.

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, header::Entry};
use rand::Rng;

/// The longest `x-request-id` that is passed on, in bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 128;
/// The longest `tracestate` that is passed on, in bytes of all its values (W3C asks for at least 512).
pub const MAX_TRACESTATE_BYTES: usize = 4096;
/// Entries that a `tracestate` may have (W3C Trace Context, section 3.3.1.1).
const MAX_TRACESTATE_ENTRIES: usize = 32;

/// The header that names a request.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The header that names a trace, and the span that a request was sent in (W3C Trace Context).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const X_B3_TRACEID: HeaderName = HeaderName::from_static("x-b3-traceid");
const X_B3_SPANID: HeaderName = HeaderName::from_static("x-b3-spanid");
const X_B3_PARENTSPANID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const X_B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const X_B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
const ALL_OF_X_B3: [HeaderName; 5] = [X_B3_TRACEID, X_B3_SPANID, X_B3_PARENTSPANID, X_B3_SAMPLED, X_B3_FLAGS];

/// Which requests without a trace get one, and how many of those traces are to be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// None gets one: the first service that traces begins it (Istio without a tracing provider).
    Off,
    /// Each gets one; of ten thousand, so many are to be recorded (Istio `randomSamplingPercentage`, in hundredths of
    /// a percent; its default is 1 %, which is 100 here).
    TenThousandths(u16),
}

/// A trace that a request belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// Its id, never zero.
    pub id: u128,
    /// The span that the request was sent in, never zero.
    pub span: u64,
    /// Whether it is to be recorded; `None` when that is left to whoever comes next.
    pub is_sampled: Option<bool>,
}

/// What a request can be found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// `x-request-id`.
    pub request_id: HeaderValue,
    /// The trace it belongs to.
    pub trace: Option<Trace>,
    /// The trace begins here: nobody has sent the span that it names.
    pub is_begun: bool,
}

/// Puts the headers in order, and says what is in them.
pub fn prepare(headers: &mut HeaderMap, sampling: Sampling, rng: &mut impl Rng) -> Ids {
    if let Entry::Vacant(proto) = headers.entry(X_FORWARDED_PROTO) {
        proto.insert(HeaderValue::from_static("http"));
    }
    let request_id = request_id(headers, rng);
    let (trace, is_begun) =
        trace(headers, sampling, rng).map_or((None, false), |(it, begun)| (Some(it), begun));
    Ids { request_id, trace, is_begun }
}

/// Puts a span of the waypoint's own, within `parent`, into the headers of a request that goes on: in the forms in which
/// its trace is there.
pub fn hand_on(headers: &mut HeaderMap, trace: &Trace, parent: u64) {
    let is_sampled = trace.is_sampled == Some(true);
    headers.insert(TRACEPARENT, visible(&written(trace, is_sampled)));
    let decision = if is_sampled { "1" } else { "0" };
    if let Some(stated) = only(headers, &B3).and_then(|value| b3(value.as_bytes())) {
        let id = match stated.ids {
            // A trace id of 64 bits stays one.
            Some((id, _)) if id >> 64 == 0 => format!("{id:016x}"),
            _ => format!("{:032x}", trace.id),
        };
        let whole = format!("{id}-{:016x}-{decision}-{parent:016x}", trace.span);
        headers.insert(B3, visible(whole.as_bytes()));
    }
    if headers.contains_key(X_B3_TRACEID) {
        headers.insert(X_B3_SPANID, visible(&hex::<16>(trace.span.into())));
        headers.insert(X_B3_PARENTSPANID, visible(&hex::<16>(parent.into())));
        // The wish to debug says more than a decision, and stands for one.
        if headers.get(X_B3_FLAGS).is_none_or(|flags| flags.as_bytes() != b"1") {
            headers.insert(X_B3_SAMPLED, HeaderValue::from_static(decision));
        }
    }
}

fn request_id(headers: &mut HeaderMap, rng: &mut impl Rng) -> HeaderValue {
    let is_sane = |value: &HeaderValue| {
        (1..=MAX_REQUEST_ID_BYTES).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    match only(headers, &X_REQUEST_ID) {
        Some(value) if is_sane(value) => value.clone(),
        _ => {
            let id = uuid(rng.random());
            headers.insert(X_REQUEST_ID, id.clone());
            id
        }
    }
}

/// A UUID of version 4 (RFC 9562, section 5.4).
fn uuid(random: u128) -> HeaderValue {
    let versioned = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let digits = hex::<32>(versioned);
    let mut text = [b'-'; 36];
    for (from, to, length) in [(0, 0, 8), (8, 9, 4), (12, 14, 4), (16, 19, 4), (20, 24, 12)] {
        text[to..to + length].copy_from_slice(&digits[from..from + length]);
    }
    visible(&text)
}

/// What trace headers say, in each of their forms; what says nothing in its form is taken out.
#[derive(Default)]
struct Forms {
    w3c: Option<Trace>,
    single: Option<Stated>,
    multi: Option<Stated>,
}

impl Forms {
    fn read(headers: &mut HeaderMap) -> Self {
        let is_of_trace = |name: &HeaderName| {
            [TRACEPARENT, TRACESTATE, B3].contains(name) || name.as_str().starts_with("x-b3-")
        };
        if !headers.keys().any(is_of_trace) {
            return Self::default();
        }
        let w3c = only(headers, &TRACEPARENT).and_then(|value| traceparent(value.as_bytes()));
        if w3c.is_none() {
            headers.remove(TRACEPARENT);
            // It says more about a trace that nobody knows now (W3C Trace Context, section 3.3.1.4).
            headers.remove(TRACESTATE);
        } else if !is_tracestate(headers) {
            headers.remove(TRACESTATE);
        }
        let single = only(headers, &B3).and_then(|value| b3(value.as_bytes()));
        if single.is_none() {
            headers.remove(B3);
        }
        let multi = x_b3(headers);
        if multi.is_none() {
            ALL_OF_X_B3.iter().for_each(|name| drop(headers.remove(name)));
        }
        Self { w3c, single, multi }
    }
}

/// The trace, and whether it begins here.
fn trace(headers: &mut HeaderMap, sampling: Sampling, rng: &mut impl Rng) -> Option<(Trace, bool)> {
    let Forms { w3c, single, multi } = Forms::read(headers);
    let theirs = w3c.or_else(|| single.and_then(Stated::trace)).or_else(|| multi.and_then(Stated::trace));
    let decided = single.or(multi).and_then(|stated| stated.is_sampled);
    let trace = match (theirs, sampling) {
        (Some(trace), _) => trace,
        (None, Sampling::Off) => return None,
        (None, Sampling::TenThousandths(_)) => {
            let id = rng.random::<u128>().max(1);
            let is_sampled = decided.unwrap_or_else(|| sampling.takes(id));
            Trace { id, span: rng.random::<u64>().max(1), is_sampled: Some(is_sampled) }
        }
    };
    if w3c.is_none() {
        let is_sampled = trace.is_sampled.unwrap_or_else(|| sampling.takes(trace.id));
        headers.insert(TRACEPARENT, visible(&written(&trace, is_sampled)));
    }
    // The single form stands for both, and a lone decision in it is complete as it is.
    if single.is_none() && multi.and_then(Stated::trace).is_none() {
        headers.insert(X_B3_TRACEID, visible(&hex::<32>(trace.id)));
        headers.insert(X_B3_SPANID, visible(&hex::<16>(trace.span.into())));
        if let (None, Some(is_sampled)) = (multi, trace.is_sampled) {
            headers.insert(X_B3_SAMPLED, HeaderValue::from_static(if is_sampled { "1" } else { "0" }));
        }
    }
    Some((trace, theirs.is_none()))
}

impl Sampling {
    /// Decided by the trace's id, so that every waypoint decides alike.
    pub fn takes(self, trace_id: u128) -> bool {
        match self {
            Self::Off => false,
            Self::TenThousandths(share) => trace_id % 10_000 < u128::from(share),
        }
    }
}

/// What B3 headers say: ids, a decision, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stated {
    ids: Option<(u128, u64)>,
    is_sampled: Option<bool>,
}

impl Stated {
    fn trace(self) -> Option<Trace> {
        self.ids.map(|(id, span)| Trace { id, span, is_sampled: self.is_sampled })
    }
}

/// Reads `traceparent` of version 00, or what is known of a later one (W3C Trace Context, section 3.2).
fn traceparent(text: &[u8]) -> Option<Trace> {
    let (known, further) = text.split_at_checked(55)?;
    let lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let dashes = [2, 35, 52];
    let spelled =
        known.iter().enumerate().all(|(at, b)| if dashes.contains(&at) { *b == b'-' } else { lower(b) });
    let is_whole = match &known[..2] {
        b"ff" => false,
        b"00" => further.is_empty(),
        _ => further.first().is_none_or(|byte| *byte == b'-'),
    };
    if !spelled || !is_whole {
        return None;
    }
    let (id, span) = ids(&known[3..35], &known[36..52])?;
    let flags = number(&known[53..55])?;
    Some(Trace { id, span, is_sampled: Some(flags & 1 == 1) })
}

/// Whether `tracestate` is a list of keys and values that can be passed on. An empty one is.
fn is_tracestate(headers: &HeaderMap) -> bool {
    let (mut bytes, mut entries) = (0, 0);
    for value in headers.get_all(TRACESTATE) {
        bytes += value.len();
        for entry in value.as_bytes().split(|byte| *byte == b',') {
            let entry = entry.trim_ascii();
            let is_pair = entry.iter().position(|byte| *byte == b'=').is_some_and(|at| at > 0);
            let printable = entry.iter().all(|byte| matches!(byte, b' '..=b'~'));
            // Empty entries may stand between others.
            if entry.is_empty() {
                continue;
            }
            if !is_pair || !printable {
                return false;
            }
            entries += 1;
        }
    }
    bytes <= MAX_TRACESTATE_BYTES && entries <= MAX_TRACESTATE_ENTRIES
}

/// Reads the single header of B3: `<trace>-<span>`, with a decision and a parent if there are any, or a decision alone.
fn b3(text: &[u8]) -> Option<Stated> {
    let decision = |text: &[u8]| match text {
        b"1" | b"d" => Some(true),
        b"0" => Some(false),
        _ => None,
    };
    let mut parts = text.split(|byte| *byte == b'-');
    let (first, span, state, parent) = (parts.next()?, parts.next(), parts.next(), parts.next());
    if parts.next().is_some() {
        return None;
    }
    let Some(span) = span else {
        return Some(Stated { ids: None, is_sampled: Some(decision(first)?) });
    };
    if let Some(parent) = parent {
        span_id(parent)?;
    }
    let is_sampled = state.map(|state| decision(state).ok_or(())).transpose().ok()?;
    Some(Stated { ids: Some(ids(first, span)?), is_sampled })
}

/// Reads the headers of B3 that are apart; `None` when there are none, or one is malformed or there twice.
fn x_b3(headers: &HeaderMap) -> Option<Stated> {
    if ALL_OF_X_B3.iter().any(|name| headers.get_all(name).iter().nth(1).is_some()) {
        return None;
    }
    let of = |name: &HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    let debug = match of(&X_B3_FLAGS) {
        None | Some(b"0") => None,
        Some(b"1") => Some(true),
        Some(_) => return None,
    };
    let sampled = match of(&X_B3_SAMPLED) {
        None => None,
        Some(b"1" | b"true" | b"d") => Some(true),
        Some(b"0" | b"false") => Some(false),
        Some(_) => return None,
    };
    if let Some(parent) = of(&X_B3_PARENTSPANID) {
        span_id(parent)?;
    }
    let is_sampled = debug.or(sampled);
    match (of(&X_B3_TRACEID), of(&X_B3_SPANID)) {
        (Some(trace), Some(span)) => Some(Stated { ids: Some(ids(trace, span)?), is_sampled }),
        (None, None) if of(&X_B3_PARENTSPANID).is_none() => {
            is_sampled.map(|_| Stated { ids: None, is_sampled })
        }
        _ => None,
    }
}

/// The value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// A trace id of 16 or 32 digits and a span id.
fn ids(trace: &[u8], span: &[u8]) -> Option<(u128, u64)> {
    let id = if matches!(trace.len(), 16 | 32) { number(trace)? } else { return None };
    (id != 0).then_some((id, span_id(span)?))
}

fn span_id(text: &[u8]) -> Option<u64> {
    let id = if text.len() == 16 { number(text)? } else { return None };
    u64::try_from(id).ok().filter(|id| *id != 0)
}

/// Hexadecimal digits and nothing else, at most 32 of them.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(number << 4 | u128::from(digit))
    })
}

/// `traceparent` of version 00.
fn written(trace: &Trace, is_sampled: bool) -> [u8; 55] {
    let mut text = [b'-'; 55];
    text[..2].copy_from_slice(b"00");
    text[3..35].copy_from_slice(&hex::<32>(trace.id));
    text[36..52].copy_from_slice(&hex::<16>(trace.span.into()));
    text[53..55].copy_from_slice(if is_sampled { b"01" } else { b"00" });
    text
}

/// The last `N` hexadecimal digits of a number.
fn hex<const N: usize>(number: u128) -> [u8; N] {
    let mut left = number;
    let mut digits = [0; N];
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(left & 0xf) as usize];
        left >>= 4;
    }
    digits
}

fn visible(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).expect("hexadecimal digits and dashes may stand in a header")
}

#[cfg(test)]
#[path = "trace_headers_tests.rs"]
mod tests;
