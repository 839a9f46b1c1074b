//! Manifests in the words of tests: who runs where as whom, and which service stands before them.

use std::fmt::Write;

/// A Deployment whose pods are named by it, of one replica until told otherwise.
#[derive(Clone, Debug)]
pub struct App {
    pub(crate) namespace: String,
    pub(crate) name: String,
    account: String,
    node: usize,
    image: String,
    replicas: u32,
    stops_after: u32,
    labels: Vec<(String, String)>,
}

impl App {
    /// A pod that only sleeps, in `shop`, on the first node, under the account of its own name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            namespace: "shop".into(),
            name: name.into(),
            account: name.into(),
            node: 0,
            image: "ebb.dev/sleep".into(),
            replicas: 1,
            stops_after: 0,
            labels: Vec::new(),
        }
    }

    /// In another namespace.
    #[must_use]
    pub fn of(mut self, namespace: &str) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// On another node, counted from 0.
    #[must_use]
    pub fn on(mut self, node: usize) -> Self {
        self.node = node;
        self
    }

    /// Under another account.
    #[must_use]
    pub fn account(mut self, account: &str) -> Self {
        self.account = account.into();
        self
    }

    /// Serves HTTP on port 8080 instead of sleeping.
    #[must_use]
    pub fn http(mut self) -> Self {
        self.image = "ebb.dev/http-echo".into();
        self
    }

    /// The shipped waypoint, as one of the Gateway of that name in its namespace.
    #[must_use]
    pub fn waypoint(mut self, gateway: &str) -> Self {
        self.image = "ebb.dev/waypoint".into();
        self.label("gateway.networking.k8s.io/gateway-name", gateway)
    }

    /// So many replicas.
    #[must_use]
    pub fn replicas(mut self, count: u32) -> Self {
        self.replicas = count;
        self
    }

    /// Its pods are known to be ending for so many seconds before they do.
    #[must_use]
    pub fn stops_after(mut self, seconds: u32) -> Self {
        self.stops_after = seconds;
        self
    }

    /// With a further label on its pods.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.push((name.into(), value.into()));
        self
    }

    /// The Deployment.
    #[must_use]
    pub fn manifest(&self) -> String {
        let Self { namespace, name, account, node, image, replicas, stops_after, labels } = self;
        let mut more = String::new();
        for (label, value) in labels {
            let _ = write!(more, ", {label}: \"{value}\"");
        }
        let hook = match stops_after {
            0 => String::new(),
            seconds => format!(", lifecycle: {{preStop: {{sleep: {{seconds: {seconds}}}}}}}"),
        };
        let node = node + 1;
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
             replicas: {replicas}\n  selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}{more}}}}}\n    \
             spec:\n      serviceAccountName: {account}\n      nodeName: node-{node}\n      containers:\n        - {{name: \
             app, image: {image}, ports: [{{containerPort: 8080}}]{hook}}}\n"
        )
    }
}

/// A dual-stack Service `name` in `shop` for pods labelled `app: NAME`: port 80 leads to 8080. Its addresses end in
/// `number`.
#[must_use]
pub fn service(name: &str, number: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  clusterIP: \
         10.96.0.{number}\n  clusterIPs: [10.96.0.{number}, \"fd00:10:96::{number:x}\"]\n  ipFamilies: [IPv4, IPv6]\n  \
         ipFamilyPolicy: RequireDualStack\n  selector: {{app: {name}}}\n  ports: [{{name: tcp, port: 80, targetPort: \
         8080}}]\n"
    )
}

/// The waypoint `name` in `shop`, for calls to services, workloads, all or none.
#[must_use]
pub fn gateway(name: &str, stands_for: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: {name}\n  namespace: shop\n  labels: \
         {{istio.io/waypoint-for: {stands_for}}}\nspec:\n  gatewayClassName: istio-waypoint\n  listeners: [{{name: mesh, \
         port: 15008, protocol: HBONE}}]\n"
    )
}

/// A Namespace, in the mesh or not.
#[must_use]
pub fn namespace(name: &str, ambient: bool) -> String {
    let labels = if ambient { "{istio.io/dataplane-mode: ambient}" } else { "{}" };
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {labels}\n")
}
