//! Finds out, without touching any pod, whether this kernel can redirect, and how.
//!
//! Trusts no version number: helpers are probed one by one for a clear message, then the real programs are
//! loaded and attached in a namespace that exists only for the purpose.

use std::{fs, io, path::Path};

use aya::{
    programs::{LinkOrder, ProgramError, ProgramType, SchedClassifier, TcAttachType, tc},
    sys::{BpfHelper, is_helper_supported},
};
use ebb_abi::program;
use nix::{
    libc,
    mount::{MsFlags, mount},
    sys::{
        resource::{RLIM_INFINITY, Resource, setrlimit},
        statfs::{BPF_FS_MAGIC, statfs},
    },
};

use crate::{
    error::Missing,
    namespace,
    object::{ProgramObject, uninterrupted},
    redirector::AttachMode,
};

/// How programs are attached on this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// TCX links (Linux 6.6 and newer).
    Tcx,
    /// Filters on the clsact qdisc.
    Clsact,
}

/// What the probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// How programs are attached.
    pub attachment: Attachment,
    /// Whether the kernel publishes its types. Only debugging tools need them: the programs read no kernel
    /// structure but those of the stable interface.
    pub btf: bool,
}

/// Helpers the programs call, with the release that brought each to traffic control.
const HELPERS: [(BpfHelper, &str, &str); 9] = [
    (BpfHelper::BPF_FUNC_tail_call, "bpf_tail_call", "4.2"),
    (BpfHelper::BPF_FUNC_redirect, "bpf_redirect", "4.2"),
    (BpfHelper::BPF_FUNC_skb_change_head, "bpf_skb_change_head", "5.0"),
    (BpfHelper::BPF_FUNC_sk_fullsock, "bpf_sk_fullsock", "5.1"),
    (BpfHelper::BPF_FUNC_sk_storage_get, "bpf_sk_storage_get", "5.2"),
    (BpfHelper::BPF_FUNC_skc_lookup_tcp, "bpf_skc_lookup_tcp", "5.2"),
    (BpfHelper::BPF_FUNC_sk_assign, "bpf_sk_assign", "5.7"),
    (BpfHelper::BPF_FUNC_ringbuf_reserve, "bpf_ringbuf_reserve", "5.8"),
    (BpfHelper::BPF_FUNC_sk_release, "bpf_sk_release", "4.20"),
];

/// Checks that the helpers are there, which also shows whether eBPF may be used at all.
///
/// # Errors
/// [`Missing::Permission`], [`Missing::Syscall`], [`Missing::Helper`], or [`Missing::Probe`].
pub(crate) fn helpers() -> Result<(), Missing> {
    // Kernels before 5.11 charge maps against this limit; newer ones ignore it.
    let _best_effort = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    for (helper, name, since) in HELPERS {
        match uninterrupted(|| is_helper_supported(ProgramType::SchedClassifier, helper)) {
            Ok(true) => {}
            Ok(false) => return Err(Missing::Helper { helper: name, since }),
            Err(error) => return Err(denied(error)),
        }
    }
    Ok(())
}

fn denied(error: ProgramError) -> Missing {
    let source = match error {
        ProgramError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    };
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Missing::Permission { source },
        Some(libc::ENOSYS) => Missing::Syscall,
        _ => Missing::Probe { step: "load a program of two instructions", source },
    }
}

/// Makes sure that `path` lies on a bpffs: makes the folder, and mounts one there only where its parents lie on none.
///
/// # Errors
/// [`Missing::Filesystem`].
pub(crate) fn bpffs(path: &Path) -> Result<(), Missing> {
    let missing = |source: io::Error| Missing::Filesystem { path: path.to_owned(), source };
    if !is_bpffs(path) {
        fs::create_dir_all(path).map_err(missing)?;
    }
    // A folder just made on a bpffs is on it, and hiding it under a second one would outlive the process.
    if is_bpffs(path) {
        return Ok(());
    }
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|errno| missing(errno.into()))?;
    if is_bpffs(path) { Ok(()) } else { Err(missing(io::Error::other("it did not stay mounted"))) }
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

/// Loads the programs and attaches one on the loopback of a namespace made for the purpose. What comes back besides is
/// a program to find the log by.
///
/// # Errors
/// [`Missing::Program`], [`Missing::Hook`] or [`Missing::Probe`].
pub(crate) fn attachment(
    object: &ProgramObject,
    mode: AttachMode,
) -> Result<(Capabilities, SchedClassifier), Missing> {
    let no_such = || denied(ProgramError::NotLoaded);
    let (attachment, programs) = namespace::inside_new(|| {
        let mut loaded = object.load_unpinned()?;
        let program = loaded.programs.classifier(program::ASSIGN_OUTBOUND).ok_or_else(no_such)?;
        let tcx = tc::TcAttachOptions::TcxOrder(LinkOrder::first());
        let tcx = match mode {
            AttachMode::Clsact => Err("not wanted".to_owned()),
            _ => program
                .attach_with_options("lo", TcAttachType::Ingress, tcx)
                .map_err(|error| error.to_string()),
        };
        let Err(tcx) = tcx else { return Ok((Attachment::Tcx, loaded.programs)) };
        let _there = tc::qdisc_add_clsact("lo");
        let clsact = tc::TcAttachOptions::Netlink(tc::NlOptions::default());
        let clsact = match mode {
            AttachMode::Tcx => Err("not wanted".to_owned()),
            _ => program
                .attach_with_options("lo", TcAttachType::Ingress, clsact)
                .map_err(|error| error.to_string()),
        };
        clsact.map(|_| (Attachment::Clsact, loaded.programs)).map_err(|clsact| Missing::Hook { tcx, clsact })
    })
    .map_err(|source| Missing::Probe { step: "make a network namespace", source })??;
    let writer = programs.only(program::REPORT_DROP).ok_or_else(no_such)?;
    Ok((Capabilities { attachment, btf: Path::new("/sys/kernel/btf/vmlinux").exists() }, writer))
}
