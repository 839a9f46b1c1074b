use crate::balance::budget::{InUse, Limits, Overflow, Resource, RetryBudget};

const ALL: [Resource; 4] = [Resource::Connection, Resource::Pending, Resource::Request, Resource::Retry];

#[test]
fn what_is_not_limited_is_admitted() {
    let busy = InUse { connections: 1 << 30, pending: 1 << 30, requests: 1 << 30, retries: 1 << 30 };
    for resource in ALL {
        assert_eq!(Limits::default().admit(resource, &busy), Ok(()));
    }
}

#[test]
fn each_limit_counts_its_own_resource_only() {
    let limits = Limits { connections: 1, pending: 2, requests: 3, retries: 4, retry_budget: None };
    let full = InUse { connections: 1, pending: 2, requests: 3, retries: 4 };
    let freed = [
        InUse { connections: 0, ..full },
        InUse { pending: 1, ..full },
        InUse { requests: 2, ..full },
        InUse { retries: 3, ..full },
    ];
    for ((resource, limit), one_less) in ALL.into_iter().zip(1..).zip(freed) {
        assert_eq!(limits.admit(resource, &full), Err(Overflow { resource, limit }));
        assert_eq!(limits.admit(resource, &one_less), Ok(()));
        for other in ALL.into_iter().filter(|it| *it != resource) {
            assert!(limits.admit(other, &one_less).is_err());
        }
    }
    assert!(Limits { requests: 0, ..limits }.admit(Resource::Request, &InUse::default()).is_err());
}

#[test]
fn a_retry_budget_follows_the_requests_under_way_and_beats_the_limit() {
    let limits = Limits { retries: 0, retry_budget: Some(RetryBudget::default()), ..Limits::default() };
    for (requests, pending, allowed) in
        [(0, 0, 3), (10, 0, 3), (19, 0, 3), (20, 0, 4), (10, 10, 4), (99, 0, 19), (1000, 500, 300)]
    {
        let with = |retries| InUse { requests, pending, retries, connections: 0 };
        assert_eq!(limits.admit(Resource::Retry, &with(allowed - 1)), Ok(()), "{requests}+{pending}");
        let overflow = Overflow { resource: Resource::Retry, limit: u64::from(allowed) };
        assert_eq!(limits.admit(Resource::Retry, &with(allowed)), Err(overflow), "{requests}+{pending}");
    }
}

#[test]
fn a_budget_without_sense_leaves_its_minimum() {
    for percent in [f64::NAN, -5.0, 0.0] {
        let retry_budget = Some(RetryBudget { percent, min_concurrency: 1 });
        let limits = Limits { retry_budget, ..Limits::default() };
        let busy = InUse { requests: 1000, retries: 1, ..InUse::default() };
        assert!(limits.admit(Resource::Retry, &busy).is_err(), "{percent}");
        assert!(limits.admit(Resource::Retry, &InUse { retries: 0, ..busy }).is_ok(), "{percent}");
    }
}
