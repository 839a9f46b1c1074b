//! Whose requests reach a service behind a waypoint: by tokens, as RequestAuthentications state them, with real pods and the
//! shipped proxies. Keys are made by each test and end with it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ebb_tests::{
    app::App,
    behind::{Behind, Port},
    mesh::{SETTLED, eventually},
    peer::Server,
};
use harness::report::Described;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);
const KEYS_PORT: u16 = 8000;

/// Somebody who signs tokens.
struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Result<Self> {
        Ok(Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?))
    }

    fn jwks(&self, id: &str) -> String {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": id, "x": x, "y": y }] }).to_string()
    }

    /// A token of the issuer `tests` for `alice`, that expires after so many seconds, with further claims.
    fn token(&self, id: &str, expires_in: i64, more: &Value) -> Result<String> {
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
        let mut claims = json!({ "iss": "tests", "sub": "alice", "aud": "server", "exp": now + expires_in });
        let more = more.as_object().cloned().unwrap_or_default();
        claims.as_object_mut().context("an object")?.extend(more);
        let header = URL_SAFE_NO_PAD.encode(json!({ "alg": "ES256", "kid": id }).to_string());
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }
}

/// An answer, read to the end of its connection.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    /// What the server saw.
    fn seen(&self) -> Result<Described> {
        ensure!(self.status == 200, "{self:?}");
        serde_json::from_str(&self.body).with_context(|| format!("{self:?}"))
    }

    fn told(&self) -> (u16, &str) {
        (self.status, &self.body)
    }
}

/// A request by the client, through its ztunnel and the waypoint.
fn ask(stage: &Behind, path: &str, headers: &str) -> Result<Reply> {
    let mut stream = stage.pod("client")?.namespace().connect(Behind::at(Port::Http), SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: server.shop\r\nConnection: close\r\n{headers}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

fn bearing(stage: &Behind, token: &str) -> Result<Reply> {
    ask(stage, "/", &format!("Authorization: Bearer {token}\r\n"))
}

/// Waits until a request with these headers is answered so.
fn comes(stage: &Behind, headers: &str, status: u16, body: &str) -> Result<()> {
    let mut last = String::new();
    let outcome = eventually(&format!("{status} {body:?}"), SETTLED, || {
        let reply = ask(stage, "/", headers)?;
        last = format!("{reply:?}");
        Ok(reply.status == status && reply.body.contains(body))
    });
    outcome.with_context(|| last)
}

/// A RequestAuthentication for the service, with keys as `keys` says.
fn authentication(keys: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata:\n  name: tokens\n  namespace: shop\nspec:\n  \
         targetRefs: [{{kind: Service, name: server}}]\n  jwtRules:\n  - issuer: tests\n    audiences: [server]\n    {keys}\n    \
         outputPayloadToHeader: x-payload\n    outputClaimToHeaders: [{{header: x-user, claim: sub}}]\n"
    )
}

#[test]
fn a_token_says_who_calls_and_nothing_else_does() -> Result<()> {
    let mut stage = Behind::build()?;
    let _server = stage.serve(&["http", "--name", "server"])?;
    let (mine, next) = (Signer::new()?, Signer::new()?);
    let good = mine.token("k", 600, &json!({}))?;
    let forged = "X-User: root\r\nx-payload: e30\r\n";
    comes(&stage, forged, 200, "root")?;

    stage.mesh.apply("50-tokens.yaml", &authentication(&format!("jwks: '{}'", mine.jwks("k"))))?;
    comes(&stage, "Authorization: Bearer x\r\n", 401, "3 sections")?;
    let seen = ask(&stage, "/", forged)?.seen()?;
    assert!(!seen.headers.contains_key("x-user") && !seen.headers.contains_key("x-payload"), "{seen:?}");
    let seen =
        ask(&stage, "/?a=1", &format!("{forged}Connection: x-user\r\nAuthorization: Bearer {good}\r\n"))?
            .seen()?;
    assert_eq!(seen.headers.get("x-user").map(String::as_str), Some("alice"), "{seen:?}");
    assert_eq!(seen.headers.get("x-payload").map(String::as_str), good.split('.').nth(1));
    assert!(!seen.headers.contains_key("authorization"), "{seen:?}");
    let seen = ask(&stage, &format!("/p?a=1&access_token={good}&b"), "")?.seen()?;
    assert_eq!((seen.path.as_str(), seen.headers["x-user"].as_str()), ("/p?a=1&b", "alice"));

    let expired = bearing(&stage, &mine.token("k", -3600, &json!({}))?)?;
    assert_eq!(expired.told(), (401, "Jwt is expired"));
    let challenge = "www-authenticate: bearer realm=\"http://server.shop/\", error=\"invalid_token\"";
    assert!(expired.head.contains(challenge), "{expired:?}");
    stage.logged(&["jwt_authn_access_denied{Jwt_is_expired}", "401"])?;
    let other = bearing(&stage, &mine.token("k", 600, &json!({ "aud": "others" }))?)?;
    assert_eq!(other.told(), (403, "Audiences in Jwt are not allowed"));
    let stranger = bearing(&stage, &mine.token("k", 600, &json!({ "iss": "strangers" }))?)?;
    assert_eq!(stranger.told(), (401, "Jwt issuer is not configured"));
    assert_eq!(bearing(&stage, &next.token("k", 600, &json!({}))?)?.told(), (401, "Jwt verification fails"));
    assert_eq!(bearing(&stage, &good)?.status, 200);

    // Routes see claims.
    stage.mesh.apply("51-routes.yaml", ROUTES)?;
    let admin = mine.token("k", 600, &json!({ "groups": ["dev", "admin"] }))?;
    comes(&stage, &format!("Authorization: Bearer {admin}\r\n"), 418, "")?;
    assert_eq!(bearing(&stage, &good)?.status, 200);

    // Other keys: what was verified by the old ones is not believed any more.
    stage.mesh.apply("50-tokens.yaml", &authentication(&format!("jwks: '{}'", next.jwks("k"))))?;
    comes(&stage, &format!("Authorization: Bearer {good}\r\n"), 401, "Jwt verification fails")?;
    let renewed = next.token("k", 600, &json!({}))?;
    assert_eq!(bearing(&stage, &renewed)?.seen()?.headers["x-user"], "alice");
    unreadable(&mut stage, &next, &renewed)
}

/// One that breaks stays as it was; one that was never read lets nothing through.
fn unreadable(stage: &mut Behind, signer: &Signer, good: &str) -> Result<()> {
    let stated = authentication(&format!("jwks: '{}'", signer.jwks("k")));
    stage.mesh.apply("50-tokens.yaml", &stated.replace("audiences", "audience"))?;
    stage.logged(&["RequestAuthentication shop/tokens", "unknown field"])?;
    assert_eq!(bearing(stage, good)?.seen()?.headers["x-user"], "alice");
    let broken = stated.replace("name: tokens", "name: more").replace("issuer", "isuer");
    stage.mesh.apply("52-more.yaml", &broken)?;
    comes(stage, "", 403, "RequestAuthentication cannot be read")?;
    assert_eq!(bearing(stage, good)?.status, 403);
    stage.mesh.apply("52-more.yaml", "# nothing any more\n")?;
    comes(stage, "", 200, "")?;
    assert_eq!(bearing(stage, good)?.status, 200);
    Ok(())
}

#[test]
fn keys_are_fetched_from_where_they_may_be_and_once() -> Result<()> {
    let mut stage = Behind::build()?;
    stage.mesh.run(&[App::new("issuer").label("istio.io/dataplane-mode", "none")])?;
    let _server = stage.serve(&["http", "--name", "server"])?;
    let signer = Signer::new()?;
    let (asked, jwks) = (Arc::new(AtomicUsize::new(0)), signer.jwks("k"));
    let count = asked.clone();
    let _keys = Server::start(stage.pod("issuer")?.namespace(), KEYS_PORT, move |stream, _| {
        count.fetch_add(1, Relaxed);
        serve_keys(stream, &jwks);
    })?;
    let issuer = SocketAddr::new(stage.pod("issuer")?.addresses().v4.into(), KEYS_PORT);
    let good = format!("Authorization: Bearer {}\r\n", signer.token("k", 600, &json!({}))?);
    let state = |stage: &mut Behind, url: &str| {
        stage.mesh.apply("50-tokens.yaml", &authentication(&format!("jwksUri: \"{url}\"\n    timeout: 2s")))
    };

    state(&mut stage, &format!("http://{issuer}/jwks"))?;
    comes(&stage, &good, 200, "alice")?;
    for _ in 0..10 {
        assert_eq!(ask(&stage, "/", &good)?.seen()?.headers["x-user"], "alice");
    }
    assert_eq!(asked.load(Relaxed), 1, "one fetch for all requests");

    let own = stage.pod("wp")?.addresses().v4;
    for url in [
        format!("http://{issuer}/redirect"),
        format!("http://{own}:15020/stats/prometheus"),
        "http://127.0.0.1:15000/config_dump".to_owned(),
        "http://169.254.169.254/latest/meta-data".to_owned(),
    ] {
        state(&mut stage, &url)?;
        comes(&stage, &good, 401, "Jwks remote fetch is failed").with_context(|| url.clone())?;
        assert_eq!(ask(&stage, "/", "")?.status, 200, "{url}: who has no token needs no keys");
    }
    stage.logged(&["keys cannot be fetched", "redirect"])?;
    stage.logged(&["keys cannot be fetched", "this machine"])?;
    state(&mut stage, &format!("http://{issuer}/jwks"))?;
    comes(&stage, &good, 200, "alice")
}

/// `/jwks`, and anything else a redirect to it.
fn serve_keys(mut stream: TcpStream, jwks: &str) {
    let mut head = [0; 4096];
    let Ok(read) = stream.read(&mut head) else { return };
    let answer = match head[..read].starts_with(b"GET /jwks ") {
        true => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{jwks}", jwks.len()),
        false => "HTTP/1.1 302 Found\r\nLocation: /jwks\r\nContent-Length: 0\r\n\r\n".to_owned(),
    };
    // Whoever asked may be gone.
    let _ = stream.write_all(answer.as_bytes());
}

const ROUTES: &str = r#"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: server, namespace: shop}
spec:
  hosts: [server]
  http:
    - match: [{headers: {"@request.auth.claims.groups": {exact: admin}}}]
      directResponse: {status: 418}
    - route: [{destination: {host: server}}]
"#;
