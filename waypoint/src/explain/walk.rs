//! The walk of one request through a waypoint: read, admitted by its tokens and by policy, and the rule it falls under.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use common::config::authentication::KeySource;
use common::config::{AuthorizationPolicy, Key, Kind};
use common::explain::Verdict;
use common::explain::connection::{Sight, Teller};
use common::hbone::request::Authority;
use common::snapshot::model::Workload;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};

use super::asked::Asked;
use super::onward::Onwards;
use super::stand::Stand;
use super::words;
use crate::authn::refusal::Refusal;
use crate::authn::rules::Rules;
use crate::authn::tables::Bound;
use crate::authn::verified::Cache;
use crate::authn::{self, Stopped};
use crate::authz::called::Called as Policed;
use crate::authz::{Facts, HttpFacts, PolicySet};
use crate::destination::{Destination, Protocol};
use crate::exchange::called::{Called, Scene};
use crate::exchange::head::Head;
use crate::routes::{ConnectionFacts, Found, HttpRoutes, RequestFacts, Rule};

/// Most rules that are told of which do not take the request.
const MAX_PASSED: usize = 10;
/// Most policies that are told of.
const MAX_POLICIES: usize = 50;

/// One call to one waypoint.
pub(super) struct Walk<'m> {
    pub(super) sight: Sight<'m>,
    pub(super) stand: &'m Stand,
    pub(super) caller: &'m Arc<Workload>,
    /// What the waypoint is asked for.
    pub(super) original: SocketAddr,
}

impl Walk<'_> {
    /// Tells all of it. `to` is what was called, as it was written.
    pub(super) fn tell(&self, asked: &Asked, to: &str, teller: &mut Teller<'_>) -> Verdict {
        let authority = Authority::Address(self.original);
        let destination = match Destination::find(self.sight.mesh, &self.stand.gateway, &authority) {
            Ok(destination) => destination,
            Err(refusal) => return Verdict::Refused(refusal.to_string()),
        };
        let pod = OnceLock::new();
        let scene = Scene {
            clusters: &self.stand.clusters,
            destination: &destination,
            original: self.original,
            caller: Some(self.caller),
            pod: &pod,
        };
        let called = Called::of(self.stand.followed.clone(), scene);
        let protocol = destination.protocol();
        let is_carried = matches!(protocol, Protocol::Tcp | Protocol::Tls) || asked.server_name.is_some();
        let says = match (protocol, is_carried) {
            (Protocol::Tcp, _) => "the port is declared TCP: bytes are carried, and no request is looked at",
            (Protocol::Tls, _) => {
                "the port is declared TLS: bytes are carried by the name in its ClientHello"
            }
            (_, true) => "TLS of the application's own: bytes are carried by the name in its ClientHello",
            (Protocol::Undeclared, _) => {
                "the port declares no protocol: the first bytes show that it is HTTP"
            }
            (Protocol::Http, _) => "the port is declared HTTP",
        };
        let by = destination.service().map(|it| self.sight.by_service(it));
        teller.told.tell("protocol", says, by, json!({ "carriedAsBytes": is_carried }));
        if is_carried {
            if let Some(why) = called.unasked().filter(|_| called.refuses_tls()) {
                teller.told.say("route", why.to_string(), None);
                return Verdict::Refused(format!("400: {why}"));
            }
            return self.connection(asked.server_name.as_deref(), &called, &destination, teller);
        }
        self.request(asked, &host(to), (&called, &destination), teller)
    }

    fn request(
        &self,
        asked: &Asked,
        host: &str,
        (called, destination): (&Called<'_>, &Destination),
        teller: &mut Teller<'_>,
    ) -> Verdict {
        let mut head = match asked.head(host) {
            Ok(head) => head,
            Err(unread) => {
                let facts = json!({ "status": unread.status });
                teller.told.tell("request", "it cannot be read in one way only", None, facts);
                return Verdict::Refused(format!("{}: {}", unread.status, unread.why));
            }
        };
        {
            let facts = self.facts(&head, destination);
            let says = format!("{} {}{}", facts.method, facts.authority, facts.target());
            let facts =
                json!({ "method": facts.method, "authority": facts.authority, "target": facts.target() });
            teller.told.tell("request", says, None, facts);
        }
        if let Err(verdict) = self.authenticate(&mut head, called, teller) {
            return verdict;
        }
        let (before, http) = (head.headers.clone(), self.facts(&head, destination));
        let http =
            HttpFacts { request: http, reads_twice: head.reads_twice, claims: head.authenticated.claims() };
        if let Err(verdict) = self.admit(Some(http), None, destination, teller) {
            return verdict;
        }
        let facts = http.request;
        if let Some(why) = called.unasked() {
            teller.told.say("route", why.to_string(), None);
            return Verdict::Refused(format!("{}: {why}", why.status()));
        }
        let rule = match self.rule(called.routes(), &facts, teller) {
            Ok(rule) => rule,
            Err(verdict) => return verdict,
        };
        self.limits(called, (&facts, rule), teller);
        Onwards { walk: self, called, head: &head, facts, before: &before, rule }.tell(teller)
    }

    /// How many such requests are let through. How many there were is known to the replicas of the waypoint alone.
    fn limits(
        &self,
        called: &Called<'_>,
        (facts, rule): (&RequestFacts<'_>, Option<&Rule>),
        teller: &mut Teller<'_>,
    ) {
        let Some((limits, meant)) = called.limits(rule) else { return };
        for (stated, at, limit) in limits.of(&meant, facts) {
            let key = Key { kind: Kind::RateLimit, object: stated.object.clone() };
            let by = self.sight.by_field(key, &format!("spec.limits[{at}]"));
            let each = if limit.by.is_empty() { "" } else { ", counted apart" };
            let dry = if stated.dry_run { ", which is not enforced (dry run)" } else { "" };
            let says = format!(
                "{} per {:?} and {} at once, in each replica{each}{dry}; beyond, 429",
                limit.requests, limit.per, limit.burst
            );
            let facts = json!({
                "requests": limit.requests,
                "perMilliseconds": limit.per.as_millis(),
                "burst": limit.burst,
                "dryRun": stated.dry_run,
            });
            teller.told.tell("limit", says, Some(by), facts);
        }
    }

    fn facts<'a>(&'a self, head: &'a Head, destination: &Destination) -> RequestFacts<'a> {
        head.facts_for(destination.port(), Some(self.caller))
    }

    /// Whose request it is, by its tokens.
    fn authenticate(
        &self,
        head: &mut Head,
        called: &Called<'_>,
        teller: &mut Teller<'_>,
    ) -> Result<(), Verdict> {
        let rules = match called.authentication() {
            Bound::Rules(rules) if rules.is_empty() => {
                if head.headers.contains_key(AUTHORIZATION) {
                    let says = "no RequestAuthentication applies: a token is passed on as it came, and is nobody's word";
                    teller.told.tell("token", says, None, json!({ "verified": null }));
                }
                return Ok(());
            }
            Bound::Rules(rules) => rules,
            Bound::Unknown => {
                teller.told.say("token", "a RequestAuthentication that may apply cannot be read", None);
                return Err(refused(Refusal::Unreadable));
            }
        };
        self.token_rules(&rules, teller);
        // By a clock that is before 1970 nothing can be told to be valid still.
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(u64::MAX, |it| it.as_secs());
        let before = head.headers.clone();
        match authn::authenticate(&rules, &mut head.carrier(), &Mutex::new(Cache::default()), now) {
            Ok(authenticated) => {
                head.authenticated = authenticated;
                tell_claims(head, &before, teller);
                Ok(())
            }
            Err(Stopped::Refused(refusal)) => {
                let facts = json!({ "verified": false, "reason": refusal.words() });
                teller.told.tell("token", format!("not good: {}", refusal.words()), None, facts);
                Err(refused(refusal))
            }
            Err(Stopped::Pending(keys)) => {
                let from = source(keys.source());
                teller.told.say(
                    "token",
                    format!("the keys to verify it are at {from}, and not fetched here"),
                    None,
                );
                Err(Verdict::Depends(
                    "whether the token is good, which keys that are not fetched here say".to_owned(),
                ))
            }
        }
    }

    fn token_rules(&self, rules: &Rules, teller: &mut Teller<'_>) {
        for rule in rules.iter() {
            let stating = self.stand.followed.authentication().stating(rule);
            let (object, at) = stating.map_or((None, 0), |(object, at)| (Some(object.clone()), at));
            let key = object.map(|object| Key { kind: Kind::RequestAuthentication, object });
            let by = key.map(|key| self.sight.by_field(key, &format!("spec.jwtRules[{at}]")));
            let keys = match rule.fetched_from() {
                Some(from) => format!("keys from {}", source(from)),
                None => "keys as stated".to_owned(),
            };
            let says = format!("spec.jwtRules[{at}] applies: tokens of {}, {keys}", rule.issuer());
            teller.told.tell("token", says, by, json!({ "issuer": rule.issuer() }));
        }
    }

    /// Whether policy lets it through.
    fn admit(
        &self,
        http: Option<HttpFacts<'_>>,
        server_name: Option<&str>,
        destination: &Destination,
        teller: &mut Teller<'_>,
    ) -> Result<(), Verdict> {
        let address = self.caller.addresses.iter().find(|it| it.is_ipv4() == self.original.is_ipv4());
        let source = address.or(self.caller.addresses.first()).copied().unwrap_or(self.original.ip());
        let facts = Facts {
            identity: teller.identity(),
            caller: Some(self.caller),
            source,
            destination: self.original.ip().to_canonical(),
            port: destination.port(),
            server_name,
            http,
        };
        let followed = &self.stand.followed;
        let policed = Policed {
            mesh: followed.mesh(),
            policies: followed.policies(),
            gateway: &self.stand.gateway,
            destination,
            original: self.original,
        };
        let mut told = 0;
        // Telling refuses nothing.
        let _ = policed.each(&mut |effective, port| {
            if let Some(unknown) = effective.unknown {
                teller.told.say("policy", format!("{unknown} may apply and cannot be read"), None);
            }
            for set in effective.sets() {
                self.policies(set, &Facts { port, ..facts }, (&mut told, teller));
            }
            Ok(())
        });
        if told == 0 {
            teller.told.say("policy", "no AuthorizationPolicy is attached for this waypoint", None);
        }
        if let Some(more @ 1..) = told.checked_sub(MAX_POLICIES) {
            teller.told.say("policy", format!("and {more} more, which are asked as well"), None);
        }
        let judged = policed.each(&mut |effective, port| {
            let facts = Facts { port, ..facts };
            let agreed = effective.providers(&facts)?;
            for provider in &agreed {
                let said = format!("authorizer {provider} is asked first; what follows is if it agrees");
                teller.told.say("policy", said, None);
            }
            effective.judge(&facts, &agreed)
        });
        judged.map_err(|denial| {
            let status = match denial {
                crate::authz::Denial::Ambiguous(_) => 400,
                _ => 403,
            };
            match http {
                Some(_) => Verdict::Refused(format!("{status}: {denial}")),
                None => Verdict::Refused(denial.to_string()),
            }
        })
    }

    fn policies(&self, set: &PolicySet, facts: &Facts<'_>, (told, teller): (&mut usize, &mut Teller<'_>)) {
        for policy in set.iter() {
            *told += 1;
            if *told > MAX_POLICIES {
                continue;
            }
            let action = format!("{:?}", policy.action()).to_ascii_uppercase();
            let dry = if policy.dry_run() { ", which is not enforced (dry run)" } else { "" };
            let matched = policy.matched(facts);
            let word = match matched {
                Some(at) => format!("spec.rules[{at}] matches"),
                None => "no rule matches".to_owned(),
            };
            let mut by = self.sight.by_named(Kind::AuthorizationPolicy, policy.key());
            if let (Some(at), Some(it)) = (matched, &mut by) {
                *it = self.sight.by_field(it.key.clone(), &format!("spec.rules[{at}]"));
            }
            let shown = json!({
                "action": action,
                "matches": matched.is_some(),
                "rule": matched,
                "dryRun": policy.dry_run(),
            });
            teller.told.tell("policy", format!("{action} {}{dry}: {word}", policy.key()), by, shown);
            if matched.is_none()
                && let Some(stated) = self.stated(policy.key())
            {
                let unmet = |at: usize| policy.unmet(at, stated.rules.get(at)?, facts);
                teller.passed_rules(policy.key(), stated.rules.len(), unmet);
            }
        }
    }

    /// A policy, `namespace/name`, as it was stated.
    fn stated(&self, policy: &str) -> Option<Arc<AuthorizationPolicy>> {
        let (namespace, name) = policy.split_once('/')?;
        let namespace = namespace.into();
        let mut entries = self.sight.mesh.policies_of(&namespace);
        entries.find(|it| *it.object.name == *name).map(|it| it.stated.clone())
    }

    /// The rule that takes it; `None` goes to what was called.
    fn rule<'r>(
        &self,
        routes: Option<&'r HttpRoutes>,
        facts: &RequestFacts<'_>,
        teller: &mut Teller<'_>,
    ) -> Result<Option<&'r Rule>, Verdict> {
        let Some(routes) = routes.filter(|it| !it.rules().is_empty()) else {
            teller.told.tell("route", "none is stated: to what was called", None, json!({ "rule": null }));
            return Ok(None);
        };
        let found = routes.find(facts);
        let rule = match found {
            Found::Rule(rule) => Some(rule),
            Found::NoRoute | Found::Service => None,
        };
        let at = rule.and_then(|rule| routes.rules().iter().position(|it| std::ptr::eq(it, rule)));
        let before = &routes.rules()[..at.unwrap_or(routes.rules().len())];
        for passed in before.iter().take(MAX_PASSED) {
            // Every rule before the first that takes it lacks something.
            let why = passed.unmet(facts).map(|it| words::unmet(&it)).unwrap_or_default();
            self.tell_rule("passed", passed, format!("does not take it: {why}"), teller);
        }
        if before.len() > MAX_PASSED {
            let more = before.len() - MAX_PASSED;
            teller.told.say("passed", format!("and {more} more before it that do not take it"), None);
        }
        match rule {
            Some(rule) => {
                let asks = words::condition(rule.stated());
                self.tell_rule("route", rule, format!("takes it: {asks}"), teller);
                Ok(Some(rule))
            }
            None => {
                teller.told.tell("route", "no rule takes it", None, json!({ "rule": null }));
                Err(Verdict::Refused("404: there are routes, and none takes it".to_owned()))
            }
        }
    }

    fn tell_rule(&self, subject: &'static str, rule: &Rule, says: String, teller: &mut Teller<'_>) {
        let mut places: Vec<_> = rule.route.stated_at().collect();
        // The innermost is what acts; what delegates to it is told with it.
        let Some((key, field)) = places.pop() else { return };
        let field = format!("{field}{}", rule.entry());
        let name = if rule.name().is_empty() { String::new() } else { format!(" {:?}", rule.name()) };
        let through: Vec<String> =
            places.iter().map(|(key, field)| format!(", delegated to by {key} {field}")).collect();
        let facts = json!({ "rule": rule.name(), "field": field });
        let says = format!("{field}{name}{} {says}", through.concat());
        teller.told.tell(subject, says, Some(self.sight.by_field(key, &field)), facts);
    }

    /// A connection of bytes.
    fn connection(
        &self,
        server_name: Option<&str>,
        called: &Called<'_>,
        destination: &Destination,
        teller: &mut Teller<'_>,
    ) -> Verdict {
        if let Err(verdict) = self.admit(None, server_name, destination, teller) {
            return verdict;
        }
        let facts = ConnectionFacts {
            server_name,
            destination: self.original.ip(),
            port: destination.port(),
            source: Some(self.caller),
        };
        let rule = called.connections().and_then(|it| it.find(&facts));
        match rule {
            None => {
                teller.told.tell("route", "none takes it: to what was called", None, json!({ "rule": null }));
            }
            Some(rule) => {
                let (key, field) = rule.route.stated_at();
                let facts = json!({ "field": field });
                let by = self.sight.by_field(key, &field);
                teller.told.tell("route", format!("{field} takes it"), Some(by), facts);
            }
        }
        super::onward::connection(self, called, rule.map(|it| &*it.route), teller)
    }
}

/// The host of what was called, as a client would write it in a request: without the port of HTTP.
fn host(to: &str) -> String {
    to.strip_suffix(":80").unwrap_or(to).trim_end_matches('.').to_owned()
}

fn refused(refusal: Refusal) -> Verdict {
    Verdict::Refused(format!("{}: {}", refusal.status().as_u16(), refusal.words()))
}

fn source(source: &KeySource) -> String {
    match source {
        KeySource::Inline(_) => "the manifest".to_owned(),
        KeySource::Uri(uri) => uri.to_string(),
        KeySource::Discovery(uri) => format!("where {uri} says"),
    }
}

fn tell_claims(head: &Head, before: &HeaderMap, teller: &mut Teller<'_>) {
    let Some(claims) = head.authenticated.claims() else {
        let facts = json!({ "verified": null });
        return teller.told.tell("token", "the request has none: it is nobody's", None, facts);
    };
    let principal = head.authenticated.principal();
    let says = format!("good: {}", principal.unwrap_or("of no subject"));
    let facts = json!({ "verified": true, "principal": principal, "claims": claims });
    teller.told.tell("token", says, None, facts);
    let names: Vec<String> = claims.iter().map(|(name, value)| format!("{name}={}", short(value))).collect();
    teller.told.say("token", format!("claims {}", names.join(", ")), None);
    let changes = words::changes(before, &head.headers);
    if !changes.is_empty() {
        teller.told.say("token", format!("headers {}", changes.join(", ")), None);
    }
}

/// Longest claim that is shown, in characters.
const MAX_CLAIM: usize = 60;

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_CLAIM) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
