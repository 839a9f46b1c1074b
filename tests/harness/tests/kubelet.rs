//! What the kubelet promises: manifests in, running pods and Pod objects out.

use std::{collections::BTreeMap, fs, path::Path};

use harness::{
    cluster::Cluster,
    kubelet::{Address, Kubelet, NETNS_ANNOTATION},
};
use serde_json::Value;

/// Every object in the directory, by kind and name.
fn objects(directory: &Path) -> BTreeMap<(String, String), Value> {
    let files = fs::read_dir(directory).expect("a directory").flatten().map(|entry| entry.path());
    let texts = files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    let documents = texts.flat_map(|path| {
        let text = fs::read_to_string(path).expect("a readable file");
        serde_saphyr::from_multiple::<Value>(&text).expect("a file that parses")
    });
    let text = |object: &Value, pointer| {
        object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    documents.map(|object| ((text(&object, "/kind"), text(&object, "/metadata/name")), object)).collect()
}

fn of_kind(directory: &Path, kind: &str) -> Vec<Value> {
    objects(directory).into_iter().filter(|((found, _), _)| found == kind).map(|(_, object)| object).collect()
}

fn two_nodes() -> (Cluster, Kubelet) {
    let cluster = Cluster::two_nodes().unwrap();
    let mut kubelet = Kubelet::start(&cluster).unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/two-nodes");
    kubelet.apply_path(&examples).unwrap();
    (cluster, kubelet)
}

#[test]
fn the_example_becomes_pods_whose_objects_say_what_runs() {
    let (cluster, kubelet) = two_nodes();
    assert_eq!(of_kind(kubelet.directory(), "Node").len(), 2);
    assert_eq!(of_kind(kubelet.directory(), "Pod").len(), 5);
    let web = kubelet.replica("shop", "web-v2").unwrap();
    let object = &objects(kubelet.directory())[&("Pod".to_owned(), web.name().to_owned())];
    let at = |pointer: &str| object.pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {object}"));
    assert_eq!(at("/status/podIP"), &web.pod().addresses().v4.to_string());
    assert_eq!(at("/status/podIPs/1/ip"), &web.pod().addresses().v6.to_string());
    assert_eq!(at("/status/phase"), "Running");
    assert_eq!(at("/status/hostIP"), "172.30.0.2");
    assert_eq!(at("/spec/nodeName"), "node-2");
    assert_eq!(at("/spec/serviceAccountName"), "web");
    assert_eq!(at("/spec/containers/0/ports/0/containerPort"), 8080);
    assert_eq!(at("/metadata/labels/version"), "v2");
    assert_eq!(at("/metadata/uid"), web.uid());
    assert_eq!(web.pod().node().name(), cluster.node(1).name());
    let netns = object["metadata"]["annotations"][NETNS_ANNOTATION].as_str().unwrap();
    assert!(Path::new(netns).exists());
    let (status, body) = kubelet
        .replica("outside", "outside")
        .unwrap()
        .pod()
        .namespace()
        .http_get((web.pod().addresses().v4, 8080).into(), "/", std::time::Duration::from_secs(5))
        .unwrap();
    assert_eq!(status, 200);
    assert!(body.contains(web.name()) && body.contains("\"version\":\"v2\""), "{body}");
}

#[test]
fn scaling_and_deleting_make_and_remove_pods_and_their_objects() {
    let (_cluster, mut kubelet) = two_nodes();
    kubelet.scale("shop", "web-v1", 3).unwrap();
    assert_eq!(kubelet.replicas("shop", "web-v1").len(), 3);
    assert_eq!(of_kind(kubelet.directory(), "Pod").len(), 7);
    kubelet.scale("shop", "web-v1", 0).unwrap();
    assert_eq!(of_kind(kubelet.directory(), "Pod").len(), 4);
    kubelet.delete("40-callers.yaml").unwrap();
    assert_eq!(of_kind(kubelet.directory(), "Pod").len(), 1);
    assert_eq!(kubelet.all_replicas().count(), 1);
    assert!(kubelet.scale("shop", "client", 1).is_err());
}

#[test]
fn a_recreated_pod_is_another_one_at_the_same_address_if_asked() {
    let (_cluster, mut kubelet) = two_nodes();
    let old = kubelet.replica("shop", "web-v1").unwrap();
    let (name, uid, addresses) = (old.name().to_owned(), old.uid().to_owned(), old.pod().addresses());
    let namespace = old.pod().namespace().path();
    let new_name = kubelet.recreate("shop", &name, Address::Same).unwrap();
    let new = kubelet.replica("shop", "web-v1").unwrap();
    assert_eq!(new.name(), new_name);
    assert_ne!((new.name(), new.uid()), (name.as_str(), uid.as_str()));
    assert_eq!(new.pod().addresses(), addresses);
    assert!(!namespace.exists());
    assert!(!objects(kubelet.directory()).contains_key(&("Pod".to_owned(), name)));
    kubelet.recreate("shop", &new_name, Address::New).unwrap();
    assert_ne!(kubelet.replica("shop", "web-v1").unwrap().pod().addresses(), addresses);
}

#[test]
fn an_address_can_be_handed_down_to_another_account() {
    let (_cluster, mut kubelet) = two_nodes();
    let addresses = kubelet.replica("shop", "web-v1").unwrap().pod().addresses();
    kubelet.scale("shop", "web-v1", 0).unwrap();
    kubelet.hand_down(addresses, "shop", "intruder");
    kubelet.scale("shop", "intruder", 2).unwrap();
    assert_eq!(kubelet.replicas("shop", "intruder")[1].pod().addresses(), addresses);
}

#[test]
fn a_namespace_is_labelled_in_its_own_file_and_the_rest_of_it_stays() {
    let (_cluster, mut kubelet) = two_nodes();
    let label = "istio.io/dataplane-mode";
    let labels = |kubelet: &Kubelet| {
        let namespaces = of_kind(kubelet.directory(), "Namespace");
        let label = |object: &Value| object["metadata"]["labels"][label].as_str().map(str::to_owned);
        namespaces.iter().map(label).collect::<Vec<_>>()
    };
    assert_eq!(labels(&kubelet), [None, Some("ambient".to_owned())]);
    kubelet.label_namespace("outside", label, Some("ambient")).unwrap();
    kubelet.label_namespace("shop", label, None).unwrap();
    assert_eq!(labels(&kubelet), [Some("ambient".to_owned()), None]);
    assert!(kubelet.label_namespace("nowhere", label, None).is_err());
}

#[test]
fn a_changed_template_replaces_its_pods_and_a_bad_file_changes_nothing() {
    let (_cluster, mut kubelet) = two_nodes();
    let old = kubelet.replica("shop", "web-v1").unwrap().uid().to_owned();
    let text = fs::read_to_string(kubelet.directory().join("30-web.yaml")).unwrap();
    kubelet.apply("30-web.yaml", &text).unwrap();
    assert_eq!(kubelet.replica("shop", "web-v1").unwrap().uid(), old, "the same template keeps its pods");
    kubelet.apply("30-web.yaml", &text.replace("http-echo:v1", "http-echo:v3")).unwrap();
    assert_ne!(kubelet.replica("shop", "web-v1").unwrap().uid(), old);
    let running = kubelet.all_replicas().count();
    for bad in ["kind: [", "kind: Pod\nmetadata: {name: p}\n", &text.replace("ebb.dev/http-echo", "nginx")] {
        assert!(kubelet.apply("30-web.yaml", bad).is_err(), "{bad}");
    }
    assert!(kubelet.apply("pod-mine.yaml", "kind: Service\nmetadata: {name: s}\n").is_err());
    assert_eq!(kubelet.all_replicas().count(), running);
}
