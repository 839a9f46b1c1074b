//! Builds `ebpf/programs` into `<target>/ebpf/ebb-redirect.o`.
//!
//! Leaves which compiler to use to [`crate::toolchain`]. Does nothing, in milliseconds, when no source is
//! newer than the object.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, bail};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

use crate::toolchain::{self, BpfToolchain};

const PROGRAM: &str = "ebb-redirect";
const TARGET: &str = "bpfel-unknown-none";
/// What the object is made from, relative to the root of the workspace.
const SOURCES: [&str; 2] = ["ebpf/programs", "ebpf/abi"];

/// Builds the object if it is missing or older than its sources, and prints where it is.
///
/// # Errors
/// One line that says what is missing and how to fix it, or the compiler's own complaint.
pub(crate) fn run() -> anyhow::Result<()> {
    let root = workspace_root();
    let object = object_path(&root);
    if is_current(&root, &object)? {
        println!("ebpf: {} is up to date", object.display());
        return Ok(());
    }
    let toolchain = toolchain::ensure_bpf()?;
    println!("ebpf: building with {}", toolchain.name());
    let built = compile(&root, &toolchain)?;
    install(&built, &object)?;
    println!("ebpf: built {}", object.display());
    Ok(())
}

/// Where the object is, or will be.
pub(crate) fn object_path(root: &Path) -> PathBuf {
    target_directory(root).join("ebpf").join(format!("{PROGRAM}.o"))
}

/// The folder that holds the workspace's manifest.
pub(crate) fn workspace_root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or_else(|| own.to_path_buf(), Path::to_path_buf)
}

fn target_directory(root: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

fn is_current(root: &Path, object: &Path) -> anyhow::Result<bool> {
    let Ok(built) = fs::metadata(object).and_then(|meta| meta.modified()) else { return Ok(false) };
    let mut newest = SystemTime::UNIX_EPOCH;
    for source in SOURCES {
        newest = newest.max(newest_under(&root.join(source))?);
    }
    Ok(newest <= built)
}

fn newest_under(path: &Path) -> anyhow::Result<SystemTime> {
    let meta = fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    if !meta.is_dir() {
        return Ok(meta.modified()?);
    }
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // A lock file is the build's product as much as its source; its date alone decides nothing.
        if entry.file_name() == "target" || entry.file_name() == "Cargo.lock" {
            continue;
        }
        newest = newest.max(newest_under(&entry.path())?);
    }
    Ok(newest)
}

fn compile(root: &Path, toolchain: &BpfToolchain) -> anyhow::Result<PathBuf> {
    let programs = root.join("ebpf/programs");
    let target = target_directory(root).join("ebpf/build");
    let status = toolchain
        .cargo()
        .args(["build", "--release", "--locked", "--target-dir"])
        .arg(&target)
        .current_dir(&programs)
        .status()
        .context("cannot start cargo for the kernel programs")?;
    if !status.success() {
        bail!(
            "the kernel programs did not build with {}; the compiler's reasons are above",
            toolchain.name()
        );
    }
    Ok(target.join(TARGET).join("release").join(PROGRAM))
}

/// Renames into place, so that a reader never finds half an object.
fn install(built: &Path, object: &Path) -> anyhow::Result<()> {
    let staging = object.with_extension("o.new");
    let whole = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    let lean = without_debug_info(&whole).with_context(|| format!("cannot strip {}", built.display()))?;
    fs::write(&staging, lean).with_context(|| format!("cannot write {}", staging.display()))?;
    fs::rename(&staging, object).with_context(|| format!("cannot write {}", object.display()))?;
    Ok(())
}

/// The object without its DWARF, nine tenths of it, which a loader would read for every pod. BTF, made of it, stays.
fn without_debug_info(whole: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut builder = Builder::read(whole)?;
    for section in builder.sections.iter_mut() {
        let name = &section.name;
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    builder.delete_orphans();
    // LLVM keeps names of sections and of symbols in one table, which the builder cannot write.
    let names = builder.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut lean = Vec::new();
    builder.write(&mut lean)?;
    Ok(lean)
}
