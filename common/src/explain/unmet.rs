//! Why a rule of a policy does not match: the first of its fields that is not as asked.
//!
//! Here are the words, and the rules of connections; a waypoint says the same of those of requests. What is told of a rule
//! is never what decides: that is for the functions that decide for live traffic.

use std::fmt::Display;

use super::connection::Teller;
use crate::authz::{self, Connection};
use crate::config::security::{Asked, Condition, Operation, Rule, Source};
use crate::config::{Key, Kind, ObjectName};
use crate::snapshot::model::StringMatch;
use crate::spiffe::Identity;

/// Most rules of one policy that are told of which do not match.
pub const MAX_RULES: usize = 10;
/// Most values of a list that are named.
const MAX_VALUES: usize = 3;

/// The first field of a rule that is not as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// Its path inside the rule: `to[0].operation.methods`.
    pub field: String,
    /// What it is, and what it would have to be.
    pub says: String,
}

impl Unmet {
    /// The same of a field inside another one.
    #[must_use]
    pub fn within(self, field: impl Display) -> Self {
        Self { field: format!("{field}.{}", self.field), ..self }
    }
}

/// A list of a rule, as it is asked and as it was stated.
pub struct List<'r, T, U> {
    /// The name of the list, and of the one of what must not be: `methods` and `notMethods`.
    pub names: [&'static str; 2],
    /// What is asked.
    pub asked: &'r Asked<T>,
    /// The same as it was stated, entry by entry.
    pub stated: &'r Asked<U>,
}

impl<T, U> List<'_, T, U> {
    /// Why the fact is not as asked, of which `holds` tells each entry; `None` where it is. `fact` says what it is, and
    /// `show` what an entry asks for.
    pub fn unmet(
        &self,
        fact: impl FnOnce() -> String,
        holds: impl Fn(&T) -> bool,
        show: impl Fn(&U) -> String,
    ) -> Option<Unmet> {
        let [any, not] = self.names;
        if !self.asked.any.is_empty() && !self.asked.any.iter().any(&holds) {
            let wanted: Vec<String> = self.stated.any.iter().take(MAX_VALUES).map(&show).collect();
            let more = self.stated.any.len() - wanted.len();
            let says = match (&*wanted, more) {
                ([only], 0) => format!("{} is not {only}", fact()),
                (some, 0) => format!("{} is none of {}", fact(), some.join(", ")),
                (some, more) => format!("{} is none of {} and {more} more", fact(), some.join(", ")),
            };
            return Some(Unmet { field: any.to_owned(), says });
        }
        let at = self.asked.none.iter().position(holds)?;
        let entry = self.stated.none.get(at).map(show).unwrap_or_default();
        Some(Unmet { field: not.to_owned(), says: format!("{} is {entry}, as it must not be", fact()) })
    }
}

/// A list that is asked as it was stated.
fn list<'a, T>(names: [&'static str; 2], asked: &'a Asked<T>) -> List<'a, T, T> {
    List { names, asked, stated: asked }
}

/// A string as a manifest writes it.
pub fn string(stated: &StringMatch) -> String {
    match stated {
        StringMatch::Exact(text) => text.to_string(),
        StringMatch::Prefix(text) => format!("{text}*"),
        StringMatch::Suffix(text) => format!("*{text}"),
        StringMatch::Presence => "*".to_owned(),
    }
}

/// Who calls, in words.
pub fn caller(identity: Option<&Identity>) -> String {
    match identity {
        Some(Identity { trust_domain, namespace, service_account }) => {
            format!("the caller {trust_domain}/ns/{namespace}/sa/{service_account}")
        }
        None => "the caller, who proves nothing of itself,".to_owned(),
    }
}

/// The names of the two lists of a `when`.
pub const VALUES: [&str; 2] = ["values", "notValues"];

/// Why a rule does not match a connection; `None` where it does. `lets_in` is for ALLOW, of which a ztunnel leaves rules
/// out that ask for what only a waypoint sees; of others it leaves out what they ask of that.
pub fn of_connection(rule: &Rule, lets_in: bool, connection: &Connection<'_>) -> Option<Unmet> {
    let of_waypoint = |field: String| Unmet {
        field,
        says: "asks for what only a waypoint sees, so that the rule lets nobody in here".to_owned(),
    };
    if lets_in {
        let from = rule.from.iter().position(Source::needs_waypoint).map(|at| format!("from[{at}].source"));
        let to = rule.to.iter().position(Operation::needs_http).map(|at| format!("to[{at}].operation"));
        let when = rule.when.iter().position(Condition::needs_waypoint).map(|at| format!("when[{at}].key"));
        if let Some(field) = from.or(to).or(when) {
            return Some(of_waypoint(field));
        }
    }
    first(&rule.from, |it| source(it, connection), |at| format!("from[{at}].source"))
        .or_else(|| first(&rule.to, |it| operation(it, connection), |at| format!("to[{at}].operation")))
        .or_else(|| {
            let mut when = rule.when.iter().enumerate();
            when.find_map(|(at, it)| Some(condition(it, connection)?.within(format!("when[{at}]"))))
        })
}

/// Why none of several holds, of which one is enough: what the first of them lacks.
pub fn first<T>(
    all: &[T],
    unmet: impl Fn(&T) -> Option<Unmet>,
    field: impl Fn(usize) -> String,
) -> Option<Unmet> {
    let mut lacks = all.iter().map(&unmet);
    let first = lacks.next()??;
    lacks.all(|it| it.is_some()).then(|| first.within(field(0)))
}

fn source(it: &Source, connection: &Connection<'_>) -> Option<Unmet> {
    let identity = connection.source_identity;
    let says = || caller(identity);
    let address = connection.source.ip().to_canonical();
    list(["principals", "notPrincipals"], &it.principals)
        .unmet(says, |want| identity.is_some_and(|it| authz::is_principal(it, want)), string)
        .or_else(|| {
            let is = |want: &StringMatch| identity.is_some_and(|it| authz::is_text(want, &it.namespace));
            list(["namespaces", "notNamespaces"], &it.namespaces).unmet(says, is, string)
        })
        .or_else(|| {
            list(["serviceAccounts", "notServiceAccounts"], &it.service_accounts).unmet(
                says,
                |want| identity.is_some_and(|it| is_account(it, want)),
                ToString::to_string,
            )
        })
        .or_else(|| {
            let says = || format!("the caller's address {address}");
            let is = |net: &ipnet::IpNet| net.contains(&address);
            list(["ipBlocks", "notIpBlocks"], &it.ip_blocks).unmet(says, is, ToString::to_string)
        })
}

fn operation(it: &Operation, connection: &Connection<'_>) -> Option<Unmet> {
    let port = connection.destination.port();
    list(["ports", "notPorts"], &it.ports).unmet(
        || format!("the port {port}"),
        |want| *want == port,
        ToString::to_string,
    )
}

fn condition(it: &Condition, connection: &Connection<'_>) -> Option<Unmet> {
    let identity = connection.source_identity;
    let says = || caller(identity);
    let (source, destination) =
        (connection.source.ip().to_canonical(), connection.destination.ip().to_canonical());
    match it {
        Condition::SourceIp(asked) => list(VALUES, asked).unmet(
            || format!("the caller's address {source}"),
            |net| net.contains(&source),
            ToString::to_string,
        ),
        Condition::DestinationIp(asked) => list(VALUES, asked).unmet(
            || format!("the address {destination}"),
            |net| net.contains(&destination),
            ToString::to_string,
        ),
        Condition::DestinationPort(asked) => list(VALUES, asked).unmet(
            || format!("the port {}", connection.destination.port()),
            |port| *port == connection.destination.port(),
            ToString::to_string,
        ),
        Condition::SourceNamespace(asked) => list(VALUES, asked).unmet(
            says,
            |want| identity.is_some_and(|it| authz::is_text(want, &it.namespace)),
            string,
        ),
        Condition::SourcePrincipal(asked) => list(VALUES, asked).unmet(
            says,
            |want| identity.is_some_and(|it| authz::is_principal(it, want)),
            string,
        ),
        Condition::SourceAccount(asked) => list(VALUES, asked).unmet(
            says,
            |want| identity.is_some_and(|it| is_account(it, want)),
            ToString::to_string,
        ),
        _ => None,
    }
}

fn is_account(identity: &Identity, want: &ObjectName) -> bool {
    want.namespace == identity.namespace && want.name == identity.service_account
}

impl Teller<'_> {
    /// Tells why no rule of a policy matches, rule by rule: `unmet` says it of each by its place.
    pub fn passed_rules(&mut self, policy: &str, count: usize, unmet: impl Fn(usize) -> Option<Unmet>) {
        let Some((namespace, name)) = policy.split_once('/') else { return };
        let key = Key { kind: Kind::AuthorizationPolicy, object: ObjectName::new(namespace, name) };
        if count == 0 {
            let by = self.sight.by_field(key.clone(), "spec.rules");
            self.told.say("policy", format!("{policy} has no rules, so that it matches nobody"), Some(by));
        }
        for at in 0..count.min(MAX_RULES) {
            let Some(Unmet { field, says }) = unmet(at) else { continue };
            let field = format!("spec.rules[{at}].{field}");
            let by = self.sight.by_field(key.clone(), &field);
            let facts = serde_json::json!({ "rule": at, "field": field, "matches": false });
            self.told.tell("policy", format!("{field}: {says}"), Some(by), facts);
        }
        if let Some(more @ 1..) = count.checked_sub(MAX_RULES) {
            self.told.say("policy", format!("and {more} more rules of {policy} that do not match"), None);
        }
    }
}
