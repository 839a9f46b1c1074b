//! Runs a scenario with many seeds, and names the one that failed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rand::SeedableRng;
use rand::rngs::StdRng;

/// One seed to run instead of all: `EBB_SEED=17 cargo test -p ebb-scenarios`.
const ONE: &str = "EBB_SEED";

/// Runs `scenario` with each of the first `count` seeds, on a current-thread runtime of its own with paused time.
///
/// # Panics
/// As the scenario does, after its seed is printed.
pub fn each<F: Future<Output = ()>>(count: u64, scenario: impl Fn(StdRng) -> F) {
    let one = std::env::var(ONE).ok().and_then(|seed| seed.parse().ok());
    for seed in one.map_or(0..count, |seed: u64| seed..seed + 1) {
        let run = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().start_paused(true).build().expect("a runtime can be started");
            runtime.block_on(scenario(StdRng::seed_from_u64(seed)));
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            eprintln!("seed {seed} fails; run it alone with {ONE}={seed}");
            resume_unwind(panic);
        }
    }
}
