//! Walks a document line by line: which lines belong together is a matter of their indents.

use super::{GiveUp, Outcome};

/// One line with content: blank lines and comments are passed over.
#[derive(Clone, Copy)]
pub(super) struct Line<'de> {
    pub(super) indent: usize,
    pub(super) text: &'de str,
}

pub(super) struct Lines<'de> {
    rest: &'de str,
    pub(super) current: Option<Line<'de>>,
}

impl<'de> Lines<'de> {
    pub(super) fn of(document: &'de str) -> Self {
        Self { rest: document, current: None }
    }

    pub(super) fn advance(&mut self) -> Outcome<()> {
        loop {
            if self.rest.is_empty() {
                self.current = None;
                return Ok(());
            }
            let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
            self.rest = rest;
            let text = line.trim_start_matches(' ');
            let indent = line.len() - text.len();
            let text = text.trim_end_matches([' ', '\r']);
            match text.as_bytes().first() {
                None | Some(b'#') => {}
                Some(b'\t') => return Err(GiveUp),
                Some(_) => {
                    self.current = Some(Line { indent, text });
                    return Ok(());
                }
            }
        }
    }

    pub(super) fn deeper_than(&self, indent: usize) -> Option<usize> {
        self.current.map(|line| line.indent).filter(|it| *it > indent)
    }

    /// The current line, when it is of the block at `indent`.
    pub(super) fn at(&self, indent: usize) -> Option<Line<'de>> {
        self.current.filter(|line| line.indent == indent)
    }

    /// Checks that a block at `indent` ends before the current line: a deeper one would belong to nothing.
    pub(super) fn ended(&self, indent: usize) -> Outcome<()> {
        if self.deeper_than(indent).is_some() { Err(GiveUp) } else { Ok(()) }
    }

    /// Steps over a key at `indent`, with what is beside it.
    pub(super) fn enter_value(&mut self, text: &'de str, indent: usize) -> Outcome<Place<'de>> {
        if text.starts_with(['|', '>']) {
            return self.skip_block_scalar(text, indent);
        }
        self.advance()?;
        if text.is_empty() { Ok(self.nested(indent, true)) } else { self.inline(text, indent) }
    }

    /// Steps over a block scalar below `indent`: lines as deep as its first or deeper, `#` or not.
    pub(super) fn skip_block_scalar(&mut self, header: &str, indent: usize) -> Outcome<Place<'de>> {
        if !matches!(&header[1..], "" | "-" | "+") {
            return Err(GiveUp);
        }
        let (mut level, mut widest_blank) = (None, 0);
        while !self.rest.is_empty() {
            let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
            let text = line.trim_start_matches(' ');
            let margin = line.len() - text.len();
            if text.trim_end_matches('\r').is_empty() {
                widest_blank = widest_blank.max(if level.is_none() { margin } else { 0 });
            } else if margin <= indent {
                break;
            } else if margin < *level.get_or_insert(margin) || widest_blank > margin && level == Some(margin)
            {
                return Err(GiveUp);
            }
            self.rest = rest;
        }
        self.advance()?;
        Ok(Place::BlockScalar)
    }

    /// The current line as an item of a sequence at `indent`.
    pub(super) fn item_at(&self, indent: usize) -> Option<Line<'de>> {
        let line = self.at(indent)?;
        (line.text == "-" || line.text.starts_with("- ")).then_some(line)
    }

    /// Steps over the dash of an item: what follows it is a line of its own, further in.
    pub(super) fn enter_item(&mut self, line: Line<'de>) -> Outcome<Place<'de>> {
        let text = line.text[1..].trim_start_matches(' ');
        if text.is_empty() {
            self.advance()?;
            return Ok(self.nested(line.indent, false));
        }
        if text.starts_with('#') {
            return Err(GiveUp);
        }
        let indent = line.indent + line.text.len() - text.len();
        if split_key(text).is_some() || text == "-" || text.starts_with("- ") {
            self.current = Some(Line { indent, text });
            return Ok(Place::Block { indent });
        }
        self.enter_value(text, line.indent)
    }

    /// What stands below a key or a dash at `indent` that has nothing beside it.
    pub(super) fn nested(&self, indent: usize, in_mapping: bool) -> Place<'de> {
        if let Some(indent) = self.deeper_than(indent) {
            Place::Block { indent }
        } else if in_mapping && self.item_at(indent).is_some() {
            Place::Block { indent }
        } else {
            Place::Null
        }
    }

    /// A value beside its key or dash at `indent`; the lines below it are already current.
    pub(super) fn inline(&self, text: &'de str, indent: usize) -> Outcome<Place<'de>> {
        let place = Place::Inline { text };
        // A deeper line would continue the scalar.
        if self.deeper_than(indent).is_some() { Err(GiveUp) } else { Ok(place) }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Place<'de> {
    /// A mapping or sequence that starts on the current line at this indent.
    Block { indent: usize },
    /// A value beside its key or dash.
    Inline { text: &'de str },
    /// Text in lines of its own, already passed over.
    BlockScalar,
    /// Nothing.
    Null,
}

/// Splits `key: value` or `key:`; the key is of letters, digits and `_./-`, and starts with a letter or digit.
pub(super) fn split_key(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|b| !(b.is_ascii_alphanumeric() || b"_./-".contains(&b)))?;
    let (key, rest) = text.split_at(end);
    let rest = rest.strip_prefix(':')?;
    if !key.bytes().next()?.is_ascii_alphanumeric() || !(rest.is_empty() || rest.starts_with(' ')) {
        return None;
    }
    Some((key, rest.trim_start_matches(' ')))
}

/// Splits `key: value` or `key:` where nobody reads the key, which may be any plain scalar (`f:metadata`).
pub(super) fn split_any_key(text: &str) -> Option<(&str, &str)> {
    let (key, value) = match text.split_once(": ") {
        Some((key, value)) => (key, value.trim_start_matches(' ')),
        None => (text.strip_suffix(':')?, ""),
    };
    let plain =
        matches!(key.as_bytes().first()?, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'/' | b'_');
    (plain && !key.contains(" #") && !key.ends_with(' ') && !key.contains('\t')).then_some((key, value))
}
