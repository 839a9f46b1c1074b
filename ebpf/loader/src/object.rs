//! Loads the object, with maps of its own or with those an earlier process pinned.
//!
//! Pinned maps are taken over only when every one of them has exactly the shape this build writes; otherwise
//! new maps are made, and the links are moved to programs that use them, so nothing is ever half old. What aya reads
//! of the object is dropped as soon as the programs are in the kernel: a pod keeps descriptors, no text.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, Map, MapData, MapType, PerCpuArray, ProgramArray, SockMap},
    programs::{Program, ProgramError, SchedClassifier, SkLookup},
};
use ebb_abi::{COUNTER_SLOTS, LAYOUT_VERSION, LISTENER_SLOTS, LOG_RING_BYTES, PodConfig, map, program};
use nix::sys::signal::{SigSet, SigmaskHow};

use crate::{
    error::Missing,
    pins::{NodePins, PodPins},
    syscall,
};

/// The bytes of the object, and what loads them.
pub(crate) struct ProgramObject {
    bytes: Vec<u8>,
    loader: Mutex<Loader>,
}

/// Aya's loader, and whether it was given a pod's pins, which cannot be taken from it again.
struct Loader {
    aya: EbpfLoader<'static>,
    has_pins: bool,
}

/// The maps that every pod has for itself, pinned in its folder.
pub(crate) const POD_MAPS: [&str; 4] = [map::LISTENERS, map::CONFIG, map::COUNTERS, map::HELD];

/// What a pod with ordinary interfaces needs; [`ProgramObject::add`] loads the rest for those that need it.
const USUAL: [&str; 3] = [program::ASSIGN_OUTBOUND, program::ASSIGN_INBOUND, program::CAPTURE_OUTBOUND];

/// [`PodConfig`] as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct ConfigEntry(pub(crate) PodConfig);

// SAFETY: four `u32` and two `u64` without padding: any bytes are a value and no byte is uninitialised.
unsafe impl aya::Pod for ConfigEntry {}

/// The programs of one pod, verified but attached nowhere yet, and its maps.
pub(crate) struct Loaded {
    pub(crate) programs: Programs,
    pub(crate) listeners: SockMap<MapData>,
    pub(crate) config: Array<MapData, ConfigEntry>,
    pub(crate) counters: PerCpuArray<MapData, u64>,
}

/// Programs in the kernel, by their names in the object.
pub(crate) struct Programs {
    classifiers: Vec<(&'static str, SchedClassifier)>,
    lookup: SkLookup,
}

impl Programs {
    /// The classifier called `name`; none when it is not loaded.
    pub(crate) fn classifier(&mut self, name: &str) -> Option<&mut SchedClassifier> {
        self.classifiers.iter_mut().find(|(own, _)| *own == name).map(|(_, program)| program)
    }

    /// Keeps the classifier called `name`, and lets the others go.
    pub(crate) fn only(self, name: &str) -> Option<SchedClassifier> {
        self.classifiers.into_iter().find(|(own, _)| *own == name).map(|(_, program)| program)
    }

    /// The program that answers searches for a listener.
    pub(crate) fn lookup(&mut self) -> &mut SkLookup {
        &mut self.lookup
    }

    fn has(&self, name: &str) -> bool {
        self.classifiers.iter().any(|(own, _)| *own == name)
    }
}

/// A program or map the kernel or aya refused.
pub(crate) struct LoadFailure {
    pub(crate) program: String,
    pub(crate) reason: String,
}

impl From<LoadFailure> for Missing {
    fn from(LoadFailure { program, reason }: LoadFailure) -> Self {
        Self::Program { program, reason }
    }
}

impl ProgramObject {
    /// Reads the object.
    ///
    /// # Errors
    /// [`Missing::Object`].
    pub(crate) fn read(path: PathBuf, pins: &NodePins) -> Result<Self, Missing> {
        let bytes = fs::read(&path).map_err(|source| Missing::Object { path, source })?;
        let mut aya = loader();
        for shape in [&LOG_SHAPE, &REPORTERS_SHAPE] {
            let pin = pins.shared(shape.name);
            if MapData::from_pin(&pin).is_ok_and(|pinned| !has_shape(&pinned, shape)) {
                // Another build's: its programs keep it for as long as they run.
                let _gone = fs::remove_file(&pin);
            }
            aya.map_pin_path(shape.name, pin);
        }
        // Aya-log asks for twice as much.
        aya.map_max_entries(map::LOG, LOG_RING_BYTES);
        Ok(Self { bytes, loader: Mutex::new(Loader { aya, has_pins: false }) })
    }

    /// Loads every program, with maps that end with what is returned, to see that the kernel takes them all; and puts
    /// the one that all pods share in its place. Only before the first pod's.
    ///
    /// # Errors
    /// When the kernel refuses a map or a program, or there are pods.
    pub(crate) fn load_unpinned(&self) -> Result<Loaded, LoadFailure> {
        let mut loader = self.loader();
        if loader.has_pins {
            return Err(failure("(maps)", &"pods have been loaded before"));
        }
        let mut ebpf = loader.aya.load(&self.bytes).map_err(|error| failure("(maps)", &error))?;
        let mut loaded = loaded(&mut ebpf, &program::CLASSIFIERS)?;
        let mut reporters: ProgramArray<MapData> = take(&mut ebpf, map::REPORTERS)?;
        let reporter = loaded.programs.classifier(program::REPORT_DROP).ok_or(ProgramError::NotLoaded);
        reporter
            .and_then(|reporter| reporter.fd())
            .map_err(|error| failure(program::REPORT_DROP, &error))
            .and_then(|fd| reporters.set(0, fd, 0).map_err(|error| failure(map::REPORTERS, &error)))?;
        Ok(loaded)
    }

    /// Loads the programs of a pod with the usual interfaces, with its pinned maps where `pins` has them; maps that are
    /// missing are made and pinned.
    ///
    /// # Errors
    /// When the kernel refuses a map or a program.
    pub(crate) fn load(&self, pins: &PodPins) -> Result<Loaded, LoadFailure> {
        loaded(&mut self.open(pins)?, &USUAL)
    }

    /// Loads those of the classifiers called `names` that `programs` lacks, with the same maps.
    ///
    /// # Errors
    /// When the kernel refuses a program.
    pub(crate) fn add(
        &self,
        programs: &mut Programs,
        names: &[&'static str],
        pins: &PodPins,
    ) -> Result<(), LoadFailure> {
        let mut lacking: Vec<&'static str> =
            names.iter().copied().filter(|name| !programs.has(name)).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        lacking.sort_unstable();
        lacking.dedup();
        let mut ebpf = self.open(pins)?;
        for name in lacking {
            let program = classifier(&mut ebpf, name).map_err(|error| failure(name, &error))?;
            programs.classifiers.push((name, program));
        }
        Ok(())
    }

    /// The object's maps made or opened, and its programs ready to load.
    fn open(&self, pins: &PodPins) -> Result<Ebpf, LoadFailure> {
        let mut loader = self.loader();
        loader.has_pins = true;
        for name in POD_MAPS {
            loader.aya.map_pin_path(name, pins.map(name));
        }
        loader.aya.load(&self.bytes).map_err(|error| failure("(maps)", &error))
    }

    fn loader(&self) -> MutexGuard<'_, Loader> {
        self.loader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A loader that knows nothing of the kernel's types, which the programs do not use.
///
/// Aya reads all of them whenever it makes a loader, some twenty megabytes, whether they are wanted or not. So that is done
/// seldom, and what is freed goes back to the kernel: all of it on the main thread, to whose heap alone glibc gives its end
/// back too.
fn loader() -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    // The verifier's complaint without its every step, which takes many times as long as the check itself.
    loader.verifier_log_level(VerifierLogLevel::STATS);
    syscall::give_back_freed_memory();
    loader
}

fn loaded(ebpf: &mut Ebpf, names: &[&'static str]) -> Result<Loaded, LoadFailure> {
    let mut classifiers = Vec::with_capacity(names.len());
    for name in names {
        classifiers.push((*name, classifier(ebpf, name).map_err(|error| failure(name, &error))?));
    }
    let lookup = sk_lookup(ebpf).map_err(|error| failure(program::ANSWER_LOOKUP, &error))?;
    Ok(Loaded {
        programs: Programs { classifiers, lookup },
        listeners: take(ebpf, map::LISTENERS)?,
        config: take(ebpf, map::CONFIG)?,
        counters: take(ebpf, map::COUNTERS)?,
    })
}

fn classifier(ebpf: &mut Ebpf, name: &'static str) -> Result<SchedClassifier, ProgramError> {
    let found: &mut SchedClassifier = named(ebpf, name)?.try_into()?;
    uninterrupted(|| found.load())?;
    SchedClassifier::from_program_info(found.info()?, name.into())
}

fn sk_lookup(ebpf: &mut Ebpf) -> Result<SkLookup, ProgramError> {
    let found: &mut SkLookup = named(ebpf, program::ANSWER_LOOKUP)?.try_into()?;
    uninterrupted(|| found.load())?;
    SkLookup::from_program_info(found.info()?, program::ANSWER_LOOKUP.into())
}

fn named<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, ProgramError> {
    ebpf.program_mut(name).ok_or(ProgramError::UnexpectedProgramType)
}

/// How long the verifier's EAGAIN is met with another attempt.
const LOAD_PATIENCE: Duration = Duration::from_secs(10);
/// Rest between attempts.
const LOAD_PAUSE: Duration = Duration::from_millis(5);

/// Repeats `load` while the kernel says EAGAIN, with which the verifier gives up when its thread is interrupted.
///
/// On a busy machine this was seen many times in a row, and with signals blocked too, so what interrupts is not
/// only signals; hence both the block and a bound in time instead of a count. libbpf repeats the call as well, aya
/// does not.
///
/// # Errors
/// Whatever else `load` says, or EAGAIN after [`LOAD_PATIENCE`].
pub(crate) fn uninterrupted<T>(load: impl FnMut() -> Result<T, ProgramError>) -> Result<T, ProgramError> {
    repeated_for(LOAD_PATIENCE, load)
}

fn repeated_for<T>(
    patience: Duration,
    mut load: impl FnMut() -> Result<T, ProgramError>,
) -> Result<T, ProgramError> {
    let _quiet = SignalsHeld::new();
    let until = Instant::now() + patience;
    loop {
        match load() {
            Err(error) if was_interrupted(&error) && Instant::now() < until => thread::sleep(LOAD_PAUSE),
            outcome => return outcome,
        }
    }
}

/// Keeps signals from this thread until dropped; then it has the mask it had before.
struct SignalsHeld(Option<SigSet>);

impl SignalsHeld {
    fn new() -> Self {
        // Cannot fail with these arguments, and if it did the loads would merely be less patient.
        Self(SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).ok())
    }
}

impl Drop for SignalsHeld {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _restored = before.thread_set_mask();
        }
    }
}

fn was_interrupted(error: &ProgramError) -> bool {
    let io_error = match error {
        ProgramError::LoadError { io_error, .. } => io_error,
        ProgramError::SyscallError(error) => &error.io_error,
        _ => return false,
    };
    io_error.kind() == io::ErrorKind::WouldBlock
}

/// What the config map of a pod's pins says, when all of its maps have the shape this build uses.
pub(crate) fn adoptable(pins: &PodPins) -> Option<PodConfig> {
    for shape in [&LISTENERS_SHAPE, &CONFIG_SHAPE, &COUNTERS_SHAPE, &HELD_SHAPE] {
        let pinned = MapData::from_pin(pins.map(shape.name)).ok()?;
        if !has_shape(&pinned, shape) {
            return None;
        }
    }
    let config = MapData::from_pin(pins.map(map::CONFIG)).ok()?;
    let config: Array<_, ConfigEntry> = Array::try_from(Map::Array(config)).ok()?;
    let ConfigEntry(config) = config.get(&0, 0).ok()?;
    (config.layout_version == LAYOUT_VERSION).then_some(config)
}

struct Shape {
    name: &'static str,
    kind: MapType,
    key: u32,
    value: u32,
    entries: u32,
}

const LISTENERS_SHAPE: Shape =
    Shape { name: map::LISTENERS, kind: MapType::SockMap, key: 4, value: 4, entries: LISTENER_SLOTS };
const CONFIG_SHAPE: Shape = Shape {
    name: map::CONFIG,
    kind: MapType::Array,
    key: 4,
    value: size_of::<PodConfig>() as u32,
    entries: 1,
};
const COUNTERS_SHAPE: Shape =
    Shape { name: map::COUNTERS, kind: MapType::PerCpuArray, key: 4, value: 8, entries: COUNTER_SLOTS };
const HELD_SHAPE: Shape = Shape { name: map::HELD, kind: MapType::SkStorage, key: 4, value: 4, entries: 0 };
const LOG_SHAPE: Shape =
    Shape { name: map::LOG, kind: MapType::RingBuf, key: 0, value: 0, entries: LOG_RING_BYTES };
const REPORTERS_SHAPE: Shape =
    Shape { name: map::REPORTERS, kind: MapType::ProgramArray, key: 4, value: 4, entries: 1 };

fn has_shape(map: &MapData, shape: &Shape) -> bool {
    map.info().is_ok_and(|info| {
        info.map_type().is_ok_and(|kind| kind == shape.kind)
            && info.key_size() == shape.key
            && info.value_size() == shape.value
            && info.max_entries() == shape.entries
    })
}

fn take<T: TryFrom<Map, Error = aya::maps::MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T, LoadFailure> {
    let map = ebpf.take_map(name).ok_or_else(|| failure(name, &"the object has no such map"))?;
    T::try_from(map).map_err(|error| failure(name, &error))
}

/// Keeps both ends of a long message: first comes what the kernel answered, last what the verifier minds.
fn failure(program: &str, reason: &dyn std::fmt::Display) -> LoadFailure {
    const LAST_LINES: usize = 8;
    let reason = reason.to_string();
    let lines: Vec<&str> = reason.lines().collect();
    let (first, rest) = lines.split_first().map_or(("", &[][..]), |(first, rest)| (*first, rest));
    let mut kept = vec![first];
    kept.extend(&rest[rest.len().saturating_sub(LAST_LINES)..]);
    LoadFailure { program: program.to_owned(), reason: kept.join("; ") }
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    fn refusal(errno: i32) -> ProgramError {
        ProgramError::SyscallError(SyscallError {
            call: "bpf_prog_load",
            io_error: io::Error::from_raw_os_error(errno),
        })
    }

    #[test]
    fn signals_are_kept_away_during_a_load_and_no_longer() {
        let blocked = || SigSet::thread_get_mask().unwrap().contains(nix::sys::signal::Signal::SIGCHLD);
        assert!(!blocked());
        assert!(uninterrupted(|| Ok(blocked())).unwrap());
        assert!(!blocked());
    }

    #[test]
    fn an_interrupted_load_is_repeated_and_a_refused_one_is_not() {
        let mut calls = 0;
        let loaded = uninterrupted(|| {
            calls += 1;
            if calls < 20 { Err(refusal(nix::libc::EAGAIN)) } else { Ok(()) }
        });
        assert!(loaded.is_ok());
        let mut calls = 0;
        let refused = uninterrupted(|| {
            calls += 1;
            Err::<(), _>(refusal(nix::libc::EINVAL))
        });
        assert!(refused.is_err() && calls == 1);
    }

    #[test]
    fn patience_with_interruptions_ends() {
        let refused = repeated_for(Duration::from_millis(20), || Err::<(), _>(refusal(nix::libc::EAGAIN)));
        assert!(refused.is_err_and(|error| was_interrupted(&error)));
    }
}
