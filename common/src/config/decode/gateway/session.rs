//! `sessionPersistence`: requests of one session go to one endpoint.

use http::HeaderName;
use serde::Deserialize;

use crate::config::decode::Fault;
use crate::config::decode::istio::scalar::positive;
use crate::config::decode::text::Text;
use crate::config::routing::session::{Carrier, Session};

/// The name of a session that states none.
const UNNAMED: &str = "ebb-session";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct SessionManifest<'a> {
    session_name: Option<Text<'a>>,
    r#type: Option<Text<'a>>,
    absolute_timeout: Option<Text<'a>>,
    idle_timeout: Option<Text<'a>>,
    cookie_config: Option<CookieManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct CookieManifest<'a> {
    lifetime_type: Option<Text<'a>>,
}

/// `sessionPersistence` of a rule.
pub(super) fn read(stated: Option<SessionManifest<'_>>, field: &str) -> Result<Option<Session>, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let Some(stated) = stated else { return Ok(None) };
    let name = stated.session_name.as_deref().filter(|it| !it.is_empty()).unwrap_or(UNNAMED);
    let header = HeaderName::from_bytes(name.as_bytes());
    let header = header.map_err(|_| Fault::new(at("sessionName"), format!("{name:?} is no token")))?;
    let lasts = positive(stated.absolute_timeout.as_ref(), &at("absoluteTimeout"))?;
    let idle = positive(stated.idle_timeout.as_ref(), &at("idleTimeout"))?;
    let lifetime = stated.cookie_config.as_ref().and_then(|it| it.lifetime_type.as_deref());
    let permanent = match lifetime {
        None | Some("Session") => false,
        Some("Permanent") => true,
        Some(other) => {
            let reason = format!("{other:?} is neither Session nor Permanent");
            return Err(Fault::new(at("cookieConfig.lifetimeType"), reason));
        }
    };
    if permanent && lasts.is_none() {
        return Err(Fault::new(at("absoluteTimeout"), "not stated; a Permanent cookie needs it"));
    }
    let carrier = match stated.r#type.as_deref().unwrap_or("Cookie") {
        "Cookie" => Carrier::Cookie { name: name.into(), is_permanent: permanent },
        "Header" if stated.cookie_config.is_some() => {
            return Err(Fault::new(at("cookieConfig"), "stated of a session that is carried by a header"));
        }
        "Header" => Carrier::Header(header),
        other => return Err(Fault::new(at("type"), format!("{other:?} is neither Cookie nor Header"))),
    };
    Ok(Some(Session { carrier, lasts, idle }))
}
