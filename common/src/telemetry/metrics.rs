//! Everything a scrape of this process shows: one place that puts the sources of metrics together.
//!
//! Components count with the macros and handles of the `metrics` crate; who talked to whom is counted by [`TcpMetrics`];
//! what only exists at the moment of asking (the process, counters of the kernel programs) comes from collectors.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::exposition::{Family, Format, Kind, Sample, Value, append_rendered};
use super::process;
use super::requests::RequestMetrics;
use super::sink::LogSink;
use super::tcp::TcpMetrics;

/// How often histograms are folded between scrapes, so that they stay small when nobody scrapes.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Reads metrics at the moment of a scrape.
pub type Collector = Box<dyn Fn() -> Vec<Family> + Send + Sync>;

/// Why metrics cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be started: {0}")]
pub struct InstallError(String);

/// The metrics of this process.
pub struct Metrics {
    tcp: Arc<TcpMetrics>,
    requests: Arc<RequestMetrics>,
    recorded: PrometheusHandle,
    collectors: Vec<Collector>,
}

impl Metrics {
    /// Installs the recorder behind the `metrics` macros, once in a process. `component` is the name in `istio_build`
    /// (`ztunnel`), `tag` its version.
    ///
    /// # Errors
    /// When a recorder is installed already.
    pub fn install(component: &'static str, tag: &'static str) -> Result<Self, InstallError> {
        let (metrics, recorder) = Self::build(component, tag);
        ::metrics::set_global_recorder(recorder).map_err(|e| InstallError(e.to_string()))?;
        Ok(metrics)
    }

    /// Builds what [`Metrics::install`] installs.
    pub fn build(component: &'static str, tag: &'static str) -> (Self, PrometheusRecorder) {
        let recorder = PrometheusBuilder::new().build_recorder();
        let mut metrics = Self {
            tcp: Arc::default(),
            requests: Arc::default(),
            recorded: recorder.handle(),
            collectors: Vec::new(),
        };
        metrics.collect(Box::new(process::families));
        metrics.collect(Box::new(move || {
            let labels = vec![("component", component.into()), ("tag", tag.into())];
            let samples = vec![Sample { labels, value: Value::Count(1) }];
            vec![Family { name: "istio_build", help: "What is running.", kind: Kind::Gauge, samples }]
        }));
        (metrics, recorder)
    }

    /// Who talked to whom.
    pub fn tcp(&self) -> Arc<TcpMetrics> {
        self.tcp.clone()
    }

    /// Who asked whom, and how it went.
    pub fn requests(&self) -> Arc<RequestMetrics> {
        self.requests.clone()
    }

    /// Keeps the series of what is idle for so long; zero is for ever.
    pub fn expire_after(&self, expiry: Duration) {
        let expiry = Some(expiry).filter(|it| !it.is_zero());
        self.tcp.expire_after(expiry);
        self.requests.expire_after(expiry);
    }

    /// Adds a collector, asked at each scrape. No two may return the same metric.
    pub fn collect(&mut self, collector: Collector) {
        self.collectors.push(collector);
    }

    /// Shows how many log lines were dropped.
    pub fn collect_log(&mut self, sink: LogSink) {
        self.collect(Box::new(move || {
            let help = "Log lines dropped because standard output was not read fast enough.";
            let value = Value::Count(sink.dropped());
            vec![Family::single("ebb_log_lines_dropped_total", help, Kind::Counter, value)]
        }));
    }

    /// Shows what the kernel programs did: `read` returns hook, verdict and how often.
    pub fn collect_redirect<F>(&mut self, read: F)
    where
        F: Fn() -> Vec<(&'static str, &'static str, u64)> + Send + Sync + 'static,
    {
        self.collect(Box::new(move || {
            let sample = |(hook, verdict, count): (&'static str, &'static str, u64)| Sample {
                labels: vec![("hook", hook.into()), ("verdict", verdict.into())],
                value: Value::Count(count),
            };
            vec![Family {
                name: "ebb_redirect_total",
                help: "Decisions of the kernel programs.",
                kind: Kind::Counter,
                samples: read().into_iter().map(sample).collect(),
            }]
        }));
    }

    /// Answers a scrape, chunk by chunk.
    pub fn scrape(&self, format: Format) -> impl Iterator<Item = Bytes> + Send + use<> {
        let mut head = String::new();
        for family in self.collectors.iter().flat_map(|collect| collect()) {
            family.write(format, &mut head);
        }
        append_rendered(&self.recorded.render(), format, &mut head);
        let tail = Bytes::from_static(format.end().as_bytes());
        std::iter::once(Bytes::from(head))
            .chain(self.tcp.scrape(format))
            .chain(self.requests.scrape(format))
            .chain((!tail.is_empty()).then_some(tail))
    }

    /// Folds histograms every [`UPKEEP_INTERVAL`]; to be spawned on the control runtime, never ends.
    pub fn upkeep(&self) -> impl Future<Output = ()> + Send + use<> {
        let recorded = self.recorded.clone();
        async move {
            let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                recorded.run_upkeep();
            }
        }
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
