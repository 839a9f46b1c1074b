//! What was decided about a call, step by step, and by which object of which file.
//!
//! Here is how an explanation is built up and written down. The steps of a connection are told in `connection`, by the
//! functions that decide; those of a request by the waypoint's.

pub mod connection;
pub mod unmet;

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use crate::config::{Key, Origin};

/// What decided a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    /// The object.
    pub key: Key,
    /// Where it was stated, where that is known.
    pub origin: Option<Origin>,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{} at {origin}", self.key),
            None => write!(f, "{}", self.key),
        }
    }
}

/// One step of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is decided here, in a word: `caller`, `route`, `policy`.
    pub subject: &'static str,
    /// What was decided.
    pub says: String,
    /// By what; `None` is a default.
    pub by: Option<By>,
    /// The same for programs: an object, or null where `says` is all there is.
    pub facts: Value,
}

/// Where objects were stated.
pub trait Origins {
    /// Where this one was.
    fn origin(&self, key: &Key) -> Option<&Origin>;

    /// The line of a field of an object that was stated there, or of what is nearest to it, where that can be told.
    fn line_of(&self, origin: &Origin, key: &Key, field: &str) -> Option<u32>;
}

/// What becomes of the call in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It reaches a destination.
    Admitted,
    /// A proxy on the way answers it, with this.
    Answered(String),
    /// It depends on what is drawn by chance, on the endpoint or on what only another proxy sees; the text says on what.
    Depends(String),
    /// It is refused, for this reason.
    Refused(String),
}

/// A decision told step by step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explanation {
    steps: Vec<Step>,
}

impl Explanation {
    /// Adds a step.
    pub fn say(&mut self, subject: &'static str, says: impl Into<String>, by: Option<By>) {
        self.tell(subject, says, by, Value::Null);
    }

    /// Adds a step with its facts.
    pub fn tell(&mut self, subject: &'static str, says: impl Into<String>, by: Option<By>, facts: Value) {
        self.steps.push(Step { subject, says: says.into(), by, facts });
    }

    /// Puts steps before all others.
    pub fn begin_with(&mut self, steps: Vec<Step>) {
        self.steps.splice(..0, steps);
    }

    /// Adds the steps of another one, all under one subject.
    pub fn append(&mut self, other: &Self, subject: &'static str) {
        self.steps.extend(other.steps.iter().cloned().map(|it| Step { subject, ..it }));
    }

    /// The steps, first to last.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Lines for a reader: a step each, its subject only where it changes, what decided it below.
    pub fn lines(&self, verdict: &Verdict) -> String {
        let width = self.steps.iter().map(|it| it.subject.len()).chain(["verdict".len()]).max().unwrap_or(0);
        let (mut text, mut last) = (String::new(), "");
        for Step { subject, says, by, facts: _ } in &self.steps {
            let shown = if *subject == last { "" } else { *subject };
            last = subject;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{shown:width$}  {}", plain(says));
            if let Some(by) = by {
                let _ = writeln!(text, "{:width$}    by {}", "", plain(&by.to_string()));
            }
        }
        let verdict = match verdict {
            Verdict::Admitted => "admitted".to_owned(),
            Verdict::Answered(with) => format!("answered: {with}"),
            Verdict::Depends(on) => format!("depends: {on}"),
            Verdict::Refused(why) => format!("refused: {why}"),
        };
        let _ = writeln!(text, "{:width$}  {}", "verdict", plain(&verdict));
        text
    }

    /// The same for programs: `steps` with `subject`, `says`, where an object decided `object`, `file` and `line`, and
    /// where there is more to know `facts`; `verdict` with `outcome` (`admitted`, `answered`, `depends` or `refused`) and
    /// `reason`.
    pub fn json(&self, verdict: &Verdict) -> Value {
        let steps: Vec<Value> = self.steps.iter().map(step).collect();
        let (outcome, reason) = match verdict {
            Verdict::Admitted => ("admitted", None),
            Verdict::Answered(with) => ("answered", Some(with)),
            Verdict::Depends(on) => ("depends", Some(on)),
            Verdict::Refused(why) => ("refused", Some(why)),
        };
        json!({ "steps": steps, "verdict": { "outcome": outcome, "reason": reason } })
    }
}

/// What documents and callers wrote must not speak to a terminal.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for it in text.chars() {
        if it.is_control() { plain.extend(it.escape_default()) } else { plain.push(it) }
    }
    plain
}

fn step(Step { subject, says, by, facts }: &Step) -> Value {
    let mut step = json!({ "subject": subject, "says": says });
    if !facts.is_null() {
        step["facts"] = facts.clone();
    }
    if let Some(by) = by {
        step["object"] = by.key.to_string().into();
        if let Some(origin) = &by.origin {
            step["file"] = (*origin.file).into();
            step["line"] = origin.line.into();
        }
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Kind, ObjectName};

    #[test]
    fn a_step_names_what_decided_it_and_where_that_stands() {
        let key = Key { kind: Kind::Service, object: ObjectName::new("shop", "web") };
        let origin = Origin { file: "a.yaml".into(), line: 7 };
        let mut told = Explanation::default();
        told.say("route", "to web", Some(By { key, origin: Some(origin) }));
        told.say("route", "by default", None);
        let verdict = Verdict::Refused("no".to_owned());
        assert_eq!(
            told.lines(&verdict),
            "route    to web\n           by Service shop/web at a.yaml:7\n         by default\nverdict  refused: no\n"
        );
        let json = told.json(&verdict);
        assert_eq!(json["steps"][0]["object"], "Service shop/web");
        assert_eq!((&json["steps"][0]["file"], &json["steps"][0]["line"]), (&"a.yaml".into(), &7.into()));
        assert_eq!(json["steps"][1].get("object"), None);
        assert_eq!(json["verdict"], json!({ "outcome": "refused", "reason": "no" }));
    }
}
