//! The canonical form of request targets out of arbitrary text: it is its own canonical form, it names what was sent, and
//! whoever decodes it as liberally as can be finds nothing in it that was not looked at.

#![no_main]

use libfuzzer_sys::fuzz_target;
use waypoint::routes::{MAX_TARGET_BYTES, canonical_path};

fuzz_target!(|input: &[u8]| {
    let Ok(target) = std::str::from_utf8(input) else { return };
    let Ok(canonical) = canonical_path(target) else { return };
    assert!(target.len() <= MAX_TARGET_BYTES);
    let (sent, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    assert_eq!(canonical.query, query, "the query is not what was sent");
    let again = canonical_path(&canonical.path);
    let again = again.expect("what is canonical is accepted");
    assert_eq!(again.path, canonical.path, "a canonical form has another one");
    assert_eq!(again.reads_twice, canonical.reads_twice);
    assert_eq!(unescaped(&canonical.path), unescaped(sent), "another path than the one that was sent");
    if sent == "*" {
        return;
    }
    liberally(&canonical.path, canonical.reads_twice);
});

/// Once, whatever stands there; a `%` that begins no escape is a `%`.
fn unescaped(path: &str) -> Vec<u8> {
    let (bytes, mut made) = (path.as_bytes(), Vec::new());
    let digit = |at: usize| bytes.get(at).and_then(|it| char::from(*it).to_digit(16));
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                made.push(u8::try_from(high << 4 | low).expect("two digits are a byte"));
                at += 3;
            }
            (byte, ..) => {
                made.push(byte);
                at += 1;
            }
        }
    }
    made
}

/// Whether a decoder that looks at six bits of whatever follows a lead, and does not ask for the shortest form, finds what
/// separates or ends paths behind one of the leads that longer forms begin with.
fn hides_a_separator(decoded: &[u8]) -> bool {
    (0..decoded.len()).any(|at| {
        let more = match decoded[at] {
            0xc0 | 0xc1 => 1,
            0xe0 => 2,
            0xf0 => 3,
            _ => return false,
        };
        let Some(following) = decoded.get(at + 1..=at + more) else { return false };
        // Of these leads only the lowest bit of 0xc1 counts.
        let lead = u32::from(decoded[at] & 1);
        let read = following.iter().fold(lead, |read, it| read << 6 | u32::from(it & 0x3f));
        [0, u32::from(b'/'), u32::from(b'\\'), u32::from(b'.')].contains(&read)
    })
}

/// A server that resolves escapes, takes either slash for one and leaves parameters out sees the same segments as rules do:
/// none of them is empty but the last, none leads upwards, and none holds what ends a path.
fn liberally(path: &str, reads_twice: bool) {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (at, segment) in segments.iter().enumerate() {
        let decoded = unescaped(segment);
        assert!(!decoded.contains(&b'/') && !decoded.contains(&b'\\') && !decoded.contains(&0), "{path}");
        assert!(!decoded.is_empty() || at + 1 == segments.len(), "{path}: an empty segment");
        let plain = segment.split(';').next().unwrap_or_default();
        assert!(reads_twice || plain.len() == segment.len(), "{path}: parameters that nobody was told of");
        assert!(!matches!(&*unescaped(plain), b"." | b".."), "{path}: leads upwards");
        assert!(!hides_a_separator(&decoded), "{path}: longer than its shortest form");
        let twice = unescaped(&String::from_utf8_lossy(&decoded));
        let upwards = matches!(&*twice, b"." | b"..") || twice.contains(&b'/') || twice.contains(&b'\\');
        assert!(reads_twice || !upwards, "{path}: escaped twice, and nobody was told of it");
    }
}
