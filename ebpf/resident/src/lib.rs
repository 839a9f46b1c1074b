//! Lets go of the program's pages that its start alone needed.
//!
//! The kernel maps sixteen pages of a file where one is touched, and a start touches a little of everything: most of the
//! program counts as resident from then on, though a proxy at work runs little of it. What is let go stays in the page
//! cache; what is needed again is mapped again, at the price of a fault. The surprising thing: nothing is decided by the
//! name of a file. Whatever is mapped of a file, cannot be written and was never changed is in that file all the same.
//!
//! It has nothing to do with eBPF. It stands here because it needs unsafe code, and is a crate of its own so that a
//! waypoint, which loads no kernel programs, can use it.

use std::{fs, io, ops::Range};

use nix::libc;

const MAPS: &str = "/proc/self/smaps";

/// Lets go of clean pages of files that this process has mapped. Returns the bytes that were resident there. To be called
/// once, when the process has started: under memory pressure the kernel does the same by itself.
///
/// # Errors
/// When the process cannot read what it has mapped, or the kernel refuses.
pub fn let_go_of_clean_pages() -> io::Result<usize> {
    let clean = clean(&fs::read_to_string(MAPS)?);
    for Mapping { range, .. } in &clean {
        forget(range)?;
    }
    Ok(clean.iter().map(|it| it.resident).sum())
}

fn forget(range: &Range<usize>) -> io::Result<()> {
    // SAFETY: the range is a mapping of a file in which no page differs from the file and none can be written to, so that
    // every page of it is read again as it was. Nothing in this process changes what its files are mapped to.
    let done = unsafe { libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping {
    range: Range<usize>,
    /// Bytes.
    resident: usize,
}

/// Private mappings of files that are not written to and hold nothing of their own, not even swapped out.
fn clean(smaps: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut lines = smaps.lines().peekable();
    while let Some(head) = lines.next() {
        let Some(range) = file_mapping(head) else { continue };
        let mut mapping = Mapping { range, resident: 0 };
        // What is not said is taken for something of its own.
        let mut clean_fields = 0;
        while let Some((name, kib)) = lines.peek().and_then(|line| field(line)) {
            match (name, kib) {
                ("Rss", _) => mapping.resident = kib * 1024,
                ("Private_Dirty" | "Shared_Dirty" | "Anonymous" | "Swap", 0) => clean_fields += 1,
                _ => {}
            }
            lines.next();
        }
        if clean_fields == 4 && mapping.resident > 0 {
            found.push(mapping);
        }
    }
    found
}

/// The range of a private mapping of a file that cannot be written, by the line that begins it.
fn file_mapping(head: &str) -> Option<Range<usize>> {
    let mut parts = head.split_ascii_whitespace();
    let (range, rights) = (parts.next()?, parts.next()?);
    let path = parts.nth(3)?;
    let (start, end) = range.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    let is_meant = matches!(rights, "r--p" | "r-xp") && path.starts_with('/');
    (is_meant && !range.is_empty()).then_some(range)
}

/// A field of a mapping that is a size, in KiB.
fn field(line: &str) -> Option<(&str, usize)> {
    let (name, value) = line.split_once(':')?;
    // Not the head of the next mapping, nor flags.
    match value.trim().strip_suffix(" kB") {
        Some(kib) => Some((name, kib.trim().parse().ok()?)),
        None => (!name.contains('-')).then_some((name, 0)).filter(|(name, _)| is_word(name)),
    }
}

fn is_word(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(head: &str, fields: [usize; 5]) -> String {
        let [rss, private, shared, anonymous, swap] = fields;
        format!(
            "{head}\nSize: 64 kB\nRss: {rss} kB\nShared_Dirty: {shared} kB\nPrivate_Dirty: {private} kB\n\
             Anonymous: {anonymous} kB\nSwap: {swap} kB\nTHPeligible: 0\nVmFlags: rd ex mr mw me sd\n"
        )
    }

    #[test]
    fn only_what_can_be_read_again_is_let_go() {
        const TEXT: &str = "1000-3000 r-xp 003ff000 fe:00 6360042                    /usr/bin/ztunnel";
        let clean_one = vec![Mapping { range: 0x1000..0x3000, resident: 8192 }];
        for (head, fields, expected) in [
            (TEXT, [8, 0, 0, 0, 0], clean_one.clone()),
            (&TEXT.replace("r-xp", "r--p"), [8, 0, 0, 0, 0], clean_one.clone()),
            (&format!("{TEXT} (deleted)"), [8, 0, 0, 0, 0], clean_one),
            (TEXT, [0, 0, 0, 0, 0], vec![]),
            (TEXT, [8, 4, 0, 0, 0], vec![]),
            (TEXT, [8, 0, 4, 0, 0], vec![]),
            (TEXT, [8, 0, 0, 4, 0], vec![]),
            (TEXT, [8, 0, 0, 0, 4], vec![]),
            (&TEXT.replace("r-xp", "rw-p"), [8, 0, 0, 0, 0], vec![]),
            (&TEXT.replace("r-xp", "r-xs"), [8, 0, 0, 0, 0], vec![]),
            (&TEXT.replace("/usr/bin/ztunnel", "[vdso]"), [8, 0, 0, 0, 0], vec![]),
            (&TEXT.replace("/usr/bin/ztunnel", ""), [8, 0, 0, 0, 0], vec![]),
            (&TEXT.replace("/usr/bin/ztunnel", "anon_inode:bpf-map"), [8, 0, 0, 0, 0], vec![]),
        ] {
            let before = mapping("500-600 rw-p 00000000 00:00 0 [heap]", [4, 4, 0, 4, 0]);
            let smaps = before.clone() + &mapping(head, fields) + &before;
            assert_eq!(clean(&smaps), expected, "{head} {fields:?}");
        }
    }

    #[test]
    fn a_mapping_of_which_not_all_is_told_is_kept() {
        let whole = mapping("1000-3000 r-xp 0 fe:00 1 /a", [8, 0, 0, 0, 0]);
        assert_eq!(clean(&whole).len(), 1);
        for lacking in ["Private_Dirty", "Shared_Dirty", "Anonymous", "Swap", "Rss"] {
            let told: String =
                whole.lines().filter(|it| !it.starts_with(lacking)).map(|it| format!("{it}\n")).collect();
            assert_eq!(clean(&told), [], "without {lacking}");
        }
    }

    #[test]
    fn this_very_process_goes_on_with_fewer_pages() {
        let text = || clean(&fs::read_to_string(MAPS).unwrap()).iter().map(|it| it.resident).sum::<usize>();
        let before = text();
        let let_go = let_go_of_clean_pages().unwrap();
        assert!(let_go > before / 2, "{let_go} of {before}");
        assert!(text() < before, "{} of {before}", text());
        assert_eq!(
            format!("{:?}", "still here".split(' ').rev().collect::<Vec<_>>()),
            "[\"here\", \"still\"]"
        );
    }
}
