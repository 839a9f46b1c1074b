//! Reads the CPU accounts around a sample: what the proxies spent, and what everybody did.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::cgroup::Cgroup;

use crate::systems::{CLIENT, Running, SERVER};

/// CPU time spent in one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spent {
    /// By all proxies.
    pub(super) proxies: Duration,
    /// By the one that routes; nothing where none does.
    pub(super) router: Option<Duration>,
    /// By proxies, client and server together.
    pub(super) total: Duration,
}

/// An account and what stood in it when a sample began.
type Account = (Cgroup, Duration);

/// The accounts as they were when a sample began.
#[derive(Debug)]
pub(super) struct Meter {
    proxies: Vec<Account>,
    router: Option<usize>,
    others: Vec<Account>,
}

impl Meter {
    /// Reads the accounts of `running`.
    pub(super) fn start(running: &Running) -> Result<Self> {
        let proxies = running.proxies.iter().map(|proxy| Ok(proxy.process().role().clone()));
        let others = [CLIENT, SERVER].map(|role| running.stage.role(role));
        Ok(Self { proxies: opened(proxies)?, router: running.router, others: opened(others)? })
    }

    /// Reads them again.
    ///
    /// # Errors
    /// A proxy has spent nothing, so that the traffic did not go through it.
    pub(super) fn stop(&self) -> Result<Spent> {
        let proxies = self.proxies.iter().map(since).collect::<Result<Vec<_>>>()?;
        ensure!(proxies.iter().all(|spent| !spent.is_zero()), "the traffic went past a proxy");
        let others = self.others.iter().map(since).sum::<Result<Duration>>()?;
        let router = self.router.and_then(|router| proxies.get(router).copied());
        let proxies = proxies.into_iter().sum();
        Ok(Spent { proxies, router, total: proxies + others })
    }
}

fn opened(accounts: impl IntoIterator<Item = Result<Cgroup>>) -> Result<Vec<Account>> {
    let open = |account: Result<Cgroup>| -> Result<Account> {
        let account = account?;
        let cpu = account.cpu()?;
        Ok((account, cpu))
    };
    accounts.into_iter().map(open).collect()
}

fn since((account, before): &Account) -> Result<Duration> {
    Ok(account.cpu()?.saturating_sub(*before))
}
