use std::io;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::*;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `act` logs under `filter`; every line without its time.
fn logged(filter: &str, format: LogFormat, act: impl FnOnce(&LogControl)) -> String {
    let out = Captured::default();
    let (logging, subscriber) = build(filter, format, Box::new(out.clone())).unwrap();
    tracing::subscriber::with_default(subscriber, || act(&logging.control));
    assert!(logging.sink.flush(Duration::from_secs(10)));
    String::from_utf8(out.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn an_event_is_written_with_its_fields_and_without_the_crate_name() {
    let text = logged("info", LogFormat::Plain, |_| {
        info!(pods = 3, name = "web", ready = true, who = %"a b", "roster changed");
    });
    let (_time, rest) = text.split_once('\t').unwrap();
    assert_eq!(
        rest,
        "info\ttelemetry::logging::tests\troster changed\tpods=3 name=\"web\" ready=true who=\"a b\"\n"
    );
}

#[test]
fn a_json_line_is_one_object_with_ztunnels_keys() {
    let text = logged("info", LogFormat::Json, |_| warn!(target: "pods", n = -1, "line\nbreak"));
    let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
    assert_eq!(line["level"], "warn");
    assert_eq!(line["scope"], "pods");
    assert_eq!(line["message"], "line\nbreak");
    assert_eq!(line["n"], -1);
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn levels_change_at_run_time_and_reset_to_the_start() {
    let text = logged("info", LogFormat::Plain, |control| {
        debug!(target: "a", "one");
        control.set("a:debug", false).unwrap();
        debug!(target: "a", "two");
        debug!(target: "b", "three");
        control.set("warn", false).unwrap();
        info!(target: "b", "four");
        debug!(target: "a", "five");
        assert!(control.current().contains("a=debug"), "{}", control.current());
        control.set("", true).unwrap();
        debug!(target: "a", "six");
        info!(target: "b", "seven");
        assert_eq!(control.current(), "info");
    });
    let messages: Vec<_> = text.lines().map(|line| line.split('\t').nth(3).unwrap()).collect();
    assert_eq!(messages, ["two", "five", "seven"]);
}

#[test]
fn a_misspelled_level_changes_nothing() {
    logged("info", LogFormat::Plain, |control| {
        for levels in ["loud", "a:loud", ":debug", "a b:info", "a[x]:info", "a=debug", "debug,a:loud"] {
            assert!(control.set(levels, false).is_err(), "{levels:?} was accepted");
        }
        assert_eq!(control.current(), "info");
    });
}

#[test]
fn overrides_are_bounded_and_repeating_one_does_not_grow_them() {
    logged("info", LogFormat::Plain, |control| {
        for _ in 0..1000 {
            control.set("ztunnel::outbound:debug,warning", false).unwrap();
        }
        assert!(control.current().len() < 100, "{}", control.current());
        let many: Vec<_> = (0..=MAX_LEVEL_OVERRIDES).map(|n| format!("t{n}:debug")).collect();
        assert!(matches!(control.set(&many.join(","), true), Err(LevelError::TooMany)));
    });
}

#[test]
fn a_filter_that_is_none_is_named() {
    let Err(error) = build("info,=loud=", LogFormat::Plain, Box::new(io::sink())) else {
        panic!("the filter was accepted");
    };
    assert!(error.to_string().contains("info,=loud="), "{error}");
}
