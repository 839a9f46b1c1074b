//! The nothing-lost ledger: what a sender of numbered records meant to send, what the receiver verified, and the one class in
//! which each flow ends.

use serde::{Deserialize, Serialize};

use super::{Failure, FailureKind};

/// What the sender of one flow did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The flow's number, which the records carry.
    pub flow: u32,
    /// Records handed to the socket in full.
    pub records: u64,
    /// The receiver's word, when it came back.
    pub receipt: Option<Receipt>,
    /// What ended the flow early.
    pub failure: Option<Failure>,
    /// Whether there was a connection at all.
    pub connected: bool,
}

/// What the receiver of one flow verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The flow's number; none when not one whole record arrived.
    pub flow: Option<u32>,
    /// Whole records with the right checksum.
    pub records: u64,
    /// Number of the first.
    pub first: Option<u64>,
    /// Number of the last.
    pub last: Option<u64>,
    /// Records missing between others.
    pub holes: u64,
    /// Records that came again or late.
    pub duplicates: u64,
    /// Records whose bytes are wrong; reading ends at the first.
    pub corrupt: u64,
    /// Bytes of a last record that is not whole.
    pub partial_bytes: u64,
    /// How the stream ended, when not in good order.
    pub failure: Option<Failure>,
}

impl Receipt {
    /// Whether what arrived is the beginning of what was sent, byte for byte.
    #[must_use]
    pub fn is_exact_prefix(&self) -> bool {
        self.holes == 0
            && self.duplicates == 0
            && self.corrupt == 0
            && self.first.is_none_or(|first| first == 0)
    }
}

/// The class of one flow. Exactly one applies; the last must never be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Every record arrived and was verified, and both ends know it.
    Delivered,
    /// Turned away before any record arrived, without a hang.
    Refused,
    /// Cut, with an exact prefix at the receiver.
    PrefixIntact,
    /// A hang, wrong or missing bytes, or success reported without the data.
    Lost,
}

impl Sent {
    /// Judges the flow from the sender's report and the receiver's own, which must have been looked for: of a flow that was
    /// cut the receipt could not come back, and none at the receiver means that nothing arrived.
    #[must_use]
    pub fn fate(&self, received: Option<&Receipt>) -> Fate {
        let hang = self.failure.as_ref().is_some_and(|failure| failure.kind == FailureKind::Timeout);
        let receipts = || self.receipt.iter().chain(received);
        if hang || receipts().any(|receipt| !receipt.is_exact_prefix()) {
            return Fate::Lost;
        }
        match (&self.failure, &self.receipt) {
            (None, Some(receipt)) if receipt.records == self.records && receipt.partial_bytes == 0 => {
                Fate::Delivered
            }
            (None, _) => Fate::Lost,
            (Some(_), _) if receipts().all(|receipt| receipt.records == 0 && receipt.partial_bytes == 0) => {
                Fate::Refused
            }
            (Some(_), _) => Fate::PrefixIntact,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(records: u64, failure: Option<FailureKind>, receipt: Option<Receipt>) -> Sent {
        let failure = failure.map(|kind| Failure { kind, detail: String::new() });
        Sent { flow: 1, records, receipt, failure, connected: true }
    }

    fn receipt(records: u64) -> Receipt {
        Receipt { flow: Some(1), records, first: Some(0), last: records.checked_sub(1), ..Receipt::default() }
    }

    #[test]
    fn each_flow_ends_in_exactly_one_class() {
        let reset = Some(FailureKind::Reset);
        let cases = [
            (sent(5, None, Some(receipt(5))), None, Fate::Delivered),
            (sent(5, None, Some(receipt(4))), None, Fate::Lost),
            (sent(5, None, None), None, Fate::Lost),
            (sent(5, Some(FailureKind::Timeout), None), Some(receipt(5)), Fate::Lost),
            (sent(5, reset, None), Some(receipt(3)), Fate::PrefixIntact),
            (sent(5, reset, None), Some(Receipt { holes: 1, ..receipt(3) }), Fate::Lost),
            (sent(5, reset, None), Some(Receipt { first: Some(1), ..receipt(3) }), Fate::Lost),
            (sent(5, reset, None), Some(Receipt::default()), Fate::Refused),
            (sent(0, reset, None), None, Fate::Refused),
            (sent(5, reset, None), None, Fate::Refused),
            (Sent { connected: false, ..sent(0, Some(FailureKind::Refused), None) }, None, Fate::Refused),
        ];
        for (sent, received, fate) in cases {
            assert_eq!(sent.fate(received.as_ref()), fate, "{sent:?} {received:?}");
        }
    }
}
