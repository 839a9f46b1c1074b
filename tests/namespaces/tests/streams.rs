//! Bytes through two proxies: the same, in order, with every half-close and reset where the peers put them.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use ebb_tests::{
    app::App,
    mesh::Mesh,
    peer::{Flow, SOON, Server},
};
use harness::cluster::Pod;
use socket2::SockRef;

const BULK: usize = 10 * 1024 * 1024;
const PORT: u16 = 7000;
/// The promise for a reset: the other side knows within a second; the rest is for two shared cores.
const RESET_SEEN: Duration = Duration::from_millis(1700);

fn mesh() -> Result<Mesh> {
    let mut mesh = Mesh::start()?;
    mesh.run(&[App::new("client"), App::new("server").on(1)])?;
    Ok(mesh)
}

/// Bytes that tell by their value where they belong, beginning with the marker.
fn pattern(mesh: &Mesh, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
    let marker = mesh.marker().as_bytes();
    bytes[..marker.len()].copy_from_slice(marker);
    bytes
}

/// Connects the client to a server that runs `script`; its outcome comes out of the channel.
fn connect<T: Send + 'static>(
    mesh: &Mesh,
    script: impl Fn(TcpStream) -> Result<T> + Clone + Send + 'static,
) -> Result<(TcpStream, Receiver<Result<T>>, Server)> {
    let (sender, receiver) = channel();
    let server: &Pod = mesh.pod("server")?;
    let server = Server::start(server.namespace(), PORT, move |stream, _| {
        let _ = stream.set_read_timeout(Some(SOON));
        // The test may have failed and gone.
        let _ = sender.send(script(stream));
    })?;
    let to = SocketAddr::new(mesh.pod("server")?.addresses().v6.into(), PORT);
    let client = mesh.pod("client")?.namespace().connect(to, SOON)?;
    client.set_read_timeout(Some(SOON))?;
    Ok((client, receiver, server))
}

fn outcome<T>(of: &Receiver<Result<T>>) -> Result<T> {
    of.recv_timeout(SOON).map_err(|_| anyhow!("the server did not end"))?.context("at the server")
}

fn read_all(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).context("read to the end")?;
    Ok(bytes)
}

#[test]
fn a_client_that_half_closes_first_still_reads_everything() -> Result<()> {
    let mesh = mesh()?;
    let bulk = pattern(&mesh, BULK);
    let answer = bulk.clone();
    let (mut client, server, _listening) = connect(&mesh, move |mut stream| {
        let asked = read_all(&mut stream)?;
        // Only after the end of the request: a FIN that came too early or not at all would show.
        stream.write_all(&answer)?;
        Ok(asked)
    })?;
    client.write_all(b"question")?;
    client.shutdown(Shutdown::Write)?;
    assert!(read_all(&mut client)? == bulk, "the answer differs");
    assert_eq!(outcome(&server)?, b"question");
    mesh.finish()
}

#[test]
fn a_server_that_half_closes_first_still_reads_everything() -> Result<()> {
    let mesh = mesh()?;
    let bulk = pattern(&mesh, BULK);
    let (mut client, server, _listening) = connect(&mesh, |mut stream| {
        stream.write_all(b"all I have to say")?;
        stream.shutdown(Shutdown::Write)?;
        read_all(&mut stream)
    })?;
    assert_eq!(read_all(&mut client)?, b"all I have to say");
    client.write_all(&bulk)?;
    client.shutdown(Shutdown::Write)?;
    assert!(outcome(&server)? == bulk, "the upload differs");
    mesh.finish()
}

#[test]
fn both_sides_may_send_at_once_and_close_with_their_last_byte() -> Result<()> {
    let mesh = mesh()?;
    let bulk = pattern(&mesh, BULK);
    let both_ways = move |mut stream: TcpStream, bulk: Vec<u8>| -> Result<Vec<u8>> {
        let mut writer = stream.try_clone()?;
        let writing = std::thread::spawn(move || -> Result<()> {
            writer.write_all(&bulk)?;
            Ok(writer.shutdown(Shutdown::Write)?)
        });
        let read = read_all(&mut stream)?;
        writing.join().map_err(|_| anyhow!("the writer panicked"))??;
        Ok(read)
    };
    let theirs = bulk.clone();
    let (client, server, _listening) = connect(&mesh, move |stream| both_ways(stream, theirs.clone()))?;
    assert!(both_ways(client, bulk.clone())? == bulk, "what the client got differs");
    assert!(outcome(&server)? == bulk, "what the server got differs");
    mesh.finish()
}

#[test]
fn connections_that_carry_nothing_close_in_every_order() -> Result<()> {
    let mesh = mesh()?;
    let (mut client, server, _listening) = connect(&mesh, |mut stream| read_all(&mut stream))?;
    client.shutdown(Shutdown::Write)?;
    assert!(read_all(&mut client)?.is_empty() && outcome(&server)?.is_empty());
    drop((client, server, _listening));
    let (mut client, server, _listening) = connect(&mesh, |stream| {
        drop(stream);
        Ok(())
    })?;
    assert!(read_all(&mut client)?.is_empty());
    outcome(&server)?;
    mesh.finish()
}

fn reset(stream: TcpStream) -> Result<()> {
    Ok(SockRef::from(&stream).set_linger(Some(Duration::ZERO))?)
}

/// Reads until the connection breaks; an end in good order is an error.
fn broken(stream: &mut TcpStream) -> Result<Duration> {
    let start = Instant::now();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(anyhow!("a reset became the end of the stream")),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(start.elapsed()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[test]
fn a_reset_of_either_side_is_a_reset_at_the_other_and_not_an_end() -> Result<()> {
    let mesh = mesh()?;
    let (mut client, server, listening) = connect(&mesh, |mut stream| {
        stream.read_exact(&mut [0; 8])?;
        reset(stream)
    })?;
    client.write_all(b"question")?;
    let seen = broken(&mut client).context("at the client")?;
    assert!(seen < RESET_SEEN, "after {seen:?}");
    outcome(&server)?;
    drop(listening);

    let (mut client, server, _listening) = connect(&mesh, |mut stream| {
        stream.write_all(b"x")?;
        broken(&mut stream)
    })?;
    client.read_exact(&mut [0])?;
    reset(client)?;
    let seen = outcome(&server)?;
    assert!(seen < RESET_SEEN, "after {seen:?}");
    mesh.finish()
}

#[test]
fn a_reset_after_a_half_close_is_seen_too() -> Result<()> {
    let mesh = mesh()?;
    let (mut client, server, _listening) = connect(&mesh, |mut stream| {
        read_all(&mut stream)?;
        reset(stream)
    })?;
    client.shutdown(Shutdown::Write)?;
    let seen = broken(&mut client).context("at the client")?;
    assert!(seen < RESET_SEEN, "after {seen:?}");
    outcome(&server)?;
    mesh.finish()
}

#[test]
fn a_reader_that_stands_still_does_not_hold_up_its_neighbours() -> Result<()> {
    let mesh = mesh()?;
    let bulk = pattern(&mesh, 64 * 1024 * 1024);
    let _slow_server = Server::start(mesh.pod("server")?.namespace(), PORT, move |mut stream, _| {
        // Ends when the client goes.
        let _ = stream.write_all(&bulk);
    })?;
    let _echo = Server::echo(mesh.pod("server")?, 8080)?;
    let (slow_at, echo_at) = {
        let v4 = mesh.pod("server")?.addresses().v4.into();
        (SocketAddr::new(v4, PORT), SocketAddr::new(v4, 8080))
    };
    let from = mesh.pod("client")?.namespace();
    let mut neighbours = (0..8).map(|_| Flow::open(from, echo_at)).collect::<Result<Vec<_>>>()?;
    let mut slow = from.connect(slow_at, SOON)?;
    slow.read_exact(&mut [0; 1])?;
    let start = Instant::now();
    for _ in 0..200 {
        for flow in &mut neighbours {
            flow.say(mesh.marker())?;
        }
    }
    // 1600 exchanges; with a standstill there would be none.
    assert!(start.elapsed() < SOON, "the neighbours took {:?}", start.elapsed());
    // And so do connections opened beside it from now on.
    for _ in 0..20 {
        Flow::open(from, echo_at)?.say(mesh.marker())?;
    }
    mesh.finish()
}

#[test]
fn a_million_writes_of_one_byte_arrive_and_are_not_taken_for_an_attack() -> Result<()> {
    const WRITES: usize = 1_000_000;
    let mesh = mesh()?;
    let (mut client, server, _listening) = connect(&mesh, |mut stream| {
        let (mut count, mut buffer) = (0, vec![0; 64 * 1024]);
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(count),
                read => {
                    ensure!(buffer[..read].iter().all(|byte| *byte == b'.'), "a wrong byte");
                    count += read;
                }
            }
        }
    })?;
    client.set_nodelay(true)?;
    for _ in 0..WRITES {
        client.write_all(b".")?;
    }
    client.shutdown(Shutdown::Write)?;
    let count = server.recv_timeout(SOON * 3).map_err(|_| anyhow!("the server did not end"))??;
    assert_eq!(count, WRITES);
    mesh.finish()
}
