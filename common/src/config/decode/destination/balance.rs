//! `loadBalancer`.

use std::sync::Arc;

use http::HeaderName;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::config::decode::istio::scalar::{
    Double, Entries, MAX_WHOLE, Whole, duration, percent, positive, whole,
};
use crate::config::decode::istio::{List, Reader, Texts};
use crate::config::decode::policy::list;
use crate::config::decode::text::Text;
use crate::config::decode::{Fault, check};
use crate::config::destination::balance::{
    Algorithm, ConsistentHash, Distribution, HashCookie, HashKey, HashTable, LoadBalancer, Locality,
    PriorityLabel, Warmup,
};
use crate::config::note::Caveat;

/// Entries of a ring, when it does not say.
const RING_SIZE: u32 = 1024;
/// Most entries of a ring (Envoy's own limit).
const MAX_RING_SIZE: u32 = 8 << 20;
/// Entries of a maglev table, when it does not say.
const MAGLEV_SIZE: u32 = 65_537;
/// Most entries of a maglev table (Envoy's own limit).
const MAX_MAGLEV_SIZE: u32 = 5_000_011;
/// What an endpoint that is new starts with, in percent, when it does not say.
const WARMUP_PERCENT: f64 = 10.0;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct BalancerManifest<'a> {
    simple: Option<Text<'a>>,
    consistent_hash: Option<HashManifest<'a>>,
    locality_lb_setting: Option<LocalityManifest<'a>>,
    zone_aware_lb_setting: Option<IgnoredAny>,
    warmup_duration_secs: Option<Text<'a>>,
    warmup: Option<WarmupManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct HashManifest<'a> {
    http_header_name: Option<Text<'a>>,
    http_cookie: Option<CookieManifest<'a>>,
    use_source_ip: Option<bool>,
    http_query_parameter_name: Option<Text<'a>>,
    ring_hash: Option<RingManifest>,
    maglev: Option<MaglevManifest>,
    minimum_ring_size: Option<Whole>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct CookieManifest<'a> {
    name: Option<Text<'a>>,
    path: Option<Text<'a>>,
    ttl: Option<Text<'a>>,
    attributes: List<AttributeManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct AttributeManifest<'a> {
    name: Option<Text<'a>>,
    value: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RingManifest {
    minimum_ring_size: Option<Whole>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MaglevManifest {
    table_size: Option<Whole>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct LocalityManifest<'a> {
    enabled: Option<bool>,
    distribute: List<DistributeManifest<'a>>,
    failover: List<FailoverManifest<'a>>,
    failover_priority: Texts<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct DistributeManifest<'a> {
    from: Option<Text<'a>>,
    to: Option<Entries<'a, Whole>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct FailoverManifest<'a> {
    from: Option<Text<'a>>,
    to: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct WarmupManifest<'a> {
    duration: Option<Text<'a>>,
    minimum_percent: Option<Double>,
    aggression: Option<Double>,
}

/// `loadBalancer`.
pub(super) fn read(
    reader: &mut Reader<'_>,
    stated: BalancerManifest<'_>,
    field: &str,
) -> Result<LoadBalancer, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    if stated.zone_aware_lb_setting.is_some() {
        reader.note(at("zoneAwareLbSetting"), Caveat::ZoneAwareIgnored);
    }
    let simple = simple(reader, stated.simple.as_ref(), &at("simple"))?;
    let algorithm = match stated.consistent_hash {
        Some(_) if stated.simple.is_some() => {
            return Err(Fault::new(at("consistentHash"), "stated together with simple"));
        }
        Some(hash) => {
            let hash = consistent_hash(reader, hash, &at("consistentHash"))?;
            Some(Algorithm::ConsistentHash(hash))
        }
        None => simple,
    };
    let warmup = warmup(reader, stated.warmup, stated.warmup_duration_secs.as_ref(), field)?;
    let slow_starts = matches!(algorithm, None | Some(Algorithm::LeastRequest | Algorithm::RoundRobin));
    if warmup.is_some() && !slow_starts {
        reader.note(at("warmup"), Caveat::WarmupWithoutEffect);
    }
    let locality = stated.locality_lb_setting.map(|it| locality(reader, it, &at("localityLbSetting")));
    Ok(LoadBalancer { algorithm, locality: locality.transpose()?, warmup })
}

fn simple(
    reader: &mut Reader<'_>,
    stated: Option<&Text<'_>>,
    field: &str,
) -> Result<Option<Algorithm>, Fault> {
    Ok(Some(match stated.map(|it| &**it) {
        None | Some("UNSPECIFIED") => return Ok(None),
        Some("LEAST_REQUEST") => Algorithm::LeastRequest,
        Some("LEAST_CONN") => {
            reader.note(field, Caveat::LeastConnAlias);
            Algorithm::LeastRequest
        }
        Some("ROUND_ROBIN") => Algorithm::RoundRobin,
        Some("RANDOM") => Algorithm::Random,
        Some("PASSTHROUGH") => Algorithm::Passthrough,
        Some(other) => {
            let reason = format!("{other:?} is none of LEAST_REQUEST, ROUND_ROBIN, RANDOM, PASSTHROUGH");
            return Err(Fault::new(field, reason));
        }
    }))
}

fn consistent_hash(
    reader: &mut Reader<'_>,
    stated: HashManifest<'_>,
    field: &str,
) -> Result<ConsistentHash, Fault> {
    let table = hash_table(reader, &stated, field)?;
    let at = |name: &str| format!("{field}.{name}");
    let mut keys = Vec::new();
    if let Some(name) = stated.http_header_name {
        let read = HeaderName::from_bytes(name.as_bytes());
        let wrong = |_| Fault::new(at("httpHeaderName"), format!("{:?} is no header name", &*name));
        keys.push(HashKey::Header(read.map_err(wrong)?));
    }
    if let Some(stated) = stated.http_cookie {
        keys.push(HashKey::Cookie(cookie(reader, stated, &at("httpCookie"))?));
    }
    if stated.use_source_ip == Some(true) {
        keys.push(HashKey::SourceAddress);
    }
    if let Some(name) = stated.http_query_parameter_name {
        if name.is_empty() {
            return Err(Fault::new(at("httpQueryParameterName"), "empty"));
        }
        keys.push(HashKey::QueryParameter(reader.share(&name)));
    }
    let names = "httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName";
    match (keys.pop(), keys.pop()) {
        (Some(key), None) => Ok(ConsistentHash { key, table }),
        (None, _) => Err(Fault::new(field, format!("states none of {names}"))),
        (Some(_), Some(_)) => Err(Fault::new(field, format!("states more than one of {names}"))),
    }
}

fn cookie(reader: &mut Reader<'_>, stated: CookieManifest<'_>, field: &str) -> Result<HashCookie, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let name = token(reader, stated.name.as_ref(), &at("name"))?;
    let path = reader.filled(stated.path.as_ref()).unwrap_or_default();
    value_of_cookie(&path, &at("path"))?;
    let attributes = list(stated.attributes, &at("attributes"), |it, field| {
        let name = token(reader, it.name.as_ref(), &format!("{field}.name"))?;
        let value = reader.filled(it.value.as_ref()).unwrap_or_default();
        value_of_cookie(&value, &format!("{field}.value"))?;
        Ok((name, value))
    })?;
    Ok(HashCookie { name, path, ttl: duration(stated.ttl.as_ref(), &at("ttl"))?, attributes })
}

/// A name that may stand in `Set-Cookie` (RFC 6265, section 4.1.1).
fn token(reader: &mut Reader<'_>, stated: Option<&Text<'_>>, field: &str) -> Result<Arc<str>, Fault> {
    let text = stated.map_or("", |it| &**it);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || !text.bytes().all(fits) {
        return Err(Fault::new(field, format!("{text:?} is no name of a cookie or its attributes")));
    }
    Ok(reader.share(text))
}

fn value_of_cookie(text: &str, field: &str) -> Result<(), Fault> {
    if text.bytes().all(|byte| matches!(byte, 0x20..=0x7e) && byte != b';') {
        return Ok(());
    }
    Err(Fault::new(field, format!("{text:?} cannot stand in a cookie")))
}

fn hash_table(reader: &mut Reader<'_>, stated: &HashManifest<'_>, field: &str) -> Result<HashTable, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let older = whole(stated.minimum_ring_size, 0..=MAX_RING_SIZE, &at("minimumRingSize"))?;
    if older.is_some() {
        reader.note(at("minimumRingSize"), Caveat::MinimumRingSizeLegacy);
    }
    if let Some(maglev) = &stated.maglev {
        if stated.ring_hash.is_some() {
            return Err(Fault::new(at("maglev"), "stated together with ringHash"));
        }
        let at = at("maglev.tableSize");
        let size = whole(maglev.table_size, 2..=MAX_MAGLEV_SIZE, &at)?.unwrap_or(MAGLEV_SIZE);
        return match is_prime(size) {
            true => Ok(HashTable::Maglev(size)),
            false => Err(Fault::new(at, format!("{size} is not a prime"))),
        };
    }
    let ring = stated.ring_hash.as_ref().and_then(|it| it.minimum_ring_size);
    let ring = whole(ring, 0..=MAX_RING_SIZE, &at("ringHash.minimumRingSize"))?;
    Ok(HashTable::Ring(ring.or(older).filter(|it| *it > 0).unwrap_or(RING_SIZE)))
}

fn is_prime(number: u32) -> bool {
    number > 1 && (2..).take_while(|it| it * it <= number).all(|it| !number.is_multiple_of(it))
}

fn warmup(
    reader: &mut Reader<'_>,
    stated: Option<WarmupManifest<'_>>,
    older: Option<&Text<'_>>,
    field: &str,
) -> Result<Option<Warmup>, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let older = positive(older, &at("warmupDurationSecs"))?;
    if older.is_some() {
        reader.note(at("warmupDurationSecs"), Caveat::WarmupLegacy);
    }
    let linear = 1000;
    let Some(stated) = stated else {
        let minimum = percent(Some(Double(WARMUP_PERCENT)), field)?.unwrap_or_default();
        let warmup = |duration| Warmup { duration, minimum, aggression_thousandths: linear };
        return Ok(older.map(warmup));
    };
    let duration = positive(stated.duration.as_ref(), &at("warmup.duration"))?;
    let duration = duration.ok_or_else(|| Fault::new(at("warmup.duration"), "not stated"))?;
    let minimum = stated.minimum_percent.unwrap_or(Double(WARMUP_PERCENT));
    let minimum = percent(Some(minimum), &at("warmup.minimumPercent"))?.unwrap_or_default();
    let aggression_thousandths = match stated.aggression {
        None => linear,
        // The range makes the cast exact but for what is below a thousandth.
        Some(Double(it)) if (1.0..=1000.0).contains(&it) => (it * 1000.0).round() as u32,
        Some(Double(it)) => {
            return Err(Fault::new(at("warmup.aggression"), format!("{it} is not within 1 to 1000")));
        }
    };
    Ok(Some(Warmup { duration, minimum, aggression_thousandths }))
}

fn locality(reader: &mut Reader<'_>, stated: LocalityManifest<'_>, field: &str) -> Result<Locality, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let distribute = list(stated.distribute, &at("distribute"), |it, field| distribution(reader, it, field))?;
    let failover = list(stated.failover, &at("failover"), |it, field| {
        let from = region(reader, it.from.as_ref(), &format!("{field}.from"))?;
        let to = region(reader, it.to.as_ref(), &format!("{field}.to"))?;
        match from == to {
            true => Err(Fault::new(field, format!("from {from} to itself"))),
            false => Ok((from, to)),
        }
    })?;
    let failover_priority = list(stated.failover_priority, &at("failoverPriority"), |it, field| {
        let (key, value) = it.split_once('=').map_or((&*it, None), |(key, value)| (key, Some(value)));
        if key.is_empty() || value.is_some_and(|it| !check::is_label_value(it)) {
            return Err(Fault::new(field, format!("{:?} is neither label nor label=value", &*it)));
        }
        Ok(PriorityLabel { key: reader.share(key), value: value.map(|it| reader.share(it)) })
    })?;
    if !distribute.is_empty() && (!failover.is_empty() || !failover_priority.is_empty()) {
        let reason = "stated together with failover; only one of both can decide";
        return Err(Fault::new(at("distribute"), reason));
    }
    Ok(Locality { enabled: stated.enabled, distribute, failover, failover_priority })
}

fn region(reader: &mut Reader<'_>, stated: Option<&Text<'_>>, field: &str) -> Result<Arc<str>, Fault> {
    let region = reader.filled(stated).ok_or_else(|| Fault::new(field, "not stated"))?;
    if region.contains(['/', '*']) {
        return Err(Fault::new(
            field,
            format!("{region} is not a region: failover is from region to region"),
        ));
    }
    Ok(region)
}

fn distribution(
    reader: &mut Reader<'_>,
    stated: DistributeManifest<'_>,
    field: &str,
) -> Result<Distribution, Fault> {
    let from = place(stated.from.as_deref().unwrap_or_default(), reader, &format!("{field}.from"))?;
    let field = format!("{field}.to");
    let (mut to, mut sum) = (Vec::new(), 0u64);
    for (key, part) in stated.to.unwrap_or_default().0 {
        let field = format!("{field}[{:?}]", &*key);
        let part = whole(Some(part), 1..=MAX_WHOLE, &field)?.unwrap_or_default();
        sum += u64::from(part);
        to.push((place(&key, reader, &field)?, part));
    }
    if sum != 100 {
        return Err(Fault::new(field, format!("the weights add up to {sum}, not to 100")));
    }
    Ok(Distribution { from, to: to.into() })
}

/// `region/zone/subzone`, in which only the last may be `*`.
fn place(text: &str, reader: &mut Reader<'_>, field: &str) -> Result<Arc<str>, Fault> {
    let parts: Vec<&str> = text.split('/').collect();
    let star = parts.iter().position(|it| it.contains('*'));
    let fits = parts.len() <= 3
        && parts.iter().all(|it| !it.is_empty())
        && star.is_none_or(|at| at + 1 == parts.len() && parts[at] == "*");
    if !fits {
        let reason = format!("{text:?} is no locality: region/zone/subzone, of which the last may be *");
        return Err(Fault::new(field, reason));
    }
    Ok(reader.share(text))
}
