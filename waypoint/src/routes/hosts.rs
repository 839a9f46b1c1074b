//! Names as VirtualServices write them: which service a host is, and how closely a pattern names it.

use std::borrow::Cow;
use std::net::IpAddr;

use common::config::ObjectName;
use common::snapshot::name_below;

/// How closely a host of a VirtualService names a service, or a hostname of a route a server; the greater wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Closeness {
    /// `*.x`, by the length of what follows the star.
    Wildcard(usize),
    /// The very name.
    Exact,
}

/// A name without dots is that of a service in the namespace of who wrote it, never of who calls.
pub(crate) fn full_name<'h>(host: &'h str, namespace: &str, cluster_domain: &str) -> Cow<'h, str> {
    if host.contains(['.', '*']) || host.parse::<IpAddr>().is_ok() {
        return Cow::Borrowed(host);
    }
    Cow::Owned(format!("{host}.{namespace}.svc.{cluster_domain}"))
}

/// What a full name leads to, whether it is there or not: a service of Kubernetes, or one of any ServiceEntry of that
/// name, which is of no namespace here.
pub(super) fn led_to(name: &str, cluster_domain: &str) -> ObjectName {
    name_below(name, cluster_domain).unwrap_or_else(|| ObjectName::new("", name))
}

/// The same for a service that is there.
pub(super) fn led_to_by(service: &ObjectName) -> ObjectName {
    if service.name.contains('.') { ObjectName::new("", service.name.clone()) } else { service.clone() }
}

/// What a pattern asks of the end of a name: `.x` for `*.x`.
pub(super) fn wildcard(host: &str) -> Option<&str> {
    host.strip_prefix('*')
}

/// How closely a name or pattern names whatever it does name.
pub(super) fn closeness_of(pattern: &str) -> Closeness {
    wildcard(pattern).map_or(Closeness::Exact, |end| Closeness::Wildcard(end.len()))
}

/// How closely a full name or pattern names a service, if it does.
pub(super) fn closeness(pattern: &str, name: &str) -> Option<Closeness> {
    match wildcard(pattern) {
        Some(end) => name.ends_with(end).then_some(Closeness::Wildcard(end.len())),
        None => (pattern == name).then_some(Closeness::Exact),
    }
}

/// Every end that a wildcard for this name may ask for, longest first.
pub(super) fn ends(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').map(|(at, _)| &name[at..]).chain([""])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_of_the_writers_namespace_and_all_others_as_written() {
        for (host, full) in [
            ("reviews", "reviews.shop.svc.cluster.local"),
            ("reviews.other", "reviews.other"),
            ("*.com", "*.com"),
            ("*", "*"),
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
        ] {
            assert_eq!(full_name(host, "shop", "cluster.local"), full);
        }
    }

    #[test]
    fn only_full_names_below_the_cluster_domain_are_services() {
        let service = |name| name_below(name, "cluster.local").map(|it| it.to_string());
        assert_eq!(service("reviews.shop.svc.cluster.local").as_deref(), Some("shop/reviews"));
        for name in [
            "reviews.shop",
            "reviews.shop.svc",
            "reviews.svc.cluster.local",
            "a.b.c.svc.cluster.local",
            ".shop.svc.cluster.local",
            "reviews.shop.svc.cluster.locale",
            "reviews.shop.svc-cluster.local",
            "example.com",
        ] {
            assert_eq!(service(name), None, "{name}");
        }
    }

    #[test]
    fn the_very_name_is_closer_than_any_pattern_and_a_longer_pattern_than_a_shorter() {
        let name = "reviews.shop.svc.cluster.local";
        let close = |pattern| closeness(pattern, name);
        assert!(close(name) > close("*.shop.svc.cluster.local"));
        assert!(close("*.shop.svc.cluster.local") > close("*.local"));
        assert!(close("*.local") > close("*"));
        assert_eq!(close("*.other.svc.cluster.local"), None);
        assert_eq!(closeness("*.shop", "shop"), None);
        let ends: Vec<&str> = ends("a.b.c").collect();
        assert_eq!(ends, [".b.c", ".c", ""]);
    }
}
