//! How one direction of a relay moves its bytes: copied through the worker's buffer, or spliced past user space.
//!
//! Pure, and knows no socket. A message costs less to copy, a stream less to splice, and which of the two it is shows in
//! what the last reads found. The surprising thing: a direction may go back and forth between both as often as it likes,
//! because nothing is kept between two moves but these few numbers.

use super::buffer::SCRATCH_BYTES;

/// Bytes a direction asks for before it has proved to flow in bulk; also the most that one which copies soon holds when
/// it stalls.
const FIRST_READ_BYTES: usize = 16 * 1024;

/// Reads in a row that have to fill what they asked for before the direction is spliced.
const FULL_READS: u8 = 3;

/// A splice that finds less was not worth it: to copy that much costs no more.
const SMALL_SPLICE_BYTES: usize = 16 * 1024;

/// Small splices in a row after which the direction is copied again.
const SMALL_SPLICES: u8 = 4;

/// What a direction did of late, and so what it does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pace {
    /// Bytes the next read asks for: grows while the writer takes all of it, falls back when it does not.
    read_bytes: usize,
    /// Full reads in a row while it copies, small splices in a row while it splices.
    in_a_row: u8,
    is_bulk: bool,
    /// Whether the kernel splices these sockets at all.
    can_splice: bool,
}

impl Pace {
    /// Of a direction that has moved nothing yet.
    pub(super) fn new() -> Self {
        Self { read_bytes: FIRST_READ_BYTES, in_a_row: 0, is_bulk: false, can_splice: true }
    }

    /// Whether the next bytes are to be spliced. Where no pipe is to be had they are copied all the same.
    pub(super) fn is_bulk(&self) -> bool {
        self.is_bulk
    }

    /// Bytes a read asks for.
    pub(super) fn read_bytes(&self) -> usize {
        self.read_bytes
    }

    /// A read found so many bytes, and the writer took all of them or not.
    pub(super) fn copied(&mut self, read: usize, all_taken: bool) {
        let is_full = read == self.read_bytes;
        self.read_bytes = match (all_taken, is_full) {
            (false, _) => FIRST_READ_BYTES,
            (true, true) => (self.read_bytes * 4).min(SCRATCH_BYTES),
            (true, false) => self.read_bytes,
        };
        self.in_a_row = if is_full { self.in_a_row + 1 } else { 0 };
        let proved = self.in_a_row >= FULL_READS;
        if proved {
            self.in_a_row = 0;
        }
        // One that would be spliced and finds no pipe stays so until its reads are no longer full.
        self.is_bulk = self.can_splice && is_full && (self.is_bulk || proved);
    }

    /// A splice found so many bytes.
    pub(super) fn spliced(&mut self, found: usize) {
        self.in_a_row = if found < SMALL_SPLICE_BYTES { self.in_a_row + 1 } else { 0 };
        if self.in_a_row >= SMALL_SPLICES {
            self.cannot_splice_now();
        }
    }

    /// What comes next cannot be spliced.
    pub(super) fn cannot_splice_now(&mut self) {
        *self = Self { can_splice: self.can_splice, ..Self::new() };
    }

    /// The kernel does not splice these sockets: they are copied for good.
    pub(super) fn cannot_splice(&mut self) {
        *self = Self { can_splice: false, ..Self::new() };
    }
}

#[cfg(test)]
impl Pace {
    /// One that splices from the first byte on, for as long as there is something to splice.
    pub(super) fn bulk() -> Self {
        Self { is_bulk: true, ..Self::new() }
    }

    /// One that only ever copies.
    pub(super) fn copying() -> Self {
        Self { can_splice: false, ..Self::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads that each find what is given, or all that was asked for where that is less.
    fn after_reads(found: &[usize]) -> Pace {
        let mut pace = Pace::new();
        for found in found {
            pace.copied((*found).min(pace.read_bytes()), true);
        }
        pace
    }

    #[test]
    fn messages_are_copied_however_many_there_are() {
        for size in [1, 120, 1460, 16 * 1024, 60_000, 300_000] {
            let mut pace = Pace::new();
            for _ in 0..1000 {
                // Each message is over before the next one comes.
                let mut left = size;
                while left > 0 {
                    let read = left.min(pace.read_bytes());
                    pace.copied(read, true);
                    left -= read;
                }
                assert!(!pace.is_bulk(), "{size}");
            }
        }
    }

    #[test]
    fn a_stream_is_spliced_after_three_full_reads() {
        let much = usize::MAX;
        assert!(!after_reads(&[much, much]).is_bulk());
        assert!(after_reads(&[much, much, much]).is_bulk());
        assert!(!after_reads(&[much, much, 10, much, much]).is_bulk(), "the row was broken");
        assert!(after_reads(&[much, much, 10, much, much, much]).is_bulk());
    }

    #[test]
    fn a_stream_whose_reader_is_slow_is_a_stream_too() {
        let mut pace = Pace::new();
        for _ in 0..3 {
            pace.copied(pace.read_bytes(), false);
            assert_eq!(pace.read_bytes(), FIRST_READ_BYTES, "a stalled direction holds little");
        }
        assert!(pace.is_bulk());
    }

    #[test]
    fn small_splices_in_a_row_lead_back_to_copying() {
        let mut pace = Pace::bulk();
        for _ in 0..100 {
            for _ in 1..SMALL_SPLICES {
                pace.spliced(SMALL_SPLICE_BYTES - 1);
            }
            assert!(pace.is_bulk());
            pace.spliced(SMALL_SPLICE_BYTES);
        }
        (0..SMALL_SPLICES).for_each(|_| pace.spliced(1));
        assert_eq!(pace, Pace::new());
    }

    #[test]
    fn without_a_pipe_a_stream_is_copied_and_spliced_once_there_is_one() {
        let mut pace = after_reads(&[usize::MAX; 3]);
        for _ in 0..10 {
            assert!(pace.is_bulk());
            pace.copied(pace.read_bytes(), true);
        }
        assert_eq!(pace.read_bytes(), SCRATCH_BYTES);
        pace.copied(1, true);
        assert!(!pace.is_bulk());
    }

    #[test]
    fn what_the_kernel_cannot_splice_is_never_tried_again() {
        let mut pace = Pace::bulk();
        pace.cannot_splice();
        (0..100).for_each(|_| pace.copied(pace.read_bytes(), true));
        assert!(!pace.is_bulk());
    }
}
