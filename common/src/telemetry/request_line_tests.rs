use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use super::*;
use crate::telemetry::flags::Flag;
use crate::telemetry::logging;

const HTTP: HttpLine<'static> = HttpLine {
    method: "GET",
    path: b"/status/418?x=1",
    asked_path: b"/status/418?x=1",
    protocol: "HTTP/1.1",
    forwarded_for: Some(b"203.0.113.9"),
    user_agent: Some(b"curl/8.5.0"),
    request_id: Some(b"84961386-6d84-929d-98bd-c5aee93b5c88"),
    authority: Some(b"web:8080"),
};

fn served() -> RequestLine<'static> {
    RequestLine {
        http: Some(HTTP),
        status: 418,
        details: Some(&"via_upstream"),
        bytes_received: 0,
        bytes_sent: 135,
        duration: Duration::from_micros(5_900),
        service_time: Some(Duration::from_micros(4_100)),
        upstream_host: Some("10.44.1.27:80".parse().unwrap()),
        upstream_cluster: Some("outbound|8080|v1|web.shop.svc.cluster.local"),
        downstream_local: Some("10.0.45.184:8080".parse().unwrap()),
        downstream_remote: Some("[::ffff:10.44.1.23]:37652".parse().unwrap()),
        route: Some("teapots"),
        ..RequestLine::default()
    }
}

fn refused() -> RequestLine<'static> {
    let mut flags = Flags::from(Flag::UpstreamConnectFailure);
    flags.set(Flag::RetryLimit);
    RequestLine {
        http: Some(HttpLine {
            protocol: "HTTP/2",
            forwarded_for: None,
            user_agent: None,
            request_id: None,
            ..HTTP
        }),
        status: 503,
        flags,
        details: Some(&"upstream_reset_before_response_started{remote_connection_failure}"),
        transport_failure: Some("connection failed: 10.44.1.27:80: Connection refused (os error 111)"),
        bytes_received: 17,
        bytes_sent: 91,
        upstream_cluster: Some("outbound|8080||web.shop.svc.cluster.local"),
        downstream_remote: Some("[fd00::1]:9".parse().unwrap()),
        ..RequestLine::default()
    }
}

fn line(format: LogFormat, line: &RequestLine<'_>) -> String {
    let mut out = Vec::new();
    write(&mut out, format, UNIX_EPOCH + Duration::from_micros(1_795_236_583_123_456), line);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_request_reads_as_istios_envoys_write_it() {
    assert_eq!(
        line(LogFormat::Plain, &served()),
        "[2026-11-21T04:49:43.123Z] \"GET /status/418?x=1 HTTP/1.1\" 418 - via_upstream - \"-\" 0 135 5 4 \
         \"203.0.113.9\" \"curl/8.5.0\" \"84961386-6d84-929d-98bd-c5aee93b5c88\" \"web:8080\" \"10.44.1.27:80\" \
         outbound|8080|v1|web.shop.svc.cluster.local - 10.0.45.184:8080 10.44.1.23:37652 - teapots\n"
    );
}

#[test]
fn what_went_wrong_stands_where_envoy_has_it() {
    assert_eq!(
        line(LogFormat::Plain, &refused()),
        "[2026-11-21T04:49:43.123Z] \"GET /status/418?x=1 HTTP/2\" 503 UF,URX \
         upstream_reset_before_response_started{remote_connection_failure} - \
         \"connection failed: 10.44.1.27:80: Connection refused (os error 111)\" 17 91 0 - \
         \"-\" \"-\" \"-\" \"web:8080\" \"-\" \
         outbound|8080||web.shop.svc.cluster.local - - [fd00::1]:9 - -\n"
    );
}

#[test]
fn a_connection_has_no_request() {
    let connection = RequestLine { http: None, status: 0, details: None, route: None, ..served() };
    assert_eq!(
        line(LogFormat::Plain, &connection),
        "[2026-11-21T04:49:43.123Z] \"- - -\" 0 - - - \"-\" 0 135 5 4 \"-\" \"-\" \"-\" \"-\" \"10.44.1.27:80\" \
         outbound|8080|v1|web.shop.svc.cluster.local - 10.0.45.184:8080 10.44.1.23:37652 - -\n"
    );
    let json: serde_json::Value = serde_json::from_str(&line(LogFormat::Json, &connection)).unwrap();
    assert!(json["method"].is_null() && json["path"].is_null() && json["authority"].is_null());
    assert_eq!(json["response_code"], 0);
}

#[test]
fn the_json_form_has_istios_keys() {
    assert_eq!(
        line(LogFormat::Json, &served()),
        "{\"start_time\":\"2026-11-21T04:49:43.123Z\",\"route_name\":\"teapots\",\"method\":\"GET\",\
         \"path\":\"/status/418?x=1\",\"protocol\":\"HTTP/1.1\",\"response_code\":418,\"response_flags\":\"-\",\
         \"response_code_details\":\"via_upstream\",\"connection_termination_details\":null,\
         \"bytes_received\":0,\"bytes_sent\":135,\"duration\":5,\"upstream_service_time\":\"4\",\
         \"x_forwarded_for\":\"203.0.113.9\",\"user_agent\":\"curl/8.5.0\",\
         \"request_id\":\"84961386-6d84-929d-98bd-c5aee93b5c88\",\"authority\":\"web:8080\",\
         \"upstream_host\":\"10.44.1.27:80\",\
         \"upstream_cluster\":\"outbound|8080|v1|web.shop.svc.cluster.local\",\"upstream_local_address\":null,\
         \"downstream_local_address\":\"10.0.45.184:8080\",\"downstream_remote_address\":\"10.44.1.23:37652\",\
         \"requested_server_name\":null,\"upstream_transport_failure_reason\":null}\n"
    );
    let json: serde_json::Value = serde_json::from_str(&line(LogFormat::Json, &refused())).unwrap();
    assert_eq!(json.as_object().unwrap().len(), 24, "Istio has 24 keys");
}

/// The fields of a line: words, and what stands in brackets or in quotes.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for character in line.trim_end_matches('\n').chars() {
        match character {
            '"' if !escaped => quoted = !quoted,
            ' ' if !quoted => fields.push(String::new()),
            _ => fields.last_mut().unwrap().push(character),
        }
        escaped = character == '\\' && !escaped;
    }
    assert!(!quoted, "an open quote in {line:?}");
    fields
}

#[test]
fn no_header_can_break_out_of_its_quotes_or_forge_a_line() {
    let forged = b"x\" 200 - via_upstream - \"-\" 0 0 0 0\n[2026-11-21T04:49:43.123Z] \"GET /admin";
    let hostile: [&[u8]; 9] = [
        forged,
        b"\\",
        b"\\\"",
        b"\"",
        b"a\r\nb\tc\0d\x1b[2J\x7f",
        b"\xff\xfe\"\xc3",
        "\u{9b}31m \u{202e} \u{2028} \u{1f980}".as_bytes(),
        b"",
        b"- - - -",
    ];
    let expected = fields(&line(LogFormat::Plain, &served())).len();
    for value in hostile {
        let http = HttpLine {
            path: value,
            forwarded_for: Some(value),
            user_agent: Some(value),
            request_id: Some(value),
            authority: Some(value),
            ..HTTP
        };
        let text = std::str::from_utf8(value).unwrap_or("x");
        let hostile =
            RequestLine { http: Some(http), transport_failure: Some(text), route: Some(text), ..served() };
        let written = line(LogFormat::Plain, &hostile);
        let printable = |byte: u8| matches!(byte, b' '..=b'~');
        assert!(written.strip_suffix('\n').unwrap().bytes().all(printable), "{written:?}");
        assert_eq!(fields(&written).len(), expected, "{written:?}");
        let request = fields(&written)[1].clone();
        assert_eq!(request.split(' ').count(), 3, "method, path and protocol in {request:?}");
        let json: serde_json::Value = serde_json::from_str(&line(LogFormat::Json, &hostile)).unwrap();
        assert_eq!(json["user_agent"], String::from_utf8_lossy(value).as_ref(), "the value itself");
        assert_eq!(json["response_code"], 418);
        assert_eq!(json.as_object().unwrap().len(), 24);
    }
}

#[test]
fn details_are_one_word() {
    let policy = RequestLine {
        details: Some(&"rbac_access_denied_matched_policy[ns[a b\n]-policy[\"p\"]]"),
        termination_details: Some("the tunnel was lost"),
        ..served()
    };
    let text = line(LogFormat::Plain, &policy);
    assert!(
        text.contains(" rbac_access_denied_matched_policy[ns[a_b_]-policy[_p_]] the_tunnel_was_lost \"-\" ")
    );
}

#[test]
fn each_value_is_cut_at_its_bound() {
    let long = "\u{e9}\"".repeat(40_000);
    let value = Some(long.as_bytes());
    let http = HttpLine {
        path: long.as_bytes(),
        forwarded_for: value,
        user_agent: value,
        request_id: value,
        authority: value,
        ..HTTP
    };
    let all = RequestLine {
        http: Some(http),
        details: Some(&long),
        termination_details: Some(&long),
        transport_failure: Some(&long),
        upstream_cluster: Some(&long),
        route: Some(&long),
        ..served()
    };
    for format in [LogFormat::Plain, LogFormat::Json] {
        let text = line(format, &all);
        // An escape is six bytes at most for each byte.
        assert!(text.len() < 10 * 6 * MAX_REQUEST_VALUE_BYTES + 1000, "{} bytes", text.len());
        assert!(text.matches("...").count() >= 9, "{text}");
    }
    let exact = vec![b'a'; MAX_REQUEST_VALUE_BYTES];
    let http = HttpLine { path: &exact, ..HTTP };
    assert!(!line(LogFormat::Plain, &RequestLine { http: Some(http), ..served() }).contains("..."));
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn requests_are_told_by_default_and_only_the_failed_at_error() {
    let out = Captured::default();
    let (logging, subscriber) = logging::build("info", LogFormat::Plain, Box::new(out.clone())).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        let all = || {
            logging.access.request(&served(), false);
            logging.access.request(&refused(), true);
        };
        all();
        for levels in ["access:error", "access:off"] {
            logging.control.set(levels, false).unwrap();
            all();
        }
    });
    assert!(logging.sink.flush(Duration::from_secs(10)));
    let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    let statuses: Vec<_> = text.lines().map(|line| fields(line)[2].clone()).collect();
    assert_eq!(statuses, ["418", "503", "503"]);
}

#[test]
#[ignore = "prints a measurement; run in release mode when the writer changes"]
fn cost_of_a_request_line() {
    for format in [LogFormat::Plain, LogFormat::Json] {
        let mut out = Vec::new();
        let rounds = 500_000u32;
        let started = std::time::Instant::now();
        for _ in 0..rounds {
            out.clear();
            write(&mut out, format, SystemTime::now(), &served());
            std::hint::black_box(&out);
        }
        println!("{format:?}: {:?} a line of {} bytes", started.elapsed() / rounds, out.len());
    }
}
