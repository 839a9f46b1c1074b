//! Which endpoints come into question, in what order of preference and in what parts (Istio `localityLbSetting`,
//! `outlierDetection.minHealthPercent`).
//!
//! Two kinds of rule exclude each other. `distribute` gives places their parts of the traffic; endpoints elsewhere get
//! none. `failover` orders endpoints by how near they are, and the next level takes what the ones before cannot. It
//! needs outlier detection: without it nothing would ever be found to have failed, and a level would take all or none.
//!
//! Unlike istiod, which leaves it to a map's order, the most specific pattern decides where several name a place; and
//! consistent hashing, too, sends a place less when much of it is ejected.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::Share;
use super::priority::{Headcount, OVERPROVISIONING_PERCENT, loads};
use crate::config::Labels;
use crate::snapshot::model::Locality;

/// Where a workload is.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its region, zone and subzone.
    pub locality: &'a Locality,
    /// Its labels, for `failoverPriority`. Those of its topology need not be among them.
    pub labels: &'a Labels,
}

/// An endpoint that is ready and serves the port.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Where to connect.
    pub address: SocketAddr,
    /// Its weight beside others of its group (`WorkloadEntry.weight`).
    pub weight: NonZeroU32,
    /// Where it is.
    pub place: Place<'a>,
    /// Whether outlier detection has ejected it.
    pub ejected: bool,
}

/// What the operator asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// `localityLbSetting`.
    pub preference: Preference,
    /// Whether there is an `outlierDetection`.
    pub detects_outliers: bool,
    /// `outlierDetection.minHealthPercent`, 0 to 100: with less available ejected endpoints are used too; 0 never.
    pub panic_percent: u8,
}

/// `localityLbSetting`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Preference {
    /// `enabled: false`: all endpoints are alike.
    #[default]
    None,
    /// `distribute`; the first whose `from` fits the caller counts.
    Distribute(Box<[Distribute]>),
    /// `failover` and `failoverPriority`, either of which may be empty.
    Failover(Failover),
}

/// One entry of `distribute`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribute {
    /// `from`: callers it is for.
    pub from: Pattern,
    /// `to`: places and their parts.
    pub to: Box<[(Pattern, NonZeroU32)]>,
}

/// Order by nearness.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failover {
    /// `failover`: from region to region. Other regions come after the one named here.
    pub regions: Box<[(Arc<str>, Arc<str>)]>,
    /// `failoverPriority`: an endpoint is the nearer the more of these, from the first on, it has in common with the
    /// caller.
    pub labels: Box<[LabelMatch]>,
}

/// One entry of `failoverPriority`: `key`, or `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMatch {
    key: Arc<str>,
    value: Option<Arc<str>>,
}

impl LabelMatch {
    /// Reads an entry as it is written.
    pub fn parse(text: &str) -> Self {
        match text.split_once('=') {
            Some((key, value)) => Self { key: key.into(), value: Some(value.into()) },
            None => Self { key: text.into(), value: None },
        }
    }

    /// Whether an endpoint has the value asked for, or the caller's. What neither has they have in common.
    fn fits(&self, caller: Place<'_>, endpoint: Place<'_>) -> bool {
        let wanted = self.value.as_deref().unwrap_or_else(|| caller.label(&self.key));
        endpoint.label(&self.key) == wanted
    }
}

/// A place as `distribute` names it: `region/zone/subzone`, any part of which may be `*` or, from the end, left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    region: Option<Arc<str>>,
    zone: Option<Arc<str>>,
    subzone: Option<Arc<str>>,
}

impl Pattern {
    /// Reads a pattern as it is written.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(|part| (part != "*").then(|| part.into()));
        let region = parts.next().flatten();
        let mut narrower = || parts.next().flatten().filter(|part: &Arc<str>| !part.is_empty());
        Self { region, zone: narrower(), subzone: narrower() }
    }

    fn fits(&self, locality: &Locality) -> bool {
        let within = |want: &Option<Arc<str>>, is: &Arc<str>| want.as_ref().is_none_or(|want| want == is);
        within(&self.region, &locality.region)
            && within(&self.zone, &locality.zone)
            && within(&self.subzone, &locality.subzone)
    }

    /// How many parts it states.
    fn precision(&self) -> usize {
        [&self.region, &self.zone, &self.subzone].into_iter().flatten().count()
    }
}

impl<'a> Place<'a> {
    /// A label, empty when there is none.
    fn label(&self, key: &str) -> &'a str {
        match key {
            "topology.kubernetes.io/region" => &self.locality.region,
            "topology.kubernetes.io/zone" => &self.locality.zone,
            "topology.istio.io/subzone" => &self.locality.subzone,
            _ => self.labels.get(key).map_or("", |value| value),
        }
    }
}

/// The endpoints in question, in order of preference.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    levels: Vec<Level>,
}

/// Endpoints of one preference.
#[derive(Debug, Clone, PartialEq)]
pub struct Level {
    /// Its part of the traffic.
    percent: u64,
    /// Whether so little of it is available that ejected endpoints are used too (`healthy_panic`).
    pub panicking: bool,
    /// Those that may be chosen. None of them is empty; there are none when nobody may be chosen (flag `UH`).
    pub groups: Vec<Group>,
}

/// Endpoints of which each is as good as another.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The group's weight beside the level's others.
    pub weight: f64,
    /// Positions of the endpoints among the candidates, at least one.
    pub members: Vec<usize>,
}

/// Decides. The plan holds until the candidates, an ejection or the rules change.
pub fn plan(candidates: &[Candidate<'_>], caller: Place<'_>, rules: &Rules) -> Plan {
    let levels = match &rules.preference {
        Preference::Distribute(entries) => match entries.iter().find(|it| it.from.fits(caller.locality)) {
            Some(entry) => vec![distribute(candidates, &entry.to)],
            None => together(candidates),
        },
        Preference::Failover(failover) if rules.detects_outliers => order(candidates, caller, failover),
        Preference::Failover(_) | Preference::None => together(candidates),
    };
    let headcount = |level: &Vec<Group>| {
        let members = || level.iter().flat_map(|group| &group.members);
        let available = members().filter(|at| !candidates[**at].ejected).count();
        Headcount { available, all: members().count() }
    };
    let heads: Vec<Headcount> = levels.iter().map(headcount).collect();
    let loads = loads(&heads, usize::from(rules.panic_percent));
    let levels = levels.into_iter().zip(loads).map(|(groups, load)| Level {
        percent: load.percent as u64,
        panicking: load.panicking,
        groups: if load.panicking { merge(groups) } else { available(groups, candidates) },
    });
    Plan { levels: levels.collect() }
}

fn everyone(members: Vec<usize>) -> Vec<Group> {
    vec![Group { weight: 1.0, members }]
}

fn together(candidates: &[Candidate<'_>]) -> Vec<Vec<Group>> {
    vec![everyone((0..candidates.len()).collect())]
}

/// One group for each place that is named.
fn distribute(candidates: &[Candidate<'_>], to: &[(Pattern, NonZeroU32)]) -> Vec<Group> {
    let mut groups: Vec<Group> =
        to.iter().map(|(_, weight)| Group { weight: f64::from(weight.get()), members: Vec::new() }).collect();
    for (at, candidate) in candidates.iter().enumerate() {
        let fitting =
            to.iter().enumerate().filter(|(_, (pattern, _))| pattern.fits(candidate.place.locality));
        // Of equally specific ones the first: max_by_key would take the last.
        if let Some((group, _)) = fitting.rev().max_by_key(|(_, (pattern, _))| pattern.precision()) {
            groups[group].members.push(at);
        }
    }
    groups
}

/// One level for each degree of nearness that occurs.
fn order(candidates: &[Candidate<'_>], caller: Place<'_>, failover: &Failover) -> Vec<Vec<Group>> {
    let mut levels: BTreeMap<(usize, u8), Vec<usize>> = BTreeMap::new();
    for (at, candidate) in candidates.iter().enumerate() {
        levels.entry(distance(candidate.place, caller, failover)).or_default().push(at);
    }
    levels.into_values().map(everyone).collect()
}

/// By labels first, and by place when no labels are named, or regions are.
fn distance(endpoint: Place<'_>, caller: Place<'_>, failover: &Failover) -> (usize, u8) {
    let labels = &failover.labels;
    let shared = labels.iter().take_while(|label| label.fits(caller, endpoint)).count();
    let by_place = labels.is_empty() || !failover.regions.is_empty();
    (
        labels.len() - shared,
        if by_place { far(endpoint.locality, caller.locality, &failover.regions) } else { 0 },
    )
}

fn far(endpoint: &Locality, caller: &Locality, regions: &[(Arc<str>, Arc<str>)]) -> u8 {
    if endpoint.region != caller.region {
        let target = regions.iter().find(|(from, _)| *from == caller.region);
        return if target.is_none_or(|(_, to)| *to == endpoint.region) { 3 } else { 4 };
    }
    if endpoint.zone != caller.zone {
        return 2;
    }
    u8::from(endpoint.subzone != caller.subzone)
}

/// All of a panicking level, in which parts mean nothing any more.
fn merge(groups: Vec<Group>) -> Vec<Group> {
    let members: Vec<usize> = groups.into_iter().flat_map(|group| group.members).collect();
    if members.is_empty() { Vec::new() } else { everyone(members) }
}

/// What is left of groups without ejected endpoints. A group of which much is ejected weighs less.
fn available(groups: Vec<Group>, candidates: &[Candidate<'_>]) -> Vec<Group> {
    let remaining = groups.into_iter().map(|Group { weight, mut members }| {
        let all = members.len() as f64;
        members.retain(|at| !candidates[*at].ejected);
        let health = members.len() as f64 / all * OVERPROVISIONING_PERCENT as f64 / 100.0;
        Group { weight: weight * health.min(1.0), members }
    });
    remaining.filter(|group| !group.members.is_empty()).collect()
}

impl Plan {
    /// The level for a request: by its hash, or by any number drawn for it. `None` when nobody may be
    /// chosen, for want of candidates.
    pub fn level(&self, draw: u64) -> Option<&Level> {
        self.levels.get(self.position(draw)?)
    }

    /// The position of that level among [`Self::levels`].
    pub fn position(&self, draw: u64) -> Option<usize> {
        let mut left = draw % 100;
        self.levels.iter().position(|level| {
            let taken = left < level.percent;
            left = left.saturating_sub(level.percent);
            taken
        })
    }

    /// Every level, those that take no traffic among them.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }
}

impl Level {
    /// Its part of the traffic, in percent.
    pub fn percent(&self) -> u64 {
        self.percent
    }

    /// The parts of all its endpoints, for the tables of consistent hashing.
    pub fn shares(&self, candidates: &[Candidate<'_>]) -> Vec<Share> {
        let total: f64 = self.groups.iter().map(|it| it.weight).sum();
        let mut shares = Vec::new();
        for group in &self.groups {
            let weight = |at: &usize| f64::from(candidates[*at].weight.get());
            let sum: f64 = group.members.iter().map(weight).sum();
            shares.extend(group.members.iter().map(|at| Share {
                candidate: *at,
                address: candidates[*at].address,
                // In this order of operations, or tables would differ from Envoy's in the last bit.
                portion: weight(at) * (group.weight / total) / sum,
            }));
        }
        shares
    }
}
