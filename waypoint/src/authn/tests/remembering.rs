use std::sync::Mutex;

use serde_json::json;

use super::super::refusal::Refusal;
use super::super::verified::{Cache, MAX_CACHED_TOKEN_BYTES, MAX_CACHED_TOKENS};
use super::signer::base64;
use super::{Asked, NOW, rule_with, rules, token};

fn known(cache: &Mutex<Cache>) -> usize {
    cache.lock().unwrap().len()
}

#[test]
fn a_token_is_verified_once_and_still_ends_at_its_time() {
    let (rules, cache) = (rules(&rule_with("")), Mutex::default());
    let text = token(json!({ "exp": NOW + 100, "nbf": NOW }));
    let judge =
        |now| Asked::bearing(&text).judge_at(now, &rules, &cache).map(|it| it.principal().map(str::to_owned));
    assert_eq!(judge(NOW), Ok(Some("me/you".into())));
    assert_eq!(known(&cache), 1);
    assert_eq!(judge(NOW + 160), Ok(Some("me/you".into())));
    assert_eq!(judge(NOW - 61), Err(Refusal::NotYetValid));
    assert_eq!(judge(NOW + 161), Err(Refusal::Expired));
    assert_eq!(known(&cache), 0, "what has ended is not kept");
}

#[test]
fn a_known_signature_vouches_for_no_other_token() {
    let (rules, cache) = (rules(&rule_with("")), Mutex::default());
    let good = token(json!({}));
    Asked::bearing(&good).judge_at(NOW, &rules, &cache).unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    let forged = format!("{}.{}.{}", parts[0], base64(r#"{"iss":"me","sub":"root"}"#), parts[2]);
    let told = Asked::bearing(&forged).judge_at(NOW, &rules, &cache);
    assert_eq!(told.err(), Some(Refusal::WrongSignature));
    let header = format!("{}.{}.{}", base64(r#"{"alg":"ES256"}"#), parts[1], parts[2]);
    assert!(Asked::bearing(&header).judge_at(NOW, &rules, &cache).is_err());
    assert!(Asked::bearing(&good).judge_at(NOW, &rules, &cache).is_ok());
}

#[test]
fn what_one_rule_knows_no_other_believes() {
    let cache = Mutex::default();
    let good = token(json!({ "aud": "a" }));
    let judge = |more: &str| Asked::bearing(&good).judge_at(NOW, &rules(&rule_with(more)), &cache).map(drop);
    assert_eq!(judge(""), Ok(()));
    assert_eq!(judge(", audiences: [b]"), Err(Refusal::AudienceNotAllowed));
    // The same keys, stated anew without the token's own.
    let other = format!("{{issuer: me, jwks: '{}'}}", super::signer().jwks("other"));
    let told = Asked::bearing(&good).judge_at(NOW, &rules(&other), &cache);
    assert_eq!(told.err(), Some(Refusal::NoMatchingKey));
}

#[test]
fn what_is_known_is_bounded_and_what_is_used_stays() {
    let (rules, cache) = (rules(&rule_with("")), Mutex::default());
    let kept = token(json!({ "sub": "kept" }));
    for at in 0..MAX_CACHED_TOKENS + MAX_CACHED_TOKENS / 2 {
        let text = token(json!({ "sub": at.to_string() }));
        Asked::bearing(&text).judge_at(NOW, &rules, &cache).unwrap();
        Asked::bearing(&kept).judge_at(NOW, &rules, &cache).unwrap();
        assert!(known(&cache) <= MAX_CACHED_TOKENS, "{at}");
    }
    let before = known(&cache);
    let long = token(json!({ "x": "x".repeat(MAX_CACHED_TOKEN_BYTES) }));
    Asked::bearing(&long).judge_at(NOW, &rules, &cache).unwrap();
    assert_eq!(known(&cache), before, "a token as long as that is verified each time");
    let bad = token(json!({ "iss": "x" }));
    assert!(Asked::bearing(&bad).judge_at(NOW, &rules, &cache).is_err());
    assert_eq!(known(&cache), before, "what is refused is not kept");
}

#[test]
fn what_is_known_keeps_no_rule_and_no_keys() {
    let cache = Mutex::default();
    let rule =
        std::sync::Arc::new(super::Rule::new(&super::stated(&rule_with("")).rules[0], &super::NoKeyring));
    let left = std::sync::Arc::downgrade(&rule);
    let rules = super::Rules::new(vec![rule]);
    Asked::bearing(&token(json!({}))).judge_at(NOW, &rules, &cache).unwrap();
    drop(rules);
    assert_eq!((known(&cache), left.strong_count()), (1, 0));
}
