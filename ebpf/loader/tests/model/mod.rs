//! What the programs should say, written as plainly as possible and without looking at how they say it.

use ebb_loader::abi::{Hook, Verdict};

/// A small generator of numbers (xorshift), so that a failure can be repeated.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }
}

/// What the kernel's test run asks of a frame: Ethernet and IPv6 headers.
const SHORTEST: usize = 14 + 40;

/// One of the seeds with a few bytes changed or cut.
pub fn mutilated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut frame = seeds[random.below(seeds.len())].clone();
    for _ in 0..random.below(4) {
        let at = 12 + random.below(frame.len() - 12);
        match random.below(4) {
            0 => frame[at] = random.below(256) as u8,
            1 => frame[at] ^= 1 << random.below(8),
            // The bytes that decide most.
            2 => {
                let at = (12 + random.below(60)).min(frame.len() - 1);
                frame[at] = [0, 6, 17, 43, 44, 51, 60, 0x45, 0x60, 0x81][random.below(10)];
            }
            _ => frame.truncate(at.max(SHORTEST)),
        }
    }
    frame
}

/// The verdict of a pod with one worker that has no listeners, no flags, and no connections.
pub fn verdict(hook: Hook, frame: &[u8]) -> Verdict {
    let outbound = hook == Hook::CaptureOutbound;
    match read(frame) {
        Err(verdict) => verdict,
        Ok(Tcp { opens: true, tagged: true }) if outbound => Verdict::DropTagged,
        Ok(Tcp { opens: true, .. }) if outbound => Verdict::SteerSyn,
        Ok(Tcp { opens: true, .. }) => Verdict::DropNoListener,
        Ok(_) if outbound => Verdict::PassOld,
        Ok(_) => Verdict::PassSegment,
    }
}

struct Tcp {
    opens: bool,
    tagged: bool,
}

fn read(frame: &[u8]) -> Result<Tcp, Verdict> {
    let bytes = |at: usize, count: usize| frame.get(at..at + count).ok_or(Verdict::DropMalformed);
    let half = |at: usize| bytes(at, 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let is_tag = |ethertype: u16| [0x8100, 0x88a8, 0x9100].contains(&ethertype);
    // The kernel's test run reads the ethertype for itself and moves one tag out of the frame; what it makes of
    // the packet is the same.
    let mut at = 14;
    let mut tags = 0;
    while is_tag(half(at - 2)?) {
        if tags == 2 {
            return Err(Verdict::DropTooDeep);
        }
        half(at + 2)?;
        tags += 1;
        at += 4;
    }
    let tagged = tags > 0;
    match half(at - 2)? {
        0x0800 => read_ipv4(frame, at).and_then(|(tcp, length, piece)| flags(frame, tcp, length, piece, false, tagged)),
        0x86dd => read_ipv6(frame, at, tagged),
        _ => Err(Verdict::PassNotIp),
    }
}

/// A fragment's offset, and whether the packet is in fragments.
type Piece = (usize, bool);

fn read_ipv4(frame: &[u8], at: usize) -> Result<(usize, usize, Piece), Verdict> {
    let header = frame.get(at..at + 20).ok_or(Verdict::DropMalformed)?;
    let length = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || length < 20 {
        return Err(Verdict::DropMalformed);
    }
    if header[9] != 6 {
        return Err(Verdict::PassNotTcp);
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let total = match usize::from(u16::from_be_bytes([header[2], header[3]])) {
        0 => frame.len() - at,
        total => total,
    };
    let payload = total.checked_sub(length).ok_or(Verdict::DropMalformed)?;
    Ok((at + length, payload, (usize::from(fragment & 0x1fff) * 8, fragment & 0x3fff != 0)))
}

fn read_ipv6(frame: &[u8], at: usize, tagged: bool) -> Result<Tcp, Verdict> {
    let header = frame.get(at..at + 8).ok_or(Verdict::DropMalformed)?;
    if header[0] >> 4 != 6 {
        return Err(Verdict::DropMalformed);
    }
    let total = match usize::from(u16::from_be_bytes([header[4], header[5]])) {
        0 => frame.len() - at,
        length => length + 40,
    };
    let (mut next, mut here) = (header[6], at + 40);
    let (mut piece, mut routed) = ((0, false), false);
    for read in 0.. {
        if next == 6 {
            break;
        }
        if ![0, 43, 44, 51, 60].contains(&next) {
            // After the last header that is looked through, whatever follows is one too many.
            return Err(if read == 8 { Verdict::DropTooDeep } else { Verdict::PassNotTcp });
        }
        if read == 8 {
            return Err(Verdict::DropTooDeep);
        }
        let size = if next == 44 { 4 } else { 2 };
        let header = frame.get(here..here + size).ok_or(Verdict::DropMalformed)?;
        let kind = next;
        next = header[0];
        match kind {
            44 => {
                let offset = usize::from(u16::from_be_bytes([header[2], header[3]]) & !7);
                piece = (offset, true);
                here += 8;
                if offset > 0 {
                    if ![0, 6, 43, 44, 51, 60].contains(&next) {
                        return Err(Verdict::PassNotTcp);
                    }
                    here -= 8;
                    break;
                }
            }
            51 => here += (usize::from(header[1]) + 2) * 4,
            _ => {
                routed |= kind == 43;
                here += (usize::from(header[1]) + 1) * 8;
            }
        }
    }
    let payload = total.checked_sub(here - at).ok_or(Verdict::DropMalformed)?;
    let tcp = flags(frame, here, payload, piece, routed, tagged)?;
    // Addresses are read last.
    frame.get(at + 8..at + 40).ok_or(Verdict::DropMalformed)?;
    Ok(tcp)
}

fn flags(frame: &[u8], at: usize, payload: usize, piece: Piece, routed: bool, tagged: bool) -> Result<Tcp, Verdict> {
    match piece {
        (1..60, _) => return Err(Verdict::DropFragment),
        (60.., _) => return Err(Verdict::PassFragment),
        (0, true) if payload < 20 => return Err(Verdict::DropFragment),
        (0, false) if payload < 20 => return Err(Verdict::DropMalformed),
        _ => {}
    }
    let header = frame.get(at..at + 14).ok_or(Verdict::DropMalformed)?;
    if header[12] >> 4 < 5 {
        return Err(Verdict::DropMalformed);
    }
    let [fin, syn, rst, ack] = [1, 2, 4, 16].map(|bit| header[13] & bit != 0);
    match syn {
        true if fin || rst => Err(Verdict::DropOddFlags),
        true if piece.1 => Err(Verdict::DropFragment),
        true if routed => Err(Verdict::DropRoutingHeader),
        _ => Ok(Tcp { opens: syn && !ack, tagged }),
    }
}
