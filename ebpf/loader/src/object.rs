//! Loads the object, with maps of its own or with those an earlier process pinned.
//!
//! Pinned maps are taken over only when every one of them has exactly the shape this build writes; otherwise
//! new maps are made, and the links are moved to programs that use them, so nothing is ever half old.

use std::{
    fs, io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData, MapType, PerCpuArray, RingBuf, SockMap},
    programs::{ProgramError, SchedClassifier, SkLookup},
};
use ebb_abi::{COUNTER_SLOTS, LAYOUT_VERSION, LISTENER_SLOTS, PodConfig, REPORT_RING_BYTES, map, program};
use nix::sys::signal::{SigSet, SigmaskHow};

use crate::{error::Missing, pins::PodPins};

/// The bytes of the object, and where its shared ring is pinned.
pub(crate) struct ProgramObject {
    bytes: Vec<u8>,
    drops: PathBuf,
}

/// [`PodConfig`] as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct ConfigEntry(pub(crate) PodConfig);

// SAFETY: four `u32` and two `u64` without padding: any bytes are a value and no byte is uninitialised.
unsafe impl aya::Pod for ConfigEntry {}

/// The programs of one pod, verified but attached nowhere yet, and its maps.
pub(crate) struct Loaded {
    pub(crate) ebpf: Ebpf,
    pub(crate) listeners: SockMap<MapData>,
    pub(crate) config: Array<MapData, ConfigEntry>,
    pub(crate) counters: PerCpuArray<MapData, u64>,
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
    pub(crate) fn read(path: PathBuf, drops: PathBuf) -> Result<Self, Missing> {
        let bytes = fs::read(&path).map_err(|source| Missing::Object { path, source })?;
        if MapData::from_pin(&drops).is_ok_and(|ring| !has_shape(&ring, &DROPS_SHAPE)) {
            // Another build's ring: its programs keep it for as long as they run.
            let _gone = fs::remove_file(&drops);
        }
        Ok(Self { bytes, drops })
    }

    /// Loads every program, with the pod's pinned maps where `pins` has them; maps that are missing are made
    /// and pinned.
    ///
    /// # Errors
    /// When the kernel refuses a map or a program.
    pub(crate) fn load(&self, pins: Option<&PodPins>) -> Result<Loaded, LoadFailure> {
        let mut loader = EbpfLoader::new();
        loader.map_pin_path(map::DROPS, self.drops.clone());
        for name in [map::LISTENERS, map::CONFIG, map::COUNTERS] {
            if let Some(pins) = pins {
                loader.map_pin_path(name, pins.map(name));
            }
        }
        let mut ebpf = loader.load(&self.bytes).map_err(|error| failure("(maps)", &error))?;
        for name in program::CLASSIFIERS {
            classifier(&mut ebpf, name)
                .and_then(|program| program.load())
                .map_err(|error| failure(name, &error))?;
        }
        let lookup = sk_lookup(&mut ebpf).map_err(|error| failure(program::ANSWER_LOOKUP, &error))?;
        uninterrupted(|| lookup.load()).map_err(|error| failure(program::ANSWER_LOOKUP, &error))?;
        Ok(Loaded {
            listeners: take(&mut ebpf, map::LISTENERS)?,
            config: take(&mut ebpf, map::CONFIG)?,
            counters: take(&mut ebpf, map::COUNTERS)?,
            ebpf,
        })
    }

    /// The ring all pods of the node report drops to.
    ///
    /// # Errors
    /// When it is not pinned yet or is no ring.
    pub(crate) fn drops(&self) -> io::Result<RingBuf<MapData>> {
        let ring = MapData::from_pin(&self.drops).map_err(io::Error::other)?;
        RingBuf::try_from(Map::RingBuf(ring)).map_err(io::Error::other)
    }
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

/// The program called `name`.
///
/// # Errors
/// When the object has none of that name and type.
pub(crate) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, ProgramError> {
    ebpf.program_mut(name).ok_or(ProgramError::UnexpectedProgramType)?.try_into()
}

/// The program that answers searches for a listener.
///
/// # Errors
/// When the object has none.
pub(crate) fn sk_lookup(ebpf: &mut Ebpf) -> Result<&mut SkLookup, ProgramError> {
    ebpf.program_mut(program::ANSWER_LOOKUP).ok_or(ProgramError::UnexpectedProgramType)?.try_into()
}

/// What the config map of a pod's pins says, when all of its maps have the shape this build uses.
pub(crate) fn adoptable(pins: &PodPins) -> Option<PodConfig> {
    for shape in [&LISTENERS_SHAPE, &CONFIG_SHAPE, &COUNTERS_SHAPE] {
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
const DROPS_SHAPE: Shape =
    Shape { name: map::DROPS, kind: MapType::RingBuf, key: 0, value: 0, entries: REPORT_RING_BYTES };

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
