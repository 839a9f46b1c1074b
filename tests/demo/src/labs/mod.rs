//! The labs: what a waypoint does with requests, one file of `deploy/examples/traffic` each.
//!
//! Made as the scenes are: each acts on the market and returns what it counted, and what is claimed of that is a pure
//! function. Where chance decides, the claim is a bound and says how often a correct system would break it.

mod breaker;
mod calls;
mod canary;
mod chance;
mod faults;
mod gateway;
mod guarded;
mod limit;
pub(crate) mod market;
mod matching;
mod mirror;
mod outlier;
mod paths;
mod patience;
mod sticky;
mod trace;

use crate::scenes::{Scene, nothing};

/// All of them, in any order.
pub(crate) const LABS: [Scene; 18] = [
    lab("canary", "A canary: a tenth of the requests for a new version", canary::play),
    lab("headers", "A header decides, in the middle of a chain", matching::play_headers),
    lab("user-agent", "An expression over the browser's name decides", matching::play_user_agent),
    lab("rewrite", "Old paths are rewritten to new ones", paths::play_rewrite),
    lab("redirect", "A page that moved is answered by the waypoint", paths::play_redirect),
    lab("delay", "Half of all requests are delayed on purpose", faults::play_delay),
    lab("abort", "Half of all requests are aborted on purpose", faults::play_abort),
    lab("timeout", "Nobody waits for a slow service longer than stated", patience::play_timeout),
    lab("retries", "Retries hide a service that fails now and then", patience::play_retries),
    lab("mirror", "A shadow gets every request, and nobody notices", mirror::play),
    lab("breaker", "A circuit breaker turns away what is too much", breaker::play),
    lab("outlier", "A pod that fails is left out, and comes back", outlier::play),
    lab("gateway", "A route of the Gateway API splits, and injects a fault", gateway::play),
    lab("policy-l7", "Who may do what is stated by method and path", guarded::play_policy),
    lab("jwt", "Tokens say whose request it is", guarded::play_jwt),
    lab("rate-limit", "Nobody gets more than is stated for each", limit::play),
    lab("sticky", "A cookie leads a session to its pod", sticky::play),
    lab("trace", "One trace along a chain shows where the time goes", trace::play),
];

const fn lab(name: &'static str, title: &'static str, play: crate::scenes::Play) -> Scene {
    Scene { name, title, prepare: nothing, play }
}

#[cfg(test)]
fn failing(facts: &dyn crate::screen::Facts) -> Vec<usize> {
    let claims = facts.claims();
    claims.iter().enumerate().filter(|(_, claim)| !claim.holds).map(|(at, _)| at).collect()
}
