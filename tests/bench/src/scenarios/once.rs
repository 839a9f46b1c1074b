//! What a system starts something of its own for, once: with many routes, or without any network.
//!
//! The systems know how to start themselves; here is only what is asked of them then.

use std::{process::Command, thread};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::memory::{self, SETTLE};
use crate::{
    plan::Plan,
    results::Sample,
    systems::{Candidate, Tools},
};

/// What the router holds that has many routes, once a request has been compared with all of them.
pub(super) fn routes(candidate: &dyn Candidate, tools: &Tools, plan: &Plan) -> Result<Vec<Sample>> {
    let Some(running) = candidate.start_with_routes(tools, plan.routes)? else { return Ok(Vec::new()) };
    running.prove()?;
    thread::sleep(SETTLE);
    Ok(vec![memory::of_router(&running)?.into_iter().collect()])
}

/// A figure, and the shape of the rules it is of in the program's output.
const SHAPES: [(&str, &str); 7] = [
    ("exact", "exact paths"),
    ("prefix", "prefixes"),
    ("header", "one prefix, headers"),
    ("method", "methods and prefixes"),
    ("regex", "regexes of a start"),
    ("header_prefix", "header prefixes"),
    ("bare_regex", "bare regexes"),
];

/// The mean over requests for every rule in turn, and what it costs the tables to follow one change.
pub(super) fn matching(candidate: &dyn Candidate) -> Result<Vec<Sample>> {
    let Some(program) = candidate.routing_cost()? else { return Ok(Vec::new()) };
    let output = Command::new(&program).arg("--json").output();
    let output = output.with_context(|| format!("run {}", program.display()))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    let found = serde_json::from_slice(&output.stdout).context("read the costs of routing")?;
    Ok(vec![costs(&found)?])
}

fn costs(found: &Value) -> Result<Sample> {
    let mut sample = Sample::new();
    for (figure, shape) in SHAPES {
        let nanos = found["match_ns"][shape]["in_turn"].as_f64();
        sample.insert(figure.into(), nanos.with_context(|| format!("no cost of {shape} in {found}"))? / 1e3);
    }
    let table = found["change_ms"]["one route"].as_f64().context("no cost of a change")?;
    sample.insert("change".into(), table);
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_costs_are_read_in_microseconds_and_none_may_be_missing() {
        let mut found = json!({ "match_ns": {}, "change_ms": { "one route": 0.12 } });
        for (_, shape) in SHAPES {
            found["match_ns"][shape] = json!({ "first": 1.0, "in_turn": 250.0 });
        }
        let told = costs(&found).unwrap();
        assert_eq!((told["exact"], told["change"]), (0.25, 0.12));
        found["match_ns"]["prefixes"] = Value::Null;
        assert!(costs(&found).unwrap_err().to_string().contains("prefixes"));
    }
}
