use std::fmt::Write as _;

use proptest::prelude::*;

use super::super::manifest::{EndpointSliceManifest, PodManifest, ServiceManifest};
use super::*;
use crate::config::{Key, ObjectName};

fn read(bytes: impl AsRef<[u8]>) -> Decoded {
    decode(&"a.yaml".into(), bytes.as_ref(), &mut Names::default())
}

/// What is said of the only document, which must have been turned away.
fn refusal(bytes: impl AsRef<[u8]>) -> Rejected {
    let decoded = read(bytes);
    assert!(decoded.stated.is_empty(), "{:?}", decoded.stated);
    let [rejected] = &decoded.rejected[..] else { panic!("{:?}", decoded.rejected) };
    rejected.clone()
}

fn keys(decoded: &Decoded) -> Vec<String> {
    assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
    decoded.stated.iter().map(|it| format!("{} {}", it.resource.key(), it.origin.line)).collect()
}

const POD: &str = "apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  labels:
    app: web
spec:
  nodeName: n1
  containers:
  - name: app
    ports:
    - name: http
      containerPort: 8080
status:
  podIP: 10.0.0.1
";

const POLICY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: web
  namespace: shop
spec:
  selector:
    matchLabels:
      app: web
  rules:
  - from:
    - source:
        principals: [\"cluster.local/ns/shop/sa/a\"]
    to:
    - operation:
        ports: [\"8080\"]
";

#[test]
fn a_stream_is_read_document_by_document_and_a_bad_one_spoils_no_other() {
    let other = POD.replace("name: web\n  namespace", "name: other\n  namespace");
    let stream = format!("# head\n{POD}---\nkind: [\n---\n\n---\n# only a comment\n--- # two\n{other}...\n");
    let decoded = read(&stream);
    let found: Vec<_> =
        decoded.stated.iter().map(|it| (it.resource.key().to_string(), it.origin.line)).collect();
    assert_eq!(found, [("Pod shop/web".to_owned(), 2), ("Pod shop/other".to_owned(), 25)]);
    assert_eq!(decoded.rejected.len(), 1);
    assert_eq!(decoded.rejected[0].origin.file, "a.yaml".into());
    assert!((19..=21).contains(&decoded.rejected[0].origin.line), "{}", decoded.rejected[0]);
    assert!(!decoded.rejected[0].guards_access);
}

#[test]
fn other_kinds_are_skipped_by_name() {
    for (version, kind) in [
        ("apps/v1", "Deployment"),
        ("apps/v1", "ReplicaSet"),
        ("v1", "ConfigMap"),
        ("serving.knative.dev/v1", "Service"),
        ("discovery.k8s.io/v1beta1", "EndpointSlice"),
        ("policy.linkerd.io/v1alpha1", "AuthorizationPolicy"),
        ("networking.istio.io/v1", "WorkloadGroup"),
        ("networking.istio.io/v1", "Gateway"),
        ("example.com/v1", "VirtualService"),
    ] {
        let decoded = read(format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: 7\n"));
        assert!(decoded.rejected.is_empty() && decoded.stated.is_empty(), "{version} {kind}");
        assert_eq!(&*decoded.skipped[0].kind, format!("{version} {kind}"));
    }
}

#[test]
fn a_list_is_unpacked_and_a_bad_item_spoils_no_other() {
    let items: String = [POD, "apiVersion: v1\nkind: Pod\nmetadata: {name: 'X Y'}\n", POLICY]
        .iter()
        .map(|it| format!("- {}\n", it.trim_end().replace('\n', "\n  ")))
        .collect();
    for margin in ["", "  "] {
        let items: String = items.lines().map(|it| format!("{margin}{it}\n")).collect();
        let list = format!("apiVersion: v1\nitems:\n{items}kind: List\nmetadata:\n  resourceVersion: \"\"\n");
        let decoded = read(list);
        assert_eq!((decoded.stated.len(), decoded.rejected.len()), (2, 1), "{:?}", decoded.rejected);
        assert_eq!(decoded.stated[0].origin.line, 3);
        assert_eq!(&*decoded.rejected[0].field, "metadata.name");
    }
    let json = r#"{"apiVersion":"v1","kind":"List","items":[
        {"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}},
        {"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"p"},"spec":{"x":1}},
        {"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"}}]}"#;
    let decoded = read(json);
    assert_eq!((decoded.stated.len(), decoded.rejected.len()), (2, 1));
    assert!(decoded.rejected[0].guards_access);
    let lines: Vec<u32> = decoded.stated.iter().map(|it| it.origin.line).collect();
    assert_eq!((&*lines, decoded.rejected[0].origin.line), (&[2, 4][..], 3));
}

#[test]
fn what_is_not_plain_utf8_text_is_refused_with_the_reason() {
    let utf16 = |text: &str, big: bool| -> Vec<u8> {
        let units = std::iter::once(0xfeff).chain(text.encode_utf16());
        units.flat_map(|it| if big { it.to_be_bytes() } else { it.to_le_bytes() }).collect()
    };
    for (bytes, reason, guards) in [
        (utf16(POD, false), "UTF-16", false),
        (utf16(POLICY, true), "UTF-16", true),
        (utf16(POLICY, false)[2..].to_vec(), "UTF-16", true),
        (format!("\u{feff}{POLICY}").into_bytes(), "byte order mark", true),
        (POD.replace("web", "w\0b").into_bytes(), "control character 0x00", false),
        (POD.replace("web", "w\u{1b}b").into_bytes(), "control character 0x1b", false),
        (POLICY.replace('\n', "\r").into_bytes(), "control character 0x0d", true),
        (POD.replace("web", "w\u{e9}b").chars().map(|it| it as u8).collect(), "not UTF-8", false),
    ] {
        let rejected = refusal(bytes);
        assert!(rejected.reason.contains(reason), "{rejected}");
        assert_eq!(rejected.guards_access, guards, "{rejected}");
    }
    assert_eq!(refusal(POD.replace("nodeName: n1", "nodeName: n\0")).origin.line, 9);
    assert_eq!(keys(&read(POD.replace('\n', "\r\n"))), ["Pod shop/web 1"]);
}

#[test]
fn bombs_are_refused_in_no_time_and_little_space() {
    let mut anchors = String::from("apiVersion: v1\nkind: Pod\na: &a [x,x,x,x,x,x,x,x,x,x]\n");
    for (from, to) in ('a'..='y').zip('b'..='z') {
        let ten = format!("*{from},").repeat(10);
        let _ = writeln!(anchors, "{to}: &{to} [{ten}]");
    }
    anchors += "metadata: *z\n";
    let deep = format!("apiVersion: v1\nkind: Pod\nmetadata: {}{}\n", "[".repeat(10_000), "]".repeat(10_000));
    let mut deep_block = String::from("apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n  labels:\n");
    for i in 0..10_000 {
        let _ = writeln!(deep_block, "{}a:", " ".repeat(4 + i % 4000));
    }
    let deep_policy: String = (0..5_000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    let deep_policy = POLICY.replace("spec:\n", &format!("spec:\n{}", deep_policy.replace("\n", "\n  ")));
    let long = POD.replace("app: web", &format!("app: {}", "x".repeat(3 << 20)));
    // 100 kB that stand for 200 MB.
    let copies = format!("&a \"{}\"{}", "x".repeat(100_000), ", *a".repeat(2_000));
    let copies = POLICY.replace("[\"8080\"]", &format!("[{copies}]"));
    for bomb in [anchors, deep, deep_block, deep_policy, long, copies] {
        let started = std::time::Instant::now();
        refusal(&bomb);
        assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:.60}", bomb);
    }
    let huge = vec![b' '; MAX_FILE_BYTES + 1];
    assert!(refusal(huge).reason.contains("more than"));
    let many = "---\nx\n".repeat(MAX_DOCUMENTS + 10);
    assert!(read(many).rejected.len() <= MAX_REJECTED);
}

#[test]
fn of_too_many_rejections_the_last_stands_for_all() {
    let decoded = read("---\n{\n".repeat(MAX_REJECTED + 5) + "---\n" + &POLICY.replace("rules", "rulez"));
    assert_eq!(decoded.rejected.len(), MAX_REJECTED);
    let last = decoded.rejected.last().unwrap();
    assert!(last.guards_access && last.subject.kind.is_none());
}

#[test]
fn faults_are_named_by_line_object_and_field() {
    let pod = |from: &str, to: &str| refusal(POD.replacen(from, to, 1));
    let policy = |from: &str, to: &str| refusal(POLICY.replacen(from, to, 1));
    let security = "security.istio.io/v1";
    for (rejected, line, reason) in [
        (pod("  namespace: shop", "  namespace: shop\n  name: again"), 6, "duplicate"),
        (pod("    app: web", "    app: web\n    app: other"), 8, "duplicate"),
        (pod("metadata:", "metadata: {}\nmetadata:"), 4, "duplicate"),
        (pod("containerPort: 8080", "containerPort: 08080"), 14, "leading zero"),
        (pod("containerPort: 8080", "containerPort: 017"), 14, "leading zero"),
        (pod("containerPort: 8080", "containerPort: 0"), 14, "1 to 65535"),
        (pod("containerPort: 8080", "containerPort: 65536"), 14, "1 to 65535"),
        (pod("containerPort: 8080", "containerPort: \"8080\""), 14, "string"),
        (pod("containerPort: 8080", "containerPort: -1"), 14, "negative"),
        (pod("  namespace: shop", "\tnamespace: shop"), 4, "tab"),
        (pod("name: web", "name: Web"), 4, "not a valid name"),
        (pod("namespace: shop", "namespace: shop.x"), 5, "not a valid namespace"),
        (pod("namespace: shop", "namespace: \"\""), 5, "not a valid namespace"),
        (pod("app: web", "app: \"a b\""), 7, "not a valid label"),
        (pod("10.0.0.1", "10.0.0.256"), 15, "not an IP address"),
        (pod("10.0.0.1", "127.0.0.1"), 15, "loopback"),
        (pod("nodeName: n1", "nodeName: 'n 1'"), 9, "not a valid name"),
        (pod("nodeName: n1", "hostNetwork: maybe"), 9, "bool"),
        (policy("principals:", "principal:"), 13, "unknown field"),
        (policy("  rules:", "  rule:"), 10, "unknown field"),
        (policy("matchLabels", "matchExpressions"), 8, "unknown field"),
        (policy("spec:", "spec:\n  action: MAYBE"), 7, "no action"),
        (policy("[\"8080\"]", "[8080]"), 16, "quoted"),
        (policy("[\"8080\"]", "[\"http\"]"), 16, "not a port"),
        (policy("[\"8080\"]", "[\"08080\"]"), 16, "leading zeros"),
        (policy("app: web", "app: no"), 9, "quoted"),
        (policy(security, "security.istio.io/v1alpha1"), 1, "expected security.istio.io/v1"),
        (policy(security, "security.istio.oi/v1"), 1, "expected security.istio.io/v1"),
        (policy("AuthorizationPolicy", "AuthorizationPolice"), 1, "no kind of"),
    ] {
        assert!(rejected.reason.to_lowercase().contains(&reason.to_lowercase()), "{reason}: {rejected}");
        assert_eq!(rejected.origin.line, line, "{rejected}");
        assert_eq!(rejected.guards_access, rejected.subject.kind != Some(Kind::Pod), "{rejected}");
    }
}

#[test]
fn a_rejected_policy_says_whom_it_may_concern_as_far_as_it_can_be_read() {
    let subject = |text: &str| {
        let it = refusal(text).subject;
        (it.namespace.map(|it| it.to_string()), it.name.map(|it| it.to_string()))
    };
    let some = |ns: &str, name: &str| (Some(ns.to_owned()), Some(name.to_owned()));
    assert_eq!(subject(&POLICY.replace("rules", "rulez")), some("shop", "web"));
    assert_eq!(
        subject(&POLICY.replace("  namespace: shop\n", "").replace("rules", "x")),
        some("default", "web")
    );
    assert_eq!(subject(&(POLICY.to_owned() + "  x: [")), some("shop", "web"));
    assert_eq!(subject(&(POLICY.replace("shop", "SHOP") + "  x: [")), (None, Some("web".to_owned())));
    let nested = POLICY.replace("  namespace: shop\n", "  labels:\n    namespace: bank\n") + "  x: [";
    assert_eq!(subject(&nested), (None, Some("web".to_owned())));
}

#[test]
fn empty_lists_that_would_mean_everybody_are_refused() {
    let rule =
        |rule: &str| POLICY.split("  rules:").next().unwrap().to_owned() + &format!("  rules: [{rule}]\n");
    for bad in [
        "{from: []}",
        "{to: []}",
        "{when: []}",
        "{from: [{source: {}}]}",
        "{from: [{}]}",
        "{from: [{source: {principals: []}}]}",
        "{from: [{source: {principals: ['']}}]}",
        "{to: [{operation: {}}]}",
        "{when: [{key: source.ip}]}",
        "{when: [{key: source.namespce, values: [a]}]}",
        "{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}",
        "{from: [{source: {serviceAccounts: ['a/b/c']}}]}",
        "{from: [{source: {ipBlocks: ['::ffff:10.0.0.0/104']}}]}",
        "{from: [{source: {ipBlocks: ['10.0.0.0/33']}}]}",
    ] {
        assert!(refusal(rule(bad)).guards_access, "{bad}");
    }
    for good in [
        "",
        "{}",
        "{from: [{source: {principals: ['*'], notPrincipals: []}}]}",
        "{when: [{key: destination.port, values: ['80']}]}",
    ] {
        assert_eq!(read(rule(good)).rejected, [], "{good}");
    }
}

#[test]
fn a_policy_for_requests_is_refused_by_the_place_of_its_fault() {
    let rule =
        |rule: &str| POLICY.split("  rules:").next().unwrap().to_owned() + &format!("  rules: [{rule}]\n");
    let source = |field: &str| format!("spec.rules[0].from[0].source.{field}");
    let operation = |field: &str| format!("spec.rules[0].to[0].operation.{field}");
    let key = || "spec.rules[0].when[0].key".to_owned();
    for (bad, field) in [
        ("{from: [{source: {principals: [a, 'b*c']}}]}", source("principals[1]")),
        ("{from: [{source: {namespaces: ['*a*']}}]}", source("namespaces[0]")),
        ("{from: [{source: {notRequestPrincipals: [ann]}}]}", source("notRequestPrincipals[0]")),
        ("{from: [{source: {requestPrincipals: ['/ann']}}]}", source("requestPrincipals[0]")),
        ("{from: [{source: {remoteIpBlocks: [10.0.0.0/33]}}]}", source("remoteIpBlocks[0]")),
        ("{to: [{operation: {hosts: ['a.*.b']}}]}", operation("hosts[0]")),
        ("{to: [{operation: {notPaths: ['/{*}/{name}']}}]}", operation("notPaths[0]")),
        ("{to: [{operation: {paths: ['/a', '/{**}/{*}']}}]}", operation("paths[1]")),
        ("{to: [{operation: {ports: ['80x']}}]}", operation("ports[0]")),
        ("{to: [{operation: {methods: ['']}}]}", operation("methods[0]")),
        ("{when: [{key: 'request.headers[]', values: [a]}]}", key()),
        ("{when: [{key: 'request.headers[a b]', values: [a]}]}", key()),
        ("{when: [{key: 'request.headers[:path]', values: [a]}]}", key()),
        ("{when: [{key: request.headers, values: [a]}]}", key()),
        ("{when: [{key: 'request.auth.claims[a', values: [a]}]}", key()),
        ("{when: [{key: 'request.auth.claims[a][]', values: [a]}]}", key()),
        ("{when: [{key: 'request.auth.claim[a]', values: [a]}]}", key()),
        ("{when: [{key: remote.ip, notValues: [x]}]}", "spec.rules[0].when[0].notValues[0]".to_owned()),
    ] {
        let refused = refusal(rule(bad));
        assert!(refused.guards_access, "{bad}");
        assert_eq!(&*refused.field, field, "{bad}: {refused}");
    }
    let selector = "  selector:\n    matchLabels:\n      app: web\n";
    let target = |target: &str| POLICY.replace(selector, &format!("  targetRefs: [{target}]\n"));
    assert_eq!(read(target("{kind: Service, name: a, namespace: shop}")).rejected, []);
    for (bad, field) in [
        ("{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}", "spec.targetRefs[0].kind"),
        ("{group: apps, kind: Service, name: a}", "spec.targetRefs[0].kind"),
        ("{kind: Service, name: a, namespace: bank}", "spec.targetRefs[0].namespace"),
        ("{kind: Service, name: ''}", "spec.targetRefs[0].name"),
    ] {
        assert_eq!(&*refusal(target(bad)).field, field, "{bad}");
    }
}

#[test]
fn peer_authentication_is_read_strictly() {
    let text = |spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {{name: d, namespace: shop}}\nspec: {spec}\n"
        )
    };
    for good in [
        "{}",
        "{mtls: {}}",
        "{mtls: {mode: STRICT}}",
        "{selector: {matchLabels: {a: b}}, portLevelMtls: {8080: {mode: DISABLE}, '9090': {mode: STRICT}}}",
    ] {
        assert_eq!(read(text(good)).rejected, [], "{good}");
    }
    for bad in [
        "{mtls: {mode: strict}}",
        "{mtls: {moed: STRICT}}",
        "{mtls: STRICT}",
        "{portLevelMtls: {8080: {mode: STRICT}}}",
        "{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {mode: STRICT}}}",
        "{selector: {matchLabels: {a: b}}, portLevelMtls: {08080: {mode: STRICT}}}",
        "{selector: {matchLabels: {a: b}}, portLevelMtls: {8080: {mode: STRICT}, '8080': {mode: DISABLE}}}",
    ] {
        assert!(refusal(text(bad)).guards_access, "{bad}");
    }
}

#[test]
fn core_kinds_may_have_fields_we_do_not_know_and_nulls() {
    let text = POD
        .replace("spec:\n", "spec:\n  newFeature: {a: [1, {b: c}]}\n  hostNetwork: null\n  tolerations:\n")
        + "  conditions: null\nextra: true\n";
    assert_eq!(keys(&read(text)), ["Pod shop/web 1"]);
    let bare = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n";
    assert_eq!(
        read(bare).stated[0].resource.key(),
        Key { kind: Kind::Pod, object: ObjectName::new("default", "web") }
    );
}

#[test]
fn words_that_may_be_booleans_or_numbers_are_text_in_labels_and_booleans_where_they_must_be() {
    let label = |value: &str| match &read(POD.replace("app: web", &format!("app: {value}"))).stated[..] {
        [Stated { resource: Resource::Pod(pod), .. }] => pod.labels.get("app").map(ToString::to_string),
        _ => None,
    };
    for value in ["no", "on", "off", "1", "1.10", "017", "1e3"] {
        assert_eq!(label(value).as_deref(), Some(value));
    }
    for (word, expected) in [("true", true), ("yes", true), ("on", true), ("off", false), ("no", false)] {
        let decoded = read(POD.replace("nodeName: n1", &format!("hostNetwork: {word}")));
        let Resource::Pod(pod) = &decoded.stated[0].resource else { panic!("{decoded:?}") };
        assert_eq!(pod.host_network, expected, "{word}");
    }
}

/// Whatever the fast reader reads, the whole parser reads alike.
fn same<'t, M: Deserialize<'t> + std::fmt::Debug>(text: &'t str) -> Result<(), TestCaseError> {
    if let Ok(fast) = block::read::<M>(text) {
        let whole: Result<M, _> = whole::read(text, Some(Kind::Pod));
        match whole {
            Ok(whole) => prop_assert_eq!(format!("{fast:?}"), format!("{whole:?}"), "{}", text),
            Err(error) => prop_assert!(false, "only the fast reader read {text}\n{error:?}"),
        }
    }
    Ok(())
}

#[test]
fn the_fast_reader_reads_ordinary_manifests() {
    let wide = "apiVersion: v1\nkind: Pod\nmetadata:\n    name: web\n    labels: {}\nspec:\n    containers:\n    \
                -   name: app\n        args: [\"a\", \"b\"]\n        ports:\n          - containerPort: 80\n    x: |\n      - y\n";
    for text in [POD, wide, &POD.replace("app: web", "app: 'web'\n    n: \"1\"")] {
        assert!(block::read::<PodManifest<'_>>(text).is_ok(), "{text}");
        same::<PodManifest<'_>>(text).unwrap();
    }
}

/// A value as people write them, and as they should not.
fn scalar() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "web",
        "10.0.0.1",
        "8080",
        "017",
        "0",
        "1e3",
        "0x1F",
        "true",
        "no",
        "null",
        "~",
        "",
        "\"q\"",
        "'q'",
        "'it''s'",
        "\"a\\nb\"",
        "\"open",
        "a: b",
        "a #c",
        "a # c",
        "#c",
        "-",
        "- x",
        "{}",
        "[]",
        "[a, b]",
        "{a: b}",
        "&a x",
        "*a",
        "!!str 5",
        "|",
        ">-",
        "%x",
        "@x",
        "`x",
        "a,b",
        "x:",
        "http",
        "y",
        "2026-01-01T00:00:00Z",
        "\t",
        "a\tb",
        "a ",
        "é",
        "? x",
        "<<",
        "-1",
        "+1",
        ".5",
        "::1",
        "fd00::1",
        "name: again",
        "\"a\" b",
        "'a' # c",
    ])
    .prop_map(str::to_owned)
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "metadata",
        "name",
        "namespace",
        "labels",
        "app",
        "spec",
        "nodeName",
        "containers",
        "ports",
        "containerPort",
        "status",
        "podIP",
        "podIPs",
        "ip",
        "conditions",
        "type",
        "hostNetwork",
        "port",
        "targetPort",
        "endpoints",
        "addresses",
        "ready",
        "annotations",
        "ebb.dev/netns",
        "\"quoted\"",
        "? odd",
        "<<",
        "x y",
        "1",
    ])
    .prop_map(str::to_owned)
}

/// Lines at odd indents, with and without dashes.
fn lines() -> impl Strategy<Value = String> {
    let line = (0..7usize, 0..3u8, key(), scalar(), 0..12u8);
    prop::collection::vec(line, 1..14).prop_map(|lines| {
        let mut text = String::new();
        for (indent, dashes, key, value, form) in lines {
            let indent = " ".repeat(indent);
            let dashes = if dashes == 0 { "- " } else { "" };
            let _ = match form {
                0 => writeln!(text, "{indent}{dashes}{value}"),
                1 => writeln!(text, "{indent}# {value}"),
                2 => writeln!(text),
                3..=6 => writeln!(text, "{indent}{dashes}{key}:"),
                _ => writeln!(text, "{indent}{dashes}{key}: {value}"),
            };
        }
        text
    })
}

/// A good manifest with a few lines changed.
fn edited() -> impl Strategy<Value = String> {
    let edit = (0..16usize, 0..4u8, lines(), scalar());
    prop::collection::vec(edit, 1..4).prop_map(|edits| {
        let mut text: Vec<String> = POD.lines().map(str::to_owned).collect();
        for (at, form, lines, value) in edits {
            let at = at.min(text.len() - 1);
            match form {
                0 => drop(text.remove(at)),
                1 => text.insert(at, lines.lines().next().unwrap_or_default().to_owned()),
                2 => text[at] = format!("  {}", text[at]),
                _ => {
                    let key = text[at].split_once(':').map_or("", |(key, _)| key).to_owned();
                    text[at] = format!("{key}: {value}");
                }
            }
            if text.is_empty() {
                text.push("x: y".to_owned());
            }
        }
        text.join("\n") + "\n"
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(3000)))]

    #[test]
    fn the_fast_reader_agrees_with_the_whole_parser(text in prop_oneof![edited(), lines()]) {
        same::<PodManifest<'_>>(&text)?;
        same::<ServiceManifest<'_>>(&text)?;
        same::<EndpointSliceManifest<'_>>(&text)?;
    }

    #[test]
    fn no_bytes_make_the_decoder_fail(bytes in prop::collection::vec(any::<u8>(), 0..200), text in lines()) {
        read(&bytes);
        read(format!("apiVersion: v1\nkind: List\nitems:\n{text}"));
        read(format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n{text}"));
    }
}

#[test]
fn json_that_is_no_manifest_denies_nobody_and_a_broken_manifest_its_namespace() {
    let read = |text: &str| decode(&"a.json".into(), text.as_bytes(), &mut Names::default());
    for text in [
        "[{\"kind\": \"AuthorizationPolicy\"}]",
        "{\"log\": \"security.istio.io\"}\n{\"log\": 2}\n",
        "{ // istio.io/use-waypoint\n \"compilerOptions\": {\"strict\": true,},\n}",
        "{\"dashboard\": {\"title\": \"AuthorizationPolicy\"",
    ] {
        let decoded = read(text);
        assert!(decoded.rejected.is_empty() && decoded.stated.is_empty(), "{text}: {decoded:?}");
        assert_eq!(decoded.foreign.len(), 1, "{text}");
    }
    let broken = "{\n  \"apiVersion\": \"security.istio.io/v1\",\n  \"kind\": \"AuthorizationPolicy\",\n  \"metadata\": \
                  {\n    \"name\": \"web\",\n    \"namespace\": \"shop\"\n  },\n  \"spec\": {\"rules\": [{]}\n}\n";
    let decoded = read(broken);
    assert!(decoded.foreign.is_empty());
    let [rejected] = &decoded.rejected[..] else { panic!("{decoded:?}") };
    assert!(rejected.guards_access, "{rejected}");
    assert_eq!(rejected.subject.key().unwrap().to_string(), "AuthorizationPolicy shop/web");
}
