//! How the store fares over days: renewals, outages, jumping clocks, changing roots.

use super::*;
use crate::tls::testing::roots_of;
use crate::tls::{ACCEPT_DEADLINE, Accepted, CONNECT_DEADLINE, accept, connect};
use tokio::io::DuplexStream;

async fn shake_hands(server: &Bench, client: &Bench) -> Result<Accepted<DuplexStream>, Refusal> {
    let (web, api) = (workload("web"), workload("api"));
    let server = server.store.get(&web).await?.server.clone();
    let client = client.store.get(&api).await?.client.clone();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (accepted, dialled) =
        tokio::join!(accept(far, server, ACCEPT_DEADLINE), connect(near, &client, &web, CONNECT_DEADLINE));
    dialled?;
    accepted
}

fn count(bench: &Bench, name: &str) -> u64 {
    bench.store.counters().named().into_iter().find(|(found, _)| *found == name).unwrap().1
}

#[tokio::test(start_paused = true)]
async fn certificates_are_renewed_at_half_life_for_ever() {
    let bench = Bench::new(Mode::Good);
    bench.store.want(&workload("web")).unwrap();
    let first = bench.store.get(&workload("web")).await.unwrap();
    pass(10 * HOUR).await;
    assert_eq!(bench.ca.requests(), 1);
    pass(4 * HOUR).await;
    assert_eq!(bench.ca.requests(), 2);
    let second = bench.store.try_get(&workload("web")).unwrap();
    assert_ne!(first.leaf.serial, second.leaf.serial);
    pass(30 * 24 * HOUR).await;
    let requests = bench.ca.requests();
    assert!((54..=70).contains(&requests), "{requests} in 30 days and 14 hours");
    assert_eq!(count(&bench, "ebb_certificates_renewals_total"), requests as u64 - 1);
}

#[tokio::test(start_paused = true)]
async fn handshakes_never_fail_while_certificates_are_replaced() {
    let bench = Bench::new(Mode::Good);
    for account in ["web", "api"] {
        bench.store.want(&workload(account)).unwrap();
    }
    let mut serials = std::collections::HashSet::new();
    for round in 0..200 {
        let accepted = shake_hands(&bench, &bench).await.unwrap_or_else(|why| panic!("round {round}: {why}"));
        assert_eq!(accepted.peer, workload("api"));
        serials.insert(bench.store.try_get(&workload("web")).unwrap().leaf.serial.clone());
        pass(HOUR).await;
    }
    assert!(serials.len() >= 14, "{} certificates in 200 hours", serials.len());
    assert_eq!(count(&bench, "ebb_certificates_refused_total"), 0);
}

#[tokio::test(start_paused = true)]
async fn during_an_outage_the_certificate_is_used_until_it_expires_and_not_longer() {
    let bench = Bench::new(Mode::Good);
    let accounts: Vec<_> = (0..50).map(|number| workload(&number.to_string())).collect();
    for account in &accounts {
        bench.store.want(account).unwrap();
    }
    let web = &accounts[0];
    bench.store.get(web).await.unwrap();
    pass(1).await;
    bench.ca.set(Mode::Down);
    let before = bench.ca.requests();
    pass(24 * HOUR - 10).await;
    assert!(bench.store.try_get(web).is_some(), "still valid");
    let tries = bench.ca.requests() - before;
    // 50 identities, some 12 hours each, one try in 75 to 150 s.
    assert!((50..50 * 800).contains(&tries), "{tries}");
    pass(30).await;
    assert!(bench.store.try_get(web).is_none(), "expired");
    assert!(why(bench.store.get(web).await).contains("connection refused"));
    assert!(bench.store.dump()[0].state.starts_with("Unavailable: the certificate authority"));

    bench.ca.set(Mode::Good);
    let before = bench.ca.requests();
    pass(300).await;
    assert!(accounts.iter().all(|account| bench.store.try_get(account).is_some()));
    assert_eq!(bench.ca.requests() - before, accounts.len(), "one request for each, no herd");
}

#[tokio::test(start_paused = true)]
async fn no_jump_of_the_clock_makes_a_storm_or_lets_an_expired_certificate_be_used() {
    for jump in [HOUR.cast_signed(), -(HOUR.cast_signed()), 48 * 3600, -48 * 3600, -1_800_000_000, 1] {
        let bench = Bench::new(Mode::Good);
        let accounts: Vec<_> = (0..100).map(|number| workload(&number.to_string())).collect();
        for account in &accounts {
            bench.store.want(account).unwrap();
        }
        pass(5).await;
        assert_eq!(bench.ca.requests(), 100);
        bench.clock.jump(jump);
        let now = bench.clock.current_time().unwrap();
        assert!(
            accounts
                .iter()
                .filter_map(|account| bench.store.try_get(account))
                .all(|c| c.leaf.not_after > now)
        );
        for second in 0..400 {
            let before = bench.ca.requests();
            pass(1).await;
            let in_this_second = bench.ca.requests() - before;
            assert!(in_this_second <= 2, "{in_this_second} requests {second} s after a jump of {jump} s");
        }
        assert!(accounts.iter().all(|account| bench.store.try_get(account).is_some()), "{jump}");
        assert!(bench.ca.requests() <= 200, "{} requests after a jump of {jump} s", bench.ca.requests());
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_does_not_wait_behind_renewals_that_nobody_waits_for() {
    let bench = Bench::new(Mode::Good);
    let accounts: Vec<_> = (0..100).map(|number| workload(&number.to_string())).collect();
    for account in &accounts {
        bench.store.want(account).unwrap();
    }
    pass(5).await;
    bench.clock.jump(48 * 3600);
    // All keepers have noticed and stand in line, one every 0.6 s.
    pass(70).await;
    let last = accounts.iter().find(|account| bench.store.try_get(account).is_none()).unwrap();
    let began = Instant::now();
    bench.store.get(last).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_jump_is_noticed_at_once_when_a_connection_comes() {
    let bench = Bench::new(Mode::Good);
    bench.store.want(&workload("web")).unwrap();
    pass(1).await;
    bench.clock.jump(48 * 3600);
    let began = Instant::now();
    assert!(bench.store.get(&workload("web")).await.is_ok());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_root_is_replaced_with_overlap_without_a_failed_handshake() {
    let (near, far) = (Bench::new(Mode::Good), Bench::new(Mode::Good));
    let old = near.ca.signer.lock().unwrap().clone();
    let new = Arc::new(TestCa::dated("next", 0, NOON + 100_000 * HOUR));
    for bench in [&near, &far] {
        *bench.ca.signer.lock().unwrap() = old.clone();
        bench.ca.roots.send_replace(old.roots());
        bench.store.want(&workload("web")).unwrap();
        bench.store.want(&workload("api")).unwrap();
    }
    let check = async |step: &str| {
        for (server, client) in [(&near, &far), (&far, &near)] {
            shake_hands(server, client).await.unwrap_or_else(|why| panic!("{step}: {why}"));
        }
    };
    check("before").await;
    let both = roots_of(&[&old, &new]);
    for bench in [&near, &far] {
        bench.ca.roots.send_replace(both.clone());
        pass(1).await;
        check("one side believes both").await;
    }
    assert_eq!(near.ca.requests(), 2, "new roots need no new certificate");
    for bench in [&near, &far] {
        *bench.ca.signer.lock().unwrap() = new.clone();
        pass(14 * HOUR).await;
        check("one side has certificates of the new root").await;
    }
    for bench in [&near, &far] {
        bench.ca.roots.send_replace(new.roots());
        pass(1).await;
        check("the old root is gone").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_whose_root_is_withdrawn_is_replaced_before_half_life() {
    let bench = Bench::new(Mode::Good);
    bench.store.want(&workload("web")).unwrap();
    bench.store.get(&workload("web")).await.unwrap();
    pass(60).await;
    // Of the same name, so that only the signature tells it from the old one.
    let new = Arc::new(TestCa::dated("mesh", 0, NOON + 100_000 * HOUR));
    *bench.ca.signer.lock().unwrap() = new.clone();
    bench.ca.roots.send_replace(new.roots());
    pass(5).await;
    let certificate = bench.store.try_get(&workload("web")).unwrap();
    assert_eq!(bench.ca.requests(), 2);
    assert_eq!(*certificate.roots, *new.roots());
    pass(HOUR).await;
    assert_eq!(bench.ca.requests(), 2, "and once is enough");
}
