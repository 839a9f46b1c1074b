//! What a cluster's members and policy amount to: who may be chosen, in what parts, and the tables for those ways of
//! balancing that need no turn to be remembered.
//!
//! Never changed: an ejection, a return or a change of configuration makes another. Tables are built when first asked
//! for, because most clusters of a mesh are never asked, and a large one takes milliseconds.

use std::net::SocketAddr;
use std::sync::OnceLock;

use common::balance::hash_key::{Cookie, HashPolicy};
use common::balance::locality::{Candidate, Level, Plan, plan};
use common::balance::maglev::{Maglev, TableSize};
use common::balance::random::Random;
use common::balance::ring_hash::Ring;
use common::config::destination::balance::{Algorithm, ConsistentHash, HashKey, HashTable};
use rand::Rng;

use super::members::{Here, Member};
use super::policy::EffectivePolicy;

/// Who may be chosen.
#[derive(Debug)]
pub(super) struct Choices {
    plan: Plan,
    /// For each level.
    tables: Box<[OnceLock<Table>]>,
}

#[derive(Debug)]
enum Table {
    Ring(Ring),
    Maglev(Maglev),
    /// Which group, then which of its members.
    Random(Random, Box<[Random]>),
}

impl Choices {
    pub(super) fn new(members: &[Member], here: &Here, policy: &EffectivePolicy) -> Self {
        let plan = plan(&candidates(members), here.place(), &policy.locality);
        let tables = plan.levels().iter().map(|_| OnceLock::new()).collect();
        Self { plan, tables }
    }

    /// The level for a request that is neither hashed nor tied to an address: by chance, or the first that has somebody
    /// and none of those it is to keep far from.
    pub(super) fn level_for(
        &self,
        far_from: &[SocketAddr],
        members: &[Member],
        rng: &mut impl Rng,
    ) -> Option<usize> {
        let near = |level: &Level| {
            let mut all = level.groups.iter().flat_map(|it| &it.members);
            all.any(|at| far_from.contains(&members[*at].address))
        };
        let further = || self.levels().iter().position(|it| !it.groups.is_empty() && !near(it));
        // When there is nowhere else, where it is preferred.
        let further = if far_from.is_empty() { None } else { further() };
        further.or_else(|| self.plan.position(rng.random()))
    }

    /// Every level.
    pub(super) fn levels(&self) -> &[Level] {
        self.plan.levels()
    }

    /// Whether a table was ever asked for.
    pub(super) fn is_used(&self) -> bool {
        self.tables.iter().any(|it| it.get().is_some())
    }

    /// Builds every table now, so that no request waits for it.
    pub(super) fn build(&self, members: &[Member], policy: &EffectivePolicy) {
        (0..self.tables.len()).for_each(|at| {
            self.table(at, members, policy);
        });
    }

    fn table(&self, at: usize, members: &[Member], policy: &EffectivePolicy) -> Option<&Table> {
        let (cell, level) = (self.tables.get(at)?, self.plan.levels().get(at)?);
        Some(cell.get_or_init(|| Table::build(level, members, policy)))
    }

    /// The member that a hash leads to.
    pub(super) fn by_hash(&self, hash: u64, members: &[Member], policy: &EffectivePolicy) -> Option<usize> {
        match self.table(self.plan.position(hash)?, members, policy)? {
            Table::Ring(ring) => ring.choose(hash),
            Table::Maglev(table) => table.choose(hash),
            Table::Random(..) => None,
        }
    }

    /// The group of a level that chance chooses.
    pub(super) fn group(
        &self,
        level: usize,
        members: &[Member],
        policy: &EffectivePolicy,
        rng: &mut impl Rng,
    ) -> Option<usize> {
        match self.plan.levels().get(level)?.groups.len() {
            0 => None,
            1 => Some(0),
            _ => match self.table(level, members, policy)? {
                Table::Random(groups, _) => groups.choose(rng),
                Table::Ring(_) | Table::Maglev(_) => None,
            },
        }
    }

    /// The member that chance chooses.
    pub(super) fn by_chance(
        &self,
        far_from: &[SocketAddr],
        members: &[Member],
        policy: &EffectivePolicy,
        rng: &mut impl Rng,
    ) -> Option<usize> {
        let at = self.level_for(far_from, members, rng)?;
        let group = self.group(at, members, policy, rng)?;
        let Table::Random(_, within) = self.table(at, members, policy)? else { return None };
        self.levels().get(at)?.groups.get(group)?.members.get(within.get(group)?.choose(rng)?).copied()
    }
}

fn candidates(members: &[Member]) -> Vec<Candidate<'_>> {
    members.iter().map(Member::candidate).collect()
}

impl Table {
    fn build(level: &Level, members: &[Member], policy: &EffectivePolicy) -> Self {
        let Algorithm::ConsistentHash(ConsistentHash { table, .. }) = &policy.algorithm else {
            let weight = |at: &usize| f64::from(members[*at].weight.get());
            let within = level.groups.iter().map(|group| Random::new(group.members.iter().map(weight)));
            let groups = Random::new(level.groups.iter().map(|it| it.weight));
            return Self::Random(groups, within.collect());
        };
        let shares = level.shares(&candidates(members));
        match table {
            HashTable::Ring(entries) => Self::Ring(Ring::build(&shares, u64::from(*entries))),
            // The decoder lets primes through only, and the default is one.
            HashTable::Maglev(slots) => {
                let size = TableSize::new(u64::from(*slots)).unwrap_or_default();
                Self::Maglev(Maglev::build(&shares, size))
            }
        }
    }
}

/// What of a request is hashed.
pub(super) fn hash_policy(hash: &ConsistentHash) -> HashPolicy {
    match &hash.key {
        HashKey::Header(name) => HashPolicy::Header(name.clone()),
        HashKey::Cookie(cookie) => HashPolicy::Cookie(Cookie {
            name: cookie.name.clone(),
            ttl: cookie.ttl,
            path: cookie.path.clone(),
            attributes: cookie.attributes.clone(),
        }),
        HashKey::SourceAddress => HashPolicy::SourceAddress,
        HashKey::QueryParameter(name) => HashPolicy::QueryParameter(name.clone()),
    }
}
