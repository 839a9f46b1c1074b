//! Keys from a real server on a loopback address that only tests may reach. `127.0.0.2` is not where connections to it come
//! from, so that it passes for another machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::join_all;
use rcgen::{CertificateParams, Issuer, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::authn::fetch::LookUp;
use crate::authn::reach::may_reach;

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const SOON: Duration = Duration::from_secs(5);
const JWKS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"a"}]}"#;

fn answer(status: &str, more: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{more}content-length: {}\r\n\r\n{body}", body.len())
}

fn good() -> String {
    answer("200 OK", "", JWKS)
}

/// A server that answers its requests one after the other with these, the last of them for ever; an empty one is silence.
struct Server {
    port: u16,
    asked: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(answers: Vec<String>) -> Self {
        Self::start_at(ELSEWHERE, answers, None).await
    }

    async fn start_at(at: Ipv4Addr, answers: Vec<String>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((at, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, heads) = (Arc::new(AtomicUsize::new(0)), Arc::<Mutex<Vec<String>>>::default());
        let (count, kept) = (asked.clone(), heads.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let at = count.fetch_add(1, Relaxed);
                let answer = answers[at.min(answers.len() - 1)].clone();
                let (tls, kept) = (tls.clone(), kept.clone());
                tokio::spawn(async move {
                    match tls {
                        None => converse(socket, &answer, &kept).await,
                        Some(tls) => {
                            if let Ok(socket) = tls.accept(socket).await {
                                converse(socket, &answer, &kept).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, asked, heads }
    }

    fn url(&self) -> KeySource {
        KeySource::Uri(format!("http://keys.example:{}/jwks?a=b", self.port).into())
    }

    fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

async fn converse(mut io: impl AsyncRead + AsyncWrite + Unpin, answer: &str, heads: &Mutex<Vec<String>>) {
    let mut head = vec![0; 4096];
    let read = io.read(&mut head).await.unwrap_or(0);
    heads.lock().unwrap().push(String::from_utf8_lossy(&head[..read]).into_owned());
    if answer.is_empty() {
        return std::future::pending().await;
    }
    // Whoever does not want all of it goes away.
    let _ = io.write_all(answer.as_bytes()).await;
    let _ = io.shutdown().await;
}

fn leads_to(addresses: &'static [IpAddr]) -> LookUp {
    Box::new(move |_| Box::pin(async move { Ok(addresses.to_vec()) }))
}

const THERE: &[IpAddr] = &[IpAddr::V4(ELSEWHERE)];

/// May reach what tests serve on.
fn tester() -> Fetcher {
    Fetcher::new(leads_to(THERE), |_| true, "".into())
}

async fn fetch(source: &KeySource) -> Result<Bytes, FetchError> {
    tester().keys(source, Duration::from_millis(500)).await
}

fn keys() -> Keys {
    Keys::new(tester(), Handle::current())
}

#[tokio::test]
async fn keys_are_fetched_once_however_many_wait() {
    let server = Server::start(vec![good()]).await;
    let keys = keys();
    let (one, two) = (keys.fetched(&server.url(), SOON), keys.fetched(&server.url(), SOON));
    assert!(Arc::ptr_eq(&one, &two) && !one.was_tried() && one.now().is_none());
    join_all((0..50).map(|_| one.tried())).await;
    assert_eq!((one.now().unwrap().len(), server.asked()), (1, 1));
    let head = server.heads.lock().unwrap()[0].to_ascii_lowercase();
    assert!(head.starts_with("get /jwks?a=b http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: keys.example:{}\r\n", server.port)), "{head}");
}

#[tokio::test]
async fn nobody_waits_for_a_second_try_and_keys_come_when_they_can() {
    let server = Server::start(vec![answer("503 Busy", "", ""), good()]).await;
    let remote = keys().fetched(&server.url(), SOON);
    remote.tried().await;
    assert!(remote.now().is_none() && remote.was_tried());
    remote.tried().await;
    let mut waited = 0;
    while remote.now().is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        waited += 1;
        assert!(waited < 500, "no further try");
    }
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn an_unknown_key_asks_for_new_ones_and_not_too_often() {
    let other = JWKS.replace("\"a\"", "\"b\"");
    let server = Server::start(vec![good(), answer("200 OK", "", &other), good()]).await;
    let remote = keys().fetched(&server.url(), SOON);
    remote.tried().await;
    let first = remote.now().unwrap();
    for _ in 0..100 {
        remote.ask_again();
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    tokio::time::advance(EARLY_REFRESH + Duration::from_secs(1)).await;
    tokio::time::resume();
    let mut waited = 0;
    while Arc::ptr_eq(&first, &remote.now().unwrap()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        waited += 1;
        assert!(waited < 500, "no further try");
    }
    assert_eq!(server.asked(), 2, "a hundred tokens are one reason to ask");
}

#[tokio::test]
async fn who_wants_no_keys_any_more_has_none_fetched() {
    let server = Server::start(vec![good()]).await;
    let keys = keys();
    let remote = keys.fetched(&server.url(), SOON);
    remote.tried().await;
    let before = Arc::downgrade(&remote);
    drop(remote);
    assert!(before.upgrade().is_none(), "its task does not hold it");
    let anew = keys.fetched(&server.url(), SOON);
    anew.tried().await;
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_again_stay_for_a_day() {
    tokio::time::pause();
    let remote = RemoteKeys::new(KeySource::Uri("http://a/".into()), SOON);
    let mut last = Last::default();
    let failed = || Err(FetchError::Status(http::StatusCode::BAD_GATEWAY));
    let again = last.take(&remote, Ok(JWKS.into()));
    assert!((REFRESH.mul_f64(0.9)..REFRESH.mul_f64(1.1)).contains(&again));
    let first = remote.now().unwrap();
    last.take(&remote, Ok(JWKS.into()));
    assert!(Arc::ptr_eq(&first, &remote.now().unwrap()), "the same keys are the same value");
    let waits: Vec<u64> = (0..8).map(|_| last.take(&remote, failed()).as_secs()).collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert!(Arc::ptr_eq(&first, &remote.now().unwrap()));
    last.take(&remote, Ok("{\"keys\": []}".into()));
    assert!(remote.now().is_some(), "what is no JWKS takes no keys away");
    tokio::time::advance(MAX_STALENESS + Duration::from_secs(1)).await;
    last.take(&remote, failed());
    assert!(remote.now().is_none(), "too old to be believed");
    last.take(&remote, Ok(JWKS.into()));
    assert!(remote.now().is_some());
}

#[tokio::test]
async fn what_is_not_a_plain_good_answer_gives_no_keys() {
    let elsewhere = Server::start(vec![good()]).await;
    let to = format!("location: http://keys.example:{}/\r\n", elsewhere.port);
    let long = "x".repeat(common::config::authentication::MAX_JWKS_BYTES + 1);
    for (text, expected) in [
        (answer("302 Found", &to, ""), "a redirect; it is not followed"),
        (answer("308 Permanent Redirect", &to, JWKS), "a redirect; it is not followed"),
        (answer("404 Not Found", "", JWKS), "status 404"),
        (answer("204 No Content", "", ""), "status 204"),
        (answer("200 OK", "", &long), "the body: "),
        (
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n100001\r\n{long}\r\n0\r\n\r\n"),
            "the body: ",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}".to_owned(), "the body: "),
        ("nonsense\r\n\r\n".to_owned(), "HTTP: "),
        (String::new(), "nothing within 500ms"),
    ] {
        let server = Server::start(vec![text.clone()]).await;
        let told = fetch(&server.url()).await.unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
    }
    assert_eq!(elsewhere.asked(), 0, "nobody followed");
    let closed = KeySource::Uri("http://keys.example:1/".into());
    assert!(matches!(fetch(&closed).await, Err(FetchError::Connect { .. })));
}

#[tokio::test]
async fn a_slow_server_holds_nobody_longer_than_the_deadline() {
    let server = Server::start(vec![String::new()]).await;
    let remote = keys().fetched(&server.url(), Duration::from_millis(300));
    let began = std::time::Instant::now();
    remote.tried().await;
    assert!(remote.now().is_none());
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test]
async fn this_machine_and_what_is_link_local_are_not_asked() {
    let here = Server::start_at(Ipv4Addr::LOCALHOST, vec![good()], None).await;
    let source = KeySource::Uri(format!("http://keys.example:{}/", here.port).into());
    for addresses in [
        &["127.0.0.1", "::1", "::ffff:127.0.0.1"][..],
        &["169.254.169.254", "fe80::1"],
        &["0.0.0.0", "::"],
        &[],
    ] {
        let addresses: Vec<IpAddr> = addresses.iter().map(|it| it.parse().unwrap()).collect();
        let look_up: LookUp = Box::new(move |_| {
            let addresses = addresses.clone();
            Box::pin(async move { Ok(addresses) })
        });
        let told = Fetcher::new(look_up, may_reach, "".into()).keys(&source, SOON).await;
        assert!(matches!(told, Err(FetchError::Forbidden(_))), "{told:?}");
    }
    // By their spelling, through the machine's own resolver.
    for host in ["127.0.0.1", "[::1]", "localhost", "0x7f.1", "017700000001", "0", "[::ffff:7f00:1]"] {
        let source = KeySource::Uri(format!("http://{host}:{}/", here.port).into());
        let told = Fetcher::default().keys(&source, SOON).await;
        assert!(told.is_err(), "{host} gave keys");
    }
    // An address of its own that no list knows.
    let own = Fetcher::new(leads_to(&[IpAddr::V4(Ipv4Addr::LOCALHOST)]), |_| true, "".into());
    assert!(matches!(own.keys(&source, SOON).await, Err(FetchError::Myself(_))));
    let heads = here.heads.lock().unwrap().concat();
    assert_eq!(heads, "", "not a word was said to it");
}

#[tokio::test]
async fn a_name_is_looked_up_once_and_the_address_that_was_looked_at_is_connected_to() {
    let server = Server::start(vec![good()]).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let look_up: LookUp = Box::new(move |_| {
        let turn = count.fetch_add(1, Relaxed);
        let here = vec![Ipv4Addr::LOCALHOST.into()];
        let both = vec![Ipv4Addr::LOCALHOST.into(), IpAddr::V4(ELSEWHERE)];
        Box::pin(async move { Ok(if turn == 0 { both } else { here }) })
    });
    let fetcher = Fetcher::new(look_up, |it| it != IpAddr::V4(Ipv4Addr::LOCALHOST), "".into());
    fetcher.keys(&server.url(), SOON).await.unwrap();
    assert_eq!((asked.load(Relaxed), server.asked()), (1, 1));
    let again = fetcher.keys(&server.url(), SOON).await;
    assert!(matches!(again, Err(FetchError::Forbidden(_))), "{again:?}");
}

#[tokio::test]
async fn an_issuer_says_where_its_keys_are() {
    let server = Server::start(vec![good()]).await;
    let document = |uri: &str| answer("200 OK", "", &format!(r#"{{"issuer":"x","jwks_uri":"{uri}"}}"#));
    let uri = format!("http://keys.example:{}/jwks", server.port);
    let discovery = Server::start(vec![document(&uri)]).await;
    let source = |server: &Server| {
        KeySource::Discovery(
            format!("http://me.example:{}/.well-known/openid-configuration", server.port).into(),
        )
    };
    assert_eq!(fetch(&source(&discovery)).await.unwrap(), JWKS);
    for wrong in [document("file:///etc/passwd"), document("/jwks"), answer("200 OK", "", "{}"), good()] {
        let server = Server::start(vec![wrong.clone()]).await;
        assert!(fetch(&source(&server)).await.is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn over_tls_a_server_is_verified_by_chain_and_name() {
    let authority = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&authority).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["keys.example".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::from_params(&params, &authority)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = Server::start_at(ELSEWHERE, vec![good()], Some(acceptor)).await;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("root.pem");
    std::fs::write(&path, root.pem()).unwrap();
    let trusting = |path: &str| Fetcher::new(leads_to(THERE), |_| true, path.into());
    let source = |host: &str| KeySource::Uri(format!("https://{host}:{}/jwks", server.port).into());
    let path = path.to_str().unwrap();
    assert_eq!(trusting(path).keys(&source("keys.example"), SOON).await.unwrap(), JWKS);
    let told = trusting(path).keys(&source("other.example"), SOON).await;
    assert!(matches!(told, Err(FetchError::Tls(_))), "{told:?}");
    let told = trusting("").keys(&source("keys.example"), SOON).await;
    assert!(matches!(told, Err(FetchError::Tls(_))), "{told:?}");
    let plain = KeySource::Uri(format!("http://keys.example:{}/jwks", server.port).into());
    assert!(trusting(path).keys(&plain, SOON).await.is_err());
}

#[test]
fn addresses_that_tests_use_are_refused_to_everybody_else() {
    assert!(!may_reach(ELSEWHERE.into()));
    let here: SocketAddr = "[::1]:80".parse().unwrap();
    assert!(!may_reach(here.ip()));
}
