use std::sync::Arc;

use super::Desk;

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
