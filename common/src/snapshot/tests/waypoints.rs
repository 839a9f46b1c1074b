use super::{Desk, pod};

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
         {namespace}\n  labels:\n    x: x\n{stands_for}spec:\n  gatewayClassName: istio-waypoint\n"
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
