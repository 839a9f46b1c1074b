//! Writes manifests of every kind that decides anything, as many as are asked for, to try what looks at manifests at scale.
//!
//! `cargo run --release -p ebb-common --example mixed -- DIRECTORY [OBJECTS]`: a namespace for each hundred services, each
//! service with three pods, a VirtualService, a DestinationRule, two policies, a PeerAuthentication and, one in four,
//! an HTTPRoute, a RequestAuthentication and a ServiceEntry; a waypoint for each namespace.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Services of one namespace.
const PER_NAMESPACE: usize = 100;
/// Pods of one service.
const PODS: usize = 3;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().context("DIRECTORY is missing")?;
    let objects: usize = arguments.next().map_or(Ok(10_000), |it| it.parse())?;
    fs::create_dir_all(&directory)?;
    let (mut written, mut number) = (0, 0);
    while written < objects {
        let namespace = number / PER_NAMESPACE;
        if number.is_multiple_of(PER_NAMESPACE) {
            written += write(&directory, &format!("{namespace:04}-namespace.yaml"), &shared(namespace))?;
        }
        written +=
            write(&directory, &format!("{namespace:04}-{number:05}.yaml"), &service(namespace, number))?;
        number += 1;
    }
    println!("{written} objects, {number} services, in {directory}");
    Ok(())
}

/// Writes a file and returns how many documents are in it.
fn write(directory: &str, name: &str, text: &str) -> Result<usize> {
    fs::write(Path::new(directory).join(name), text)?;
    Ok(text.matches("apiVersion:").count())
}

fn address(number: usize) -> String {
    format!("10.{}.{}.{}", number / 62_500, number / 250 % 250, number % 250 + 1)
}

/// What the services of a namespace have together.
fn shared(number: usize) -> String {
    let ip = address(4_000_000 + number);
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: team-{number}\n  labels: {{istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: waypoint\n  namespace: team-{number}\nspec:\n  gatewayClassName: istio-waypoint\n  listeners:\n    - {{name: mesh, port: 15008, protocol: HBONE}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata:\n  name: waypoint-1\n  namespace: team-{number}\n  uid: waypoint-{number}\n  labels: {{gateway.networking.k8s.io/gateway-name: waypoint}}\nspec:\n  nodeName: node-1\n  serviceAccountName: waypoint\nstatus:\n  phase: Running\n  podIPs: [{{ip: {ip}}}]\n  conditions: [{{type: Ready, status: 'True'}}]\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: everything\n  namespace: team-{number}\nspec:\n  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}}]\n  action: DENY\n  rules:\n    - to: [{{operation: {{paths: ['/internal/*']}}}}]\n"
    )
}

/// A service and all that is stated about it.
fn service(namespace: usize, number: usize) -> String {
    let (name, of) = (format!("app-{number}"), format!("team-{namespace}"));
    let vip = address(9_000_000 + number);
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {of}\nspec:\n  clusterIP: {vip}\n  selector: {{app: {name}}}\n  ports:\n    - {{name: http, port: 80, targetPort: 8080}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: {name}\n  namespace: {of}\nspec:\n  hosts: [{name}]\n  http:\n    - name: beta\n      match:\n        - headers: {{x-user: {{regex: '.*-beta-[0-9]+'}}}}\n        - uri: {{prefix: /beta}}\n      route:\n        - destination: {{host: {name}, subset: v2}}\n    - name: rest\n      timeout: 5s\n      retries: {{attempts: 2, retryOn: '5xx'}}\n      route:\n        - {{destination: {{host: {name}, subset: v1}}, weight: 90}}\n        - {{destination: {{host: {name}, subset: v2}}, weight: 10}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: {name}\n  namespace: {of}\nspec:\n  host: {name}\n  trafficPolicy:\n    connectionPool: {{http: {{http2MaxRequests: 100}}}}\n    outlierDetection: {{consecutive5xxErrors: 5}}\n  subsets:\n    - {{name: v1, labels: {{version: v1}}}}\n    - {{name: v2, labels: {{version: v2}}}}\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}\n  namespace: {of}\nspec:\n  targetRefs: [{{group: '', kind: Service, name: {name}}}]\n  rules:\n    - to: [{{operation: {{methods: [GET, POST], paths: ['/*']}}}}]\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}-pods\n  namespace: {of}\nspec:\n  selector: {{matchLabels: {{app: {name}}}}}\n  rules:\n    - from: [{{source: {{principals: ['cluster.local/ns/{of}/sa/waypoint']}}}}]\n---\n\
         apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: {name}\n  namespace: {of}\nspec:\n  selector: {{matchLabels: {{app: {name}}}}}\n  mtls: {{mode: STRICT}}\n"
    );
    for pod in 0..PODS {
        let ip = address(number * PODS + pod);
        let version = if pod == 0 { "v2" } else { "v1" };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}-{pod}\n  namespace: {of}\n  uid: {name}-{pod}\n  labels: {{app: {name}, version: {version}}}\nspec:\n  nodeName: node-{}\n  serviceAccountName: {name}\nstatus:\n  phase: Running\n  podIPs: [{{ip: {ip}}}]\n  conditions: [{{type: Ready, status: 'True'}}]\n",
            number % 50
        );
    }
    if number.is_multiple_of(4) {
        text.push_str(&more(&of, &name, number));
    }
    text
}

/// What one service in four has besides.
fn more(of: &str, name: &str, number: usize) -> String {
    let entry = address(12_000_000 + number);
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: {name}\n  namespace: {of}\nspec:\n  parentRefs:\n    - {{group: '', kind: Service, name: {name}}}\n  rules:\n    - matches: [{{path: {{type: PathPrefix, value: /api}}}}]\n      backendRefs: [{{name: {name}, port: 80}}]\n---\n\
         apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata:\n  name: {name}\n  namespace: {of}\nspec:\n  targetRefs: [{{group: '', kind: Service, name: {name}}}]\n  jwtRules:\n    - {{issuer: 'https://issuer.example/{name}', jwksUri: 'https://issuer.example/{name}/keys'}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: {name}-out\n  namespace: {of}\nspec:\n  hosts: [{name}.example.com]\n  addresses: [{entry}]\n  ports: [{{number: 443, name: tls, protocol: TLS}}]\n  resolution: STATIC\n  endpoints: [{{address: 198.51.100.7}}]\n"
    )
}
