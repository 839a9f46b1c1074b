//! Ebb's node proxy. `app` puts it together; see `ztunnel --help` for its settings.

#![deny(unsafe_code)]

use std::process::ExitCode;

use common::settings::{Program as _, Settings};

fn main() -> ExitCode {
    match ztunnel::app::run(Settings::read()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ztunnel: {error:#}");
            ExitCode::FAILURE
        }
    }
}
