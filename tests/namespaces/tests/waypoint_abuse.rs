//! Clients in the mesh that want to harm a waypoint, or are slow, and honest ones that look as if they did.
//!
//! Each test states what the abuse may cost: memory of the waypoint, requests at the server, time. A neighbour calls
//! meanwhile, and is answered.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ebb_tests::{
    behind::{Behind, Port},
    frames::{END_HEADERS, END_STREAM, Field, Frames, block, frame, kind},
    hostile::Answer,
    mesh::eventually,
    peer::{Doorway, Origin, SOON, Server},
    recorder::Recorder,
};
use harness::{process::Process, report::GrpcReport};

const MIB: u64 = 1024 * 1024;
/// How long a neighbour's call may take while somebody else abuses the waypoint, on two shared cores.
const NEIGHBOURLY: Duration = Duration::from_secs(2);

/// A pod that calls again and again.
struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(u64, Duration)>>,
}

impl Neighbour {
    fn start(behind: &Behind, to: SocketAddr) -> Result<Self> {
        let doorway = Doorway::to(behind.pod("neighbour")?.namespace())?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut calls, mut worst) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) || calls == 0 {
                let began = Instant::now();
                let answer = get(&mut doorway.reach(to, SOON)?, "/")?;
                ensure!(
                    answer.starts_with("HTTP/1.1 200"),
                    "the neighbour's call {calls} is answered {answer}"
                );
                worst = worst.max(began.elapsed());
                calls += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok((calls, worst))
        });
        Ok(Self { stop, thread })
    }

    /// Ends it, and makes sure that each of its calls was answered in time.
    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let (calls, worst) = self.thread.join().map_err(|_| anyhow!("the neighbour panicked"))??;
        println!("neighbour: {calls} calls, the slowest {worst:?}");
        ensure!(worst < NEIGHBOURLY, "one of the neighbour's {calls} calls took {worst:?}");
        Ok(())
    }
}

/// One request on a connection, and its answer.
fn get(stream: &mut TcpStream, path: &str) -> Result<String> {
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn status(answer: &[u8]) -> Result<u16> {
    let text = String::from_utf8_lossy(answer);
    text.get(9..12).and_then(|digits| digits.parse().ok()).with_context(|| format!("no status in {text:?}"))
}

/// The waypoint's memory before and after.
struct Footprint {
    waypoint: Arc<Process>,
    before: u64,
}

impl Footprint {
    fn of(behind: &Behind) -> Result<Self> {
        let waypoint = behind.waypoint()?;
        let before = waypoint.memory()?.anonymous;
        Ok(Self { waypoint, before })
    }

    fn grew_at_most(&self, what: &str, most: u64) -> Result<()> {
        let grown = self.waypoint.memory()?.anonymous.saturating_sub(self.before);
        println!("{what}: the waypoint grew by {} KiB", grown / 1024);
        ensure!(grown <= most, "{what}: the waypoint grew by {grown} bytes, more than {most}");
        Ok(())
    }
}

fn connect(behind: &Behind, port: Port) -> Result<TcpStream> {
    let stream = behind.pod("client")?.namespace().connect(Behind::at(port), SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads until the connection ends: what came, and how long that took.
fn to_the_end(stream: &mut TcpStream) -> Result<(Vec<u8>, Duration)> {
    let (began, mut all, mut buffer) = (Instant::now(), Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok((all, began.elapsed())),
            Ok(read) => all.extend_from_slice(&buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("the connection is left open")
            }
            Err(_) => return Ok((all, began.elapsed())),
        }
    }
}

fn stage(think: Duration) -> Result<(Behind, Recorder, Neighbour)> {
    let behind = Behind::build()?;
    let recorder = Recorder::start(behind.pod("server")?.namespace(), Port::Http as u16, think)?;
    let other = Recorder::start(behind.pod("server")?.namespace(), Port::OtherHttp as u16, Duration::ZERO)?;
    let neighbour = Neighbour::start(&behind, Behind::at(Port::OtherHttp))?;
    // Ends with the stage's namespaces.
    std::mem::forget(other);
    Ok((behind, recorder, neighbour))
}

#[test]
fn heads_that_are_too_long_are_refused_by_and_by_cheaply() -> Result<()> {
    let (behind, recorder, neighbour) = stage(Duration::ZERO)?;
    let footprint = Footprint::of(&behind)?;
    let long_line = format!("X: {}", "a".repeat(1 << 20));
    let many = "X: y\r\n".repeat(10_000);
    let long_target = "a".repeat(1 << 20);
    let bombs = [
        format!("GET / HTTP/1.1\r\nHost: server\r\n{long_line}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: server\r\n{many}\r\n"),
        format!("GET /{long_target} HTTP/1.1\r\nHost: server\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: server\r\n{}\r\n", "X: y\r\n".repeat(101)),
        format!("POST / HTTP/1.1\r\nHost: server\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{many}\r\n"),
    ];
    for (number, bomb) in bombs.iter().enumerate() {
        let mut open: Vec<_> = (0..20).map(|_| connect(&behind, Port::Http)).collect::<Result<_>>()?;
        for stream in &mut open {
            // Whoever refuses may have closed before it was all sent.
            let _ = stream.write_all(bomb.as_bytes());
        }
        for stream in &mut open {
            let (answer, took) = to_the_end(stream)?;
            ensure!(took < SOON, "bomb {number} was read for {took:?}");
            if !answer.is_empty() {
                let status = status(&answer)?;
                ensure!((400..=599).contains(&status), "bomb {number} was answered {status}");
            }
        }
    }
    let arrived: usize = recorder.take()?.iter().map(|bytes| usize::from(bytes.starts_with(b"GET"))).sum();
    assert_eq!(arrived, 0);
    footprint.grew_at_most("100 heads of up to a megabyte", 24 * MIB)?;
    neighbour.stop()?;
    behind.mesh.finish()
}

fn request() -> Vec<Field<'static>> {
    vec![(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"server"), (b":path", b"/")]
}

#[test]
fn heads_of_http2_that_grow_when_they_are_read_are_refused() -> Result<()> {
    let (behind, recorder, neighbour) = stage(Duration::ZERO)?;
    let footprint = Footprint::of(&behind)?;
    for _ in 0..20 {
        let mut client = Frames::open(connect(&behind, Port::Http)?)?;
        // One entry of 4,000 bytes in the dynamic table, and 10,000 references to it (RFC 7541, 6.1 and 6.2.1).
        let mut bomb = block(&request());
        bomb.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
        bomb.extend_from_slice(&[b'a'; 4000]);
        bomb.extend_from_slice(&[0xbe; 10_000]);
        client.send(kind::HEADERS, END_HEADERS | END_STREAM, 1, &bomb)?;
        let answer = client.answer(1)?;
        ensure!(answer != Answer::Status(200), "forty megabytes of head were answered {answer:?}");
    }
    ensure!(recorder.take()?.is_empty(), "a bomb reached the server");
    footprint.grew_at_most("20 heads of 40 MB each, in 14 KB", 16 * MIB)?;
    neighbour.stop()?;
    behind.mesh.finish()
}

#[test]
fn a_head_without_end_is_cut() -> Result<()> {
    let (behind, recorder, neighbour) = stage(Duration::ZERO)?;
    let footprint = Footprint::of(&behind)?;
    let head = block(&request());
    // What is in each frame: nothing, a small field, and a full frame of fields.
    let field = block(&[(b"x", b"y")]);
    for payload in [Vec::new(), field.clone(), field.repeat(2000)] {
        let mut client = Frames::open(connect(&behind, Port::Http)?)?;
        client.send(kind::HEADERS, 0, 1, &head)?;
        let (began, mut sent) = (Instant::now(), 0_u64);
        let next = frame(kind::CONTINUATION, 0, 1, &payload);
        // Ten megabytes, or a million frames.
        while sent < 1_000_000 && sent * (next.len() as u64) < 10 * MIB && client.send_raw(&next).is_ok() {
            sent += 1;
        }
        let answer = client.answer(1)?;
        println!("{} bytes in each frame: cut after {:?}", payload.len(), began.elapsed());
        ensure!(
            answer != Answer::Status(200) && began.elapsed() < SOON,
            "{answer:?} after {:?}",
            began.elapsed()
        );
    }
    ensure!(recorder.take()?.is_empty(), "a head without end reached the server");
    footprint.grew_at_most("heads without end", 16 * MIB)?;
    neighbour.stop()?;
    behind.mesh.finish()
}

#[test]
fn requests_that_are_withdrawn_as_soon_as_they_are_made_end_their_connection() -> Result<()> {
    const PAIRS: u32 = 20_000;
    /// Requests that may reach the server before the waypoint has had enough.
    const MOST: u64 = 600;
    let (behind, _recorder, neighbour) = stage(Duration::ZERO)?;
    let _server = behind.serve(&["grpc", "--port", "8081"])?;
    let calls = || -> Result<u64> {
        let report: GrpcReport =
            behind.report(&["grpc-call", &Behind::at(Port::Grpc).to_string(), "witness"])?;
        Ok(report.text.strip_prefix("calls ").context("what the witness says")?.parse()?)
    };
    let footprint = Footprint::of(&behind)?;
    // A call that stays open as long as its client says nothing.
    let mut head = request();
    (head[0].1, head[3].1) = (b"POST", b"/ebb.Notes/Chat");
    let head = block(&[head, vec![(b"content-type", b"application/grpc"), (b"te", b"trailers")]].concat());
    // Each at once, and each with time to be sent on.
    for pause in [Duration::ZERO, Duration::from_millis(2)] {
        let before = calls()?;
        let mut client = Frames::open(connect(&behind, Port::Grpc)?)?;
        let began = Instant::now();
        let mut sent = 0;
        for number in 0..PAIRS {
            let stream = 2 * number + 1;
            let mut made = frame(kind::HEADERS, END_HEADERS, stream, &head);
            let reset = frame(kind::RESET, 0, stream, &8_u32.to_be_bytes());
            let done = if pause.is_zero() {
                made.extend(reset);
                client.send_raw(&made)
            } else {
                client
                    .send_raw(&made)
                    .map(|()| std::thread::sleep(pause))
                    .and_then(|()| client.send_raw(&reset))
            };
            if done.is_err() {
                break;
            }
            sent += 1;
        }
        let ended = client.answer(u32::MAX >> 1)?;
        // Without the one that asks.
        let arrived = calls()? - before - 1;
        println!(
            "{sent} pairs with pauses of {pause:?}: {arrived} arrived, over after {:?}",
            began.elapsed()
        );
        ensure!(ended == Answer::Closed, "{ended:?}");
        ensure!(arrived <= MOST, "{arrived} withdrawn requests reached the server");
    }
    footprint.grew_at_most("rapid resets", 32 * MIB)?;
    neighbour.stop()?;
    behind.mesh.finish()
}

#[test]
fn clients_that_drip_their_heads_are_cut_and_nobody_waits_for_them() -> Result<()> {
    const CLIENTS: usize = 100;
    let (behind, recorder, neighbour) = stage(Duration::ZERO)?;
    let footprint = Footprint::of(&behind)?;
    let fds = behind.waypoint()?.fd_count()?;
    let mut open = Vec::new();
    for number in 0..CLIENTS {
        let mut stream = connect(&behind, Port::Http)?;
        // Some stop where it cannot be told yet what they speak, others in the middle of a line.
        let begun = if number % 2 == 0 { "GE" } else { "GET / HTTP/1.1\r\nHost: serv" };
        stream.write_all(begun.as_bytes())?;
        stream.set_nonblocking(true)?;
        open.push(stream);
    }
    let began = Instant::now();
    let (mut cut, mut told) = (Vec::new(), 0);
    // The deadline is ten seconds; those that have not shown what they speak have two more.
    while !open.is_empty() && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(500));
        open.retain_mut(|stream| {
            let dripped = stream.write_all(b"a");
            let mut answer = [0; 512];
            let ended = match stream.read(&mut answer) {
                Ok(_) => {
                    told += usize::from(answer.starts_with(b"HTTP/1.1 408 "));
                    true
                }
                Err(error) => error.kind() != ErrorKind::WouldBlock,
            };
            let is_over = ended || dripped.is_err();
            if is_over {
                cut.push(began.elapsed());
            }
            !is_over
        });
    }
    println!("{} clients cut after {:?} to {:?}", cut.len(), cut.first(), cut.last());
    ensure!(open.is_empty(), "{} clients still drip", open.len());
    ensure!(cut.first().is_some_and(|first| *first > Duration::from_secs(8)), "cut at once");
    ensure!(told == CLIENTS, "{told} clients were told why");
    ensure!(recorder.take()?.is_empty(), "half a head reached the server");
    footprint.grew_at_most("100 dripping clients", 16 * MIB)?;
    let waypoint = behind.waypoint()?;
    eventually("descriptors to be given back", SOON, || Ok(waypoint.fd_count()? <= fds + 16))?;
    neighbour.stop()?;
    behind.mesh.finish()
}

#[test]
fn clients_that_do_not_read_take_their_share_and_no_more() -> Result<()> {
    const READERS: u64 = 40;
    const BODY: usize = 32 << 20;
    let (behind, _recorder, neighbour) = stage(Duration::ZERO)?;
    let sent: Arc<AtomicU64> = Arc::default();
    let counting = Arc::clone(&sent);
    let _source =
        Server::start(behind.pod("server")?.namespace(), Port::Undeclared as u16, move |mut stream, _| {
            let _ = stream.read(&mut [0; 1024]);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
            let _ = stream.write_all(head.as_bytes());
            let piece = vec![b'.'; 64 * 1024];
            for _ in 0..BODY / piece.len() {
                if stream.write_all(&piece).is_err() {
                    break;
                }
                counting.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
        })?;
    let footprint = Footprint::of(&behind)?;
    let mut open = Vec::new();
    for _ in 0..READERS {
        let mut stream = connect(&behind, Port::Undeclared)?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")?;
        open.push(stream);
    }
    // Until nothing moves any more.
    let mut last = u64::MAX;
    eventually("the server to be held up", SOON * 2, || {
        std::thread::sleep(Duration::from_millis(500));
        let now = sent.load(Ordering::Relaxed);
        Ok(std::mem::replace(&mut last, now) == now && now > 0)
    })?;
    println!("the server could send {} MiB to {READERS} readers", last / MIB);
    ensure!(last < READERS * BODY as u64, "nobody held the server up");
    // A window of a tunnel for each, of 2 MiB, and what is on its way between the two halves, of 1 MiB.
    footprint.grew_at_most("40 clients that do not read", READERS * 3 * MIB)?;
    neighbour.stop()?;
    // And whoever reads after all gets everything.
    let mut stream = open.pop().context("a client")?;
    let mut left = vec![0; BODY];
    stream.read_exact(&mut left).context("the rest of the answer")?;
    behind.mesh.finish()
}

/// Echoes what comes, however it is cut.
fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; 64 * 1024];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

#[test]
fn an_honest_client_that_sends_byte_by_byte_is_not_taken_for_an_attacker() -> Result<()> {
    const WRITES: usize = 500_000;
    let behind = Behind::build()?;
    let _server =
        Server::start(behind.pod("server")?.namespace(), Port::Tcp as u16, |stream, _| echo(stream))?;
    let mut client = connect(&behind, Port::Tcp)?;
    let mut writer = client.try_clone()?;
    let began = Instant::now();
    let writing = std::thread::spawn(move || -> Result<()> {
        for _ in 0..WRITES {
            writer.write_all(b".")?;
        }
        Ok(writer.shutdown(Shutdown::Write)?)
    });
    let (back, _) = to_the_end(&mut client)?;
    writing.join().map_err(|_| anyhow!("the writer panicked"))??;
    println!("{WRITES} bytes there and back in {:?}", began.elapsed());
    assert_eq!(back.len(), WRITES);
    behind.mesh.finish()
}

#[test]
fn a_million_frames_of_one_byte_are_a_body_like_any_other() -> Result<()> {
    const FRAMES: usize = 1_000_000;
    let behind = Behind::build()?;
    let (sender, counted) = std::sync::mpsc::channel();
    // Speaks HTTP/2 itself, as the client does, and counts what comes.
    let _server = Server::start(behind.pod("server")?.namespace(), Port::Http as u16, move |stream, _| {
        let _ = sender.send(count(stream));
    })?;
    let mut client = Frames::open(connect(&behind, Port::Http)?)?;
    let mut head = request();
    head[0] = (b":method", b"POST");
    client.send(kind::HEADERS, END_HEADERS, 1, &block(&head))?;
    let batch = frame(kind::DATA, 0, 1, b".").repeat(1000);
    // Waits for window as an honest client does: the first is 65,535 bytes.
    let (mut window, mut connection, mut sent) = (65_535_i64, 65_535_i64, 0);
    let began = Instant::now();
    while sent < FRAMES {
        while window < 1000 || connection < 1000 {
            let next = client.read()?.context("the connection was cut")?;
            match (next.kind, next.stream) {
                (kind::WINDOW, 0) => connection += increment(&next.payload),
                (kind::WINDOW, 1) => window += increment(&next.payload),
                // SETTINGS_INITIAL_WINDOW_SIZE is told of the window there is at first.
                (kind::SETTINGS, _) if next.flags & END_STREAM == 0 => {
                    window += initial_window(&next.payload).unwrap_or(65_535) - 65_535;
                    client.send(kind::SETTINGS, END_STREAM, 0, &[])?;
                }
                (kind::RESET | kind::GOAWAY, _) => bail!("cut after {sent} frames: {next:?}"),
                _ => {}
            }
        }
        if let Err(error) = client.send_raw(&batch) {
            let mut last = Vec::new();
            while let Ok(Some(next)) = client.read() {
                last.push(next);
            }
            bail!("cut after {sent} frames: {error}, {:?}", last.last());
        }
        (window, connection, sent) = (window - 1000, connection - 1000, sent + 1000);
    }
    client.send(kind::DATA, END_STREAM, 1, &[])?;
    let count = counted.recv_timeout(SOON * 3).map_err(|_| anyhow!("the body did not end"))??;
    println!("{FRAMES} frames in {:?}", began.elapsed());
    assert_eq!(count, FRAMES);
    behind.mesh.finish()
}

fn increment(payload: &[u8]) -> i64 {
    payload.try_into().map_or(0, |bytes| i64::from(u32::from_be_bytes(bytes)))
}

fn initial_window(settings: &[u8]) -> Option<i64> {
    let entry = settings.chunks(6).find(|entry| entry.starts_with(&[0, 4]))?;
    Some(increment(entry.get(2..6)?))
}

/// A server of HTTP/2 that opens every window it can and counts the bytes of the first request's body.
fn count(mut stream: TcpStream) -> Result<usize> {
    let mut preface = [0; 24];
    stream.set_read_timeout(Some(SOON * 3))?;
    stream.read_exact(&mut preface)?;
    // SETTINGS_INITIAL_WINDOW_SIZE, and the same for the connection.
    stream.write_all(&frame(kind::SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]))?;
    stream.write_all(&frame(kind::WINDOW, 0, 0, &0x7f00_0000_u32.to_be_bytes()))?;
    let mut reader = std::io::BufReader::new(stream.try_clone()?);
    let mut bytes = 0;
    loop {
        let mut head = [0; 9];
        reader.read_exact(&mut head)?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        reader.read_exact(&mut payload)?;
        match head[3] {
            kind::DATA => {
                bytes += payload.len();
                if head[4] & END_STREAM != 0 {
                    return Ok(bytes);
                }
            }
            kind::SETTINGS if head[4] & END_STREAM == 0 => {
                stream.write_all(&frame(kind::SETTINGS, END_STREAM, 0, &[]))?;
            }
            kind::PING if head[4] & END_STREAM == 0 => {
                stream.write_all(&frame(kind::PING, END_STREAM, 0, &payload))?;
            }
            _ => {}
        }
    }
}
