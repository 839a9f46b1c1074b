//! What the capture promises: it sees what is readable on the wire, and only claims what it can know.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::Result;
use harness::{
    binaries,
    cluster::{Cluster, Pod},
    process::{Process, Spawn},
    wire::{Capture, Transport},
};

const SOON: Duration = Duration::from_secs(10);

fn serve(pod: &Pod) -> Result<Process> {
    let app = pod.spawn(Spawn::new(pod.name(), binaries::find("ebb-app")?).args(["http"]))?;
    app.wait_for_log("ready:", SOON)?;
    Ok(app)
}

fn ask(from: &Pod, to: &Pod, path: &str) {
    for address in to.addresses().both() {
        let answer = from.namespace().http_get(SocketAddr::new(address, 8080), path, SOON);
        let (status, _) = answer.expect("an answer");
        assert_eq!(status, 200);
    }
}

#[test]
fn plaintext_between_nodes_is_seen_and_within_a_node_is_not() {
    let cluster = Cluster::two_nodes().unwrap();
    let server = cluster.node(0).add_pod("server").unwrap();
    let near = cluster.node(0).add_pod("near").unwrap();
    let far = cluster.node(1).add_pod("far").unwrap();
    let _app = serve(&server).unwrap();
    let mut capture = Capture::start(&cluster).unwrap();
    ask(&near, &server, "/marker-near");
    ask(&far, &server, "/marker-far");
    assert_eq!(capture.find("marker-near").unwrap(), None);
    let sighting = capture.find("marker-far").unwrap().expect("plaintext can be read");
    assert_eq!(sighting.flow.unwrap().1, SocketAddr::new(server.addresses().v4.into(), 8080), "{sighting}");
    let counts = capture.counts().unwrap();
    assert!(counts[&(Transport::Tcp, 8080)] >= 8, "{counts:?}");
    assert_eq!(capture.tcp_packets_to(15008).unwrap(), 0);
    assert_eq!(capture.tls_records(8080).unwrap().application_data, 0);
    capture.forget().unwrap();
    assert!(!capture.contains("marker-far").unwrap(), "what was forgotten is not found again");
}

/// More than the head of an HTTP answer takes.
const HEAD_BYTES: u64 = 1000;

#[test]
fn a_bulk_transfer_is_captured_whole_and_no_packet_at_both_ends() {
    for nodes in [2, 3] {
        let cluster = Cluster::start(nodes).unwrap();
        let server = cluster.node(0).add_pod("server").unwrap();
        let far = cluster.node(1).add_pod("far").unwrap();
        let _app = serve(&server).unwrap();
        let capture = Capture::start(&cluster).unwrap();
        let length = 30_000_000_u64;
        let to = SocketAddr::new(server.addresses().v4.into(), 8080);
        let (_, body) = far.namespace().http_get(to, &format!("/bytes/{length}"), SOON).unwrap();
        assert_eq!(body.len() as u64, length);
        let (mut first, mut ranges, mut sent) = (None, Vec::new(), 0);
        capture
            .each(|packet| {
                if packet.source == to && !packet.payload.is_empty() {
                    let at = packet.sequence.wrapping_sub(*first.get_or_insert(packet.sequence));
                    ranges.push((u64::from(at), u64::from(at) + packet.payload.len() as u64));
                    sent += packet.payload.len() as u64;
                }
            })
            .unwrap();
        ranges.sort_unstable();
        let whole = ranges.iter().try_fold(0, |end, (from, to)| (*from <= end).then_some(end.max(*to)));
        let whole = whole.unwrap_or_else(|| panic!("{nodes} nodes: a hole in what was captured"));
        assert!((length..length + HEAD_BYTES).contains(&whole), "{nodes} nodes: {whole} of {length} bytes");
        // What TCP itself repeats on a busy machine is on the wire as well; a packet captured at both ends of its way
        // would double the whole.
        assert!(sent < whole * 2, "{nodes} nodes: {sent} bytes in packets for {whole}");
    }
}

#[test]
fn tls_records_are_told_by_their_first_bytes() {
    let cluster = Cluster::two_nodes().unwrap();
    let server = cluster.node(0).add_pod("server").unwrap();
    let far = cluster.node(1).add_pod("far").unwrap();
    let to = SocketAddr::new(server.addresses().v4.into(), 15008);
    let listener = server.namespace().within(|| Ok(TcpListener::bind(to)?)).unwrap();
    let capture = Capture::start(&cluster).unwrap();
    let mut stream = far.namespace().connect(to, SOON).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    stream.write_all(&[0x16, 3, 1, 0, 1, 0]).unwrap();
    let mut hello = [0; 6];
    accepted.read_exact(&mut hello).unwrap();
    accepted.write_all(&[0x17, 3, 3, 0, 1, 0]).unwrap();
    stream.read_exact(&mut hello).unwrap();
    let records = capture.tls_records(15008).unwrap();
    assert_eq!((records.handshake, records.application_data), (1, 1));
}

#[test]
fn a_cut_wire_is_an_error_and_not_an_empty_answer() {
    let cluster = Cluster::two_nodes().unwrap();
    let capture = Capture::start(&cluster).unwrap();
    cluster.node(0).namespace().ip(&["link set wire0 down".into()]).unwrap();
    assert!(capture.contains("anything").is_err());
}

#[test]
fn a_capture_that_lost_packets_says_so_instead_of_answering() {
    let cluster = Cluster::two_nodes().unwrap();
    let capture = Capture::start_with_buffer(&cluster, 8192).unwrap();
    let to = SocketAddr::from((cluster.node(1).addresses().v4, 7));
    let listener = cluster.node(1).namespace().within(|| Ok(TcpListener::bind(to)?)).unwrap();
    let mut stream = cluster.node(0).namespace().connect(to, SOON).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    let sender = std::thread::spawn(move || stream.write_all(&vec![7; 4_000_000]));
    accepted.read_exact(&mut vec![0; 4_000_000]).unwrap();
    sender.join().unwrap().unwrap();
    let error = capture.contains("anything").unwrap_err().to_string();
    // The packet that marks the end of what to look at may be among those that were lost.
    assert!(error.contains("lost") || error.contains("barrier packet was not seen"), "{error}");
}
