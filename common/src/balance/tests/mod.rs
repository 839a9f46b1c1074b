//! What the decisions promise, one file per decision or family of them.

mod budget;
mod consistent;
mod golden;
mod hash_key;
mod locality;
mod nearest;
mod outlier;
mod turns;
mod warmup;

use std::net::SocketAddr;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::Share;

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// The nth endpoint of a test.
fn endpoint(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (n / 200) as u8, (n % 200) as u8 + 1], 8080))
}

/// Shares of endpoints with these weights, each its own candidate.
fn shares(weights: impl IntoIterator<Item = (SocketAddr, u32)>) -> Vec<Share> {
    let weights: Vec<_> = weights.into_iter().collect();
    let sum: f64 = weights.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let share = |(candidate, (address, weight)): (usize, &(SocketAddr, u32))| Share {
        candidate,
        address: *address,
        portion: f64::from(*weight) / sum,
    };
    weights.iter().enumerate().map(share).collect()
}

/// How often each of `count` was chosen.
fn tally(count: usize, draws: usize, mut choose: impl FnMut() -> usize) -> Vec<usize> {
    let mut found = vec![0; count];
    (0..draws).for_each(|_| found[choose()] += 1);
    found
}

/// Five standard deviations of a binomial count: what chance alone exceeds less than once in a million.
fn tolerance(draws: usize, chance: f64) -> f64 {
    5.0 * (draws as f64 * chance * (1.0 - chance)).sqrt() + 1.0
}
