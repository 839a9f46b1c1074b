//! Where configuration comes from, and the one task that applies it.
//!
//! Each source turns what it watches into [`Batch`]es and knows nothing of the mesh they make; the applier owns the
//! mesh and is the only one to publish. Both work on threads of their own: reading ten thousand files and compiling
//! them must not hold up traffic.

pub mod file;
pub mod names;
mod start;

use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::config::Batch;
use crate::snapshot::publish::{Publisher, Reader, channel};
use crate::snapshot::{Mesh, MeshSettings, Snapshot};

pub use self::start::start;

/// Most batches that wait to be applied; a source that is ahead of the applier by more waits.
pub const MAX_BATCHES_WAITING: usize = 16;

/// How a source is doing, for readiness, logs and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Everything that was there at first has been read and handed on.
    pub first_read: bool,
    /// What the source waits for, in words; `None` when nothing is missing.
    pub awaiting: Option<Arc<str>>,
    /// The last thing that went wrong and was not made good since.
    pub last_error: Option<Arc<str>>,
    /// When it last saw that what it has is current; `None` before the first time. What has been read stays in force
    /// however long ago that is.
    pub current_at: Option<std::time::Instant>,
    /// Files, or objects, it holds.
    pub items: usize,
}

/// Watches the status of a source.
pub type StatusReader = watch::Receiver<Status>;

/// Starts the applier.
///
/// It ends when every sender is gone. The last snapshot stays current.
///
/// # Errors
/// When no thread can be started.
pub fn apply(settings: MeshSettings) -> io::Result<(mpsc::Sender<Batch>, Reader)> {
    let (sender, mut batches) = mpsc::channel::<Batch>(MAX_BATCHES_WAITING);
    let (publisher, reader) = channel();
    let mut mesh = Mesh::new(settings);
    std::thread::Builder::new().name("ebb-applier".to_owned()).spawn(move || {
        let mut before = Arc::default();
        while let Some(batch) = batches.blocking_recv() {
            if batch.more {
                mesh.take(batch);
                continue;
            }
            before = apply_one(&mut mesh, batch, &before, &publisher);
        }
    })?;
    Ok((sender, reader))
}

fn apply_one(mesh: &mut Mesh, batch: Batch, before: &Snapshot, publisher: &Publisher) -> Arc<Snapshot> {
    let stated = batch.upserts.len();
    let removed = batch.removals.len();
    let started = std::time::Instant::now();
    let snapshot = mesh.apply(batch);
    tracing::debug!(
        stated,
        removed,
        generation = snapshot.generation(),
        policy_generation = snapshot.policy_generation(),
        took_us = started.elapsed().as_micros(),
        "configuration applied"
    );
    publisher.publish(snapshot.clone());
    for change in snapshot.policies_since(before) {
        let Some(now) = change.now.filter(|it| change.before.map(|it| &it.warnings) != Some(&it.warnings))
        else {
            continue;
        };
        for warning in &now.warnings {
            tracing::warn!(policy = %now.object, at = %now.origin, %warning, "a policy is read otherwise than stated");
        }
    }
    snapshot
}
