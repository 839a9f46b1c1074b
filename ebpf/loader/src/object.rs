//! Loads the object, with maps of its own or with those an earlier process pinned.
//!
//! Pinned maps are taken over only when every one of them has exactly the shape this build writes; otherwise
//! new maps are made, and the links are moved to programs that use them, so nothing is ever half old.

use std::{fs, io, path::PathBuf};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData, MapType, PerCpuArray, RingBuf, SockMap},
    programs::{ProgramError, SchedClassifier, SkLookup},
};
use ebb_abi::{COUNTER_SLOTS, LAYOUT_VERSION, LISTENER_SLOTS, PodConfig, REPORT_RING_BYTES, map, program};

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
        sk_lookup(&mut ebpf)
            .and_then(SkLookup::load)
            .map_err(|error| failure(program::ANSWER_LOOKUP, &error))?;
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

/// Keeps the end of a long message: the verifier says last what it minds.
fn failure(program: &str, reason: &dyn std::fmt::Display) -> LoadFailure {
    const LINES: usize = 12;
    let reason = reason.to_string();
    let mut lines: Vec<&str> = reason.lines().rev().take(LINES).collect();
    lines.reverse();
    LoadFailure { program: program.to_owned(), reason: lines.join("; ") }
}
