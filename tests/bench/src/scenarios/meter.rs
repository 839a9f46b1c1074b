//! Reads the CPU accounts around a sample: what the proxies spent, and what everybody did.

use std::time::Duration;

use anyhow::Result;
use harness::cgroup::Cgroup;

use crate::systems::Running;

/// CPU time spent in one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spent {
    /// By both proxies.
    pub(super) proxies: Duration,
    /// By proxies, client and server together.
    pub(super) total: Duration,
}

/// The accounts as they were when a sample began.
#[derive(Debug)]
pub(super) struct Meter {
    proxies: (Cgroup, Duration),
    others: Vec<(Cgroup, Duration)>,
}

impl Meter {
    /// Reads the accounts of `running`.
    pub(super) fn start(running: &Running) -> Result<Self> {
        let read = |role: &str| -> Result<_> {
            let account = running.stage.role(role)?;
            let cpu = account.cpu()?;
            Ok((account, cpu))
        };
        let others = [crate::systems::CLIENT, crate::systems::SERVER].map(read);
        Ok(Self { proxies: read(crate::systems::PROXY)?, others: others.into_iter().collect::<Result<_>>()? })
    }

    /// Reads them again.
    pub(super) fn stop(&self) -> Result<Spent> {
        let since = |(account, before): &(Cgroup, Duration)| {
            Ok::<_, anyhow::Error>(account.cpu()?.saturating_sub(*before))
        };
        let proxies = since(&self.proxies)?;
        let others = self.others.iter().map(since).sum::<Result<Duration>>()?;
        Ok(Spent { proxies, total: proxies + others })
    }
}
