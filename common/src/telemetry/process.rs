//! What the kernel says of this process: Prometheus' `process_*` metrics, read from /proc at each scrape.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;

use super::exposition::{Family, Kind, Value};

/// Reads the metrics; what cannot be read is left out.
pub fn families() -> Vec<Family> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let gauge = |name, help, value: Option<u64>| {
        value.map(|value| Family::single(name, help, Kind::Gauge, Value::Count(value)))
    };
    [
        cpu().map(|spent| {
            let value = Value::Measure(spent.as_secs_f64());
            Family::single("process_cpu_seconds_total", "User and system time spent.", Kind::Counter, value)
        }),
        gauge("process_open_fds", "Open file descriptors.", open_fds()),
        gauge("process_max_fds", "Most file descriptors that may be open.", max_fds()),
        gauge("process_resident_memory_bytes", "Resident memory.", kilobytes(&status, "VmRSS:")),
        gauge("process_virtual_memory_bytes", "Virtual memory.", kilobytes(&status, "VmSize:")),
        gauge("process_threads", "Threads.", field(&status, "Threads:")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn cpu() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    Some(duration(usage.user_time()) + duration(usage.system_time()))
}

fn duration(time: TimeVal) -> Duration {
    let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

fn open_fds() -> Option<u64> {
    // The directory being read is open itself while it is read.
    Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

fn max_fds() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
}

/// A field of /proc/self/status such as `VmRSS:   1234 kB`.
fn kilobytes(status: &str, key: &str) -> Option<u64> {
    field(status, key).map(|kilobytes| kilobytes * 1024)
}

fn field(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> f64 {
        let family = families().into_iter().find(|family| family.name == name);
        match family.unwrap_or_else(|| panic!("{name} is missing")).samples[0].value {
            Value::Count(count) => count as f64,
            Value::Measure(measure) => measure,
        }
    }

    #[test]
    fn the_process_is_measured() {
        assert!(value("process_resident_memory_bytes") > 1e5);
        assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
    }

    #[test]
    fn an_open_file_is_counted() {
        // Other tests open files meanwhile, so many are opened here.
        let before = value("process_open_fds");
        let held: Vec<_> = (0..200).map(|_| fs::File::open("/proc/self/status").unwrap()).collect();
        assert!(value("process_open_fds") >= before + 100.0);
        drop(held);
    }
}
