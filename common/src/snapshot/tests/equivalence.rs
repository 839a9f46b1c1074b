//! Whatever happened before, a snapshot is the one that everything in force amounts to at once.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::Snapshot;
use super::{Desk, namespace};

/// One document out of a small world in which names, addresses and labels meet often.
fn document() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => pod(),
        2 => service(),
        2 => slice(),
        2 => policy(),
        1 => peers(),
        1 => (ns(), prop::sample::select(vec!["ambient", "none"]), bound()).prop_map(|(ns, mode, bound)| namespace(ns, mode) + bound),
        1 => gateway(),
        1 => (1..4u8).prop_map(|zone| format!(
            "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: n1\n  labels:\n    topology.kubernetes.io/zone: z{zone}\n"
        )),
        1 => Just("---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p1\n  namespace: a\nspec: {rulez: 1}\n".to_owned()),
    ]
}

fn ns() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "istio-system"])
}

/// One more label, or none.
fn bound() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "", "    istio.io/use-waypoint: w1\n", "    istio.io/use-waypoint: none\n"])
}

fn gateway() -> impl Strategy<Value = String> {
    let class = prop::sample::select(vec!["istio-waypoint", "istio-waypoint", "istio"]);
    let stands_for = prop::sample::select(vec!["service", "workload", "all", "none"]);
    (ns(), class, stands_for).prop_map(|(ns, class, stands_for)| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: w1\n  namespace: {ns}\n  \
             labels:\n    istio.io/waypoint-for: {stands_for}\nspec:\n  gatewayClassName: {class}\n  listeners:\n  - \
             {{name: mesh, port: 15008, protocol: HBONE}}\n"
        )
    })
}

fn app() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["x", "z"])
}

fn pod() -> impl Strategy<Value = String> {
    let phase = prop::sample::select(vec!["Running", "Running", "Running", "Succeeded", "Pending"]);
    let of = prop::sample::select(vec!["", "", "    gateway.networking.k8s.io/gateway-name: w1\n"]);
    let host = prop::bool::weighted(0.2);
    (ns(), 1..5u8, 1..5u8, app(), phase, 1..3u8, 2024..2027u16, host, of).prop_map(
        |(ns, name, address, app, phase, node, year, host, of)| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: p{name}\n  namespace: {ns}\n  creationTimestamp: \
                 \"{year}-01-01T00:00:00Z\"\n  labels:\n    app: {app}\n{of}spec:\n  nodeName: n{node}\n  hostNetwork: \
                 {host}\nstatus:\n  phase: {phase}\n  podIP: 10.0.0.{address}\n"
            )
        },
    )
}

fn service() -> impl Strategy<Value = String> {
    (ns(), 1..3u8, 1..3u8, app(), bound()).prop_map(|(ns, name, vip, app, bound)| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: s{name}\n  namespace: {ns}\n  labels:\n    x: x\n{bound}spec:\n  clusterIP: \
             10.96.0.{vip}\n  selector:\n    app: {app}\n  ports:\n  - port: 80\n"
        )
    })
}

fn slice() -> impl Strategy<Value = String> {
    let endpoint = (1..5u8, prop::option::of(1..5u8), any::<bool>());
    (ns(), 1..3u8, 1..3u8, prop::collection::vec(endpoint, 0..3)).prop_map(|(ns, name, service, endpoints)| {
        let mut text = format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: e{name}\n  namespace: {ns}\n  \
             labels:\n    kubernetes.io/service-name: s{service}\nports:\n- port: {}\nendpoints:\n",
            8000 + u16::from(name)
        );
        for (address, pod, ready) in endpoints {
            text += &format!("- addresses: [10.0.0.{address}]\n  conditions:\n    ready: {ready}\n");
            if let Some(pod) = pod {
                text += &format!("  targetRef:\n    kind: Pod\n    name: p{pod}\n");
            }
        }
        text
    })
}

fn policy() -> impl Strategy<Value = String> {
    let selector = prop::option::of(app());
    let action = prop::sample::select(vec!["ALLOW", "DENY"]);
    (ns(), 1..3u8, selector, action).prop_map(|(ns, name, selector, action)| {
        let selector =
            selector.map(|it| format!("selector: {{matchLabels: {{app: {it}}}}}, ")).unwrap_or_default();
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p{name}\n  \
             namespace: {ns}\nspec: {{{selector}action: {action}, rules: [{{}}]}}\n"
        )
    })
}

fn peers() -> impl Strategy<Value = String> {
    let selector = prop::option::of(app());
    let mode = prop::sample::select(vec!["STRICT", "PERMISSIVE", "UNSET"]);
    (ns(), 1..3u8, selector, mode).prop_map(|(ns, name, selector, mode)| {
        let selector =
            selector.map(|it| format!("selector: {{matchLabels: {{app: {it}}}}}, ")).unwrap_or_default();
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: d{name}\n  \
             namespace: {ns}\nspec: {{{selector}mtls: {{mode: {mode}}}}}\n"
        )
    })
}

fn assert_same(one: &Snapshot, other: &Snapshot) -> Result<(), TestCaseError> {
    prop_assert_eq!(&one.workloads, &other.workloads);
    prop_assert_eq!(&one.by_address, &other.by_address);
    prop_assert!(one.by_node.all().eq(other.by_node.all()));
    prop_assert_eq!(&one.waypoints, &other.waypoints);
    prop_assert_eq!(&one.hosts, &other.hosts);
    prop_assert_eq!(&one.services, &other.services);
    prop_assert_eq!(&one.by_vip, &other.by_vip);
    prop_assert_eq!(&one.endpoints, &other.endpoints);
    prop_assert_eq!(&one.policies, &other.policies);
    prop_assert_eq!(&one.peer_authentications, &other.peer_authentications);
    prop_assert_eq!(&one.mesh_policy, &other.mesh_policy);
    prop_assert_eq!(&one.by_namespace, &other.by_namespace);
    prop_assert_eq!(&one.selected, &other.selected);
    prop_assert_eq!(&one.unknown_policies, &other.unknown_policies);
    prop_assert_eq!(&one.rejected, &other.rejected);
    prop_assert_eq!(&one.conflicts, &other.conflicts);
    Ok(())
}

/// Whether somebody who could reach a port of an enrolled pod without coming through a waypoint now cannot.
fn closes(before: &Snapshot, now: &Snapshot) -> bool {
    let accounts: Vec<_> = before.workloads().map(|it| Some(it.identity.clone())).chain([None]).collect();
    let enrolled = before.workloads().filter(|it| it.enrolment.is_some());
    let mut pairs = enrolled.filter_map(|it| Some((it, now.workload(&it.uid)?)));
    pairs.any(|(earlier, later)| {
        accounts.iter().any(|account| {
            let open =
                |mesh: &Snapshot, workload, port| mesh.came_through(workload, port, account.as_ref()).is_ok();
            [80, 8001, 8002].into_iter().any(|port| open(before, earlier, port) && !open(now, later, port))
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(300)))]

    #[test]
    fn a_snapshot_does_not_depend_on_how_it_came_about(
        writes in prop::collection::vec((0..6u8, prop::collection::vec(document(), 0..4)), 1..24)
    ) {
        let mut desk = Desk::new();
        let mut files = BTreeMap::new();
        for (file, documents) in writes {
            let (file, text) = (format!("f{file}.yaml"), documents.concat());
            let verdicts = |desk: &Desk| -> BTreeMap<_, _> {
                desk.now.workloads().map(|it| (it.uid.clone(), desk.now.policy_for(it).clone())).collect()
            };
            let (before, generation) = (verdicts(&desk), desk.now.policy_generation());
            let earlier = desk.now.clone();
            desk.write(&file, &text);
            let after = verdicts(&desk);
            let differs = before.iter().any(|(uid, policy)| after.get(uid).is_some_and(|it| it != policy));
            prop_assert!(!differs || desk.now.policy_generation() > generation, "a verdict changed unnoticed");
            let closed = closes(&earlier, &desk.now);
            prop_assert!(!closed || desk.now.policy_generation() > generation, "a waypoint came between unnoticed");
            files.insert(file, text);
            let mut fresh = Desk::new();
            for (file, text) in files.iter().rev() {
                fresh.write(file, text);
            }
            assert_same(&desk.now, &fresh.now)?;
        }
    }
}
