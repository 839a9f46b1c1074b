//! What somebody may have meant by a word that is not known.

/// How many letters must be changed, added or left out (Levenshtein).
pub fn distance(from: &[u8], to: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.iter().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// The known word that is nearest to one that is not, where any is near: a letter in four may differ.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let near = known.into_iter().map(|it| {
        let far = if it.eq_ignore_ascii_case(word) { 0 } else { distance(word.as_bytes(), it.as_bytes()) };
        (far, it)
    });
    let (far, nearest) = near.min()?;
    (far <= (nearest.len() / 4).clamp(1, 3)).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_near_to_one_that_a_slip_makes_of_it() {
        for (word, meant) in [
            ("exlain", Some("explain")),
            ("anlyze", Some("analyze")),
            ("Explain", Some("explain")),
            ("run", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, ["explain", "analyze"]), meant, "{word}");
        }
        assert_eq!(distance(b"kitten", b"sitting"), 3);
    }
}
