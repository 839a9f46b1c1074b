//! `retries`, `fault`, `mirror` and `mirrors`.

use http::StatusCode;
use serde::Deserialize;

use super::action::status;
use crate::config::decode::Fault;
use crate::config::decode::istio::scalar::{
    Double, MAX_WHOLE, Whole, percent, positive, whole, whole_percent,
};
use crate::config::decode::istio::{DestinationManifest, List, Reader};
use crate::config::decode::policy::list;
use crate::config::decode::text::Text;
use crate::config::note::Caveat;
use crate::config::routing::Share;
use crate::config::routing::resilience::{
    Abort, AbortWith, Delay, Fault as Faults, Mirror, Retries, RetryCondition, RetryOn, grpc_status,
};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct RetriesManifest<'a> {
    attempts: Option<Whole>,
    per_try_timeout: Option<Text<'a>>,
    retry_on: Option<Text<'a>>,
    backoff: Option<Text<'a>>,
    retry_ignore_previous_hosts: Option<bool>,
    retry_remote_localities: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(in crate::config::decode) struct FaultManifest<'a> {
    delay: Option<DelayManifest<'a>>,
    abort: Option<AbortManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct DelayManifest<'a> {
    fixed_delay: Option<Text<'a>>,
    exponential_delay: Option<Text<'a>>,
    percentage: Option<PercentManifest>,
    percent: Option<Whole>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct AbortManifest<'a> {
    http_status: Option<Whole>,
    grpc_status: Option<Text<'a>>,
    http2_error: Option<Text<'a>>,
    percentage: Option<PercentManifest>,
}

/// `value` of a percentage; 0 when it is not stated, as protobuf has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PercentManifest {
    value: Option<Double>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct MirrorManifest<'a> {
    destination: Option<DestinationManifest<'a>>,
    percentage: Option<PercentManifest>,
}

impl PercentManifest {
    fn read(stated: Option<&Self>, field: &str) -> Result<Option<Share>, Fault> {
        let Some(stated) = stated else { return Ok(None) };
        let share = percent(stated.value, &format!("{field}.value"))?;
        Ok(Some(share.unwrap_or(Share::NONE)))
    }
}

/// `retries`.
pub(super) fn retries(
    reader: &mut Reader<'_>,
    stated: RetriesManifest<'_>,
    field: &str,
) -> Result<Retries, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let attempts = whole(stated.attempts, 0..=MAX_WHOLE, &at("attempts"))?;
    let retry_on = stated.retry_on.filter(|it| !it.is_empty());
    let retries = Retries {
        attempts,
        per_try_timeout: positive(stated.per_try_timeout.as_ref(), &at("perTryTimeout"))?,
        retry_on: retry_on.map(|it| self::retry_on(&it, &at("retryOn"))).transpose()?,
        backoff: positive(stated.backoff.as_ref(), &at("backoff"))?,
        avoid_previous_hosts: stated.retry_ignore_previous_hosts,
        remote_localities: stated.retry_remote_localities,
    };
    if attempts.is_none() {
        reader.note(field, Caveat::AttemptsNotStated);
    }
    let when_tried = retries.per_try_timeout.is_some() || retries.retry_on.is_some();
    if attempts == Some(0) && when_tried {
        return Err(Fault::new(at("attempts"), "0 turns retries off, and more is stated of them"));
    }
    Ok(retries)
}

/// Words and numbers between commas.
fn retry_on(text: &str, field: &str) -> Result<RetryOn, Fault> {
    let (mut conditions, mut statuses) = (Vec::new(), Vec::new());
    for word in text.split(',').map(str::trim) {
        if let Some(condition) = RetryCondition::of(word) {
            conditions.push(condition);
            continue;
        }
        let number = word.parse::<u16>().ok().filter(|it| (100..=599).contains(it));
        match number.and_then(|it| StatusCode::from_u16(it).ok()) {
            Some(status) => statuses.push(status),
            None => {
                let reason =
                    format!("{word:?} is neither a condition of Envoy's x-envoy-retry-on nor a status");
                return Err(Fault::new(field, reason));
            }
        }
    }
    Ok(RetryOn { conditions: conditions.into(), statuses: statuses.into() })
}

/// `fault`.
pub(in crate::config::decode) fn fault(
    reader: &mut Reader<'_>,
    stated: FaultManifest<'_>,
    field: &str,
) -> Result<Faults, Fault> {
    if stated.delay.is_none() && stated.abort.is_none() {
        return Err(Fault::new(field, "states neither delay nor abort"));
    }
    let delay = match &stated.delay {
        Some(it) => delay(reader, it, &format!("{field}.delay"))?,
        None => None,
    };
    let abort = stated.abort.map(|it| abort(reader, &it, &format!("{field}.abort"))).transpose()?;
    Ok(Faults { delay, abort })
}

fn delay(reader: &mut Reader<'_>, stated: &DelayManifest<'_>, field: &str) -> Result<Option<Delay>, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let percentage = PercentManifest::read(stated.percentage.as_ref(), &at("percentage"))?;
    let percent = whole_percent(stated.percent, &at("percent"))?;
    if percent.is_some() {
        reader.note(at("percent"), Caveat::LegacyPercent);
    }
    let fixed = positive(stated.fixed_delay.as_ref(), &at("fixedDelay"))?;
    if stated.exponential_delay.is_some() {
        if fixed.is_some() {
            return Err(Fault::new(at("exponentialDelay"), "stated together with fixedDelay"));
        }
        positive(stated.exponential_delay.as_ref(), &at("exponentialDelay"))?;
        reader.note(at("exponentialDelay"), Caveat::ExponentialDelayIgnored);
        return Ok(None);
    }
    let fixed = fixed.ok_or_else(|| Fault::new(at("fixedDelay"), "not stated"))?;
    let share = percentage.or(percent);
    if share.is_none() {
        reader.note(field, Caveat::FaultNeverFires);
    }
    Ok(Some(Delay { fixed, share: share.unwrap_or(Share::NONE) }))
}

fn abort(reader: &mut Reader<'_>, stated: &AbortManifest<'_>, field: &str) -> Result<Abort, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    if stated.http2_error.is_some() {
        return Err(Fault::new(
            at("http2Error"),
            "not implemented, as in Istio; use httpStatus or grpcStatus",
        ));
    }
    let http = status(stated.http_status, &at("httpStatus"))?;
    let with = match (http, stated.grpc_status.as_deref()) {
        (Some(status), None) => AbortWith::Http(status),
        (None, Some(name)) => AbortWith::Grpc(grpc_status(name).ok_or_else(|| {
            Fault::new(at("grpcStatus"), format!("{name:?} is no gRPC status; write it as UNAVAILABLE"))
        })?),
        (Some(_), Some(_)) => return Err(Fault::new(at("grpcStatus"), "stated together with httpStatus")),
        (None, None) => return Err(Fault::new(field, "states neither httpStatus nor grpcStatus")),
    };
    let share = PercentManifest::read(stated.percentage.as_ref(), &at("percentage"))?;
    if share.is_none() {
        reader.note(field, Caveat::FaultNeverFires);
    }
    Ok(Abort { with, share: share.unwrap_or(Share::NONE) })
}

/// `mirror` with its percentages, older than `mirrors`.
pub(super) struct Older<'a> {
    pub(super) mirror: Option<DestinationManifest<'a>>,
    pub(super) percentage: Option<PercentManifest>,
    pub(super) percent: Option<Whole>,
}

/// `mirror` and `mirrors`; `field` is that of the route.
pub(super) fn mirrors(
    reader: &mut Reader<'_>,
    older: Older<'_>,
    stated: List<MirrorManifest<'_>>,
    field: &str,
) -> Result<Box<[Mirror]>, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let percentage = PercentManifest::read(older.percentage.as_ref(), &at("mirrorPercentage"))?;
    let percent = whole_percent(older.percent, &at("mirrorPercent"))?;
    if percent.is_some() {
        reader.note(at("mirrorPercent"), Caveat::LegacyPercent);
    }
    let share = percentage.or(percent);
    let mut found = Vec::new();
    if let Some(mirror) = &older.mirror {
        let destination = reader.destination(Some(mirror), &at("mirror"))?;
        found.push(Mirror { destination, share: share.unwrap_or(Share::ALL) });
    } else if share.is_some() {
        let name = if percentage.is_some() { "mirrorPercentage" } else { "mirrorPercent" };
        return Err(Fault::new(at(name), "stated without mirror"));
    }
    let more = list(stated, &at("mirrors"), |it, field| {
        let destination = reader.destination(it.destination.as_ref(), &format!("{field}.destination"))?;
        let share = PercentManifest::read(it.percentage.as_ref(), &format!("{field}.percentage"))?;
        Ok(Mirror { destination, share: share.unwrap_or(Share::ALL) })
    })?;
    found.extend(more);
    Ok(found.into())
}
