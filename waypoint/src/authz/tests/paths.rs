//! No way of writing a path gets round a policy: whatever the most liberal server would take it for is what was judged.

use std::collections::BTreeSet;

use super::{Asking, set};

/// Paths that forms are made of: what policies below keep apart, and what lies next to it.
const PATHS: [&str; 8] = [
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
fn forms(path: &str) -> BTreeSet<String> {
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

/// What the most liberal server makes of a path: everything unescaped, however badly; backslashes as slashes; parameters
/// taken off; slashes joined; dots followed.
fn liberally(target: &str) -> String {
    let target = target.split(['?', '#']).next().unwrap_or_default();
    let segments = target.split('/').map(|it| it.split(';').next().unwrap_or_default());
    let text = segments.collect::<Vec<_>>().join("/");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
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

/// A list of paths as a policy states it, and what it means of a path in the clear.
type List = (&'static str, fn(&str) -> bool);

const LISTS: [List; 7] = [
    ("/admin", |it| it == "/admin"),
    ("/admin*", |it| it.starts_with("/admin")),
    ("/admin/*", |it| it.starts_with("/admin/")),
    ("*/admin", |it| it.ends_with("/admin")),
    ("*.html", |it| it.ends_with(".html")),
    ("/api/{*}/admin/{**}", |it| {
        let segments: Vec<&str> = it.split('/').collect();
        segments.len() >= 5 && segments[1] == "api" && !segments[2].is_empty() && segments[3] == "admin"
    }),
    ("/public/{**}", |it| it.starts_with("/public/")),
];

#[test]
fn no_way_of_writing_a_path_gets_round_a_policy() {
    let corpus: BTreeSet<String> = PATHS.into_iter().flat_map(forms).collect();
    assert!(corpus.len() >= 500, "{} forms", corpus.len());
    let (mut refused, mut admitted) = (0, 0);
    for (list, falls_under) in LISTS {
        let deny =
            set(&[&format!("{{action: DENY, rules: [{{to: [{{operation: {{paths: ['{list}']}}}}]}}]}}")]);
        let allow = set(&[&format!("{{rules: [{{to: [{{operation: {{paths: ['{list}']}}}}]}}]}}")]);
        let but = set(&[&format!("{{rules: [{{to: [{{operation: {{notPaths: ['{list}']}}}}]}}]}}")]);
        for target in &corpus {
            let judge =
                |set| Asking::default().path(target).ask(|it| super::effective(set).judge(it, &[]).is_ok());
            let meant = liberally(target);
            // What is malformed is answered with 400 before any policy is asked.
            for (admits, expected) in [(judge(&deny), false), (judge(&allow), true), (judge(&but), false)] {
                if admits == Ok(true) {
                    admitted += 1;
                    assert_eq!(falls_under(&meant), expected, "{list} admits {target}, which may be {meant}");
                } else {
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 1000 && admitted > 1000, "{refused} refused, {admitted} admitted");
}
