//! The waypoint does with a request what Envoy does, but for the differences that are named.
//!
//! `EBB_DIFFERENTIAL_TABLES` widens the run, `EBB_DIFFERENTIAL_SEED` makes other tables, and `EBB_DIFFERENTIAL_ONLY` asks
//! one table alone, by its number.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    io::{Write as _, stdout},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use ebb_tests::differential::{
    differences::{Case, SHOWN, explanation},
    generate,
    outcome::{Outcome, disagreements, is_by_chance},
    stage::{Asker, Stage, Through},
    tables::{Request, Table},
};

/// What tables are made from.
const SEED: u64 = 20_260_801;

/// How many tables there are.
const TABLES: usize = 320;

/// Fewer than this is not the suite that is promised.
const TABLES_MIN: usize = 300;

/// As many as there are listeners for.
const TABLES_MAX: usize = 5000;

/// How many tables are asked at once: most of the time is spent waiting for timeouts.
const ASKERS: usize = 4;

/// Kinds of failure of which one is shown in full.
const SHOWN_MAX: usize = 60;

/// What a run came to.
#[derive(Debug, Default)]
struct Tally {
    requests: usize,
    agreed: usize,
    named: BTreeMap<&'static str, usize>,
    /// By what they disagree in.
    failures: BTreeMap<String, Vec<String>>,
    reached: usize,
    tries: usize,
    retried: usize,
    redirected: usize,
    hashed: usize,
    answered: usize,
}

#[test]
fn the_waypoint_and_envoy_do_the_same_but_for_the_differences_that_are_named() -> Result<()> {
    let count = setting("EBB_DIFFERENTIAL_TABLES")?.unwrap_or(TABLES).min(TABLES_MAX);
    let seed = setting("EBB_DIFFERENTIAL_SEED")?.unwrap_or(SEED);
    let only: Option<usize> = setting("EBB_DIFFERENTIAL_ONLY")?;
    let numbers = only.map_or(0..count, |only| only..only + 1);
    let tables: Vec<Table> = numbers.map(|number| generate::table(seed, number)).collect();
    let program = harness::envoy::find_or_install(&harness::envoy::tools()?)?;
    let began = Instant::now();
    let stage = Stage::set(&tables, &program)?;
    let set_up = began.elapsed();
    let tally = asked(&stage, &tables)?;
    let (whole, figures) = (began.elapsed(), summary(&tables, &tally));
    // Not `println!`, whose output is kept from who runs a test that passes: the figures are what the run is for.
    writeln!(stdout(), "seed {seed}: {figures}; set up in {set_up:.1?}, all in {whole:.1?}")?;
    ensure!(tally.failures.is_empty(), "{}\n{}", shown(&tally), stage.tails());
    stage.finish()?;
    if only.is_none() {
        is_whole(&tables, &tally)?;
    }
    Ok(())
}

fn setting<T: std::str::FromStr>(name: &str) -> Result<Option<T>> {
    let Ok(text) = env::var(name) else { return Ok(None) };
    text.parse().ok().map(Some).with_context(|| format!("{name} is {text:?}, which is no number"))
}

/// Every request of every table, through both.
fn asked(stage: &Stage, tables: &[Table]) -> Result<Tally> {
    let (tally, next) = (Mutex::new(Tally::default()), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..ASKERS {
            scope.spawn(|| {
                let mut asker = Asker::new(stage);
                while let Some(table) = tables.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for (number, request) in table.requests.iter().enumerate() {
                        let both = [Through::Ebb, Through::Envoy].map(|through| {
                            let key = format!("{through:?}-{}-{number}", table.number);
                            asker.ask(table, request, through, &key)
                        });
                        let [ebb, envoy] = both;
                        note(
                            &mut tally.lock().unwrap_or_else(PoisonError::into_inner),
                            table,
                            request,
                            ebb,
                            envoy,
                        );
                    }
                    asker.forget();
                }
            });
        }
    });
    Ok(tally.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Compares what became of one request.
fn note(tally: &mut Tally, table: &Table, request: &Request, ebb: Result<Outcome>, envoy: Result<Outcome>) {
    tally.requests += 1;
    let (ebb, envoy) = match (ebb, envoy) {
        (Ok(ebb), Ok(envoy)) => (ebb, envoy),
        (ebb, envoy) => {
            let text = format!("  Ebb: {ebb:?}\n  Envoy: {envoy:?}\n{}", told(table, request));
            return tally.failures.entry("no answer".into()).or_default().push(text);
        }
    };
    tally.reached += usize::from(!ebb.tries.is_empty() && !envoy.tries.is_empty());
    tally.tries += ebb.tries.len();
    tally.retried += usize::from(ebb.tries.len() > 1 && envoy.tries.len() > 1);
    tally.redirected +=
        usize::from(ebb.headers.contains_key("location") && envoy.headers.contains_key("location"));
    tally.answered += usize::from(ebb.tries.is_empty() && envoy.tries.is_empty());
    let by_chance = is_by_chance(table, request);
    tally.hashed += usize::from(table.hash.is_some() && !by_chance && !ebb.tries.is_empty());
    let fields = disagreements(&ebb, &envoy, by_chance);
    if fields.is_empty() {
        tally.agreed += 1;
        return;
    }
    let case = Case { table, request, ebb: &ebb, envoy: &envoy, fields: &fields };
    match explanation(&case) {
        Some(names) => names.into_iter().for_each(|name| *tally.named.entry(name).or_default() += 1),
        None => {
            let text = format!("  Ebb: {ebb:?}\n  Envoy: {envoy:?}\n{}", told(table, request));
            let disagreement = format!("{fields:?}; {} and {}", ebb.status, envoy.status);
            tally.failures.entry(disagreement).or_default().push(text);
        }
    }
}

fn told(table: &Table, request: &Request) -> String {
    let mut text = format!("  table {}, hash {:?}\n  request {request:?}\n", table.number, table.hash);
    for rule in table.rules.iter() {
        let _ = writeln!(text, "  {rule:?}");
    }
    text
}

fn summary(tables: &[Table], tally: &Tally) -> String {
    let named: Vec<String> = tally.named.iter().map(|(name, count)| format!("{name} {count}")).collect();
    format!(
        "{} tables of {} rules, {} requests ({} reached an endpoint through both in {} tries of Ebb's, {} were tried again \
         by both, {} were redirected by both, {} hashed, {} answered by both themselves); {} agreed, {} unexplained; named \
         differences: {}",
        tables.len(),
        tables.iter().map(|it| it.rules.len()).sum::<usize>(),
        tally.requests,
        tally.reached,
        tally.tries,
        tally.retried,
        tally.redirected,
        tally.hashed,
        tally.answered,
        tally.agreed,
        tally.failures.values().map(Vec::len).sum::<usize>(),
        if named.is_empty() { "none".to_owned() } else { named.join(", ") },
    )
}

/// Each kind of failure with one of them.
fn shown(tally: &Tally) -> String {
    let mut text = "requests came out differently for no reason that has a name:\n".to_owned();
    for (kind, failures) in &tally.failures {
        let _ = writeln!(text, "- {} times {kind}", failures.len());
    }
    for (kind, failures) in tally.failures.iter().take(SHOWN_MAX) {
        let _ = writeln!(text, "- {kind}\n{}", failures.first().map_or("", String::as_str));
    }
    text
}

/// That the run was of everything that it is for.
fn is_whole(tables: &[Table], tally: &Tally) -> Result<()> {
    ensure!(tables.len() >= TABLES_MIN, "{} tables, fewer than {TABLES_MIN}", tables.len());
    for (what, count, of_hundred) in [
        ("reached an endpoint", tally.reached, 45),
        ("agreed", tally.agreed, 85),
        ("were tried again", tally.retried, 3),
        ("were redirected", tally.redirected, 3),
        ("were hashed", tally.hashed, 5),
        ("were answered without an endpoint", tally.answered, 10),
    ] {
        ensure!(
            count * 100 >= tally.requests * of_hundred,
            "{count} of {} requests {what}, less than {of_hundred} of a hundred",
            tally.requests
        );
    }
    for difference in SHOWN {
        ensure!(tally.named.contains_key(difference.name), "{} was never seen", difference.name);
    }
    Ok(())
}
