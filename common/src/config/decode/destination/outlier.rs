//! `outlierDetection`.

use http::StatusCode;
use serde::Deserialize;

use crate::config::decode::Fault;
use crate::config::decode::istio::scalar::{MAX_WHOLE, Whole, positive, whole, whole_percent};
use crate::config::decode::istio::{List, Reader};
use crate::config::decode::policy::list;
use crate::config::decode::text::Text;
use crate::config::destination::outlier::OutlierDetection;
use crate::config::note::Caveat;

/// `consecutive5xxErrors`, when it is not stated.
const CONSECUTIVE_5XX: u32 = 5;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct OutlierManifest<'a> {
    consecutive_errors: Option<Whole>,
    #[serde(rename = "consecutive5xxErrors")]
    consecutive_5xx: Option<Whole>,
    consecutive_gateway_errors: Option<Whole>,
    split_external_local_origin_errors: Option<bool>,
    consecutive_local_origin_failures: Option<Whole>,
    interval: Option<Text<'a>>,
    base_ejection_time: Option<Text<'a>>,
    max_ejection_percent: Option<Whole>,
    min_health_percent: Option<Whole>,
    outlier_detection_http_error_codes: List<Whole>,
}

/// `outlierDetection`.
pub(super) fn read(
    reader: &mut Reader<'_>,
    stated: OutlierManifest<'_>,
    field: &str,
) -> Result<OutlierDetection, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let count = |stated, name| whole(stated, 0..=MAX_WHOLE, &at(name));
    let older = count(stated.consecutive_errors, "consecutiveErrors")?;
    let newer = count(stated.consecutive_5xx, "consecutive5xxErrors")?;
    if older.is_some() {
        let caveat = match newer {
            Some(_) => Caveat::ConsecutiveErrorsOverridden,
            None => Caveat::ConsecutiveErrorsAlias,
        };
        reader.note(at("consecutiveErrors"), caveat);
    }
    let consecutive_5xx = newer.or(older);
    let gateway = count(stated.consecutive_gateway_errors, "consecutiveGatewayErrors")?;
    let first = consecutive_5xx.unwrap_or(CONSECUTIVE_5XX);
    if first > 0 && gateway.is_some_and(|it| it >= first) {
        reader.note(at("consecutiveGatewayErrors"), Caveat::GatewayErrorsWithoutEffect);
    }
    let split_local_origin = stated.split_external_local_origin_errors.unwrap_or_default();
    let local = count(stated.consecutive_local_origin_failures, "consecutiveLocalOriginFailures")?;
    if local.is_some_and(|it| it > 0) && !split_local_origin {
        let reason = "needs splitExternalLocalOriginErrors: true";
        return Err(Fault::new(at("consecutiveLocalOriginFailures"), reason));
    }
    let codes = stated.outlier_detection_http_error_codes;
    Ok(OutlierDetection {
        consecutive_5xx,
        consecutive_gateway_errors: gateway,
        split_local_origin,
        consecutive_local_origin_failures: local,
        interval: positive(stated.interval.as_ref(), &at("interval"))?,
        base_ejection_time: positive(stated.base_ejection_time.as_ref(), &at("baseEjectionTime"))?,
        max_ejected: whole_percent(stated.max_ejection_percent, &at("maxEjectionPercent"))?,
        min_healthy: whole_percent(stated.min_health_percent, &at("minHealthPercent"))?,
        error_codes: list(codes, &at("outlierDetectionHttpErrorCodes"), |it, field| {
            let code = whole(Some(it), 100..=599, field)?.and_then(|it| u16::try_from(it).ok());
            let code = code.and_then(|it| StatusCode::from_u16(it).ok());
            code.ok_or_else(|| Fault::new(field, "no status"))
        })?,
    })
}
