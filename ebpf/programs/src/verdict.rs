//! How a packet left a program, as a number: what comes back from a global function is no longer an enum's value.

use ebb_abi::Verdict;

/// The number of a [`Verdict`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Left(u32);

impl Left {
    /// By the verdict of this number. One that is none's counts and acts as a drop.
    #[inline(always)]
    pub fn by_number(number: u32) -> Self {
        Self(number)
    }

    #[inline(always)]
    pub fn number(self) -> u32 {
        self.0
    }

    /// Whether the packet went no further.
    #[inline(always)]
    pub fn is_drop(self) -> bool {
        self.0 >= Verdict::FIRST_DROP
    }

    /// Whether the packet goes where `bpf_redirect` said.
    #[inline(always)]
    pub fn is_steered(self) -> bool {
        self.0 == Verdict::SteerSyn as u32 || self.0 == Verdict::SteerSegment as u32
    }
}

impl From<Verdict> for Left {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        Self(verdict as u32)
    }
}
