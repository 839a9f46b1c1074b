//! The `traceparent` header (W3C Trace Context, version 00).

use std::fmt;

/// Which trace a connection belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    /// Never zero.
    trace_id: u128,
    /// Never zero.
    parent_id: u64,
    /// Bit 0: sampled.
    flags: u8,
}

impl Traceparent {
    /// A trace from random numbers; zeros, which the standard forbids, become ones.
    pub fn new(trace_id: u128, parent_id: u64) -> Self {
        Self { trace_id: trace_id.max(1), parent_id: parent_id.max(1), flags: 0 }
    }

    /// The trace's id, never zero.
    pub fn trace_id(self) -> u128 {
        self.trace_id
    }

    /// The span that the connection belongs to, never zero.
    pub fn parent_id(self) -> u64 {
        self.parent_id
    }

    /// Whether whoever began the trace has it recorded (flag `sampled`, section 3.2.2.5.1).
    pub fn is_sampled(self) -> bool {
        self.flags & 1 == 1
    }

    /// The same, to be recorded.
    pub fn sampled(self) -> Self {
        Self { flags: self.flags | 1, ..self }
    }

    /// The same trace, one step further.
    pub fn child(self, parent_id: u64) -> Self {
        Self { parent_id: parent_id.max(1), ..self }
    }

    /// Reads `00-<32 hex>-<16 hex>-<2 hex>`, lower case; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let mut next = |digits: usize| {
            let field = fields.next()?;
            let is_hex = field.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            (field.len() == digits && is_hex).then_some(field)
        };
        let (version, trace_id, parent_id, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        if version != "00" || fields.next().is_some() {
            return None;
        }
        let trace_id = u128::from_str_radix(trace_id, 16).ok()?;
        let parent_id = u64::from_str_radix(parent_id, 16).ok()?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        (trace_id != 0 && parent_id != 0).then_some(Self { trace_id, parent_id, flags })
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, self.flags)
    }
}
