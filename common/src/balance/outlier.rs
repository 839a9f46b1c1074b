//! Which endpoints are ejected for failing, and for how long (Istio `outlierDetection`).
//!
//! Envoy's detector of consecutive errors. A success ends a run of errors; a run as long as the setting ejects, for the
//! base time as often over as it happened of late; who behaves for an interval after the return is forgiven once. Never
//! more endpoints are ejected than the setting allows, except that one always may be. Error rates are not looked at, as
//! Istio switches them off in Envoy.
//!
//! Knows no level of preference: whether the rest can take the traffic is for [`locality`](super::locality) to decide.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The longest ejection, however often it happened, unless the base time is longer yet (Envoy's
/// `max_ejection_time`).
pub const MAX_EJECTION: Duration = Duration::from_secs(300);

/// `outlierDetection`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `consecutive5xxErrors`, 0 for off.
    pub consecutive_5xx: u32,
    /// `consecutiveGatewayErrors`: of 502, 503 and 504, which count as 5xx too; 0 for off.
    pub consecutive_gateway: u32,
    /// `splitExternalLocalOriginErrors`: failures to connect and timeouts are counted by themselves, and not as 503
    /// and 504.
    pub split_local_origin: bool,
    /// `consecutiveLocalOriginFailures`, when they are split; 0 for off.
    pub consecutive_local_origin: u32,
    /// `outlierDetectionHttpErrorCodes`: the codes that are errors; none for 500 to 599.
    pub error_codes: Box<[u16]>,
    /// `interval` between two sweeps.
    pub interval: Duration,
    /// `baseEjectionTime`.
    pub base_ejection: Duration,
    /// `maxEjectionPercent` of the endpoints, 0 to 100.
    pub max_ejection_percent: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway: 0,
            split_local_origin: false,
            consecutive_local_origin: 5,
            error_codes: Box::default(),
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection_percent: 10,
        }
    }
}

impl Settings {
    /// How long the `times`th ejection lasts.
    fn ejection(&self, times: u32) -> Duration {
        self.base_ejection.saturating_mul(times).min(self.longest())
    }

    fn longest(&self) -> Duration {
        MAX_EJECTION.max(self.base_ejection)
    }

    /// What an outcome does to the runs of errors of an endpoint. Who knows that there is no run need not record what
    /// would end it.
    pub fn effect(&self, outcome: Outcome) -> Effect {
        match outcome {
            Outcome::Connected | Outcome::Opened if self.split_local_origin => Effect::Ends(Run::LocalOrigin),
            Outcome::TimedOut | Outcome::Failed if self.split_local_origin => {
                Effect::Lengthens(Run::LocalOrigin)
            }
            Outcome::Connected => Effect::Nothing,
            _ if self.code(outcome).is_some() => Effect::Lengthens(Run::Answers),
            _ => Effect::Ends(Run::Answers),
        }
    }

    /// The status that an error counts as; `None` for a success. Codes that an operator names are none of a gateway.
    fn code(&self, outcome: Outcome) -> Option<u16> {
        match outcome {
            Outcome::Answered(code) if self.error_codes.is_empty() => {
                matches!(code, 500..=599).then_some(code)
            }
            Outcome::Answered(code) => self.error_codes.contains(&code).then_some(500),
            Outcome::Connected | Outcome::Opened => None,
            Outcome::TimedOut => Some(504),
            Outcome::Failed => Some(503),
        }
    }
}

/// Errors one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Of answers, and of what counts as one.
    Answers,
    /// Of failures to connect and timeouts, where they are counted by themselves.
    LocalOrigin,
}

/// What an outcome does to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Neither success nor failure.
    Nothing,
    /// It is one more error.
    Lengthens(Run),
    /// It is a success.
    Ends(Run),
}

/// What an endpoint did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered with this status.
    Answered(u16),
    /// A connection for requests was made, whose answers are still to come.
    Connected,
    /// A connection was made for TCP, of which no more will be known.
    Opened,
    /// It did not answer in time.
    TimedOut,
    /// No connection was made, or it broke before the answer.
    Failed,
}

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A run of errors.
    Consecutive5xx,
    /// A run of 502, 503 and 504.
    ConsecutiveGateway,
    /// A run of failures to connect and timeouts.
    ConsecutiveLocalOrigin,
}

/// What is known of the endpoints of one service or subset.
#[derive(Debug, Clone, Default)]
pub struct Detector {
    monitors: BTreeMap<SocketAddr, Monitor>,
}

impl Detector {
    /// These are the endpoints now. What is known of those that stay is kept; only theirs is.
    pub fn track(&mut self, endpoints: impl IntoIterator<Item = SocketAddr>) {
        let mut before = std::mem::take(&mut self.monitors);
        let known = |endpoint| (endpoint, before.remove(&endpoint).unwrap_or_default());
        self.monitors = endpoints.into_iter().map(known).collect();
    }

    /// Takes note of what an endpoint did. `Some` when it is ejected for it; one that is not tracked never is.
    pub fn record(
        &mut self,
        settings: &Settings,
        endpoint: SocketAddr,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Cause> {
        let monitor = self.monitors.get_mut(&endpoint)?;
        let runs = monitor.count(settings, outcome);
        if runs == [None, None] || monitor.ejected_at.is_some() {
            return None;
        }
        let room = self.has_room(settings);
        let monitor = self.monitors.get_mut(&endpoint)?;
        for cause in runs.into_iter().flatten() {
            // Also without room: the next ejection takes a run of errors of its own.
            *monitor.run(cause) = 0;
            if room {
                monitor.eject(settings, now);
                return Some(cause);
            }
        }
        None
    }

    /// To be called at every interval: ends the ejections whose time is over and names those that return.
    pub fn sweep(&mut self, settings: &Settings, now: Instant) -> Vec<SocketAddr> {
        let returns = |(endpoint, monitor): (&SocketAddr, &mut Monitor)| {
            monitor.sweep(settings, now).then_some(*endpoint)
        };
        self.monitors.iter_mut().filter_map(returns).collect()
    }

    /// Whether an endpoint is ejected.
    pub fn is_ejected(&self, endpoint: SocketAddr) -> bool {
        self.monitors.get(&endpoint).is_some_and(|it| it.ejected_at.is_some())
    }

    /// Whether sweeps have nothing to do: nobody is ejected, and no ejection is left to be forgiven.
    pub fn is_settled(&self) -> bool {
        self.monitors.values().all(|it| it.ejected_at.is_none() && it.times == 0)
    }

    /// Whether one more may be ejected.
    fn has_room(&self, settings: &Settings) -> bool {
        let ejected = self.monitors.values().filter(|it| it.ejected_at.is_some()).count();
        let percent = usize::from(settings.max_ejection_percent);
        ejected == 0 || (ejected + 1) * 100 <= percent * self.monitors.len()
    }
}

/// What is known of one endpoint.
#[derive(Debug, Clone, Default)]
struct Monitor {
    errors: u32,
    gateway_errors: u32,
    local_failures: u32,
    ejected_at: Option<Instant>,
    returned_at: Option<Instant>,
    /// Ejections that are not yet forgiven.
    times: u32,
}

impl Monitor {
    /// Counts an outcome. The runs that have become long enough, the more specific first.
    fn count(&mut self, settings: &Settings, outcome: Outcome) -> [Option<Cause>; 2] {
        match settings.effect(outcome) {
            Effect::Nothing => return [None, None],
            Effect::Ends(Run::LocalOrigin) => {
                self.local_failures = 0;
                return [None, None];
            }
            Effect::Lengthens(Run::LocalOrigin) => {
                self.local_failures = self.local_failures.saturating_add(1);
                return [self.long(Cause::ConsecutiveLocalOrigin, settings.consecutive_local_origin), None];
            }
            Effect::Ends(Run::Answers) => {
                (self.errors, self.gateway_errors) = (0, 0);
                return [None, None];
            }
            Effect::Lengthens(Run::Answers) => {}
        }
        self.errors = self.errors.saturating_add(1);
        let gateway = settings.code(outcome).is_some_and(|code| matches!(code, 502..=504));
        self.gateway_errors = if gateway { self.gateway_errors.saturating_add(1) } else { 0 };
        [
            self.long(Cause::ConsecutiveGateway, settings.consecutive_gateway),
            self.long(Cause::Consecutive5xx, settings.consecutive_5xx),
        ]
    }

    fn long(&mut self, cause: Cause, threshold: u32) -> Option<Cause> {
        (threshold > 0 && *self.run(cause) >= threshold).then_some(cause)
    }

    fn run(&mut self, cause: Cause) -> &mut u32 {
        match cause {
            Cause::Consecutive5xx => &mut self.errors,
            Cause::ConsecutiveGateway => &mut self.gateway_errors,
            Cause::ConsecutiveLocalOrigin => &mut self.local_failures,
        }
    }

    fn eject(&mut self, settings: &Settings, now: Instant) {
        self.ejected_at = Some(now);
        // Hardly further than the longest ejection needs, so that what is forgiven later counts.
        if settings.base_ejection.saturating_mul(self.times)
            < settings.longest().saturating_add(settings.base_ejection)
        {
            self.times = self.times.saturating_add(1);
        }
    }

    /// Whether it returns.
    fn sweep(&mut self, settings: &Settings, now: Instant) -> bool {
        let passed = |since: Instant| now.saturating_duration_since(since);
        match (self.ejected_at, self.returned_at) {
            (Some(since), _) if passed(since) >= settings.ejection(self.times) => {
                *self = Self { times: self.times, returned_at: Some(now), ..Self::default() };
                true
            }
            (None, Some(since)) if passed(since) >= settings.interval => {
                self.times = self.times.saturating_sub(1);
                false
            }
            _ => false,
        }
    }
}
