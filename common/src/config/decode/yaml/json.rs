//! What JSON shows of itself before it is parsed: whether it states manifests, and whom they are about.
//!
//! Many a file that ends in `.json` is no manifest, and none may deny a mesh for what it mentions: one counts as manifests
//! when it is an object with `apiVersion` and `kind` at its top. The surprising thing: one that breaks off, or whose
//! brackets do not match, counts as soon as it has a sign of either, since what is behind the fault may be anything.

use super::MAX_DEPTH;
use super::head::unescaped;
use crate::config::decode::check;
use crate::config::{Kind, Subject};

/// What is said of a file that has neither.
const NO_HEAD: &str = "no apiVersion and kind at the top of it";

/// Why a JSON file states no manifests; `None` where it does, or is empty.
pub(super) fn foreign(bytes: &[u8]) -> Option<&'static str> {
    // UTF-16 is refused further on, and has to be seen for that.
    let dense: Vec<u8>;
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] | [0xfe, 0xff, rest @ ..] | rest @ ([0, _, ..] | [_, 0, ..]) => {
            dense = rest.iter().copied().filter(|b| *b != 0).collect();
            dense.as_slice()
        }
        [0xef, 0xbb, 0xbf, rest @ ..] => rest,
        all => all,
    };
    if text.iter().all(u8::is_ascii_whitespace) {
        return None;
    }
    let Some(outline) = Outline::of(text) else { return Some("not a JSON object") };
    let says = |word: &str| text.windows(word.len()).any(|it| it == word.as_bytes());
    match outline.rest {
        Some(_) if !(outline.has_version && outline.has_kind) => Some(NO_HEAD),
        Some([b'{' | b'[', ..]) => Some("several JSON values, one behind the other"),
        Some(_) => None,
        None if outline.has_version || outline.has_kind => None,
        None => (!(says("\"apiVersion\"") && says("\"kind\""))).then_some(NO_HEAD),
    }
}

/// What a broken document that begins as JSON seems to be about, as far as its brackets match: its own kind, name and
/// namespace. What stands there twice stays unknown.
pub(super) fn subject(text: &str) -> Subject {
    let Some(outline) = Outline::of(text.as_bytes()) else { return Subject::default() };
    let only = |all: &[&'_ [u8]]| match all {
        [one] => std::str::from_utf8(one).ok().map(ToOwned::to_owned),
        _ => None,
    };
    let kind = only(&outline.kinds);
    // The items of a list have names and namespaces of their own.
    if kind.as_deref() == Some("List") {
        return Subject::default();
    }
    let kind = kind.as_deref().and_then(Kind::of);
    let namespace = only(&outline.namespaces).filter(|it| check::is_dns_label(it)).map(Into::into);
    Subject {
        kind,
        namespace: match kind {
            Some(Kind::Namespace | Kind::Node) => Some("".into()),
            _ => namespace,
        },
        name: only(&outline.names).filter(|it| check::is_dns_name(it)).map(Into::into),
    }
}

/// The first fields of an object.
#[derive(Default)]
struct Outline<'t> {
    has_version: bool,
    has_kind: bool,
    kinds: Vec<&'t [u8]>,
    names: Vec<&'t [u8]>,
    namespaces: Vec<&'t [u8]>,
    /// What stands behind the object, from the first byte that is not blank; `None` where it does not end.
    rest: Option<&'t [u8]>,
}

impl<'t> Outline<'t> {
    /// `None` when the text does not begin with an object.
    fn of(text: &'t [u8]) -> Option<Self> {
        // Not behind a comment: what begins with one is for other readers.
        let text = text.trim_ascii_start().strip_prefix(b"{")?;
        let (mut outline, mut tokens) = (Self::default(), Tokens(text));
        let mut open = vec![b'{'];
        let (mut outer, mut last, mut key): (&[u8], _, _) = (b"", None, None);
        while let Some(token) = tokens.next() {
            match token {
                Token::Text(text) => match key.take() {
                    Some(key) => outline.value(open.len(), (outer, key), text),
                    None => last = Some(text),
                },
                Token::Colon => {
                    key = last.take();
                    if let (Some(key), 1) = (key, open.len()) {
                        outer = key;
                        outline.has_version |= is(key, b"apiVersion");
                        outline.has_kind |= is(key, b"kind");
                    }
                }
                Token::Open(bracket) if open.len() <= MAX_DEPTH => {
                    open.push(bracket);
                    (last, key) = (None, None);
                }
                Token::Close(bracket) if open.pop() == Some(bracket) => (last, key) = (None, None),
                Token::Open(_) | Token::Close(_) => break,
                Token::Other => (last, key) = (None, None),
            }
            if open.is_empty() {
                outline.rest = Some(tokens.0.trim_ascii_start());
                break;
            }
        }
        Some(outline)
    }

    fn value(&mut self, depth: usize, (outer, key): (&[u8], &[u8]), text: &'t [u8]) {
        if depth == 1 && is(key, b"kind") {
            self.kinds.push(text);
        } else if depth == 2 && is(outer, b"metadata") {
            if is(key, b"name") {
                self.names.push(text);
            } else if is(key, b"namespace") {
                self.namespaces.push(text);
            }
        }
    }
}

/// Whether a key is this one, however it is written.
fn is(key: &[u8], word: &[u8]) -> bool {
    key == word || (key.contains(&b'\\') && unescaped(key) == word)
}

/// Marks and words of a text.
struct Tokens<'t>(&'t [u8]);

enum Token<'t> {
    /// A bracket that opens.
    Open(u8),
    /// A bracket that closes, as the one that opened.
    Close(u8),
    /// What stands between quotes.
    Text(&'t [u8]),
    Colon,
    Other,
}

impl<'t> Tokens<'t> {
    /// `None` at the end, and where a quote is not closed on its line.
    fn next(&mut self) -> Option<Token<'t>> {
        loop {
            let (first, rest) = self.0.trim_ascii_start().split_first()?;
            self.0 = rest;
            return Some(match first {
                b'{' | b'[' => Token::Open(*first),
                b'}' => Token::Close(b'{'),
                b']' => Token::Close(b'['),
                b':' => Token::Colon,
                b'"' => return self.text().map(Token::Text),
                // Comments are no JSON, and often there.
                b'/' if rest.starts_with(b"*") => {
                    self.0 = &rest[rest.windows(2).position(|it| it == b"*/")? + 2..];
                    continue;
                }
                b'#' => {
                    self.skip_line();
                    continue;
                }
                b'/' if rest.starts_with(b"/") => {
                    self.skip_line();
                    continue;
                }
                _ => Token::Other,
            });
        }
    }

    fn skip_line(&mut self) {
        self.0 = self.0.iter().position(|b| *b == b'\n').map_or(&[], |at| &self.0[at..]);
    }

    fn text(&mut self) -> Option<&'t [u8]> {
        let mut at = 0;
        loop {
            match self.0.get(at)? {
                b'"' => break,
                b'\n' => return None,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        let (text, rest) = (&self.0[..at], &self.0[at + 1..]);
        self.0 = rest;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_with_a_head_are_manifests() {
        for sound in [
            r#"{"apiVersion": "v1", "kind": "Pod"}"#,
            "\n\t{\"kind\": \"Pod\", \"metadata\": {}, \"apiVersion\": \"v1\"}\n",
            "\u{feff}{\"kind\": \"Pod\", \"apiVersion\": \"v1\"}",
            r#"{"\u0061piVersion": "v1", "\x6bind": "Pod"}"#,
            "{\"apiVersion\": \"v1\", \"kind\": \"Pod\"}\n---\n{}",
            // Broken, cut off, or with a bracket too many: what was meant may be a policy.
            r#"{"apiVersion": "v1", "items": [{"kind": "AuthorizationPolicy", "#,
            r#"{"kind": "Pod", "metadata": {"name": "a]}"#,
            r#"{"apiVersion": "v1", "kind": "Pod"}}"#,
            r#"{"metadata": {]}, "apiVersion": "v1", "kind": "Pod"}"#,
            "",
            " \n",
        ] {
            assert_eq!(foreign(sound.as_bytes()), None, "{sound}");
        }
        for other in [
            "[1]",
            "[{\"apiVersion\": \"v1\", \"kind\": \"AuthorizationPolicy\"}]",
            "// A comment.\n{\"apiVersion\": \"v1\", \"kind\": \"Pod\"}",
            "{\"a\": 1}\n{\"b\": 2}",
            "{\"apiVersion\": \"v1\", \"kind\": \"Event\"}\n{\"apiVersion\": \"v1\", \"kind\": \"Event\"}\n",
            r#"{"name": "shop", "description": "an AuthorizationPolicy", "istio.io/use-waypoint": "w"}"#,
            r#"{"panels": [{"apiVersion": "v1", "kind": "AuthorizationPolicy"}], "kind": "row"}"#,
            "{ // don't \"apiVersion\": 1, \"kind\": 2\n/* \"kind\": 3 } */ \"compilerOptions\": {},\n}",
            "{apiVersion: v1, kind: Pod}",
            "\"security.istio.io\"",
        ] {
            assert!(foreign(other.as_bytes()).is_some(), "{other}");
        }
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        assert_eq!(foreign(&wide(r#"{"apiVersion": "v1", "kind": "Pod"}"#)), None);
        assert!(foreign(&wide("{\"a\": 1}")).is_some());
    }

    #[test]
    fn what_broken_json_is_about_is_what_plainly_stands_at_its_top() {
        let about = |text: &str| {
            let Subject { kind, namespace, name } = subject(text);
            let word = |it: Option<std::sync::Arc<str>>| it.map(|it| it.to_string()).unwrap_or_default();
            (kind, word(namespace), word(name))
        };
        let (policy, none) = (Some(Kind::AuthorizationPolicy), String::new);
        let head = r#""kind": "AuthorizationPolicy", "metadata": "#;
        for (text, expected) in [
            (
                format!(
                    "{{{head}{{\"name\": \"a\", \"labels\": {{\"name\": \"x\"}}, \"namespace\": \"shop\"}}, \"spec\": ["
                ),
                (policy, "shop".into(), "a".into()),
            ),
            (
                format!("{{{head}{{\"name\": \"a\"}}, \"spec\": {{\"namespace\": \"shop\", ["),
                (policy, none(), "a".into()),
            ),
            (format!("{{{head}{{\"namespace\": \"a\", \"namespace\": \"b\"}}, ["), (policy, none(), none())),
            (format!("{{{head}{{\"namespace\": \"no such\"}}, ["), (policy, none(), none())),
            (
                r#"{"kind": "List", "metadata": {"namespace": "shop"}, "items": ["#.to_owned(),
                (None, none(), none()),
            ),
            // A bracket of the wrong sort ends what can be told.
            (format!("{{\"spec\": {{]}}, {head}{{\"namespace\": \"shop\"}}"), (None, none(), none())),
        ] {
            assert_eq!(about(&text), expected, "{text}");
        }
    }
}
