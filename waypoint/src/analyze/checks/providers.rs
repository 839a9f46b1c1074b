//! The MeshConfig: whether it is in force, and whether whom policies ask, and providers name, is there.

use common::config::mesh::ProviderKind;
use common::config::security::PolicyAction;
use common::config::{Resource, Stated};

use super::{Report, View};
use crate::analyze::finding::{CAVEAT, REFERENCE_MISSING};

pub(super) fn check(view: &View<'_>, report: &mut Report<'_>) {
    let root = &view.manifests.settings.root_namespace;
    for stated in &view.manifests.stated {
        match &stated.resource {
            Resource::MeshConfig(it) if it.object.namespace != *root => {
                report.say(
                    CAVEAT,
                    stated,
                    "metadata.namespace",
                    format!("not in force: the MeshConfig is that of {root}"),
                );
            }
            Resource::MeshConfig(it) => {
                for (at, provider) in it.config.providers.iter().enumerate() {
                    let field = format!("mesh.extensionProviders[{at}]");
                    authorizer(view, stated, (&field, &provider.name, &provider.kind), report);
                }
            }
            Resource::AuthorizationPolicy(it)
                if it.action == PolicyAction::Custom && !it.targets.is_empty() =>
            {
                let Some(name) = &it.provider else { continue };
                let kind = view.mesh.mesh_config().provider(name).map(|it| &it.kind);
                if !matches!(kind, Some(ProviderKind::HttpAuthorizer(_) | ProviderKind::GrpcAuthorizer(_))) {
                    let message = format!(
                        "no authorizer {name} among the extensionProviders of the MeshConfig: what its rules match is \
                         refused"
                    );
                    report.say(REFERENCE_MISSING, stated, "spec.provider.name", message);
                }
            }
            _ => {}
        }
    }
}

fn authorizer(
    view: &View<'_>,
    stated: &Stated,
    (field, name, kind): (&str, &str, &ProviderKind),
    report: &mut Report<'_>,
) {
    let (service, kind) = match kind {
        ProviderKind::HttpAuthorizer(it) => (&it.common.service, "envoyExtAuthzHttp"),
        ProviderKind::GrpcAuthorizer(it) => (&it.service, "envoyExtAuthzGrpc"),
        _ => return,
    };
    let found = view.mesh.provided(service, &view.manifests.settings.cluster_domain);
    match found {
        None => {
            let message =
                format!("provider {name}: there is not one service {}; it cannot be asked", service.host);
            report.say(REFERENCE_MISSING, stated, format!("{field}.{kind}.service"), message);
        }
        Some(found) if !found.ports.iter().any(|it| it.port == service.port) => {
            let message = format!("provider {name}: {} has no port {}", service.host, service.port);
            report.say(REFERENCE_MISSING, stated, format!("{field}.{kind}.port"), message);
        }
        Some(_) => {}
    }
}
