//! Our filters on the clsact qdisc, for kernels without TCX and tools that know nothing else.
//!
//! The interface keeps them, no pin does. They stand at the first priority, where the kernel asks the filter added last
//! before all others: so one that somebody adds there later overtakes ours, and ours overtakes it by being added anew
//! under its other handle before the old one goes.

use std::io;

use aya::programs::{
    SchedClassifier,
    links::Link as _,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
};
use nix::libc;
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption},
};

use crate::{
    attach::{Direction, Standing, text},
    interfaces::Interface,
    netlink,
};

/// Priority of our filter: ahead of everyone else's.
const PRIORITY: u16 = 1;
/// Handles of our filter, by which a later process knows it; it has one of them at a time, but for a moment.
const HANDLES: [TcHandle; 2] = [TcHandle::new(0, 0x0ebb), TcHandle::new(0, 0x0ebc)];

/// Handles of the clsact qdisc and its two ends (linux/pkt_sched.h).
const TC_H_CLSACT: u32 = 0xffff_0000;
const TC_H_MIN_INGRESS: u32 = 0xfff2;
const TC_H_MIN_EGRESS: u32 = 0xfff3;

/// A filter that the kernel asks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    priority: u16,
    handle: u32,
    /// Number of its program; none when it has no eBPF program.
    program: Option<u32>,
}

impl Filter {
    /// Which of our handles it has.
    fn own_handle(&self) -> Option<TcHandle> {
        HANDLES.into_iter().find(|own| self.priority == PRIORITY && self.handle == u32::from(*own))
    }
}

/// Makes `program` the first filter of the hook, in the place of an earlier generation's.
///
/// # Errors
/// The kernel's words.
pub(crate) fn ensure(
    program: &mut SchedClassifier,
    interface: &Interface,
    direction: Direction,
) -> Result<(), String> {
    // Fails when the qdisc is there already, which is as good; a real failure shows at the next step.
    let _there = tc::qdisc_add_clsact(&interface.name);
    let own = program.info().map_err(text)?.id();
    let before = filters(interface, direction).map_err(text)?;
    let keep = match before.first().and_then(|first| Some((first.own_handle()?, first.program))) {
        Some((handle, Some(running))) if running == own => handle,
        Some((handle, _)) => {
            let link = link(interface, direction, handle).map_err(text)?;
            kept(program, |program| program.attach_to_link(link))?;
            handle
        }
        None => add_first(program, interface, direction, &before)?,
    };
    for old in before.iter().filter_map(Filter::own_handle).filter(|handle| *handle != keep) {
        remove_one(interface, direction, old)?;
    }
    Ok(())
}

/// Adds our filter, which makes it the first, under the handle that is free.
fn add_first(
    program: &mut SchedClassifier,
    interface: &Interface,
    direction: Direction,
    before: &[Filter],
) -> Result<TcHandle, String> {
    let is_taken = |handle: &TcHandle| before.iter().any(|filter| filter.own_handle() == Some(*handle));
    let handle = match HANDLES.into_iter().find(|handle| !is_taken(handle)) {
        Some(free) => free,
        None => {
            // Somebody else's, or what is left of two generations: the other handle still has one.
            remove_one(interface, direction, HANDLES[1])?;
            HANDLES[1]
        }
    };
    let options = TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle, classid: None });
    kept(program, |program| program.attach_with_options(&interface.name, direction.attach_type(), options))?;
    Ok(handle)
}

/// Attaches, and lets the interface keep the filter, which aya would detach when the link is dropped.
fn kept(
    program: &mut SchedClassifier,
    attach: impl FnOnce(&mut SchedClassifier) -> Result<tc::SchedClassifierLinkId, aya::programs::ProgramError>,
) -> Result<(), String> {
    let id = attach(program).map_err(text)?;
    std::mem::forget(program.take_link(id).map_err(text)?);
    Ok(())
}

/// Removes our filters from a hook, if they are there.
///
/// # Errors
/// The kernel's words.
pub(crate) fn remove(interface: &Interface, direction: Direction) -> Result<(), String> {
    let present = filters(interface, direction).map_err(text)?;
    present.iter().filter_map(Filter::own_handle).try_for_each(|own| remove_one(interface, direction, own))
}

fn remove_one(interface: &Interface, direction: Direction, handle: TcHandle) -> Result<(), String> {
    link(interface, direction, handle).map_err(text)?.detach().map_err(text)
}

fn link(interface: &Interface, direction: Direction, handle: TcHandle) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(&interface.name, direction.attach_type(), PRIORITY, handle, None)
}

/// Where the program with this number stands. Those attached by TCX run before every filter.
///
/// # Errors
/// The kernel's words.
pub(crate) fn standing(own: u32, interface: &Interface, direction: Direction) -> Result<Standing, String> {
    let filters = filters(interface, direction).map_err(text)?;
    let Some(position) = filters.iter().position(|filter| filter.program == Some(own)) else {
        return Ok(Standing::Absent);
    };
    // Kernels without TCX have no answer, and nothing there.
    let tcx = SchedClassifier::query_tcx(&interface.name, direction.attach_type());
    if let Some(ahead) = tcx.ok().and_then(|(_, programs)| programs.first().map(|program| program.id())) {
        return Ok(Standing::Behind(ahead));
    }
    Ok(match position.checked_sub(1) {
        Some(ahead) => Standing::Behind(filters[ahead].program.unwrap_or(0)),
        None => Standing::First,
    })
}

/// The filters of a hook in the order in which the kernel asks them. Those of other chains are asked only by one of
/// these, and those that come before ours are what matters.
fn filters(interface: &Interface, direction: Direction) -> io::Result<Vec<Filter>> {
    let minor = match direction {
        Direction::Ingress => TC_H_MIN_INGRESS,
        Direction::Egress => TC_H_MIN_EGRESS,
    };
    let mut question = TcMessage::default();
    question.header.index = i32::try_from(interface.index).map_err(io::Error::other)?;
    question.header.parent = (TC_H_CLSACT | minor).into();
    let answers = match netlink::dump(RouteNetlinkMessage::GetTrafficFilter(question)) {
        // No clsact qdisc at all.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(Vec::new()),
        answers => answers?,
    };
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewTrafficFilter(message) => filter(message),
            _ => None,
        })
        .collect())
}

/// A filter of the first chain; none for the line that announces a priority.
fn filter(message: &TcMessage) -> Option<Filter> {
    let handle = u32::from(message.header.handle);
    let is_elsewhere = message
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, TcAttribute::Chain(chain) if *chain != 0));
    if handle == 0 || is_elsewhere {
        return None;
    }
    let options = message.attributes.iter().flat_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.as_slice(),
        _ => &[],
    });
    let program = options.into_iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgId(number)) => Some(*number),
        _ => None,
    });
    Some(Filter { priority: (message.header.info >> 16) as u16, handle, program })
}
