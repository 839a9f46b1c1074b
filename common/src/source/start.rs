//! Starts the source that the settings name, and what applies it.

use std::path::PathBuf;

use anyhow::Context;

use super::file::{FileSource, Running};
use super::{apply, names};
use crate::lifecycle::readiness::Readiness;
use crate::settings::NodeSettings;
use crate::snapshot::publish::Reader;

/// Starts reading the manifests; they are read for as long as the first value lives. The last good version of the
/// policies is kept in `remembered`, when it is given. Readiness waits until all that was
/// there at first has been applied. To be called on the control runtime.
///
/// # Errors
/// When there is no such directory, at the first start of all; when a thread cannot be started.
pub fn start(
    node: &NodeSettings,
    remembered: Option<PathBuf>,
    readiness: &Readiness,
) -> anyhow::Result<(Running, Reader)> {
    let (batches, mesh) = apply(node.mesh()).context("start the thread that applies configuration")?;
    let mut source = FileSource::new(&node.manifests);
    if let Some(file) = remembered {
        source = source.remembering(file);
    }
    tokio::spawn(names::follow(mesh.clone(), batches.clone(), names::look_up));
    let running = source.run(batches).context("--manifests")?;
    let (mut status, mut applied) = (running.status(), mesh.clone());
    let read = readiness.await_task(format!("manifests in {}", node.manifests.display()));
    tokio::spawn(async move {
        if status.wait_for(|status| status.first_read).await.is_ok() {
            while applied.current().generation() == 0 {
                applied.changed().await;
            }
            read.done();
        }
    });
    Ok((running, mesh))
}
