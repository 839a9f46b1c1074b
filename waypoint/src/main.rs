//! Ebb's namespace proxy. `app` puts it together; see `waypoint --help` for its settings.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use common::settings::Program as _;
use waypoint::settings::Settings;

fn main() -> ExitCode {
    match waypoint::app::run(Settings::read()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("waypoint: {error:#}");
            ExitCode::FAILURE
        }
    }
}
