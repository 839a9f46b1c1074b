//! A crash: the caller's ztunnel is killed under load and started again.
//!
//! It is the caller's, because that is where a mesh could fail open: the pod's packets are there, and nobody is left to
//! seal them. The kernel programs stay and drop them; TCP tries again until a proxy listens. Connections that the killed
//! process held end with it, which no mesh can prevent: their callers are told, and call again.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{
    load::{CALLERS, Outage, Phases, beside_calls, under_load},
    screen::{Claim, Facts, Row},
    sight::{SERVER_PORT, Sight, TUNNEL_PORT},
    stage::{Application, CLIENT, READY, Stage, WEB_V2, marker, pause},
};

/// Load before the kill.
const BEFORE: Duration = Duration::from_millis(1000);

/// How long nobody starts it again.
const DEAD: Duration = Duration::from_millis(700);

/// Calls begun meanwhile, beside those of the load, which wait since the kill.
const LATE_CALLS: u32 = 40;

/// Load once it is ready again.
const AFTER: Duration = Duration::from_millis(2000);

struct Crash {
    node: String,
    pids: (i32, i32),
    away: Duration,
    phases: Phases,
    applications: (Vec<Application>, Vec<Application>),
    sight: Sight,
}

/// Kills and restarts the ztunnel of `client`'s node while `client` calls `web-v2`.
pub(super) fn play(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let marker = marker("card")?;
    let path = format!("/checkout?number={marker}");
    let before = stage.applications()?;
    stage.watch_wire()?;
    let (kubelet, ztunnel) = (&stage.kubelet, &mut stage.ztunnels[0]);
    let client = kubelet.replica(CLIENT.0, CLIENT.1)?.pod();
    let server = kubelet.replica(WEB_V2.0, WEB_V2.1)?.pod();
    let to = (server.addresses().v4, SERVER_PORT).into();
    let old = ztunnel.process().pid();
    let (mut calls, (late, outage)) = under_load(client, to, &path, || {
        pause(BEFORE)?;
        let killing = Instant::now();
        ztunnel.kill9()?;
        let dead = Instant::now();
        // The load's own callers wait since the moment of the kill; these begin, one after the other, when nothing is
        // left of the process.
        beside_calls((client, to, &path), LATE_CALLS, DEAD / LATE_CALLS, || {
            pause(DEAD)?;
            ztunnel.start_again()?;
            ztunnel.wait_ready(READY)?;
            let ready = Instant::now();
            pause(AFTER)?;
            Ok(Outage { killing, dead, ready })
        })
    })?;
    calls.extend(late);
    Ok(Box::new(Crash {
        node: ztunnel.node().name().to_owned(),
        pids: (old, ztunnel.process().pid()),
        away: outage.ready - outage.killing,
        phases: Phases::around(outage, &calls),
        applications: (before, stage.applications()?),
        sight: stage.sight(&marker)?,
    }))
}

impl Facts for Crash {
    fn rows(&self) -> Vec<Row> {
        let mut rows = vec![
            Row::fact("load", format!("{CALLERS} callers in client, each call a new connection to web-v2")),
            Row::fact(
                format!("ztunnel of {}", self.node),
                format!(
                    "pid {} killed with SIGKILL; pid {} ready {} ms later",
                    self.pids.0,
                    self.pids.1,
                    self.away.as_millis()
                ),
            ),
            Row::text(""),
            Row::text(format!("{:<28}{:>10}{:>10}{:>16}", "calls", "ok", "failed", "longest wait")),
        ];
        let Phases { before, cut, down, after } = self.phases;
        let phases = [
            ("before", before),
            ("under way at the kill", cut),
            ("begun while it was away", down),
            ("after", after),
        ];
        for (name, phase) in phases {
            let longest = format!("{:.1} ms", phase.longest.as_secs_f64() * 1000.0);
            rows.push(Row::text(format!("{name:<28}{:>10}{:>10}{longest:>16}", phase.ok, phase.failed)));
        }
        if cut.failed > 0 {
            rows.extend([
                Row::text(""),
                Row::fact(
                    "failed at the kill",
                    "their connections were open in the killed process and ended with it; their callers called again",
                ),
            ]);
        }
        rows.extend([
            Row::text(""),
            Row::fact("read between the nodes", self.sight.read()),
            Row::fact("packets there", self.sight.by_port()),
        ]);
        rows
    }

    fn claims(&self) -> Vec<Claim> {
        let Phases { before, down, after, .. } = &self.phases;
        let sealed = self.sight.is_sealed();
        let tunnelled = self.sight.packets(TUNNEL_PORT) > 0;
        vec![
            Claim::new("every call before the kill was answered", before.ok > 0 && before.failed == 0),
            Claim::new(
                "not a byte of any call was in the clear, least of all while it was away",
                sealed && tunnelled,
            ),
            Claim::new(
                format!("{} calls begun while it was away waited for it, and were answered", down.ok),
                down.ok >= LATE_CALLS as usize / 2 && down.failed == 0,
            ),
            Claim::new("every call after the restart was answered", after.ok > 0 && after.failed == 0),
            Claim::new("no application was restarted", self.applications.0 == self.applications.1),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Tally;

    fn failing(change: impl FnOnce(&mut Crash)) -> Vec<usize> {
        let tally = |ok, failed| Tally { ok, failed, longest: Duration::from_millis(3) };
        let phases =
            Phases { before: tally(400, 0), cut: tally(0, 4), down: tally(40, 0), after: tally(700, 0) };
        let mut facts = Crash {
            node: "node-1".into(),
            pids: (1, 2),
            away: Duration::from_millis(900),
            phases,
            applications: (Vec::new(), Vec::new()),
            sight: Sight { ports: [(15008, 5000)].into(), ..Sight::default() },
        };
        change(&mut facts);
        let claims = facts.claims();
        claims.iter().enumerate().filter(|(_, claim)| !claim.holds).map(|(at, _)| at).collect()
    }

    #[test]
    fn only_calls_under_way_may_be_lost() {
        assert!(failing(|_| {}).is_empty());
        assert_eq!(failing(|crash| crash.phases.before.failed = 1), [0]);
        assert_eq!(failing(|crash| crash.phases.down.failed = 1), [2]);
        assert_eq!(failing(|crash| crash.phases.down.ok = 4), [2], "too few to show anything");
        assert_eq!(failing(|crash| crash.phases.after.failed = 1), [3]);
    }

    #[test]
    fn a_phase_without_calls_proves_nothing() {
        assert_eq!(failing(|crash| crash.phases = Phases::default()), [0, 2, 3]);
    }

    #[test]
    fn one_packet_to_the_server_itself_is_a_leak() {
        assert_eq!(failing(|crash| _ = crash.sight.ports.insert(8080, 1)), [1]);
        assert_eq!(failing(|crash| crash.sight.readable = true), [1]);
        assert_eq!(failing(|crash| crash.sight = Sight::default()), [1]);
    }
}
