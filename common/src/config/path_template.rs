//! Paths with `{*}` and `{**}` in them, as AuthorizationPolicies state them (Envoy's URI templates).
//!
//! `{*}` is one segment, `{**}` any text, slashes included, also none; only literals may follow the latter. The surprising
//! thing: `/a/{**}` is not `/a`, because the slash before it has to be there.

use std::fmt;
use std::sync::Arc;

/// A path with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    /// What comes before `{**}`; all of it, where there is none.
    segments: Box<[Segment]>,
    /// What comes behind the last placeholder and belongs to its segment; with `{**}` also the segments behind it.
    tail: Arc<str>,
    /// Whether there is a `{**}` between the two.
    any_text: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(Arc<str>),
    /// `{*}`: any, but not an empty one.
    One,
}

impl PathTemplate {
    /// Whether a path is a template at all.
    pub fn is_one(text: &str) -> bool {
        text.contains("{*}") || text.contains("{**}")
    }

    /// Reads a template.
    ///
    /// # Errors
    /// In words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refuse = |why: &str| Err(format!("{text:?} is no path template: {why}"));
        let Some(inner) = text.strip_prefix('/') else { return refuse("it does not start with /") };
        let (before, behind) = match inner.split_once("{**}") {
            Some((before, behind)) => (before, Some(behind)),
            None => (inner, None),
        };
        let is_special = |text: &str| text.contains(['{', '}', '*']);
        let before = match behind {
            None => before,
            Some(behind) if is_special(behind) => return refuse("only text may follow {**}"),
            Some(_) if before.is_empty() => before,
            Some(_) => match before.strip_suffix('/') {
                Some("") => return refuse("an empty segment"),
                Some(before) => before,
                None => return refuse("{**} does not begin a segment"),
            },
        };
        let mut tail = behind.unwrap_or_default();
        let mut segments = Vec::new();
        let mut all = before.split('/').peekable();
        // Nothing before `{**}` is no segment, and nothing else begins with an empty one.
        while let Some(segment) = all.next().filter(|_| behind.is_none() || !before.is_empty()) {
            let is_last = all.peek().is_none();
            match segment.strip_prefix("{*}") {
                Some("") => segments.push(Segment::One),
                Some(suffix) if is_last && behind.is_none() && !is_special(suffix) => {
                    segments.push(Segment::One);
                    tail = suffix;
                }
                Some(_) => return refuse("{*} is not a segment by itself"),
                None if is_special(segment) => return refuse("only {*} and {**} may be in braces"),
                None if segment.is_empty() && !(is_last && behind.is_none()) => {
                    return refuse("an empty segment");
                }
                None => segments.push(Segment::Literal(segment.into())),
            }
        }
        Ok(Self { segments: segments.into(), tail: tail.into(), any_text: behind.is_some() })
    }

    /// The same with its literals in another form.
    #[must_use]
    pub fn map_literals(&self, change: impl Fn(&str) -> Arc<str>) -> Self {
        let segments = self.segments.iter().map(|it| match it {
            Segment::Literal(text) => Segment::Literal(change(text)),
            Segment::One => Segment::One,
        });
        Self { segments: segments.collect(), tail: change(&self.tail), any_text: self.any_text }
    }

    /// Whether a path is of this form. Takes time in proportion to the path, and allocates nothing.
    pub fn matches(&self, path: &str) -> bool {
        let Some(mut rest) = path.strip_prefix('/') else { return false };
        for (at, wanted) in self.segments.iter().enumerate() {
            let is_last = at + 1 == self.segments.len() && !self.any_text;
            let (segment, behind) = match rest.split_once('/') {
                Some(_) if is_last => return false,
                Some(split) => split,
                None if is_last => (rest, ""),
                None => return false,
            };
            let fits = match wanted {
                Segment::Literal(text) => segment == &**text,
                Segment::One if is_last => segment.strip_suffix(&*self.tail).is_some_and(|it| !it.is_empty()),
                Segment::One => !segment.is_empty(),
            };
            if !fits {
                return false;
            }
            rest = behind;
        }
        !self.any_text || rest.ends_with(&*self.tail)
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::One => f.write_str("/{*}")?,
            }
        }
        if self.any_text {
            f.write_str("/{**}")?;
        }
        f.write_str(&self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_takes_what_envoys_takes() {
        for (template, taken, left) in [
            ("/a/{*}", &["/a/b", "/a/b.c;d"][..], &["/a", "/a/", "/a/b/", "/a/b/c", "/b/b", "*", ""][..]),
            ("/{*}/b", &["/a/b"], &["/b", "//b", "/a/c", "/a/b/c", "/x/a/b"]),
            ("/a/{*}/c/{*}", &["/a/b/c/d"], &["/a/b/c", "/a/b/c/", "/a//c/d", "/a/b/d/d"]),
            ("/a/{*}/", &["/a/b/"], &["/a/b", "/a//", "/a/b/c"]),
            ("/a/{**}", &["/a/", "/a/b", "/a/b/c", "/a/b/"], &["/a", "/ab", "/b/a/"]),
            ("/{**}", &["/", "/a", "/a/b"], &["*", ""]),
            ("/{**}/b", &["/a/b", "/a/c/b", "/b/b"], &["/b", "/a/bb", "/a/b/", "/b/a"]),
            ("/a/{**}/b/c", &["/a/x/b/c", "/a/x/y/b/c"], &["/a/b/c", "/a/x/c", "/a/x/b/c/d"]),
            ("/a/{*}/{**}", &["/a/b/", "/a/b/c/d"], &["/a/b", "/a//c", "/a/"]),
            ("/a/{*}.txt", &["/a/b.txt"], &["/a/.txt", "/a/b.text", "/a/b/c.txt"]),
            ("/a/{**}.txt", &["/a/b.txt", "/a/b/c.txt", "/a/.txt"], &["/b.txt", "/a/b.txt/c"]),
        ] {
            let read = PathTemplate::parse(template).unwrap();
            assert!(PathTemplate::is_one(template));
            for path in taken {
                assert!(read.matches(path), "{template} takes {path}");
            }
            for path in left {
                assert!(!read.matches(path), "{template} leaves {path}");
            }
        }
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in [
            "{*}",
            "a/{*}",
            "/a{*}",
            "/a/{*}b/c",
            "/a/{*}{*}",
            "/{**}/{*}",
            "/{**}/{**}",
            "/a{**}",
            "/{*}/{name}",
            "/{*}/{name=*}",
            "/{*}/*",
            "/*/{*}",
            "/{*}/**",
            "//{*}",
            "/a//{**}",
            "/{*}/}",
            "/{}/{*}",
        ] {
            assert!(PathTemplate::parse(text).is_err(), "{text}");
        }
        for text in ["/a/*", "/{a}", "/a/{ * }", "*"] {
            assert!(!PathTemplate::is_one(text), "{text}");
        }
    }
}
