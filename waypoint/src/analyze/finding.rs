//! What there is to say about an object, under a code that stays the same.
//!
//! The codes of Istio's `analyze` keep their number and meaning where there is one; those that only an ambient mesh or
//! Ebb has are ours, beginning with `EBB`.

use std::fmt;

use common::config::Origin;
use serde::Serialize;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
pub enum Level {
    /// To be known.
    Info,
    /// Probably not what was meant.
    Warning,
    /// Traffic is refused, or something stated has no effect at all.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "Info",
            Self::Warning => "Warning",
            Self::Error => "Error",
        })
    }
}

/// A sort of finding.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// `IST0101`, or `EBB0001`.
    pub id: &'static str,
    /// Its name, as in Istio's list where it is there.
    pub name: &'static str,
    /// How much it matters.
    pub level: Level,
    /// What to do, in one line.
    pub fix: &'static str,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What sort.
    pub code: &'static Code,
    /// Where: the line is that of the field, or of what is nearest to it, where there is one.
    pub origin: Origin,
    /// Kind, namespace and name; what of them is known.
    pub object: String,
    /// Path of the field at fault (`spec.http[0].route`), empty when there is none.
    pub field: String,
    /// What is wrong, in words.
    pub message: String,
}

impl Finding {
    /// Field and message.
    pub fn says(&self) -> String {
        let Self { field, message, .. } = self;
        if field.is_empty() { message.clone() } else { format!("{field}: {message}") }
    }
}

macro_rules! codes {
    ($($constant:ident = $id:literal $name:literal $level:ident, $fix:literal;)+) => {
        $(
            #[doc = concat!("`", $id, "`, ", $name, ".")]
            pub const $constant: &Code = &Code { id: $id, name: $name, level: Level::$level, fix: $fix };
        )+
        /// Every code there is.
        pub const CODES: &[&Code] = &[$($constant),+];
    };
}

codes! {
    REFERENCE_MISSING = "IST0101" "ReferencedResourceNotFound" Error,
        "state what is named, or name what there is";
    REJECTED = "IST0106" "SchemaValidationError" Error,
        "correct the field; until then the version before it is in force, where there is one";
    SEVERAL_FOR_HOST = "IST0109" "ConflictingMeshGatewayVirtualServiceHosts" Warning,
        "merge them, or delegate from one to the others";
    MISPLACED = "IST0107" "MisplacedAnnotation" Warning,
        "write it where it is read";
    UNKNOWN_ANNOTATION = "IST0108" "UnknownAnnotation" Warning,
        "correct its name: nobody reads it";
    PORT_NAME = "IST0118" "PortNameIsNotUnderNamingConvention" Info,
        "set appProtocol, or begin the name with the protocol, as in http-web";
    SELECTS_NOTHING = "IST0127" "NoMatchingWorkloadsFound" Warning,
        "correct the selector's labels or the namespace";
    NOT_VERIFIED = "IST0128" "NoServerCertificateVerificationDestinationLevel" Error,
        "take insecureSkipVerify out and state caCertificates";
    NOT_VERIFIED_PORT = "IST0129" "NoServerCertificateVerificationPortLevel" Error,
        "take insecureSkipVerify out and state caCertificates";
    UNREACHABLE_RULE = "IST0130" "VirtualServiceUnreachableRule" Warning,
        "move the route before the one that takes every request, or remove it";
    CAVEAT = "IST0133" "SchemaWarning" Warning,
        "take the field out, or state what is meant another way";
    ADDRESSES_NEEDED = "IST0134" "ServiceEntryAddressesRequired" Warning,
        "state spec.addresses and have the name resolve to them";
    SELECTOR_ON_WAYPOINT = "IST0166" "IneffectiveSelector" Warning,
        "name the Gateway or the Service in targetRefs instead";
    WAYPOINT_MISSING = "EBB0001" "WaypointMissing" Error,
        "state the Gateway, or take the label istio.io/use-waypoint off: calls are refused meanwhile";
    WAYPOINT_NOT_ALLOWED = "EBB0002" "WaypointNotAllowed" Error,
        "let the namespace use it by allowedRoutes.namespaces of the Gateway's listener: calls are refused meanwhile";
    WAYPOINT_WITHOUT_PODS = "EBB0003" "WaypointWithoutPods" Warning,
        "start a waypoint for the Gateway: what is bound to it is refused meanwhile";
    NO_WAYPOINT = "EBB0004" "NeedsWaypoint" Warning,
        "bind the service to a waypoint by the label istio.io/use-waypoint";
    READ_OTHERWISE = "EBB0005" "PolicyNeedsWaypoint" Warning,
        "bind the policy to a waypoint by targetRefs, or ask for what a connection shows";
    NEVER_FIRES = "EBB0006" "FaultNeverFires" Warning,
        "state percentage.value";
    WEIGHTS = "EBB0007" "WeightsSurprise" Warning,
        "let the weights add up to 100";
    NOT_READ = "EBB0008" "KindNotImplemented" Warning,
        "nothing of it is in force; take it out, or say by other means what it says";
    NOT_OURS = "EBB0009" "KindNotRead" Info,
        "nothing to do";
    OPEN_ROUND = "EBB0010" "OpenRoundWaypoint" Warning,
        "bind every service that leads to the port to the waypoint, and enrol the pods";
    TWICE = "EBB0011" "StatedTwice" Error,
        "keep one of the statements";
    SUBSET_EMPTY = "EBB0012" "SubsetSelectsNothing" Warning,
        "correct the subset's labels: calls to it are answered with 503";
    NOT_IN_MESH = "EBB0013" "BoundButNotEnrolled" Warning,
        "label the namespace istio.io/dataplane-mode: ambient";
    NO_SUCH_HOST = "EBB0014" "RouteForNobody" Warning,
        "correct spec.hosts: no service of this name is in the mesh";
    GATEWAY_ROUTES = "EBB0015" "GatewayNotServed" Info,
        "what comes in at an ingress gateway is not Ebb's; name mesh in spec.gateways for calls inside";
    ROUTE_PROBLEM = "EBB0016" "RouteLeadsNowhere" Error,
        "state what is missing; requests to it are answered with 500 meanwhile";
    OVERRIDDEN = "EBB0017" "OverriddenByRoute" Warning,
        "say it in the route, or remove one of both";
    UNKNOWN_FIELD = "EBB0018" "UnknownField" Warning,
        "correct its name, or take it out";
    UNKNOWN_LABEL = "EBB0019" "UnknownLabel" Warning,
        "correct its name: nobody reads it";
    LABEL_VALUE = "EBB0020" "ValueWithoutMeaning" Warning,
        "state one of the values that mean something";
    NO_SUCH_GATEWAY = "EBB0021" "WaypointOfNobody" Warning,
        "state the Gateway, or correct the label";
    TOKEN_OPTIONAL = "EBB0022" "TokenNotRequired" Warning,
        "state an AuthorizationPolicy whose rules ask for requestPrincipals";
    TIMEOUT_FIRST = "EBB0023" "TimeoutBeforeLastTry" Warning,
        "raise timeout, or lower attempts or perTryTimeout";
    KIND_MISSPELT = "EBB0024" "KindMisspelt" Warning,
        "correct the kind: nothing of it is in force";
    NOT_MANIFESTS = "EBB0025" "FileNotRead" Info,
        "nothing to do, unless it was to state something: then write it as YAML, or as one object of JSON";
    PASSES_AUTHORIZER = "EBB0026" "RoutePassesAuthorizer" Warning,
        "have somebody asked here as well, or state an AuthorizationPolicy with the action CUSTOM for all";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_code_stands_for_two_things() {
        let ids: BTreeSet<_> = CODES.iter().map(|code| code.id).collect();
        assert_eq!(ids.len(), CODES.len());
    }
}
