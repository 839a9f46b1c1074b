//! What reading manifests costs, object by object.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Result, ensure};
use common::config::decode::yaml;
use common::config::names::Names;

use crate::counted::{Units, counted_work};
use crate::mesh;

/// A file of a thousand pods, object by object: the units are objects.
pub(crate) fn object(units: Units) -> Result<()> {
    let (text, file) = (mesh::pods(), Arc::from("pods.yaml"));
    let read = |objects: usize| {
        for _ in 0..objects / mesh::WORKLOADS {
            let decoded = yaml::decode(&file, black_box(text.as_bytes()), &mut Names::default());
            ensure!(
                decoded.stated.len() == mesh::WORKLOADS && decoded.rejected.is_empty(),
                "not all are read"
            );
        }
        Ok(())
    };
    read(units.warm_up)?;
    counted_work(|| read(units.counted))
}
