//! A waypoint as it would be for the manifests: its routes, policies, rules for tokens and destinations, made as a running
//! one makes them. It fetches nothing and connects to nobody.

use std::sync::Arc;
use std::time::Instant;

use common::config::ObjectName;
use common::manifests::Manifests;
use common::snapshot::model::Workload;

use crate::authn::remote::Unfetched;
use crate::routes::View;
use crate::upstream::{Clusters, Vantage};
use crate::worker::Followed;

/// The waypoint.
pub(super) struct Stand {
    /// The Gateway it stands for.
    pub(super) gateway: ObjectName,
    /// The pod of it through whose eyes the mesh is seen.
    pub(super) pod: Arc<Workload>,
    pub(super) clusters: Clusters,
    pub(super) followed: Arc<Followed>,
}

impl Stand {
    /// The waypoint of a Gateway, as one of its pods.
    pub(super) fn new(manifests: &Manifests, gateway: ObjectName, pod: Arc<Workload>) -> Self {
        let own = ObjectName { namespace: pod.namespace().clone(), name: pod.name.clone() };
        let now = Instant::now();
        let clusters = Clusters::new(Vantage::new(&manifests.settings, own), now);
        let cluster_domain = manifests.settings.cluster_domain.clone();
        let nothing = Followed::nothing(View { waypoint: gateway.clone(), cluster_domain }, &clusters);
        clusters.update(&manifests.mesh, now);
        let followed = Arc::new(nothing.next(&manifests.mesh, &clusters, &Unfetched));
        Self { gateway, pod, clusters, followed }
    }
}
