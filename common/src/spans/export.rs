//! From the queue to the collector: spans, and lines of logs, of all workers, in batches, off the path of any request.
//!
//! A collector that is slow or missing costs spans and nothing else: what does not fit into the queue, and what could not be
//! delivered in time, is counted and forgotten.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::reach::Dial;
use super::send::{Link, Request};
use super::{Entry, MAX_STATED_TAG_BYTES, MAX_TAG_BYTES, Me, Span, otlp, zipkin};
use crate::config::mesh::{Provider, ProviderKind};
use crate::telemetry::exposition::{Family, Kind, Sample, Value};

/// Spans, or lines, of one provider that wait to be sent.
pub const MAX_QUEUED_SPANS: usize = 8192;
/// Spans, or lines, in one export.
pub const MAX_BATCH_SPANS: usize = 512;
/// How long the first span of a batch waits for others.
pub const BATCH_WINDOW: Duration = Duration::from_secs(1);
/// Time for one export, where the provider states none.
pub const EXPORT_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two log lines about a collector that fails.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// Providers that are told at once.
pub const MAX_EXPORTERS: usize = 32;

/// What became of spans.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    overflowed: AtomicU64,
    failed: AtomicU64,
}

/// What waits to be sent: of one provider always the same.
#[derive(Debug)]
enum Told {
    Span(Span),
    Entry(Entry),
}

/// Takes the spans, or the lines of a log, for one provider.
#[derive(Debug)]
pub struct Exporter {
    provider: Arc<Provider>,
    queue: mpsc::Sender<Told>,
    counts: Arc<Counts>,
}

impl Exporter {
    /// Starts sending to `provider` on `runtime`, until it is dropped.
    pub fn start(provider: Arc<Provider>, me: Arc<Me>, dial: Arc<dyn Dial>, runtime: &Handle) -> Arc<Self> {
        let (queue, spans) = mpsc::channel(MAX_QUEUED_SPANS);
        let counts = Arc::new(Counts::default());
        let link = Link::new(dial, me.program);
        let delivery = Delivery { provider: provider.clone(), me, link, counts: counts.clone() };
        runtime.spawn(delivery.run(spans));
        Arc::new(Self { provider, queue, counts })
    }

    /// Takes a span, or counts it as lost; never waits.
    pub fn push(&self, span: Span) {
        self.take(Told::Span(span));
    }

    /// Takes a line of a log, or counts it as lost; never waits.
    pub fn log(&self, entry: Entry) {
        self.take(Told::Entry(entry));
    }

    fn take(&self, told: Told) {
        if self.queue.try_send(told).is_err() {
            self.counts.overflowed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Longest value of a tag that the provider wants.
    pub fn max_tag(&self) -> usize {
        let stated = match &self.provider.kind {
            ProviderKind::Zipkin(it) => it.max_tag_length,
            ProviderKind::OpenTelemetry(it) => it.max_tag_length,
            _ => None,
        };
        stated.map_or(MAX_TAG_BYTES, |most| (most as usize).min(MAX_STATED_TAG_BYTES))
    }

    /// Spans that were sent, that found no place, and that could not be delivered.
    pub fn counted(&self) -> [u64; 3] {
        let Counts { sent, overflowed, failed } = &*self.counts;
        [sent, overflowed, failed].map(|it| it.load(Ordering::Relaxed))
    }
}

struct Delivery {
    provider: Arc<Provider>,
    me: Arc<Me>,
    link: Link,
    counts: Arc<Counts>,
}

impl Delivery {
    async fn run(mut self, mut spans: mpsc::Receiver<Told>) {
        let mut complained: Option<Instant> = None;
        while let Some(first) = spans.recv().await {
            let batch = gather(first, &mut spans).await;
            let count = batch.len() as u64;
            let Some((request, deadline)) = self.request(batch) else { return };
            let sent = timeout(deadline, self.link.send(request)).await;
            let failed = match sent {
                Ok(Ok(())) => {
                    self.counts.sent.fetch_add(count, Ordering::Relaxed);
                    continue;
                }
                Ok(Err(why)) => why,
                Err(_) => {
                    self.link.close();
                    format!("no answer within {deadline:?}")
                }
            };
            self.counts.failed.fetch_add(count, Ordering::Relaxed);
            if complained.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
                complained = Some(Instant::now());
                tracing::warn!(provider = %self.provider.name, %failed, count, "{} are lost", self.what());
            }
        }
    }

    fn what(&self) -> &'static str {
        if matches!(self.provider.kind, ProviderKind::OtelLog(_)) { "log entries" } else { "spans" }
    }

    /// What is sent, and how long that may take.
    fn request(&self, batch: Vec<Told>) -> Option<(Request, Duration)> {
        let (mut spans, mut entries) = (Vec::new(), Vec::new());
        for told in batch {
            match told {
                Told::Span(span) => spans.push(span),
                Told::Entry(entry) => entries.push(entry),
            }
        }
        Some(match &self.provider.kind {
            ProviderKind::Zipkin(it) => {
                let body = zipkin::encode(&self.me, spans, it.short_trace_ids);
                (Request::json(&it.service, it.path.clone(), body), EXPORT_DEADLINE)
            }
            ProviderKind::OpenTelemetry(it) => {
                let body = otlp::encode(&self.me, spans);
                match &it.http {
                    Some(http) => {
                        let request = Request::protobuf(&it.service, http.path.clone(), &http.headers, body);
                        (request, http.timeout.unwrap_or(EXPORT_DEADLINE))
                    }
                    None => {
                        let request =
                            Request::grpc(&it.service, otlp::EXPORT.into(), &it.grpc.metadata, &body);
                        (request, it.grpc.timeout.unwrap_or(EXPORT_DEADLINE))
                    }
                }
            }
            ProviderKind::OtelLog(it) => {
                let body = otlp::logs::encode(&self.me, &it.log_name, entries);
                (Request::grpc(&it.service, otlp::logs::EXPORT.into(), &[], &body), EXPORT_DEADLINE)
            }
            _ => return None,
        })
    }
}

/// What came first, and what comes soon.
async fn gather(first: Told, spans: &mut mpsc::Receiver<Told>) -> Vec<Told> {
    let mut batch = vec![first];
    let until = Instant::now() + BATCH_WINDOW;
    while batch.len() < MAX_BATCH_SPANS {
        let room = MAX_BATCH_SPANS - batch.len();
        let more = spans.recv_many(&mut batch, room);
        // What is over the end of the window comes next; a queue that ended ends the batch.
        match tokio::time::timeout_at(until, more).await {
            Ok(taken) if taken > 0 => {}
            _ => break,
        }
    }
    batch
}

/// Counts of one provider: those of the exporter that there is, and the sum of those before.
type Kept = Vec<Arc<Counts>>;

/// What a provider takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Takes {
    /// Spans.
    Spans,
    /// Lines of access logs.
    Logs,
}

/// The exporters that somebody uses, by provider.
pub struct Exporters {
    me: Arc<Me>,
    dial: Arc<dyn Dial>,
    runtime: Handle,
    known: Mutex<BTreeMap<Arc<str>, Weak<Exporter>>>,
    /// Counts outlive their exporter, so that no counter ever falls.
    counts: Mutex<BTreeMap<(Takes, Arc<str>), Kept>>,
}

impl fmt::Debug for Exporters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporters").finish_non_exhaustive()
    }
}

impl Exporters {
    /// None yet. Those that come send from `runtime`, to where `dial` leads.
    pub fn new(me: Arc<Me>, dial: Arc<dyn Dial>, runtime: Handle) -> Self {
        Self { me, dial, runtime, known: Mutex::default(), counts: Mutex::default() }
    }

    /// Who tells.
    pub fn me(&self) -> &Arc<Me> {
        &self.me
    }

    /// The exporter for a provider: the one there is while the provider is stated as it was.
    ///
    /// # Errors
    /// In words, when it does not take what is wanted, or when there are [`MAX_EXPORTERS`].
    pub fn get(&self, provider: &Arc<Provider>, wanted: Takes) -> Result<Arc<Exporter>, String> {
        match (&provider.kind, wanted) {
            (ProviderKind::Zipkin(_) | ProviderKind::OpenTelemetry(_), Takes::Spans)
            | (ProviderKind::OtelLog(_), Takes::Logs) => {}
            (other, wanted) => {
                let (name, field) = (&provider.name, other.field());
                let what = if wanted == Takes::Spans { "spans" } else { "logs" };
                return Err(format!("{name} is a provider of {field}, which takes no {what}"));
            }
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, it| it.strong_count() > 0);
        let same = |it: &Arc<Exporter>| *it.provider == **provider;
        if let Some(exporter) = known.get(&provider.name).and_then(Weak::upgrade).filter(same) {
            return Ok(exporter);
        }
        if known.len() >= MAX_EXPORTERS && !known.contains_key(&provider.name) {
            return Err(format!("more than {MAX_EXPORTERS} providers that are sent to"));
        }
        let exporter = Exporter::start(provider.clone(), self.me.clone(), self.dial.clone(), &self.runtime);
        known.insert(provider.name.clone(), Arc::downgrade(&exporter));
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (wanted, provider.name.clone());
        if counts.len() < 2 * MAX_EXPORTERS || counts.contains_key(&key) {
            fold(counts.entry(key).or_default(), &exporter.counts);
        }
        Ok(exporter)
    }

    /// What became of spans and of lines, for a scrape.
    pub fn families(&self) -> Vec<Family> {
        [
            (
                Takes::Spans,
                "ebb_spans_total",
                "Spans that were sent to a provider, or lost: for want of a place in the queue, or of an answer.",
            ),
            (
                Takes::Logs,
                "ebb_log_entries_total",
                "Lines of access logs that were sent to a provider, or lost, as spans are.",
            ),
        ]
        .into_iter()
        .filter_map(|(what, name, help)| {
            let samples = self.samples(what);
            (!samples.is_empty()).then_some(Family { name, help, kind: Kind::Counter, samples })
        })
        .collect()
    }

    fn samples(&self, what: Takes) -> Vec<Sample> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut samples = Vec::new();
        for ((_, provider), all) in counts.iter().filter(|((of, _), _)| *of == what) {
            let sum = |of: fn(&Counts) -> &AtomicU64| {
                all.iter().map(|it| of(it).load(Ordering::Relaxed)).sum::<u64>()
            };
            for (outcome, count) in [
                ("sent", sum(|it| &it.sent)),
                ("queue_full", sum(|it| &it.overflowed)),
                ("failed", sum(|it| &it.failed)),
            ] {
                let labels = vec![("provider", provider.to_string().into()), ("outcome", outcome.into())];
                samples.push(Sample { labels, value: Value::Count(count) });
            }
        }
        samples
    }
}

/// Keeps the counts of what is over as one, beside those of the exporter that came.
fn fold(all: &mut Vec<Arc<Counts>>, now: &Arc<Counts>) {
    let (over, mut live): (Vec<_>, Vec<_>) = all.drain(..).partition(|it| Arc::strong_count(it) == 1);
    let sum = Counts::default();
    for counts in over {
        for (to, from) in
            [(&sum.sent, &counts.sent), (&sum.overflowed, &counts.overflowed), (&sum.failed, &counts.failed)]
        {
            to.fetch_add(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
    live.push(Arc::new(sum));
    live.push(now.clone());
    *all = live;
}
