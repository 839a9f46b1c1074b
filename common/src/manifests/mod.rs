//! Reads manifests once, from files, directories and standard input, and builds from them the mesh a proxy would see.
//!
//! For commands that look at manifests and serve nothing. What is in force is followed by `source`.

mod beware;
pub mod command;
mod texts;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::decode::yaml::{self, MAX_FILE_BYTES};
use crate::config::decode::{Decoded, Foreign, Skipped};
use crate::config::names::Names;
use crate::config::{Batch, Key, Origin, Rejected, Stated};
use crate::explain::Origins;
use crate::explain::connection::Sight;
use crate::snapshot::{Mesh, MeshSettings, Snapshot};
use anyhow::{Context as _, ensure};

pub use self::texts::Stating;
use self::texts::Texts;

/// Most files that are looked at.
pub const MAX_FILES: usize = 200_000;
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
    /// Files that state no manifests.
    pub foreign: Vec<Foreign>,
    /// The mesh, as a proxy would see it.
    pub mesh: Arc<Snapshot>,
    /// How it was set up.
    pub settings: MeshSettings,
    /// Files read.
    pub files: usize,
    texts: Texts,
}

impl Manifests {
    /// Reads all that is at these paths; `-` is standard input.
    ///
    /// # Errors
    /// A path that is not there or cannot be read, or too much to look at.
    pub fn read(paths: &[PathBuf], recursive: bool, settings: MeshSettings) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        for path in paths {
            if path.as_os_str() == "-" {
                let bytes = bounded(io::stdin().lock()).context("read standard input")?;
                files.push(("-".into(), bytes));
                continue;
            }
            let mut found = Vec::new();
            list(path, if recursive { MAX_DEPTH } else { 1 }, &mut found)?;
            for file in found {
                let bytes = File::open(&file).and_then(bounded);
                let bytes = bytes.with_context(|| format!("read {}", file.display()))?;
                files.push((file.display().to_string().into(), bytes));
            }
        }
        ensure!(!files.is_empty(), "no manifest there: none ends in {}", yaml::FILE_ENDS.join(", "));
        Ok(Self::of(files, settings))
    }

    /// The mesh of files, each with its name.
    pub fn of(files: Vec<(Arc<str>, Vec<u8>)>, settings: MeshSettings) -> Self {
        let (mut names, mut texts) = (Names::default(), Texts::default());
        let (mut all, count) = (Decoded::default(), files.len());
        for (file, bytes) in files {
            let decoded = yaml::decode(&file, &bytes, &mut names);
            // A tree of sources may hold many of them.
            if decoded.foreign.is_empty() {
                texts.keep(file, bytes);
            }
            append(&mut all, decoded);
        }
        Self { texts, files: count, ..Self::decoded(all, settings) }
    }

    fn decoded(mut decoded: Decoded, settings: MeshSettings) -> Self {
        // As in a catalog: files of JSON come after all others.
        decoded.stated.sort_by_key(|it| yaml::is_json(&it.origin.file));
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
        let Decoded { rejected, skipped, foreign, .. } = decoded;
        let batch = Batch { upserts: stated.clone(), rejected: rejected.clone(), ..Batch::default() };
        let mesh = Mesh::new(settings.clone()).apply(batch);
        Self {
            stated,
            origins,
            repeated,
            rejected,
            skipped,
            foreign,
            mesh,
            settings,
            files: 0,
            texts: Texts::default(),
        }
    }
}

impl Manifests {
    /// What states an object, from the text it was read from.
    pub fn stating(&self, origin: &Origin, key: Option<&Key>) -> Option<Stating> {
        self.texts.stating(origin, key)
    }

    /// What explanations look at.
    pub fn sight(&self) -> Sight<'_> {
        Sight { mesh: &self.mesh, cluster_domain: &self.settings.cluster_domain, origins: self }
    }
}

impl Origins for Manifests {
    fn line_of(&self, origin: &Origin, key: &Key, field: &str) -> Option<u32> {
        let stating = self.stating(origin, Some(key))?;
        Some(stating.line(stating.node()?.line_of(field)))
    }

    fn origin(&self, key: &Key) -> Option<&Origin> {
        self.origins.get(key)
    }
}

fn append(all: &mut Decoded, more: Decoded) {
    all.stated.extend(more.stated);
    all.rejected.extend(more.rejected);
    all.skipped.extend(more.skipped);
    all.foreign.extend(more.foreign);
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
        } else if !fs::metadata(&entry).is_ok_and(|it| it.is_dir()) && yaml::is_manifest(&name) {
            list(&entry, depth, found)?;
        }
    }
    Ok(())
}
