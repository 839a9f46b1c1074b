//! The programs' verdicts on frames that no ordinary socket sends, run by the kernel without a wire.

mod model;
mod rig;

use aya::{
    Ebpf,
    maps::{Array, PerCpuArray},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use ebb_loader::abi::{Hook, LAYOUT_VERSION, PodConfig, Verdict, counter_index, flag, map, program};
use rig::{
    PEER4, PEER6, POD4, POD6,
    frames::{ACK, DESTINATION, FIN, FRAGMENT, Frame, HOP_BY_HOP, PSH, ROUTING, RST, SYN, fragment, padding, segment},
};

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Entry(PodConfig);
// SAFETY: integers without padding.
unsafe impl aya::Pod for Entry {}

/// The programs, attached nowhere, with maps of their own.
struct Bench(Ebpf);

impl Bench {
    fn new() -> Self {
        Self::with_flags(0)
    }

    fn with_flags(flags: u32) -> Self {
        rig::require_root();
        let mut ebpf = Ebpf::load_file(rig::object()).expect("load");
        for name in program::CLASSIFIERS {
            let program: &mut SchedClassifier = ebpf.program_mut(name).expect(name).try_into().expect(name);
            program.load().expect(name);
        }
        let mut config: Array<_, Entry> = ebpf.map_mut(map::CONFIG).expect("config").try_into().expect("config");
        let entry = PodConfig { layout_version: LAYOUT_VERSION, workers: 1, flags, ..PodConfig::default() };
        config.set(0, Entry(entry), 0).expect("configure");
        Self(ebpf)
    }

    fn seen(&self, hook: Hook) -> Vec<u64> {
        let map: PerCpuArray<_, u64> = self.0.map(map::COUNTERS).expect("counters").try_into().expect("counters");
        let count = |verdict: &Verdict| map.get(&counter_index(hook, *verdict), 0).expect("count").iter().sum();
        Verdict::ALL.iter().map(count).collect()
    }

    fn run(&mut self, hook: Hook, frame: &[u8]) -> Verdict {
        let name = match hook {
            Hook::CaptureOutbound => program::CAPTURE_OUTBOUND,
            _ => program::ASSIGN_INBOUND,
        };
        let before = self.seen(hook);
        let program: &mut SchedClassifier = self.0.program_mut(name).expect(name).try_into().expect(name);
        program.test_run(TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() }).expect("run");
        let after = self.seen(hook);
        let changed = Verdict::ALL.iter().zip(before.iter().zip(&after)).filter(|(_, (b, a))| a > b);
        let changed: Vec<_> = changed.map(|(verdict, _)| *verdict).collect();
        assert_eq!(changed.len(), 1, "exactly one verdict per packet: {changed:?}");
        changed[0]
    }
}

fn out4(flags: u8) -> Frame {
    Frame::tcp((POD4, 4000), (PEER4, 80), flags, b"")
}

fn out6(flags: u8) -> Frame {
    Frame::tcp((POD6, 4000), (PEER6, 80), flags, b"")
}

/// One line per way round redirection: what egress and ingress make of it. Where a SYN would be given to a
/// listener the answer is "no listener", because the bench has none.
fn ways_round() -> Vec<(&'static str, Frame, Verdict, Verdict)> {
    use Verdict::*;
    let opens = |name, frame| (name, frame, SteerSyn, DropNoListener);
    let both = |name, frame, verdict| (name, frame, verdict, verdict);
    let tagged = |frame: Frame, tags: &[u16]| frame.with(|f| f.tags = tags.iter().map(|tag| (*tag, 100)).collect());
    let extended = |frame: Frame, kinds: &[u8]| {
        frame.with(|f| f.extensions = kinds.iter().map(|kind| (*kind, padding())).collect())
    };
    let pieces = |frame: Frame, offset: u16, more: bool| frame.with(|f| f.extensions.push((FRAGMENT, fragment(offset, more))));
    vec![
        opens("plain SYN", out4(SYN)),
        opens("plain SYN, IPv6", out6(SYN)),
        opens("SYN with PSH and URG", out4(SYN | PSH | 0x20)),
        opens("SYN that offers ECN", out4(SYN | 0xc0)),
        opens("SYN with data (TCP Fast Open)", Frame::tcp((POD4, 4000), (PEER4, 80), SYN, b"GET / HTTP/1.0")),
        opens("SYN with IPv4 options", out4(SYN).with(|f| f.options = vec![1; 12])),
        opens("SYN with the most IPv4 options", out4(SYN).with(|f| f.options = vec![1; 40])),
        opens("SYN behind hop-by-hop options", extended(out6(SYN), &[HOP_BY_HOP])),
        opens("SYN behind two destination options", extended(out6(SYN), &[HOP_BY_HOP, DESTINATION, DESTINATION])),
        ("SYN in a VLAN", tagged(out4(SYN), &[0x8100]), DropTagged, DropNoListener),
        ("SYN in two VLANs", tagged(out6(SYN), &[0x88a8, 0x8100]), DropTagged, DropNoListener),
        both("SYN in three VLANs", tagged(out4(SYN), &[0x88a8, 0x8100, 0x8100]), DropTooDeep),
        both("SYN behind nine headers", extended(out6(SYN), &[DESTINATION; 9]), DropTooDeep),
        both("SYN and FIN", out4(SYN | FIN), DropOddFlags),
        both("SYN and RST, IPv6", out6(SYN | RST), DropOddFlags),
        both("SYN-ACK and FIN", out4(SYN | ACK | FIN), DropOddFlags),
        both("every flag", out4(0xff), DropOddFlags),
        both("SYN with MF", out4(SYN).with(|f| f.fragment = 0x2000), DropFragment),
        both("SYN with MF, IPv6", pieces(out6(SYN), 0, true), DropFragment),
        both("SYN in an atomic fragment", pieces(out6(SYN), 0, false), DropFragment),
        both("SYN with a routing header", extended(out6(SYN), &[ROUTING]), DropRoutingHeader),
        both("first fragment of eight bytes", Frame::new(POD4, PEER4, segment(4000, 80, SYN, b"")[..8].to_vec()).with(|f| f.fragment = 0x2000), DropFragment),
        both("first fragment of eight bytes, IPv6", pieces(Frame::new(POD6, PEER6, segment(4000, 80, SYN, b"")[..8].to_vec()), 0, true), DropFragment),
        both("fragment over the flags", Frame::new(POD4, PEER4, vec![0; 64]).with(|f| f.fragment = 1), DropFragment),
        both("fragment over the flags, IPv6", pieces(Frame::new(POD6, PEER6, vec![0; 64]), 8, false), DropFragment),
        both("fragment over TCP options", Frame::new(POD4, PEER4, vec![0; 64]).with(|f| f.fragment = 7), DropFragment),
        both("later fragment", Frame::new(POD4, PEER4, vec![0; 64]).with(|f| f.fragment = 185), PassFragment),
        both("later fragment, IPv6", pieces(Frame::new(POD6, PEER6, vec![0; 64]), 1232, false), PassFragment),
        both("TCP header cut short", Frame::new(POD4, PEER4, vec![0x10; 12]), DropMalformed),
        both("TCP header that claims sixteen bytes", out4(SYN).with(|f| f.payload[12] = 0x40), DropMalformed),
        both("UDP", out4(SYN).with(|f| f.protocol = 17), PassNotTcp),
        both("UDP, IPv6", out6(SYN).with(|f| f.protocol = 17), PassNotTcp),
        both("ICMP", out4(SYN).with(|f| f.protocol = 1), PassNotTcp),
        both("later fragment of UDP, IPv6", pieces(Frame::new(POD6, PEER6, vec![0; 64]).with(|f| f.protocol = 17), 1232, false), PassNotTcp),
        ("segment of an old connection", out4(ACK), PassOld, PassSegment),
        ("SYN-ACK of an old connection", out6(SYN | ACK), PassOld, PassSegment),
        ("RST", out4(RST), PassOld, PassSegment),
        ("first fragment of an old segment", out4(ACK).with(|f| f.fragment = 0x2000), PassOld, PassSegment),
    ]
}

#[test]
fn every_way_round_is_steered_assigned_or_dropped() {
    let mut bench = Bench::new();
    for (name, frame, egress, ingress) in ways_round() {
        assert_eq!(bench.run(Hook::CaptureOutbound, &frame.bytes()), egress, "egress: {name}");
        assert_eq!(bench.run(Hook::AssignInbound, &frame.bytes()), ingress, "ingress: {name}");
    }
}

#[test]
fn headers_that_contradict_themselves_are_dropped() {
    let mut bench = Bench::new();
    let (v4, v6) = (out4(SYN).bytes(), out6(SYN).bytes());
    let changed = |frame: &[u8], at: usize, to: u8| {
        let mut frame = frame.to_vec();
        frame[at] = to;
        frame
    };
    let cases = [
        ("IPv4 that says version 6", changed(&v4, 14, 0x65)),
        ("IPv4 header of sixteen bytes", changed(&v4, 14, 0x44)),
        ("IPv4 total length within its header", changed(&v4, 17, 19)),
        ("IPv4 total length within TCP's", changed(&v4, 17, 39)),
        ("IPv6 that says version 4", changed(&v6, 14, 0x40)),
        ("IPv6 payload within TCP's header", changed(&v6, 19, 19)),
        ("frame that ends in TCP's header", v4[..40].to_vec()),
        // With a tag, because the kernel's test run refuses to make a packet of less than its IP header.
        ("frame that ends in the IPv6 header", out6(SYN).with(|f| f.tags = vec![(0x8100, 7)]).bytes()[..40].to_vec()),
        ("extension header that runs off the frame", {
            out6(SYN).with(|f| f.extensions = vec![(DESTINATION, vec![200, 1, 4, 0, 0, 0, 0])]).bytes()
        }),
    ];
    for (name, frame) in cases {
        for hook in [Hook::CaptureOutbound, Hook::AssignInbound] {
            assert_eq!(bench.run(hook, &frame), Verdict::DropMalformed, "{name} at {}", hook.name());
        }
    }
}

#[test]
fn flags_decide_what_becomes_of_new_and_old_connections() {
    use Verdict::*;
    let hbone = Frame::tcp((PEER4, 4000), (POD4, 15008), SYN, b"");
    let cases = [
        (flag::BYPASS_INBOUND, SteerSyn, PassBypass, DropNoListener, PassOld, PassSegment),
        (flag::CUT_OLD, SteerSyn, DropNoListener, DropNoListener, DropOld, PassSegment),
        (flag::CUT_OLD | flag::BYPASS_INBOUND, SteerSyn, PassBypass, DropNoListener, PassOld, PassSegment),
        (flag::RELEASE, PassReleased, PassReleased, PassReleased, PassOld, PassSegment),
    ];
    for (flags, out, inbound, tunnel, old_out, old_in) in cases {
        let mut bench = Bench::with_flags(flags);
        assert_eq!(bench.run(Hook::CaptureOutbound, &out4(SYN).bytes()), out, "SYN out, flags {flags}");
        assert_eq!(bench.run(Hook::AssignInbound, &out4(SYN).bytes()), inbound, "SYN in, flags {flags}");
        assert_eq!(bench.run(Hook::AssignInbound, &hbone.bytes()), tunnel, "tunnel in, flags {flags}");
        assert_eq!(bench.run(Hook::CaptureOutbound, &out4(ACK).bytes()), old_out, "segment out, flags {flags}");
        assert_eq!(bench.run(Hook::AssignInbound, &out4(ACK).bytes()), old_in, "segment in, flags {flags}");
    }
}

#[test]
fn without_a_configuration_of_this_layout_no_tcp_passes() {
    let mut bench = Bench::new();
    let mut config: Array<_, Entry> = bench.0.map_mut(map::CONFIG).unwrap().try_into().unwrap();
    config.set(0, Entry(PodConfig { layout_version: LAYOUT_VERSION + 1, workers: 1, ..PodConfig::default() }), 0).unwrap();
    for hook in [Hook::CaptureOutbound, Hook::AssignInbound] {
        assert_eq!(bench.run(hook, &out4(SYN).bytes()), Verdict::DropNoConfig);
        assert_eq!(bench.run(hook, &out4(SYN).with(|f| f.protocol = 17).bytes()), Verdict::PassNotTcp);
    }
}

#[test]
fn the_kernel_and_the_model_agree_on_mutilated_packets() {
    const PACKETS: u32 = 20_000;
    let mut bench = Bench::new();
    let seeds: Vec<Vec<u8>> = ways_round().into_iter().map(|(_, frame, _, _)| frame.bytes()).collect();
    let mut random = model::Random(0x5eed);
    for number in 0..PACKETS {
        let frame = model::mutilated(&seeds, &mut random);
        for hook in [Hook::CaptureOutbound, Hook::AssignInbound] {
            let (kernel, model) = (bench.run(hook, &frame), model::verdict(hook, &frame));
            assert_eq!(kernel, model, "packet {number} at {}: {frame:02x?}", hook.name());
        }
    }
}
