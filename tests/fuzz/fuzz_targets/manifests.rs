//! Manifests out of arbitrary bytes, and the mesh they make.
//!
//! The input is a history: pieces between bytes 0x1e (which no manifest may hold) are written to two files in turn.
//! After each, what was read is bounded, what could be a policy and was not read denies somebody, every answer of the
//! snapshot agrees with the others, and the history leaves what reading its last two pieces alone gives.

#![no_main]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use common::authz::{Connection, evaluate};
use common::config::decode::{Decoded, yaml};
use common::config::names::Names;
use common::config::{Batch, Key, Removal};
use common::refusal::Refusal;
use common::snapshot::{Mesh, MeshSettings, Snapshot};
use libfuzzer_sys::fuzz_target;

/// Pieces of one history; more would only make inputs slow.
const MAX_PIECES: usize = 6;
/// What is read may be larger than its text by what aliases stand for and by what is filled in; never by more.
const MAX_READ_BYTES: usize = 64 << 20;

fuzz_target!(|input: &[u8]| {
    let pieces: Vec<&[u8]> = input.splitn(MAX_PIECES, |byte| *byte == 0x1e).collect();
    let mut desk = Desk::new();
    for (turn, piece) in pieces.iter().enumerate() {
        desk.write(turn % 2, piece);
        check(&desk.now);
    }
    // Two pieces are all there is to read.
    if pieces.len() <= 2 {
        return;
    }
    let mut fresh = Desk::new();
    let first = pieces.len() - 2;
    for (turn, piece) in pieces.iter().enumerate().skip(first) {
        fresh.write(turn % 2, piece);
    }
    assert_eq!(gist(&desk.now), gist(&fresh.now), "a mesh depends on how it came about");
});

/// A mesh made of two files.
struct Desk {
    mesh: Mesh,
    names: Names,
    files: BTreeMap<Arc<str>, Vec<Key>>,
    now: Arc<Snapshot>,
}

impl Desk {
    fn new() -> Self {
        let mesh = Mesh::new(MeshSettings::default());
        Self { mesh, names: Names::default(), files: BTreeMap::new(), now: Arc::default() }
    }

    fn write(&mut self, which: usize, bytes: &[u8]) {
        let file: Arc<str> = ["a.yaml", "b.yaml"][which].into();
        let decoded = yaml::decode(&file, bytes, &mut self.names);
        assert_eq!(yaml::decode(&file, bytes, &mut Names::default()), decoded, "one text, two meanings");
        bounded(&decoded, bytes);
        let keys: Vec<Key> = decoded.stated.iter().map(|it| it.resource.key()).collect();
        let before = self.files.insert(file.clone(), keys.clone()).unwrap_or_default();
        let gone = before.into_iter().filter(|it| !keys.contains(it));
        // What another statement of the same object stands in for is known after all.
        let stands = |key: &Key| self.files.values().flatten().any(|it| it == key);
        let unread = decoded
            .rejected
            .iter()
            .any(|it| it.guards_access && !it.subject.key().is_some_and(|key| stands(&key)));
        let removals = gone.map(|key| Removal { file: file.clone(), key }).collect();
        self.now = self.mesh.apply(Batch {
            reread: vec![file],
            upserts: decoded.stated,
            removals,
            rejected: decoded.rejected,
            ..Batch::default()
        });
        let unknown = self.now.unknown_policies().len() + self.now.unknown_authentications().len();
        assert!(!unread || unknown > 0, "what may be a policy was passed over");
    }
}

fn bounded(decoded: &Decoded, bytes: &[u8]) {
    let Decoded { stated, rejected, skipped, foreign: _ } = decoded;
    assert!(stated.len() + skipped.len() <= yaml::MAX_DOCUMENTS && rejected.len() <= yaml::MAX_REJECTED);
    // Each stands in the text, or is one that an alias stands for.
    assert!(stated.len() + skipped.len() + rejected.len() <= bytes.len() + yaml::MAX_ALIASED_NODES);
    // Written out only where aliases may have multiplied it.
    if bytes.contains(&b'*') {
        let size = format!("{stated:?}").len();
        assert!(size <= MAX_READ_BYTES, "{} bytes became {size}", bytes.len());
    }
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
    for origin in stated.iter().map(|it| &it.origin).chain(rejected.iter().map(|it| &it.origin)) {
        assert!(origin.line as usize <= lines, "{origin} of {lines} lines");
    }
}

/// Asks a snapshot everything traffic asks.
fn check(now: &Snapshot) {
    for workload in now.workloads() {
        assert_eq!(now.workload(&workload.uid), Some(workload));
        let policy = now.policy_for(workload);
        for address in workload.addresses.iter() {
            // Of several pods that claim an address one has it; nobody has it only if all are on the host's network.
            if let Some(there) = now.workload_at(*address) {
                assert!(there.addresses.contains(address), "{address} leads elsewhere");
            }
            let plain = Connection {
                source_identity: None,
                source: SocketAddr::new(*address, 40_000),
                destination: SocketAddr::new(*address, 80),
            };
            let verdict = evaluate(policy, &plain);
            if !policy.unknown.is_empty() {
                assert!(matches!(verdict, Err(Refusal::PolicyUnknown(_))), "unknown, and yet {verdict:?}");
            }
        }
    }
    for service in now.services() {
        assert_eq!(now.service(&service.namespace, &service.name), Some(service));
        let endpoints = now.endpoints(service);
        assert_eq!(endpoints.iter().count(), endpoints.len());
        for port in service.ports.iter() {
            assert_ne!(port.port, 0, "a service listens on port 0");
        }
    }
}

/// What a snapshot amounts to, less the count of how often it changed.
fn gist(now: &Snapshot) -> String {
    let workloads: Vec<_> = now.workloads().map(|it| (it, now.policy_for(it))).collect();
    let services: Vec<_> =
        now.services().map(|it| (it, now.endpoints(it).iter().collect::<Vec<_>>())).collect();
    format!(
        "{workloads:?} {services:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        now.policies().collect::<Vec<_>>(),
        now.unknown_policies(),
        now.virtual_services().collect::<Vec<_>>(),
        now.destination_rules().collect::<Vec<_>>(),
        now.request_authentications().collect::<Vec<_>>(),
        now.telemetries().collect::<Vec<_>>(),
        now.rejected(),
        now.conflicts()
    )
}
