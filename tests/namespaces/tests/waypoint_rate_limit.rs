//! How many requests get through a waypoint under a RateLimit: from real pods, counted against what is stated.

use std::{
    io::{Read, Write},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use ebb_tests::{
    behind::{Behind, Port},
    mesh::{SETTLED, eventually},
};
use harness::report::GrpcReport;

const SOON: Duration = Duration::from_secs(10);

/// An answer, read to the end of its connection.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

/// A request by a pod, through its ztunnel and the waypoint.
fn ask(stage: &Behind, pod: &str, headers: &str) -> Result<Reply> {
    let mut stream = stage.pod(pod)?.namespace().connect(Behind::at(Port::Http), SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET /asked HTTP/1.1\r\nHost: server.shop\r\nConnection: close\r\n{headers}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

fn limit(spec: &str) -> String {
    format!(
        "apiVersion: gateway.ebb.dev/v1alpha1\nkind: RateLimit\nmetadata: {{name: fair, namespace: shop}}\nspec:\n  \
         targetRefs: [{{kind: Service, name: server}}]\n  {spec}\n"
    )
}

/// Waits until answers tell a limit of so many.
fn settled(stage: &Behind, limit: u32, headers: &str) -> Result<()> {
    let told = format!("x-ratelimit-limit: {limit}");
    eventually(&told, SETTLED, || Ok(ask(stage, "neighbour", headers)?.head.contains(&told)))
}

#[test]
fn no_more_get_through_than_are_stated_and_others_are_told_when_to_come() -> Result<()> {
    let mut stage = Behind::build()?;
    let _server = stage.serve(&["http", "--name", "server"])?;
    assert!(!ask(&stage, "client", "")?.head.contains("x-ratelimit"));

    // Four at once and two a second, of each caller.
    stage.mesh.apply(
        "50-limit.yaml",
        &limit("limits: [{name: each, requests: 2, per: 1s, burst: 4, by: [{type: SourcePrincipal}]}]"),
    )?;
    settled(&stage, 4, "")?;
    let began = Instant::now();
    let (mut admitted, mut refused) = (0_u32, Vec::new());
    while began.elapsed() < Duration::from_secs(3) {
        let reply = ask(&stage, "client", "")?;
        match reply.status {
            200 => admitted += 1,
            _ => refused.push(reply),
        }
        sleep(Duration::from_millis(20));
    }
    let most = 4.0 + 2.0 * began.elapsed().as_secs_f64();
    assert!(f64::from(admitted) <= most, "{admitted} admitted, of {most} at most");
    assert!((9..=11).contains(&admitted), "{admitted}: 4 at once and 2 a second for 3 seconds");
    for reply in &refused {
        assert_eq!((reply.status, &*reply.body), (429, "local_rate_limited"), "{reply:?}");
        for told in
            ["retry-after: 1", "x-ratelimit-limit: 4", "x-ratelimit-remaining: 0", "x-ratelimit-reset: 2"]
        {
            assert!(reply.head.contains(told), "{told}: {}", reply.head);
        }
    }
    assert!(refused.len() > 20, "{}", refused.len());
    stage.logged(&["GET /asked", "429 RL local_rate_limited"])?;
    // Somebody else has a count of their own.
    let other = ask(&stage, "neighbour", "")?;
    assert_eq!(other.status, 200, "{other:?}");
    stage.mesh.finish()
}

#[test]
fn tenants_are_told_apart_by_a_header_a_dry_run_only_tells_and_grpc_is_answered_in_its_own_way() -> Result<()>
{
    let mut stage = Behind::build()?;
    let _servers = [stage.serve(&["http", "--name", "server"])?, stage.serve(&["grpc", "--port", "8081"])?];
    let of_tenants = "limits: [{requests: 3, per: 1h, by: [{type: Header, name: x-tenant}]}]";
    stage.mesh.apply("50-limit.yaml", &limit(of_tenants))?;
    settled(&stage, 3, "X-Tenant: none\r\n")?;
    for tenant in ["a", "b"] {
        let header = format!("X-Tenant: {tenant}\r\n");
        let told: Vec<u16> =
            (0..5).map(|_| Ok(ask(&stage, "client", &header)?.status)).collect::<Result<_>>()?;
        assert_eq!(told, [200, 200, 200, 429, 429], "{tenant}");
    }

    stage.mesh.apply("50-limit.yaml", &limit(&format!("{of_tenants}\n  dryRun: true")))?;
    eventually("a dry run", SETTLED, || Ok(ask(&stage, "client", "X-Tenant: a\r\n")?.status == 200))?;
    stage.logged(&["dry-run: would be limited", "shop/fair[0]"])?;

    stage.mesh.apply("50-limit.yaml", &limit("limits: [{requests: 1, per: 1h}]\n  responseHeaders: Omit"))?;
    eventually("a limit", SETTLED, || Ok(ask(&stage, "client", "")?.status == 429))?;
    assert!(!ask(&stage, "client", "")?.head.contains("x-ratelimit"));
    let at = Behind::at(Port::Grpc).to_string();
    let told: GrpcReport = stage.report(&["grpc-call", &at, "unary"])?;
    // RESOURCE_EXHAUSTED
    assert_eq!((told.code, &*told.message), (8, "local_rate_limited"), "{told:?}");
    stage.mesh.finish()
}
