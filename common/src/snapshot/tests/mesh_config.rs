use std::sync::Arc;

use super::Desk;
use crate::config::mesh::ProviderService;

fn config_map(namespace: &str, provider: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: {namespace}}}\ndata:\n  mesh: |\n    \
         extensionProviders:\n    - {{name: {provider}, prometheus: {{}}}}\n"
    )
}

#[test]
fn the_mesh_config_is_that_of_the_root_namespace_and_goes_with_its_config_map() {
    let mut desk = Desk::with(&config_map("shop", "theirs"));
    assert!(desk.now.mesh_config().providers.is_empty());
    desk.write("mesh-config.yaml", &config_map("istio-system", "ours"));
    assert!(desk.now.mesh_config().provider("ours").is_some());
    let before = desk.now.mesh_config().clone();
    desk.write("other.yaml", &config_map("market", "theirs"));
    assert!(Arc::ptr_eq(&before, desk.now.mesh_config()), "nothing of it has changed");
    desk.write("mesh-config.yaml", &config_map("istio-system", "other"));
    assert!(desk.now.mesh_config().provider("ours").is_none());
    assert!(desk.now.mesh_config().provider("other").is_some());
    desk.write("mesh-config.yaml", "");
    assert!(desk.now.mesh_config().providers.is_empty());
    desk.all_good();
}

#[test]
fn the_service_of_a_provider_is_one_that_nobody_else_can_take_the_name_of() {
    let entry = |namespace: &str, host: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: one, namespace: {namespace}}}\nspec: {{hosts: \
             [{host}], resolution: STATIC, endpoints: [{{address: 10.9.9.9}}], ports: [{{number: 80, name: http, protocol: HTTP}}]}}\n"
        )
    };
    let asked = |namespace: Option<&str>, host: &str| ProviderService {
        namespace: namespace.map(Into::into),
        host: host.into(),
        port: 80,
    };
    let mut desk = Desk::with(&entry("auth", "authz.example"));
    let of = |desk: &Desk, namespace, host| {
        desk.now.provided(&asked(namespace, host), "cluster.local").map(|it| it.namespace.to_string())
    };
    assert_eq!(of(&desk, None, "authz.example").as_deref(), Some("auth"));
    desk.write("theirs.yaml", &entry("aaa", "authz.example"));
    assert_eq!(of(&desk, None, "authz.example"), None, "of two nobody knows which is meant");
    assert_eq!(of(&desk, Some("auth"), "authz.example").as_deref(), Some("auth"));
    desk.write("theirs.yaml", &entry("aaa", "authz.auth.svc.cluster.local"));
    assert_eq!(of(&desk, None, "authz.auth.svc.cluster.local"), None, "that is a Service's name");
}
