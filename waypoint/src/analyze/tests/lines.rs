//! On which line a finding stands.

use super::*;

/// What is wrong, each on a line that says so, beside what is sound.
const WRONG: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: lines
  namespace: shop
spec:
  hosts:
  - web # IST0109
  - wed # EBB0014
  http:
  - match:
    - uri: {prefix: /a}
    route:
    - destination:
        host: web
      weight: 50
    - destination:
        host: web
        subset: v9 # IST0101
      weight: 50
  - match: [{uri: {prefix: /b}}]
    route: # EBB0007
    - destination: {host: web}
      weight: 1
    - destination:
        host: web
        port:
          number: 81 # IST0101
      weight: 1
    mirrors:
    - destination:
        host: gone # IST0101
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: lines, namespace: shop}
spec:
  selector:
    matchLabels: # IST0127
      app: wed
  rules:
  - {}
  - to: # EBB0005
    - operation:
        methods: [GET]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: lines, namespace: shop}
spec:
  targetRef: # IST0101
    kind: Service
    name: wed
---
apiVersion: v1
kind: Service
metadata:
  name: lines
  namespace: shop
  labels:
    app: web
    istio.io/use-waypoint: gone # EBB0001
spec:
  clusterIP: 10.96.0.77
  ports:
  - {name: http, port: 80}
---
# A list, whose items are documents.
apiVersion: v1
kind: List
items:
- apiVersion: networking.istio.io/v1
  kind: DestinationRule
  metadata: {name: lines, namespace: shop}
  spec:
    host: web
    subsets:
    - name: a
      labels: {version: v1}
    - name: b
      labels: # EBB0012
        version: v9
- apiVersion: v1
  kind: Service
  metadata: {name: bad, namespace: shop}
  spec:
    ports:
    - port: 80
    - port: 0 # IST0106
";

#[test]
fn a_finding_stands_on_the_line_of_the_field_at_fault() {
    let text = format!("{SOUND}{WRONG}");
    let found = found(&text);
    let mut wanted = 0;
    for (line, content) in (1..).zip(text.lines()) {
        let Some((_, code)) = content.split_once(" # ") else { continue };
        wanted += 1;
        let is_it = |it: &&Finding| it.code.id == code && it.origin.line == line;
        assert!(found.iter().any(|it| is_it(&it)), "{line}: {content}\n{found:#?}");
    }
    assert_eq!(wanted, 12, "the text says what is wrong where");
}

#[test]
fn json_over_several_lines_is_told_by_its_lines_too() {
    let json = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"List\",\n\t\"items\": [\n\t\t{\n\t\t\t\"apiVersion\": \"v1\",\n\t\t\t\"kind\": \
                \"Namespace\",\n\t\t\t\"metadata\": {\n\t\t\t\t\"name\": \"other\",\n\t\t\t\t\"labels\": {\n\t\t\t\t\t\
                \"istio.io/use-waypoint\": \"gone\"\n\t\t\t\t}\n\t\t\t}\n\t\t}\n\t]\n}\n";
    let found = found(json);
    let missing = found.iter().find(|it| it.code.id == "EBB0001").unwrap();
    assert_eq!((missing.origin.line, &*missing.field), (11, "metadata.labels.istio.io/use-waypoint"));
}
