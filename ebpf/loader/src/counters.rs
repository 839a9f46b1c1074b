//! Counters of verdicts, summed over cpus.

use std::collections::BTreeMap;

use aya::maps::{MapData, MapError, PerCpuArray};
use ebb_abi::{Hook, Verdict, counter_index};

/// How many packets left each hook by each verdict. Verdicts never seen are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<(Hook, Verdict), u64>);

impl Counters {
    pub(crate) fn read(map: &PerCpuArray<MapData, u64>) -> Result<Self, MapError> {
        let mut counts = BTreeMap::new();
        for hook in Hook::ALL {
            for &verdict in Verdict::ALL {
                let packets: u64 = map.get(&counter_index(hook, verdict), 0)?.iter().sum();
                if packets > 0 {
                    counts.insert((hook, verdict), packets);
                }
            }
        }
        Ok(Self(counts))
    }

    /// Packets that left `hook` by `verdict`.
    pub fn get(&self, hook: Hook, verdict: Verdict) -> u64 {
        self.0.get(&(hook, verdict)).copied().unwrap_or(0)
    }

    /// Packets that left by `verdict` at any hook.
    pub fn of(&self, verdict: Verdict) -> u64 {
        Hook::ALL.into_iter().map(|hook| self.get(hook, verdict)).sum()
    }

    /// Everything counted, by hook and verdict.
    pub fn iter(&self) -> impl Iterator<Item = (Hook, Verdict, u64)> + '_ {
        self.0.iter().map(|(&(hook, verdict), &packets)| (hook, verdict, packets))
    }

    /// Adds another pod's counts to these.
    pub fn add(&mut self, other: &Self) {
        for (hook, verdict, packets) in other.iter() {
            *self.0.entry((hook, verdict)).or_default() += packets;
        }
    }
}
