use std::net::IpAddr;

use super::super::model::{Health, TunnelProtocol};
use super::{Desk, pod, pod_with};
use crate::spiffe::Identity;

const USE: &str = "istio.io/use-waypoint";
const USE_OF: &str = "istio.io/use-waypoint-namespace";
const OF_GATEWAY: &str = "gateway.networking.k8s.io/gateway-name";

fn map(labels: &[(&str, &str)]) -> String {
    labels.iter().map(|(key, value)| format!("    {key}: \"{value}\"\n")).collect()
}

fn namespace(labels: &[(&str, &str)]) -> String {
    let labels = map(labels);
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels:\n    x: x\n{labels}")
}

fn service(labels: &[(&str, &str)]) -> String {
    let labels = map(labels);
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\n  labels:\n    x: \
         x\n{labels}spec:\n  clusterIP: 10.96.0.1\n  ports:\n  - port: 80\n"
    )
}

fn gateway(object: &str, stands_for: &str) -> String {
    let (namespace, name) = object.split_once('/').unwrap();
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: {name}\n  namespace: \
         {namespace}\n  labels:\n    x: x\n{stands_for}spec:\n  gatewayClassName: istio-waypoint\n  listeners:\n  - name: \
         mesh\n    port: 15008\n    protocol: HBONE\n"
    )
}

/// The waypoints that calls to the service and to the pod have to pass.
fn bound(desk: &Desk) -> (Option<String>, Option<String>) {
    let service = desk.now.service("shop", "web").unwrap().clone();
    let pod = desk.pod("shop", "a");
    let shown = |it: Option<&crate::config::ObjectName>| it.map(ToString::to_string);
    (shown(desk.now.waypoint_of_service(&service)), shown(desk.now.waypoint_of_workload(&pod)))
}

#[test]
fn the_label_of_the_object_counts_before_its_namespaces_and_none_opts_out() {
    // namespace, object, waypoint
    type Labels<'l> = &'l [(&'l str, &'l str)];
    let cases: &[(Labels<'_>, Labels<'_>, Option<&str>)] = &[
        (&[], &[], None),
        (&[(USE, "wp")], &[], Some("shop/wp")),
        (&[], &[(USE, "own")], Some("shop/own")),
        (&[(USE, "wp")], &[(USE, "own")], Some("shop/own")),
        (&[(USE, "wp")], &[(USE, "none")], None),
        (&[(USE, "none")], &[(USE, "own")], Some("shop/own")),
        (&[(USE, "none")], &[], None),
        (&[(USE, "wp"), (USE_OF, "infra")], &[], Some("infra/wp")),
        (&[(USE, "wp"), (USE_OF, "infra")], &[(USE, "own")], Some("shop/own")),
        (&[], &[(USE, "own"), (USE_OF, "infra")], Some("infra/own")),
        (&[(USE, "wp")], &[(USE_OF, "infra")], Some("shop/wp")),
        (&[(USE, "")], &[], None),
        // A waypoint's own pods and service are not behind it.
        (&[(USE, "wp")], &[(OF_GATEWAY, "wp")], None),
    ];
    for (above, own, waypoint) in cases {
        let text = namespace(above) + &service(own) + &pod("a", "10.0.0.1", own);
        let desk = Desk::with(&text).all_good();
        let wanted = waypoint.map(str::to_owned);
        assert_eq!(bound(&desk), (wanted.clone(), wanted), "{above:?} {own:?}");
    }
}

#[test]
fn a_gateway_says_whether_it_stands_before_services_or_pods_and_a_missing_one_before_both() {
    let mesh = namespace(&[(USE, "wp")]) + &service(&[]) + &pod("a", "10.0.0.1", &[]);
    let mut desk = Desk::with(&mesh);
    assert_eq!(bound(&desk), (Some("shop/wp".into()), Some("shop/wp".into())), "no gateway");
    for (label, services, workloads) in [
        ("", true, false),
        ("    istio.io/waypoint-for: service\n", true, false),
        ("    istio.io/waypoint-for: workload\n", false, true),
        ("    istio.io/waypoint-for: all\n", true, true),
        ("    istio.io/waypoint-for: none\n", false, false),
        ("    istio.io/waypoint-for: everything\n", true, true),
    ] {
        desk.write("gateway.yaml", &gateway("shop/wp", label));
        let (service, pod) = bound(&desk);
        assert_eq!((service.is_some(), pod.is_some()), (services, workloads), "{label:?}");
    }
    desk.write("gateway.yaml", &gateway("infra/wp", "    istio.io/waypoint-for: none\n"));
    assert_eq!(bound(&desk), (Some("shop/wp".into()), Some("shop/wp".into())), "another namespace's");
}

#[test]
fn istios_own_gateway_is_not_a_waypoint_and_no_error() {
    let text = gateway("shop/wp", "    istio.io/waypoint-for: none\n")
        .replace("gateway.networking.k8s.io/v1", "networking.istio.io/v1");
    let mesh = namespace(&[(USE, "wp")]) + &service(&[]) + &pod("a", "10.0.0.1", &[]);
    let desk = Desk::with(&(mesh + &text)).all_good();
    assert_eq!(bound(&desk).0.as_deref(), Some("shop/wp"));
}

#[test]
fn relabelling_a_namespace_binds_and_frees_its_services_and_pods() {
    let rest = service(&[]) + &pod("a", "10.0.0.1", &[]);
    let mut desk = Desk::with(&(namespace(&[]) + &rest));
    assert_eq!(bound(&desk), (None, None));
    desk.write("mesh.yaml", &(namespace(&[(USE, "wp")]) + &rest));
    assert!(bound(&desk).0.is_some() && bound(&desk).1.is_some());
    assert!(desk.now.service_at("10.96.0.1".parse().unwrap()).unwrap().waypoint.is_some());
    desk.write("mesh.yaml", &(namespace(&[]) + &rest));
    assert_eq!(bound(&desk), (None, None));
}

/// A mesh in which namespace `shop` is enrolled and uses `wp`, with a service `web` of port 80 for pods `app: web`.
fn shop(stands_for: &str) -> String {
    let labels = [("istio.io/dataplane-mode", "ambient"), (USE, "wp")];
    namespace(&labels)
        + &selecting("web", "10.96.0.1", &[], "web", 80, 8080)
        + &gateway("shop/wp", stands_for)
        + &pod("a", "10.0.0.1", &[("app", "web")])
        + &wp("wp-1", "10.0.0.9", "waypoint")
}

/// A pod of the Gateway `wp`, under this service account.
fn wp(name: &str, ip: &str, account: &str) -> String {
    pod_with(name, ip, &[(OF_GATEWAY, "wp")], "", "")
        .replace("serviceAccountName: web", &format!("serviceAccountName: {account}"))
}

fn selecting(name: &str, vip: &str, labels: &[(&str, &str)], app: &str, port: u16, target: u16) -> String {
    let labels = map(labels);
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: shop\n  labels:\n    x: \
         x\n{labels}spec:\n  clusterIP: {vip}\n  selector:\n    app: {app}\n  ports:\n  - port: {port}\n    \
         targetPort: {target}\n"
    )
}

/// What an account of `shop` gets that connects to `shop/a` at this port: nothing, or the waypoint to come through.
fn through(desk: &Desk, port: u16, account: Option<&str>) -> Option<String> {
    let identity = account.map(|it| Identity::new("cluster.local", "shop", it));
    let judged =
        desk.now.came_through(&desk.pod("shop", "a"), port, identity.as_ref()).map_err(ToString::to_string);
    judged.err()
}

fn wanted() -> Option<String> {
    Some("shop/wp".into())
}

#[test]
fn the_pods_of_a_waypoint_speak_for_themselves_and_are_listed_ready_or_not() {
    let unready =
        wp("wp-2", "10.0.0.10", "waypoint") + "  conditions:\n  - type: Ready\n    status: \"False\"\n";
    let mut desk = Desk::with(&(shop("") + &unready)).all_good();
    let gateway = crate::config::ObjectName::new("shop", "wp");
    let listed = |desk: &Desk| -> Vec<(IpAddr, Health, Option<u16>)> {
        desk.now
            .waypoint_pods(&gateway)
            .iter()
            .map(|it| (it.address, it.health, it.target_port(15008)))
            .collect()
    };
    let ip = |last| IpAddr::from([10, 0, 0, last]);
    let both = [(ip(9), Health::Healthy, Some(15008)), (ip(10), Health::Unhealthy, Some(15008))];
    assert_eq!(listed(&desk), both);
    let one = desk.pod("shop", "wp-1");
    assert_eq!(
        (one.protocol, &one.enrolment, one.stands_as()),
        (TunnelProtocol::Hbone, &None, Some(gateway.clone()))
    );
    assert!(desk.now.pods_on("n1").all(|it| &*it.name == "a"));
    assert_eq!(one.waypoint, None, "not behind itself");
    // Of a Gateway of another class they are pods like others.
    desk.write("mesh.yaml", &shop("").replace("istio-waypoint", "istio"));
    assert_eq!(listed(&desk), []);
    let one = desk.pod("shop", "wp-1");
    assert!(one.enrolment.is_some() && one.stands_as().is_none());
    desk.write("mesh.yaml", &shop("").replace("istio-waypoint", "ebb-waypoint"));
    assert_eq!(listed(&desk), both[..1]);
}

#[test]
fn labels_make_a_waypoint_only_in_the_gateways_own_namespace() {
    let thief = wp("thief", "10.0.0.66", "waypoint").replace("namespace: shop", "namespace: elsewhere");
    let desk = Desk::with(&(shop("    istio.io/waypoint-for: all\n") + &thief)).all_good();
    assert_eq!(desk.now.waypoint_pods(&crate::config::ObjectName::new("shop", "wp")).len(), 1);
    assert_eq!(desk.pod("elsewhere", "thief").protocol, TunnelProtocol::None);
    let theirs = Identity::new("cluster.local", "elsewhere", "waypoint");
    assert!(desk.now.came_through(&desk.pod("shop", "a"), 8080, Some(&theirs)).is_err());
}

#[test]
fn a_workload_behind_a_waypoint_is_reached_from_its_identity_alone_on_every_port() {
    let desk = Desk::with(&shop("    istio.io/waypoint-for: workload\n")).all_good();
    for port in [80, 8080, 1] {
        assert_eq!(through(&desk, port, Some("waypoint")), None, "{port}");
        assert_eq!(through(&desk, port, Some("web")), wanted(), "{port}");
        assert_eq!(through(&desk, port, None), wanted(), "{port}");
    }
}

#[test]
fn a_port_that_only_services_with_a_waypoint_lead_to_is_kept_for_it_and_no_other_port_is() {
    let mut desk = Desk::with(&shop("")).all_good();
    assert_eq!(through(&desk, 8080, Some("web")), wanted());
    assert_eq!(through(&desk, 8080, Some("waypoint")), None);
    assert_eq!(through(&desk, 9090, Some("web")), None);
    // Services without a waypoint, with one of their own, without addresses, and of other ports.
    for (labels, vip, app, target, open) in [
        (vec![(USE, "none")], "10.96.0.2", "web", 8080, true),
        (vec![(USE, "none")], "10.96.0.2", "web", 9090, false),
        (vec![(USE, "none")], "10.96.0.2", "other", 8080, false),
        (vec![(USE, "wp")], "10.96.0.2", "web", 8080, false),
        (vec![], "None", "web", 8080, true),
    ] {
        desk.write("second.yaml", &selecting("second", vip, &labels, app, 81, target));
        let judged = through(&desk, 8080, Some("web"));
        assert_eq!(judged, wanted().filter(|_| !open), "{labels:?} {vip} {app} {target}");
    }
    desk.write("second.yaml", "");
    assert_eq!(through(&desk, 8080, Some("web")), wanted());
    // The pod leaves the service, and comes back.
    desk.write("mesh.yaml", &shop("").replace("app: \"web\"", "app: \"other\""));
    assert_eq!(through(&desk, 8080, Some("web")), None);
    desk.write("mesh.yaml", &shop(""));
    assert_eq!(through(&desk, 8080, Some("web")), wanted());
    // The waypoint turns to other traffic, or to none.
    desk.write("mesh.yaml", &shop("    istio.io/waypoint-for: none\n"));
    assert_eq!(through(&desk, 8080, Some("web")), None);
}

#[test]
fn a_port_of_services_of_two_waypoints_is_open_to_both() {
    let second = selecting("second", "10.96.0.2", &[(USE, "other")], "web", 81, 8080)
        + &gateway("shop/other", "")
        + &wp("other-1", "10.0.0.10", "second").replace("\"wp\"", "\"other\"");
    let desk = Desk::with(&(shop("    istio.io/waypoint-for: all\n") + &second)).all_good();
    assert_eq!(through(&desk, 8080, Some("waypoint")), None);
    assert_eq!(through(&desk, 8080, Some("second")), None);
    assert_eq!(through(&desk, 8081, Some("second")), wanted(), "its service does not lead there");
    assert_eq!(through(&desk, 8080, Some("web")), wanted());
}

#[test]
fn slices_keep_ports_as_selectors_do() {
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: e\n  namespace: shop\n  \
                 labels:\n    kubernetes.io/service-name: web\nports:\n- port: 8081\nendpoints:\n- addresses: \
                 [10.0.0.1]\n  conditions:\n    ready: true\n";
    let mut desk = Desk::with(&shop("")).all_good();
    desk.write("slice.yaml", slice);
    assert_eq!((through(&desk, 8080, None), through(&desk, 8081, None)), (None, wanted()));
    desk.write("slice.yaml", "");
    assert_eq!((through(&desk, 8080, None), through(&desk, 8081, None)), (wanted(), None));
    // Another namespace neither opens what this one keeps nor keeps what it leaves open.
    for (labels, port) in [(vec![], 8080), (vec![(USE, "theirs")], 9090)] {
        let theirs = selecting("web", "10.96.0.7", &labels, "web", 80, port)
            + &slice.replace("8081", &port.to_string());
        desk.write("slice.yaml", &theirs.replace("namespace: shop", "namespace: elsewhere"));
        let foreign = desk.now.service("elsewhere", "web").unwrap();
        assert!(
            desk.now
                .endpoints(foreign)
                .iter()
                .any(|it| it.workload.as_ref().is_some_and(|it| &*it.name == "a"))
        );
        assert_eq!((through(&desk, 8080, None), through(&desk, 9090, None)), (wanted(), None));
    }
}

#[test]
fn a_waypoint_of_another_namespace_stands_before_those_its_listener_lets_in() {
    let bound =
        namespace(&[("istio.io/dataplane-mode", "ambient"), (USE, "wp"), (USE_OF, "infra"), ("team", "a")])
            + &service(&[])
            + &pod("a", "10.0.0.1", &[]);
    let listener = gateway("infra/wp", "    istio.io/waypoint-for: all\n");
    let theirs = wp("wp-1", "10.0.0.9", "waypoint").replace("namespace: shop", "namespace: infra");
    let allow = |from: &str| format!("{listener}    allowedRoutes:\n      namespaces:\n        {from}\n");
    for (gateway, may) in [
        (listener.clone(), false),
        (allow("from: Same"), false),
        (allow("from: All"), true),
        (allow("{from: Selector, selector: {matchLabels: {team: a}}}"), true),
        (allow("{from: Selector, selector: {matchLabels: {team: b}}}"), false),
        (allow("{from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: shop}}}"), true),
        (allow("{from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: infra}}}"), false),
    ] {
        let text = bound.clone() + &theirs + &gateway;
        let desk = Desk::with(&text.replace("        {from", "       {from")).all_good();
        let waypoint = crate::config::ObjectName::new("infra", "wp");
        let (pod, service) = (desk.pod("shop", "a"), desk.now.service("shop", "web").unwrap().clone());
        assert_eq!(desk.now.waypoint_of_workload(&pod), Some(&waypoint), "bound all the same: {gateway}");
        assert_eq!(desk.now.may_use_waypoint("shop", &waypoint), may, "{gateway}");
        assert_eq!(desk.now.stands_before_workload(&waypoint, &pod), may, "{gateway}");
        assert_eq!(desk.now.stands_before_service(&waypoint, &service), may, "{gateway}");
        let identity = Identity::new("cluster.local", "infra", "waypoint");
        assert_eq!(desk.now.came_through(&pod, 1, Some(&identity)).is_ok(), may, "{gateway}");
    }
}

#[test]
fn connections_are_judged_anew_when_a_waypoint_comes_between_and_not_when_one_more_pod_stands_there() {
    let mut desk = Desk::with(&shop("")).all_good();
    let mut at = desk.now.policy_generation();
    let mut grew = |desk: &Desk| {
        let grew = desk.now.policy_generation() > at;
        at = desk.now.policy_generation();
        grew
    };
    desk.write("more.yaml", &wp("wp-2", "10.0.0.10", "waypoint"));
    assert!(!grew(&desk), "one more pod of the waypoint");
    desk.write("more.yaml", &wp("wp-2", "10.0.0.10", "other"));
    assert!(grew(&desk), "another account");
    desk.write("mesh.yaml", &shop("    istio.io/waypoint-for: all\n"));
    assert!(grew(&desk), "another purpose");
    desk.write("second.yaml", &selecting("second", "10.96.0.2", &[], "web", 81, 9090));
    assert!(grew(&desk), "another port");
    desk.write(
        "mesh.yaml",
        &shop("    istio.io/waypoint-for: all\n").replace(&format!("{USE}: \"wp\""), "y: y"),
    );
    assert!(grew(&desk), "no waypoint any more");
}

#[test]
fn a_kubelet_is_known_by_the_addresses_of_its_node_that_no_pod_has() {
    let node = "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: n1\nspec:\n  podCIDR: 10.0.0.0/24\n  podCIDRs: \
                [10.0.0.0/24, 'fd00:1::/64']\nstatus:\n  addresses:\n  - {type: InternalIP, address: 172.30.0.1}\n  - \
                {type: Hostname, address: n1}\n";
    let probes = "  containers:\n  - name: app\n    ports:\n    - {name: http, containerPort: 8080}\n    livenessProbe: \
                  {httpGet: {path: /, port: http}}\n    readinessProbe: {tcpSocket: {port: 9}}\n    lifecycle: {preStop: \
                  {exec: {command: [x]}}}\n";
    let mut desk = Desk::with(&(node.to_owned() + &pod_with("a", "10.0.0.5", &[], "", probes))).all_good();
    let a = desk.pod("shop", "a");
    assert_eq!(*a.probed, [9, 8080]);
    let host = |desk: &Desk, ip: &str| desk.now.is_host_of(&a, ip.parse().unwrap());
    for (ip, is) in [("172.30.0.1", true), ("10.0.0.1", true), ("fd00:1::1", true), ("10.0.0.2", false)] {
        assert_eq!(host(&desk, ip), is, "{ip}");
    }
    desk.write("taken.yaml", &pod("b", "10.0.0.1", &[]));
    assert!(!host(&desk, "10.0.0.1"), "a pod has it");
    desk.write("mesh.yaml", &pod("a", "10.0.0.5", &[]));
    assert!(!host(&desk, "172.30.0.1"), "no such node");
}

#[test]
fn a_gateway_that_could_not_work_as_a_waypoint_is_turned_away_by_field() {
    let good = gateway("shop/wp", "");
    for (from, to, field) in [
        ("  gatewayClassName: istio-waypoint\n", "", "spec.gatewayClassName"),
        ("port: 15008", "port: 80", "spec.listeners[0].port"),
        ("    port: 15008\n", "", "spec.listeners[0].port"),
        ("protocol: HBONE", "protocol: HTTP", "spec.listeners[0].protocol"),
        ("    protocol: HBONE\n", "", "spec.listeners[0].protocol"),
        ("  listeners:\n", "  listeners:\n  - {name: x, port: 15008, protocol: HBONE}\n", "spec.listeners"),
        (
            "  listeners:\n  - name: mesh\n    port: 15008\n    protocol: HBONE\n",
            "  listeners: []\n",
            "spec.listeners",
        ),
        (
            "    protocol: HBONE\n",
            "    protocol: HBONE\n    allowedRoutes: {namespaces: {from: Some}}\n",
            "spec.listeners[0].allowedRoutes.namespaces.from",
        ),
        (
            "    protocol: HBONE\n",
            "    protocol: HBONE\n    allowedRoutes: {namespaces: {from: Selector}}\n",
            "spec.listeners[0].allowedRoutes.namespaces.selector",
        ),
        (
            "    protocol: HBONE\n",
            "    protocol: HBONE\n    allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: \
             a, operator: Exists}]}}}\n",
            "spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions",
        ),
    ] {
        let text = good.replace(from, to);
        assert_ne!(text, good, "{field}");
        let desk =
            Desk::with(&(namespace(&[(USE, "wp")]) + &service(&[]) + &pod("a", "10.0.0.1", &[]) + &text));
        let fields: Vec<&str> = desk.now.rejected().iter().map(|it| &*it.field).collect();
        assert_eq!(fields, [field], "{text}");
        let (service, pod) = bound(&desk);
        assert!(service.is_some() && pod.is_some(), "what is bound to it stays so: {field}");
    }
    // Of another class, anything goes.
    let other = good.replace("istio-waypoint", "istio").replace("port: 15008", "port: 80");
    Desk::with(&other.replace("HBONE", "HTTP")).all_good();
}
