//! Copies of a request that nobody waits for.
//!
//! A copy goes out after the request's own headers, path and authority were changed; its answer is thrown away.

use std::borrow::Cow;

use rand::Rng;

use super::draw::falls_in;
use super::redirect::split_port;
use crate::routes::{Forward, Route, Target};

/// Where copies of one request go, those of the destination it goes to among them: every mirror is drawn for by itself.
pub fn fires<'r>(route: &'r Route, chosen: Option<&Forward<'r>>, rng: &mut impl Rng) -> Vec<&'r Target> {
    let of_chosen = chosen.into_iter().flat_map(Forward::mirrors);
    let all = route.mirrors().chain(of_chosen);
    all.filter(|(share, _)| falls_in(*share, rng)).map(|(_, target)| target).collect()
}

/// The authority of a copy: `-shadow` after the name, so that whoever reads the log of the service can tell. An IPv6
/// address stays as it is.
pub fn shadow_authority(authority: &str) -> Cow<'_, str> {
    if authority.is_empty() || authority.starts_with('[') {
        return Cow::Borrowed(authority);
    }
    let (host, port) = split_port(authority);
    Cow::Owned(match port {
        Some(port) => format!("{host}-shadow:{port}"),
        None => format!("{host}-shadow"),
    })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::routes::tests::rule;

    #[test]
    fn the_authority_of_a_copy_says_so() {
        for (sent, expected) in [
            ("reviews", "reviews-shadow"),
            ("reviews.shop:9080", "reviews.shop-shadow:9080"),
            ("10.0.0.1:80", "10.0.0.1-shadow:80"),
            ("[::1]:80", "[::1]:80"),
            ("", ""),
        ] {
            assert_eq!(shadow_authority(sent), expected);
        }
    }

    #[test]
    fn mirrors_without_a_percentage_always_fire_and_those_of_zero_never() {
        let rule = rule(
            "route: [{destination: {host: reviews}}]\n\
             mirror: {host: one}\n\
             mirrors: [{destination: {host: two}, percentage: {value: 0}}, {destination: {host: three}, percentage: {value: 50}}]",
        );
        let mut rng = SmallRng::seed_from_u64(5);
        let mut third = 0;
        for _ in 0..10_000 {
            let hosts: Vec<_> =
                fires(&rule.route, None, &mut rng).iter().map(|it| it.host.to_string()).collect();
            assert_eq!(hosts[0], "one.shop.svc.cluster.local");
            third += match &hosts[1..] {
                [] => 0,
                [only] if only == "three.shop.svc.cluster.local" => 1,
                others => panic!("{others:?}"),
            };
        }
        assert!((4_750..5_250).contains(&third), "half of them: {third}");
    }
}
