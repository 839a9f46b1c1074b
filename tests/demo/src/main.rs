//! `ebb-demo`: two nodes, their pods and the mesh between them on this machine, in steps that are measured.
//!
//! The first steps are the mesh itself, the others the labs: what a waypoint does with requests. Knows the order of things and the exit code: 0 only when every claim of every step was borne out by what was measured,
//! 130 when it was interrupted before its end.
//! Everything it makes is gone when it ends, however it ends; what a `kill -9` leaves, `ebb-demo clean` removes.

#![forbid(unsafe_code)]

mod around;
mod figures;
mod http;
mod labs;
mod leftovers;
mod load;
mod scenes;
mod screen;
mod sight;
mod stage;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{Parser, Subcommand, builder::PossibleValuesParser};
use harness::interrupt;

use crate::{
    labs::LABS,
    scenes::{SCENES, Scene},
    screen::{Row, Screen},
    stage::{CLIENT, INTRUDER, OUTSIDE, Stage, WEB_V1, WEB_V2},
};

#[derive(Parser)]
#[command(version, about = "Shows Ebb: two nodes, their pods and the mesh between them, on this machine")]
struct Arguments {
    /// Stay up after the last step, print commands to look around with, and end on Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Play one step alone
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(scenes().map(|scene| scene.name)))]
    scene: Option<String>,
    #[command(subcommand)]
    command: Option<Subcommands>,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Remove what killed runs left behind, and name it
    Clean,
}

/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Some(Subcommands::Clean) => leftovers::clean().map(|()| 0),
        None => interrupt::install().and_then(|()| demo(arguments.scene.as_deref(), arguments.keep)),
    };
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("\nebb-demo: {failed} claims failed");
            ExitCode::FAILURE
        }
        // What failed then is the wait that the interrupt ended, which nobody wants to read about.
        Err(_) if interrupt::interrupted() => {
            eprintln!("\nebb-demo: interrupted before its end; all it made is removed");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("\nebb-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Every step in order.
fn scenes() -> impl Iterator<Item = Scene> {
    SCENES.into_iter().chain(LABS)
}

/// Plays it all, or one step alone, and says how many claims failed.
fn demo(alone: Option<&str>, keep: bool) -> Result<usize> {
    let (screen, start) = (Screen::new(), Instant::now());
    let mut stage = Stage::build()?;
    introduce(&screen, &stage)?;
    let mut failed = 0;
    let wanted = scenes().filter(|scene| alone.is_none_or(|name| name == scene.name));
    for (number, scene) in (1..).zip(wanted) {
        screen.step(number, scene.title);
        interrupt::check()?;
        if alone.is_some() {
            (scene.prepare)(&mut stage)?;
        }
        failed += screen.tell((scene.play)(&mut stage)?.as_ref());
    }
    let seconds = start.elapsed().as_secs_f64();
    match failed {
        0 => screen.line(&format!("Every claim was borne out by what was measured. ({seconds:.0} s)")),
        _ => {
            screen.line(&format!("{failed} claims were NOT borne out by what was measured. ({seconds:.0} s)"))
        }
    }
    if keep {
        stay(&screen, &stage)?;
    }
    Ok(failed)
}

fn introduce(screen: &Screen, stage: &Stage) -> Result<()> {
    screen.line("Ebb: two nodes on this machine, and the mesh between them");
    let mut rows = Vec::new();
    for node in stage.cluster().nodes() {
        let mut pods = Vec::new();
        for name in [CLIENT, INTRUDER, WEB_V1, WEB_V2, OUTSIDE] {
            let pod = stage.pod(name)?;
            if pod.node().number() == node.number() {
                pods.push(format!("{} {}", name.1, pod.addresses().v4));
            }
        }
        rows.push(Row::fact(node.name(), pods.join(", ")));
    }
    rows.push(Row::fact("ztunnel", "ready on both nodes; no namespace is labelled yet"));
    screen.rows(&rows);
    Ok(())
}

/// Waits for Ctrl-C.
fn stay(screen: &Screen, stage: &Stage) -> Result<()> {
    screen.line("It stays up until Ctrl-C. In another terminal, as root:");
    screen.rows(&around::commands(stage)?);
    while !interrupt::interrupted() {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_step_has_a_name_of_its_own_and_can_be_asked_for() {
        let names: BTreeSet<_> = scenes().map(|scene| scene.name).collect();
        assert_eq!(names.len(), SCENES.len() + LABS.len());
        for name in names {
            let arguments = Arguments::try_parse_from(["ebb-demo", "--scene", name]).unwrap();
            assert_eq!(arguments.scene.as_deref(), Some(name));
        }
        assert!(Arguments::try_parse_from(["ebb-demo", "--scene", "encore"]).is_err());
    }
}
