use std::sync::Arc;
use std::time::Duration;

use crate::config::authentication::{JwtRule, KeySource, RequestAuthentication, TokenLocation};
use crate::config::decode::{Decoded, yaml};
use crate::config::names::Names;
use crate::config::{Kind, Resource};

const KEYS: &str = r#"{"keys":[{"kty":"OKP"}]}"#;

fn manifest(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata:\n  name: jwt\n  namespace: shop\nspec: {}\n",
        spec.replace("KEYS", &format!("'{KEYS}'"))
    )
}

/// A manifest with one rule that states its keys, and more.
fn with(more: &str) -> String {
    manifest(&format!(
        "{{targetRefs: [{{kind: Service, name: web}}], jwtRules: [{{issuer: me, jwks: KEYS{more}}}]}}"
    ))
}

fn read(text: &str) -> Decoded {
    yaml::decode(&"a.yaml".into(), text.as_bytes(), &mut Names::default())
}

fn good(text: &str) -> Arc<RequestAuthentication> {
    let decoded = read(text);
    assert!(decoded.rejected.is_empty(), "{:#?}\n{text}", decoded.rejected);
    match &decoded.stated[..] {
        [one] => match &one.resource {
            Resource::RequestAuthentication(it) => it.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn rule(text: &str) -> JwtRule {
    good(text).rules[0].clone()
}

fn header(name: &str, prefix: &str) -> TokenLocation {
    TokenLocation::Header { name: name.into(), prefix: prefix.into() }
}

#[test]
fn every_field_is_read() {
    let text = with(
        ", audiences: [a, b], fromHeaders: [{name: X-Token}, {name: x-b, prefix: 'T '}], fromParams: [p], fromCookies: [c], \
         outputPayloadToHeader: X-Payload, outputClaimToHeaders: [{header: X-Sub, claim: sub}, {header: x-n, claim: a.b}], \
         forwardOriginalToken: true, timeout: 1.5s, spaceDelimitedClaims: [roles]",
    );
    let rule = rule(&text);
    assert_eq!(&*rule.issuer, "me");
    assert_eq!(&*rule.audiences, ["a".into(), "b".into()]);
    assert_eq!(rule.keys, KeySource::Inline(KEYS.into()));
    let places = [
        header("x-token", ""),
        header("x-b", "T "),
        TokenLocation::Parameter("p".into()),
        TokenLocation::Cookie("c".into()),
    ];
    assert_eq!(*rule.locations, places);
    assert_eq!(rule.payload_header.as_ref().map(|it| it.as_str()), Some("x-payload"));
    let claims: Vec<_> =
        rule.claim_headers.iter().map(|(header, claim)| (header.as_str(), &**claim)).collect();
    assert_eq!(claims, [("x-sub", "sub"), ("x-n", "a.b")]);
    assert!(rule.forward);
    assert_eq!((rule.timeout, &*rule.space_delimited), (Duration::from_millis(1500), &["roles".into()][..]));
    assert!(good(&text).notes.is_empty());
}

#[test]
fn what_is_not_stated_is_what_istio_means() {
    let rule = rule(&with(""));
    assert_eq!(
        *rule.locations,
        [header("authorization", "Bearer "), TokenLocation::Parameter("access_token".into())]
    );
    assert!(!rule.forward && rule.audiences.is_empty() && rule.payload_header.is_none());
    assert_eq!(rule.timeout, Duration::from_secs(5));
    let uri = |stated: &str| self::rule(&manifest(&format!("{{jwtRules: [{stated}]}}"))).keys;
    assert_eq!(
        uri("{issuer: me, jwksUri: 'https://me.example/keys'}"),
        KeySource::Uri("https://me.example/keys".into())
    );
    assert_eq!(
        uri("{issuer: me, jwks_uri: 'http://10.0.0.1:8080/'}"),
        KeySource::Uri("http://10.0.0.1:8080/".into())
    );
    for issuer in ["https://me.example/", "https://me.example"] {
        let document = KeySource::Discovery("https://me.example/.well-known/openid-configuration".into());
        assert_eq!(uri(&format!("{{issuer: '{issuer}'}}")), document);
    }
    for bare in ["{}", "{jwtRules: []}", "{selector: {matchLabels: {app: web}}}"] {
        let stated = good(&manifest(bare));
        assert!(stated.rules.is_empty() && stated.targets.is_empty());
        assert_eq!(stated.notes[0].caveat.label(), "needs-targets");
    }
    for version in ["v1", "v1beta1"] {
        good(&with("").replace("io/v1", &format!("io/{version}")));
    }
}

/// That each is refused at this field, for a reason that holds these words.
fn assert_refused(cases: &[(String, &str, &str)]) {
    for (text, field, reason) in cases {
        let decoded = read(text);
        let [rejected] = &decoded.rejected[..] else { panic!("accepted: {text}") };
        assert_eq!(&*rejected.field, *field, "{rejected}");
        assert!(rejected.reason.contains(reason), "{rejected}");
        let is_known = rejected.subject.kind == Some(Kind::RequestAuthentication);
        assert!(rejected.guards_access && is_known, "{rejected}");
        assert_eq!(rejected.subject.key().unwrap().object.to_string(), "shop/jwt");
    }
}

/// The same for what a rule with keys states beyond them.
fn assert_refused_of_rule(cases: &[(&str, &str, &str)]) {
    for (more, field, reason) in cases {
        assert_refused(&[(with(&format!(", {more}")), &format!("spec.jwtRules[0].{field}"), reason)]);
    }
}

#[test]
fn keys_are_stated_in_one_way_and_from_where_they_can_be_fetched() {
    let rule = |rule: &str| manifest(&format!("{{jwtRules: [{rule}]}}"));
    let at = |uri: &str| rule(&format!("{{issuer: me, jwksUri: '{uri}'}}"));
    let (jwks, uri) = ("spec.jwtRules[0].jwks", "spec.jwtRules[0].jwksUri");
    assert_refused(&[
        (rule("{jwks: KEYS}"), "spec.jwtRules[0].issuer", "not stated"),
        (rule("{issuer: '', jwks: KEYS}"), "spec.jwtRules[0].issuer", "not stated"),
        (rule("{issuer: me}"), uri, "no URL at which keys could be found"),
        (rule("{issuer: me, jwks: KEYS, jwksUri: 'https://a'}"), jwks, "only one"),
        (rule("{issuer: me, jwks: '{}'}"), jwks, "no JWKS"),
        (rule("{issuer: me, jwks: 'keys'}"), jwks, "no JWKS"),
        (rule("{issuer: me, jwks: '{\"keys\": []}'}"), jwks, "without keys"),
        (rule("{issuer: me, jwks: '{\"keys\": [1]}'}"), jwks, "no JWKS"),
        (at("file:///etc/passwd"), uri, "no"),
        (at("ftp://a/b"), uri, "neither http://"),
        (at("/keys"), uri, "no host"),
        (at("http://u:p@a/"), uri, "a user"),
        (at("http://a b/"), uri, "no URI"),
    ]);
}

#[test]
fn what_is_wrong_in_a_rule_is_refused_at_its_field() {
    let many = format!("audiences: [{}]", vec!["a"; 65].join(", "));
    assert_refused_of_rule(&[
        ("timeout: 0s", "timeout", "less than 1ms"),
        ("timeout: 61s", "timeout", "more than 60s"),
        ("timeout: soon", "timeout", "not a duration"),
        ("audiences: ['']", "audiences[0]", "not stated"),
        (&many, "audiences", "more than 64"),
        ("fromHeaders: [{prefix: a}]", "fromHeaders[0].name", "not stated"),
        ("fromHeaders: [{name: 'a b'}]", "fromHeaders[0].name", "no name of a header"),
        ("fromHeaders: [{name: a, prefix: é}]", "fromHeaders[0].prefix", "header may hold"),
        ("outputPayloadToHeader: ':path'", "outputPayloadToHeader", "no name of a header"),
        ("outputPayloadToHeader: Content-Length", "outputPayloadToHeader", "how a request is read"),
        (
            "outputClaimToHeaders: [{header: host, claim: a}]",
            "outputClaimToHeaders[0].header",
            "how a request is read",
        ),
        ("outputClaimToHeaders: [{header: a}]", "outputClaimToHeaders[0].claim", "not stated"),
        (
            "outputClaimToHeaders: [{header: a, claim: a}, {header: A, claim: b}]",
            "outputClaimToHeaders[1].header",
            "written already",
        ),
    ]);
    let rules = format!("{{jwtRules: [{}]}}", vec!["{issuer: me, jwks: KEYS}"; 65].join(", "));
    assert_refused(&[
        (manifest("{jwtRule: []}"), "spec.jwtRule", "unknown field"),
        (with(", audience: [a]"), "spec.jwtRules[0].audience", "unknown field"),
        (with(", fromHeaders: [{nam: a}]"), "spec.jwtRules[0].fromHeaders[0].nam", "unknown field"),
        (with(", triggerRules: []"), "spec.jwtRules[0].triggerRules", "unknown field"),
        (manifest(&rules), "spec.jwtRules", "more than 64 rules"),
    ]);
}

#[test]
fn a_target_is_one_of_four_kinds_and_of_the_own_namespace() {
    let target = |target: &str| manifest(&format!("{{targetRefs: [{target}]}}"));
    let at = "spec.targetRefs[0]";
    assert_refused(&[
        (target("{kind: Pod, name: a}"), at, "none of Service"),
        (target("{group: apps, kind: Service, name: a}"), at, "none of Service"),
        (target("{kind: Gateway, name: a}"), at, "none of Service"),
        (target("{kind: Service}"), "spec.targetRefs[0].name", "not stated"),
        (
            target("{kind: Service, name: a, namespace: bank}"),
            "spec.targetRefs[0].namespace",
            "another namespace",
        ),
        (
            manifest("{targetRef: {kind: Service, name: a}, targetRefs: [{kind: Service, name: a}]}"),
            "spec.targetRef",
            "only one",
        ),
        (
            manifest("{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}]}"),
            "spec.targetRefs",
            "only one",
        ),
    ]);
}

#[test]
fn a_typo_is_told_by_its_line() {
    let text = "# keys\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata:\n  name: jwt\n  namespace: \
                shop\nspec:\n  jwtRules:\n  - issuer: me\n    jwksURI: https://a\n";
    let decoded = read(text);
    let said = decoded.rejected[0].to_string();
    assert!(
        said.starts_with("a.yaml:10: RequestAuthentication shop/jwt spec.jwtRules[0].jwksURI rejected: "),
        "{said}"
    );
}
