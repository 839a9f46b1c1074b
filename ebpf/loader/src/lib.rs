//! Loads, attaches and pins the redirection programs, one set per enrolled pod.
//!
//! Knows nothing of Kubernetes, policy or what a listener does with a connection: callers name a pod, hand over
//! its network namespace and the listening sockets, and get counters and sampled drops back. The surprising
//! part is what dropping a handle does: nothing. Links and maps are pinned in bpffs and stay in force, so that
//! a crashed ztunnel delays new connections instead of letting them through; [`EnrolledPod::unenrol`] is the
//! only way out.

mod attach;
mod clsact;
mod counters;
mod drops;
mod enrolment;
mod error;
mod interfaces;
mod namespace;
mod netlink;
mod object;
mod pins;
mod probe;
mod redirector;
mod syscall;
mod watch;

pub use counters::Counters;
pub use drops::{DropReader, ReportedDrop};
pub use ebb_abi as abi;
pub use enrolment::{EnrolledPod, Fault, FaultKind, PodFlags, WorkerListeners};
pub use error::{Error, Missing, Unsupported};
pub use probe::{Attachment, Capabilities};
pub use redirector::{AttachMode, Enrolment, MAX_PODS, Redirector, Settings};
