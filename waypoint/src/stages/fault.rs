//! Faults on purpose: a delay, an abort, or one after the other.
//!
//! Two draws that know nothing of each other. A request that is aborted was never sent, so it is not retried.

use std::time::Duration;

use common::config::routing::resilience::{AbortWith, Fault};
use http::StatusCode;
use rand::Rng;

use super::draw::falls_in;
use super::respond::{Answer, answer, grpc_answer};

/// What an aborted request is told, in Envoy's words.
const ABORTED: &str = "fault filter abort";

/// What happens to one request: first the delay, then the abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Injected<'f> {
    /// How long it waits; flag `DI`.
    pub delay: Option<Duration>,
    /// What it is answered with instead of being sent on; flag `FI`.
    pub abort: Option<&'f AbortWith>,
}

/// Draws for one request.
pub fn inject<'f>(stated: &'f Fault, rng: &mut impl Rng) -> Injected<'f> {
    let delay = stated.delay.as_ref().filter(|it| falls_in(it.share, rng));
    let abort = stated.abort.as_ref().filter(|it| falls_in(it.share, rng));
    Injected { delay: delay.map(|it| it.fixed), abort: abort.map(|it| &it.with) }
}

/// The answer to an aborted request.
pub fn aborted(with: &AbortWith, is_grpc: bool) -> Answer {
    match with {
        AbortWith::Http(status) => answer(*status, ABORTED, is_grpc),
        AbortWith::Grpc(status) if is_grpc => grpc_answer(*status, ABORTED.as_bytes()),
        // Who does not speak gRPC sees the status that gRPC always has.
        AbortWith::Grpc(_) => answer(StatusCode::OK, ABORTED, false),
    }
}

#[cfg(test)]
mod tests {
    use common::config::routing::Share;
    use common::config::routing::resilience::{Abort, Delay};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::stages::respond::GRPC_STATUS;

    fn fault(delayed: f64, aborted: f64) -> Fault {
        let share = |percent| Share::percent(percent).unwrap();
        let with = AbortWith::Http(StatusCode::SERVICE_UNAVAILABLE);
        Fault {
            delay: Some(Delay { fixed: Duration::from_secs(3), share: share(delayed) }),
            abort: Some(Abort { with, share: share(aborted) }),
        }
    }

    #[test]
    fn delay_and_abort_are_drawn_for_each_by_itself() {
        let mut rng = SmallRng::seed_from_u64(1);
        let stated = fault(50.0, 50.0);
        let mut counts = [0_u32; 4];
        for _ in 0..100_000 {
            let injected = inject(&stated, &mut rng);
            counts[usize::from(injected.delay.is_some()) * 2 + usize::from(injected.abort.is_some())] += 1;
        }
        for count in counts {
            assert!(
                (24_300..25_700).contains(&count),
                "a quarter each of none, abort, delay, both: {counts:?}"
            );
        }
    }

    #[test]
    fn shares_of_none_and_all_are_exact_and_nothing_stated_does_nothing() {
        let mut rng = SmallRng::seed_from_u64(2);
        for (delayed, aborted) in [(0.0, 100.0), (100.0, 0.0), (100.0, 100.0), (0.0, 0.0)] {
            let stated = fault(delayed, aborted);
            for _ in 0..1_000 {
                let injected = inject(&stated, &mut rng);
                assert_eq!(injected.delay, (delayed > 0.0).then_some(Duration::from_secs(3)));
                assert_eq!(injected.abort.is_some(), aborted > 0.0);
            }
        }
        assert_eq!(inject(&Fault::default(), &mut rng), Injected { delay: None, abort: None });
    }

    #[test]
    fn an_abort_is_told_in_the_form_the_client_expects() {
        let http = AbortWith::Http(StatusCode::SERVICE_UNAVAILABLE);
        let grpc = AbortWith::Grpc(8);
        let told = |with, is_grpc| {
            let answer = aborted(with, is_grpc);
            let outcome = answer.headers.get(GRPC_STATUS).map(|it| it.to_str().unwrap().to_owned());
            (answer.status.as_u16(), outcome, String::from_utf8(answer.body.to_vec()).unwrap())
        };
        assert_eq!(told(&http, false), (503, None, ABORTED.into()));
        assert_eq!(told(&http, true), (200, Some("14".into()), "".into()));
        assert_eq!(told(&grpc, true), (200, Some("8".into()), "".into()));
        assert_eq!(told(&grpc, false), (200, None, ABORTED.into()));
    }
}
