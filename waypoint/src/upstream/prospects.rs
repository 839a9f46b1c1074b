//! Who of a destination's endpoints gets how much, for those who explain it.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use common::snapshot::model::Workload;

use super::Cluster;
use super::members::Member;

/// An endpoint of a destination.
#[derive(Debug, Clone)]
pub struct Prospect {
    /// Where to connect.
    pub address: SocketAddr,
    /// Who is there, when it is known.
    pub workload: Option<Arc<Workload>>,
    /// Its weight beside others.
    pub weight: NonZeroU32,
    /// How near it is, 0 being the nearest; `None` when nothing is sent there by choice.
    pub level: Option<usize>,
    /// Its part of the requests that are spread by chance or turn, of 1.
    pub portion: f64,
    /// Outlier detection has ejected it.
    pub ejected: bool,
}

impl Cluster {
    /// Its endpoints, by address.
    pub fn prospects(&self) -> Vec<Prospect> {
        let compiled = self.compiled();
        let candidates: Vec<_> = compiled.members.iter().map(Member::candidate).collect();
        let mut all: Vec<Prospect> = compiled.members.iter().map(prospect).collect();
        for (at, level) in compiled.choices.levels().iter().enumerate() {
            for share in level.shares(&candidates) {
                if let Some(prospect) = all.get_mut(share.candidate) {
                    prospect.level = Some(at);
                    prospect.portion = share.portion * level.percent() as f64 / 100.0;
                }
            }
        }
        all
    }
}

fn prospect(member: &Member) -> Prospect {
    Prospect {
        address: member.address,
        workload: member.workload.clone(),
        weight: member.weight,
        level: None,
        portion: 0.0,
        ejected: member.state.is_ejected(),
    }
}
