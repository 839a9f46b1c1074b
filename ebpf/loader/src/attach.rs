//! Attaches programs to interfaces, in the calling thread's namespace, and looks whether they still are.
//!
//! Two ways: TCX links, pinned, updated in place; and on older kernels the filters of [`crate::clsact`]. Both replace
//! a program without a moment in which none runs.

use std::{fs, os::fd::BorrowedFd, path::Path};

use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
};
use ebb_abi::program;

use crate::{
    clsact,
    interfaces::{Framing, Interface},
    object::Programs,
    pins::PodPins,
    probe::Attachment,
    syscall,
};

/// Which packets of an interface a program sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Ingress, Self::Egress].into_iter().find(|direction| direction.name() == name)
    }

    pub(crate) fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }
}

/// What belongs on an interface. Order matters where it is attached: what catches comes before what steers.
pub(crate) fn programs_for(framing: &Framing) -> &'static [(Direction, &'static str)] {
    match framing {
        Framing::Loopback => &[(Direction::Ingress, program::ASSIGN_OUTBOUND)],
        Framing::Ethernet => {
            &[(Direction::Ingress, program::ASSIGN_INBOUND), (Direction::Egress, program::CAPTURE_OUTBOUND)]
        }
        Framing::Bare => &[
            (Direction::Ingress, program::ASSIGN_INBOUND_L3),
            (Direction::Egress, program::CAPTURE_OUTBOUND_L3),
        ],
        Framing::Unknown(_) => {
            &[(Direction::Ingress, program::REFUSE_ALL), (Direction::Egress, program::REFUSE_ALL)]
        }
    }
}

/// Where a program stands among those of its hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    First,
    /// Behind the program with this number, which can let packets past it.
    Behind(u32),
    Absent,
}

/// Attaches the program that answers searches for a listener to the namespace, unless it is there.
///
/// The kernel runs all such programs of a namespace until one answers, so the new one is attached before the
/// old one goes.
///
/// # Errors
/// The kernel's words.
pub(crate) fn ensure_lookup(
    programs: &mut Programs,
    netns: BorrowedFd<'_>,
    pins: &PodPins,
) -> Result<(), String> {
    let program = programs.lookup();
    let own = program.info().map_err(text)?.id();
    let pinned = PinnedLink::from_pin(pins.lookup()).map(FdLink::from);
    if pinned.is_ok_and(|link| link.info().is_ok_and(|info| info.program_id() == own)) {
        return Ok(());
    }
    let id = program.attach(netns).map_err(text)?;
    let link = FdLink::from(program.take_link(id).map_err(text)?);
    pin_over(link, &pins.lookup(), pins)
}

/// Attaches the programs of one interface where they are not, replacing an earlier generation's in place.
///
/// # Errors
/// The kernel's words, with the hook.
pub(crate) fn ensure(
    programs: &mut Programs,
    interface: &Interface,
    how: Attachment,
    pins: &PodPins,
) -> Result<(), String> {
    for &(direction, name) in programs_for(&interface.framing) {
        let attached = match how {
            Attachment::Tcx => ensure_tcx(programs, interface, direction, name, pins),
            Attachment::Clsact => programs
                .classifier(name)
                .ok_or_else(|| not_loaded(name))
                .and_then(|program| clsact::ensure(program, interface, direction)),
        };
        attached.map_err(|reason| format!("{} {}: {reason}", interface.name, direction.name()))?;
    }
    Ok(())
}

fn ensure_tcx(
    programs: &mut Programs,
    interface: &Interface,
    direction: Direction,
    name: &str,
    pins: &PodPins,
) -> Result<(), String> {
    let running = running(interface, direction)?;
    let program = programs.classifier(name).ok_or_else(|| not_loaded(name))?;
    let own = program.info().map_err(text)?.id();
    if running.contains(&own) {
        return Ok(());
    }
    let pin = pins.link(interface.index, direction);
    if let Ok(pinned) = PinnedLink::from_pin(&pin) {
        let link = FdLink::from(pinned);
        // A link of another namespace, or of an interface that is gone, has the same name but is not here.
        let here = link.info().is_ok_and(|info| running.first() == Some(&info.program_id()));
        if here {
            let link = SchedClassifierLink::try_from(link).map_err(text)?;
            let id = program.attach_to_link(link).map_err(text)?;
            // Dropping the link only closes it: the pin keeps it attached.
            drop(program.take_link(id).map_err(text)?);
            return Ok(());
        }
    }
    attach_first(program, interface, direction, pins)
}

/// Attaches ahead of everyone else.
fn attach_first(
    program: &mut SchedClassifier,
    interface: &Interface,
    direction: Direction,
    pins: &PodPins,
) -> Result<(), String> {
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(&interface.name, direction.attach_type(), order).map_err(text)?;
    let link = FdLink::try_from(program.take_link(id).map_err(text)?).map_err(text)?;
    pin_over(link, &pins.link(interface.index, direction), pins)
}

/// Pins a link in the place of another. The pin is renamed there, so that there is no moment in which neither
/// the old link nor the new one is pinned.
fn pin_over(link: FdLink, path: &Path, pins: &PodPins) -> Result<(), String> {
    let staging = pins.map("link-staging");
    let _stale = fs::remove_file(&staging);
    let pinned = link.pin(&staging).map_err(text)?;
    if path.exists() {
        // The old one runs beside the new one until then; without this, until the kernel gets round to it.
        syscall::detach_pinned_link(path).map_err(text)?;
    }
    fs::rename(&staging, path).map_err(text)?;
    drop(pinned);
    Ok(())
}

/// Where the program that belongs there stands.
///
/// # Errors
/// The kernel's words.
pub(crate) fn standing(
    programs: &mut Programs,
    interface: &Interface,
    how: Attachment,
    (direction, name): (Direction, &str),
) -> Result<Standing, String> {
    let Some(program) = programs.classifier(name) else { return Ok(Standing::Absent) };
    let own = program.info().map_err(text)?.id();
    if how == Attachment::Clsact {
        return clsact::standing(own, interface, direction);
    }
    let running = running(interface, direction)?;
    Ok(match running.iter().position(|id| *id == own) {
        Some(0) => Standing::First,
        Some(position) => Standing::Behind(running[position - 1]),
        None => Standing::Absent,
    })
}

/// Numbers of the programs attached by TCX, in the order they run.
fn running(interface: &Interface, direction: Direction) -> Result<Vec<u32>, String> {
    let (_, programs) = SchedClassifier::query_tcx(&interface.name, direction.attach_type()).map_err(text)?;
    Ok(programs.iter().map(aya::programs::ProgramInfo::id).collect())
}

fn not_loaded(name: &str) -> String {
    format!("the program {name} is not loaded")
}

pub(crate) fn text(error: impl std::error::Error) -> String {
    // Errors of aya often hide the errno one level down.
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
