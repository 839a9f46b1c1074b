//! Counts the frames of a peer that cost us work and carry nothing, and says when there are too many.
//!
//! `h2` answers each PING and SETTINGS and passes over PRIORITY and frames it does not know, without end: what it
//! holds for them is bounded, the work is not. Knows no streams: only kinds of frames, and what was earned for them.

use super::limits;

const FRAME_HEADER_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// Bytes we must have sent for each WINDOW_UPDATE beyond those that are free. An honest peer sends at most two for a
/// frame of ours, and our smallest frame of data has ten bytes.
const SENT_BYTES_PER_UPDATE: u32 = 5;
/// What `h2` counts for a frame of DATA that is smaller.
const SMALL_FRAME_COST_BYTES: usize = 256;
/// The most frames that are earned ahead of time.
const MAX_EARNED: u32 = 1 << 20;

/// Follows the frames of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of the preface or of a payload that are still to come.
    skip: usize,
    header: [u8; FRAME_HEADER_BYTES],
    read: usize,
    /// Frames without use that may still come in this interval.
    idle: u32,
    /// WINDOW_UPDATEs that may still come.
    updates: u32,
    /// What `h2` holds for the DATA that came, while nobody reads it.
    data_cost: usize,
}

impl Frames {
    /// A connection on which `preface` bytes come before the first frame.
    pub(super) fn after(preface: usize) -> Self {
        Self {
            skip: preface,
            header: [0; FRAME_HEADER_BYTES],
            read: 0,
            idle: limits::IDLE_FRAMES_PER_INTERVAL,
            updates: limits::IDLE_FRAMES_PER_INTERVAL,
            data_cost: 0,
        }
    }

    /// What `h2` holds for the DATA that came since this was last asked, in bytes, while nobody reads it.
    pub(super) fn take_data_cost(&mut self) -> usize {
        std::mem::take(&mut self.data_cost)
    }

    /// Takes note of received bytes; false once there were too many frames without use.
    pub(super) fn received(&mut self, mut bytes: &[u8]) -> bool {
        let mut calm = true;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (FRAME_HEADER_BYTES - self.read).min(bytes.len());
            self.header[self.read..self.read + taken].copy_from_slice(&bytes[..taken]);
            self.read += taken;
            bytes = &bytes[taken..];
            if self.read == FRAME_HEADER_BYTES {
                self.read = 0;
                let [a, b, c, kind, ..] = self.header;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                calm &= self.count(kind, self.skip);
            }
        }
        calm
    }

    fn count(&mut self, kind: u8, length: usize) -> bool {
        let left = match kind {
            // Bounded by `h2`: by the size of header lists, and when empty by their number.
            CONTINUATION => return true,
            // Bounded by windows. Empty ones are bounded by `h2` too, but not on streams that were reset.
            DATA if length > 0 => {
                self.data_cost += length.max(SMALL_FRAME_COST_BYTES);
                return true;
            }
            HEADERS => {
                // A stream may be ended by an empty frame and be reset, so each that is opened pays for both.
                self.idle = self.idle.saturating_add(2).min(MAX_EARNED);
                return true;
            }
            WINDOW_UPDATE => &mut self.updates,
            _ => &mut self.idle,
        };
        let within = *left > 0;
        *left = left.saturating_sub(1);
        within
    }

    /// Takes note of bytes sent, for which windows may be opened again.
    pub(super) fn sent(&mut self, bytes: usize) {
        // Rounded up, so that many small writes earn as much as one large one.
        let earned = u32::try_from(bytes).unwrap_or(u32::MAX).div_ceil(SENT_BYTES_PER_UPDATE);
        self.updates = self.updates.saturating_add(earned).min(MAX_EARNED);
    }

    /// Begins an interval: what was used up is there again.
    pub(super) fn begin_interval(&mut self) {
        self.idle = self.idle.max(limits::IDLE_FRAMES_PER_INTERVAL);
        self.updates = self.updates.max(limits::IDLE_FRAMES_PER_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, 0, 0, 0, 0, 1];
        frame.extend(vec![0xff; payload]);
        frame
    }

    /// How many frames pass before there are too many.
    fn passing(frames: &mut Frames, kind: u8) -> u32 {
        (0..).find(|_| !frames.received(&frame(kind, 4))).unwrap()
    }

    #[test]
    fn frames_are_counted_wherever_reads_cut_them() {
        let history: Vec<u8> = (0..limits::IDLE_FRAMES_PER_INTERVAL + 1)
            .flat_map(|size| frame(PING, size as usize % 40))
            .collect();
        for cut in 1..30 {
            let mut frames = Frames::after(24);
            assert!(frames.received(&[0; 24]));
            let calm = history.chunks(cut).filter(|bytes| !frames.received(bytes)).count();
            assert_eq!(calm, 1, "in reads of {cut}");
        }
    }

    #[test]
    fn every_interval_has_its_own_and_streams_pay_for_their_resets() {
        let mut frames = Frames::after(0);
        for kind in [2, 3, 4, 5, 7, 99] {
            assert_eq!(passing(&mut frames, kind), limits::IDLE_FRAMES_PER_INTERVAL);
            frames.begin_interval();
        }
        for _ in 0..3 * limits::IDLE_FRAMES_PER_INTERVAL {
            let whole = [frame(HEADERS, 20), frame(DATA, 5), frame(DATA, 0), frame(3, 4)].concat();
            assert!(frames.received(&whole));
        }
        assert_eq!(passing(&mut frames, PING), limits::IDLE_FRAMES_PER_INTERVAL);
    }

    #[test]
    fn window_updates_are_earned_by_what_was_sent() {
        let mut frames = Frames::after(0);
        assert_eq!(passing(&mut frames, WINDOW_UPDATE), limits::IDLE_FRAMES_PER_INTERVAL);
        for _ in 0..10_000 {
            frames.sent(10);
        }
        assert_eq!(passing(&mut frames, WINDOW_UPDATE), 20_000, "two for each of the smallest frames");
        assert!(frames.received(&frame(DATA, 100)), "and nothing else is held up");
    }
}
