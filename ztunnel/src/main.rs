//! Ebb's node proxy. `app` puts it together; see `ztunnel --help` for its settings.

#![deny(unsafe_code)]

use std::process::ExitCode;

use common::manifests::command::unknown;
use common::settings::{Program as _, Settings};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let command = arguments.by_ref().nth(1).unwrap_or_default();
    if command == "explain" {
        return ztunnel::explain::run(std::iter::once("ztunnel explain".into()).chain(arguments));
    }
    if let Some(code) = unknown("ztunnel", &command, &["explain"]) {
        return code;
    }
    match ztunnel::app::run(Settings::read()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ztunnel: {error:#}");
            ExitCode::FAILURE
        }
    }
}
