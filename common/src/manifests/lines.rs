//! On which line of a document a field stands, where it is written in plain block style; nothing where it is not.

/// The line, from 1, of a field such as `spec.http[1].match[0]` in the document that begins on the line `first`.
pub(super) fn line_of(text: &str, first: u32, field: &str) -> Option<u32> {
    let from = usize::try_from(first).ok()?.saturating_sub(1);
    let document = text.lines().skip(from).enumerate();
    let lines: Vec<Line<'_>> = document
        .take_while(|(at, text)| *at == 0 || !text.starts_with("---") && !text.starts_with("..."))
        .filter_map(|(at, text)| Line::of(from + at + 1, text))
        .collect();
    let mut place = Place { at: 0, indent: lines.first()?.indent, is_key: false };
    for step in field.split('.') {
        let (key, positions) = step.split_once('[').unwrap_or((step, ""));
        place = place.key(&lines, key)?;
        for position in positions.split('[').filter(|it| !it.is_empty()) {
            place = place.item(&lines, position.strip_suffix(']')?.parse().ok()?)?;
        }
    }
    u32::try_from(lines.get(place.at)?.number).ok()
}

/// A line with something on it.
struct Line<'t> {
    number: usize,
    indent: usize,
    text: &'t str,
}

impl<'t> Line<'t> {
    fn of(number: usize, line: &'t str) -> Option<Self> {
        let text = line.trim_start_matches(' ');
        let says = !text.trim().is_empty() && !text.starts_with('#') && !text.starts_with("---");
        says.then(|| Self { number, indent: line.len() - text.len(), text })
    }

    /// What stands behind the dashes of list items, and how far in.
    fn inner(&self) -> (usize, &'t str) {
        let inner = self.text.strip_prefix('-').map_or(self.text, |it| it.trim_start_matches(' '));
        (self.indent + self.text.len() - inner.len(), inner)
    }
}

/// Where the walk is: the line of a key, whose value comes next, or a mapping, whose first key may stand on its line.
#[derive(Clone, Copy)]
struct Place {
    at: usize,
    /// How far in the key is, or the keys of the mapping are.
    indent: usize,
    is_key: bool,
}

impl Place {
    /// The line of a key, the first of which may stand behind the dash of an item.
    fn key(self, lines: &[Line<'_>], key: &str) -> Option<Self> {
        let mapping = match self.is_key {
            true => {
                let first = lines.get(self.at + 1).filter(|it| it.indent > self.indent)?;
                Self { at: self.at + 1, indent: first.indent, is_key: false }
            }
            false => self,
        };
        let is_it = |text: &str| text.strip_prefix(key).is_some_and(|rest| rest.starts_with(':'));
        for (at, line) in lines.iter().enumerate().skip(mapping.at) {
            let (indent, text) = if at == mapping.at { line.inner() } else { (line.indent, line.text) };
            if indent < mapping.indent {
                return None;
            }
            if indent == mapping.indent && is_it(text) {
                return Some(Self { at, indent, is_key: true });
            }
        }
        None
    }

    /// The line of an item of the list that a key has.
    fn item(self, lines: &[Line<'_>], position: usize) -> Option<Self> {
        let first =
            lines.get(self.at + 1).filter(|it| it.indent >= self.indent && it.text.starts_with('-'))?;
        let of_list = lines.iter().enumerate().skip(self.at + 1);
        let mut items = of_list
            .take_while(|(_, it)| {
                it.indent > first.indent || it.indent == first.indent && it.text.starts_with('-')
            })
            .filter(|(_, it)| it.indent == first.indent);
        let (at, item) = items.nth(position)?;
        Some(Self { at, indent: item.inner().0, is_key: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
kind: Other
---
# A comment.
kind: VirtualService
spec:
  hosts: [web]
  http:
    - name: first
      match:
        - uri: {prefix: /a}

        - headers:
            x: {exact: y}
    - match:
      - uri: {prefix: /b}
      - uri: {prefix: /c}
      route:
      - destination: {host: web}
    # The last.
    - route: [{destination: {host: web}}]
  tcp:
  - route: []
---
spec:
  http:
    - name: another
";

    #[test]
    fn fields_are_found_where_they_are_written_line_by_line() {
        for (field, expected) in [
            ("spec", Some(5)),
            ("spec.http", Some(7)),
            ("spec.http[0]", Some(8)),
            ("spec.http[0].match[1]", Some(12)),
            ("spec.http[1].match[0]", Some(15)),
            ("spec.http[1].match[1]", Some(16)),
            ("spec.http[1].route[0]", Some(18)),
            ("spec.http[2]", Some(20)),
            ("spec.tcp[0]", Some(22)),
            ("spec.http[3]", None),
            ("spec.http[2].route[0]", None),
            ("spec.hosts[0]", None),
            ("spec.tls[0]", None),
        ] {
            assert_eq!(line_of(TEXT, 4, field), expected, "{field}");
        }
        assert_eq!(line_of(TEXT, 24, "spec.http[0]"), Some(26));
        assert_eq!(line_of(TEXT, 99, "spec"), None);
    }
}
