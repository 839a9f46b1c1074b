//! Workload certificates: asks a CA for them, checks what it answers, renews them, and hands them to `tls`.
//!
//! Knows nothing of pods or connections: callers say which identities have a live pod here (`want`, `forget`), and no
//! certificate exists for any other. Surprising: a failing CA is no error while the certificate at hand is valid.

mod ca;
mod counters;
mod dump;
mod embedded;
mod issuance;
mod keeper;
mod renew;
mod store;
mod validate;
mod workload;

#[cfg(test)]
mod tests;

pub use ca::{CaClient, CaError, IssueFuture, SigningRequest};
pub use counters::Counters;
pub use dump::{CertificateDump, IdentityDump};
pub use embedded::{CaFileError, EmbeddedCa, ROOT_CERTIFICATE_FILE, ROOT_KEY_FILE, ROOT_RELOAD_INTERVAL};
pub use issuance::{ISSUE_DEADLINE, MAX_ISSUANCES_IN_FLIGHT};
pub use renew::{
    BACKOFF_LONGEST, BACKOFF_SHORTEST, Facts, Held, LONGEST_NAP, Reason, SHORTEST_INTERVAL, Step, next_step,
};
pub use store::{
    CertStore, DEFAULT_LIFETIME, FIRST_CERTIFICATE_WAIT, MAX_IDENTITIES, MAX_WAITERS, StoreSettings,
};
pub use validate::{BadAnswer, Leaf, validate};
pub use workload::WorkloadCertificate;
