//! Reads manifests once, from files, directories and standard input, and builds from them the mesh a proxy would see.
//!
//! For commands that look at manifests and serve nothing. What is in force is followed by `source`.

mod lines;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::decode::yaml::{self, MAX_FILE_BYTES};
use crate::config::decode::{Decoded, Skipped};
use crate::config::names::Names;
use crate::config::{Batch, Key, Origin, Rejected, Stated};
use crate::explain::connection::Sight;
use crate::explain::{By, Explanation, Origins};
use crate::snapshot::{Mesh, MeshSettings, Snapshot};
use anyhow::{Context as _, ensure};

/// Most files that are looked at.
pub const MAX_FILES: usize = 200_000;
/// Most documents of a sort that an explanation names as not read.
const MAX_TOLD: usize = 5;
/// Deepest directory below one that is named, with `--recursive`.
const MAX_DEPTH: usize = 32;

/// Everything that was stated, and the mesh it makes.
pub struct Manifests {
    /// Objects, each once.
    pub stated: Vec<Stated>,
    origins: HashMap<Key, Origin>,
    /// Statements of objects that another one stated before.
    pub repeated: Vec<Stated>,
    /// Documents that cannot be read.
    pub rejected: Vec<Rejected>,
    /// Documents of kinds that are not acted on.
    pub skipped: Vec<Skipped>,
    /// The mesh, as a proxy would see it.
    pub mesh: Arc<Snapshot>,
    /// How it was set up.
    pub settings: MeshSettings,
    /// Files read.
    pub files: usize,
}

impl Manifests {
    /// Reads all that is at these paths; `-` is standard input.
    ///
    /// # Errors
    /// A path that is not there or cannot be read, or too much to look at.
    pub fn read(paths: &[PathBuf], recursive: bool, settings: MeshSettings) -> anyhow::Result<Self> {
        let (mut names, mut all, mut files) = (Names::default(), Decoded::default(), 0);
        for path in paths {
            if path.as_os_str() == "-" {
                let bytes = bounded(io::stdin().lock()).context("read standard input")?;
                append(&mut all, yaml::decode(&"-".into(), &bytes, &mut names));
                files += 1;
                continue;
            }
            let mut found = Vec::new();
            list(path, if recursive { MAX_DEPTH } else { 1 }, &mut found)?;
            for file in found {
                let bytes = File::open(&file).and_then(bounded);
                let bytes = bytes.with_context(|| format!("read {}", file.display()))?;
                append(&mut all, yaml::decode(&file.display().to_string().into(), &bytes, &mut names));
                files += 1;
            }
        }
        ensure!(files > 0, "no manifest there: none ends in .yaml or .yml");
        Ok(Self::of(all, settings, files))
    }

    /// The mesh of what was decoded.
    pub fn of(decoded: Decoded, settings: MeshSettings, files: usize) -> Self {
        let mut origins = HashMap::new();
        let (mut stated, mut repeated) = (Vec::with_capacity(decoded.stated.len()), Vec::new());
        for it in decoded.stated {
            match origins.entry(it.resource.key()) {
                Entry::Occupied(_) => repeated.push(it),
                Entry::Vacant(place) => {
                    place.insert(it.origin.clone());
                    stated.push(it);
                }
            }
        }
        let Decoded { rejected, skipped, .. } = decoded;
        let batch = Batch { upserts: stated.clone(), rejected: rejected.clone(), ..Batch::default() };
        let mesh = Mesh::new(settings.clone()).apply(batch);
        Self { stated, origins, repeated, rejected, skipped, mesh, settings, files }
    }
}

impl Manifests {
    /// Tells what an explanation does not: what could not be read, what nobody acts on, and what was said about objects
    /// that decided.
    pub fn beware(&self, told: &mut Explanation) {
        for rejected in self.rejected.iter().take(MAX_TOLD) {
            told.say("beware", rejected.to_string(), None);
        }
        let ignored = || self.skipped.iter().filter(|it| it.is_of_the_mesh());
        for skipped in ignored().take(MAX_TOLD) {
            told.say(
                "beware",
                format!("{} at {} is of a kind that is not implemented", skipped.kind, skipped.origin),
                None,
            );
        }
        for repeated in self.repeated.iter().take(MAX_TOLD) {
            told.say(
                "beware",
                format!("{} at {} was stated before", repeated.resource.key(), repeated.origin),
                None,
            );
        }
        let most = [self.rejected.len(), ignored().count(), self.repeated.len()];
        let more: usize = most.iter().map(|it| it.saturating_sub(MAX_TOLD)).sum();
        if more > 0 {
            told.say("beware", format!("and {more} more; `waypoint analyze` tells of all"), None);
        }
        let decided: BTreeSet<Key> =
            told.steps().iter().filter_map(|it| Some(it.by.as_ref()?.key.clone())).collect();
        for stated in self.stated.iter().filter(|it| decided.contains(&it.resource.key())) {
            for note in stated.resource.notes().iter().take(MAX_TOLD) {
                let by = By { key: stated.resource.key(), origin: Some(stated.origin.clone()) };
                told.say("beware", note.to_string(), Some(by));
            }
        }
    }

    /// What explanations look at.
    pub fn sight(&self) -> Sight<'_> {
        Sight { mesh: &self.mesh, cluster_domain: &self.settings.cluster_domain, origins: self }
    }
}

impl Origins for Manifests {
    fn line_of(&self, origin: &Origin, field: &str) -> Option<u32> {
        let bytes = File::open(&*origin.file).and_then(bounded).ok()?;
        lines::line_of(&String::from_utf8(bytes).ok()?, origin.line, field)
    }

    fn origin(&self, key: &Key) -> Option<&Origin> {
        self.origins.get(key)
    }
}

fn append(all: &mut Decoded, more: Decoded) {
    all.stated.extend(more.stated);
    all.rejected.extend(more.rejected);
    all.skipped.extend(more.skipped);
}

/// One byte more than may be read is enough for the decoder to refuse the file by name.
fn bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The manifests at a path, sorted: the file itself, whatever it is called, or those of the directory by their names.
fn list(path: &Path, depth: usize, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let what = || format!("look at {}", path.display());
    if !fs::metadata(path).with_context(what)?.is_dir() {
        ensure!(found.len() < MAX_FILES, "more than {MAX_FILES} files");
        found.push(path.to_owned());
        return Ok(());
    }
    let mut inside = Vec::new();
    for entry in fs::read_dir(path).with_context(what)? {
        inside.push(entry.with_context(what)?.path());
    }
    inside.sort_unstable();
    for entry in inside {
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        // A link to a directory is not followed: it may lead back here.
        let is_directory = fs::symlink_metadata(&entry).is_ok_and(|it| it.is_dir());
        if is_directory && depth > 1 {
            list(&entry, depth - 1, found)?;
        } else if !fs::metadata(&entry).is_ok_and(|it| it.is_dir())
            && [".yaml", ".yml"].iter().any(|end| name.ends_with(end))
        {
            list(&entry, depth, found)?;
        }
    }
    Ok(())
}
