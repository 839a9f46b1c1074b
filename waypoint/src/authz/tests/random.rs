//! Policies and requests by chance, judged twice: as shipped, and from the text of the policy by the plainest code there is.

use std::collections::BTreeMap;
use std::time::Instant;

use common::spiffe::Identity;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::{Asking, effective, set};
use crate::authz::Denial;

const SETS: usize = 2_500;
const REQUESTS_PER_SET: usize = 40;

/// Lists of a `source`, an `operation` or a `when`, by their field.
type Lists = BTreeMap<String, Vec<String>>;

#[derive(Debug, Default)]
struct Rule {
    from: Vec<Lists>,
    to: Vec<Lists>,
    when: Vec<(String, Lists)>,
}

#[derive(Debug)]
struct Stated {
    action: &'static str,
    rules: Vec<Rule>,
}

/// Fields, and values they are drawn from.
const SOURCE: [(&str, &[&str]); 5] = [
    ("principals", &["*", "td/ns/shop/sa/web", "td/ns/shop/*", "*/sa/web", "td2/*", "x"]),
    ("namespaces", &["*", "shop", "sh*", "*p", "bank"]),
    ("ipBlocks", &["10.0.0.0/8", "10.0.1.0/24", "192.168.0.1", "0.0.0.0/0"]),
    ("remoteIpBlocks", &["10.0.0.0/16", "192.168.0.1"]),
    ("requestPrincipals", &["*", "https://a/ann", "https://a/*", "*/bob", "https://b/b*"]),
];
const OPERATION: [(&str, &[&str]); 4] = [
    ("hosts", &["*", "shop.com", "*.com", "sh*", "shop.com:8080", "shop.com:*", "Bank.com"]),
    ("methods", &["*", "GET", "P*", "*T"]),
    ("paths", &["*", "/a", "/a/*", "*.txt", "/a/{*}", "/{**}/c", "/a/{**}", "/{*}/b/{*}.txt"]),
    ("ports", &["80", "8080"]),
];
const WHEN: [(&str, &[&str]); 10] = [
    ("source.ip", SOURCE[2].1),
    ("source.namespace", SOURCE[1].1),
    ("source.principal", SOURCE[0].1),
    ("source.serviceAccount", &["web", "shop/web", "bank/robot"]),
    ("destination.port", OPERATION[3].1),
    ("request.headers[x-role]", &["*", "admin", "ad*", "*min"]),
    ("request.auth.claims[groups]", &["*", "dev", "ad*"]),
    ("request.auth.audiences", &["x", "*"]),
    ("request.auth.claims[a][b]", &["1", "*"]),
    ("connection.sni", &["*", "a.com", "*.com"]),
];

fn some(rng: &mut StdRng, values: &[&str]) -> Vec<String> {
    (0..rng.random_range(1..=2)).map(|_| values[rng.random_range(0..values.len())].to_owned()).collect()
}

fn not(field: &str) -> String {
    format!("not{}{}", field[..1].to_uppercase(), &field[1..])
}

fn lists(rng: &mut StdRng, fields: &[(&str, &[&str])]) -> Lists {
    let mut made = Lists::new();
    while made.is_empty() {
        for (field, values) in fields {
            if rng.random_bool(0.3) {
                made.insert((*field).to_owned(), some(rng, values));
            }
            if rng.random_bool(0.12) {
                made.insert(not(field), some(rng, values));
            }
        }
    }
    made
}

fn rule(rng: &mut StdRng) -> Rule {
    let mut made = Rule::default();
    for _ in 0..rng.random_range(0..=2) {
        made.from.push(lists(rng, &SOURCE));
    }
    for _ in 0..rng.random_range(0..=2) {
        made.to.push(lists(rng, &OPERATION));
    }
    for _ in 0..rng.random_range(0..=1) {
        let (key, values) = WHEN[rng.random_range(0..WHEN.len())];
        made.when.push((key.to_owned(), lists(rng, &[("values", values)])));
    }
    made
}

fn policies(rng: &mut StdRng) -> Vec<Stated> {
    let one = |rng: &mut StdRng| {
        let action = ["ALLOW", "ALLOW", "DENY", "CUSTOM", "AUDIT"][rng.random_range(0..5)];
        Stated { action, rules: (0..rng.random_range(0..=2)).map(|_| rule(rng)).collect() }
    };
    (0..rng.random_range(1..=3)).map(|_| one(rng)).collect()
}

fn render(stated: &Stated) -> String {
    let rules: Vec<Value> = stated
        .rules
        .iter()
        .map(|rule| {
            let mut made = serde_json::Map::new();
            let all = |name: &str, of: &[Lists]| of.iter().map(|it| json!({ name: it })).collect::<Vec<_>>();
            if !rule.from.is_empty() {
                made.insert("from".into(), all("source", &rule.from).into());
            }
            if !rule.to.is_empty() {
                made.insert("to".into(), all("operation", &rule.to).into());
            }
            let when = rule.when.iter().map(|(key, lists)| {
                let mut made = json!(lists);
                made["key"] = json!(key);
                made
            });
            let when: Vec<Value> = when.collect();
            if !when.is_empty() {
                made.insert("when".into(), when.into());
            }
            Value::Object(made)
        })
        .collect();
    json!({ "action": stated.action, "rules": rules }).to_string()
}

fn request(rng: &mut StdRng) -> Asking {
    let mut pick = |all: &[&str]| all[rng.random_range(0..all.len())].to_owned();
    let identity = pick(&["td/ns/shop/sa/web", "td2/ns/bank/sa/robot", "td/ns/shop/sa/other", ""]);
    let mut asking = Asking {
        method: pick(&["GET", "PUT", "POST"]),
        authority: pick(&["shop.com", "SHOP.com:80", "shop.com:8080", "bank.com.", "x.org"]),
        target: pick(&["/a", "/a/b", "/a/b/c", "/a/b.txt", "/x/b/c.txt", "/", "/a/?q=.txt", "/a/%62"]),
        identity: Identity::parse(&format!("spiffe://{identity}")).ok(),
        source: pick(&["10.0.0.1", "10.0.1.1", "192.168.0.1"]),
        port: pick(&["80", "8080"]).parse().unwrap(),
        server_name: Some(pick(&["a.com", "b.org", ""])).filter(|it| !it.is_empty()),
        ..Asking::default()
    };
    let role = pick(&["admin", "guest", "", "-"]);
    asking.is_http = pick(&["h", "h", "h", "t"]) == "h";
    if role != "-" {
        asking = asking.header("x-role", &role);
    }
    match pick(&["none", "ann", "bob", "odd"]).as_str() {
        "ann" => asking.token(json!({"iss": "https://a", "sub": "ann", "groups": ["dev", "x"], "aud": "x"})),
        "bob" => asking.token(json!({"iss": "https://b", "sub": "bob", "groups": "admin", "a": {"b": "1"}})),
        "odd" => asking.token(json!({"iss": "https://a", "groups": 1, "aud": [], "a": "1"})),
        _ => asking,
    }
}

/// What a list asks for is known to be so or not, or cannot be known of what is no HTTP.
fn has(asking: &Asking, field: &str, value: &str) -> Option<bool> {
    let principal = asking.identity.as_ref().map(Identity::principal).unwrap_or_default();
    let part = |at: usize| principal.split('/').nth(at).unwrap_or_default().to_owned();
    let http = |known: bool| asking.is_http.then_some(known);
    Some(match field {
        "principals" | "source.principal" => text(value, &principal),
        "namespaces" | "source.namespace" => text(value, &part(2)),
        "source.serviceAccount" => {
            let full = if value.contains('/') { value.to_owned() } else { format!("shop/{value}") };
            full == format!("{}/{}", part(2), part(4))
        }
        "ipBlocks" | "remoteIpBlocks" | "source.ip" => within(value, &asking.source),
        "ports" | "destination.port" => value == asking.port.to_string(),
        "connection.sni" => text(value, asking.server_name.as_deref().unwrap_or_default()),
        "methods" => return http(text(value, &asking.method)),
        "hosts" => return http(host(value, &asking.authority)),
        "paths" => {
            let path = asking.target.replace("%62", "b");
            let path = path.split('?').next().unwrap_or_default();
            let segments: Vec<&str> = path.split('/').collect();
            let wanted: Vec<&str> = value.split('/').collect();
            return http(if value.contains("{*") { template(&wanted, &segments) } else { text(value, path) });
        }
        "requestPrincipals" => {
            let claim = |name: &str| asking.claims.as_ref()?.get(name)?.as_str().map(str::to_owned);
            let (Some(iss), Some(sub)) = (claim("iss"), claim("sub")) else { return http(false) };
            let (want_iss, want_sub) = value.rsplit_once('/').unwrap_or(("*", "*"));
            return http(text(want_iss, &iss) && text(want_sub, &sub));
        }
        "request.headers[x-role]" => {
            let sent = asking.headers.get("x-role").map(|it| it.to_str().unwrap().to_owned());
            return http(sent.is_some_and(|it| value == "*" || text(value, &it)));
        }
        "request.auth.claims[groups]" => return http(listed(asking, &["groups"], value)),
        "request.auth.audiences" => return http(listed(asking, &["aud"], value)),
        "request.auth.claims[a][b]" => return http(listed(asking, &["a", "b"], value)),
        other => panic!("{other}"),
    })
}

fn listed(asking: &Asking, path: &[&str], value: &str) -> bool {
    let mut found = Value::Object(asking.claims.clone().unwrap_or_default());
    for name in path {
        found = found.get(name).cloned().unwrap_or_default();
    }
    let all = if let Value::Array(all) = found { all } else { vec![found] };
    all.iter().any(|it| it.as_str().is_some_and(|it| text(value, it)))
}

fn text(wanted: &str, value: &str) -> bool {
    if wanted == "*" {
        return !value.is_empty();
    }
    match (wanted.strip_prefix('*'), wanted.strip_suffix('*')) {
        (Some(end), _) => value.ends_with(end),
        (_, Some(start)) => value.starts_with(start),
        _ => wanted == value,
    }
}

fn within(block: &str, address: &str) -> bool {
    let (network, bits) = block.split_once('/').unwrap_or((block, "32"));
    let octets =
        |it: &str| it.split('.').map(|it| it.parse::<u32>().unwrap()).fold(0, |all, it| all << 8 | it);
    let shift = 32 - bits.parse::<u32>().unwrap();
    u64::from(octets(network)) >> shift == u64::from(octets(address)) >> shift
}

fn host(wanted: &str, authority: &str) -> bool {
    let (wanted, sent) = (wanted.to_lowercase(), authority.to_lowercase());
    let (name, port) = sent.split_once(':').unwrap_or((&sent, "80"));
    let name = name.trim_end_matches('.');
    match (wanted.contains(':'), wanted.as_str()) {
        (false, wanted) => text(wanted, name),
        (true, "shop.com:*") => sent.starts_with("shop.com:"),
        (true, wanted) => wanted == format!("{name}:{port}"),
    }
}

fn template(wanted: &[&str], path: &[&str]) -> bool {
    match (wanted, path) {
        ([], []) => true,
        (["{**}"], [_, ..]) => true,
        (["{**}", rest @ ..], [_, more @ ..]) => template(rest, more) || template(wanted, more),
        ([first, rest @ ..], [segment, more @ ..]) => {
            let fits = match first.strip_prefix("{*}") {
                Some(end) => segment.len() > end.len() && segment.ends_with(end),
                None => first == segment,
            };
            fits && template(rest, more)
        }
        _ => false,
    }
}

/// Whether all lists hold. What cannot be known counts as asked for by nobody.
fn hold(asking: &Asking, lists: &Lists, key: Option<&str>) -> bool {
    lists.iter().all(|(field, values)| {
        let positive = field.strip_prefix("not").map(|it| format!("{}{}", it[..1].to_lowercase(), &it[1..]));
        let of = key.unwrap_or_else(|| positive.as_deref().unwrap_or(field));
        let known: Vec<Option<bool>> = values.iter().map(|value| has(asking, of, value)).collect();
        if known.contains(&None) {
            return true;
        }
        known.contains(&Some(true)) != positive.is_some()
    })
}

fn matches(asking: &Asking, rule: &Rule, action: &str) -> bool {
    let fields = || {
        let of_lists = rule.from.iter().chain(&rule.to).flat_map(Lists::keys).cloned();
        of_lists.chain(rule.when.iter().map(|(key, _)| key.clone()))
    };
    let is_http_only = |field: String| {
        let field = field.to_lowercase();
        ["methods", "hosts", "paths", "requestprincipals", "request."].iter().any(|it| field.contains(it))
    };
    if action == "ALLOW" && !asking.is_http && fields().any(is_http_only) {
        return false;
    }
    (rule.from.is_empty() || rule.from.iter().any(|it| hold(asking, it, None)))
        && (rule.to.is_empty() || rule.to.iter().any(|it| hold(asking, it, None)))
        && rule.when.iter().all(|(key, lists)| hold(asking, lists, Some(key)))
}

fn plainly(asking: &Asking, policies: &[Stated]) -> &'static str {
    let any = |action: &str| {
        let of = policies.iter().filter(|it| it.action == action);
        of.flat_map(|it| &it.rules).any(|rule| matches(asking, rule, action))
    };
    let allows = policies.iter().any(|it| it.action == "ALLOW");
    match () {
        () if any("CUSTOM") => "custom",
        () if any("DENY") => "denied",
        () if allows && !any("ALLOW") => "none",
        () => "admitted",
    }
}

#[test]
fn a_hundred_thousand_verdicts_are_those_of_a_slow_evaluator() {
    let seed = std::env::var("EBB_SEED").ok().and_then(|it| it.parse().ok()).unwrap_or(20_260_917);
    println!("seed {seed}, another by EBB_SEED");
    let mut rng = StdRng::seed_from_u64(seed);
    let began = Instant::now();
    let mut seen = BTreeMap::<&str, usize>::new();
    for _ in 0..SETS {
        let policies = policies(&mut rng);
        let specs: Vec<String> = policies.iter().map(render).collect();
        let compiled = set(&specs.iter().map(String::as_str).collect::<Vec<_>>());
        for _ in 0..REQUESTS_PER_SET {
            let asking = request(&mut rng);
            let judged = match asking.ask(|it| effective(&compiled).judge(it, &[])).unwrap() {
                Ok(()) => "admitted",
                Err(Denial::Custom(_)) => "custom",
                Err(Denial::Denied(_)) => "denied",
                Err(Denial::NoneMatched) => "none",
                Err(other) => panic!("{other:?}"),
            };
            let expected = plainly(&asking, &policies);
            assert_eq!(judged, expected, "seed {seed}: {asking:#?}\n{specs:#?}");
            *seen.entry(judged).or_default() += 1;
        }
    }
    println!("{seen:?} in {:?}", began.elapsed());
    assert_eq!(seen.values().sum::<usize>(), SETS * REQUESTS_PER_SET);
    assert!(seen.len() == 4 && seen.values().all(|it| *it > 1_000), "{seen:?}");
}
