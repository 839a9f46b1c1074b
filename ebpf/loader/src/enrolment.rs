//! One enrolled pod: its programs, maps and links, and everything done to them after enrolment.
//!
//! Knows nothing of the pod but its uid and namespace. Dropping the handle leaves the kernel's side as it is.

use std::{
    fmt, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ebb_abi::{ListenerKind, MAX_WORKERS, PodConfig, flag, listener_index, map};

use crate::{
    attach::{self, Direction, Standing},
    clsact,
    counters::Counters,
    error::Error,
    interfaces::{self, Framing, Interface},
    namespace,
    object::{self, ConfigEntry, Loaded, ProgramObject},
    pins::PodPins,
    probe::Attachment,
    redirector::Shared,
    syscall,
};

/// The listening sockets of one worker in one pod: TCP, listening, in the pod's namespace, IP_TRANSPARENT.
#[derive(Debug, Clone, Copy)]
pub struct WorkerListeners<'a> {
    /// Takes what the pod opens.
    pub outbound: BorrowedFd<'a>,
    /// Takes what arrives outside a tunnel.
    pub plaintext: BorrowedFd<'a>,
    /// Takes tunnels.
    pub hbone: BorrowedFd<'a>,
}

/// Ways in which a pod may differ from the rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PodFlags {
    /// New inbound connections outside tunnels go to the application
    /// (annotation `ambient.istio.io/bypass-inbound-capture`).
    pub bypass_inbound: bool,
    /// Segments of connections that ztunnel does not hold are dropped, both ways. For kernels without
    /// SOCK_DESTROY; without effect together with `bypass_inbound`.
    pub cut_old: bool,
    /// The pod is leaving: new connections are no longer captured, those that ztunnel holds go on.
    pub release: bool,
}

impl PodFlags {
    pub(crate) fn bits(self) -> u32 {
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        bit(self.bypass_inbound, flag::BYPASS_INBOUND)
            | bit(self.cut_old, flag::CUT_OLD)
            | bit(self.release, flag::RELEASE)
    }
}

/// Something that is not as enrolment left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Name of the interface.
    pub interface: String,
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// What is wrong.
    pub kind: FaultKind,
}

/// What can be wrong at a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Our program is not attached: someone detached it, or the interface has just appeared.
    Detached,
    /// The program with this number runs before ours and can let packets past it.
    Preceded {
        /// Number of the other program, as `bpftool prog` shows it; 0 when it is no eBPF program.
        program: u32,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, direction, kind } = self;
        match kind {
            FaultKind::Detached => write!(f, "redirection is not attached at {direction} of {interface}"),
            FaultKind::Preceded { program } => {
                write!(f, "program {program} runs before redirection at {direction} of {interface}")
            }
        }
    }
}

/// A pod whose traffic is redirected.
pub struct EnrolledPod {
    shared: Arc<Shared>,
    pod: SharedPod,
    uid: Arc<str>,
    number: u32,
    adopted: bool,
}

impl EnrolledPod {
    pub(crate) fn new(shared: Arc<Shared>, pod: SharedPod, adopted: bool) -> Self {
        let (uid, number) = {
            let state = pod.lock();
            (Arc::clone(&state.uid), state.config.pod_number)
        };
        Self { shared, pod, uid, number, adopted }
    }

    /// The pod's uid, as given.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Whether links and maps of an earlier process were taken over.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Puts these listeners in the place of all earlier ones, worker by worker and each at once. Connections
    /// already accepted or queued are not touched.
    ///
    /// # Errors
    /// [`Error::Workers`], [`Error::Superseded`], or [`Error::Kernel`] when a socket is not a listening TCP socket.
    pub fn set_listeners(&self, workers: &[WorkerListeners<'_>]) -> Result<(), Error> {
        let mut state = self.pod.lock();
        state.check_current()?;
        state.set_listeners(workers)
    }

    /// Gives new connections to nobody: from the next packet on their SYNs are dropped, which their senders repeat until
    /// [`set_listeners`](Self::set_listeners) of this process or of the next. Connections already accepted or queued are
    /// not touched, and handshakes under way end at the listeners that began them, as long as these stay open.
    ///
    /// # Errors
    /// [`Error::Superseded`] when another process has put its own listeners there, which then stay;
    /// [`Error::Kernel`].
    pub fn clear_listeners(&self) -> Result<(), Error> {
        let mut state = self.pod.lock();
        // Under the lock, because a successor between the look and the write would lose its listeners.
        let _lock = self.shared.pins.lock().map_err(|error| state.failed("lock the pins", error))?;
        state.check_current()?;
        state.clear_listeners()
    }

    /// Changes the pod's flags, from the next packet on.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn set_flags(&self, flags: PodFlags) -> Result<(), Error> {
        let mut state = self.pod.lock();
        state.check_current()?;
        let config = PodConfig { flags: flags.bits(), ..state.config };
        state.write_config(config)
    }

    /// Whether another process took the pod over and has taken its listeners away since, as one does that ends. The pod then
    /// waits for somebody to enrol it anew.
    pub fn is_abandoned(&self) -> bool {
        let state = self.pod.lock();
        object::adoptable(&state.pins)
            .is_some_and(|pinned| pinned.generation != state.config.generation && pinned.workers == 0)
    }

    /// What the pod's packets have met since its first enrolment, adopted ones included.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn counters(&self) -> Result<Counters, Error> {
        self.pod.lock().counters()
    }

    /// What is not as it should be, interface by interface. Empty when all is well.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the namespace cannot be looked at.
    pub fn verify(&self) -> Result<Vec<Fault>, Error> {
        self.pod.lock().verify()
    }

    /// Attaches anew whatever [`verify`](Self::verify) found missing or no longer first.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn repair(&self) -> Result<(), Error> {
        let mut state = self.pod.lock();
        let _lock = self.shared.pins.lock().map_err(|error| state.failed("lock the pins", error))?;
        state.check_current()?;
        // A program cannot be attached twice to one hook, so moving it to the front takes a new one.
        let loaded = self.shared.object.load(&state.pins);
        state.loaded = loaded.map_err(|failure| state.failed("load the programs", failure.reason))?;
        state.cover()
    }

    /// Takes the pod out: capture first, then inbound, then `lo`; then maps and folder.
    ///
    /// Connections that ztunnel holds end with it. To let them finish, set [`PodFlags::release`] before and
    /// wait.
    ///
    /// # Errors
    /// [`Error::Kernel`]; what could be removed is.
    pub fn unenrol(self) -> Result<(), Error> {
        self.shared.forget(self.number);
        let mut state = self.pod.lock();
        let _lock = self.shared.pins.lock().map_err(|error| state.failed("lock the pins", error))?;
        state.check_current()?;
        state.remove()
    }
}

impl Drop for EnrolledPod {
    fn drop(&mut self) {
        self.shared.forget(self.number);
    }
}

/// A pod's state, shared between its handle, the watching thread and the node's counters.
#[derive(Clone)]
pub(crate) struct SharedPod(Arc<Mutex<PodState>>);

impl SharedPod {
    pub(crate) fn new(state: PodState) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, PodState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Covers interfaces that have appeared; called by the watching thread, which has nobody to answer to.
    pub(crate) fn cover_interfaces(&self) {
        let mut state = self.lock();
        if state.removed || state.check_current().is_err() {
            return;
        }
        if let Err(error) = state.cover() {
            tracing::error!(pod = &*state.uid, %error, "an interface of an enrolled pod is not redirected");
        }
    }
}

/// What the loader holds for a pod.
pub(crate) struct PodState {
    pub(crate) uid: Arc<str>,
    pub(crate) netns: OwnedFd,
    pub(crate) pins: PodPins,
    pub(crate) object: Arc<ProgramObject>,
    pub(crate) loaded: Loaded,
    pub(crate) how: Attachment,
    pub(crate) config: PodConfig,
    pub(crate) removed: bool,
}

impl PodState {
    pub(crate) fn failed(&self, step: &str, reason: impl fmt::Display) -> Error {
        Error::kernel(&self.uid, step, reason)
    }

    /// In an upgrade two processes overlap, and only the newer may touch the pod.
    ///
    /// # Errors
    /// [`Error::Superseded`].
    fn check_current(&self) -> Result<(), Error> {
        match object::adoptable(&self.pins) {
            Some(pinned)
                if pinned.generation != self.config.generation
                    || pinned.pod_number != self.config.pod_number =>
            {
                Err(Error::Superseded { uid: self.uid.to_string() })
            }
            // Of another layout, so of another build: the node is being upgraded or rolled back.
            None if self.pins.map(map::CONFIG).exists() => {
                Err(Error::Superseded { uid: self.uid.to_string() })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn write_config(&mut self, config: PodConfig) -> Result<(), Error> {
        let written = self.loaded.config.set(0, ConfigEntry(config), 0);
        written.map_err(|error| self.failed("write its configuration", error))?;
        self.config = config;
        Ok(())
    }

    /// Listeners first, then how many there are, then the slots nobody looks at any more.
    pub(crate) fn set_listeners(&mut self, workers: &[WorkerListeners<'_>]) -> Result<(), Error> {
        let count = worker_count(workers)?;
        for (worker, listeners) in (0..count).zip(workers) {
            let kinds = [
                (ListenerKind::Outbound, listeners.outbound),
                (ListenerKind::Plaintext, listeners.plaintext),
                (ListenerKind::Hbone, listeners.hbone),
            ];
            for (kind, socket) in kinds {
                let set = self.loaded.listeners.set(listener_index(kind, worker), &socket, 0);
                set.map_err(|error| {
                    self.failed(&format!("hand over the {kind:?} listener of worker {worker}"), error)
                })?;
            }
        }
        self.write_config(PodConfig { workers: count, ..self.config })?;
        self.clear_slots_from(count);
        Ok(())
    }

    fn clear_listeners(&mut self) -> Result<(), Error> {
        self.write_config(PodConfig { workers: 0, ..self.config })?;
        self.clear_slots_from(0);
        Ok(())
    }

    fn clear_slots_from(&mut self, first: u32) {
        for kind in ListenerKind::ALL {
            for worker in first..MAX_WORKERS {
                // Empty slots report an error, which is what is wanted of them.
                let _empty = self.loaded.listeners.clear_index(&listener_index(kind, worker));
            }
        }
    }

    pub(crate) fn counters(&self) -> Result<Counters, Error> {
        Counters::read(&self.loaded.counters).map_err(|error| self.failed("read its counters", error))
    }

    /// Refuses a pod with an interface that is in use and cannot be redirected.
    pub(crate) fn check_link_types(&self) -> Result<(), Error> {
        for interface in self.interfaces()? {
            if let (Framing::Unknown(link_type), true) = (interface.framing, interface.is_up) {
                return Err(Error::LinkType { interface: interface.name, link_type });
            }
        }
        Ok(())
    }

    fn interfaces(&self) -> Result<Vec<Interface>, Error> {
        let listed = namespace::inside(self.netns.as_fd(), interfaces::list).and_then(|listed| listed);
        listed.map_err(|error| self.failed("list its interfaces", error))
    }

    /// Attaches to every interface what belongs there and is not; `lo`, where captured packets come round,
    /// is the first by index.
    pub(crate) fn cover(&mut self) -> Result<(), Error> {
        let interfaces = self.interfaces()?;
        // One interface whose programs cannot be had is no reason to leave the others open.
        let loadable = self.load_for(&interfaces);
        let Self { netns, loaded, how, pins, .. } = self;
        let covered =
            namespace::inside(netns.as_fd(), || {
                let lookup = attach::ensure_lookup(&mut loaded.programs, netns.as_fd(), pins);
                let mut failures: Vec<String> = lookup.err().into_iter().collect();
                failures.extend(interfaces.iter().filter_map(|interface| {
                    attach::ensure(&mut loaded.programs, interface, *how, pins).err()
                }));
                if failures.is_empty() { Ok(()) } else { Err(io::Error::other(failures.join("; "))) }
            });
        loadable?;
        covered.and_then(|covered| covered).map_err(|error| self.failed("attach the programs", error))?;
        self.forget_interfaces_that_left(&interfaces);
        Ok(())
    }

    /// Loads what these interfaces want and is not loaded yet.
    fn load_for(&mut self, interfaces: &[Interface]) -> Result<(), Error> {
        let wanted: Vec<&'static str> = interfaces
            .iter()
            .flat_map(|interface| attach::programs_for(&interface.framing))
            .map(|(_, name)| *name)
            .collect();
        let added = self.object.add(&mut self.loaded.programs, &wanted, &self.pins);
        added.map_err(|failure| self.failed(&format!("load the program {}", failure.program), failure.reason))
    }

    fn forget_interfaces_that_left(&self, present: &[Interface]) {
        for link in self.pins.links().unwrap_or_default() {
            if !present.iter().any(|interface| interface.index == link.interface) {
                // The link died with its interface; a pin that stays is no harm and is tried again.
                let _best_effort = std::fs::remove_file(link.path);
            }
        }
    }

    pub(crate) fn verify(&mut self) -> Result<Vec<Fault>, Error> {
        let interfaces = self.interfaces()?;
        let Self { netns, loaded, how, .. } = self;
        let faults = namespace::inside(netns.as_fd(), || {
            let mut faults = Vec::new();
            for interface in &interfaces {
                for &(direction, name) in attach::programs_for(&interface.framing) {
                    let standing = attach::standing(&mut loaded.programs, interface, *how, (direction, name));
                    let kind = match standing.map_err(io::Error::other)? {
                        Standing::First => continue,
                        Standing::Behind(program) => FaultKind::Preceded { program },
                        Standing::Absent => FaultKind::Detached,
                    };
                    faults.push(Fault {
                        interface: interface.name.clone(),
                        direction: direction.name(),
                        kind,
                    });
                }
            }
            Ok(faults)
        });
        faults.and_then(|faults| faults).map_err(|error| self.failed("look at its interfaces", error))
    }

    pub(crate) fn remove(&mut self) -> Result<(), Error> {
        self.removed = true;
        if self.how == Attachment::Clsact {
            remove_filters(self.netns.as_fd()).map_err(|error| self.failed("detach the programs", error))?;
        }
        remove_pins(&self.pins).map_err(|error| self.failed("remove its pins", error))
    }
}

/// Removes our filters of clsact from every interface of a namespace, where there are any.
///
/// # Errors
/// When the namespace cannot be entered or looked at, or the kernel keeps a filter.
pub(crate) fn remove_filters(netns: BorrowedFd<'_>) -> io::Result<()> {
    let removed = namespace::inside(netns, || {
        let mut hooks: Vec<(Interface, Direction)> = Vec::new();
        for interface in interfaces::list()? {
            for &(direction, _) in attach::programs_for(&interface.framing) {
                hooks.push((interface.clone(), direction));
            }
        }
        // The order of `PodPins::links`, for the same reason.
        hooks.sort_by_key(|(interface, direction)| {
            (interface.framing == Framing::Loopback, *direction == Direction::Ingress)
        });
        let mut hooks = hooks.iter();
        hooks
            .try_for_each(|(interface, direction)| clsact::remove(interface, *direction))
            .map_err(io::Error::other)
    });
    removed.and_then(|removed| removed)
}

/// How many workers have listeners, when the map has room for them.
///
/// # Errors
/// [`Error::Workers`].
pub(crate) fn worker_count(workers: &[WorkerListeners<'_>]) -> Result<u32, Error> {
    let count = u32::try_from(workers.len()).ok().filter(|count| (1..=MAX_WORKERS).contains(count));
    count.ok_or(Error::Workers { count: workers.len(), limit: MAX_WORKERS })
}

/// Detaches the pinned links in their safe order and removes the folder.
///
/// # Errors
/// The first failure; the rest is tried all the same.
pub(crate) fn remove_pins(pins: &PodPins) -> io::Result<()> {
    let mut outcome = Ok(());
    for link in pins.links()? {
        outcome = outcome.and(syscall::detach_pinned_link(&link.path));
    }
    match syscall::detach_pinned_link(&pins.lookup()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        detached => outcome = outcome.and(detached),
    }
    outcome.and(pins.remove())
}
