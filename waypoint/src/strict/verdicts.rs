//! How the requests of one connection were answered, as far as its next bytes depend on that.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use http::StatusCode;

/// Told of each answer in the order of the requests.
#[derive(Debug, Default)]
pub struct Verdicts {
    answered: AtomicU64,
    changed: AtomicBool,
    late: AtomicBool,
    reader: AtomicWaker,
}

impl Verdicts {
    /// The next request, one for each head, was answered. The protocol changes with status 101 and with no other.
    pub fn answered(&self, status: StatusCode) {
        if status == StatusCode::SWITCHING_PROTOCOLS {
            self.changed.store(true, Ordering::Release);
        }
        self.answered.fetch_add(1, Ordering::Release);
        self.reader.wake();
    }

    /// Whether the connection was ended because a head did not come in time.
    pub fn is_head_late(&self) -> bool {
        self.late.load(Ordering::Acquire)
    }

    pub(super) fn head_is_late(&self) {
        self.late.store(true, Ordering::Release);
    }

    /// Whether the protocol has changed, once the head of this number, from 1, was answered.
    pub(super) fn poll(&self, cx: &mut Context<'_>, head: u64) -> Poll<bool> {
        self.reader.register(cx.waker());
        match self.answered.load(Ordering::Acquire) >= head {
            true => Poll::Ready(self.changed.load(Ordering::Acquire)),
            false => Poll::Pending,
        }
    }
}
