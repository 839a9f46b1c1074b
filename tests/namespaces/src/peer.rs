//! Peers that follow a script: servers and clients on sockets in a pod's namespace, run by threads of the test.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use harness::{cluster::Pod, netns::Namespace};
use nix::sched::{CloneFlags, setns};
use socket2::SockRef;

/// How long anything that should happen may take.
pub const SOON: Duration = Duration::from_secs(10);

/// Longest greeting of an echo server.
const GREETING_MAX: usize = 512;

/// Both ends of an accepted connection as the server saw them, IPv4 written as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The client.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
}

/// A server in a pod. It holds the pod's namespace open until it is dropped.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    accepted: Arc<Mutex<Vec<Accepted>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens in `namespace` on `port` of every address, and gives each connection to `serve` on a thread of its own.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(
        namespace: &Namespace,
        port: u16,
        serve: impl Fn(TcpStream, Accepted) + Clone + Send + 'static,
    ) -> Result<Self> {
        let listener = namespace.within(|| {
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).with_context(|| format!("listen on {port}"))
        })?;
        let accepted: Arc<Mutex<Vec<Accepted>>> = Arc::default();
        let (accepting, seen) = (listener.try_clone()?, Arc::clone(&accepted));
        let thread = std::thread::Builder::new().name("server".into()).spawn(move || {
            // Ends when the listener is shut down.
            while let Ok((stream, peer)) = accepting.accept() {
                let Ok(local) = stream.local_addr() else { continue };
                let ends = Accepted { peer: canonical(peer), local: canonical(local) };
                lock(&seen).push(ends);
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream, ends));
            }
        })?;
        Ok(Self { listener, accepted, thread: Some(thread) })
    }

    /// A server that says who it is and whom it sees, and then sends back what it gets.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn echo(pod: &Pod, port: u16) -> Result<Self> {
        let name = pod.name().to_owned();
        Self::start(pod.namespace(), port, move |mut stream, ends| {
            let _ = stream.set_nodelay(true);
            if stream.write_all(format!("{name} {}\n", ends.peer).as_bytes()).is_ok() {
                let mut buffer = [0; 16 * 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            }
        })
    }

    /// Every connection accepted so far.
    #[must_use]
    pub fn accepted(&self) -> Vec<Accepted> {
        lock(&self.accepted).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // `accept` of a listener that is shut down returns with an error.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Where connections are made from.
pub trait Origin {
    /// Connects.
    ///
    /// # Errors
    /// No answer within `within`, or a refusal.
    fn reach(&self, to: SocketAddr, within: Duration) -> Result<TcpStream>;
}

impl Origin for Namespace {
    fn reach(&self, to: SocketAddr, within: Duration) -> Result<TcpStream> {
        self.connect(to, within)
    }
}

/// A way into a namespace that outlives whoever made it, for clients that run while the mesh is changed.
#[derive(Debug)]
pub struct Doorway(File);

impl Doorway {
    /// A way into `namespace`.
    ///
    /// # Errors
    /// It is gone.
    pub fn to(namespace: &Namespace) -> Result<Self> {
        Ok(Self(File::open(namespace.path())?))
    }

    /// Takes the calling thread through it, for good.
    ///
    /// # Errors
    /// The namespace is gone, or the thread may not.
    pub fn enter(&self) -> Result<()> {
        setns(&self.0, CloneFlags::CLONE_NEWNET).context("enter a namespace")
    }
}

impl Origin for Doorway {
    fn reach(&self, to: SocketAddr, within: Duration) -> Result<TcpStream> {
        // A thread of its own, because a namespace is a property of the thread.
        std::thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                self.enter()?;
                TcpStream::connect_timeout(&to, within).with_context(|| format!("connect to {to}"))
            });
            connecting.join().map_err(|_| anyhow!("the connecting thread panicked"))?
        })
    }
}

/// What an echo server says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The sandbox of the pod it runs in.
    pub server: String,
    /// The client's address as it sees it.
    pub client: SocketAddr,
}

/// An open connection to an echo server.
#[derive(Debug)]
pub struct Flow {
    stream: TcpStream,
    /// What the server said.
    pub greeting: Greeting,
}

impl Flow {
    /// Connects and reads the greeting.
    ///
    /// # Errors
    /// There was no connection or no greeting.
    pub fn open(from: &impl Origin, to: SocketAddr) -> Result<Self> {
        Self::open_within(from, to, SOON)
    }

    /// As [`Flow::open`], with a deadline for each step.
    ///
    /// # Errors
    /// As [`Flow::open`].
    pub fn open_within(from: &impl Origin, to: SocketAddr, within: Duration) -> Result<Self> {
        let mut stream = from.reach(to, within)?;
        stream.set_read_timeout(Some(within))?;
        stream.set_write_timeout(Some(within))?;
        stream.set_nodelay(true)?;
        let greeting =
            greeting(&mut stream).with_context(|| format!("greeting of the echo server at {to}"))?;
        Ok(Self { stream, greeting })
    }

    /// Sends `text` and waits until it came back.
    ///
    /// # Errors
    /// It did not, or something else did.
    pub fn say(&mut self, text: &str) -> Result<()> {
        self.stream.write_all(text.as_bytes()).context("send")?;
        let mut back = vec![0; text.len()];
        self.stream.read_exact(&mut back).context("receive the echo")?;
        ensure!(back == text.as_bytes(), "the echo is {:?}", String::from_utf8_lossy(&back));
        Ok(())
    }

    /// Whether the connection has been ended from the other side `within` this time, without a further byte.
    ///
    /// # Errors
    /// A byte came instead.
    pub fn ends(&mut self, within: Duration) -> Result<bool> {
        self.stream.set_read_timeout(Some(within))?;
        match self.stream.read(&mut [0]) {
            Ok(0) => Ok(true),
            Ok(_) => bail!("a byte came from a connection that should be silent"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(_) => Ok(true),
        }
    }

    /// The client's end.
    ///
    /// # Errors
    /// The socket is closed.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// The socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

fn greeting(stream: &mut TcpStream) -> Result<Greeting> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.len() < GREETING_MAX {
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            let text = String::from_utf8(line)?;
            let (server, client) = text.split_once(' ').context("a greeting has two words")?;
            return Ok(Greeting { server: server.into(), client: client.parse()? });
        }
        line.extend_from_slice(&byte);
    }
    bail!("no end of the greeting")
}

/// One whole exchange with an echo server: greeting, `text` there and back, both ends closed in good order.
///
/// # Errors
/// Any of it did not happen.
pub fn call(from: &Pod, to: SocketAddr, text: &str) -> Result<Greeting> {
    let what = || format!("call from {} to {to}", from.name());
    let mut flow = Flow::open(from.namespace(), to).with_context(what)?;
    flow.say(text).with_context(what)?;
    flow.stream.shutdown(Shutdown::Write).with_context(what)?;
    ensure!(flow.ends(SOON).with_context(what)?, "{}: the server did not close", what());
    let (seen, own) = (flow.greeting.client.ip(), canonical(flow.local()?).ip());
    ensure!(seen == own, "{}: the server sees the client at {seen}, which is at {own}", what());
    Ok(flow.greeting)
}

/// An attempt that must fail: connects and sends `text`. The connection itself may be made (a proxy accepts before it can
/// judge), but no byte may come back, and it must have ended.
///
/// # Errors
/// A byte came, or it did not end soon.
pub fn refused(from: &Namespace, to: SocketAddr, text: &str) -> Result<()> {
    let Ok(mut stream) = from.connect(to, SOON) else { return Ok(()) };
    stream.set_read_timeout(Some(SOON))?;
    // A peer that has already reset the connection makes this fail, which is one of the right ends.
    let _ = stream.write_all(text.as_bytes());
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => bail!("{to} answered what it should refuse"),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            bail!("{to} neither answered nor refused")
        }
        Err(_) => Ok(()),
    }
}

/// An address with the port that servers of tests use.
#[must_use]
pub fn at(ip: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(ip.into(), 8080)
}
