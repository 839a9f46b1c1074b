//! What the relay costs: CPU of two proxies per request, gigabyte and connection, and memory per idle connection.
//!
//! Four threads on loopback, each with a current-thread runtime: load, outbound proxy, inbound proxy, application. CPU is
//! read per thread, so neither the load nor the application is billed to the proxies. No redirection, policy, logs.
//!
//! `cargo run --release -p ebb-common --example relay_cost -- <direct|tcp|tunnel> <bulk|http|ping|connect|idle> [amount]`

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use common::hbone::pool::{Key, Pool};
use common::hbone::request::{Authority, Connect};
use common::hbone::server::{self, Arrival};
use common::hbone::{Budget, limits, relay as tunnel};
use common::net::kill::Killed;
use common::net::relay;
use common::net::socket;
use common::refusal::Refusal;
use common::spiffe::Identity;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const CONNECTIONS: usize = 16;
const REQUEST_BYTES: usize = 120;
const ANSWER_BYTES: usize = 250;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mode = args.next().context("which mode?")?;
    let work = args.next().context("which work?")?;
    let amount: Option<u64> = args.next().map(|text| text.parse()).transpose()?;
    let application = start(application);
    let (entry, proxies) = match mode.as_str() {
        "direct" => (application.address, Vec::new()),
        "tcp" => {
            let far = start(move |ready| tcp_proxy(ready, application.address));
            let near = start(move |ready| tcp_proxy(ready, far.address));
            (near.address, vec![near.thread, far.thread])
        }
        "tunnel" => {
            let tls = Tls::new()?;
            let (connector, acceptor) = (tls.connector, tls.acceptor);
            let far = start(move |ready| inbound(ready, acceptor));
            let near = start(move |ready| outbound(ready, connector, far.address, application.address));
            (near.address, vec![near.thread, far.thread])
        }
        other => bail!("no mode {other}"),
    };
    // The first connection makes the tunnel and warms both proxies up.
    on_this_thread(http(entry, 1, 200))?;
    let (cpu, started) = (cpu_ns(&proxies)?, Instant::now());
    let (units, name) = match work.as_str() {
        "bulk" => (on_this_thread(bulk(entry, amount.unwrap_or(4)))?, "GB"),
        "http" => (on_this_thread(http(entry, CONNECTIONS, amount.unwrap_or(200_000)))?, "request"),
        "ping" => (on_this_thread(ping(entry, amount.unwrap_or(50_000)))?, "exchange"),
        "connect" => (on_this_thread(connect(entry, amount.unwrap_or(20_000)))?, "connection"),
        "idle" => return idle(entry, amount.unwrap_or(2_000)),
        other => bail!("no work {other}"),
    };
    let (cpu, wall) = (cpu_ns(&proxies)? - cpu, started.elapsed());
    println!(
        "{mode:7} {work:8} {:9.2} us CPU of the proxies per {name}, {:9.2} us of wall time",
        cpu as f64 / 1e3 / units,
        wall.as_secs_f64() * 1e6 / units
    );
    Ok(())
}

/// A role on a thread of its own.
#[derive(Clone, Copy)]
struct Role {
    address: SocketAddr,
    thread: i32,
}

type Ready = std::sync::mpsc::Sender<Role>;

fn start<F>(role: impl FnOnce(Ready) -> F + Send + 'static) -> Role
where
    F: Future<Output = Result<()>>,
{
    let (ready, started) = channel();
    std::thread::spawn(move || on_this_thread(role(ready)).expect("a role fails only with its sockets"));
    started.recv().expect("a role reports before it serves")
}

fn on_this_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

async fn listen(ready: Ready) -> Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket::tune(&listener)?;
    ready.send(Role { address: listener.local_addr()?, thread: nix::unistd::gettid().as_raw() })?;
    Ok(listener)
}

fn cpu_ns(threads: &[i32]) -> Result<u64> {
    let mut total = 0;
    for thread in threads {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"))?;
        total += stat.split(' ').next().context("schedstat is empty")?.parse::<u64>()?;
    }
    Ok(total)
}

/// Answers every [`REQUEST_BYTES`] with [`ANSWER_BYTES`]; a first byte of `b` means bulk, of `p` ping.
async fn application(ready: Ready) -> Result<()> {
    let listener = listen(ready).await?;
    loop {
        let (mut socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut buffer = vec![0; 256 * 1024];
            let answer = [b'x'; ANSWER_BYTES];
            let Ok(mut read @ 1..) = socket.read(&mut buffer[..REQUEST_BYTES]).await else { return };
            let kind = buffer[0];
            if kind == b'i' {
                drop(buffer);
                let _ = socket.write_all(b"i").await;
                let _ = socket.read(&mut [0]).await;
                return;
            }
            loop {
                let written = match kind {
                    b'p' => socket.write_all(b"p").await,
                    b'h' if read == REQUEST_BYTES => socket.write_all(&answer).await,
                    _ => Ok(()),
                };
                let limit = if kind == b'b' { buffer.len() } else { REQUEST_BYTES };
                match (written, socket.read(&mut buffer[..limit]).await) {
                    (Ok(()), Ok(n @ 1..)) => read = n,
                    _ => break,
                }
            }
            let _ = socket.write_all(b"end").await;
        });
    }
}

async fn tcp_proxy(ready: Ready, to: SocketAddr) -> Result<()> {
    let listener = listen(ready).await?;
    loop {
        let (near, _) = listener.accept().await?;
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(to).await else { return };
            if socket::tune(&far).is_ok() {
                relay::relay(near, far, &(), &Killed::never()).await;
            }
        });
    }
}

async fn outbound(ready: Ready, tls: TlsConnector, peer: SocketAddr, application: SocketAddr) -> Result<()> {
    let pool = Pool::new(limits::IDLE_RELEASE, Budget::new(limits::HELD_BYTES_PER_WORKER));
    let me = Identity::new("cluster.local", "bench", "near");
    let key = Arc::new(Key {
        source_uid: "near".into(),
        source_incarnation: "1".into(),
        source: me.clone(),
        destination: me,
        address: peer,
        source_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
    });
    let request = Arc::new(Connect::to(Authority::address(application)?));
    let listener = listen(ready).await?;
    loop {
        let (near, _) = listener.accept().await?;
        let (pool, key, request, tls) = (pool.clone(), key.clone(), request.clone(), tls.clone());
        tokio::spawn(async move {
            let dial = || async {
                let failed = |error: std::io::Error| Refusal::ConnectFailed(error.to_string().into());
                let socket = TcpStream::connect(peer).await.map_err(failed)?;
                socket::tune(&socket).map_err(failed)?;
                let name = ServerName::try_from("bench").expect("a DNS name");
                tls.connect(name, socket).await.map_err(failed)
            };
            match pool.open(&key, &request, dial).await {
                Ok(stream) => {
                    tunnel::relay(near, stream, &(), &Killed::never()).await;
                }
                Err(refusal) => eprintln!("{refusal}"),
            }
        });
    }
}

async fn inbound(ready: Ready, tls: TlsAcceptor) -> Result<()> {
    let budget = Budget::new(limits::HELD_BYTES_PER_WORKER);
    let listener = listen(ready).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        let (tls, budget) = (tls.clone(), budget.clone());
        tokio::spawn(async move {
            let Ok(io) = tls.accept(socket).await else { return };
            let Ok(mut server) = server::accept(io, &budget).await else { return };
            while let Some(Ok(arrival)) = server.next().await {
                let Arrival::Connect(incoming) = arrival else { continue };
                let Authority::Address(to) = incoming.request.authority else { continue };
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(to).await else { return };
                    if let (Ok(()), Ok(stream)) = (socket::tune(&far), incoming.accept(None)) {
                        tunnel::relay(far, stream, &(), &Killed::never()).await;
                    }
                });
            }
        });
    }
}

struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl Tls {
    fn new() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(["bench".to_owned()])?;
        let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
        let key = || PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(chain[0].clone())?;
        let mut client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let mut server =
            rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key()?)?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        server.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { connector: Arc::new(client).into(), acceptor: Arc::new(server).into() })
    }
}

async fn dial(entry: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect(entry).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Sends gigabytes on one connection. Returns them.
async fn bulk(entry: SocketAddr, gigabytes: u64) -> Result<f64> {
    let mut socket = dial(entry).await?;
    let chunk = vec![b'b'; 256 * 1000];
    for _ in 0..gigabytes * 1_000_000_000 / chunk.len() as u64 {
        socket.write_all(&chunk).await?;
    }
    socket.shutdown().await?;
    socket.read_to_end(&mut Vec::new()).await?;
    Ok(gigabytes as f64)
}

async fn http(entry: SocketAddr, connections: usize, requests: u64) -> Result<f64> {
    let each = requests / connections as u64;
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(tokio::spawn(async move {
            let mut socket = dial(entry).await?;
            let (request, mut answer) = ([b'h'; REQUEST_BYTES], [0; ANSWER_BYTES]);
            for _ in 0..each {
                socket.write_all(&request).await?;
                socket.read_exact(&mut answer).await?;
            }
            anyhow::Ok(())
        }));
    }
    for client in clients {
        client.await??;
    }
    Ok((each * connections as u64) as f64)
}

async fn ping(entry: SocketAddr, exchanges: u64) -> Result<f64> {
    let mut socket = dial(entry).await?;
    for _ in 0..exchanges {
        socket.write_all(b"p").await?;
        socket.read_exact(&mut [0]).await?;
    }
    Ok(exchanges as f64)
}

async fn connect(entry: SocketAddr, connections: u64) -> Result<f64> {
    let each = connections / CONNECTIONS as u64;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(tokio::spawn(async move {
            for _ in 0..each {
                http_once(entry).await?;
            }
            anyhow::Ok(())
        }));
    }
    for client in clients {
        client.await??;
    }
    Ok((each * CONNECTIONS as u64) as f64)
}

async fn http_once(entry: SocketAddr) -> Result<()> {
    let mut socket = dial(entry).await?;
    socket.write_all(&[b'h'; REQUEST_BYTES]).await?;
    socket.read_exact(&mut [0; ANSWER_BYTES]).await?;
    socket.shutdown().await?;
    socket.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

/// Holds connections that have said one byte each way. Run it `direct` as well: the difference is the proxies'.
fn idle(entry: SocketAddr, connections: u64) -> Result<()> {
    let before = rss_kib()?;
    let grown = on_this_thread(async {
        let mut held = Vec::new();
        for _ in 0..connections {
            let mut socket = dial(entry).await?;
            socket.write_all(b"i").await?;
            socket.read_exact(&mut [0]).await?;
            held.push(socket);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(rss_kib()? - before)
    })?;
    println!("{:.2} KiB per idle connection, load and application included", grown / connections as f64);
    Ok(())
}

fn rss_kib() -> Result<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = statm.split(' ').nth(1).context("statm is short")?.parse()?;
    Ok(pages * 4.0)
}
