//! One trace, span by span: what a waypoint tells a collector of a call along the whole chain, with a delay in it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{interrupt::wait_for, report::TracedSpan};

use super::{
    calls::{Load, Question},
    market::{FRONTEND, Lab, Market, RATINGS, example},
};
use crate::{
    screen::{Claim, Facts, Row},
    stage::Stage,
};

const LAB: Lab = Lab { name: "trace", file: example!("lab-trace.yaml"), of: RATINGS };

/// How long a request to the last service waits, as the file has it.
const WAIT: Duration = Duration::from_millis(300);

/// The services of the chain, first to last.
const CHAIN: [&str; 3] = ["frontend", "customers", "ratings"];

/// The span that the caller says it is.
const CALLER: &str = "b7ad6b7169203331";

/// Where the collector says what it has.
const COLLECTOR: u16 = 4318;

/// How long spans may be on their way: they wait for others for a second.
const SPANS: Duration = Duration::from_secs(15);

/// How long the collector may take to say what it has.
const ANSWER: Duration = Duration::from_secs(5);

struct Traced {
    trace: String,
    spans: Vec<TracedSpan>,
}

/// Calls once, as somebody who is traced already.
pub(super) fn play(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let mut id = [0_u8; 8];
    getrandom(&mut id)?;
    let trace = format!("0af7651916cd43dd{}", id.map(|byte| format!("{byte:02x}")).concat());
    let spans = Market::open(stage)?.under(&LAB, |market| {
        let calls = market.call(FRONTEND, Load::in_turn(1), |_| {
            Question::path("/").with("traceparent", format!("00-{trace}-{CALLER}-01"))
        })?;
        ensure!(calls.iter().all(|call| call.status() == 200), "the chain answers {calls:?}");
        wait_for("spans of the whole chain", SPANS, || {
            let spans = spans(market, &trace)?;
            Ok((spans.len() >= 2 * CHAIN.len()).then_some(spans))
        })
    })?;
    Ok(Box::new(Traced { trace, spans }))
}

/// What the collector has of a trace.
fn spans(market: &Market<'_>, trace: &str) -> Result<Vec<TracedSpan>> {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, COLLECTOR));
    let inside = market.pod("collector-v1")?.namespace();
    let (status, body) = inside.http_get(to, &format!("/spans/{trace}"), ANSWER)?;
    ensure!(status == 200, "the collector answers {status}");
    serde_json::from_str(&body).context("spans of the collector")
}

fn getrandom(id: &mut [u8]) -> Result<()> {
    use std::io::Read;
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(id)).context("draw an id")
}

impl Traced {
    /// From the outermost inwards: each span behind the one it is within, and how deep it is.
    fn ordered(&self) -> Vec<(usize, &TracedSpan)> {
        let mut ordered = Vec::new();
        let mut parent = CALLER;
        while let Some(span) = self.spans.iter().find(|it| it.parent == parent) {
            if ordered.len() >= self.spans.len() {
                break;
            }
            ordered.push((ordered.len(), span));
            parent = &span.id;
        }
        ordered
    }

    fn delayed(&self) -> Vec<&TracedSpan> {
        let is_delayed = |it: &&TracedSpan| it.tags.get("response_flags").is_some_and(|it| it == "DI");
        self.spans.iter().filter(|it| it.kind == "SERVER").filter(is_delayed).collect()
    }
}

impl Facts for Traced {
    fn rows(&self) -> Vec<Row> {
        let mut rows = vec![Row::fact("trace", self.trace.clone())];
        for (depth, span) in self.ordered() {
            let flags = span.tags.get("response_flags").map_or("-", String::as_str);
            let took = span.took_us as f64 / 1000.0;
            let label = format!("{}{}", "  ".repeat(depth), span.kind.to_lowercase());
            rows.push(Row::fact(label, format!("{took:>7.1} ms  {flags:<2}  {}", span.name)));
        }
        rows
    }

    fn claims(&self) -> Vec<Claim> {
        let ordered = self.ordered();
        let named = ordered.iter().enumerate().all(|(at, (_, span))| {
            let (service, kind) = (CHAIN.get(at / 2), if at % 2 == 0 { "SERVER" } else { "CLIENT" });
            span.kind == kind && service.is_some_and(|it| span.name.contains(&format!("{it}.market.svc")))
        });
        let delayed = self.delayed();
        let wait = u64::try_from(WAIT.as_micros()).unwrap_or(u64::MAX);
        let nested = ordered.windows(2).all(|pair| pair[0].1.took_us >= pair[1].1.took_us);
        vec![
            Claim::new("one trace from end to end: a span in and a span out for each service", {
                named && ordered.len() == 2 * CHAIN.len() && self.spans.len() == ordered.len()
            }),
            Claim::new("each span lasts no longer than the one around it", !ordered.is_empty() && nested),
            Claim::new("the delay shows where it was injected, with DI, and nowhere else", {
                matches!(&delayed[..], [one] if one.name.starts_with("ratings.") && one.took_us >= wait)
            }),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labs::failing;

    fn traced() -> Traced {
        let mut spans = Vec::new();
        let mut parent = CALLER.to_owned();
        for (at, service) in CHAIN.iter().enumerate() {
            for (kind, rest) in [("SERVER", ":80/*"), ("CLIENT", " egress")] {
                let id = format!("{at}{kind}");
                let flags = if *service == "ratings" && kind == "SERVER" { "DI" } else { "-" };
                let took_us = 320_000 - 1_000 * spans.len() as u64;
                spans.push(TracedSpan {
                    id: id.clone(),
                    parent: std::mem::replace(&mut parent, id),
                    name: format!("{service}.market.svc.cluster.local{rest}"),
                    kind: kind.into(),
                    took_us: if at == 2 && kind == "CLIENT" { 2_000 } else { took_us },
                    tags: [("response_flags".to_owned(), flags.to_owned())].into(),
                    ..TracedSpan::default()
                });
            }
        }
        Traced { trace: "0".into(), spans }
    }

    #[test]
    fn a_trace_that_breaks_off_or_hides_the_delay_fails() {
        assert!(failing(&traced()).is_empty());
        let mut facts = traced();
        facts.spans.remove(2);
        assert_eq!(failing(&facts), [0]);
        let mut facts = traced();
        facts.spans[4].tags.clear();
        assert_eq!(failing(&facts), [2]);
        facts = traced();
        facts.spans[0].tags.insert("response_flags".into(), "DI".into());
        assert_eq!(failing(&facts), [2]);
        facts = traced();
        facts.spans[5].took_us = 400_000;
        assert_eq!(failing(&facts), [1]);
        facts = traced();
        facts.spans[4].took_us = 200_000;
        assert_eq!(failing(&facts), [2]);
    }
}
