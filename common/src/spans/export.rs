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
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

pub use super::queue::{BATCH_WINDOW, MAX_BATCH_BYTES, MAX_BATCH_SPANS, MAX_QUEUED_BYTES, MAX_QUEUED_SPANS};
use super::queue::{Counts, Entrance, Queue, Told, queue};
use super::reach::Dial;
use super::send::{Link, Request};
use super::{Entry, MAX_STATED_TAG_BYTES, MAX_TAG_BYTES, Me, Span, otlp, zipkin};
use crate::config::mesh::{Provider, ProviderKind};
use crate::telemetry::exposition::{Family, Kind, Sample, Value};

/// Time for one export, where the provider states none.
pub const EXPORT_DEADLINE: Duration = Duration::from_secs(10);
/// Time for what waits when nobody wants the provider any more.
pub const LAST_EXPORTS_DEADLINE: Duration = Duration::from_secs(10);
/// Time for what waits when the process ends.
pub const FLUSH_DEADLINE: Duration = Duration::from_secs(2);
/// Time between two log lines about a collector that fails.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// Providers that are told at once.
pub const MAX_EXPORTERS: usize = 32;

/// Takes the spans, or the lines of a log, for one provider.
#[derive(Debug)]
pub struct Exporter {
    provider: Arc<Provider>,
    queue: Entrance,
    counts: Arc<Counts>,
    /// Tells whoever sends that nothing comes any more.
    _gone: oneshot::Sender<()>,
}

impl Exporter {
    /// Starts sending to `provider` on `runtime`, until it is dropped: then what waits has [`LAST_EXPORTS_DEADLINE`].
    pub fn start(provider: Arc<Provider>, me: Arc<Me>, dial: Arc<dyn Dial>, runtime: &Handle) -> Arc<Self> {
        let counts = Arc::new(Counts::default());
        let (entrance, waiting) = queue(&counts);
        let (_gone, gone) = oneshot::channel();
        let link = Link::new(dial, me.program);
        let delivery = Delivery { provider: provider.clone(), me, link, counts: counts.clone() };
        runtime.spawn(delivery.run(waiting, gone));
        Arc::new(Self { provider, queue: entrance, counts, _gone })
    }

    /// Takes a span, or counts it as lost; never waits.
    pub fn push(&self, span: Span) {
        self.queue.put(Told::Span(span));
    }

    /// Takes a line of a log, or counts it as lost; never waits. What is too long in it is cut.
    pub fn log(&self, mut entry: Entry) {
        entry.cut();
        self.queue.put(Told::Entry(entry));
    }

    /// Name of the provider.
    pub fn provider(&self) -> &str {
        &self.provider.name
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
        let Counts { sent, overflowed, failed, .. } = &*self.counts;
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
    /// Sends until nobody wants the provider any more, and what waits then has been sent or had its time.
    async fn run(mut self, mut queue: Queue, gone: oneshot::Receiver<()>) {
        let counts = self.counts.clone();
        let over = async {
            // Nothing is ever sent there: it is an error when the other end is dropped, which is what is waited for.
            gone.await.ok();
            sleep(LAST_EXPORTS_DEADLINE).await;
        };
        tokio::select! {
            () = self.deliver(&mut queue) => {}
            () = over => {}
        }
        counts.abandon();
    }

    async fn deliver(&mut self, queue: &mut Queue) {
        let mut complained: Option<Instant> = None;
        while let Some(batch) = queue.batch().await {
            let count = batch.len() as u64;
            let Some((request, deadline)) = self.request(batch) else { return };
            let (lost, failed) = match timeout(deadline, self.link.send(request)).await {
                Ok(Ok(answer)) => match otlp::rejected(&answer).filter(|_| self.is_otlp()) {
                    Some((rejected, why)) => {
                        (rejected.min(count), format!("refused by the collector: {why}"))
                    }
                    None => {
                        self.counts.settle(count, 0);
                        continue;
                    }
                },
                Ok(Err(why)) => (count, why),
                Err(_) => {
                    self.link.close();
                    (count, format!("no answer within {deadline:?}"))
                }
            };
            self.counts.settle(count - lost, lost);
            if complained.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
                complained = Some(Instant::now());
                tracing::warn!(provider = %self.provider.name, %failed, count = lost, "{} are lost", self.what());
            }
        }
    }

    fn is_otlp(&self) -> bool {
        !matches!(self.provider.kind, ProviderKind::Zipkin(_))
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

    /// Waits until what has been told is sent, for [`FLUSH_DEADLINE`] at most; the rest is counted as lost. For the end
    /// of the process.
    pub async fn flush(&self) {
        let until = Instant::now() + FLUSH_DEADLINE;
        let mut lost = 0;
        for counts in self.all_counts() {
            if timeout_at(until, counts.emptied()).await.is_err() {
                lost += counts.abandon();
            }
        }
        if lost > 0 {
            tracing::warn!(lost, "spans or log entries were not sent before the end");
        }
    }

    fn all_counts(&self) -> Vec<Arc<Counts>> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.values().flatten().cloned().collect()
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
