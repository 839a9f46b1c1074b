//! How long a proxy takes to be ready in a large mesh, and the most it held on the way there. The system knows how to start
//! itself; here is only the hand-over.

use anyhow::Result;

use crate::{plan::Plan, results::Sample, systems::Candidate};

pub(super) fn take(candidate: &dyn Candidate, plan: &Plan) -> Result<Sample> {
    Ok(candidate.start_in_large_mesh(plan.workloads)?.unwrap_or_default())
}
