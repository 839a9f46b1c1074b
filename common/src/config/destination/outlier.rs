//! When an endpoint is left out for a while (Istio `OutlierDetection`).

use std::time::Duration;

use ::http::StatusCode;

use crate::config::routing::Share;

/// `outlierDetection`. What is not stated has Envoy's default, named below.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutlierDetection {
    /// `consecutive5xxErrors`, or the deprecated `consecutiveErrors`; 0 is off, default 5.
    pub consecutive_5xx: Option<u32>,
    /// `consecutiveGatewayErrors` (502, 503, 504); 0 is off, as is the default.
    pub consecutive_gateway_errors: Option<u32>,
    /// `splitExternalLocalOriginErrors`: failures to connect are counted apart.
    pub split_local_origin: bool,
    /// `consecutiveLocalOriginFailures`, when they are counted apart; default 5.
    pub consecutive_local_origin_failures: Option<u32>,
    /// `interval` between looks; default 10 s.
    pub interval: Option<Duration>,
    /// `baseEjectionTime`, times how often it was ejected; default 30 s.
    pub base_ejection_time: Option<Duration>,
    /// `maxEjectionPercent` of the endpoints; default 10 %.
    pub max_ejected: Option<Share>,
    /// `minHealthPercent`: with fewer healthy endpoints nothing is ejected; default 0 %.
    pub min_healthy: Option<Share>,
    /// `outlierDetectionHttpErrorCodes` that count as errors; empty is every 5xx.
    pub error_codes: Box<[StatusCode]>,
}
