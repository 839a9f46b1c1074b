use http::HeaderValue;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::routes::Rule;
use crate::routes::tests::rule;

fn stated(retries: &str) -> Rule {
    rule(&format!("route: [{{destination: {{host: reviews}}}}]\nretries: {{{retries}}}"))
}

fn on(words: &str) -> Rule {
    stated(&format!("attempts: 3, retryOn: '{words}'"))
}

fn of(rule: &Rule) -> Option<Policy<'_>> {
    policy(Under::Route(rule.route.retries()))
}

/// Everything that can come of a try, by name.
const OUTCOMES: [&str; 24] = [
    "200",
    "404",
    "409",
    "429",
    "500",
    "502",
    "503",
    "504",
    "limited 503",
    "grpc 0",
    "grpc 1",
    "grpc 4",
    "grpc 8",
    "grpc 13",
    "grpc 14",
    "grpc 2",
    "connect",
    "refused",
    "reset early",
    "reset late",
    "expired early",
    "expired late",
    "overflow",
    "refused late",
];

fn is_retried(policy: &Policy<'_>, outcome: &str) -> bool {
    let mut headers = HeaderMap::new();
    let words: Vec<&str> = outcome.split(' ').collect();
    let failed = |why, was_sent| Outcome::Failed { why, was_sent };
    let outcome = match words[..] {
        ["grpc", status] => {
            headers.insert(GRPC_STATUS, status.parse().unwrap());
            Outcome::Answered { status: StatusCode::OK, headers: &headers }
        }
        ["limited", status] => {
            headers.insert(RATE_LIMITED, HeaderValue::from_static("true"));
            Outcome::Answered { status: status.parse().unwrap(), headers: &headers }
        }
        ["connect"] => failed(Failure::Connect, false),
        ["refused"] => failed(Failure::Refused, false),
        ["refused", "late"] => failed(Failure::Refused, true),
        ["reset", when] => failed(Failure::Reset, when == "late"),
        ["expired", when] => failed(Failure::TryExpired, when == "late"),
        ["overflow"] => failed(Failure::Overflow, false),
        [status] => Outcome::Answered { status: status.parse().unwrap(), headers: &headers },
        _ => panic!("{outcome}"),
    };
    match policy.judge(&outcome, 0) {
        Verdict::Again => true,
        Verdict::Final => false,
        Verdict::Exhausted => panic!("exhausted before the first retry"),
    }
}

fn retried(policy: &Policy<'_>) -> Vec<&'static str> {
    OUTCOMES.into_iter().filter(|it| is_retried(policy, it)).collect()
}

#[test]
fn each_word_of_retry_on_retries_what_it_says_and_nothing_else() {
    const UNANSWERED: [&str; 7] =
        ["connect", "refused", "reset early", "reset late", "expired early", "expired late", "refused late"];
    let with = |statuses: &[&'static str]| [statuses, &UNANSWERED].concat();
    for (words, expected) in [
        ("5xx", with(&["500", "502", "503", "504"])),
        ("gateway-error", with(&["502", "503", "504"])),
        ("reset", UNANSWERED.to_vec()),
        ("reset-before-request", vec!["connect", "refused", "reset early", "expired early"]),
        ("connect-failure", vec!["connect"]),
        ("refused-stream", vec!["refused", "refused late"]),
        ("envoy-ratelimited", vec!["limited 503"]),
        ("retriable-4xx", vec!["409"]),
        ("retriable-status-codes", vec![]),
        ("retriable-status-codes,429", vec!["429"]),
        ("429, 404", vec!["404", "429"]),
        ("retriable-headers", vec![]),
        ("http3-post-connect-failure", vec![]),
        ("cancelled", vec!["grpc 1"]),
        ("deadline-exceeded", vec!["grpc 4"]),
        ("resource-exhausted", vec!["grpc 8"]),
        ("internal", vec!["grpc 13"]),
        ("unavailable", vec!["grpc 14"]),
        ("connect-failure,500", vec!["500", "connect"]),
        ("5xx,envoy-ratelimited", with(&["500", "502", "503", "504", "limited 503"])),
    ] {
        assert_eq!(retried(&of(&on(words)).unwrap()), expected, "{words}");
    }
}

#[test]
fn what_is_not_stated_is_istios_default() {
    let of_routes = vec!["grpc 1", "grpc 14", "connect", "refused", "refused late"];
    let silent = rule("route: [{destination: {host: reviews}}]");
    let policy_of_silent = of(&silent).unwrap();
    assert_eq!((policy_of_silent.retries, retried(&policy_of_silent)), (2, of_routes.clone()));
    let counted = stated("attempts: 7");
    let policy_of_counted = of(&counted).unwrap();
    assert_eq!((policy_of_counted.retries, retried(&policy_of_counted)), (7, of_routes));
    assert_eq!(of(&stated("perTryTimeout: 1s")).unwrap().retries, 2);
    assert_eq!(of(&stated("attempts: 0")), None);
    let of_none = policy(Under::Nothing).unwrap();
    assert_eq!(of_none.retries, 2);
    assert_eq!(retried(&of_none), ["connect", "refused", "reset early", "expired early"]);
}

#[test]
fn a_body_is_needed_again_where_what_was_sent_is_tried_again() {
    // What a try that sent nothing can end like: whoever refuses a stream, breaks off or is late was sent it.
    let unsent = ["connect"];
    let sent = |it: &&str| !unsent.contains(it) && !it.ends_with("early") && *it != "refused";
    let check = |policy: &Policy<'_>, words: &str| {
        let again = retried(policy).iter().any(sent);
        assert_eq!(policy.sends_again(), again, "{words}");
    };
    for words in [
        "connect-failure",
        "reset-before-request",
        "connect-failure,reset-before-request,retriable-headers,http3-post-connect-failure",
        "retriable-status-codes",
        "connect-failure,503",
        "refused-stream",
        "5xx",
        "gateway-error",
        "reset",
        "envoy-ratelimited",
        "retriable-4xx",
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
        "unavailable",
    ] {
        check(&of(&on(words)).unwrap(), words);
    }
    check(&policy(Under::Nothing).unwrap(), "no route");
    assert!(!policy(Under::Nothing).unwrap().sends_again());
    assert!(of(&rule("route: [{destination: {host: reviews}}]")).unwrap().sends_again());
}

#[test]
fn retries_come_to_an_end() {
    let rule = on("5xx");
    let policy = of(&rule).unwrap();
    let headers = HeaderMap::new();
    let failing = Outcome::Answered { status: StatusCode::BAD_GATEWAY, headers: &headers };
    let verdicts: Vec<Verdict> = (0..5).map(|retries| policy.judge(&failing, retries)).collect();
    use Verdict::*;
    assert_eq!(verdicts, [Again, Again, Again, Exhausted, Exhausted]);
    let fine = Outcome::Answered { status: StatusCode::OK, headers: &headers };
    assert_eq!(policy.judge(&fine, 3), Final);
}

#[test]
fn waits_double_up_to_ten_times_the_first_and_are_spread_over_their_span() {
    let mut rng = SmallRng::seed_from_u64(6);
    for (retries, base) in [("attempts: 9", 25), ("attempts: 9, backoff: 100ms", 100)] {
        let rule = stated(retries);
        let policy = of(&rule).unwrap();
        for (retry, span) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (6, 10), (40, 10), (u32::MAX, 10)] {
            let waits: Vec<f64> =
                (0..2_000).map(|_| policy.backoff(retry, &mut rng).as_secs_f64() * 1000.0).collect();
            let most = f64::from(base * span);
            assert!(waits.iter().all(|it| *it <= most), "{retries}, retry {retry}");
            let mean = waits.iter().sum::<f64>() / 2_000.0;
            assert!((mean / most - 0.5).abs() < 0.04, "{retries}, retry {retry}: {mean} ms of {most}");
        }
    }
}

#[test]
fn hosts_that_were_tried_are_avoided_unless_it_is_said_otherwise() {
    for (retries, random, hashed) in [
        ("attempts: 1", true, false),
        ("attempts: 1, retryIgnorePreviousHosts: true", true, true),
        ("attempts: 1, retryIgnorePreviousHosts: false", false, false),
    ] {
        let rule = stated(retries);
        let policy = of(&rule).unwrap();
        assert_eq!((policy.avoids_hosts(false), policy.avoids_hosts(true)), (random, hashed), "{retries}");
    }
}

#[test]
fn other_localities_come_after_each_pair_of_tries_where_that_is_asked_for() {
    let rule = stated("attempts: 9, retryRemoteLocalities: true");
    let policy = of(&rule).unwrap();
    let tried = ["a", "a", "b", "b", "c"];
    for (tries, expected) in [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4), (5, 4)] {
        assert_eq!(policy.avoided_localities(&tried[..tries]).len(), expected, "after {tries}");
    }
    assert!(of(&stated("attempts: 9")).unwrap().avoided_localities(&tried).is_empty());
}

#[test]
fn a_try_says_which_it_is() {
    let mut headers = HeaderMap::new();
    headers.insert(ATTEMPT_COUNT, HeaderValue::from_static("99"));
    tell_attempt(2, &mut headers);
    assert_eq!(headers.get_all(ATTEMPT_COUNT).iter().collect::<Vec<_>>(), ["2"]);
}
