//! The parts of the report that are the same whatever was measured: how it was done, and how to do it again.

/// How it was done, in half a page.
pub(super) const METHOD: &str = "\
## Method

Nodes and pods are network namespaces of one machine, joined by veth pairs; nothing but the mesh differs between systems. \
Each system has a cluster of its own. All systems of a comparison are up at once and idle but for the one that is measured, \
and samples go round them (A B C, A B C). On a shared machine the speed of everything moves up to twofold while a run \
lasts, so ratios are taken within a round, whose samples saw the same machine, and their median is quoted, never a ratio \
of medians. A sample during which the hypervisor took more than 20 % of the CPU time is taken once more; of two such \
samples the calmer one counts. A sample that fails twice leaves a hole.

CPU time is that of a cgroup for each process, read around the whole life of the load generator, threads that ended \
included. It is the figure that counts: throughput on a small machine also contains the generator and the server, and \
understates a light proxy's lead. veth delivers in the sender's context and so bills some of the receiver's kernel work to \
the sender; the total over all roles is given beside it.

Closed loop: each connection asks again as soon as it is answered, so that many connections show a saturated machine. Fixed \
rate: requests are due at even distances, and each is timed from when it was due, so that a stall is charged to every \
request it held up; a system that does not reach 95 % of the rate has no latency there. New connections are warm: the \
client has talked to the server before. The first connection between two identities is measured apart, by clients that \
each have an identity nobody has seen. Memory is told as RSS, as a container's limit counts it, and as PSS, in which pages \
that several proxies share are shared out. The TLS cipher is read from the handshakes on the wire.

Where Ebb misses a target, the limits of the machine stand beside it: relays that pass connections on and do nothing else \
(one thread, no redirection, policy, log or metric), measured in the same rounds. `bare-tcp` is what the kernel takes alone; \
`bare-tls` adds the cipher and the copies of the TLS library that Ebb uses too. They are neither judged nor a yardstick. They \
are limits for one stream at a time. A tunnel that connections share may do better where there are many: it is opened once, \
where a relay connects, and `bare-tls` shakes hands, for each new one; and what several of them say can leave together. Where \
one process is enough (one node, out of the mesh), `bare-tcp` is one relay instead of two; where requests are routed, both are \
three in a row, as Ebb's proxies are, and look at no request.

What this does not show: a real network, whose latency hides part of what a proxy adds; more than one machine; many CPUs. \
Systems run with their defaults but for what the table above says; Envoy is given static configuration, without a control \
plane and without the filters and metrics that Istio adds to it, which all cost it CPU and memory here saved. Ebb writes \
its access log, Envoy, nginx and haproxy write none.

";

/// How to do it again.
pub(super) const REPRODUCE: &str = "\
## Again, and with other systems

```
cargo xtask bench                                   # everything, about 80 minutes (root)
cargo xtask bench --quick --rounds 1                # shows that it works, in about ten minutes
cargo xtask bench --layer l4 --scenario http-16,connect --rounds 8
cargo xtask bench --systems direct,envoy-1,ebb --before DIR
cargo xtask bench --list                            # comparisons, scenarios, systems
cargo xtask bench --from results.json               # this report again, without measuring
```

Another system is a file of some twenty lines in [systems](systems): what to install, what to start in which pod, how \
traffic gets there. [README.md](README.md) says what may stand in it.
";
