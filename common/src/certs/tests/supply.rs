//! What connections get from the store, and when.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::time::Instant;

use super::*;
use crate::certs::{FIRST_CERTIFICATE_WAIT, MAX_IDENTITIES, MAX_WAITERS};
use crate::spiffe::Identity;

#[tokio::test(start_paused = true)]
async fn a_thousand_waiting_connections_cost_one_request() {
    let bench = Bench::new(Mode::Good);
    let web = workload("web");
    bench.store.want(&web).unwrap();
    assert!(bench.store.try_get(&web).is_none());
    let waiting = (0..1000).map(|_| bench.store.get(&web));
    let certificates: Vec<_> = join_all(waiting).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(bench.ca.requests(), 1);
    assert!(certificates.iter().all(|certificate| Arc::ptr_eq(certificate, &certificates[0])));
    assert!(Arc::ptr_eq(&bench.store.try_get(&web).unwrap(), &certificates[0]));
    assert_eq!(certificates[0].identity, web);
    assert_eq!(certificates[0].chain().len(), 1, "the root that came along is not shown to peers");
}

#[tokio::test(start_paused = true)]
async fn wanting_an_identity_is_enough_to_have_it_ready() {
    let bench = Bench::new(Mode::Good);
    for _ in 0..3 {
        bench.store.want(&workload("web")).unwrap();
    }
    pass(1).await;
    assert!(bench.store.try_get(&workload("web")).is_some());
    assert_eq!((bench.ca.requests(), bench.store.wanted()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn no_certificate_is_requested_for_an_identity_without_a_live_pod() {
    let bench = Bench::new(Mode::Good);
    let refused = why(bench.store.get(&workload("ghost")).await);
    assert!(refused.contains("no pod of this node has spiffe://cluster.local/ns/shop/sa/ghost"), "{refused}");
    assert_eq!(bench.ca.requests(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_identity_is_gone_with_its_key_and_its_waiters() {
    let bench = Bench::new(Mode::Good);
    let web = workload("web");
    bench.store.want(&web).unwrap();
    let held = Arc::downgrade(&bench.store.get(&web).await.unwrap());
    bench.store.forget(&web);
    assert!(bench.store.try_get(&web).is_none());
    pass(1).await;
    assert!(held.upgrade().is_none(), "the key is still in memory");
    pass(48 * HOUR).await;
    assert_eq!(bench.ca.requests(), 1, "a forgotten identity is not renewed");

    bench.ca.set(Mode::Hanging);
    bench.store.want(&web).unwrap();
    let began = Instant::now();
    let (refused, ()) = tokio::join!(bench.store.get(&web), async {
        pass(1).await;
        bench.store.forget(&web);
    });
    assert!(why(refused).contains("no pod of this node"));
    assert_eq!(began.elapsed().as_secs(), 1, "waiters learn of it at once");
}

#[tokio::test(start_paused = true)]
async fn an_identity_of_the_process_stays_when_the_last_pod_that_has_it_too_goes() {
    let bench = Bench::new(Mode::Good);
    let (ztunnel, web) = (workload("ztunnel"), workload("web"));
    // Whichever comes first, the pod or the process.
    for (store, pod_is_first) in [(&bench.store, true), (&Bench::new(Mode::Good).store, false)] {
        if pod_is_first {
            store.want(&ztunnel).unwrap();
        }
        store.pin(&ztunnel).unwrap();
        store.want(&ztunnel).unwrap();
        store.want(&web).unwrap();
        store.get(&ztunnel).await.unwrap();
        store.forget(&ztunnel);
        store.forget(&web);
        assert!(store.try_get(&ztunnel).is_some() && store.try_get(&web).is_none());
    }
    pass(48 * HOUR).await;
    assert!(bench.store.try_get(&ztunnel).is_some(), "it is renewed as before");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_ca_costs_a_connection_no_more_than_the_wait() {
    let bench = Bench::new(Mode::Hanging);
    bench.store.want(&workload("web")).unwrap();
    let began = Instant::now();
    let refused = why(bench.store.get(&workload("web")).await);
    assert_eq!(began.elapsed(), FIRST_CERTIFICATE_WAIT);
    assert!(refused.contains("is the certificate authority slow?"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_is_waited_out_and_a_long_one_is_refused_at_once() {
    let bench = Bench::new(Mode::Down);
    let web = workload("web");
    bench.store.want(&web).unwrap();
    let (certificate, ()) = tokio::join!(bench.store.get(&web), async {
        pass(1).await;
        bench.ca.set(Mode::Good);
    });
    assert_eq!(certificate.unwrap().identity, web);

    bench.ca.set(Mode::Down);
    let late = workload("late");
    bench.store.want(&late).unwrap();
    pass(3600).await;
    // A first one may come just before a try and wait for it; the next then has minutes to go.
    let mut quick = 0;
    for _ in 0..20 {
        let began = Instant::now();
        let refused = why(bench.store.get(&late).await);
        assert!(refused.contains("connection refused"), "{refused}");
        quick += usize::from(began.elapsed().is_zero());
    }
    assert!(quick > 0, "with minutes to the next try nobody is made to wait for it");
}

#[tokio::test(start_paused = true)]
async fn wrong_answers_are_never_used() {
    let cases = [
        (Mode::OtherIdentity, "the certificate is for spiffe://cluster.local/ns/shop/sa/somebody-else"),
        (Mode::OtherKey, "another public key"),
        (Mode::Expired, "expired"),
        (Mode::NotYetValid, "valid only in"),
        (Mode::ServerOnly, "extended key usage"),
        (Mode::UnknownRoot, "not issued by a root known here"),
        (Mode::Empty, "the chain has 0 certificates"),
        (Mode::TwoMebibytes, "at most 32768 are allowed"),
        (Mode::Garbage, "cannot be decoded"),
    ];
    for (mode, because) in cases {
        let bench = Bench::new(mode);
        let web = workload("web");
        bench.store.want(&web).unwrap();
        let refused = why(bench.store.get(&web).await);
        assert!(refused.contains(because), "{mode:?}: {refused}");
        assert!(bench.store.try_get(&web).is_none());
        let counted = bench.store.counters();
        assert!(counted.rejected.load(Ordering::Relaxed) >= 1, "{mode:?}");
        assert_eq!(counted.issued.load(Ordering::Relaxed), 0, "{mode:?}");

        bench.ca.set(Mode::Good);
        pass(200).await;
        assert!(bench.store.try_get(&web).is_some(), "{mode:?}: it recovers");
    }
}

#[tokio::test(start_paused = true)]
async fn one_sick_identity_does_not_hold_up_the_others() {
    let bench = Bench::new(Mode::OtherKey);
    bench.store.want(&workload("sick")).unwrap();
    pass(1).await;
    bench.ca.set(Mode::Good);
    bench.store.want(&workload("well")).unwrap();
    assert_eq!(bench.store.get(&workload("well")).await.unwrap().identity, workload("well"));
}

#[test]
fn workers_with_runtimes_of_their_own_are_served_by_the_control_runtime() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let control = runtime();
    let bench = control.block_on(async { Bench::new(Mode::Good) });
    bench.store.want(&workload("web")).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serials = std::thread::scope(|scope| {
        scope.spawn(|| control.block_on(stopped));
        let worker = || runtime().block_on(bench.store.get(&workload("web"))).unwrap().leaf.serial.clone();
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
        let serials: std::collections::HashSet<_> =
            workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        stop.send(()).unwrap();
        serials
    });
    assert_eq!((serials.len(), bench.ca.requests()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn waiters_are_bounded() {
    let bench = Bench::new(Mode::Hanging);
    let web = workload("web");
    bench.store.want(&web).unwrap();
    let answers = join_all((0..MAX_WAITERS + 3).map(|_| bench.store.get(&web))).await;
    let turned_away = answers.iter().filter(|answer| matches!(answer, Err(Refusal::LimitReached(_)))).count();
    assert_eq!(turned_away, 3);
    bench.ca.set(Mode::Good);
    pass(60).await;
    assert!(bench.store.get(&web).await.is_ok(), "places are given back");
}

#[tokio::test(start_paused = true)]
async fn identities_are_bounded() {
    let bench = Bench::new(Mode::Hanging);
    for number in 0..MAX_IDENTITIES {
        bench.store.want(&workload(&number.to_string())).unwrap();
    }
    assert!(matches!(bench.store.want(&workload("more")), Err(Refusal::LimitReached(_))));
    bench.store.forget(&workload("0"));
    assert_eq!(bench.store.want(&workload("more")), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn the_dump_has_the_keys_istioctl_reads_and_no_key_of_ours() {
    let bench = Bench::new(Mode::Good);
    bench.store.want(&workload("web")).unwrap();
    let certificate = bench.store.get(&workload("web")).await.unwrap();
    bench.ca.set(Mode::Down);
    bench.store.want(&workload("failed")).unwrap();
    pass(1).await;
    bench.store.want(&Identity::new("cluster.local", "a-first", "new")).unwrap();

    let dump = serde_json::to_value(bench.store.dump()).unwrap();
    let states: Vec<_> = dump.as_array().unwrap().iter().map(|entry| entry["state"].clone()).collect();
    let failed = "Unavailable: the certificate authority does not answer: connection refused";
    assert_eq!(states, ["Initializing", failed, "Available"]);

    let web = &dump[2];
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(web["identity"], "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(keys(web), ["certChain", "identity", "rootCerts", "state"]);
    let leaf = &web["certChain"][0];
    assert_eq!(keys(leaf), ["expirationTime", "pem", "serialNumber", "validFrom"]);
    assert_eq!(leaf["validFrom"], "2027-01-15T07:58:00Z");
    assert_eq!(leaf["expirationTime"], "2027-01-16T08:00:00Z");
    assert_eq!(leaf["serialNumber"], certificate.leaf.serial);
    assert!(leaf["serialNumber"].as_str().unwrap().bytes().all(|byte| byte.is_ascii_digit()));
    assert_eq!(web["rootCerts"].as_array().unwrap().len(), 1);

    use base64::Engine as _;
    let pem = base64::engine::general_purpose::STANDARD.decode(leaf["pem"].as_str().unwrap()).unwrap();
    let roundtrip = <CertificateDer as rustls_pki_types::pem::PemObject>::from_pem_slice(&pem).unwrap();
    assert_eq!(roundtrip, certificate.chain()[0]);
    assert!(!dump.to_string().contains("PRIVATE") && !String::from_utf8(pem).unwrap().contains("PRIVATE"));
    assert!(!format!("{certificate:?}").contains("key"), "{certificate:?}");
}
