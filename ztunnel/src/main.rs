//! Ebb's node proxy. `app` puts it together; see `ztunnel --help` for its settings.

#![deny(unsafe_code)]

use std::process::ExitCode;

use common::settings::{Program as _, Settings};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if arguments.by_ref().nth(1).is_some_and(|it| it == "explain") {
        return ztunnel::explain::run(std::iter::once("ztunnel explain".into()).chain(arguments));
    }
    match ztunnel::app::run(Settings::read()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ztunnel: {error:#}");
            ExitCode::FAILURE
        }
    }
}
