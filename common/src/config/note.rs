//! What an operator should hear about a resource that is accepted all the same.
//!
//! A note never changes what a resource means; it says that the meaning may not be the one that was hoped for. Notes
//! have stable labels, so that a status or a test can name them.

use std::fmt;
use std::sync::Arc;

/// One caveat about one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Path of the field, `spec.http[0].fault.delay`.
    pub field: Arc<str>,
    /// What is to be known of it.
    pub caveat: Caveat,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.caveat.meaning())
    }
}

/// Everything that is accepted with a caveat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "`meaning` says in words what each is")]
pub enum Caveat {
    HeaderKeyIgnored,
    IgnoreCaseWithoutEffect,
    SourceSubnetIgnored,
    NeverReached,
    PseudoHeaderIgnored,
    FormatterNotExpanded,
    RegexRewriteWins,
    FaultNeverFires,
    LegacyPercent,
    ExponentialDelayIgnored,
    AttemptsNotStated,
    LegacyAllowOrigin,
    LeastConnAlias,
    MinimumRingSizeLegacy,
    WarmupLegacy,
    WarmupWithoutEffect,
    ZoneAwareIgnored,
    FailoverNeedsOutlierDetection,
    ConsecutiveErrorsAlias,
    ConsecutiveErrorsOverridden,
    GatewayErrorsWithoutEffect,
    ProxyProtocolIgnored,
    WildcardHostIgnored,
    AddressRangeIgnored,
    UdpIgnored,
    ParentIgnored,
    NoParents,
    HostnamesIgnored,
    BackendUnknown,
    NoBackends,
    FilterUnknown,
    NeedsTargets,
    NotImplemented,
    ProviderMissing,
    ProviderNotImplemented,
    ClientModeIgnored,
    FirstProviderOnly,
    SampledByTrace,
    ExportTimeoutCut,
    ReportingIntervalIgnored,
    MetricUnknown,
    TargetIgnored,
}

impl Caveat {
    /// A stable name, for a status or a metric.
    pub fn label(self) -> &'static str {
        match self {
            Self::HeaderKeyIgnored => "header-key-ignored",
            Self::IgnoreCaseWithoutEffect => "ignore-case-without-effect",
            Self::SourceSubnetIgnored => "source-subnet-ignored",
            Self::NeverReached => "never-reached",
            Self::PseudoHeaderIgnored => "pseudo-header-ignored",
            Self::FormatterNotExpanded => "formatter-not-expanded",
            Self::RegexRewriteWins => "regex-rewrite-wins",
            Self::FaultNeverFires => "fault-never-fires",
            Self::LegacyPercent => "legacy-percent",
            Self::ExponentialDelayIgnored => "exponential-delay-ignored",
            Self::AttemptsNotStated => "attempts-not-stated",
            Self::LegacyAllowOrigin => "legacy-allow-origin",
            Self::LeastConnAlias => "least-conn-alias",
            Self::MinimumRingSizeLegacy => "minimum-ring-size-legacy",
            Self::WarmupLegacy => "warmup-legacy",
            Self::WarmupWithoutEffect => "warmup-without-effect",
            Self::ZoneAwareIgnored => "zone-aware-ignored",
            Self::FailoverNeedsOutlierDetection => "failover-needs-outlier-detection",
            Self::ConsecutiveErrorsAlias => "consecutive-errors-alias",
            Self::ConsecutiveErrorsOverridden => "consecutive-errors-overridden",
            Self::GatewayErrorsWithoutEffect => "gateway-errors-without-effect",
            Self::ProxyProtocolIgnored => "proxy-protocol-ignored",
            Self::WildcardHostIgnored => "wildcard-host-ignored",
            Self::AddressRangeIgnored => "address-range-ignored",
            Self::UdpIgnored => "udp-ignored",
            Self::ParentIgnored => "parent-ignored",
            Self::NoParents => "no-parents",
            Self::HostnamesIgnored => "hostnames-ignored",
            Self::BackendUnknown => "backend-unknown",
            Self::NoBackends => "no-backends",
            Self::FilterUnknown => "filter-unknown",
            Self::NeedsTargets => "needs-targets",
            Self::NotImplemented => "not-implemented",
            Self::ProviderMissing => "provider-missing",
            Self::ProviderNotImplemented => "provider-not-implemented",
            Self::ClientModeIgnored => "client-mode-ignored",
            Self::FirstProviderOnly => "first-provider-only",
            Self::SampledByTrace => "sampled-by-trace",
            Self::ExportTimeoutCut => "export-timeout-cut",
            Self::ReportingIntervalIgnored => "reporting-interval-ignored",
            Self::MetricUnknown => "metric-unknown",
            Self::TargetIgnored => "target-ignored",
        }
    }

    /// What it means, in words.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::HeaderKeyIgnored => {
                "ignored, as by Istio; uri, scheme, method and authority are fields of the match, not headers"
            }
            Self::IgnoreCaseWithoutEffect => "ignoreUriCase does not apply to a regex; write (?i) in it",
            Self::SourceSubnetIgnored => "ignored, as by Istio, which never implemented it",
            Self::NeverReached => "never reached: an earlier route takes every request",
            Self::PseudoHeaderIgnored => {
                "ignored: only :authority or host may be changed, and only on requests by set or add"
            }
            Self::FormatterNotExpanded => "%...% is sent as it stands; Envoy's commands are not expanded",
            Self::RegexRewriteWins => "ignored: uriRegexRewrite is stated too and wins",
            Self::FaultNeverFires => "never fires: no percentage is stated, which is 0 %",
            Self::LegacyPercent => "the whole-number percent is deprecated; use percentage",
            Self::ExponentialDelayIgnored => "exponentialDelay is not implemented, as in Istio",
            Self::AttemptsNotStated => {
                "attempts is not stated and counts as the default of 2; Istio reads 0, which is no retry"
            }
            Self::LegacyAllowOrigin => "allowOrigin is deprecated; use allowOrigins",
            Self::LeastConnAlias => "LEAST_CONN is deprecated and means LEAST_REQUEST",
            Self::MinimumRingSizeLegacy => "minimumRingSize is deprecated; use ringHash.minimumRingSize",
            Self::WarmupLegacy => "warmupDurationSecs is deprecated; use warmup.duration",
            Self::WarmupWithoutEffect => "warmup needs ROUND_ROBIN or LEAST_REQUEST and has no effect here",
            Self::ZoneAwareIgnored => "zoneAwareLbSetting is not supported in ambient mode, as in Istio",
            Self::FailoverNeedsOutlierDetection => {
                "without outlierDetection a locality fails over only when all its endpoints are gone"
            }
            Self::ConsecutiveErrorsAlias => {
                "consecutiveErrors is deprecated and ignored by Istio; it counts as consecutive5xxErrors here"
            }
            Self::ConsecutiveErrorsOverridden => {
                "consecutiveErrors is deprecated and ignored: consecutive5xxErrors is stated too"
            }
            Self::GatewayErrorsWithoutEffect => {
                "consecutiveGatewayErrors is not below consecutive5xxErrors, which counts the same errors first"
            }
            Self::ProxyProtocolIgnored => "not sent inside a tunnel of the mesh, as in Istio",
            Self::WildcardHostIgnored => "a pattern is no service: calls to such names go where they went",
            Self::AddressRangeIgnored => {
                "a range is not looked up: calls to its addresses go where they went"
            }
            Self::UdpIgnored => "only TCP is carried",
            Self::ParentIgnored => "ignored: routes attach to a Service, a ServiceEntry or a Gateway",
            Self::NoParents => "attached to nothing: no parentRefs are stated",
            Self::HostnamesIgnored => {
                "of no effect: hostnames count where the parent is a Gateway, and none is"
            }
            Self::BackendUnknown => {
                "leads nowhere: only a Service or Istio's Hostname can be a backend; its share is answered with 500"
            }
            Self::NoBackends => "requests are answered with 500: no backend has a weight",
            Self::FilterUnknown => "requests are answered with 500: this filter is not implemented",
            Self::NeedsTargets => {
                "without targetRefs no waypoint takes it, as in Istio; name Services or the waypoint's Gateway"
            }
            Self::NotImplemented => "not implemented; it changes nothing here",
            Self::ProviderMissing => "names no provider that is stated",
            Self::ProviderNotImplemented => {
                "a kind of provider that is not implemented; who names it does as if it were not there"
            }
            Self::ClientModeIgnored => "of no effect: a waypoint stands on the server's side, as in Istio",
            Self::FirstProviderOnly => "only the first provider gets spans, as in Istio",
            Self::SampledByTrace => "sampling is decided by the trace's id, not by that of the request",
            Self::ExportTimeoutCut => "longer than one export may take; it is 60s here",
            Self::ReportingIntervalIgnored => "not implemented: counters are as they are at each scrape",
            Self::MetricUnknown => "no metric of this name",
            Self::TargetIgnored => "ignored: only a Service or a ServiceEntry can be a target",
        }
    }
}
