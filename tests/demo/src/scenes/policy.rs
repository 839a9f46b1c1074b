//! Policy by identity: who is allowed gets answers, who is not gets nothing, and the log says by which policy and why.
//!
//! Each policy turns away a caller that was answered a moment before, so that it is seen to change something. A refused
//! caller sees only a connection that ends. So every refusal is proved twice: no answer came, and the ztunnel of the
//! server's node wrote an access log line with that caller and the reason.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use harness::interrupt::wait_for;

use crate::{
    screen::{Claim, Facts, Row},
    stage::{CHANGE, CLIENT, INTRUDER, Name, OUTSIDE, Stage, WEB_V1, WEB_V2},
};

const DENY: Policy = Policy {
    file: "60-deny-intruder.yaml",
    yaml: include_str!("../../../../deploy/examples/two-nodes/60-deny-intruder.yaml"),
    says: "AuthorizationPolicy shop/web-not-intruder: the account intruder may not call web",
};

const ALLOW: Policy = Policy {
    file: "70-allow-client.yaml",
    yaml: include_str!("../../../../deploy/examples/two-nodes/70-allow-client.yaml"),
    says: "AuthorizationPolicy shop/web-from-client: nobody but the account client may",
};

const STRICT: Policy = Policy {
    file: "50-strict.yaml",
    yaml: include_str!("../../../../deploy/examples/two-nodes/50-strict.yaml"),
    says: "PeerAuthentication shop/strict: nothing in the clear",
};

/// Who is refused by each policy, where, and what the log has to say.
const REFUSALS: [Expected; 3] = [
    Expected { policy: STRICT, caller: OUTSIDE, server: WEB_V1, reason: "shop/strict" },
    Expected { policy: DENY, caller: INTRUDER, server: WEB_V2, reason: "shop/web-not-intruder" },
    Expected {
        policy: ALLOW,
        caller: WEB_V1,
        server: WEB_V2,
        reason: "allow policies exist, but none matched",
    },
];

/// How long the log may be behind the refusal.
const LOG: Duration = Duration::from_secs(2);

#[derive(Clone, Copy)]
struct Policy {
    file: &'static str,
    yaml: &'static str,
    says: &'static str,
}

#[derive(Clone, Copy)]
struct Expected {
    policy: Policy,
    caller: Name,
    server: Name,
    reason: &'static str,
}

struct Refused {
    expected: Expected,
    before: String,
    took: Duration,
    caller: IpAddr,
    outcome: String,
    line: String,
    client: String,
}

struct Decided {
    refusals: Vec<Refused>,
}

/// Applies one policy after the other, and calls as those allowed and as those not.
pub(super) fn play(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let refusals = REFUSALS.into_iter().map(|expected| refuse(stage, expected));
    Ok(Box::new(Decided { refusals: refusals.collect::<Result<_>>()? }))
}

fn refuse(stage: &mut Stage, expected: Expected) -> Result<Refused> {
    let Expected { policy, caller, server, reason } = expected;
    let before = outcome(stage, caller, server);
    let known = lines(stage, server, caller, reason)?.len();
    let applied = stage.apply(policy.file, policy.yaml)?;
    // In force once the reason is in the log: until then a caller may still be answered, or refused for another reason.
    let (outcome, took, line) = wait_for(&format!("refusal because of {reason}"), CHANGE, || {
        let outcome = outcome(stage, caller, server);
        let took = applied.elapsed();
        if outcome.starts_with("200") {
            return Ok(None);
        }
        let line = wait_for("log line", LOG / 10, || {
            Ok(lines(stage, server, caller, reason)?.into_iter().nth(known))
        });
        Ok(line.ok().map(|line| (outcome, took, line)))
    })?;
    let caller = stage.address(caller)?;
    let client = self::outcome(stage, CLIENT, server);
    Ok(Refused { expected, before, took, caller, outcome, line, client })
}

/// What the caller gets, in words: a status, or how the connection ended.
fn outcome(stage: &Stage, caller: Name, server: Name) -> String {
    match stage.call(caller, server, "/orders") {
        Ok(reply) => reply.status.to_string(),
        Err(error) => format!("no answer: {}", error.root_cause()),
    }
}

/// Access log lines about refusals of `caller` for `reason`, on the node of `server`.
fn lines(stage: &Stage, server: Name, caller: Name, reason: &str) -> Result<Vec<String>> {
    let node = usize::from(stage.pod(server)?.node().number()) - 1;
    let from = format!("src.addr={}:", stage.address(caller)?);
    let lines = stage.ztunnels[node].log_lines(reason)?;
    Ok(lines.into_iter().filter(|line| is_refusal(line, &from, reason)).collect())
}

fn is_refusal(line: &str, from: &str, reason: &str) -> bool {
    let error = line.split_once("error=").map_or("", |(_, error)| error);
    line.contains("\taccess\t") && line.contains(from) && error.contains(reason)
}

impl Facts for Decided {
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for refused in &self.refusals {
            let Expected { policy, caller, server, .. } = refused.expected;
            if !rows.is_empty() {
                rows.push(Row::text(""));
            }
            rows.push(Row::fact(policy.file, policy.says));
            let call = format!("{} calls {}", caller.1, server.1);
            rows.push(Row::fact(call, format!("{} before", refused.before)));
            let after = format!("{}, {} ms after it", refused.outcome, refused.took.as_millis());
            rows.push(Row::fact("", after));
            rows.push(Row::fact(format!("client calls {}", server.1), refused.client.clone()));
            rows.push(Row::text("log of the server's node:"));
            // As it was written, in one line, for whoever wants to copy it.
            rows.push(Row::text(refused.line.clone()));
        }
        rows
    }

    fn claims(&self) -> Vec<Claim> {
        let mut claims: Vec<_> = self.refusals.iter().map(Refused::claim).collect();
        let allowed = self.refusals.iter().all(|refused| refused.client == "200");
        claims.push(Claim::new("client, which every one of them allows, gets 200 throughout", allowed));
        claims
    }
}

impl Refused {
    fn claim(&self) -> Claim {
        let Expected { policy, caller, reason, .. } = self.expected;
        let name = policy.says.split(':').next().unwrap_or_default();
        let logged = is_refusal(&self.line, &format!("src.addr={}:", self.caller), reason);
        let holds = self.before == "200" && self.outcome.starts_with("no answer") && logged;
        Claim::new(
            format!("{}, answered before, is refused under {name}, and the log says why", caller.1),
            holds,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided() -> Decided {
        let refused = |expected: Expected| Refused {
            expected,
            before: "200".into(),
            took: Duration::from_millis(30),
            caller: "10.244.1.3".parse().unwrap(),
            outcome: "no answer: closed".into(),
            line: format!(
                "t\terror\taccess\tconnection complete\tsrc.addr=10.244.1.3:4 error=\"{}\"",
                expected.reason
            ),
            client: "200".into(),
        };
        Decided { refusals: REFUSALS.into_iter().map(refused).collect() }
    }

    fn failing(change: impl FnOnce(&mut Vec<Refused>)) -> Vec<usize> {
        let mut decided = decided();
        change(&mut decided.refusals);
        let claims = decided.claims();
        claims.iter().enumerate().filter(|(_, claim)| !claim.holds).map(|(at, _)| at).collect()
    }

    #[test]
    fn refusals_with_their_reason_bear_out_every_claim() {
        assert!(failing(|_| {}).is_empty());
    }

    #[test]
    fn an_answer_or_a_log_without_the_reason_fails() {
        assert_eq!(failing(|refusals| refusals[0].outcome = "200".into()), [0]);
        assert_eq!(failing(|refusals| refusals[1].line = refusals[0].line.clone()), [1]);
        assert_eq!(
            failing(|refusals| refusals[1].before = "no answer: reset".into()),
            [1],
            "it changed nothing"
        );
        assert_eq!(failing(|refusals| refusals[2].caller = "10.244.1.9".parse().unwrap()), [2]);
        assert_eq!(failing(|refusals| refusals[2].client = "no answer: reset".into()), [3]);
    }

    #[test]
    fn a_line_that_only_mentions_the_reason_is_no_refusal() {
        let reason = "shop/strict";
        assert!(!is_refusal(
            "t\tinfo\tconfig\tread shop/strict src.addr=10.0.0.1:1",
            "src.addr=10.0.0.1:",
            reason
        ));
        assert!(!is_refusal(
            "t\terror\taccess\tx\tsrc.addr=10.0.0.1:1 error=\"other\"",
            "src.addr=10.0.0.1:",
            reason
        ));
    }
}
