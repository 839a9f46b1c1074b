//! How much of the traffic each level of preference takes, by how much of it is available.
//!
//! Envoy's rule: a level is as healthy as the part of its endpoints that is available, times 1.4, so that a few ejected
//! ones do not yet send traffic elsewhere; what one level cannot take spills over to the next. When all levels together
//! cannot take the whole, those below the panic threshold use all their endpoints, ejected or not.

/// How healthy a level is when all of it is available, in percent; only 100 of it count.
pub(super) const OVERPROVISIONING_PERCENT: usize = 140;

/// Endpoints of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Headcount {
    /// Those that are not ejected.
    pub(super) available: usize,
    /// All.
    pub(super) all: usize,
}

/// A level's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LevelLoad {
    /// Of the traffic, in percent. Those of all levels add up to 100.
    pub(super) percent: usize,
    /// Whether ejected endpoints are used too.
    pub(super) panicking: bool,
}

/// The parts of levels, first preference first. `panic_percent`: below that much available a level panics; 0 never.
/// Where there is no endpoint at all, no level takes anything.
pub(super) fn loads(levels: &[Headcount], panic_percent: usize) -> Vec<LevelLoad> {
    let health: Vec<usize> =
        levels.iter().map(|it| part(it.available, it.all, OVERPROVISIONING_PERCENT)).collect();
    let total = health.iter().sum::<usize>().min(100);
    if total == 0 && panic_percent == 0 {
        // Hardly anybody is there. Envoy tries the first level, even when the few are in another.
        let taking = levels.iter().position(|it| it.available > 0).unwrap_or(0);
        let load = |at| LevelLoad { percent: if at == taking { 100 } else { 0 }, panicking: false };
        return (0..levels.len()).map(load).collect();
    }
    let panicking =
        |it: &Headcount| total < 100 && (it.all == 0 || it.available * 100 < panic_percent.min(100) * it.all);
    if levels.iter().all(panicking) {
        // Availability says nothing any more: by size.
        let everyone = levels.iter().map(|it| it.all).sum();
        let sizes: Vec<usize> = levels.iter().map(|it| part(it.all, everyone, 100)).collect();
        return divide(&sizes, 100).map(|percent| LevelLoad { percent, panicking: true }).collect();
    }
    let panics = levels.iter().map(panicking);
    divide(&health, total).zip(panics).map(|(percent, panicking)| LevelLoad { percent, panicking }).collect()
}

/// `some` of `all` in percent, with `percent` for all of it, up to 100.
fn part(some: usize, all: usize, percent: usize) -> usize {
    (percent * some).checked_div(all).unwrap_or(0).min(100)
}

/// Divides 100 percent: to each what it can take, while there is some; what rounding leaves to the first that can take
/// anything.
fn divide(capacity: &[usize], total: usize) -> impl Iterator<Item = usize> {
    let mut left = 100;
    let mut parts: Vec<usize> = capacity
        .iter()
        .map(|it| {
            let taken = (it * 100).checked_div(total).unwrap_or(0).min(left);
            left -= taken;
            taken
        })
        .collect();
    if let Some(first) = capacity.iter().position(|it| *it > 0) {
        parts[first] += left;
    }
    parts.into_iter()
}
