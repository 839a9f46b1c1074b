//! The one form of a request's path: rules, policies and logs see it, and it is what is forwarded.
//!
//! What two servers could read differently is refused, not repaired: the next one on the way would get to decide what
//! was meant. Only what no server can take for something else is rewritten: an escaped letter is that letter, hex digits
//! are upper case, and characters that should have been escaped are. The query is passed on as it was sent.

use std::borrow::Cow;
use std::sync::Arc;

/// Longest request target, path and query, in bytes.
pub const MAX_TARGET_BYTES: usize = 16 << 10;

/// A target that has one meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canonical<'a> {
    /// The path: starts with `/`, or is the `*` of OPTIONS.
    pub path: Cow<'a, str>,
    /// What follows `?`, if there is one.
    pub query: Option<&'a str>,
    /// Some servers read more in it: a segment has parameters (`;`), which they take off before they look at the path, or
    /// is escaped twice (`%2561`), which they resolve once more. Whoever admits by path may want to refuse it.
    pub reads_twice: bool,
}

/// Why a target is refused: with 414 when it is too long, else 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Longer than [`MAX_TARGET_BYTES`].
    #[error("longer than {MAX_TARGET_BYTES} bytes")]
    TooLong,
    /// Neither `/...` nor `*`.
    #[error("no path that starts with /")]
    NotAPath,
    /// A control character, a space, or a byte beyond ASCII.
    #[error("a byte that no request target may hold")]
    Character,
    /// `#`.
    #[error("a fragment")]
    Fragment,
    /// `\`.
    #[error("a backslash")]
    Backslash,
    /// `%` without two hex digits.
    #[error("% without two hex digits")]
    Escape,
    /// `%2F`, `%5C`, `%2E` or `%00`.
    #[error("an escaped /, \\, . or NUL")]
    EscapedSeparator,
    /// Escaped UTF-8 that is longer than it need be.
    #[error("overlong UTF-8")]
    Overlong,
    /// `//`.
    #[error("an empty segment")]
    EmptySegment,
    /// `.` or `..` as a segment, with parameters or without.
    #[error("a segment . or ..")]
    DotSegment,
}

/// The canonical form of a request target in origin form.
///
/// # Errors
/// When servers could differ about what it names.
pub fn canonical_path(target: &str) -> Result<Canonical<'_>, Malformed> {
    if target.len() > MAX_TARGET_BYTES {
        return Err(Malformed::TooLong);
    }
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if query.is_some_and(|it| it.contains('#')) {
        return Err(Malformed::Fragment);
    }
    if !query.is_none_or(|it| it.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(Malformed::Character);
    }
    if path == "*" {
        return Ok(Canonical { path: path.into(), query, reads_twice: false });
    }
    if !path.starts_with('/') {
        return Err(Malformed::NotAPath);
    }
    let path = normalised(path)?;
    // Escapes make it longer, and the next one on the way measures it again.
    if path.len() + query.map_or(0, |it| it.len() + 1) > MAX_TARGET_BYTES {
        return Err(Malformed::TooLong);
    }
    let reads_twice = check_segments(&path)? || is_escaped_twice(&path);
    Ok(Canonical { path, query, reads_twice })
}

/// Escapes in one form. For the paths of rules too, which may be parts of one.
pub(super) fn normalised(path: &str) -> Result<Cow<'_, str>, Malformed> {
    if path.bytes().all(|it| PLAIN[usize::from(it)]) {
        return Ok(Cow::Borrowed(path));
    }
    let mut made = String::with_capacity(path.len() + 8);
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let escaped = escape(rest)?;
                check_escape(escaped, &rest[2..])?;
                rest = &rest[2..];
                if is_unreserved(escaped) {
                    made.push(escaped.into())
                } else {
                    push_escape(&mut made, escaped)
                }
            }
            b'#' => return Err(Malformed::Fragment),
            b'\\' => return Err(Malformed::Backslash),
            b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => push_escape(&mut made, byte),
            byte if PLAIN[usize::from(byte)] => made.push(byte.into()),
            _ => return Err(Malformed::Character),
        }
    }
    Ok(Cow::Owned(made))
}

/// The path of a rule, or a part of one, in the form that requests have. One that no request can have stays as it is.
pub(crate) fn canonical_rule(text: &str) -> Arc<str> {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        // What a client cannot but escape.
        if byte.is_ascii_graphic() { escaped.push(byte.into()) } else { push_escape(&mut escaped, byte) }
    }
    normalised(&escaped).map_or_else(|_| text.into(), |it| Arc::from(&*it))
}

/// The byte that two hex digits stand for.
fn escape(digits: &[u8]) -> Result<u8, Malformed> {
    let digit = |at: usize| {
        let digit = digits.get(at).and_then(|it| char::from(*it).to_digit(16)).ok_or(Malformed::Escape)?;
        Ok(digit as u8)
    };
    Ok(digit(0)? << 4 | digit(1)?)
}

fn check_escape(escaped: u8, after: &[u8]) -> Result<(), Malformed> {
    // Escaped or not, so that the form with more escapes means the same; and by the bits that count in what continues a
    // character, because some decoders look at no others.
    let continues_from = |least: u8| {
        let next = match after.split_first() {
            Some((b'%', digits)) => escape(digits).ok(),
            next => next.map(|(byte, _)| *byte),
        };
        next.is_none_or(|it| it & 0x3f >= least & 0x3f)
    };
    match escaped {
        0 | b'/' | b'\\' | b'.' => Err(Malformed::EscapedSeparator),
        0xc0 | 0xc1 => Err(Malformed::Overlong),
        0xe0 if !continues_from(0xa0) => Err(Malformed::Overlong),
        0xf0 if !continues_from(0x90) => Err(Malformed::Overlong),
        _ => Ok(()),
    }
}

fn push_escape(made: &mut String, byte: u8) {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('0').to_ascii_uppercase();
    made.extend(['%', digit(byte >> 4), digit(byte & 0xf)]);
}

/// RFC 3986, 2.3: what means the same escaped. The dot is one of them too, and is dealt with before.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~')
}

/// Which bytes stand for themselves in a path (RFC 3986, 3.3: `pchar`, and the slash).
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        plain[byte as usize] = is_unreserved(byte)
            || matches!(byte, b'/' | b'.' | b':' | b'@')
            || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=');
        byte += 1;
    }
    plain
};

/// Whether an escape stands for a `%` with which another one begins.
fn is_escaped_twice(path: &str) -> bool {
    let is_digit = |it: &u8| it.is_ascii_hexdigit();
    let inner = path.match_indices("%25").filter_map(|(at, escape)| path.as_bytes().get(at + escape.len()..));
    inner.filter_map(|it| it.first_chunk::<2>()).any(|it| it.iter().all(is_digit))
}

/// Whether a segment has parameters.
fn check_segments(path: &str) -> Result<bool, Malformed> {
    let mut has_parameters = false;
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let name = segment.split(';').next().unwrap_or_default();
        has_parameters |= name.len() < segment.len();
        if matches!(name, "." | "..") {
            return Err(Malformed::DotSegment);
        }
        if segment.is_empty() && segments.peek().is_some() {
            return Err(Malformed::EmptySegment);
        }
    }
    Ok(has_parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_has_one_form() {
        for (sent, path, query) in [
            ("/", "/", None),
            ("*", "*", None),
            ("/a/b/", "/a/b/", None),
            ("/a.b/..c/.d/e..", "/a.b/..c/.d/e..", None),
            ("/%61%2D%5F%7e", "/a-_~", None),
            ("/caf%c3%a9", "/caf%C3%A9", None),
            ("/%C3%A9%20x", "/%C3%A9%20x", None),
            ("/a%3bb%3F%23%25", "/a%3Bb%3F%23%25", None),
            ("/{id}|x", "/%7Bid%7D%7Cx", None),
            ("/a?b=%2f..%2e//&c", "/a", Some("b=%2f..%2e//&c")),
            ("/a?", "/a", Some("")),
            ("/a?b?c", "/a", Some("b?c")),
            ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,=", None),
            ("/%0d%0a", "/%0D%0A", None),
            // No UTF-8, and nothing that is too long either.
            ("/voil%e0/%e0<%e0%20", "/voil%E0/%E0%3C%E0%20", None),
        ] {
            let canonical = canonical_path(sent).unwrap();
            assert_eq!((&*canonical.path, canonical.query), (path, query), "{sent}");
            let again = canonical_path(&canonical.path).unwrap();
            assert_eq!(again.path, canonical.path, "the canonical form of {sent} is its own");
        }
    }

    #[test]
    fn a_path_that_servers_could_read_differently_is_refused() {
        use Malformed::*;
        let long = format!("/{}", "a".repeat(MAX_TARGET_BYTES));
        let grown = format!("/{}", "<".repeat(MAX_TARGET_BYTES / 2));
        for (sent, why) in [
            ("", NotAPath),
            ("a", NotAPath),
            ("?a", NotAPath),
            ("**", NotAPath),
            ("http://a/", NotAPath),
            (&*long, TooLong),
            (&*grown, TooLong),
            ("/a b", Character),
            ("/a\tb", Character),
            ("/a\0b", Character),
            ("/a\x7f", Character),
            ("/é", Character),
            ("/a?b c", Character),
            ("/a?é", Character),
            ("/a#b", Fragment),
            ("/a?b#c", Fragment),
            ("/a\\b", Backslash),
            ("/a%", Escape),
            ("/a%4", Escape),
            ("/a%4g", Escape),
            ("/a%+1", Escape),
            ("/a%2fb", EscapedSeparator),
            ("/a%5Cb", EscapedSeparator),
            ("/%2e%2E/b", EscapedSeparator),
            ("/a%2etxt", EscapedSeparator),
            ("/a%00", EscapedSeparator),
            ("/%c0%af", Overlong),
            ("/%e0%80%af", Overlong),
            ("/%f0%80%80%af", Overlong),
            ("/%e0@%6f", Overlong),
            ("/%f0A%40%6f", Overlong),
            ("//", EmptySegment),
            ("//a", EmptySegment),
            ("/a//b", EmptySegment),
            ("/a//", EmptySegment),
            ("/.", DotSegment),
            ("/./a", DotSegment),
            ("/a/../b", DotSegment),
            ("/a/..", DotSegment),
            ("/a/..;x/b", DotSegment),
            ("/a/.;/b", DotSegment),
        ] {
            assert_eq!(canonical_path(sent), Err(why), "{sent}");
        }
    }

    #[test]
    fn what_some_servers_read_more_in_is_told() {
        for (sent, expected) in [
            ("/a;b=1/c", true),
            ("/a/b;", true),
            ("/a%3bb", false),
            ("/a?b;c", false),
            ("/a%2561", true),
            ("/a%25%36%31", true),
            ("/a%25zz", false),
            ("/a%25", false),
            ("/a?%2561", false),
        ] {
            assert_eq!(canonical_path(sent).unwrap().reads_twice, expected, "{sent}");
        }
    }
}
