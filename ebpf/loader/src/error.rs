//! What can go wrong, split by what a caller does about it.

use std::{io, path::PathBuf};

/// The machine cannot do redirection at all: ztunnel must not become ready here.
#[derive(Debug, thiserror::Error)]
#[error("this node cannot redirect traffic: {missing}")]
pub struct Unsupported {
    /// What is missing, in words an administrator can act on.
    pub missing: Missing,
}

/// What a machine lacks.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// The object with the programs could not be read.
    #[error(
        "the eBPF object {} cannot be read ({source}); build it with `cargo xtask ebpf`, and name it where it is not \
         beside the executable: --ebpf-object target/ebpf/ebb-redirect.o",
        path.display()
    )]
    Object {
        /// Where it was looked for.
        path: PathBuf,
        /// Why it could not be read.
        source: io::Error,
    },
    /// The process may not use eBPF.
    #[error("ztunnel may not use eBPF ({source}); it needs CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN")]
    Permission {
        /// What the kernel answered.
        source: io::Error,
    },
    /// The kernel has no `bpf` system call.
    #[error("the kernel has no bpf system call (CONFIG_BPF_SYSCALL)")]
    Syscall,
    /// The kernel lacks a helper.
    #[error("the kernel has no helper {helper} for traffic control programs; Linux {since} or newer has it")]
    Helper {
        /// Name of the helper.
        helper: &'static str,
        /// First release that has it.
        since: &'static str,
    },
    /// There is no bpffs and none could be mounted.
    #[error("there is no bpf file system at {} and none can be mounted ({source})", path.display())]
    Filesystem {
        /// Where it was wanted.
        path: PathBuf,
        /// Why it could not be had.
        source: io::Error,
    },
    /// The verifier or loader refused a program.
    #[error("the kernel does not accept the program {program}: {reason}")]
    Program {
        /// Its name in the object.
        program: String,
        /// The loader's words, with the verifier's last line.
        reason: String,
    },
    /// Neither way to attach works.
    #[error("programs can be attached neither by TCX ({tcx}) nor by clsact ({clsact})")]
    Hook {
        /// Why TCX failed.
        tcx: String,
        /// Why clsact failed.
        clsact: String,
    },
    /// A step of the probe itself failed.
    #[error("the probe could not {step} ({source})")]
    Probe {
        /// What it tried.
        step: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
}

impl From<Missing> for Unsupported {
    fn from(missing: Missing) -> Self {
        Self { missing }
    }
}

/// One pod could not be served as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pod's name cannot be a file name in bpffs.
    #[error("the pod uid {uid:?} cannot name a pin: letters, digits, '-' and '_' only, 1 to 64 of them")]
    BadUid {
        /// As given.
        uid: String,
    },
    /// More workers than the map has room for, or none.
    #[error("{count} workers have listeners, but 1 to {limit} can")]
    Workers {
        /// As given.
        count: usize,
        /// The bound.
        limit: u32,
    },
    /// The node is full.
    #[error("{limit} pods are enrolled, which is the limit")]
    TooManyPods {
        /// The bound.
        limit: usize,
    },
    /// An interface whose packets begin in a way the programs do not read.
    #[error(
        "interface {interface} has link type {link_type}, which cannot be redirected; take it down or out of the pod"
    )]
    LinkType {
        /// Name of the interface.
        interface: String,
        /// Its type, as the kernel calls it (ARPHRD_*).
        link_type: String,
    },
    /// A newer process has enrolled the pod; this one must leave it alone.
    #[error("pod {uid} has been taken over by another process")]
    Superseded {
        /// The pod.
        uid: String,
    },
    /// A step on the kernel failed.
    #[error("pod {uid}: cannot {step}: {reason}")]
    Kernel {
        /// The pod.
        uid: String,
        /// What was tried.
        step: String,
        /// What the kernel or the loader answered.
        reason: String,
    },
}

impl Error {
    pub(crate) fn kernel(uid: &str, step: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Kernel { uid: uid.to_owned(), step: step.into(), reason: reason.to_string() }
    }
}
