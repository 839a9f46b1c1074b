//! What comes first, and what cannot be known.

use std::sync::Arc;

use super::{Asking, Denial, effective, set};
use crate::authz::Effective;

fn rule(text: &str) -> String {
    format!("{{rules: [{text}]}}")
}

const GET: &str = "{to: [{operation: {methods: [GET]}}]}";
const SHOP: &str = "{from: [{source: {namespaces: [shop]}}]}";

fn denied(policy: usize, rule: usize) -> Result<(), Denial> {
    Err(Denial::Denied(format!("ns[shop]-policy[p{policy}]-rule[{rule}]").into()))
}

#[test]
fn custom_comes_before_deny_and_deny_before_allow() {
    let asking = Asking::default();
    let deny = format!("{{action: DENY, rules: [{{from: [{{source: {{namespaces: [x]}}}}]}}, {GET}]}}");
    let custom = format!("{{action: CUSTOM, provider: {{name: opa}}, rules: [{GET}]}}");
    let (allow, other) = (rule(GET), rule("{to: [{operation: {methods: [PUT]}}]}"));
    assert_eq!(asking.judge(&set(&[])), Ok(()));
    assert_eq!(asking.judge(&set(&[&allow])), Ok(()));
    assert_eq!(asking.judge(&set(&[&other])), Err(Denial::NoneMatched));
    assert_eq!(asking.judge(&set(&[&other, &allow])), Ok(()));
    assert_eq!(asking.judge(&set(&[&allow, &deny])), denied(1, 1));
    let all = set(&[&allow, &deny, &custom]);
    let name = "ns[shop]-policy[p2]-rule[0]-deny-due-to-bad-CUSTOM-action";
    assert_eq!(asking.judge(&all), Err(Denial::Custom(name.into())));
    assert_eq!(asking.clone().method("PUT").judge(&all), Err(Denial::NoneMatched));
    assert_eq!(asking.clone().method("PUT").judge(&set(&[&deny, &custom])), Ok(()));
}

#[test]
fn who_is_asked_by_custom_policies_is_asked_once_and_before_all_else() {
    let custom =
        |provider: &str| format!("{{action: CUSTOM, provider: {{name: {provider}}}, rules: [{GET}]}}");
    let deny = format!("{{action: DENY, rules: [{GET}]}}");
    let all = set(&[&custom("opa"), &deny, &custom("other"), &custom("opa")]);
    let providers = |asking: &Asking, set: &super::PolicySet| {
        asking
            .ask(|it| effective(set).providers(it))
            .unwrap()
            .map(|it| it.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let get = Asking::default();
    assert_eq!(providers(&get, &all), Ok(vec!["opa".to_owned(), "other".to_owned()]));
    assert_eq!(providers(&get.clone().method("PUT"), &all), Ok(vec![]));
    let judge = |set: &super::PolicySet, agreed: &[&str]| {
        let agreed: Vec<Arc<str>> = agreed.iter().map(|it| Arc::from(*it)).collect();
        get.ask(|it| effective(set).judge(it, &agreed)).unwrap()
    };
    assert!(matches!(judge(&all, &["opa"]), Err(Denial::Custom(rule)) if rule.contains("policy[p2]")));
    assert_eq!(judge(&all, &["opa", "other"]), denied(1, 0));
    assert_eq!(judge(&set(&[&custom("opa")]), &["opa"]), Ok(()));
    let nobody = set(&[&format!("{{action: CUSTOM, rules: [{GET}]}}")]);
    let name = "ns[shop]-policy[p0]-rule[0]-deny-due-to-bad-CUSTOM-action";
    assert_eq!(providers(&get, &nobody), Err(Denial::Custom(name.into())));
    let dry = dry(&[(&custom("opa"), true)]);
    assert_eq!((providers(&get, &dry), judge(&dry, &[])), (Ok(vec![]), Ok(())));
}

#[test]
fn a_policy_without_rules_matches_nothing_and_a_rule_without_conditions_everything() {
    let asking = Asking::default();
    for (spec, expected) in [
        ("{}", Err(Denial::NoneMatched)),
        ("{rules: [{}]}", Ok(())),
        ("{action: DENY}", Ok(())),
        ("{action: DENY, rules: [{}]}", denied(0, 0)),
        ("{action: CUSTOM, provider: {name: x}}", Ok(())),
        ("{action: AUDIT, rules: [{}]}", Ok(())),
    ] {
        assert_eq!(asking.judge(&set(&[spec])), expected, "{spec}");
    }
}

#[test]
fn policies_of_the_waypoint_and_of_the_service_are_one_list() {
    let (gateway, service) = (set(&[&rule(GET)]), set(&[&rule("{to: [{operation: {methods: [PUT]}}]}")]));
    let both = Effective { unknown: None, sets: [Some(&gateway), Some(&service)] };
    let judge = |method: &str| Asking::default().method(method).ask(|it| both.judge(it, &[])).unwrap();
    assert_eq!((judge("GET"), judge("PUT")), (Ok(()), Ok(())));
    assert_eq!(judge("POST"), Err(Denial::NoneMatched));
    let unread = "shop/broken".into();
    let unknown = Effective { unknown: Some(&unread), ..both };
    let judged = Asking::default().ask(|it| unknown.judge(it, &[])).unwrap();
    assert_eq!(judged, Err(Denial::Unknown("shop/broken".into())));
}

#[test]
fn what_only_http_has_lets_no_connection_in_and_keeps_none_from_being_kept_out() {
    let tcp = Asking::default().tcp();
    let jwt = "{from: [{source: {requestPrincipals: ['*']}}]}";
    let header = "{when: [{key: 'request.headers[x]', notValues: [v]}]}";
    let claim = "{when: [{key: 'request.auth.claims[x]', values: [v]}]}";
    let host = "{to: [{operation: {notHosts: [a]}}]}";
    let path_or_port = "{to: [{operation: {paths: [/a]}}, {operation: {ports: ['81']}}]}";
    for text in [GET, jwt, header, claim, host, path_or_port] {
        let deny = format!("{{action: DENY, rules: [{text}]}}");
        assert_eq!(tcp.judge(&set(&[&rule(text)])), Err(Denial::NoneMatched), "{text}");
        assert_eq!(tcp.judge(&set(&[&deny])), denied(0, 0), "{text}");
    }
    // What is known of connections too still decides.
    let elsewhere = "{from: [{source: {namespaces: [x]}}], to: [{operation: {methods: [GET]}}]}";
    assert_eq!(tcp.judge(&set(&[&format!("{{action: DENY, rules: [{elsewhere}]}}")])), Ok(()));
    assert_eq!(tcp.judge(&set(&[&format!("{{rules: [{GET}, {SHOP}]}}")])), Ok(()));
    assert_eq!(tcp.judge(&set(&[&rule("{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}")])), Ok(()));
}

#[test]
fn what_nobody_knows_here_widens_nothing() {
    let filter = "{when: [{key: 'experimental.envoy.filters.x[y]', values: [z]}]}";
    for asking in [Asking::default(), Asking::default().tcp()] {
        assert_eq!(asking.judge(&set(&[&rule(filter)])), Err(Denial::NoneMatched));
        assert_eq!(asking.judge(&set(&[&format!("{{action: DENY, rules: [{filter}]}}")])), denied(0, 0));
    }
}

/// Policies of which some are marked for a dry run.
fn dry(specs: &[(&str, bool)]) -> super::PolicySet {
    let one = |(at, (spec, dry)): (usize, &(&str, bool))| {
        let mark = format!("namespace: shop, annotations: {{istio.io/dry-run: '{dry}'}}}}");
        super::stated(&format!("p{at}"), spec).replace("namespace: shop}", &mark)
    };
    super::read(&specs.iter().enumerate().map(one).collect::<String>())
}

#[test]
fn a_dry_run_is_told_and_not_enforced() {
    let deny = format!("{{action: DENY, rules: [{GET}]}}");
    let put = rule("{to: [{operation: {methods: [PUT]}}]}");
    let get = rule(GET);
    let told = |specs: &[(&str, bool)]| {
        let set = dry(specs);
        let asking = Asking::default();
        let told = asking.ask(|it| effective(&set).would_refuse(it)).unwrap();
        (asking.judge(&set).is_ok(), told.map(|it| it.to_string()))
    };
    let named = |name: &str| Some(name.to_owned());
    assert_eq!(told(&[(&deny, true)]), (true, named("ns[shop]-policy[p0]-rule[0]")));
    assert_eq!(told(&[(&put, true)]), (true, named("shop/p0")));
    assert_eq!(told(&[(&get, true)]), (true, None));
    assert_eq!(told(&[(&get, false), (&put, true)]), (true, None));
    assert_eq!(told(&[(&put, false), (&get, true)]), (false, None));
    assert!(!told(&[(&deny, false), (&get, true)]).0);
    assert_eq!(told(&[(&get, false)]), (true, None));
}

#[test]
fn an_audit_is_told_of_what_it_matches() {
    let audit = set(&[&format!("{{action: AUDIT, rules: [{GET}]}}")]);
    let told = |method: &str| {
        Asking::default()
            .method(method)
            .ask(|it| effective(&audit).audited(it))
            .unwrap()
            .map(|it| it.to_string())
    };
    assert_eq!(told("GET"), Some("ns[shop]-policy[p0]-rule[0]".to_owned()));
    assert_eq!(told("PUT"), None);
}

#[test]
fn what_a_server_could_take_for_something_else_is_refused() {
    let paths = set(&["{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}"]);
    let header = set(&["{rules: [{when: [{key: 'request.headers[x-role]', notValues: [guest]}]}]}"]);
    let path = |it: &str| Asking::default().path(it);
    assert!(matches!(path("/admin;x").judge(&paths), Err(Denial::Ambiguous(_))));
    assert!(matches!(path("/a;x/b").judge(&paths), Err(Denial::Ambiguous(_))));
    assert_eq!(path("/a%3Bx").judge(&paths), Ok(()));
    assert_eq!(path("/a;x").judge(&header), Ok(()), "no policy looks at paths");
    let with = |name| Asking::default().header(name, "guest");
    assert!(matches!(with("x_role").judge(&header), Err(Denial::Ambiguous(_))));
    assert_eq!(with("x-role").judge(&header), Err(Denial::NoneMatched));
    assert_eq!(with("x_roles").judge(&header), Ok(()));
    assert_eq!(with("x_role").judge(&paths), Ok(()), "no policy looks at it");
}
