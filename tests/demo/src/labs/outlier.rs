//! Outlier detection: of two pods one fails its first three requests. It is left out, and takes its turns again later.
//!
//! The pod fails only once in its life, so a second time in the same demo would show nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::interrupt::check;

use super::{
    calls::{Called, Load, Question},
    market::{FRAGILE, Lab, Market, example},
};
use crate::{
    screen::{Claim, Facts, Row},
    stage::{Stage, pause},
};

const LAB: Lab = Lab { name: "outlier", file: example!("lab-outlier.yaml"), of: FRAGILE };

/// Failures in a row until a pod is left out, as the file has it. The pod fails as often, as its manifest has it.
const FAILURES: usize = 3;

/// How long it is left out, as the file has it.
const LEFT_OUT: Duration = Duration::from_secs(2);

/// How late it may be taken back: the file's interval, and what a busy machine needs.
const LATE: Duration = Duration::from_secs(2);

/// Between calls.
const PAUSE: Duration = Duration::from_millis(15);

/// Answers of the pod, once it is back, after which enough is seen.
const ENOUGH: usize = 10;

/// When to give up.
const GIVE_UP: Duration = Duration::from_secs(8);

/// One call: when it began and was over, since the first, and who answered it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Turn {
    began: Duration,
    over: Duration,
    /// Version of the pod that answered; none for a failure.
    by: Option<String>,
}

struct Outlier {
    turns: Vec<Turn>,
}

/// Calls until the pod that failed has come back.
pub(super) fn play(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let mut market = Market::open(stage)?;
    ensure!(market.served("fragile-broken")? == 0, "the pod has failed before; it does so once in its life");
    let turns = market.under(&LAB, |market| {
        let (start, mut turns, mut back) = (Instant::now(), Vec::new(), 0);
        while back < ENOUGH && start.elapsed() < GIVE_UP {
            check()?;
            let began = start.elapsed();
            let call = market.call(FRAGILE, Load::in_turn(1), |_| Question::path("/"))?;
            let by = call.first().and_then(Called::described).map(|it| it.version);
            back += usize::from(by.as_deref() == Some("broken"));
            turns.push(Turn { began, over: start.elapsed(), by });
            pause(PAUSE)?;
        }
        Ok(turns)
    })?;
    Ok(Box::new(Outlier { turns }))
}

impl Outlier {
    fn failures(&self) -> impl DoubleEndedIterator<Item = &Turn> {
        self.turns.iter().filter(|turn| turn.by.is_none())
    }

    /// The last failure, and the first answer of the same pod after it.
    fn away(&self) -> Option<(&Turn, &Turn)> {
        let last = self.failures().next_back()?;
        let back = |turn: &&Turn| turn.by.as_deref() == Some("broken");
        Some((last, self.turns.iter().find(back)?))
    }

    /// Who answered from then to then.
    fn between(&self, from: Duration, to: Duration) -> impl Iterator<Item = Option<&str>> {
        self.turns
            .iter()
            .filter(move |turn| turn.began > from && turn.over < to)
            .map(|turn| turn.by.as_deref())
    }
}

impl Facts for Outlier {
    fn rows(&self) -> Vec<Row> {
        let failures: Vec<_> = self.failures().map(|turn| turn.over.as_millis().to_string()).collect();
        let away = match self.away() {
            None => "it never came back".to_owned(),
            Some((last, back)) => format!(
                "expected 2000 ms and a little; {} ms after its last failure it answers again",
                back.over.saturating_sub(last.began).as_millis()
            ),
        };
        let meanwhile = self.away().map_or(0, |(last, back)| self.between(last.over, back.began).count());
        let of_broken = self.turns.iter().filter(|turn| turn.by.as_deref() == Some("broken")).count();
        vec![
            Row::fact("calls, to both in turn", self.turns.len().to_string()),
            Row::fact(
                "failures",
                format!("expected {FAILURES}; got {}, at {} ms", failures.len(), failures.join(", ")),
            ),
            Row::fact("left out", away),
            Row::fact("calls meanwhile", meanwhile.to_string()),
            Row::fact("its answers since", of_broken.to_string()),
        ]
    }

    fn claims(&self) -> Vec<Claim> {
        let at_most = LEFT_OUT + LATE;
        let (mut alone, mut in_time) = (false, false);
        if let Some((last, back)) = self.away() {
            let mut meanwhile = self.between(last.over, back.began).peekable();
            alone = meanwhile.peek().is_some() && meanwhile.all(|by| by == Some("sound"));
            // From the beginning of the call to the end of the other: what lies between is shorter.
            in_time = (LEFT_OUT..at_most).contains(&back.over.saturating_sub(last.began));
        }
        let since = self.away().map_or(0, |(_, back)| {
            self.turns
                .iter()
                .filter(|turn| turn.began >= back.began && turn.by.as_deref() == Some("broken"))
                .count()
        });
        vec![
            Claim::new("three calls failed, and no more", self.failures().count() == FAILURES),
            Claim::new("while the pod was left out the other one answered every call", alone),
            Claim::new("it was taken back when its time was over, and not before", in_time),
            Claim::new("since then it takes its turns again", since >= ENOUGH),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labs::failing;

    /// Turns of 10 ms: failures in turn with answers, then the other alone until `back_ms`, then both.
    fn outlier(failures: u64, back_ms: u64) -> Outlier {
        let turns = (0..500_u64).map(|number| {
            let began = Duration::from_millis(number * 10);
            let broken = number % 2 == 1;
            let by = match broken {
                true if number < failures * 2 => None,
                true if number * 10 >= back_ms => Some("broken"),
                _ => Some("sound"),
            };
            Turn { began, over: began + Duration::from_millis(5), by: by.map(str::to_owned) }
        });
        Outlier { turns: turns.collect() }
    }

    #[test]
    fn a_pod_that_is_left_out_for_its_time_bears_out_every_claim() {
        assert!(failing(&outlier(3, 2300)).is_empty());
    }

    #[test]
    fn a_pod_that_is_never_left_out_comes_back_too_soon_or_never_fails() {
        assert_eq!(failing(&outlier(3, 70)), [2]);
        assert_eq!(failing(&outlier(3, 1500)), [2]);
        assert_eq!(failing(&outlier(3, 4500)), [2]);
        assert_eq!(failing(&outlier(3, 10_000)), [1, 2, 3]);
        assert_eq!(failing(&outlier(4, 2300)), [0]);
        assert_eq!(failing(&outlier(0, 2300)), [0, 1, 2, 3]);
    }

    #[test]
    fn a_call_meanwhile_that_failed_or_few_turns_afterwards_fail() {
        let mut facts = outlier(3, 2300);
        facts.turns.truncate(235);
        assert_eq!(failing(&facts), [3]);
        // Another failure within that time is a fourth one, and restarts the time.
        facts.turns[100].by = None;
        assert_eq!(failing(&facts), [0, 2, 3]);
    }
}
