//! Reads the CPU accounts around a sample: what each proxy spent, and what everybody did.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::cgroup::Cgroup;

use crate::{
    results::{OF_ROLE, Sample},
    systems::{CLIENT, Running, SERVER},
};

/// CPU time spent in one sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spent {
    /// By each proxy, under the name of its role.
    pub(super) proxies: Vec<(String, Duration)>,
    /// Which of them routes; none where none does.
    pub(super) router: Option<usize>,
    /// By the client and by the server.
    pub(super) others: [Duration; 2],
}

impl Spent {
    /// By all proxies together.
    pub(super) fn by_proxies(&self) -> Duration {
        self.proxies.iter().map(|(_, spent)| *spent).sum()
    }

    /// By proxies, client and server together.
    pub(super) fn total(&self) -> Duration {
        self.by_proxies() + self.others.iter().sum::<Duration>()
    }

    /// All of it for each of `units` units of work, multiplied by `scale` from seconds into the figure's unit.
    pub(super) fn each(&self, units: f64, scale: f64) -> Sample {
        let each = |spent: Duration| spent.as_secs_f64() * scale / units;
        let mut sample = Sample::new();
        sample.insert("cpu".into(), each(self.by_proxies()));
        sample.insert("cpu_total".into(), each(self.total()));
        let router = self.router.and_then(|router| self.proxies.get(router));
        sample.extend(router.map(|(_, spent)| ("cpu_router".to_owned(), each(*spent))));
        let others = [CLIENT, SERVER].into_iter().zip(self.others);
        let roles = self.proxies.iter().map(|(name, spent)| (name.as_str(), *spent)).chain(others);
        sample.extend(roles.map(|(name, spent)| (format!("{OF_ROLE}{name}"), each(spent))));
        sample
    }
}

/// An account and what stood in it when a sample began.
type Account = (Cgroup, Duration);

/// The accounts as they were when a sample began.
#[derive(Debug)]
pub(super) struct Meter {
    names: Vec<String>,
    proxies: Vec<Account>,
    router: Option<usize>,
    others: [Account; 2],
}

impl Meter {
    /// Reads the accounts of `running`.
    pub(super) fn start(running: &Running) -> Result<Self> {
        let names = running.proxies.iter().map(|proxy| proxy.process().name().to_owned()).collect();
        let proxies = running.proxies.iter().map(|proxy| open(proxy.process().role().clone()));
        let role = |name| running.stage.role(name).and_then(open);
        Ok(Self {
            names,
            proxies: proxies.collect::<Result<_>>()?,
            router: running.router,
            others: [role(CLIENT)?, role(SERVER)?],
        })
    }

    /// Reads them again.
    ///
    /// # Errors
    /// A proxy has spent nothing, so that the traffic did not go through it.
    pub(super) fn stop(&self) -> Result<Spent> {
        let proxies = self.proxies.iter().map(since).collect::<Result<Vec<_>>>()?;
        ensure!(proxies.iter().all(|spent| !spent.is_zero()), "the traffic went past a proxy");
        let [client, server] = &self.others;
        Ok(Spent {
            proxies: self.names.iter().cloned().zip(proxies).collect(),
            router: self.router,
            others: [since(client)?, since(server)?],
        })
    }
}

fn open(account: Cgroup) -> Result<Account> {
    let cpu = account.cpu()?;
    Ok((account, cpu))
}

fn since((account, before): &Account) -> Result<Duration> {
    Ok(account.cpu()?.saturating_sub(*before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_is_told_for_one_unit_of_work() {
        let spent = Spent {
            proxies: vec![
                ("ztunnel-1".into(), Duration::from_millis(10)),
                ("waypoint".into(), Duration::from_millis(30)),
            ],
            router: Some(1),
            others: [Duration::from_millis(5), Duration::from_millis(15)],
        };
        let sample = spent.each(1000.0, 1e6);
        let value = |part: &str| sample[part].round();
        assert_eq!((value("cpu"), value("cpu_router"), value("cpu_total")), (40.0, 30.0, 60.0));
        assert_eq!((value("cpu:ztunnel-1"), value("cpu:client"), value("cpu:server")), (10.0, 5.0, 15.0));
    }
}
