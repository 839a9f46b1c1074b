//! A directory that comes and goes, with files caught half written: what was once in force is never out of it.

use std::path::Path;
use std::time::Duration;

use common::authz::{Connection, evaluate};
use common::snapshot::{MeshSettings, Snapshot};
use common::source::apply;
use common::source::file::FileSource;
use common::spiffe::Identity;
use ebb_scenarios::world::{SHOP, from, pod, policy};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Longer than anything here takes on a busy machine, and shorter than what a look now and then would make up for.
const PATIENCE: Duration = Duration::from_secs(20);
const SEEDS: u64 = 12;

/// Whether the mesh admits `account` to the pod `web`; `None` when there is no such pod.
fn admits(mesh: &Snapshot, account: &str) -> Option<bool> {
    let web = mesh.workload("Kubernetes//Pod/shop/web")?;
    let identity = Identity::new("cluster.local", "shop", account);
    let connection = Connection {
        source_identity: Some(&identity),
        source: "10.0.0.2:40000".parse().expect("an address and a port"),
        destination: "10.0.0.3:80".parse().expect("an address and a port"),
    };
    Some(evaluate(mesh.policy_for(web), &connection).is_ok())
}

/// What one writer may do to the file with the policy, atomically or not.
async fn flap(rng: &mut StdRng, path: &Path, good: &str) {
    let file = path.join("policy.yaml");
    match rng.random_range(0..6) {
        // Less than this would be a file that states nothing, which is for its author to say.
        0 => std::fs::write(file, &good[..rng.random_range(8..good.len())])
            .expect("the file system does as it is told"),
        1 => std::fs::write(file, "").expect("the file system does as it is told"),
        2 => std::fs::write(file, good.replace("principals", "principles"))
            .expect("the file system does as it is told"),
        3 => {
            std::fs::write(path.join(".policy.tmp"), good).expect("the file system does as it is told");
            std::fs::rename(path.join(".policy.tmp"), file).expect("the file system does as it is told");
        }
        4 => {
            std::fs::rename(path, path.with_extension("away")).expect("the file system does as it is told");
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..30))).await;
            std::fs::rename(path.with_extension("away"), path).expect("the file system does as it is told");
        }
        _ => std::fs::write(file, good).expect("the file system does as it is told"),
    }
}

#[tokio::test]
async fn a_source_that_flaps_never_takes_a_policy_out_of_force() {
    // Side by side, because each has pauses of the file system's own.
    let all: Vec<_> = (0..SEEDS).map(|seed| tokio::spawn(flapping(seed))).collect();
    for seed in all {
        seed.await.unwrap();
    }
}

async fn flapping(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().expect("the file system does as it is told");
    let path = home.path().join("mesh");
    std::fs::create_dir(&path).expect("the file system does as it is told");
    // Both rules end the file, so that what is cut off it is never only a comment.
    let good = policy("allow", "ALLOW", &from("client")) + &policy("deny", "DENY", &from("evil"));
    std::fs::write(path.join("mesh.yaml"), SHOP.to_owned() + &pod("web", "10.0.0.3", "web", "u2"))
        .expect("the file system does as it is told");
    std::fs::write(path.join("policy.yaml"), &good).expect("the file system does as it is told");
    let (batches, mut reader) = apply(MeshSettings::default()).expect("a thread can be started");
    let running = FileSource::new(&path).run(batches).expect("a thread can be started");
    let first = tokio::time::timeout(PATIENCE, reader.changed()).await.expect("the files are read");
    assert_eq!((admits(&first, "client"), admits(&first, "evil")), (Some(true), Some(false)));

    let mut watched = reader.clone();
    let watching = tokio::spawn(async move {
        loop {
            let now = watched.current();
            for account in ["evil", "stranger"] {
                assert_eq!(admits(&now, account), Some(false), "{account}: {:?}", now.rejected());
            }
            watched.changed().await;
        }
    });
    for _ in 0..12 {
        flap(&mut rng, &path, &good).await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..40))).await;
    }
    std::fs::write(path.join("policy.yaml"), &good).expect("the file system does as it is told");
    let settled = async {
        while !reader.current().rejected().is_empty() || admits(&reader.current(), "client") != Some(true) {
            reader.changed().await;
        }
    };
    let settled = tokio::time::timeout(PATIENCE, settled).await;
    assert!(!watching.is_finished(), "seed {seed}: {:?}", watching.await);
    watching.abort();
    assert!(settled.is_ok(), "seed {seed}: the good file was never read again");
    drop(running);
}
