use proptest::prelude::*;

use super::*;
use crate::snapshot::model::{Action, PeerAuthentication, PolicyScope};

fn policy(name: &str, action: Action, rules: Vec<Vec<Vec<Match>>>) -> Arc<Policy> {
    Arc::new(Policy {
        name: name.into(),
        namespace: "shop".into(),
        key: format!("shop/{name}").into(),
        scope: PolicyScope::Namespace,
        action,
        dry_run: false,
        rules,
    })
}

fn dry(policy: &Arc<Policy>) -> Arc<Policy> {
    Arc::new(Policy { dry_run: true, ..Policy::clone(policy) })
}

fn alice() -> Identity {
    Identity::new("cluster.local", "shop", "alice")
}

fn connection(identity: Option<&Identity>) -> Connection<'_> {
    Connection {
        source_identity: identity,
        source: "10.0.0.1:40000".parse().unwrap(),
        destination: "10.0.0.2:8080".parse().unwrap(),
    }
}

fn port(port: u16) -> Match {
    Match { destination_ports: vec![port], ..Match::default() }
}

#[test]
fn without_any_policy_everybody_is_admitted() {
    assert_eq!(evaluate(&EffectivePolicy::default(), &connection(None)), Ok(()));
}

#[test]
fn an_unknown_policy_refuses_everybody() {
    let all = policy("all", Action::Allow, vec![vec![]]);
    let found = EffectivePolicy { unknown: vec!["shop/x".into()], allow: vec![all], ..Default::default() };
    let id = alice();
    assert_eq!(evaluate(&found, &connection(Some(&id))), Err(Refusal::PolicyUnknown("shop/x".into())));
}

#[test]
fn a_refusal_names_the_first_allow_policies_in_force_and_counts_the_rest() {
    let of = |count: usize| {
        let mut allow: Vec<_> =
            (0..count).map(|at| policy(&format!("p{at}"), Action::Allow, vec![])).collect();
        // What is only tried out refuses nobody.
        allow.push(dry(&policy("dry", Action::Allow, vec![])));
        let policy = EffectivePolicy { allow, ..Default::default() };
        evaluate(&policy, &connection(None)).unwrap_err().to_string()
    };
    let words = "allow policies exist, but none matched";
    assert_eq!(of(1), format!("{words}: shop/p0"));
    assert_eq!(of(3), format!("{words}: shop/p0, shop/p1, shop/p2"));
    assert_eq!(of(5), format!("{words}: shop/p0, shop/p1, shop/p2 and 2 more"));
}

#[test]
fn deny_comes_before_allow_and_allow_without_match_refuses() {
    let (allow, deny) = (
        policy("allow", Action::Allow, vec![vec![vec![port(8080)]]]),
        policy("deny", Action::Deny, vec![vec![vec![port(8080)]]]),
    );
    let other = policy("other", Action::Allow, vec![vec![vec![port(9090)]]]);
    let judge = |deny: &[&Arc<Policy>], allow: &[&Arc<Policy>]| {
        let list = |it: &[&Arc<Policy>]| it.iter().map(|it| Arc::clone(it)).collect();
        evaluate(
            &EffectivePolicy { deny: list(deny), allow: list(allow), ..Default::default() },
            &connection(None),
        )
    };
    assert_eq!(judge(&[&deny], &[&allow]), Err(Refusal::DeniedByPolicy("shop/deny".into())));
    assert_eq!(judge(&[], &[&other]), Err(Refusal::NoAllowPolicyMatched("shop/other".into())));
    assert_eq!(judge(&[], &[&other, &allow]), Ok(()));
    let none = policy("none", Action::Allow, vec![]);
    assert_eq!(judge(&[], &[&none]), Err(Refusal::NoAllowPolicyMatched("shop/none".into())));
}

#[test]
fn strict_refuses_plaintext_alone_and_a_port_may_differ() {
    let peers = |mode, port| EffectivePolicy {
        peer_authentication: PeerAuthentication {
            mode,
            decided_by: "shop/default".into(),
            ports: Box::new([(8080, port, "shop/web".into())]),
        },
        ..Default::default()
    };
    let id = alice();
    let strict = peers(MtlsMode::Permissive, MtlsMode::Strict);
    assert_eq!(evaluate(&strict, &connection(None)), Err(Refusal::PlaintextNotAllowed("shop/web".into())));
    assert_eq!(evaluate(&strict, &connection(Some(&id))), Ok(()));
    let permissive = peers(MtlsMode::Strict, MtlsMode::Permissive);
    assert_eq!(evaluate(&permissive, &connection(None)), Ok(()));
    let elsewhere = Connection { destination: "10.0.0.2:9090".parse().unwrap(), ..connection(None) };
    assert_eq!(evaluate(&permissive, &elsewhere), Err(Refusal::PlaintextNotAllowed("shop/default".into())));
}

#[test]
fn metacharacters_in_names_match_only_themselves() {
    let cases = [
        (StringMatch::Exact("cluster.local/ns/shop/sa/alice".into()), true),
        (StringMatch::Exact("clusterXlocal/ns/shop/sa/alice".into()), false),
        (StringMatch::Exact("cluster.local/ns/shop/sa/.*".into()), false),
        (StringMatch::Prefix("cluster.local/ns/shop/".into()), true),
        (StringMatch::Prefix("cluster.local/ns/sho./".into()), false),
        (StringMatch::Suffix("/sa/alice".into()), true),
        (StringMatch::Suffix("sa.alice".into()), false),
        (StringMatch::Suffix("x/cluster.local/ns/shop/sa/alice".into()), false),
        (StringMatch::Presence, true),
    ];
    for (want, expected) in cases {
        let found = Match { principals: vec![want.clone()], ..Match::default() };
        let allow = policy("a", Action::Allow, vec![vec![vec![found]]]);
        let found = EffectivePolicy { allow: vec![allow], ..Default::default() };
        let id = alice();
        assert_eq!(evaluate(&found, &connection(Some(&id))).is_ok(), expected, "{want:?}");
        assert!(evaluate(&found, &connection(None)).is_err(), "{want:?} held without an identity");
    }
}

#[test]
fn an_ipv4_peer_on_an_ipv6_socket_is_an_ipv4_peer() {
    let found = Match { source_ips: vec!["10.0.0.0/8".parse().unwrap()], ..Match::default() };
    let deny = policy("d", Action::Deny, vec![vec![vec![found]]]);
    let found = EffectivePolicy { deny: vec![deny], ..Default::default() };
    let mapped = Connection { source: "[::ffff:10.0.0.1]:4000".parse().unwrap(), ..connection(None) };
    assert!(evaluate(&found, &mapped).is_err());
}

#[test]
fn dry_run_policies_refuse_nobody_and_are_reported() {
    let deny = policy("deny", Action::Deny, vec![vec![]]);
    let nobody = policy("nobody", Action::Allow, vec![]);
    let judge = |deny: Vec<Arc<Policy>>, allow: Vec<Arc<Policy>>| {
        let found = EffectivePolicy { deny, allow, ..Default::default() };
        (evaluate(&found, &connection(None)).is_ok(), would_refuse(&found, &connection(None)))
    };
    assert_eq!(judge(vec![dry(&deny)], vec![]), (true, Some("shop/deny".into())));
    assert_eq!(judge(vec![], vec![dry(&nobody)]), (true, Some("shop/nobody".into())));
    let all = policy("all", Action::Allow, vec![vec![]]);
    assert_eq!(judge(vec![], vec![dry(&nobody), dry(&all)]), (true, None));
    assert_eq!(judge(vec![deny.clone()], vec![dry(&nobody)]), (false, None), "refused already");
    assert_eq!(judge(vec![], vec![all]), (true, None));
}

/// The same question answered the slow way: every condition spelled out as text and compared as text.
mod slow {
    use super::*;

    fn text(want: &StringMatch, have: &str) -> bool {
        match want {
            StringMatch::Exact(it) => have == &**it,
            StringMatch::Prefix(it) => have.starts_with(&**it),
            StringMatch::Suffix(it) => have.ends_with(&**it),
            StringMatch::Presence => !have.is_empty(),
        }
    }

    fn bits(address: IpAddr) -> (bool, u128, u32) {
        match address.to_canonical() {
            IpAddr::V4(it) => (true, u128::from(u32::from(it)), 32),
            IpAddr::V6(it) => (false, u128::from(it), 128),
        }
    }

    fn inside(net: &IpNet, address: IpAddr) -> bool {
        let ((v4, a, width), (net_v4, b, _)) = (bits(address), bits(net.addr()));
        let drop = width - u32::from(net.prefix_len());
        v4 == net_v4 && (drop == 128 || a >> drop == b >> drop)
    }

    /// `None`: the match has no condition of this sort.
    fn list(any: Vec<bool>, none: Vec<bool>) -> Option<bool> {
        if any.is_empty() && none.is_empty() {
            return None;
        }
        Some((any.is_empty() || any.contains(&true)) && !none.contains(&true))
    }

    fn holds(m: &Match, c: &Connection<'_>) -> bool {
        let principal = c.source_identity.map(Identity::principal);
        let namespace = c.source_identity.map(|it| it.namespace.to_string());
        let account = c.source_identity.map(|it| format!("{}/{}", it.namespace, it.service_account));
        let texts = |wants: &[StringMatch], have: &Option<String>| -> Vec<bool> {
            wants.iter().map(|want| have.as_deref().is_some_and(|have| text(want, have))).collect()
        };
        let accounts = |wants: &[ServiceAccountMatch]| -> Vec<bool> {
            let spell = |it: &ServiceAccountMatch| format!("{}/{}", it.namespace, it.service_account);
            wants.iter().map(|want| account.as_deref() == Some(&*spell(want))).collect()
        };
        let nets = |nets: &[IpNet], at: SocketAddr| -> Vec<bool> {
            nets.iter().map(|net| inside(net, at.ip())).collect()
        };
        let ports =
            |ports: &[u16]| -> Vec<bool> { ports.iter().map(|it| *it == c.destination.port()).collect() };
        let verdicts = [
            list(texts(&m.principals, &principal), texts(&m.not_principals, &principal)),
            list(texts(&m.namespaces, &namespace), texts(&m.not_namespaces, &namespace)),
            list(accounts(&m.service_accounts), accounts(&m.not_service_accounts)),
            list(nets(&m.source_ips, c.source), nets(&m.not_source_ips, c.source)),
            list(nets(&m.destination_ips, c.destination), nets(&m.not_destination_ips, c.destination)),
            list(ports(&m.destination_ports), ports(&m.not_destination_ports)),
        ];
        let stated: Vec<bool> = verdicts.into_iter().flatten().collect();
        !stated.is_empty() && !stated.contains(&false)
    }

    fn fires(policy: &Policy, c: &Connection<'_>) -> bool {
        let mut fires = false;
        for rule in &policy.rules {
            let mut all = true;
            for clause in rule {
                let mut any = false;
                for m in clause {
                    any |= holds(m, c);
                }
                all &= any;
            }
            fires |= all;
        }
        fires
    }

    pub(super) fn admits(policy: &EffectivePolicy, c: &Connection<'_>) -> bool {
        if !policy.unknown.is_empty() {
            return false;
        }
        let peers = &policy.peer_authentication;
        let mut mode = peers.mode;
        for (port, own, _) in peers.ports.iter().rev() {
            if *port == c.destination.port() {
                mode = *own;
            }
        }
        if c.source_identity.is_none() && mode == MtlsMode::Strict {
            return false;
        }
        let live = |list: &[Arc<Policy>]| -> Vec<bool> {
            list.iter().filter(|it| !it.dry_run).map(|it| fires(it, c)).collect()
        };
        let allow = live(&policy.allow);
        !live(&policy.deny).contains(&true) && (allow.is_empty() || allow.contains(&true))
    }
}

fn word() -> impl Strategy<Value = Arc<str>> {
    prop::sample::select(vec!["shop", "sho", "s.op", "bank", "alice", "bob", "cluster.local"])
        .prop_map(Into::into)
}

fn string_match() -> impl Strategy<Value = StringMatch> {
    let principal = (word(), word()).prop_map(|(ns, sa)| format!("cluster.local/ns/{ns}/sa/{sa}").into());
    let text =
        prop_oneof![word(), principal, Just(Arc::from("/sa/alice")), Just(Arc::from("cluster.local/ns/s"))];
    (0..4, text).prop_map(|(form, text)| match form {
        0 => StringMatch::Exact(text),
        1 => StringMatch::Prefix(text),
        2 => StringMatch::Suffix(text),
        _ => StringMatch::Presence,
    })
}

fn few<T: std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    // Mostly absent, as in policies people write; else every match would be all of them at once.
    (0..4, prop::collection::vec(of, 1..3)).prop_map(|(n, list)| if n == 0 { list } else { Vec::new() })
}

fn net() -> impl Strategy<Value = IpNet> {
    prop::sample::select(vec!["10.0.0.0/8", "10.0.0.1/32", "0.0.0.0/0", "::/0", "fd00::/8", "10.0.0.0/31"])
        .prop_map(|it| it.parse().unwrap())
}

fn any_match() -> impl Strategy<Value = Match> {
    let account = || {
        (word(), word())
            .prop_map(|(namespace, service_account)| ServiceAccountMatch { namespace, service_account })
    };
    let port = || prop::sample::select(vec![80_u16, 8080]);
    let identity = (
        few(string_match()),
        few(string_match()),
        few(string_match()),
        few(string_match()),
        few(account()),
        few(account()),
    );
    let network = (few(net()), few(net()), few(net()), few(net()), few(port()), few(port()));
    (identity, network).prop_map(|(a, b)| Match {
        namespaces: a.0,
        not_namespaces: a.1,
        principals: a.2,
        not_principals: a.3,
        service_accounts: a.4,
        not_service_accounts: a.5,
        source_ips: b.0,
        not_source_ips: b.1,
        destination_ips: b.2,
        not_destination_ips: b.3,
        destination_ports: b.4,
        not_destination_ports: b.5,
    })
}

fn any_policy(action: Action) -> impl Strategy<Value = Arc<Policy>> {
    let clause = prop::collection::vec(any_match(), 0..3);
    let rules = prop::collection::vec(prop::collection::vec(clause, 0..3), 0..3);
    (rules, prop::bool::weighted(0.2)).prop_map(move |(rules, dry_run)| {
        let it = policy("p", action, rules);
        if dry_run { dry(&it) } else { it }
    })
}

fn any_effective() -> impl Strategy<Value = EffectivePolicy> {
    let mode = || prop_oneof![Just(MtlsMode::Strict), Just(MtlsMode::Permissive)];
    let port = (prop::sample::select(vec![80_u16, 8080]), mode(), Just(Arc::from("shop/p")));
    (
        prop::collection::vec(any_policy(Action::Deny), 0..3),
        prop::collection::vec(any_policy(Action::Allow), 0..3),
        mode(),
        prop::collection::vec(port, 0..2),
        prop::bool::weighted(0.02),
    )
        .prop_map(|(deny, allow, mode, ports, unknown)| EffectivePolicy {
            deny,
            allow,
            unknown: if unknown { vec!["shop/x".into()] } else { Vec::new() },
            peer_authentication: PeerAuthentication {
                mode,
                decided_by: "shop/d".into(),
                ports: ports.into(),
            },
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(4000)))]

    #[test]
    fn every_verdict_is_that_of_the_slow_evaluator(
        policy in any_effective(),
        callers in prop::collection::vec(prop::option::of((word(), word())), 4),
        source in prop::sample::select(vec!["10.0.0.1:1", "[::ffff:10.0.0.1]:1", "[fd00::1]:1", "192.0.2.1:1"]),
        destination in prop::sample::select(vec!["10.0.0.2:80", "10.0.0.2:8080", "[fd00::2]:8080", "10.0.0.1:81"]),
    ) {
        for caller in callers {
            let identity = caller.map(|(namespace, account)| Identity::new("cluster.local", namespace, account));
            let connection = Connection {
                source_identity: identity.as_ref(),
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
            };
            prop_assert_eq!(evaluate(&policy, &connection).is_ok(), slow::admits(&policy, &connection));
        }
    }
}
