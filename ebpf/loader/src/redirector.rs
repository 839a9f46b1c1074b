//! The node's side: opens the kernel for redirection, enrols pods, finds what earlier processes left.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use ebb_abi::{LAYOUT_VERSION, PodConfig, flag};
use nix::sys::stat::fstat;

use crate::{
    counters::Counters,
    drops::DropReader,
    enrolment::{
        EnrolledPod, PodFlags, PodState, SharedPod, WorkerListeners, remove_filters, remove_pins,
        worker_count,
    },
    error::{Error, Missing, Unsupported},
    interfaces::Changes,
    namespace,
    object::{self, ProgramObject},
    pins::{NodePins, PodPins},
    probe::{self, Capabilities},
    watch::{Watch, WatchList},
};

/// Pods that one node can enrol.
pub const MAX_PODS: usize = 1024;

/// How the loader finds its way about.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The object that `cargo xtask ebpf` builds.
    pub object: PathBuf,
    /// Where bpffs is, or is to be mounted. Usually `/sys/fs/bpf`.
    pub bpffs: PathBuf,
    /// Folder of this node's pins in bpffs: letters, digits, `-` and `_`.
    pub node: String,
    /// How to attach.
    pub attach: AttachMode,
}

/// How programs are to be attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// By TCX where the kernel has it, by clsact where not.
    #[default]
    Auto,
    /// By TCX or not at all.
    Tcx,
    /// By clsact, for tools that know nothing else.
    Clsact,
}

/// A pod to enrol.
#[derive(Debug)]
pub struct Enrolment<'a> {
    /// Names the pod's pins: letters, digits, `-` and `_`, at most 64.
    pub uid: &'a str,
    /// The pod's network namespace. Kept open until the handle is dropped.
    pub netns: OwnedFd,
    /// Listeners, worker by worker, in force before the first packet is captured.
    pub listeners: &'a [WorkerListeners<'a>],
    /// How the pod differs from the rule.
    pub flags: PodFlags,
}

/// The node's redirection.
pub struct Redirector {
    shared: Arc<Shared>,
    watch: Watch,
    drops: Mutex<Option<DropReader>>,
    capabilities: Capabilities,
}

impl Redirector {
    /// Probes the kernel, mounts bpffs if need be, and reads the object. Touches no pod.
    ///
    /// # Errors
    /// [`Unsupported`], which names what is missing in one sentence.
    pub fn open(settings: Settings) -> Result<Self, Unsupported> {
        probe::helpers()?;
        probe::bpffs(&settings.bpffs)?;
        let pins = NodePins::create(&settings.bpffs, &settings.node)
            .map_err(|source| Missing::Filesystem { path: settings.bpffs.clone(), source })?;
        let object = ProgramObject::read(settings.object, &pins)?;
        let (capabilities, writer) = probe::attachment(&object, settings.attach)?;
        let watch = Watch::start().map_err(|source| Missing::Probe { step: "start a thread", source })?;
        let numbers = PodNumbers::default();
        let drops = DropReader::new(writer, pins.clone(), numbers.clone());
        let generation = RandomState::new().build_hasher().finish();
        let shared = Shared {
            pins,
            object: Arc::new(object),
            watched: watch.list().clone(),
            pods: Mutex::default(),
            // Two processes read the log in turn: their numbers must not mean different pods.
            next_number: AtomicU32::new(generation as u32),
            numbers,
            generation,
        };
        Ok(Self { shared: Arc::new(shared), watch, drops: Mutex::new(Some(drops)), capabilities })
    }

    /// What the kernel offers.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Redirects a pod's traffic, or takes over where an earlier process left off: its maps when they have
    /// this build's layout, new maps when not; its links in either case, each switched over in place.
    ///
    /// # Errors
    /// [`Error`]. A pod that was not enrolled before is left as it was.
    pub fn enrol(&self, enrolment: Enrolment<'_>) -> Result<EnrolledPod, Error> {
        let uid: Arc<str> = enrolment.uid.into();
        let failed = |step: &'static str, reason: io::Error| Error::kernel(enrolment.uid, step, reason);
        let pins = self.shared.pins.pod(&uid).ok_or_else(|| Error::BadUid { uid: uid.to_string() })?;
        worker_count(enrolment.listeners)?;
        if self.shared.pods().len() >= MAX_PODS {
            return Err(Error::TooManyPods { limit: MAX_PODS });
        }
        let inode =
            fstat(&enrolment.netns).map_err(|errno| failed("look at its namespace", errno.into()))?.st_ino;
        let changes = namespace::inside(enrolment.netns.as_fd(), Changes::listen).and_then(|changes| changes);
        let changes = changes.map_err(|error| failed("watch its interfaces", error))?;
        let _lock = self.shared.pins.lock().map_err(|error| failed("lock the pins", error))?;
        let was_enrolled = pins.hold_links();
        let found = adopt(&pins, inode).map_err(|error| failed("read its pins", error))?;
        let loaded = self.shared.object.load(&pins).map_err(|failure| {
            roll_back(&pins, was_enrolled);
            Error::kernel(&uid, format!("load the program {}", failure.program), failure.reason)
        })?;
        let number = self.shared.next_number.fetch_add(1, Ordering::Relaxed);
        let mut state = PodState {
            uid: Arc::clone(&uid),
            netns: enrolment.netns,
            pins,
            object: Arc::clone(&self.shared.object),
            loaded,
            how: self.capabilities.attachment,
            config: PodConfig {
                layout_version: LAYOUT_VERSION,
                workers: found.map_or(0, |config| config.workers),
                // What an earlier process had cut stays cut: sockets whose other end died with it look like older ones.
                flags: enrolment.flags.bits() | found.map_or(0, |config| config.flags & flag::CUT_OLD),
                pod_number: number,
                netns_inode: inode,
                generation: self.shared.generation,
            },
            removed: false,
        };
        let started = start(&mut state, enrolment.listeners);
        if let Err(error) = started {
            if !was_enrolled {
                // The filters of clsact have no pins; what has is removed with them.
                let _best_effort = state.remove();
            }
            return Err(error);
        }
        let pod = SharedPod::new(state);
        self.shared.remember(number, &uid, pod.clone());
        self.watch.list().add(number, changes, pod.clone());
        Ok(EnrolledPod::new(Arc::clone(&self.shared), pod, found.is_some()))
    }

    /// Uids of pods that have pins but are not in `live`: an earlier process enrolled them, and they are gone.
    ///
    /// # Errors
    /// When the pins cannot be listed.
    pub fn leftovers(&self, live: &HashSet<String>) -> io::Result<Vec<String>> {
        let mut pods = self.shared.pins.pods()?;
        pods.retain(|uid| !live.contains(uid));
        Ok(pods)
    }

    /// Detaches and removes what is pinned for a pod nobody holds. `netns` is the pod's namespace where the pod is still
    /// there: filters of clsact have no pins, and would go on giving its traffic to nobody.
    ///
    /// # Errors
    /// When a filter or a pin cannot be removed. The pins stay while a filter does, as the record of it.
    pub fn remove_leftover(&self, uid: &str, netns: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let no_such = || io::Error::new(io::ErrorKind::InvalidInput, format!("{uid:?} names no pod"));
        let pins = self.shared.pins.pod(uid).ok_or_else(no_such)?;
        let _lock = self.shared.pins.lock()?;
        netns.map_or(Ok(()), remove_filters)?;
        remove_pins(&pins)
    }

    /// Counters of every pod this process has enrolled, summed.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn counters(&self) -> Result<Counters, Error> {
        let pods: Vec<SharedPod> = self.shared.pods().values().cloned().collect();
        let mut sum = Counters::default();
        for pod in pods {
            sum.add(&pod.lock().counters()?);
        }
        Ok(sum)
    }

    /// The reading end of the node's sampled drops. There is one.
    ///
    /// # Errors
    /// When it has been handed out.
    pub fn drops(&self) -> io::Result<DropReader> {
        let reader = self.drops.lock().unwrap_or_else(PoisonError::into_inner).take();
        reader.ok_or_else(|| io::Error::new(io::ErrorKind::AlreadyExists, "somebody reads the drops already"))
    }
}

/// Prepares the pod's folder, and says what configuration was found there when its maps can go on being used.
fn adopt(pins: &PodPins, netns_inode: u64) -> io::Result<Option<PodConfig>> {
    pins.create()?;
    let found = object::adoptable(pins);
    if found.is_some_and(|config| config.netns_inode == netns_inode) {
        return Ok(found);
    }
    if found.is_some() {
        // The pod's sandbox was made anew under the same uid: what is pinned belongs to the old one.
        remove_pins(pins)?;
        pins.create()?;
    } else {
        // Maps of another layout, or none. Programs that use them keep them until their links are switched
        // over, so only the names go.
        for name in object::POD_MAPS {
            match std::fs::remove_file(pins.map(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(None)
}

/// Removes what a failed enrolment made, unless links were there before: taking those away would let the pod's
/// traffic past ztunnel, where leaving them at worst delays it.
fn roll_back(pins: &PodPins, was_enrolled: bool) {
    if !was_enrolled {
        let _best_effort = remove_pins(pins);
    }
}

fn start(state: &mut PodState, listeners: &[WorkerListeners<'_>]) -> Result<(), Error> {
    state.check_link_types()?;
    state.write_config(state.config)?;
    state.set_listeners(listeners)?;
    state.cover()
}

/// What pods and the node share.
pub(crate) struct Shared {
    pub(crate) pins: NodePins,
    pub(crate) object: Arc<ProgramObject>,
    watched: WatchList,
    pods: Mutex<HashMap<u32, SharedPod>>,
    next_number: AtomicU32,
    numbers: PodNumbers,
    generation: u64,
}

impl Shared {
    fn pods(&self) -> std::sync::MutexGuard<'_, HashMap<u32, SharedPod>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, number: u32, uid: &Arc<str>, pod: SharedPod) {
        self.pods().insert(number, pod);
        self.numbers.insert(number, Arc::clone(uid));
    }

    pub(crate) fn forget(&self, number: u32) {
        self.watched.remove(number);
        self.pods().remove(&number);
        self.numbers.remove(number);
    }
}

/// Whose drop it was: pod numbers to uids.
#[derive(Clone, Default)]
pub(crate) struct PodNumbers(Arc<Mutex<HashMap<u32, Arc<str>>>>);

impl PodNumbers {
    pub(crate) fn insert(&self, number: u32, uid: Arc<str>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number, uid);
    }

    fn remove(&self, number: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    pub(crate) fn get(&self, number: u32) -> Option<Arc<str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }
}
