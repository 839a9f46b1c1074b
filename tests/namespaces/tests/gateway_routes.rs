//! Routes of the Gateway API, from pod to pod through a waypoint.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use ebb_tests::{
    app::App,
    behind::{Behind, Port},
    mesh::{SETTLED, eventually},
    peer::SOON,
};
use harness::report::{Described, GrpcReport};

/// Requests whose versions are counted, one in ten of which is to go to the second.
const COUNTED: usize = 300;
/// Fewer or more of them at the second happen less than once in a million runs of a correct waypoint.
const BOUNDS: std::ops::RangeInclusive<usize> = 7..=59;

struct Stage {
    behind: Behind,
}

impl Stage {
    /// Two versions of a service, a shadow, a store in another namespace, and somebody who calls from a third.
    fn build() -> Result<Self> {
        let mut behind = Behind::build()?;
        let mesh = &mut behind.mesh;
        mesh.namespace("data", true)?;
        mesh.namespace("other", true)?;
        mesh.apply("42-web.yaml", SERVICES)?;
        let web = |version: &str| {
            App::new(&format!("web-{version}")).http().label("part-of", "web").label("version", version)
        };
        mesh.run(&[web("v1"), web("v2").on(1), App::new("shadow").http()])?;
        mesh.run(&[App::new("store").of("data").http()])?;
        mesh.run(&[App::new("caller").of("other")])?;
        Ok(Self { behind })
    }

    fn apply(&mut self, file: &str, yaml: &str) -> Result<()> {
        self.behind.mesh.apply(file, yaml)
    }

    /// One request of a pod to the service `web`, on a connection of its own.
    fn ask_from(&self, pod: &str, path: &str, headers: &str) -> Result<Reply> {
        let to = SocketAddr::new(IpAddr::from([10, 96, 0, 20]), 80);
        let mut stream = self.behind.pod(pod)?.namespace().connect(to, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: web.shop\r\nConnection: close\r\n{headers}\r\n")?;
        read_reply(stream).with_context(|| format!("the answer to {path}"))
    }

    fn ask(&self, path: &str, headers: &str) -> Result<Reply> {
        self.ask_from("client", path, headers)
    }

    /// Waits until a request is answered with a status.
    fn wait_for(&self, path: &str, headers: &str, status: u16) -> Result<()> {
        let what = format!("{status} for {path} {headers:?}");
        let seen = eventually(&what, SETTLED, || Ok(self.ask(path, headers)?.status == status));
        seen.with_context(|| self.behind.waypoint().map(|it| it.tail()).unwrap_or_default())
    }

    /// How many requests a pod has had.
    fn served(&self, pod: &str) -> Result<u64> {
        let own = SocketAddr::from(([127, 0, 0, 1], 8080));
        let (_, count) = self.behind.pod(pod)?.namespace().http_get(own, "/-/served", SOON)?;
        Ok(count.trim().parse()?)
    }
}

/// The one answer of a connection.
fn read_reply(mut stream: TcpStream) -> Result<Reply> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    let status = head.get(9..12).context("no status")?.parse()?;
    Ok(Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn described(&self) -> Result<Described> {
        // The body may come in chunks; the description is the one line of JSON in it.
        let json = self.body.lines().find(|line| line.starts_with('{')).unwrap_or(&self.body);
        serde_json::from_str(json).with_context(|| format!("{self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

#[test]
fn requests_go_where_http_routes_say() -> Result<()> {
    let mut stage = Stage::build()?;
    stage.apply("50-faults.yaml", FAULT)?;
    stage.apply("51-virtual.yaml", VIRTUAL)?;
    stage.wait_for("/", "", 418)?;
    stage.apply("52-routes.yaml", ROUTES)?;
    // The route takes the place of the VirtualService, and that is said.
    stage.wait_for("/", "", 200)?;
    stage.behind.logged(&["VirtualService shop/web: of no effect", "HTTPRoute shop/web attaches"])?;

    splits_and_matches(&stage)?;
    changes_and_answers(&stage)?;
    copies(&stage)?;
    session(&stage)?;
    scripts(&stage)?;
    stage.behind.mesh.finish()
}

fn splits_and_matches(stage: &Stage) -> Result<()> {
    let mut second = 0;
    for _ in 0..COUNTED {
        let seen = stage.ask("/", "")?.described()?;
        second += usize::from(seen.version == "v2");
    }
    assert!(BOUNDS.contains(&second), "{second} of {COUNTED} went to v2");
    for _ in 0..5 {
        assert_eq!(stage.ask("/", "x-user: debug\r\n")?.described()?.version, "v2");
    }
    // By segments, so that /v10 is none of /v1; and the longer prefix before the shorter, wherever it is stated.
    assert_eq!(stage.ask("/v1/long/thing", "")?.described()?.headers["x-rule"], "long");
    assert_eq!(stage.ask("/v1/thing", "")?.described()?.path, "/api/thing");
    assert_eq!(stage.ask("/v1", "")?.described()?.path, "/api");
    assert_eq!(stage.ask("/v10/thing", "")?.described()?.path, "/v10/thing");
    Ok(())
}

fn changes_and_answers(stage: &Stage) -> Result<()> {
    let rewritten = stage.ask("/v1/thing?q=1", "")?;
    assert_eq!(rewritten.header("x-answered"), Some("yes"));
    let seen = rewritten.described()?;
    assert_eq!((seen.path.as_str(), seen.headers["host"].as_str()), ("/api/thing?q=1", "inner.example"));
    let redirected = stage.ask("/old/thing?q=1", "")?;
    let location = redirected.header("location");
    assert_eq!((redirected.status, location), (302, Some("https://new.example/fresh/thing?q=1")));
    let began = Instant::now();
    assert_eq!(stage.ask("/delay/5000", "")?.status, 504);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let aborted = stage.ask("/fault", "")?;
    assert_eq!((aborted.status, aborted.body.as_str()), (429, "fault filter abort"));
    assert_eq!(stage.ask("/unknown-filter", "")?.status, 500);
    assert_eq!(stage.ask("/nobody", "")?.status, 500);
    Ok(())
}

fn copies(stage: &Stage) -> Result<()> {
    let before = stage.served("shadow")?;
    for _ in 0..10 {
        assert_eq!(stage.ask("/mirrored", "")?.status, 200);
    }
    eventually("ten copies at the shadow", SETTLED, || Ok(stage.served("shadow")? == before + 10))?;
    let seen = stage.ask("/backend/thing", "")?.described()?;
    assert_eq!((seen.path.as_str(), seen.headers["host"].as_str()), ("/own/thing", "own.example"));
    eventually("a copy of what one backend gets", SETTLED, || Ok(stage.served("shadow")? == before + 11))
}

/// A session stays with its endpoint, whatever the weights of the backends.
fn session(stage: &Stage) -> Result<()> {
    let first = stage.ask("/session", "")?;
    let cookie = first.header("set-cookie").context("no cookie")?.split(';').next().unwrap_or_default();
    let name = first.described()?.name;
    let header = format!("Cookie: {cookie}\r\n");
    for _ in 0..20 {
        let next = stage.ask("/session", &header)?;
        assert_eq!((next.header("set-cookie"), next.described()?.name.as_str()), (None, name.as_str()));
    }
    // One that is idle for as long as anybody takes to ask again begins anew each time.
    let brief = stage.ask("/idle", "")?;
    let cookie = brief.header("set-cookie").context("no cookie")?.split(';').next().unwrap_or_default();
    let again = stage.ask("/idle", &format!("Cookie: {cookie}\r\n"))?;
    assert!(again.header("set-cookie").is_some_and(|it| it.starts_with("brief=")), "{again:?}");
    Ok(())
}

/// A script of a page that the route names may ask, and that of another may not.
fn scripts(stage: &Stage) -> Result<()> {
    let before = stage.served("web-v1")?;
    let ask = |origin: &str| stage.ask("/scripts", &format!("Origin: {origin}\r\n"));
    let to = SocketAddr::new(IpAddr::from([10, 96, 0, 20]), 80);
    let preflight = |origin: &str| -> Result<Reply> {
        let mut stream = stage.behind.pod("client")?.namespace().connect(to, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        write!(
            stream,
            "OPTIONS /scripts HTTP/1.1\r\nHost: web.shop\r\nConnection: close\r\nOrigin: {origin}\r\n\
             Access-Control-Request-Method: PUT\r\n\r\n"
        )?;
        read_reply(stream)
    };
    let allowed = preflight("https://app.example")?;
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://app.example"), "{allowed:?}");
    assert_eq!(allowed.header("access-control-allow-methods"), Some("get,put"), "{allowed:?}");
    assert_eq!(allowed.header("access-control-max-age"), Some("60"), "{allowed:?}");
    assert_eq!(preflight("https://evil.example")?.header("access-control-allow-origin"), None);
    assert_eq!(stage.served("web-v1")?, before, "a preflight reached the pod");
    let asked = ask("https://app.example")?;
    assert_eq!(asked.header("access-control-allow-origin"), Some("https://app.example"), "{asked:?}");
    assert_eq!(ask("https://evil.example")?.header("access-control-allow-origin"), None);
    Ok(())
}

#[test]
fn a_route_reaches_as_far_as_its_namespace_lets_it() -> Result<()> {
    let mut stage = Stage::build()?;
    stage.apply("50-routes.yaml", NAMESPACES)?;
    stage.wait_for("/store", "", 500)?;
    // The route of the callers' namespace is for them alone.
    let of_caller = || stage.ask_from("other/caller", "/", "");
    eventually("the consumer's own route", SETTLED, || {
        Ok(of_caller()?.header("x-route") == Some("consumer"))
    })?;
    assert_eq!(stage.ask("/", "")?.header("x-route"), Some("producer"));
    assert_eq!(stage.ask_from("other/caller", "/store", "")?.status, 404, "it sees no other route");

    let grant = |kind: &str| GRANT.replace("KIND", kind);
    stage.apply("51-grant.yaml", &grant("GRPCRoute"))?;
    assert_eq!(stage.ask("/store", "")?.status, 500, "the grant is for others");
    stage.apply("51-grant.yaml", &grant("HTTPRoute"))?;
    stage.wait_for("/store", "", 200)?;
    assert!(stage.ask("/store", "")?.described()?.name.starts_with("store"));
    stage.behind.mesh.kubelet_mut().delete("51-grant.yaml")?;
    stage.wait_for("/store", "", 500)?;
    stage.behind.mesh.finish()
}

#[test]
fn calls_of_grpc_go_where_their_route_says() -> Result<()> {
    const UNIMPLEMENTED: i32 = 12;
    const UNAVAILABLE: i32 = 14;
    const RESOURCE_EXHAUSTED: i32 = 8;
    let mut behind = Behind::build()?;
    let _server = behind.serve(&["grpc", "--port", "8081"])?;
    behind.mesh.apply("50-grpc.yaml", GRPC)?;
    let call = |behind: &Behind, shape: &str| -> Result<GrpcReport> {
        behind.report(&["grpc-call", &Behind::at(Port::Grpc).to_string(), shape])
    };
    eventually("the route to be in force", SETTLED, || Ok(call(&behind, "chat")?.code == UNIMPLEMENTED))?;
    let unary = call(&behind, "unary")?;
    assert_eq!((unary.code, unary.notes), (0, 1), "{unary:?}");
    assert_eq!(call(&behind, "sum")?.code, RESOURCE_EXHAUSTED, "by the fault that the route names");
    assert_eq!(call(&behind, "expand")?.code, UNAVAILABLE, "its backend is missing");
    behind.mesh.finish()
}

const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: wp}}
spec:
  clusterIP: 10.96.0.20
  selector: {part-of: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web-v1, namespace: shop, labels: {istio.io/use-waypoint: wp}}
spec:
  clusterIP: 10.96.0.21
  selector: {app: web-v1}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web-v2, namespace: shop, labels: {istio.io/use-waypoint: wp}}
spec:
  clusterIP: 10.96.0.22
  selector: {app: web-v2}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: shadow, namespace: shop, labels: {istio.io/use-waypoint: wp}}
spec:
  clusterIP: 10.96.0.23
  selector: {app: shadow}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: store, namespace: data}
spec:
  clusterIP: 10.96.0.24
  selector: {app: store}
  ports: [{name: http, port: 80, targetPort: 8080}]
"#;

const VIRTUAL: &str = r#"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http: [{directResponse: {status: 418}}]
"#;

const FAULT: &str = r#"
apiVersion: gateway.ebb.dev/v1alpha1
kind: HTTPFaultFilter
metadata: {name: enough, namespace: shop}
spec: {abort: {httpStatus: 429, percentage: {value: 100}}}
"#;

const ROUTES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
    - backendRefs:
        - {name: web-v1, port: 80, weight: 90}
        - {name: web-v2, port: 80, weight: 10}
    - matches: [{headers: [{name: x-user, value: debug}]}]
      backendRefs: [{name: web-v2, port: 80}]
    - matches: [{path: {value: /v1}}]
      filters:
        - type: URLRewrite
          urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /api/}}
        - type: ResponseHeaderModifier
          responseHeaderModifier: {set: [{name: x-answered, value: "yes"}]}
      backendRefs: [{name: web-v1, port: 80}]
    - matches: [{path: {value: /v1/long}}]
      filters:
        - type: RequestHeaderModifier
          requestHeaderModifier: {add: [{name: x-rule, value: long}]}
      backendRefs: [{name: web-v1, port: 80}]
    - matches: [{path: {value: /old}}]
      filters:
        - type: RequestRedirect
          requestRedirect: {scheme: https, hostname: new.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /fresh}}
    - matches: [{path: {value: /delay}}]
      timeouts: {request: 2s, backendRequest: 1s}
      backendRefs: [{name: web-v1, port: 80}]
    - matches: [{path: {value: /mirrored}}]
      filters:
        - type: RequestMirror
          requestMirror: {backendRef: {name: shadow, port: 80}}
      backendRefs: [{name: web-v1, port: 80}]
    - matches: [{path: {type: Exact, value: /fault}}]
      filters:
        - type: ExtensionRef
          extensionRef: {group: gateway.ebb.dev, kind: HTTPFaultFilter, name: enough}
      backendRefs: [{name: web-v1, port: 80}]
    - matches: [{path: {type: Exact, value: /unknown-filter}}]
      filters:
        - type: ExtensionRef
          extensionRef: {group: example.com, kind: Whatever, name: x}
      backendRefs: [{name: web-v1, port: 80}]
    - matches: [{path: {type: Exact, value: /nobody}}]
      backendRefs: [{name: web-v1, port: 80, weight: 0}]
    - matches: [{path: {type: Exact, value: /scripts}}]
      filters:
        - type: CORS
          cors: {allowOrigins: ["https://app.example"], allowMethods: [GET, PUT], maxAge: 60}
      backendRefs: [{name: web-v1, port: 80}]
    - matches: [{path: {value: /backend}}]
      backendRefs:
        - name: web-v1
          port: 80
          filters:
            - type: URLRewrite
              urlRewrite: {hostname: own.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /own}}
            - type: RequestMirror
              requestMirror: {backendRef: {name: shadow, port: 80}}
    - matches: [{path: {type: Exact, value: /idle}}]
      sessionPersistence: {sessionName: brief, idleTimeout: 1ms}
      backendRefs: [{name: web-v1, port: 80}, {name: web-v2, port: 80}]
    - matches: [{path: {type: Exact, value: /session}}]
      sessionPersistence: {sessionName: stay}
      backendRefs: [{name: web-v1, port: 80}, {name: web-v2, port: 80}]
"#;

const NAMESPACES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: producer, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
    - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: producer}]}}]
      backendRefs: [{name: web, port: 80}]
    - matches: [{path: {value: /store}}]
      backendRefs: [{name: store, namespace: data, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: consumer, namespace: other}
spec:
  parentRefs: [{group: "", kind: Service, name: web, namespace: shop}]
  rules:
    - matches: [{path: {type: Exact, value: /}}]
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: consumer}]}}]
      backendRefs: [{name: web, namespace: shop, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: to-web, namespace: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other}]
  to: [{group: "", kind: Service, name: web}]
"#;

const GRANT: &str = r#"
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: to-store, namespace: data}
spec:
  from: [{group: gateway.networking.k8s.io, kind: KIND, namespace: shop}]
  to: [{group: "", kind: Service}]
"#;

const GRPC: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: notes, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: server, sectionName: grpc}]
  rules:
    - matches: [{method: {service: ebb.Notes, method: Unary}}]
      backendRefs: [{name: server, port: 8081}]
    - matches: [{method: {type: RegularExpression, service: "ebb\\..+", method: "Sum|Witness"}}]
      filters:
        - type: ExtensionRef
          extensionRef: {group: gateway.ebb.dev, kind: HTTPFaultFilter, name: exhausted}
      backendRefs: [{name: server, port: 8081}]
    - matches: [{method: {method: Expand}}]
      backendRefs: [{name: nobody, port: 8081}]
---
apiVersion: gateway.ebb.dev/v1alpha1
kind: HTTPFaultFilter
metadata: {name: exhausted, namespace: shop}
spec: {abort: {grpcStatus: RESOURCE_EXHAUSTED, percentage: {value: 100}}}
"#;
