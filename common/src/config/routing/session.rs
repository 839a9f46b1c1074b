//! Sessions whose requests go to one endpoint (Gateway API `SessionPersistence`, GEP-1619).
//!
//! Nothing is kept of a session: what its client carries names the endpoint, as in Envoy's stateful sessions, and where the
//! session is to end by itself, when it began and was last used. One whose endpoint is gone, or must not be asked, is
//! replaced by another, and the client told. The surprising thing: a client that writes these times itself only keeps its
//! own session, to an endpoint that it may ask for anyway.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::COOKIE;
use ::http::{HeaderMap, HeaderName};

/// A client is told anew of the last use when this part of `idleTimeout` has passed since it was told before: a session
/// ends after `idleTimeout` at the latest, and that part of it earlier at the earliest.
pub const IDLE_PARTS: u32 = 8;
/// Longest text that can be of ours: an address and two times, in hexadecimal digits.
const MAX_CARRIED: usize = 256;

/// `sessionPersistence` of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What carries it.
    pub carrier: Carrier,
    /// `absoluteTimeout`: it begins anew after so long; `None` for never.
    pub lasts: Option<Duration>,
    /// `idleTimeout`: it begins anew when it was not used for so long; `None` for never.
    pub idle: Option<Duration>,
}

/// What a client carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// A cookie.
    Cookie {
        /// `sessionName`.
        name: Arc<str>,
        /// `Permanent`: kept by the client for `absoluteTimeout`; another ends with the client's session.
        is_permanent: bool,
    },
    /// A header by this name, in answers and in the requests that follow.
    Header(HeaderName),
}

/// A session that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The endpoint that it is with.
    pub endpoint: SocketAddr,
    times: Option<Times>,
}

/// Since 1970, to the millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    began: Duration,
    used: Duration,
}

impl Session {
    /// The session that a request is of, at a time since 1970; none where it has none, or that is over.
    pub fn kept(&self, headers: &HeaderMap, now: Duration) -> Option<Kept> {
        let kept = match &self.carrier {
            Carrier::Header(name) => read(headers.get(name)?.to_str().ok()?),
            Carrier::Cookie { name, .. } => {
                let cookies = headers.get_all(COOKIE).iter().filter_map(|it| it.to_str().ok());
                let mut pairs =
                    cookies.flat_map(|it| it.split(';')).filter_map(|it| it.trim().split_once('='));
                pairs.find_map(|(key, value)| if key == &**name { read(value) } else { None })
            }
        }?;
        let is_over = |since: Duration, most: Option<Duration>| {
            most.is_some_and(|most| now.saturating_sub(since) >= most)
        };
        match kept.times {
            _ if !self.ends() => Some(kept),
            // From before there were timeouts: nobody knows how old it is.
            None => None,
            Some(times) => {
                (!is_over(times.began, self.lasts) && !is_over(times.used, self.idle)).then_some(kept)
            }
        }
    }

    /// What tells a client which endpoint it is to ask for from now on: a header for the answer. None where `kept` says
    /// that already.
    pub fn told(
        &self,
        endpoint: SocketAddr,
        kept: Option<Kept>,
        now: Duration,
    ) -> Option<(HeaderName, String)> {
        let goes_on = kept.filter(|it| it.endpoint == endpoint);
        let before = goes_on.and_then(|it| it.times);
        let is_due = match (self.idle, before) {
            (Some(idle), Some(times)) => now.saturating_sub(times.used) >= idle / IDLE_PARTS,
            _ => false,
        };
        if goes_on.is_some() && !is_due {
            return None;
        }
        let began = before.map_or(now, |it| it.began);
        let value = written(endpoint, self.ends().then_some(Times { began, used: now }));
        Some(match &self.carrier {
            Carrier::Header(name) => (name.clone(), value),
            Carrier::Cookie { name, is_permanent } => {
                let mut cookie = format!("{name}={value}; Path=/; HttpOnly");
                if let Some(lasts) = self.lasts.filter(|_| *is_permanent) {
                    let left = lasts.saturating_sub(now.saturating_sub(began));
                    // Writing to a string cannot fail.
                    let _ = write!(cookie, "; Max-Age={}", left.as_secs());
                }
                (::http::header::SET_COOKIE, cookie)
            }
        })
    }

    /// Whether it ends by itself.
    fn ends(&self) -> bool {
        self.lasts.is_some() || self.idle.is_some()
    }
}

/// An address and times in hexadecimal digits, because a cookie can hold neither brackets nor colons everywhere.
fn written(endpoint: SocketAddr, times: Option<Times>) -> String {
    let mut text = endpoint.to_string();
    if let Some(Times { began, used }) = times {
        let _ = write!(text, " {} {}", began.as_millis(), used.as_millis());
    }
    text.bytes().fold(String::new(), |mut made, byte| {
        let _ = write!(made, "{byte:02x}");
        made
    })
}

fn read(text: &str) -> Option<Kept> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) || text.len() > MAX_CARRIED {
        return None;
    }
    let digits = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok());
    let bytes = digits.collect::<Option<Vec<u8>>>()?;
    let parts: Vec<&str> = std::str::from_utf8(&bytes).ok()?.split(' ').collect();
    let time = |text: &str| text.parse().ok().map(Duration::from_millis);
    let times = match parts[..] {
        [_] => None,
        [_, began, used] => Some(Times { began: time(began)?, used: time(used)? }),
        _ => return None,
    };
    Some(Kept { endpoint: parts[0].parse().ok()?, times })
}

#[cfg(test)]
mod tests {
    use ::http::HeaderValue;

    use super::*;

    fn session(is_permanent: bool, lasts: Option<u64>, idle: Option<u64>) -> Session {
        Session {
            carrier: Carrier::Cookie { name: "s".into(), is_permanent },
            lasts: lasts.map(Duration::from_secs),
            idle: idle.map(Duration::from_secs),
        }
    }

    /// What a client sends that was told this.
    fn carried((name, value): (HeaderName, String)) -> HeaderMap {
        match name == "set-cookie" {
            true => {
                let pair = value.split(';').next().unwrap();
                HeaderMap::from_iter([(
                    COOKIE,
                    HeaderValue::try_from(format!("a=b; s2=x; {pair}; c=d")).unwrap(),
                )])
            }
            false => HeaderMap::from_iter([(name, HeaderValue::try_from(value).unwrap())]),
        }
    }

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    #[test]
    fn what_a_client_is_told_leads_it_back_and_nothing_else_does() {
        let cookie = session(false, None, None);
        let header = Session { carrier: Carrier::Header(HeaderName::from_static("x-s")), ..cookie.clone() };
        for endpoint in ["10.0.0.1:8080", "[fd00::1]:8080"] {
            let endpoint: SocketAddr = endpoint.parse().unwrap();
            for (session, other) in [(&header, &cookie), (&cookie, &header)] {
                let headers = carried(session.told(endpoint, None, NOW).unwrap());
                let kept = session.kept(&headers, NOW);
                assert_eq!(kept.map(|it| it.endpoint), Some(endpoint));
                assert_eq!(other.kept(&headers, NOW), None);
                assert_eq!(session.told(endpoint, kept, NOW), None, "it knows");
                assert!(session.told("10.0.0.9:1".parse().unwrap(), kept, NOW).is_some());
            }
        }
        let (name, value) =
            session(true, Some(60), None).told("10.0.0.1:1".parse().unwrap(), None, NOW).unwrap();
        assert_eq!(name, "set-cookie");
        assert!(value.ends_with("; Path=/; HttpOnly; Max-Age=60"), "{value}");
        for odd in ["", "0", "zz", "31302e30", "s", &"31".repeat(200), "31302e302e302e313a3820"] {
            let headers =
                HeaderMap::from_iter([(HeaderName::from_static("x-s"), HeaderValue::try_from(odd).unwrap())]);
            assert_eq!(header.kept(&headers, NOW), None, "{odd}");
        }
    }

    /// Whether a session goes on at each of these seconds, and whether its client is then told anew.
    fn course(session: &Session, seconds: &[u64]) -> Vec<(bool, bool)> {
        let endpoint = "10.0.0.1:80".parse().unwrap();
        let mut headers = HeaderMap::new();
        let step = |at: &u64| {
            let now = NOW + Duration::from_secs(*at);
            let kept = session.kept(&headers, now);
            let told = session.told(endpoint, kept, now);
            let step = (kept.is_some(), told.is_some());
            told.into_iter().for_each(|told| headers = carried(told));
            step
        };
        seconds.iter().map(step).collect()
    }

    #[test]
    fn a_session_ends_when_it_was_idle_or_is_over_and_its_client_is_told_now_and_then() {
        let (new, goes_on, renewed) = ((false, true), (true, false), (true, true));
        for (lasts, idle, seconds, expected) in [
            (None, None, &[0, 1_000_000][..], &[new, goes_on][..]),
            (None, Some(80), &[0, 5, 9, 10, 15, 20], &[new, goes_on, goes_on, renewed, goes_on, renewed]),
            // Idle for the time from when the client was last told.
            (None, Some(80), &[0, 79, 80, 158, 239], &[new, renewed, goes_on, renewed, new]),
            (None, Some(80), &[0, 80], &[new, new]),
            (Some(100), None, &[0, 50, 99, 100], &[new, goes_on, goes_on, new]),
            // Use does not prolong it beyond its end.
            (Some(100), Some(80), &[0, 60, 99, 100], &[new, renewed, renewed, new]),
        ] {
            assert_eq!(course(&session(false, lasts, idle), seconds), expected, "{lasts:?} {idle:?}");
        }
    }

    #[test]
    fn one_from_before_there_were_timeouts_begins_anew_and_a_renewed_cookie_ends_when_it_would_have() {
        let endpoint = "10.0.0.1:80".parse().unwrap();
        let old = carried(session(false, None, None).told(endpoint, None, NOW).unwrap());
        assert_eq!(session(false, None, Some(60)).kept(&old, NOW), None);
        let both = session(true, Some(100), Some(80));
        let first = carried(both.told(endpoint, None, NOW).unwrap());
        assert!(session(false, None, None).kept(&first, NOW).is_some(), "the timeouts are gone");
        let later = NOW + Duration::from_secs(30);
        let (_, value) = both.told(endpoint, both.kept(&first, later), later).unwrap();
        assert!(value.ends_with("Max-Age=70"), "{value}");
        // Another waypoint's clock may be behind.
        assert!(both.kept(&first, NOW - Duration::from_secs(5)).is_some());
    }
}
