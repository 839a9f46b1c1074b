//! `ztunnel explain`: what would become of a connection, by which object of which file.
//!
//! Asks the very functions that decide for live connections, of the mesh that the manifests make; so it knows policies,
//! routes and waypoints, and nothing of what runs. What a waypoint makes of a request is for `waypoint explain` to say.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use common::explain::connection::{NotThere, Reached, Teller, has_port};
use common::explain::{Explanation, Verdict};
use common::manifests::Manifests;
use common::manifests::command::{self, Question};

/// Says what would become of a connection, and which object of which file decides it.
#[derive(Debug, Parser)]
#[command(name = "ztunnel explain", version)]
struct Arguments {
    #[command(flatten)]
    question: Question,
}

/// Runs the command; the arguments begin with its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    command::run(arguments, |Arguments { question }| {
        question.answer(|manifests| explain(manifests, &question.from, &question.to))
    })
}

/// Tells what becomes of a connection.
///
/// # Errors
/// There is no such pod, or no such destination.
pub fn explain(manifests: &Manifests, from: &str, to: &str) -> Result<(Explanation, Verdict), NotThere> {
    let sight = manifests.sight();
    let caller = sight.pod(from)?;
    let (service, original) = sight.called(caller, to)?;
    let mut teller = Teller::new(sight, caller);
    teller.ends(service.map(|it| &**it), original);
    let verdict = match (teller.connect(original), service) {
        // Whatever the waypoint does with requests, for this it has none to ask.
        (Reached::Waypoint { bound, .. }, Some(service)) if !has_port(service, original.port()) => {
            let port = original.port();
            Verdict::Refused(format!(
                "{} has no port {port}: the waypoint {} turns it away",
                service.hostname, bound.gateway
            ))
        }
        (reached, _) => reached.verdict(),
    };
    Ok((teller.told, verdict))
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
