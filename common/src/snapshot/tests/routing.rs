use std::sync::Arc;

use super::{Desk, Snapshot, pod};
use crate::config::{DestinationRule, VirtualService};

fn virtual_service(name: &str, timeout: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         hosts: [{name}]\n  http:\n  - route: [{{destination: {{host: {name}}}}}]\n    timeout: {timeout}\n"
    )
}

fn destination_rule(name: &str, algorithm: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         host: {name}\n  trafficPolicy: {{loadBalancer: {{simple: {algorithm}}}}}\n"
    )
}

fn services(desk: &Desk) -> Vec<Arc<VirtualService>> {
    desk.now.virtual_services().cloned().collect()
}

fn rules(desk: &Desk) -> Vec<Arc<DestinationRule>> {
    desk.now.destination_rules().cloned().collect()
}

/// Names and timeouts.
fn timeouts(desk: &Desk) -> Vec<(String, u64)> {
    let timeout = |it: &VirtualService| it.http[0].timeout.unwrap().as_secs();
    services(desk).iter().map(|it| (it.object.to_string(), timeout(it))).collect()
}

#[test]
fn routing_kinds_are_listed_replaced_and_removed() {
    let mut desk = Desk::with(&(virtual_service("b", "1s") + &virtual_service("a", "2s")));
    desk.write("rules.yaml", &destination_rule("a", "RANDOM"));
    let mut desk = desk.all_good();
    assert_eq!(timeouts(&desk), [("shop/a".to_owned(), 2), ("shop/b".to_owned(), 1)]);
    assert_eq!(rules(&desk).len(), 1);
    let before = services(&desk);
    desk.write(
        "mesh.yaml",
        &(virtual_service("a", "3s") + &virtual_service("b", "1s") + &pod("p", "10.0.0.1", &[])),
    );
    assert_eq!(timeouts(&desk), [("shop/a".to_owned(), 3), ("shop/b".to_owned(), 1)]);
    assert!(Arc::ptr_eq(&before[1], &services(&desk)[1]), "what says the same is the same");
    desk.write("mesh.yaml", &virtual_service("b", "1s"));
    desk.write("rules.yaml", "");
    assert_eq!(timeouts(&desk), [("shop/b".to_owned(), 1)]);
    assert_eq!(rules(&desk).len(), 0);
}

#[test]
fn of_two_statements_the_first_by_file_is_in_force_until_it_goes() {
    let mut desk = Desk::new();
    desk.write("b.yaml", &(virtual_service("a", "2s") + &destination_rule("a", "RANDOM")));
    desk.write("a.yaml", &(virtual_service("a", "1s") + &destination_rule("a", "ROUND_ROBIN")));
    assert_eq!(timeouts(&desk), [("shop/a".to_owned(), 1)]);
    assert_eq!(desk.now.conflicts().len(), 2);
    desk.write("a.yaml", "");
    assert_eq!(timeouts(&desk), [("shop/a".to_owned(), 2)]);
    assert_eq!((desk.now.conflicts().len(), rules(&desk).len()), (0, 1));
}

/// The names of what changed, with what became of each.
fn changed(desk: &Desk, earlier: &Snapshot) -> Vec<(String, &'static str)> {
    let routes = desk.now.virtual_services_since(earlier);
    let routes = routes.map(|it| (it.object.to_string(), (it.before.is_some(), it.now.is_some())));
    let services = desk.now.services_since(earlier);
    let services =
        services.map(|it| (format!("service {}", it.object), (it.before.is_some(), it.now.is_some())));
    routes
        .chain(services)
        .map(|(name, change)| {
            let what = match change {
                (false, true) => "added",
                (true, true) => "changed",
                (true, false) => "removed",
                (false, false) => "nothing",
            };
            (name, what)
        })
        .collect()
}

#[test]
fn the_difference_of_two_snapshots_names_what_changed_and_nothing_else() {
    let service = |name: &str, port: u16| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  ports: [{{port: {port}}}]\n"
        )
    };
    let many: String = (0..300).map(|i| virtual_service(&format!("x{i:03}"), "1s")).collect();
    let mut desk = Desk::new();
    desk.write("many.yaml", &many);
    desk.write("a.yaml", &(virtual_service("a", "1s") + &virtual_service("b", "1s") + &service("s", 80)));
    let mut desk = desk.all_good();
    let earlier = desk.now.clone();
    assert_eq!(changed(&desk, &earlier), []);
    desk.write("p.yaml", &pod("p", "10.0.0.1", &[]));
    assert_eq!(changed(&desk, &earlier), [], "a pod is no route");
    desk.write("a.yaml", &(virtual_service("b", "2s") + &virtual_service("c", "1s") + &service("s", 81)));
    let there = ["a", "b", "c"].map(|it| format!("shop/{it}"));
    let [a, b, c] = there;
    assert_eq!(
        changed(&desk, &earlier),
        [(a, "removed"), (b, "changed"), (c, "added"), ("service shop/s".to_owned(), "changed")]
    );
    assert_eq!(changed(&desk, &Snapshot::default()).len(), 303, "since nothing, all is new");
}
