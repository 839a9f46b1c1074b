//! `waypoint explain`: what would become of a request, by which object of which file.
//!
//! Asks the very functions that decide for live requests, in the order in which they are asked, of the mesh that the
//! manifests make; so it knows routes, policies and destinations, and nothing of what runs. Where chance decides it tells
//! the odds. Keys of issuers are not fetched: what depends on them is said to.

mod asked;
mod bound;
mod onward;
mod stand;
#[cfg(test)]
mod tests;
mod towards;
mod walk;
mod words;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use common::explain::connection::{NotThere, Reached, Teller};
use common::explain::{Explanation, Verdict};
use common::manifests::Manifests;
use common::manifests::command::{self, Question};

pub use self::asked::Asked;
use self::stand::Stand;
use self::walk::Walk;

/// Says what would become of a request, and which object of which file decides it.
#[derive(Debug, Parser)]
#[command(name = "waypoint explain", version)]
struct Arguments {
    #[command(flatten)]
    question: Question,
    /// The method of the request
    #[arg(long, short = 'X', default_value = "GET")]
    method: String,
    /// Path and query of the request
    #[arg(long, default_value = "/", value_parser = asked::path)]
    path: String,
    /// A header of the request; the authority, where `host` is not among them, is what is called
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = asked::header)]
    header: Vec<(String, String)>,
    /// A token that the request carries as `authorization: Bearer`
    #[arg(long, value_name = "TOKEN")]
    jwt: Option<String>,
    /// The server name of a connection by TLS, instead of a request
    #[arg(long, value_name = "NAME", conflicts_with_all = ["header", "jwt"])]
    sni: Option<String>,
}

/// Runs the command; the arguments begin with its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    command::run(arguments, |arguments: Arguments| {
        let Arguments { question, method, path, header: mut headers, jwt, sni } = arguments;
        headers.extend(jwt.map(|it| ("authorization".to_owned(), format!("Bearer {it}"))));
        let asked = Asked { method, path, headers, server_name: sni };
        question.answer(|manifests| explain(manifests, (&question.from, &question.to), &asked))
    })
}

/// Tells what becomes of a request by a pod to `HOST:PORT`.
///
/// # Errors
/// There is no such pod, or no such destination.
pub fn explain(
    manifests: &Manifests,
    (from, to): (&str, &str),
    asked: &Asked,
) -> Result<(Explanation, Verdict), NotThere> {
    let sight = manifests.sight();
    let caller = sight.pod(from)?;
    let (service, original) = sight.called(caller, to)?;
    let mut teller = Teller::new(sight, caller);
    teller.ends(service.map(|it| &**it), original);
    bound::tell(manifests, service, &mut teller);
    let verdict = match teller.connect(original) {
        Reached::Verdict(verdict) => verdict,
        Reached::Waypoint { waypoint, bound, authority } => {
            let stand = Stand::new(manifests, bound.gateway, waypoint);
            let walk = Walk { sight, stand: &stand, caller, original: authority };
            walk.tell(asked, to, &mut teller)
        }
    };
    Ok((teller.told, verdict))
}
