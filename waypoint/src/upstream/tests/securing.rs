//! Which BackendTLSPolicy decides, what it comes to, and that what cannot be used sends nothing.

use common::config::destination::tls::{Authorities, TlsMode};

use super::*;
use crate::routes::Flaw;
use crate::upstream::policy::EffectivePolicy;
use crate::upstream::securing::Securing;

/// Services `web` with two ports and `api` with one, of one pod.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80}, {name: other, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {clusterIP: 10.96.0.2, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: far, namespace: shop}
spec: {hosts: [a.far.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 192.0.2.1}]}
";

fn certificate() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::default().self_signed(&key).unwrap().pem()
}

/// A ConfigMap of one certificate, or of this text.
fn authority(name: &str, pem: &str) -> String {
    let lines: String = pem.lines().map(|it| format!("    {it}\n")).collect();
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: shop}}\ndata:\n  ca.crt: |\n{lines}"
    )
}

/// A policy `shop/NAME` of a year, for a target, that believes these ConfigMaps and has its own name as the host name.
fn stated(name: &str, year: u16, target: &str, authorities: &[&str]) -> String {
    let refs: Vec<String> =
        authorities.iter().map(|it| format!("{{group: '', kind: ConfigMap, name: {it}}}")).collect();
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {name}, namespace: shop, \
         creationTimestamp: '{year}-01-01T00:00:00Z'}}\nspec: {{targetRefs: [{{{target}}}], validation: {{hostname: \
         {name}.example, caCertificateRefs: [{}]}}}}\n",
        refs.join(", ")
    )
}

const WEB: &str = "group: '', kind: Service, name: web";
const WEB_OTHER: &str = "group: '', kind: Service, name: web, sectionName: other";

fn policy(desk: &Desk, service: &str, port: u16) -> Arc<EffectivePolicy> {
    let key = ClusterKey { service: ObjectName::new("shop", service), port, subset: None };
    desk.clusters.get(&key).unwrap().policy()
}

/// The SNI towards a port of a service, or why nothing is sent; `None` for plaintext.
fn towards(desk: &Desk, service: &str, port: u16) -> Option<Result<String, String>> {
    let policy = policy(desk, service, port);
    let tls = policy.tls.as_ref()?;
    assert_eq!((tls.mode, tls.skip_verification), (TlsMode::Simple, Some(false)));
    Some(match &tls.authorities {
        Some(Authorities::Unusable(why)) => Err(why.to_string()),
        Some(Authorities::Pem(_)) | None => Ok(tls.sni.to_string()),
    })
}

#[test]
fn a_policy_for_the_port_comes_first_then_the_oldest_then_the_first_by_name() {
    let ca = authority("ca", &certificate());
    let of = |name: &str, year, target| stated(name, year, target, &["ca"]);
    for (policies, at_80, at_81) in [
        (String::new(), None, None),
        (of("a", 2024, WEB), Some("a"), Some("a")),
        (of("a", 2024, WEB) + &of("b", 2025, WEB_OTHER), Some("a"), Some("b")),
        (of("b", 2025, WEB_OTHER), None, Some("b")),
        (of("a", 2025, WEB) + &of("b", 2024, WEB), Some("b"), Some("b")),
        (of("b", 2024, WEB) + &of("a", 2024, WEB), Some("a"), Some("a")),
        (of("a", 2024, "group: '', kind: Service, name: api"), None, None),
        (of("a", 2024, "group: networking.istio.io, kind: ServiceEntry, name: web"), None, None),
    ] {
        let desk = Desk::new(&format!("{SERVICES}{ca}{policies}"));
        for (port, expected) in [(80, at_80), (81, at_81)] {
            let expected = expected.map(|it| Ok(format!("{it}.example")));
            assert_eq!(towards(&desk, "web", port), expected, "{port}\n{policies}");
        }
    }
    let far = of("a", 2024, "group: networking.istio.io, kind: ServiceEntry, name: far");
    let desk = Desk::new(&format!("{SERVICES}{ca}{far}"));
    assert_eq!(towards(&desk, "a.far.example", 80), Some(Ok("a.example".to_owned())));
}

#[test]
fn a_port_that_was_given_another_name_is_never_sent_plaintext() {
    let ca = authority("ca", &certificate());
    let of_port = stated("a", 2024, WEB_OTHER, &["ca"]);
    let renamed = SERVICES.replace("name: other", "name: else");
    let desk = Desk::new(&format!("{renamed}{ca}{of_port}"));
    for port in [80, 81] {
        let why = towards(&desk, "web", port).unwrap().unwrap_err();
        assert!(why.contains("there is no port other of web"), "{why}");
    }
    assert_eq!(towards(&desk, "api", 80), None);
    let desk = Desk::new(&format!("{renamed}{ca}{of_port}{}", stated("b", 2025, WEB, &["ca"])));
    assert_eq!(towards(&desk, "web", 80), Some(Ok("b.example".to_owned())), "another policy decides");
}

#[test]
fn whoever_cannot_be_believed_is_sent_nothing_and_what_can_be_used_is_enough() {
    let good = authority("good", &certificate());
    let bad = authority("bad", "no certificate");
    for (refs, expected) in [
        (&["good"][..], Ok(())),
        (&["good", "good"], Ok(())),
        (&["good", "bad", "gone"], Ok(())),
        (&["bad"], Err("ConfigMap shop/bad: no certificate in ca.crt")),
        (&["gone"], Err("there is no ConfigMap shop/gone with ca.crt")),
        (&["gone", "bad"], Err("there is no ConfigMap shop/gone with ca.crt; ConfigMap shop/bad")),
    ] {
        let desk = Desk::new(&format!("{SERVICES}{good}{bad}{}", stated("a", 2024, WEB, refs)));
        match (towards(&desk, "web", 80), expected) {
            (Some(Ok(_)), Ok(())) => {}
            (Some(Err(why)), Err(expected)) => assert!(why.contains(expected), "{why}"),
            (found, expected) => panic!("{refs:?}: {found:?} {expected:?}"),
        }
    }
}

#[test]
fn what_changes_is_in_force_at_once_and_for_the_very_same_destination() {
    let mut desk = Desk::new(SERVICES);
    let web = desk.web();
    assert_eq!(towards(&desk, "web", 80), None);
    desk.write("policy.yaml", &stated("a", 2024, WEB, &["ca"]));
    assert!(towards(&desk, "web", 80).unwrap().is_err());
    desk.write("ca.yaml", &authority("ca", &certificate()));
    let first = policy(&desk, "web", 80);
    assert_eq!(towards(&desk, "web", 80), Some(Ok("a.example".to_owned())));
    desk.write("ca.yaml", &authority("ca", &certificate()));
    let second = policy(&desk, "web", 80);
    assert_ne!(first.tls, second.tls, "another authority is another way to connect");
    let other = policy(&desk, "web", 81);
    assert!(Arc::ptr_eq(second.tls.as_ref().unwrap(), other.tls.as_ref().unwrap()), "one for all");
    desk.write("ca.yaml", "");
    assert!(towards(&desk, "web", 80).unwrap().is_err());
    desk.write("policy.yaml", "");
    assert_eq!(towards(&desk, "web", 80), None);
    assert!(Arc::ptr_eq(&web, &desk.web()));
}

#[test]
fn subject_alt_names_take_the_place_of_the_host_name_and_the_machine_s_authorities_need_no_file() {
    let spec = "targetRefs: [{group: '', kind: Service, name: web}], validation: {hostname: a.example, \
                wellKnownCACertificates: System, subjectAltNames: [{type: URI, uri: 'spiffe://x/y'}]}";
    let text = format!(
        "{SERVICES}---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: a, namespace: \
         shop}}\nspec: {{{spec}}}\n"
    );
    let tls = policy(&Desk::new(&text), "web", 80).tls.clone().unwrap();
    assert_eq!((&*tls.sni, &*tls.ca_certificates, &tls.authorities), ("a.example", "", &None));
    assert_eq!(tls.subject_alt_names.iter().map(|it| &**it).collect::<Vec<_>>(), ["spiffe://x/y"]);
}

#[test]
fn what_a_policy_that_was_never_read_may_be_about_is_sent_nothing() {
    let broken = stated("a", 2024, WEB, &["ca"]).replace("hostname: a.example", "hostname: ''");
    let mut desk = Desk::new(SERVICES);
    let (before, kept) = (desk.web(), desk.cluster("api", None));
    let mut state = |text: &str, last_good| {
        let mut decoded = yaml::decode(&"b.yaml".into(), text.as_bytes(), &mut desk.names);
        decoded.rejected.iter_mut().for_each(|it| it.last_good = last_good);
        let batch = Batch {
            reread: vec!["b.yaml".into()],
            upserts: decoded.stated,
            rejected: decoded.rejected,
            ..Batch::default()
        };
        desk.snapshot = desk.mesh.apply(batch);
        desk.clusters.update(&desk.snapshot, desk.now);
        (towards(&desk, "web", 80), towards(&desk, "api", 80))
    };
    let (web, api) = state(&broken, false);
    assert!(web.unwrap().unwrap_err().contains("shop/a cannot be read"));
    assert_eq!(api, None, "it is not named");
    assert_eq!(state(&broken, true), (None, None), "the version before it is in force");
    // Of another namespace.
    let elsewhere = broken.replace("namespace: shop", "namespace: other");
    assert_eq!(state(&elsewhere, false), (None, None));
    // Nobody knows of which.
    let nowhere = "kind: BackendTLSPolicy\nspec: {targetRefs: [{name: web}]";
    assert!(matches!(state(nowhere, false), (Some(Err(_)), None)));
    assert_eq!(state("", false), (None, None));
    assert!(!before.is_gone() && !kept.is_gone());
}

#[test]
fn it_takes_the_place_of_a_destination_rule_s_tls_and_every_loser_is_named() {
    let rule = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r, namespace: shop}\nspec: \
                {host: web, trafficPolicy: {tls: {mode: DISABLE}}}\n";
    let policies = stated("a", 2024, WEB, &["ca"])
        + &stated("late", 2025, WEB, &["ca"])
        + &stated("lost", 2024, "group: '', kind: Service, name: gone", &["ca", "none"])
        + &stated("port", 2024, "group: '', kind: Service, name: web, sectionName: nine", &["none"]);
    let desk = Desk::new(&format!("{SERVICES}{rule}{}{policies}", authority("ca", &certificate())));
    assert_eq!(towards(&desk, "web", 80), Some(Ok("a.example".to_owned())));
    let ruled = |service: &common::snapshot::model::Service, port| {
        (&*service.name == "web" && port == 81).then(|| ObjectName::new("shop", "r"))
    };
    let found = Securing::of(&desk.snapshot).problems(&desk.snapshot, |_| true, ruled);
    let mut found: Vec<_> = found.iter().map(|it| (it.flaw, it.to_string())).collect();
    found.sort();
    let expected = [
        (Flaw::Missing, "BackendTLSPolicy shop/lost: there is no ConfigMap shop/none with ca.crt"),
        (Flaw::Missing, "BackendTLSPolicy shop/lost: there is no Service gone"),
        (
            Flaw::Missing,
            "BackendTLSPolicy shop/port: nothing is sent to its targets: no authority of it can be used",
        ),
        (Flaw::Missing, "BackendTLSPolicy shop/port: there is no ConfigMap shop/none with ca.crt"),
        (Flaw::Missing, "BackendTLSPolicy shop/port: there is no port nine of Service web"),
        (Flaw::Overridden, "BackendTLSPolicy shop/late: of no effect for Service web: a comes before it"),
        (
            Flaw::Overridden,
            "DestinationRule shop/r: tls is of no effect at port 81 of web.shop.svc.cluster.local: the BackendTLSPolicy \
             shop/a decides",
        ),
    ];
    assert_eq!(found, expected.map(|(flaw, it)| (flaw, it.to_owned())));
    // The waypoint of another namespace tells of what it sends to.
    assert!(desk.clusters.problems().iter().any(|it| it.contains("tls is of no effect at port 80")));
}
