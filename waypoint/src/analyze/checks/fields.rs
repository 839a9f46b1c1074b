//! Fields of Kubernetes' core kinds, and of Gateways, that nobody knows: these kinds are read as leniently as by a client,
//! so that a misspelt field is passed over.
//!
//! The fields are those of Kubernetes 1.34 and of the Gateway API 1.4, as far down as anything is read of them.

use common::config::decode::yaml::tree::{MERGE, Node};
use common::config::similar::nearest;
use common::config::{Kind, Stated};

use super::Report;
use crate::analyze::finding::UNKNOWN_FIELD;

/// The fields of an object, and those of what stands below some of them, or in a list there.
struct Fields {
    known: &'static [&'static str],
    below: &'static [(&'static str, &'static Fields)],
}

const METADATA: Fields = Fields {
    known: &[
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
        "managedFields",
        "clusterName",
    ],
    below: &[],
};

const NAMESPACE: Fields = Fields {
    known: &["apiVersion", "kind", "metadata", "spec", "status"],
    below: &[("metadata", &METADATA)],
};

const ACCOUNT: Fields = Fields {
    known: &["apiVersion", "kind", "metadata", "secrets", "imagePullSecrets", "automountServiceAccountToken"],
    below: &[("metadata", &METADATA)],
};

const SERVICE: Fields = Fields {
    known: &["apiVersion", "kind", "metadata", "spec", "status"],
    below: &[("metadata", &METADATA), ("spec", &SERVICE_SPEC)],
};

const SERVICE_SPEC: Fields = Fields {
    known: &[
        "ports",
        "selector",
        "clusterIP",
        "clusterIPs",
        "type",
        "externalIPs",
        "sessionAffinity",
        "loadBalancerIP",
        "loadBalancerSourceRanges",
        "externalName",
        "externalTrafficPolicy",
        "healthCheckNodePort",
        "publishNotReadyAddresses",
        "sessionAffinityConfig",
        "ipFamilies",
        "ipFamilyPolicy",
        "allocateLoadBalancerNodePorts",
        "loadBalancerClass",
        "internalTrafficPolicy",
        "trafficDistribution",
    ],
    below: &[("ports", &SERVICE_PORT)],
};

const SERVICE_PORT: Fields =
    Fields { known: &["name", "protocol", "appProtocol", "port", "targetPort", "nodePort"], below: &[] };

const SLICE: Fields = Fields {
    known: &["apiVersion", "kind", "metadata", "addressType", "endpoints", "ports"],
    below: &[("metadata", &METADATA), ("endpoints", &SLICE_ENDPOINT), ("ports", &SLICE_PORT)],
};

const SLICE_ENDPOINT: Fields = Fields {
    known: &[
        "addresses",
        "conditions",
        "hostname",
        "targetRef",
        "deprecatedTopology",
        "nodeName",
        "zone",
        "hints",
    ],
    below: &[("conditions", &SLICE_CONDITIONS)],
};

const SLICE_CONDITIONS: Fields = Fields { known: &["ready", "serving", "terminating"], below: &[] };
const SLICE_PORT: Fields = Fields { known: &["name", "protocol", "port", "appProtocol"], below: &[] };

const POD: Fields = Fields {
    known: &["apiVersion", "kind", "metadata", "spec", "status"],
    below: &[("metadata", &METADATA), ("spec", &POD_SPEC), ("status", &POD_STATUS)],
};

const POD_SPEC: Fields = Fields {
    known: &[
        "volumes",
        "initContainers",
        "containers",
        "ephemeralContainers",
        "restartPolicy",
        "terminationGracePeriodSeconds",
        "activeDeadlineSeconds",
        "dnsPolicy",
        "nodeSelector",
        "serviceAccountName",
        "serviceAccount",
        "automountServiceAccountToken",
        "nodeName",
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "shareProcessNamespace",
        "securityContext",
        "imagePullSecrets",
        "hostname",
        "subdomain",
        "affinity",
        "schedulerName",
        "tolerations",
        "hostAliases",
        "priorityClassName",
        "priority",
        "dnsConfig",
        "readinessGates",
        "runtimeClassName",
        "enableServiceLinks",
        "preemptionPolicy",
        "overhead",
        "topologySpreadConstraints",
        "setHostnameAsFQDN",
        "os",
        "hostUsers",
        "schedulingGates",
        "resourceClaims",
        "resources",
        "hostnameOverride",
    ],
    below: &[("containers", &CONTAINER), ("initContainers", &CONTAINER)],
};

const CONTAINER: Fields = Fields {
    known: &[
        "name",
        "image",
        "command",
        "args",
        "workingDir",
        "ports",
        "envFrom",
        "env",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "volumeMounts",
        "volumeDevices",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
        "terminationMessagePath",
        "terminationMessagePolicy",
        "imagePullPolicy",
        "securityContext",
        "stdin",
        "stdinOnce",
        "tty",
    ],
    below: &[("ports", &CONTAINER_PORT)],
};

const CONTAINER_PORT: Fields =
    Fields { known: &["name", "hostPort", "containerPort", "protocol", "hostIP"], below: &[] };

const POD_STATUS: Fields = Fields {
    known: &[
        "observedGeneration",
        "phase",
        "conditions",
        "message",
        "reason",
        "nominatedNodeName",
        "hostIP",
        "hostIPs",
        "podIP",
        "podIPs",
        "startTime",
        "initContainerStatuses",
        "containerStatuses",
        "qosClass",
        "ephemeralContainerStatuses",
        "resize",
        "resourceClaimStatuses",
        "extendedResourceClaimStatus",
        "allocatedResources",
        "resources",
    ],
    below: &[],
};

const GATEWAY: Fields = Fields {
    known: &["apiVersion", "kind", "metadata", "spec", "status"],
    below: &[("metadata", &METADATA), ("spec", &GATEWAY_SPEC)],
};

const GATEWAY_SPEC: Fields = Fields {
    known: &[
        "gatewayClassName",
        "listeners",
        "addresses",
        "infrastructure",
        "backendTLS",
        "allowedListeners",
        "tls",
        "defaultScope",
    ],
    below: &[("listeners", &LISTENER)],
};

const LISTENER: Fields = Fields {
    known: &["name", "hostname", "port", "protocol", "tls", "allowedRoutes"],
    below: &[("allowedRoutes", &ALLOWED_ROUTES)],
};

const ALLOWED_ROUTES: Fields =
    Fields { known: &["namespaces", "kinds"], below: &[("namespaces", &ROUTE_NAMESPACES)] };
const ROUTE_NAMESPACES: Fields = Fields { known: &["from", "selector"], below: &[("selector", &SELECTOR)] };
const SELECTOR: Fields = Fields { known: &["matchLabels", "matchExpressions"], below: &[] };

fn of(kind: Kind) -> Option<&'static Fields> {
    Some(match kind {
        Kind::Namespace | Kind::Node => &NAMESPACE,
        Kind::ServiceAccount => &ACCOUNT,
        Kind::Service => &SERVICE,
        Kind::EndpointSlice => &SLICE,
        Kind::Pod => &POD,
        Kind::Gateway => &GATEWAY,
        _ => return None,
    })
}

/// Looks for fields of an object that are none.
pub(super) fn check(stated: &Stated, document: &Node, report: &mut Report<'_>) {
    if let Some(fields) = of(stated.resource.key().kind) {
        unknown(stated, document, (fields, ""), report);
    }
}

fn unknown(stated: &Stated, node: &Node, (fields, path): (&Fields, &str), report: &mut Report<'_>) {
    // What is merged in and cannot be told may be anything.
    for entry in node.entries().iter().filter(|it| it.key != MERGE) {
        let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
        if !fields.known.contains(&&*entry.key) {
            let meant = nearest(&entry.key, fields.known.iter().copied());
            let meant = meant.map(|it| format!("; did you mean {it}?")).unwrap_or_default();
            report.say(
                UNKNOWN_FIELD,
                stated,
                path,
                format!("no field of this name is known, and it is passed over{meant}"),
            );
            continue;
        }
        let Some((_, below)) = fields.below.iter().find(|(key, _)| *key == entry.key) else { continue };
        unknown(stated, &entry.node, (below, &path), report);
        for (at, item) in entry.node.items().iter().enumerate() {
            unknown(stated, item, (below, &format!("{path}[{at}]")), report);
        }
    }
}
