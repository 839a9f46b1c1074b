//! What the kernel programs and the loader must agree on: marks, ports, map layouts and verdicts.
//!
//! Knows nothing of aya on either side. The surprising part: the layouts outlive both processes and
//! programs, because the maps are pinned, so any change to a layout here must raise [`LAYOUT_VERSION`].
#![no_std]

mod verdict;

pub use verdict::{HOOKS, Hook, Verdict};

/// Version of every layout in this crate, kept in each pod's [`PodConfig`] so that a loader recognises
/// pins that another build left behind.
pub const LAYOUT_VERSION: u32 = 2;

/// SO_MARK of every socket ztunnel opens in a pod's namespace. What carries it is never captured.
///
/// A process in the pod can set the same mark only with CAP_NET_ADMIN there; such a process could as well
/// detach the programs, so the mark protects from loops, not from privileged pods.
pub const ZTUNNEL_MARK: u32 = 0x539;

/// Mark put on captured packets while they turn round through `lo`, matched by the pod's routing rule.
pub const STEER_MARK: u32 = 0x111;

/// Port that carries HBONE (Istio's inbound mTLS tunnels).
pub const HBONE_PORT: u16 = 15008;

/// Upper bound of workers that own listeners of one pod; also the stride of [`listener_index`].
pub const MAX_WORKERS: u32 = 16;

/// Entries of the sockmap of listeners: one per kind and worker.
pub const LISTENER_SLOTS: u32 = ListenerKind::COUNT * MAX_WORKERS;

/// Entries of the per-cpu array of counters: one per hook and verdict.
pub const COUNTER_SLOTS: u32 = HOOKS * Verdict::STRIDE;

/// One drop in this many, per cpu, hook and verdict, leaves a line in the log. A power of two.
pub const DROP_SAMPLE: u64 = 256;

/// Bytes of the programs' log, shared by all pods of a node. A power of two and page multiple.
pub const LOG_RING_BYTES: u32 = 1 << 16;

/// Target of the lines in the log that tell of a drop.
pub const LOG_TARGET: &str = "redirection";

/// Which of ztunnel's listening sockets a connection is given to.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    /// Takes what the pod's processes open (Istio's port 15001).
    Outbound = 0,
    /// Takes what arrives for the pod outside a tunnel (Istio's port 15006).
    Plaintext = 1,
    /// Takes the tunnels that arrive for the pod (Istio's port 15008).
    Hbone = 2,
}

impl ListenerKind {
    /// How many kinds there are.
    pub const COUNT: u32 = 3;
    /// Every kind, in the order of its number.
    pub const ALL: [Self; Self::COUNT as usize] = [Self::Outbound, Self::Plaintext, Self::Hbone];
}

/// Index in the sockmap of the listener of `worker` (below [`MAX_WORKERS`]) for `kind`.
#[inline(always)]
pub const fn listener_index(kind: ListenerKind, worker: u32) -> u32 {
    listener_slot(kind as u32, worker)
}

/// [`listener_index`] by the kind's number.
#[inline(always)]
pub const fn listener_slot(kind: u32, worker: u32) -> u32 {
    kind * MAX_WORKERS + worker
}

/// Index in the array of counters.
#[inline(always)]
pub const fn counter_index(hook: Hook, verdict: Verdict) -> u32 {
    counter_slot(hook, verdict as u32)
}

/// [`counter_index`] by the verdict's number.
#[inline(always)]
pub const fn counter_slot(hook: Hook, verdict: u32) -> u32 {
    hook as u32 * Verdict::STRIDE + verdict
}

/// What the programs of one pod read on every packet: the only entry of the CONFIG map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodConfig {
    /// [`LAYOUT_VERSION`] of the build that wrote it. Zero in a map nobody has written.
    pub layout_version: u32,
    /// Workers whose listeners are in the sockmap, 1..=[`MAX_WORKERS`]. Zero drops every new connection.
    pub workers: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// Number by which drops of this pod are told from those of others; chosen by the loader.
    pub pod_number: u32,
    /// Inode of the network namespace the programs are attached in, so that pins are never adopted for
    /// the namespace of a later pod with the same name.
    pub netns_inode: u64,
    /// A random number of the loader that wrote it: a loader that finds another here has been superseded.
    pub generation: u64,
}

/// Bits of [`PodConfig::flags`].
pub mod flag {
    /// New inbound connections on ports other than HBONE's go to the application untouched
    /// (annotation `ambient.istio.io/bypass-inbound-capture`).
    pub const BYPASS_INBOUND: u32 = 1;
    /// Segments of connections that ztunnel does not hold are dropped, both ways. Only for kernels without
    /// SOCK_DESTROY; has no effect with [`BYPASS_INBOUND`], whose connections it could not tell apart.
    pub const CUT_OLD: u32 = 1 << 1;
    /// The pod is leaving: new connections pass untouched while those ztunnel holds go on to their end.
    pub const RELEASE: u32 = 1 << 2;
}

/// Names of the maps in the object.
pub mod map {
    /// SOCKMAP of [`super::LISTENER_SLOTS`] listening sockets.
    pub const LISTENERS: &str = "LISTENERS";
    /// Array of one [`super::PodConfig`].
    pub const CONFIG: &str = "CONFIG";
    /// Per-cpu array of [`super::COUNTER_SLOTS`] `u64`.
    pub const COUNTERS: &str = "COUNTERS";
    /// Socket storage of one `u32`, there on sockets of the pod whose other end ztunnel held.
    pub const HELD: &str = "HELD";
    /// Ring of aya-log's records, [`super::LOG_RING_BYTES`] long. The name is aya-log's.
    pub const LOG: &str = "AYA_LOGS";
    /// Array of one program, [`super::program::REPORT_DROP`], shared by all pods of a node.
    pub const REPORTERS: &str = "REPORTERS";
}

/// Names of the programs in the object.
pub mod program {
    /// Egress of an interface whose frames begin with an Ethernet header.
    pub const CAPTURE_OUTBOUND: &str = "capture_outbound";
    /// Egress of an interface whose packets begin with the IP header.
    pub const CAPTURE_OUTBOUND_L3: &str = "capture_outbound_l3";
    /// Ingress of `lo`.
    pub const ASSIGN_OUTBOUND: &str = "assign_outbound";
    /// Ingress of an interface whose frames begin with an Ethernet header.
    pub const ASSIGN_INBOUND: &str = "assign_inbound";
    /// Ingress of an interface whose packets begin with the IP header.
    pub const ASSIGN_INBOUND_L3: &str = "assign_inbound_l3";
    /// Both directions of an interface whose framing is not known: nothing passes.
    pub const REFUSE_ALL: &str = "refuse_all";
    /// The kernel's search for a listener, in the whole namespace. The only one that is no classifier.
    pub const ANSWER_LOOKUP: &str = "answer_lookup";
    /// Writes a line about a dropped packet to the log; the others call it.
    pub const REPORT_DROP: &str = "report_drop";
    /// Every classifier of the object.
    pub const CLASSIFIERS: [&str; 7] = [
        CAPTURE_OUTBOUND,
        CAPTURE_OUTBOUND_L3,
        ASSIGN_OUTBOUND,
        ASSIGN_INBOUND,
        ASSIGN_INBOUND_L3,
        REFUSE_ALL,
        REPORT_DROP,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listener_slots_do_not_overlap_and_fit_the_map() {
        let mut seen = [false; LISTENER_SLOTS as usize];
        for kind in ListenerKind::ALL {
            for worker in 0..MAX_WORKERS {
                let slot = &mut seen[listener_index(kind, worker) as usize];
                assert!(!*slot, "{kind:?} of worker {worker} shares its slot");
                *slot = true;
            }
        }
        assert!(seen.iter().all(|&taken| taken));
    }

    #[test]
    fn layouts_have_no_hidden_padding_and_the_size_version_2_promises() {
        assert_eq!(size_of::<PodConfig>(), 32);
        assert!(DROP_SAMPLE.is_power_of_two());
    }
}
