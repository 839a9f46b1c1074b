//! Ebb's namespace proxy. `app` puts it together; see `waypoint --help` for its settings.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use common::manifests::command::unknown;
use common::settings::Program as _;
use waypoint::settings::Settings;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let command = arguments.by_ref().nth(1).unwrap_or_default();
    if command == "analyze" {
        return waypoint::analyze::run(std::iter::once("waypoint analyze".into()).chain(arguments));
    }
    if command == "explain" {
        return waypoint::explain::run(std::iter::once("waypoint explain".into()).chain(arguments));
    }
    if let Some(code) = unknown("waypoint", &command, &["analyze", "explain"]) {
        return code;
    }
    match waypoint::app::run(Settings::read()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("waypoint: {error:#}");
            ExitCode::FAILURE
        }
    }
}
