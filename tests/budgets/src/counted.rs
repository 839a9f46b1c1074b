//! The line between set-up and what is counted.

use std::hint::black_box;

use anyhow::Result;

/// How often a benchmark does what it does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Units {
    /// Before anything is counted: caches fill, connections open, buffers reach their size.
    pub(crate) warm_up: usize,
    /// Counted.
    pub(crate) counted: usize,
}

/// Runs `work`, which is all that callgrind counts: it switches counting on where this function begins and off where it
/// ends, by its name.
#[inline(never)]
pub(crate) fn counted_work<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    black_box(work())
}

/// Does `one` as often as `units` say, each time with its number.
pub(crate) fn counted(units: Units, one: &mut impl FnMut(usize) -> Result<()>) -> Result<()> {
    (0..units.warm_up).try_for_each(&mut *one)?;
    counted_work(|| (0..units.counted).try_for_each(&mut *one))
}
