use super::{Desk, service, virtual_service};
use crate::routes::{ConnectionFacts, ServiceRoutes};

fn routes(spec: &str) -> ServiceRoutes {
    let text = service("shop", "reviews", &[80, 81])
        + &virtual_service(
            "shop/v",
            0,
            &format!("hosts: [reviews, '*.shop.svc.cluster.local', '*.example.com']\n{spec}"),
        );
    Desk::with(&text).routes("reviews")
}

/// The host that a connection goes to, without its namespace, or `service`.
fn goes(routes: &ServiceRoutes, port: u16, server_name: Option<&str>, destination: &str) -> String {
    let facts =
        ConnectionFacts { server_name, destination: destination.parse().unwrap(), port, source: None };
    let Some(rule) = routes.port(port).connections.find(&facts) else { return "service".into() };
    let (_, target) = rule.route.forwards().next().unwrap();
    target.host.split('.').next().unwrap().to_owned()
}

fn to(host: &str) -> String {
    format!("route: [{{destination: {{host: {host}}}}}]")
}

#[test]
fn tcp_routes_are_asked_in_order_by_port_and_subnet() {
    let routes = routes(&format!(
        "tcp:\n- match: [{{destinationSubnets: [10.0.0.0/8]}}]\n  {}\n- match: [{{port: 81}}]\n  {}\n- match: [{{sourceNamespace: shop}}]\n  {}",
        to("subnet"),
        to("port"),
        to("source")
    ));
    assert_eq!(goes(&routes, 80, None, "10.1.2.3"), "subnet");
    assert_eq!(goes(&routes, 80, None, "::ffff:10.1.2.3"), "subnet");
    assert_eq!(goes(&routes, 81, None, "10.1.2.3"), "subnet");
    assert_eq!(goes(&routes, 81, None, "192.0.2.1"), "port");
    assert_eq!(goes(&routes, 80, None, "192.0.2.1"), "service", "under no rule");
}

#[test]
fn tls_routes_come_before_tcp_routes_and_need_a_server_name() {
    let routes = routes(&format!(
        "tcp:\n- {}\ntls:\n- match: [{{sniHosts: [a.example.com]}}]\n  {}\n- match: [{{sniHosts: ['*.example.com'], port: 81}}]\n  {}",
        to("tcp"),
        to("exact"),
        to("wildcard")
    ));
    for (port, server_name, expected) in [
        (80, Some("a.example.com"), "exact"),
        (80, Some("A.Example.com"), "exact"),
        (80, Some("b.example.com"), "tcp"),
        (81, Some("b.example.com"), "wildcard"),
        (81, Some("example.com"), "tcp"),
        (81, None, "tcp"),
    ] {
        assert_eq!(goes(&routes, port, server_name, "10.0.0.1"), expected, "{port} {server_name:?}");
    }
}

#[test]
fn of_several_virtual_services_catch_alls_come_last() {
    let older = virtual_service(
        "shop/a",
        1,
        &format!("hosts: [reviews]\ntcp:\n- {}\n- match: [{{port: 80}}]\n  {}", to("all"), to("late")),
    );
    let younger = virtual_service(
        "shop/b",
        2,
        &format!(
            "hosts: [reviews]\ntcp:\n- match: [{{destinationSubnets: [10.0.0.0/8]}}]\n  {}",
            to("subnet")
        ),
    );
    let routes = Desk::with(&(service("shop", "reviews", &[80]) + &older + &younger)).routes("reviews");
    assert_eq!(goes(&routes, 80, None, "10.0.0.1"), "subnet");
    assert_eq!(goes(&routes, 80, None, "192.0.2.1"), "all");
}
