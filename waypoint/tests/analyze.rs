//! `waypoint analyze` as a shell sees it: what it prints where, and how it ends.

use std::fs;
use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};

const GOOD: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n";
const WARNED: &str = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: web, namespace: shop}, \
                      spec: {hosts: [web], http: [{redirect: {uri: /}}]}}\n";
const WRONG: &str = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: web, namespace: shop}, \
                     spec: {host: [web]}}\n";

fn analyze(arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_waypoint"))
        .arg("analyze")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut writer) = child.stdin.take() {
        // A program that does not read it may be gone by now.
        drop(writer.write_all(input.as_bytes()));
    }
    child.wait_with_output()
}

#[test]
fn the_exit_code_says_whether_there_is_anything_from_the_threshold_on() -> io::Result<()> {
    for (input, arguments, code) in [
        (GOOD, &["-"][..], 0),
        (WARNED, &["-"], 0),
        (WARNED, &["-", "--failure-threshold", "Warning"], 79),
        (WRONG, &["-"], 79),
        (WRONG, &["-", "--suppress", "IST0106=VirtualService web.*"], 0),
        (GOOD, &[], 64),
        (GOOD, &["-", "--failure-threshold", "Loud"], 64),
        (GOOD, &["/nowhere/at/all"], 65),
    ] {
        let output = analyze(arguments, input)?;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    }
    Ok(())
}

#[test]
fn what_is_below_the_output_threshold_counts_and_is_not_shown() -> io::Result<()> {
    let arguments = ["-", "--output-threshold", "Error", "--failure-threshold", "Warning"];
    let output = analyze(&arguments, WARNED)?;
    assert_eq!(output.status.code(), Some(79));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("EBB0014"), "{output:?}");
    Ok(())
}

/// Its field `hostz` is none.
const WRONG_JSON: &str = "{\n\t\"apiVersion\": \"networking.istio.io/v1\",\n\t\"kind\": \"VirtualService\",\n\t\"metadata\": \
                          {\"name\": \"c\", \"namespace\": \"shop\"},\n\t\"spec\": {\"hostz\": []}\n}\n";

#[test]
fn directories_are_looked_into_and_those_below_when_asked() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    fs::create_dir(directory.path().join("below"))?;
    fs::write(directory.path().join("a.yaml"), GOOD)?;
    fs::write(directory.path().join("notes.txt"), "no: [manifest")?;
    fs::write(directory.path().join("below/b.yml"), WRONG)?;
    let path = directory.path().to_string_lossy();
    assert_eq!(analyze(&[&path], "")?.status.code(), Some(0));
    let output = analyze(&[&path, "--recursive"], "")?;
    assert_eq!(output.status.code(), Some(79));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("{path}/below/b.yml:1")), "{text}");
    fs::write(directory.path().join("c.json"), WRONG_JSON)?;
    let output = analyze(&[&path], "")?;
    assert_eq!(output.status.code(), Some(79));
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("{path}/c.json:5")), "{output:?}");
    Ok(())
}
