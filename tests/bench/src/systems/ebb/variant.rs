//! Reads other settings of a `ztunnel` from the command line: `NAME=WORDS`, each word an argument or `VARIABLE=value`.

use std::{fmt, str::FromStr};

/// Settings under which Ebb takes part a second time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Variant {
    /// Its name in the report.
    pub(crate) name: String,
    /// Arguments of `ztunnel`.
    pub(crate) arguments: Vec<String>,
    /// Its environment.
    pub(crate) environment: Vec<(String, String)>,
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, words) = text.split_once('=').ok_or("write NAME=ARGUMENTS")?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !name.starts_with("ebb-") || !name.chars().all(plain) {
            return Err(format!("{name:?} is no name: ebb- and then lower case letters, digits and dashes"));
        }
        if ["ebb-before", "ebb-same-node", "ebb-waypoint"].contains(&name) {
            return Err(format!("{name} is the name of a system that there is"));
        }
        let mut variant = Self { name: name.into(), ..Self::default() };
        for word in words.split_whitespace() {
            match word.split_once('=').filter(|(variable, _)| is_variable(variable)) {
                Some((variable, value)) => variant.environment.push((variable.into(), value.into())),
                None => variant.arguments.push(word.into()),
            }
        }
        Ok(variant)
    }
}

fn is_variable(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let environment = self.environment.iter().map(|(variable, value)| format!("{variable}={value}"));
        let words: Vec<String> = environment.chain(self.arguments.iter().cloned()).collect();
        f.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_arguments_unless_they_set_a_variable() {
        let variant: Variant = "ebb-plain=--same-node=plain EBB_X=1".parse().unwrap();
        assert_eq!(variant.name, "ebb-plain");
        assert_eq!(variant.arguments, ["--same-node=plain"]);
        assert_eq!(variant.environment, [("EBB_X".to_owned(), "1".to_owned())]);
        assert_eq!(variant.to_string(), "EBB_X=1 --same-node=plain");
    }

    #[test]
    fn a_name_that_could_be_another_systems_is_refused() {
        for text in ["ebb", "envoy-1=--x", "ebb=--x", "ebb-A=--x", "=--x"] {
            assert!(text.parse::<Variant>().is_err(), "{text}");
        }
    }
}
