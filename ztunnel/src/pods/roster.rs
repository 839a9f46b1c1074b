//! Which pods to start, stop or keep serving: a pure comparison of the snapshot with what runs.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use common::snapshot::model::Workload;
use common::spiffe::Identity;

/// The most pods served on one node; Kubernetes' own default limit is 110, large nodes run 250 to 500.
pub const MAX_PODS: usize = 1024;

/// What tells one served pod from another: a change of any part means stop and start.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    /// Workload uid.
    pub uid: Arc<str>,
    /// `metadata.uid`.
    pub incarnation: Arc<str>,
    /// Path of the network namespace.
    pub netns: Arc<str>,
    /// Who its connections leave as.
    pub identity: Identity,
    /// Its addresses.
    pub addresses: Arc<[IpAddr]>,
    /// Whether inbound plaintext is left alone.
    pub bypass_inbound: bool,
}

/// One step towards the wanted state, in the order they must happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Stop serving: the pod left, or another incarnation took its place.
    Stop(Member),
    /// Start serving.
    Start(Member),
    /// Wanted, and cannot be served; the text says why. It stays unenrolled and is reported.
    Refuse(Arc<str>, &'static str),
}

impl Action {
    /// The member that is to be started.
    pub fn started(&self) -> Option<&Member> {
        match self {
            Self::Start(member) => Some(member),
            Self::Stop(_) | Self::Refuse(..) => None,
        }
    }
}

/// The member that an enrolled workload asks for.
///
/// # Errors
/// Why it cannot be served: it stays unprotected until that is mended, which must not go unnoticed.
pub fn member(workload: &Workload) -> Result<Member, (Arc<str>, &'static str)> {
    let refused = |why| (workload.uid.clone(), why);
    let enrolment = workload.enrolment.as_ref().ok_or_else(|| refused("it is not enrolled"))?;
    let netns = workload.netns.clone().ok_or_else(|| refused("its network namespace is not known"))?;
    if workload.addresses.is_empty() {
        return Err(refused("it has no address yet"));
    }
    Ok(Member {
        uid: workload.uid.clone(),
        incarnation: workload.incarnation.clone(),
        netns,
        identity: workload.identity.clone(),
        addresses: workload.addresses.clone(),
        bypass_inbound: enrolment.bypass_inbound,
    })
}

/// Compares the members that are wanted with those being served.
///
/// Stops come first, so that an address or a namespace is free before its next holder starts. Two wanted pods in one
/// namespace are a contradiction that would let one act as the other: the one already served stays, or the first by
/// uid; the other is refused.
pub fn compare<'a>(
    wanted: impl IntoIterator<Item = Member>,
    served: impl IntoIterator<Item = &'a Member>,
) -> Vec<Action> {
    let served: HashSet<&Member> = served.into_iter().collect();
    let mut wanted: Vec<Member> = wanted.into_iter().collect();
    wanted.sort_by(|a, b| (!served.contains(a), &a.uid).cmp(&(!served.contains(b), &b.uid)));

    let mut netns: HashSet<Arc<str>> = HashSet::new();
    let mut incarnations: HashSet<Arc<str>> = HashSet::new();
    let mut keep: HashSet<Member> = HashSet::new();
    let mut starts = Vec::new();
    let mut refused = Vec::new();
    for member in wanted {
        if netns.contains(&member.netns) {
            refused.push(Action::Refuse(member.uid, "another pod holds its network namespace"));
        } else if incarnations.contains(&member.incarnation) {
            refused.push(Action::Refuse(member.uid, "another pod has its metadata.uid"));
        } else if netns.len() == MAX_PODS {
            refused.push(Action::Refuse(member.uid, "MAX_PODS pods are served already"));
        } else {
            netns.insert(member.netns.clone());
            incarnations.insert(member.incarnation.clone());
            if served.contains(&member) {
                keep.insert(member);
            } else {
                starts.push(Action::Start(member));
            }
        }
    }
    let mut stops: Vec<Member> = served.into_iter().filter(|m| !keep.contains(*m)).cloned().collect();
    stops.sort_by(|a, b| a.uid.cmp(&b.uid));
    stops.into_iter().map(Action::Stop).chain(starts).chain(refused).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, incarnation: &str, netns: &str) -> Member {
        Member {
            uid: uid.into(),
            incarnation: incarnation.into(),
            netns: netns.into(),
            identity: Identity::new("td", "ns", "sa"),
            addresses: Arc::new([[10, 0, 0, 1].into()]),
            bypass_inbound: false,
        }
    }

    #[test]
    fn what_is_served_and_wanted_is_left_alone() {
        let a = pod("a", "1", "/a");
        assert_eq!(compare([a.clone()], [&a]), []);
    }

    #[test]
    fn a_recreated_pod_is_stopped_before_it_is_started() {
        let old = pod("a", "1", "/a");
        let new = pod("a", "2", "/a");
        assert_eq!(compare([new.clone()], [&old]), [Action::Stop(old), Action::Start(new)]);
    }

    #[test]
    fn two_pods_never_share_a_namespace() {
        let first = pod("a", "1", "/shared");
        let second = pod("b", "2", "/shared");
        let why = "another pod holds its network namespace";
        assert_eq!(
            compare([second.clone(), first.clone()], []),
            [Action::Start(first.clone()), Action::Refuse("b".into(), why)]
        );
        // The one being served keeps it, whatever its name.
        assert_eq!(compare([second.clone(), first], [&second]), [Action::Refuse("a".into(), why)]);
    }

    #[test]
    fn two_pods_never_share_a_metadata_uid() {
        let (first, second) = (pod("a", "1", "/a"), pod("b", "1", "/b"));
        let why = "another pod has its metadata.uid";
        assert_eq!(compare([first.clone(), second], [&first]), [Action::Refuse("b".into(), why)]);
    }

    #[test]
    fn another_identity_is_another_pod() {
        let old = pod("a", "1", "/a");
        let new = Member { identity: Identity::new("td", "ns", "other"), ..old.clone() };
        assert_eq!(compare([new.clone()], [&old]), [Action::Stop(old), Action::Start(new)]);
    }

    #[test]
    fn the_bound_on_pods_holds() {
        let wanted = (0..MAX_PODS + 1).map(|i| pod(&format!("{i:05}"), &i.to_string(), &format!("/{i}")));
        let actions = compare(wanted, []);
        assert_eq!(actions.iter().filter(|a| matches!(a, Action::Start(_))).count(), MAX_PODS);
        assert!(matches!(actions.last(), Some(Action::Refuse(..))));
    }

    #[test]
    fn pods_that_left_are_stopped() {
        let a = pod("a", "1", "/a");
        assert_eq!(compare([], [&a]), [Action::Stop(a.clone())]);
    }
}
