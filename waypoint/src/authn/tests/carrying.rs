use serde_json::json;

use super::super::refusal::Refusal;
use super::signer::{Signer, base64};
use super::{Asked, rule_with, rules, token, token_of};
use crate::authn::token::Algorithm;

#[test]
fn a_request_without_a_token_passes_and_is_nobodys() {
    let rules = rules(&rule_with(""));
    for mut asked in [
        Asked::default(),
        Asked::with(&[("authorization", "Basic dTpw")]),
        Asked::with(&[("x-token", "a.b.c")]),
        Asked::with(&[("authorization", "Bearertoken")]),
        Asked::default().query("a=b&access_tokens=x"),
        Asked::with(&[("cookie", "access_token=x")]),
    ] {
        let before = asked.headers.clone();
        let told = asked.judge(&rules).unwrap();
        assert!(told.claims().is_none() && told.principal().is_none());
        assert_eq!(asked.headers, before);
    }
}

#[test]
fn a_token_is_found_in_every_place_and_taken_out_of_it() {
    let anywhere = rules(&rule_with(
        ", fromHeaders: [{name: X-Token}, {name: x-pre, prefix: 'Token '}], fromParams: [jwt, a b], fromCookies: [id]",
    ));
    let good = token(json!({}));
    let escaped = good.replace('.', "%2E");
    for (sent, left, query) in [
        (Asked::with(&[("x-token", &good)]), vec![], None),
        (Asked::with(&[("x-token", &format!("  {good} "))]), vec![], None),
        (Asked::with(&[("x-pre", &format!("Token {good}"))]), vec![], None),
        (Asked::with(&[("x-pre", &format!("tOKEN   {good}"))]), vec![], None),
        (Asked::default().query(&format!("a=1&jwt={good}&b")), vec![], Some("a=1&b")),
        (Asked::default().query(&format!("jwt={escaped}")), vec![], None),
        (Asked::default().query(&format!("%6awt={good}&c=%20")), vec![], Some("c=%20")),
        (Asked::default().query(&format!("a+b={good}")), vec![], None),
        (Asked::with(&[("cookie", &format!("id={good}"))]), vec![], None),
        (Asked::with(&[("cookie", &format!("a=1; id=\"{good}\";b=2"))]), vec![("cookie", "a=1; b=2")], None),
    ] {
        let mut asked = sent;
        let told = asked.judge(&anywhere).unwrap_or_else(|why| panic!("{why:?} {asked:?}"));
        assert_eq!(told.principal(), Some("me/you"), "{asked:?}");
        let headers: Vec<_> =
            asked.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!((headers, asked.query.as_deref()), (left, query));
    }
    let default = rules(&rule_with(""));
    let mut asked = Asked::default().query(&format!("access_token={good}"));
    assert!(asked.judge(&default).unwrap().claims().is_some() && asked.query.is_none());
    // Where a rule names its places, Istio's own are none.
    let mut asked = Asked::bearing("not.looked.at");
    assert!(asked.judge(&anywhere).unwrap().claims().is_none() && asked.headers.len() == 1);
}

#[test]
fn a_token_stays_where_it_is_to_be_forwarded() {
    let rules = rules(&rule_with(", forwardOriginalToken: true"));
    let good = token(json!({}));
    let mut asked = Asked::bearing(&good).query(&format!("access_token={good}&a"));
    assert!(asked.judge(&rules).unwrap().claims().is_some());
    assert_eq!(asked.header("authorization"), Some(&*format!("Bearer {good}")));
    assert_eq!(asked.query, Some(format!("access_token={good}&a")));
}

#[test]
fn of_two_tokens_in_one_place_none_is_read() {
    let rules = rules(&rule_with(", fromHeaders: [{name: x-t}], fromParams: [p], fromCookies: [c]"));
    let good = token(json!({}));
    for mut asked in [
        Asked::with(&[("x-t", &good), ("x-t", &good)]),
        Asked::default().query(&format!("p={good}&p={good}")),
        Asked::default().query(&format!("p={good}&%70=x")),
        Asked::with(&[("cookie", &format!("c={good}; c=x"))]),
        // Two places, and two tokens that say different things of one issuer.
        Asked::with(&[("x-t", &good), ("cookie", &format!("c={}", token(json!({ "sub": "other" }))))]),
    ] {
        assert_eq!(asked.judge(&rules).err(), Some(Refusal::SeveralTokens), "{asked:?}");
    }
    let mut twice = Asked::with(&[("x-t", &good)]).query(&format!("p={good}"));
    assert_eq!(twice.judge(&rules).unwrap().principal(), Some("me/you"));
    let mut bad = Asked::with(&[("x-t", &good)]).query("p=x");
    assert_eq!(
        bad.judge(&rules).err(),
        Some(Refusal::NotThreeParts),
        "a good token does not vouch for a bad one"
    );
    // What stands beside a token in the same header is none of its kind.
    let default = super::rules(&rule_with(""));
    let mut both =
        Asked::with(&[("authorization", "Basic dTpw"), ("authorization", &format!("Bearer {good}"))]);
    assert!(both.judge(&default).unwrap().claims().is_some());
    let mut listed = Asked::with(&[("authorization", &format!("Bearer {good}, Bearer {good}"))]);
    assert!(listed.judge(&default).is_err());
}

#[test]
fn each_issuer_has_its_own_keys_and_an_unknown_one_has_none() {
    let (mine, theirs) = (super::signer(), Signer::new(Algorithm::Rs256));
    let both = rules(&format!(
        "{}, {{issuer: them, jwks: '{}', fromHeaders: [{{name: x-them}}, {{name: authorization, prefix: 'Bearer '}}]}}",
        rule_with(""),
        theirs.jwks("k")
    ));
    let from_them = token_of(&theirs, json!({ "iss": "them" }));
    let mut asked = Asked::bearing(&from_them);
    assert_eq!(asked.judge(&both).unwrap().principal(), Some("them/you"));
    // Both in places of their own: the first rule's counts.
    let mut asked = Asked::bearing(&token(json!({})));
    asked.headers.insert("x-them", from_them.parse().unwrap());
    assert_eq!(asked.judge(&both).unwrap().principal(), Some("me/you"));
    assert!(asked.headers.is_empty());
    for (text, expected) in [
        (token_of(mine, json!({ "iss": "them" })), Refusal::NoMatchingKey),
        (token_of(&theirs, json!({ "iss": "me" })), Refusal::NoMatchingKey),
        (token_of(mine, json!({ "iss": "x" })), Refusal::UnknownIssuer),
    ] {
        assert_eq!(Asked::bearing(&text).judge(&both).err(), Some(expected));
    }
    // A place of one issuer alone is none of the other's.
    let mut astray = Asked::with(&[("x-them", &token(json!({})))]);
    assert_eq!(astray.judge(&both).err(), Some(Refusal::UnknownIssuer));
    // Two rules for one issuer: either will do.
    let twice = rules(&format!(
        "{}, {}",
        rule_with(", audiences: [a]"),
        rule_with(", audiences: [b], outputClaimToHeaders: [{header: x-b, claim: aud}]")
    ));
    let mut asked = Asked::bearing(&token(json!({ "aud": "b" })));
    assert!(asked.judge(&twice).is_ok());
    assert_eq!(asked.header("x-b"), Some("b"));
    let mut neither = Asked::bearing(&token(json!({ "aud": "c" })));
    assert_eq!(neither.judge(&twice).err(), Some(Refusal::AudienceNotAllowed));
}

#[test]
fn keys_that_are_none_refuse_tokens_and_nothing_else() {
    let rules = rules("{issuer: me, jwks: '{\"keys\": [{\"kty\": \"oct\", \"k\": \"AAAA\"}]}'}");
    assert_eq!(Asked::bearing(&token(json!({}))).judge(&rules).err(), Some(Refusal::NoValidKeys));
    assert!(Asked::default().judge(&rules).is_ok());
}

const OUTPUTS: &str = ", outputPayloadToHeader: x-payload, spaceDelimitedClaims: [words], outputClaimToHeaders: [\
    {header: X-Sub, claim: sub}, {header: x-age, claim: age}, {header: x-yes, claim: 'yes'}, {header: x-deep, claim: a.b.c}, \
    {header: x-url, claim: 'https://me.example/x'}, {header: x-list, claim: list}, {header: x-scope, claim: scope}, \
    {header: x-words, claim: words}, {header: x-bad, claim: bad}, {header: x-float, claim: float}]";

#[test]
fn claims_are_told_in_headers() {
    let rules = rules(&rule_with(OUTPUTS));
    let text = token(json!({
        "age": 41, "yes": true, "a": { "b": { "c": "deep" } }, "https://me.example/x": "url", "list": ["a"],
        "scope": "read  write", "words": "a b", "bad": "a\r\nx-forged: 1", "float": 1.5,
    }));
    let mut asked = Asked::bearing(&text);
    let told = asked.judge(&rules).unwrap();
    for (name, expected) in [
        ("x-sub", Some("you")),
        ("x-age", Some("41")),
        ("x-yes", Some("true")),
        ("x-deep", Some("deep")),
        ("x-url", Some("url")),
        ("x-scope", Some("read  write")),
        ("x-words", Some("a b")),
        ("x-list", None),
        ("x-bad", None),
        ("x-float", None),
        ("x-payload", text.split('.').nth(1)),
        ("authorization", None),
    ] {
        assert_eq!(asked.header(name), expected, "{name}");
    }
    let claims = told.claims().unwrap();
    assert_eq!((&claims["scope"], &claims["words"]), (&json!(["read", "write"]), &json!(["a", "b"])));
    assert_eq!(claims["sub"], "you");
}

#[test]
fn nobody_but_us_writes_what_claims_are_told_in() {
    let rules = rules(&rule_with(OUTPUTS));
    let forged =
        [("x-sub", "root"), ("x-sub", "admin"), ("x-payload", "e30"), ("X-Age", "1"), ("x-other", "kept")];
    let mut nobody = Asked::with(&forged);
    assert!(nobody.judge(&rules).unwrap().claims().is_none());
    assert_eq!(nobody.headers.len(), 1);
    assert_eq!(nobody.header("x-other"), Some("kept"));

    let mut somebody = Asked::with(&forged);
    somebody.headers.insert("authorization", format!("Bearer {}", token(json!({}))).parse().unwrap());
    somebody.headers.insert("connection", "close, X-SUB,x-payload".parse().unwrap());
    somebody.judge(&rules).unwrap();
    let subjects: Vec<_> = somebody.headers.get_all("x-sub").iter().collect();
    assert_eq!(subjects, ["you"]);
    assert_eq!(somebody.header("x-age"), None, "a claim that is not there is told by nobody");
    assert_eq!(
        somebody.header("connection"),
        Some("close"),
        "for the next hop alone is what the client says, not we"
    );

    let mut only_ours = Asked::with(&[("connection", "x-sub")]);
    only_ours.judge(&rules).unwrap();
    assert_eq!(only_ours.header("connection"), None);
}

#[test]
fn a_subject_makes_a_principal_and_nothing_less() {
    let rules = rules(&rule_with(""));
    for (claims, expected) in [
        (json!({ "iss": "me", "sub": "a/b" }), Some("me/a/b")),
        (json!({ "iss": "me", "sub": "" }), None),
        (json!({ "iss": "me" }), None),
    ] {
        let told = Asked::bearing(&super::signer().token("k", &claims)).judge(&rules).unwrap();
        assert_eq!(told.principal(), expected);
        assert!(told.claims().is_some());
    }
    assert_eq!(base64("{}"), "e30");
}
