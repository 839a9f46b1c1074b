//! What reading a file anew means for what it stated before. Pure.
//!
//! The surprising thing: while any document of a file is turned away, nothing that the file stated before is removed.
//! A file that is being written, or was broken by hand, looks like one from which something was taken out.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::decode::Decoded;
use crate::config::may_mean::MayMean;
use crate::config::{Batch, Key, Kind, Origin, Rejected, Removal, Stated, Subject};

/// Adds to a batch what `decoded` changes, and returns what the file states from now on.
pub(super) fn restate(file: &Arc<str>, before: &[Key], decoded: Decoded, batch: &mut Batch) -> Box<[Key]> {
    batch.reread.push(file.clone());
    let (stated, mut rejected) = first_of_each(decoded);
    let mut keys: Vec<Key> = stated.keys().cloned().collect();
    let gone: Vec<&Key> = before.iter().filter(|key| !stated.contains_key(key)).collect();
    batch.upserts.extend(stated.into_values());
    if rejected.iter().all(|it| it.reason.starts_with(TWICE)) {
        batch.removals.extend(gone.into_iter().map(|key| Removal { file: file.clone(), key: key.clone() }));
    } else {
        vouch(&mut rejected, &gone);
        keys.extend(gone.into_iter().cloned());
    }
    batch.rejected.extend(rejected);
    keys.into()
}

/// Adds to a batch that a file is gone, with all it stated.
pub(super) fn forget(file: &Arc<str>, before: &[Key], batch: &mut Batch) {
    batch.reread.push(file.clone());
    batch.removals.extend(before.iter().map(|key| Removal { file: file.clone(), key: key.clone() }));
}

/// Adds to a batch that a file could not be read: what it stated stays.
pub(super) fn keep(before: &[Key], mut rejected: Rejected, batch: &mut Batch) {
    batch.reread.push(rejected.origin.file.clone());
    rejected.last_good = !before.is_empty();
    for (promise, kind) in promises(&mut rejected) {
        if before.iter().any(|key| key.kind == kind) {
            *promise = MayMean::Nothing;
        }
    }
    batch.rejected.push(rejected);
}

/// A file that stated something and is now empty was most likely caught while it was written.
pub(super) fn emptied(file: &Arc<str>) -> Rejected {
    Rejected {
        origin: Origin { file: file.clone(), line: 0 },
        subject: Subject::default(),
        field: "".into(),
        reason: "empty; delete the file to remove what it stated".into(),
        guards_access: true,
        may_secure: MayMean::Nothing,
        may_ask: MayMean::Nothing,
        last_good: true,
    }
}

const TWICE: &str = "stated before in this file";

/// Of several documents for one object the first is in force.
fn first_of_each(decoded: Decoded) -> (BTreeMap<Key, Stated>, Vec<Rejected>) {
    let mut stated: BTreeMap<Key, Stated> = BTreeMap::new();
    let mut rejected = decoded.rejected;
    for it in decoded.stated {
        let key = it.resource.key();
        if let Some(first) = stated.get(&key) {
            rejected.push(Rejected {
                origin: it.origin,
                subject: Subject {
                    kind: Some(key.kind),
                    namespace: Some(key.object.namespace),
                    name: Some(key.object.name),
                },
                field: "".into(),
                reason: format!("{TWICE}, on line {}; that one is in force", first.origin.line).into(),
                guards_access: false,
                may_secure: MayMean::Nothing,
                may_ask: MayMean::Nothing,
                last_good: false,
            });
        } else {
            stated.insert(key, it);
        }
    }
    (stated, rejected)
}

/// Finds out which rejected documents have an earlier version in force: those named, and of the nameless as many as
/// there are policies of this file left over. What they may promise is kept by an earlier version of that kind and no other.
fn vouch(rejected: &mut [Rejected], gone: &[&Key]) {
    let guards = |kind: Kind| kind.guards_access();
    let mut spare: Vec<&Key> = gone.iter().copied().filter(|key| guards(key.kind)).collect();
    for it in rejected.iter_mut() {
        if let Some(key) = it.subject.key() {
            it.last_good = gone.contains(&&key);
            spare.retain(|other| **other != key);
        }
    }
    for it in rejected.iter_mut().filter(|it| it.guards_access && it.subject.key().is_none()) {
        it.last_good = spare.pop().is_some();
    }
    for kind in [Kind::BackendTls, Kind::HttpRoute] {
        let named: Vec<Key> = rejected.iter().filter_map(|it| it.subject.key()).collect();
        let mut spare = gone.iter().filter(|key| key.kind == kind && !named.contains(**key)).count();
        for it in rejected.iter_mut().filter(|it| it.subject.key().is_none()) {
            for (promise, _) in promises(it).into_iter().filter(|(_, of)| *of == kind) {
                if *promise != MayMean::Nothing && spare > 0 {
                    spare -= 1;
                    *promise = MayMean::Nothing;
                }
            }
        }
    }
}

/// What a rejected document may promise, each with the kind of which an earlier version keeps the promise.
fn promises(rejected: &mut Rejected) -> [(&mut MayMean, Kind); 2] {
    [(&mut rejected.may_secure, Kind::BackendTls), (&mut rejected.may_ask, Kind::HttpRoute)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::decode::yaml;
    use crate::config::names::Names;

    fn policy(name: &str) -> String {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}\n  namespace: shop\nspec: {{}}\n"
        )
    }

    fn read(before: &[Key], text: &str) -> (Batch, Box<[Key]>) {
        let file: Arc<str> = "a.yaml".into();
        let mut batch = Batch::default();
        let decoded = yaml::decode(&file, text.as_bytes(), &mut Names::default());
        let keys = restate(&file, before, decoded, &mut batch);
        (batch, keys)
    }

    #[test]
    fn what_a_good_file_no_longer_states_is_removed() {
        let (_, before) = read(&[], &(policy("a") + &policy("b")));
        let (batch, after) = read(&before, &policy("b"));
        assert_eq!(batch.removals.len(), 1);
        assert_eq!((before.len(), after.len()), (2, 1));
    }

    #[test]
    fn a_file_with_a_bad_document_removes_nothing() {
        let (_, before) = read(&[], &(policy("a") + &policy("b")));
        let (batch, after) = read(&before, &(policy("a") + "---\napiVersion: v1\nkind: [\n"));
        assert!(batch.removals.is_empty());
        assert_eq!(after.len(), 2);
    }

    #[test]
    fn a_nameless_rejection_is_vouched_for_by_one_policy_left_over_and_no_more() {
        let broken = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: [\n";
        let (_, before) = read(&[], &(policy("a") + &policy("b")));
        let (batch, _) = read(&before, &(policy("a") + broken));
        assert_eq!(batch.rejected.iter().map(|it| it.last_good).collect::<Vec<_>>(), [true]);
        let (batch, _) = read(&before, &(policy("a") + broken + broken));
        assert_eq!(batch.rejected.iter().map(|it| it.last_good).collect::<Vec<_>>(), [true, false]);
        let (batch, _) = read(&[], broken);
        assert_eq!(batch.rejected.iter().map(|it| it.last_good).collect::<Vec<_>>(), [false]);
    }

    const TLS: &str = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: a, namespace: shop}\n\
                       spec:\n  targetRefs: [{group: '', kind: Service, name: web}]\n  validation: {hostname: web.x, \
                       wellKnownCACertificates: System}\n";

    #[test]
    fn what_a_nameless_document_promises_is_kept_by_an_earlier_version_of_its_kind_alone() {
        let promise = |before: &str, text: &str| {
            let (first, before) = read(&[], before);
            assert!(first.rejected.is_empty(), "{:?}", first.rejected);
            let (batch, _) = read(&before, text);
            batch.rejected.iter().map(|it| it.may_secure.may_mean("web")).collect::<Vec<_>>()
        };
        let broken = TLS.replace("name: a,", "name: [,");
        assert_eq!(promise(TLS, &broken), [false]);
        assert_eq!(promise(TLS, &(broken.clone() + &broken)), [false, true]);
        assert_eq!(promise(&policy("a"), &broken), [true], "another kind keeps no such promise");
    }

    #[test]
    fn an_unread_file_promises_what_no_earlier_version_of_its_kind_keeps() {
        let kept = |before: &str| {
            let (_, before) = read(&[], before);
            let mut batch = Batch::default();
            keep(&before, yaml::unread(&"a.yaml".into(), TLS.as_bytes(), "too large"), &mut batch);
            (batch.rejected[0].last_good, batch.rejected[0].may_secure.may_mean("web"))
        };
        assert_eq!([kept(TLS), kept(&policy("a")), kept("")], [(true, false), (true, true), (false, true)]);
    }

    #[test]
    fn a_policy_glued_to_a_service_by_a_forgotten_mark_is_not_taken_for_the_service() {
        let service = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\nspec: {}\n";
        let (_, before) = read(&[], service);
        let (batch, _) = read(&before, &(service.to_owned() + TLS.trim_start_matches("---\n")));
        let [rejected] = &batch.rejected[..] else { panic!("{:?}", batch.rejected) };
        assert!(rejected.may_secure.may_mean("web") && rejected.subject.key().is_none(), "{rejected:?}");
        let guarding = policy("a");
        let (batch, _) = read(&before, &(service.to_owned() + guarding.trim_start_matches("---\n")));
        assert!(batch.rejected[0].guards_access && !batch.rejected[0].last_good, "{:?}", batch.rejected);
    }

    #[test]
    fn a_virtual_service_that_breaks_keeps_its_last_good_version() {
        let good = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: shop}\nspec: \
                    {hosts: [web], http: [{route: [{destination: {host: web}}]}]}\n";
        let (first, before) = read(&[], good);
        assert_eq!((first.upserts.len(), before.len()), (1, 1));
        let (batch, after) = read(&before, &good.replace("route:", "rout:"));
        assert_eq!((batch.upserts.len(), batch.removals.len()), (0, 0));
        assert!(batch.rejected[0].last_good && !batch.rejected[0].guards_access, "{}", batch.rejected[0]);
        assert_eq!(after, before);
    }

    #[test]
    fn a_mesh_config_with_a_bad_provider_keeps_its_last_good_version() {
        let good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    \
                    extensionProviders:\n    - {name: a, envoyExtAuthzGrpc: {service: a.b, port: 80}}\n";
        let (first, before) = read(&[], good);
        assert_eq!((first.upserts.len(), before.len()), (1, 1), "{:?}", first.rejected);
        let (batch, after) = read(&before, &good.replace("port: 80", "port: 0"));
        assert_eq!((batch.upserts.len(), batch.removals.len()), (0, 0));
        assert!(batch.rejected[0].last_good && !batch.rejected[0].guards_access, "{}", batch.rejected[0]);
        assert_eq!((after, batch.rejected[0].origin.line), (before, 7));
    }

    #[test]
    fn of_two_documents_for_one_object_the_first_is_in_force_and_the_other_reported() {
        let second = policy("a").replace("spec: {}", "spec: {action: DENY}");
        let (batch, keys) = read(&[], &(policy("a") + &second));
        assert_eq!((batch.upserts.len(), batch.rejected.len(), keys.len()), (1, 1, 1));
        assert!(batch.rejected[0].reason.contains("line 2"), "{}", batch.rejected[0]);
    }
}
