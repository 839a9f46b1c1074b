//! Findings as lines, as JSON and as SARIF.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::finding::{CODES, Finding, Level};

/// In which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// Lines as of `istioctl analyze`, each with the way to mend it below.
    Log,
    /// An array of objects.
    Json,
    /// SARIF 2.1.0, which code hosts and editors show beside the lines.
    Sarif,
}

/// Renders findings; `files` is how many were read.
pub fn render(form: Form, findings: &[&Finding], files: usize) -> String {
    match form {
        Form::Log => log(findings, files),
        Form::Json => pretty(&Value::Array(findings.iter().map(|it| object(it)).collect())),
        Form::Sarif => pretty(&sarif(findings)),
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn log(findings: &[&Finding], files: usize) -> String {
    if findings.is_empty() {
        let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
        return format!("✔ No validation issues found in {files}.\n");
    }
    let mut text = String::new();
    for finding in findings {
        let Finding { code, origin, object, .. } = finding;
        // Writing to a string cannot fail.
        let line = format!("{} [{}] ({object} {origin}) {}", code.level, code.id, finding.says());
        // A document's own words must not speak to the terminal.
        line.chars().for_each(|it| match it.is_control() {
            true => text.extend(it.escape_default()),
            false => text.push(it),
        });
        text.push('\n');
        let _ = writeln!(text, "    fix: {}", code.fix);
    }
    text
}

fn object(finding: &Finding) -> Value {
    let Finding { code, origin, object, field, message } = finding;
    json!({
        "code": code.id,
        "name": code.name,
        "level": code.level.to_string(),
        "origin": object,
        "file": origin.file,
        "line": origin.line,
        "field": field,
        "message": message,
        "fix": code.fix,
    })
}

fn sarif(findings: &[&Finding]) -> Value {
    let rules: Vec<Value> = CODES
        .iter()
        .map(|code| {
            json!({
                "id": code.id,
                "name": code.name,
                "help": { "text": code.fix },
                "defaultConfiguration": { "level": word(code.level) },
            })
        })
        .collect();
    let results: Vec<Value> = findings.iter().map(|it| result(it)).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "waypoint analyze",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "results": results,
        }],
    })
}

fn result(finding: &Finding) -> Value {
    let Finding { code, origin, object, .. } = finding;
    let mut place = json!({ "artifactLocation": { "uri": reference(&origin.file) } });
    if origin.line > 0 {
        place["region"] = json!({ "startLine": origin.line });
    }
    json!({
        "ruleId": code.id,
        "level": word(code.level),
        "message": { "text": format!("{object}: {}\nFix: {}", finding.says(), code.fix) },
        "locations": [{
            "physicalLocation": place,
            "logicalLocations": [{ "fullyQualifiedName": object }],
        }],
    })
}

/// A path as a URI reference (RFC 3986, section 4.2).
fn reference(path: &str) -> String {
    let is_plain = |it: u8| it.is_ascii_alphanumeric() || b"-._~/".contains(&it);
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if is_plain(byte) { text.push(byte.into()) } else { text.push_str(&format!("%{byte:02X}")) }
    }
    text
}

/// SARIF's word.
fn word(level: Level) -> &'static str {
    match level {
        Level::Info => "note",
        Level::Warning => "warning",
        Level::Error => "error",
    }
}
