//! Ways of writing a path, and what the most liberal server makes of each. Tests of policies share it, those with real
//! servers too.

use std::collections::BTreeSet;

/// Paths that forms are made of: what policies below keep apart, and what lies next to it.
pub(crate) const PATHS: [&str; 8] = [
    "/admin",
    "/admin/users",
    "/admin/panel.html",
    "/public/index.html",
    "/public/admin",
    "/api/v1/admin/keys",
    "/api/v1/items/1",
    "/",
];

/// What stands for a slash somewhere.
const SLASHES: [&str; 19] = [
    "//",
    "///",
    "/./",
    "/x/../",
    "/x/%2e%2e/",
    "/%2e/",
    "\\",
    "/\\",
    "%2f",
    "%5C",
    "/;/",
    "/;x=1/",
    "/..;/",
    "/x/..;y/",
    "%c0%af",
    "%e0%80%af",
    "/%c0%ae%c0%ae/",
    "/.%00/",
    "/%2E./",
];

/// What some server takes off, or stops at.
const ENDS: [&str; 27] = [
    "/",
    "//",
    "/.",
    "/..",
    "/x/..",
    ";",
    ";x",
    ";x=/public/",
    "?x",
    "?/public/../x",
    "#x",
    "%23",
    "%3F",
    "%3f.html",
    "%00",
    "%00.html",
    "%20",
    "%09",
    "%0a",
    ";.html",
    "/;x.html",
    "/..;/public/x",
    "\\",
    "%5c",
    "%",
    "%4",
    "\u{e9}",
];

/// Ways of writing the same path, or nearly the same, of which some server may take one for another.
pub(crate) fn forms(path: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::from([path.to_owned()]);
    let escape = |byte: u8, upper: bool| if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") };
    for (at, byte) in path.bytes().enumerate() {
        let (before, after) = (&path[..at], &path[at + 1..]);
        for upper in [false, true] {
            all.insert(format!("{before}{}{after}", escape(byte, upper)));
            all.insert(format!("{before}%25{}{after}", &escape(byte, upper)[1..]));
        }
        if byte == b'/' {
            for other in SLASHES {
                all.insert(format!("{before}{other}{after}"));
            }
        }
    }
    for end in ENDS {
        all.insert(format!("{path}{end}"));
    }
    for start in
        ["/public/..", "/public/..;", "/public/%2e%2e", "/.", "/public\\..", "/public/%2e.", "//x/.."]
    {
        all.insert(format!("{start}{path}"));
    }
    all
}

/// What the most liberal server makes of a path: everything unescaped, however badly and as often as it can be; backslashes as slashes; parameters
/// taken off; slashes joined; dots followed.
pub(crate) fn liberally(target: &str) -> String {
    let target = target.split(['?', '#']).next().unwrap_or_default();
    let segments = target.split('/').map(|it| it.split(';').next().unwrap_or_default());
    let text = segments.collect::<Vec<_>>().join("/");
    let mut bytes = text.into_bytes();
    // As often as there is anything to resolve.
    loop {
        let resolved = unescaped(&bytes);
        if resolved == bytes {
            break;
        }
        bytes = resolved;
    }
    for (overlong, short) in [
        (&[0xc0, 0xaf][..], b'/'),
        (&[0xe0, 0x80, 0xaf], b'/'),
        (&[0xc0, 0xae], b'.'),
        (&[0xe0, 0x80, 0xae], b'.'),
    ] {
        while let Some(at) = bytes.windows(overlong.len()).position(|it| it == overlong) {
            bytes.splice(at..at + overlong.len(), [short]);
        }
    }
    let text = bytes.split(|it| *it == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text).replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/').filter(|it| !it.is_empty() && *it != ".") {
        match segment {
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let slash = if text.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    format!("/{}{slash}", segments.join("/"))
}

fn unescaped(text: &[u8]) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|it| std::str::from_utf8(it).ok());
        match digits.and_then(|it| u8::from_str_radix(it, 16).ok()).filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}
