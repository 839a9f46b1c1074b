//! The files of the embedded CA, and what it signs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Barrier;

use tempfile::TempDir;

use super::*;
use crate::certs::{CaFileError, EmbeddedCa, ROOT_CERTIFICATE_FILE, ROOT_KEY_FILE, ROOT_RELOAD_INTERVAL};
use crate::tls::testing::StoppedClock;
use crate::tls::{ACCEPT_DEADLINE, CONNECT_DEADLINE, accept, connect};

fn open(directory: &Path) -> Result<EmbeddedCa, CaFileError> {
    EmbeddedCa::open_or_create(directory, "cluster.local".into(), StoppedClock::at_noon())
}

fn roots(ca: &EmbeddedCa) -> Vec<CertificateDer<'static>> {
    ca.roots().borrow().certificates().cloned().collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A directory with a root in it.
fn rooted() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).unwrap();
    directory
}

fn refusal(directory: &Path) -> String {
    open(directory).unwrap_err().to_string()
}

#[test]
fn a_root_is_made_once_and_used_ever_after() {
    let directory = tempfile::tempdir().unwrap();
    let nested = directory.path().join("not/there/yet");
    let first = roots(&open(&nested).unwrap());
    assert_eq!(mode(&nested.join(ROOT_CERTIFICATE_FILE)), 0o644);
    assert_eq!(mode(&nested.join(ROOT_KEY_FILE)), 0o600);
    assert_eq!(roots(&open(&nested).unwrap()), first);
}

#[test]
fn all_who_begin_at_once_agree_on_one_root() {
    // Threads stand for processes here: the lock belongs to the open file, and each call opens its own.
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let together = Barrier::new(8);
        let found = std::thread::scope(|scope| {
            let begin = || {
                together.wait();
                roots(&open(directory.path()).unwrap())
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(begin)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(found.iter().all(|roots| *roots == found[0]));
    }
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    for wide in [0o640, 0o604, 0o620, 0o660, 0o777, 0o601] {
        let directory = rooted();
        let key = directory.path().join(ROOT_KEY_FILE);
        set_mode(&key, wide);
        let why = refusal(directory.path());
        assert!(why.contains("root-key.pem: mode") && why.contains("make it 0600"), "{wide:o}: {why}");
        set_mode(&key, 0o400);
        assert!(open(directory.path()).is_ok(), "stricter than 0600 is as good");
    }
}

#[test]
fn a_key_of_another_user_is_refused() {
    let directory = rooted();
    let certificate = directory.path().join(ROOT_CERTIFICATE_FILE);
    // Only root can give a file away; anyone else has a file of root's at hand.
    let key = if nix::unistd::geteuid().is_root() {
        let key = directory.path().join(ROOT_KEY_FILE);
        nix::unistd::chown(&key, Some(65_534.into()), None).unwrap();
        key
    } else {
        "/etc/passwd".into()
    };
    let ca = EmbeddedCa::from_files(certificate, key, "cluster.local".into(), StoppedClock::at_noon());
    let why = ca.unwrap_err().to_string();
    assert!(why.contains("owned by user"), "{why}");
}

#[test]
fn what_a_crash_leaves_behind_is_mended_and_what_a_person_removed_is_named() {
    let directory = rooted();
    let (certificate, key) =
        (directory.path().join(ROOT_CERTIFICATE_FILE), directory.path().join(ROOT_KEY_FILE));
    let secret = fs::read(&key).unwrap();
    fs::remove_file(&certificate).unwrap();
    fs::write(directory.path().join("root-cert.pem.new"), "half a certif").unwrap();
    open(directory.path()).unwrap();
    assert_eq!(fs::read(&key).unwrap(), secret, "the key is kept");

    fs::remove_file(&key).unwrap();
    let why = refusal(directory.path());
    assert!(why.contains("root-key.pem: missing beside") && why.contains("restore it"), "{why}");
    assert!(!key.exists(), "no new key beside a certificate that others may already believe");
}

/// A name, what spoils a good directory, and words of the refusal.
type Case<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);

#[test]
fn unusable_files_are_refused_with_file_and_reason() {
    let other = rooted();
    let cases: [Case; 6] = [
        (
            "a key of another root",
            &|d| {
                let key = d.join(ROOT_KEY_FILE);
                fs::copy(other.path().join(ROOT_KEY_FILE), &key).unwrap();
                set_mode(&key, 0o600);
            },
            "root-key.pem: it is not the key of a certificate in",
        ),
        (
            "no key at all",
            &|d| fs::write(d.join(ROOT_KEY_FILE), "hello").unwrap(),
            "root-key.pem: not a private key in PEM",
        ),
        (
            "no certificate at all",
            &|d| fs::write(d.join(ROOT_CERTIFICATE_FILE), "hello").unwrap(),
            "root-cert.pem: it holds no certificate",
        ),
        (
            "too large a file",
            &|d| fs::write(d.join(ROOT_CERTIFICATE_FILE), "x".repeat(70_000)).unwrap(),
            "root-cert.pem: larger than 65536 bytes",
        ),
        (
            "a certificate that is not a CA",
            &|d| replace(d, |_| Leaf::of(&workload("web"))),
            "not a certificate authority",
        ),
        (
            "an expired root",
            &|d| replace(d, |leaf| authority(leaf).with(|p| p.not_after = moment(NOON - 50 * HOUR))),
            "root-cert.pem: the root certificate expired 2 days ago",
        ),
    ];
    for (name, spoil, because) in cases {
        let directory = rooted();
        spoil(directory.path());
        let why = refusal(directory.path());
        assert!(why.contains(because), "{name}: {why}");
    }
}

fn authority(leaf: Leaf) -> Leaf {
    leaf.with(|p| p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained))
}

/// Replaces the root certificate by one of the same key.
fn replace(directory: &Path, change: impl FnOnce(Leaf) -> Leaf) {
    let key = KeyPair::from_pem(&fs::read_to_string(directory.join(ROOT_KEY_FILE)).unwrap()).unwrap();
    let leaf = change(Leaf::named(&[]).with(|p| p.not_before = moment(NOON - 100 * HOUR)));
    fs::write(directory.join(ROOT_CERTIFICATE_FILE), leaf.params.self_signed(&key).unwrap().pem()).unwrap();
}

fn store_over(ca: Arc<EmbeddedCa>, clock: Arc<StoppedClock>, lifetime: Duration) -> CertStore {
    let settings = StoreSettings { clock, lifetime, ..StoreSettings::new(Handle::current()) };
    CertStore::new(ca, settings)
}

#[tokio::test(start_paused = true)]
async fn two_nodes_with_one_root_shake_hands() {
    let directory = rooted();
    let clock = StoppedClock::at_noon();
    let node = || {
        let ca = Arc::new(open(directory.path()).unwrap());
        store_over(ca, clock.clone(), Duration::from_secs(3600))
    };
    let (near, far) = (node(), node());
    near.want(&workload("api")).unwrap();
    far.want(&workload("web")).unwrap();
    let (api, web) = (near.get(&workload("api")).await.unwrap(), far.get(&workload("web")).await.unwrap());
    assert_eq!(web.leaf.not_after.as_secs(), NOON + 3600, "the lifetime is settable");
    assert_eq!(web.leaf.not_before.as_secs(), NOON - 120, "and begins a little in the past");
    let (one, other) = tokio::io::duplex(64 * 1024);
    let (accepted, dialled) = tokio::join!(
        accept(other, web.server.clone(), ACCEPT_DEADLINE),
        connect(one, &api.client, &web.identity, CONNECT_DEADLINE)
    );
    dialled.unwrap();
    assert_eq!(accepted.unwrap().peer, workload("api"));
}

#[tokio::test(start_paused = true)]
async fn leaves_say_what_they_must_and_end_with_their_root() {
    let directory = rooted();
    replace(directory.path(), |leaf| authority(leaf).with(|p| p.not_after = moment(NOON + HOUR)));
    let store = store_over(
        Arc::new(open(directory.path()).unwrap()),
        StoppedClock::at_noon(),
        Duration::from_secs(24 * 3600),
    );
    store.want(&workload("web")).unwrap();
    let certificate = store.get(&workload("web")).await.unwrap();
    assert_eq!(certificate.leaf.not_after.as_secs(), NOON + HOUR);
    let leaf = crate::tls::parse_certificate(&certificate.chain()[0]).unwrap();
    assert!(leaf.subject_alternative_name().unwrap().unwrap().critical, "an empty subject needs it");
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth && !usage.any);
    assert!(leaf.key_usage().unwrap().unwrap().value.digital_signature());
    assert!(!leaf.is_ca());
}

#[tokio::test(start_paused = true)]
async fn another_trust_domain_is_not_signed_for() {
    let directory = rooted();
    let ca = Arc::new(open(directory.path()).unwrap());
    let store = store_over(ca, StoppedClock::at_noon(), Duration::from_secs(3600));
    let foreign = crate::spiffe::Identity::new("other.mesh", "shop", "web");
    store.want(&foreign).unwrap();
    let refused = why(store.get(&foreign).await);
    assert!(refused.contains("is not of the trust domain cluster.local"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_changed_root_is_taken_into_use_without_a_restart_and_a_broken_one_is_not() {
    let (directory, next) = (rooted(), rooted());
    let (certificate, key) =
        (directory.path().join(ROOT_CERTIFICATE_FILE), directory.path().join(ROOT_KEY_FILE));
    let ca = Arc::new(open(directory.path()).unwrap());
    let watching = tokio::spawn(ca.clone().watch_files());
    let store = store_over(ca.clone(), StoppedClock::at_noon(), Duration::from_secs(3600));
    store.want(&workload("web")).unwrap();
    let before = store.get(&workload("web")).await.unwrap();
    let seen = || tokio::time::sleep(2 * ROOT_RELOAD_INTERVAL);
    assert!(!ca.reload().unwrap(), "nothing has changed");

    fs::write(&certificate, "half a certif").unwrap();
    assert!(ca.reload().is_err());
    seen().await;
    assert_eq!(ca.roots().borrow().certificates().count(), 1, "the previous root stays in use");

    let old_pem = crate::certs::dump::pem(&before.roots.certificates().next().unwrap().clone());
    let new_pem = fs::read_to_string(next.path().join(ROOT_CERTIFICATE_FILE)).unwrap();
    fs::write(&certificate, format!("{old_pem}{new_pem}")).unwrap();
    seen().await;
    let during = store.try_get(&workload("web")).unwrap();
    assert_eq!(during.roots.certificates().count(), 2, "both are believed");
    assert_eq!(during.leaf.serial, before.leaf.serial);

    fs::copy(next.path().join(ROOT_KEY_FILE), &key).unwrap();
    set_mode(&key, 0o600);
    seen().await;
    store.want(&workload("api")).unwrap();
    let signed_by_next = store.get(&workload("api")).await.unwrap();
    fs::write(&certificate, &new_pem).unwrap();
    seen().await;
    let after = store.try_get(&workload("web")).unwrap();
    assert_ne!(after.leaf.serial, before.leaf.serial, "its root is gone, so it was replaced");
    assert_eq!(
        store.try_get(&workload("api")).unwrap().leaf.serial,
        signed_by_next.leaf.serial,
        "this one was of the new root already"
    );
    watching.abort();
}

#[tokio::test]
async fn the_root_key_is_in_no_debug_output() {
    let directory = rooted();
    let ca = open(directory.path()).unwrap();
    assert!(format!("{ca:?}").contains("[elided]"), "{ca:?}");
    let secret = fs::read_to_string(directory.path().join(ROOT_KEY_FILE)).unwrap();
    assert!(!format!("{ca:?}").contains(secret.lines().nth(1).unwrap()));
}
