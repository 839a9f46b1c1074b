use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const ALWAYS: Sampling = Sampling::TenThousandths(10_000);
const NEVER: Sampling = Sampling::TenThousandths(0);
const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Headers, by name.
type Sent<'a> = [(&'a str, &'a str)];

fn prepared(sent: &[(&str, &str)], sampling: Sampling) -> (HeaderMap, Ids) {
    let mut headers = HeaderMap::new();
    for (name, value) in sent {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let ids = prepare(&mut headers, sampling, &mut StdRng::seed_from_u64(7));
    (headers, ids)
}

/// What is there of the headers of traces, by name.
fn traced(headers: &HeaderMap) -> Vec<(String, String)> {
    let others = ["x-request-id", "x-forwarded-proto"];
    let mut all: Vec<_> = headers
        .iter()
        .filter(|(name, _)| !others.contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    all.sort();
    all
}

fn owned(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut all: Vec<_> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    all.sort();
    all
}

#[test]
fn a_sane_request_id_is_passed_on_and_any_other_replaced() {
    let longest = "a".repeat(MAX_REQUEST_ID_BYTES);
    for sane in ["84961386-6d84-929d-98bd-c5aee93b5c88", "1", "not-a-uuid_but:fine", &longest] {
        let (headers, ids) = prepared(&[("x-request-id", sane)], NEVER);
        assert_eq!(headers[X_REQUEST_ID], sane);
        assert_eq!(ids.request_id, sane);
    }
    let too_long = "a".repeat(MAX_REQUEST_ID_BYTES + 1);
    let cases: [&[(&str, &str)]; 7] = [
        &[],
        &[("x-request-id", "")],
        &[("x-request-id", "a b")],
        &[("x-request-id", "a\tb")],
        &[("x-request-id", "\u{e9}")],
        &[("x-request-id", &too_long)],
        &[("x-request-id", "a"), ("x-request-id", "b")],
    ];
    for sent in cases {
        let (headers, ids) = prepared(sent, NEVER);
        assert_eq!(headers.get_all(X_REQUEST_ID).iter().collect::<Vec<_>>(), [&ids.request_id]);
        let id = ids.request_id.to_str().unwrap();
        let digits = |at: usize, byte: u8| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            14 => byte == b'4',
            19 => b"89ab".contains(&byte),
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        };
        assert!(id.len() == 36 && id.bytes().enumerate().all(|(at, byte)| digits(at, byte)), "{id}");
    }
}

#[test]
fn no_two_requests_get_the_same_ids() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut fresh = || prepare(&mut HeaderMap::new(), ALWAYS, &mut rng);
    let (one, other) = (fresh(), fresh());
    assert_ne!(one.request_id, other.request_id);
    assert_ne!(one.trace.unwrap().id, other.trace.unwrap().id);
}

#[test]
fn a_request_without_a_trace_gets_one_in_both_forms() {
    for (sampling, flags, sampled) in [(ALWAYS, "01", "1"), (NEVER, "00", "0")] {
        let (headers, ids) = prepared(&[], sampling);
        let trace = ids.trace.unwrap();
        let (id, span) = (format!("{:032x}", trace.id), format!("{:016x}", trace.span));
        assert_eq!(
            traced(&headers),
            owned(&[
                ("traceparent", &format!("00-{id}-{span}-{flags}")),
                ("x-b3-traceid", &id),
                ("x-b3-spanid", &span),
                ("x-b3-sampled", sampled),
            ])
        );
        assert_eq!(trace.is_sampled, Some(sampled == "1"));
    }
    let (headers, ids) = prepared(&[], Sampling::Off);
    assert_eq!((traced(&headers), ids.trace), (vec![], None));
}

#[test]
fn the_share_of_recorded_traces_is_the_one_asked_for() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut is_sampled = || {
        let ids = prepare(&mut HeaderMap::new(), Sampling::TenThousandths(100), &mut rng);
        ids.trace.unwrap().is_sampled.unwrap()
    };
    let recorded = (0..100_000).filter(|_| is_sampled()).count();
    assert!((800..1200).contains(&recorded), "{recorded} of 100000 at 1 %");
}

#[test]
fn what_is_well_formed_is_passed_on_unchanged() {
    let b3 = format!("{ID}-{SPAN}-1-05e3ac9a4f6e3b90");
    let short = format!("{}-{SPAN}", &ID[16..]);
    let multi: [(&str, &str); 5] = [
        ("x-b3-traceid", ID),
        ("x-b3-spanid", SPAN),
        ("x-b3-parentspanid", "05e3ac9a4f6e3b90"),
        ("x-b3-sampled", "1"),
        ("x-b3-flags", "0"),
    ];
    let w3c = [("traceparent", PARENT), ("tracestate", "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE")];
    let later = [("traceparent", "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes-later")];
    // With each: what is made of the other form, when it is not there.
    let made_b3 = [("x-b3-traceid", ID), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")];
    let made_w3c = [("traceparent", PARENT)];
    let made_short = [("traceparent", "00-0000000000000000a3ce929d0e0e4736-00f067aa0ba902b7-00")];
    let cases: [(&Sent<'_>, &Sent<'_>); 7] = [
        (&w3c, &made_b3),
        (&later, &made_b3),
        (&[("b3", &b3)], &made_w3c),
        (&[("b3", &short)], &made_short),
        (&multi, &made_w3c),
        (&[w3c.as_slice(), &multi].concat(), &[]),
        (&[("b3", &b3), ("x-b3-traceid", ID), ("x-b3-spanid", SPAN)], &made_w3c),
    ];
    for (sent, made) in cases {
        let (headers, ids) = prepared(sent, NEVER);
        assert_eq!(traced(&headers), owned(&[sent, made].concat()));
        assert_eq!(ids.trace.unwrap().span, 0x00f0_67aa_0ba9_02b7);
        // Nothing depends on whether fresh traces are made.
        assert_eq!(traced(&prepared(sent, Sampling::Off).0), traced(&headers));
    }
}

#[test]
fn a_decision_without_a_trace_is_kept() {
    for (sent, flags) in [("1", "01"), ("0", "00"), ("true", "01"), ("false", "00")] {
        let (headers, ids) = prepared(&[("x-b3-sampled", sent)], if flags == "00" { ALWAYS } else { NEVER });
        assert_eq!(headers[X_B3_SAMPLED], sent);
        let trace = ids.trace.unwrap();
        assert_eq!(headers[X_B3_TRACEID], format!("{:032x}", trace.id));
        assert_eq!(headers[TRACEPARENT], format!("00-{:032x}-{:016x}-{flags}", trace.id, trace.span));
    }
    let (headers, _) = prepared(&[("b3", "0")], ALWAYS);
    assert_eq!(headers[B3], "0");
    assert!(headers[TRACEPARENT].to_str().unwrap().ends_with("-00"));
    assert!(!headers.contains_key(X_B3_TRACEID), "two forms of B3 that differ");
    let (headers, ids) = prepared(&[("x-b3-flags", "1")], Sampling::Off);
    assert_eq!((headers.len(), ids.trace), (3, None), "{headers:?}");
}

#[test]
fn a_malformed_traceparent_is_replaced_and_its_tracestate_goes_with_it() {
    let upper = PARENT.to_uppercase();
    let cases = [
        "",
        "0",
        "00-0-0-0",
        &upper,
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
        "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what",
        "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\
         \u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
    ];
    for malformed in cases {
        let sent = [("traceparent", malformed), ("tracestate", "a=b")];
        let (headers, ids) = prepared(&sent, ALWAYS);
        let trace = ids.trace.unwrap();
        assert_ne!(trace.id, u128::from_str_radix(ID, 16).unwrap(), "{malformed:?} was believed");
        assert_eq!(headers[TRACEPARENT], format!("00-{:032x}-{:016x}-01", trace.id, trace.span));
        assert_eq!(headers[X_B3_TRACEID], format!("{:032x}", trace.id));
        assert!(!headers.contains_key(TRACESTATE), "{malformed:?}");
        assert_eq!(traced(&prepared(&sent, Sampling::Off).0), vec![]);
    }
    let (headers, _) = prepared(&[("traceparent", PARENT), ("traceparent", PARENT)], ALWAYS);
    assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 1);
    assert_ne!(headers[TRACEPARENT], PARENT);
}

#[test]
fn malformed_b3_is_replaced_by_what_traceparent_says() {
    let zero = format!("{}-{SPAN}", "0".repeat(32));
    let (bad_state, bad_parent) = (format!("{ID}-{SPAN}-2"), format!("{ID}-{SPAN}-1-x"));
    let (five, odd) = (format!("{ID}-{SPAN}-1-{SPAN}-1"), format!("{}-{SPAN}", &ID[1..]));
    let cases: [&[(&str, &str)]; 16] = [
        &[("b3", "")],
        &[("b3", "2")],
        &[("b3", ID)],
        &[("b3", &zero)],
        &[("b3", &bad_state)],
        &[("b3", &bad_parent)],
        &[("b3", &five)],
        &[("b3", &odd)],
        &[("b3", "1"), ("b3", "1")],
        &[("x-b3-traceid", ID)],
        &[("x-b3-spanid", SPAN)],
        &[("x-b3-parentspanid", SPAN), ("x-b3-sampled", "1")],
        &[("x-b3-traceid", ID), ("x-b3-spanid", "0")],
        &[("x-b3-traceid", ID), ("x-b3-spanid", SPAN), ("x-b3-sampled", "yes")],
        &[("x-b3-traceid", ID), ("x-b3-spanid", SPAN), ("x-b3-flags", "9")],
        &[("x-b3-traceid", ID), ("x-b3-traceid", ID), ("x-b3-spanid", SPAN)],
    ];
    let parent = "00-11111111111111111111111111111111-2222222222222222-01";
    for malformed in cases {
        let sent = [malformed, &[("traceparent", parent)]].concat();
        assert_eq!(
            traced(&prepared(&sent, NEVER).0),
            owned(&[
                ("traceparent", parent),
                ("x-b3-traceid", "11111111111111111111111111111111"),
                ("x-b3-spanid", "2222222222222222"),
                ("x-b3-sampled", "1"),
            ]),
            "{malformed:?}"
        );
    }
}

#[test]
fn a_tracestate_that_no_one_could_read_is_dropped_alone() {
    let long = format!("a={}", "b".repeat(MAX_TRACESTATE_BYTES));
    let many = vec!["a=b"; MAX_TRACESTATE_ENTRIES + 1].join(",");
    for malformed in ["a", "=b", "a=b,c", "a=\u{e9}", "a=b\tc", &long, &many] {
        let (headers, _) = prepared(&[("traceparent", PARENT), ("tracestate", malformed)], NEVER);
        assert_eq!(headers[TRACEPARENT], PARENT);
        assert!(!headers.contains_key(TRACESTATE), "{malformed:?}");
    }
    let split = [("traceparent", PARENT), ("tracestate", "a=b,"), ("tracestate", "c=d")];
    let (headers, _) = prepared(&split, NEVER);
    assert_eq!(headers.get_all(TRACESTATE).iter().count(), 2, "a list may come in several fields");
    let (headers, _) = prepared(&[("tracestate", "a=b")], ALWAYS);
    assert!(!headers.contains_key(TRACESTATE), "it says more about a trace that is not there");
}

#[test]
fn how_a_request_came_to_the_mesh_is_left_to_who_saw_it() {
    let (headers, _) = prepared(&[("x-forwarded-for", "203.0.113.9, 10.0.0.1")], NEVER);
    assert_eq!(headers["x-forwarded-for"], "203.0.113.9, 10.0.0.1");
    assert_eq!(headers[X_FORWARDED_PROTO], "http");
    let (headers, _) = prepared(&[("x-forwarded-proto", "https")], NEVER);
    assert_eq!(headers[X_FORWARDED_PROTO], "https");
    assert!(!headers.contains_key("x-forwarded-for"));
}

#[test]
#[ignore = "prints a measurement; run in release mode when the headers change"]
fn cost_of_preparing_headers() {
    let mut rng = StdRng::seed_from_u64(1);
    let rounds = 500_000u32;
    for (what, sampling) in [("id only", Sampling::Off), ("id and trace", NEVER)] {
        let started = std::time::Instant::now();
        for _ in 0..rounds {
            std::hint::black_box(prepare(&mut HeaderMap::new(), sampling, &mut rng));
        }
        println!("{what}: {:?} a request", started.elapsed() / rounds);
    }
}

#[test]
fn a_span_of_our_own_stands_in_every_form_that_was_met() {
    let own = Trace { id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, span: 0xaa, is_sampled: Some(true) };
    let traceparent = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000aa-01");
    let handed = |sent: &[(&str, &str)], trace: &Trace| {
        let (mut headers, _) = prepared(sent, ALWAYS);
        hand_on(&mut headers, trace, 0xbb);
        traced(&headers)
    };
    let multi = [
        ("x-b3-parentspanid", "00000000000000bb"),
        ("x-b3-sampled", "1"),
        ("x-b3-spanid", "00000000000000aa"),
        ("x-b3-traceid", ID),
    ];
    assert_eq!(handed(&[("traceparent", PARENT)], &own), owned(&[&[traceparent], &multi[..]].concat()));
    let single = format!("{ID}-{SPAN}-1");
    let expected = format!("{ID}-00000000000000aa-1-00000000000000bb");
    assert_eq!(handed(&[("b3", &single)], &own), owned(&[traceparent, ("b3", &expected)]));
    let short = Trace { id: 0xa3ce_929d_0e0e_4736, ..own };
    let all = handed(&[("b3", &format!("a3ce929d0e0e4736-{SPAN}"))], &short);
    assert!(
        all.contains(&("b3".to_owned(), "a3ce929d0e0e4736-00000000000000aa-1-00000000000000bb".to_owned()))
    );
    let unsampled = Trace { is_sampled: Some(false), ..own };
    let sent = [("x-b3-traceid", ID), ("x-b3-spanid", SPAN), ("x-b3-sampled", "0")];
    let all = handed(&sent, &unsampled);
    assert!(all.iter().any(|(name, value)| name == "traceparent" && value.ends_with("-00")), "{all:?}");
    assert!(all.contains(&("x-b3-sampled".to_owned(), "0".to_owned())), "{all:?}");
    let sent = [("x-b3-traceid", ID), ("x-b3-spanid", SPAN), ("x-b3-flags", "1")];
    let all = handed(&sent, &own);
    assert!(!all.iter().any(|(name, _)| name == "x-b3-sampled"), "{all:?}");
}

#[test]
fn it_is_known_where_a_trace_begins() {
    assert!(prepared(&[], ALWAYS).1.is_begun);
    assert!(prepared(&[("x-b3-sampled", "1")], NEVER).1.is_begun);
    assert!(!prepared(&[("traceparent", PARENT)], ALWAYS).1.is_begun);
    assert!(!prepared(&[], Sampling::Off).1.is_begun);
}
