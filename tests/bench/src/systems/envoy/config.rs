//! Writes the static configuration of one Envoy: what Istio gives a sidecar, without Istio's own filters and metrics, or a
//! plain proxy between client and server.
//!
//! Pure. What is not set is Envoy's default on purpose: cipher order, session resumption, buffer limits, no access log. Two
//! things are set because the defaults would end a measurement: circuit breakers, and TLS 1.3 as the least version.

use std::{net::SocketAddrV4, path::PathBuf};

use serde_json::{Value, json};

use crate::systems::{
    VERSION_HEADER,
    certificates::Identity,
    redirect::{INBOUND, OUTBOUND},
    routes,
    stage::port,
};

/// Envoy's admin port, on loopback.
pub(super) const ADMIN: u16 = 15000;

/// Instead of 1,024 connections, pending ones and requests.
const CIRCUIT_BREAKER: u32 = 1_000_000;

/// Where an Envoy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// In the client's pod, where it encrypts what the client sends.
    Client,
    /// In the server's, where it decrypts that and hands it to the server.
    Server,
    /// In a pod of its own; clients call it.
    Between,
}

/// What it takes a connection for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    /// Bytes.
    Connections,
    /// HTTP requests, each of which is compared with `routes` routes, but for those on the server's side.
    Requests { routes: u32 },
    /// HTTP requests, by the routes in a file.
    ByFile(PathBuf),
}

/// Who it is, and with whom it speaks.
#[derive(Clone, Debug)]
pub(super) struct Security {
    pub(super) own: Identity,
    /// SPIFFE URIs.
    pub(super) peers: Vec<String>,
    /// PEM.
    pub(super) authority: String,
}

/// One Envoy.
#[derive(Clone, Debug)]
pub(super) struct Instance<'a> {
    pub(super) side: Side,
    /// Where the server listens.
    pub(super) servers: &'a [SocketAddrV4],
    /// None: plain text.
    pub(super) security: Option<Security>,
    pub(super) carries: Carries,
}

impl Instance<'_> {
    /// The whole configuration.
    pub(super) fn config(&self) -> Value {
        let clusters: Vec<Value> = self.servers.iter().map(|server| self.cluster(*server)).collect();
        json!({
            // Needed to read routes from a file; nobody else hears of it.
            "node": { "id": "bench", "cluster": "bench" },
            "admin": { "address": address("127.0.0.1", ADMIN) },
            "static_resources": { "listeners": self.listeners(), "clusters": clusters },
        })
    }

    fn listeners(&self) -> Vec<Value> {
        let port = match self.side {
            Side::Client => OUTBOUND,
            Side::Server => INBOUND,
            Side::Between => return self.servers.iter().map(|server| self.open_listener(*server)).collect(),
        };
        let chains: Vec<Value> = self.servers.iter().map(|server| self.matching_chain(*server)).collect();
        vec![json!({
            "name": "redirected",
            "address": address("0.0.0.0", port),
            "listener_filters": [{
                "name": "envoy.filters.listener.original_dst",
                "typed_config": typed("filters.listener.original_dst.v3.OriginalDst", json!({})),
            }],
            "filter_chains": chains,
        })]
    }

    /// Listens on the server's own port, for whoever connects.
    fn open_listener(&self, server: SocketAddrV4) -> Value {
        json!({
            "name": name(server),
            "address": address("0.0.0.0", server.port()),
            "filter_chains": [self.chain(server)],
        })
    }

    fn matching_chain(&self, server: SocketAddrV4) -> Value {
        let mut chain = self.chain(server);
        chain["filter_chain_match"] = json!({ "destination_port": server.port() });
        chain
    }

    fn chain(&self, server: SocketAddrV4) -> Value {
        let name = name(server);
        let filter = match &self.carries {
            Carries::Connections => tcp_proxy(&name),
            // The server's side has one route to its application, as Istio's has.
            _ if self.side == Side::Server => {
                http_connection_manager(&name, routed(&name, &routes::table(1)))
            }
            Carries::Requests { routes } => {
                http_connection_manager(&name, routed(&name, &routes::table(*routes)))
            }
            // Only the port that is called has so many; the others ask for names that are not in the file.
            Carries::ByFile(_) if server.port() != port::HTTP => {
                http_connection_manager(&name, routed(&name, &routes::table(1)))
            }
            Carries::ByFile(path) => {
                let source = json!({ "path_config_source": { "path": path }, "resource_api_version": "V3" });
                let rds = json!({ "rds": { "route_config_name": name, "config_source": source } });
                http_connection_manager(&name, rds)
            }
        };
        let mut chain = json!({ "name": name, "filters": [filter] });
        if let (Side::Server, Some(security)) = (self.side, &self.security) {
            let mut context = tls(security);
            context["require_client_certificate"] = true.into();
            chain["transport_socket"] = transport("DownstreamTlsContext", context);
        }
        chain
    }

    fn cluster(&self, server: SocketAddrV4) -> Value {
        let name = name(server);
        let endpoint = json!({ "endpoint": { "address": address(&server.ip().to_string(), server.port()) } });
        let mut cluster = json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "10s",
            "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] },
            "circuit_breakers": { "thresholds": [{
                "max_connections": CIRCUIT_BREAKER,
                "max_pending_requests": CIRCUIT_BREAKER,
                "max_requests": CIRCUIT_BREAKER,
            }] },
        });
        if let (Side::Client, Some(security)) = (self.side, &self.security) {
            cluster["transport_socket"] = transport("UpstreamTlsContext", tls(security));
        }
        cluster
    }
}

fn tcp_proxy(name: &str) -> Value {
    let proxy = json!({ "stat_prefix": name, "cluster": name });
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": typed("filters.network.tcp_proxy.v3.TcpProxy", proxy),
    })
}

/// Routes to the cluster `name`, stated in place.
fn routed(name: &str, rules: &[routes::Rule]) -> Value {
    let routes = routes::envoy_routes(rules, name);
    json!({ "route_config": {
        "name": name,
        "virtual_hosts": [{ "name": name, "domains": ["*"], "routes": routes }],
    } })
}

/// Routes requests as `routing` says. Paths are normalised, as in Istio.
fn http_connection_manager(name: &str, routing: Value) -> Value {
    let mut manager = routing;
    manager["stat_prefix"] = name.into();
    manager["normalize_path"] = true.into();
    manager["http_filters"] = json!([{
        "name": "envoy.filters.http.router",
        "typed_config": typed("filters.http.router.v3.Router", json!({})),
    }]);
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config":
            typed("filters.network.http_connection_manager.v3.HttpConnectionManager", manager),
    })
}

/// The file of routes for `server`: a virtual host for each of `services`, as Istio's routes of one port have; that of the
/// service that is called, whose answers carry `version`, is the one for all other names.
pub(super) fn routes_file(server: SocketAddrV4, services: u32, version: u32) -> String {
    let cluster = name(server);
    let other = |number: u32| {
        json!({
            "name": format!("other-{number}"),
            "domains": [format!("other-{number}"), format!("other-{number}.bench.svc.cluster.local")],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": cluster, "timeout": "1s" } }],
        })
    };
    let called = json!({
        "name": "called",
        "domains": ["*"],
        "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": cluster, "timeout": "0s" } }],
        "response_headers_to_add": [{
            "header": { "key": VERSION_HEADER, "value": version.to_string() },
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }],
    });
    let hosts: Vec<Value> = (1..services).map(other).chain([called]).collect();
    json!({ "version_info": version.to_string(), "resources": [{
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": cluster,
        "virtual_hosts": hosts,
    }] })
    .to_string()
}

/// The part that both kinds of TLS context share: TLS 1.3, an identity of one's own, and who the peer must be.
fn tls(security: &Security) -> Value {
    let peers: Vec<Value> =
        security.peers.iter().map(|uri| json!({ "san_type": "URI", "matcher": { "exact": uri } })).collect();
    json!({ "common_tls_context": {
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": { "inline_string": security.own.chain },
            "private_key": { "inline_string": security.own.key },
        }],
        "validation_context": {
            "trusted_ca": { "inline_string": security.authority },
            "match_typed_subject_alt_names": peers,
        },
    } })
}

fn transport(kind: &str, context: Value) -> Value {
    let config = typed(&format!("transport_sockets.tls.v3.{kind}"), context);
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": config })
}

fn typed(kind: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/envoy.extensions.{kind}").into();
    config
}

fn address(ip: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": ip, "port_value": port } })
}

fn name(server: SocketAddrV4) -> String {
    format!("server-{}", server.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systems::certificates::Authority;

    fn config(side: Side, carries: Carries) -> Value {
        let servers = ["10.0.0.9:8080", "10.0.0.9:9000"].map(|server| server.parse().unwrap());
        let authority = Authority::new().unwrap();
        let own = authority.identity("one").unwrap();
        let security = Security { own, peers: vec!["spiffe://a/b".into()], authority: authority.pem() };
        let security = (side != Side::Between).then_some(security);
        Instance { side, servers: &servers, security, carries }.config()
    }

    #[test]
    fn plaintext_is_only_between_an_application_and_its_own_sidecar() {
        let of = |side| config(side, Carries::Connections)["static_resources"].clone();
        let (client, server) = (of(Side::Client), of(Side::Server));
        for index in 0..2 {
            let chain = |config: &Value| config["listeners"][0]["filter_chains"][index].clone();
            let cluster = |config: &Value| config["clusters"][index].clone();
            assert!(chain(&client).get("transport_socket").is_none());
            assert!(cluster(&client).get("transport_socket").is_some());
            assert_eq!(
                chain(&server)["transport_socket"]["typed_config"]["require_client_certificate"],
                true
            );
            assert!(cluster(&server).get("transport_socket").is_none());
        }
    }

    #[test]
    fn the_clients_sidecar_has_the_routes_and_the_servers_one() {
        let routes = |side| {
            let config = config(side, Carries::Requests { routes: 10 });
            let chain = &config["static_resources"]["listeners"][0]["filter_chains"][0];
            let hosts = &chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"];
            hosts[0]["routes"].as_array().unwrap().len()
        };
        assert_eq!((routes(Side::Client), routes(Side::Server)), (10, 1));
    }

    #[test]
    fn each_port_of_the_server_has_a_chain_and_a_cluster() {
        let resources = config(Side::Client, Carries::Connections)["static_resources"].clone();
        let chain = &resources["listeners"][0]["filter_chains"][1];
        assert_eq!(chain["filter_chain_match"]["destination_port"], 9000);
        assert_eq!(chain["filters"][0]["typed_config"]["cluster"], resources["clusters"][1]["name"]);
    }

    #[test]
    fn one_that_stands_between_listens_on_the_servers_ports_and_encrypts_nothing() {
        let config = config(Side::Between, Carries::Requests { routes: 1 });
        let listeners = config["static_resources"]["listeners"].as_array().unwrap();
        assert_eq!(listeners.len(), 2);
        assert_eq!(listeners[1]["address"]["socket_address"]["port_value"], 9000);
        assert!(!config.to_string().contains("transport_socket"));
    }

    #[test]
    fn versions_of_a_file_of_routes_differ_in_the_version_alone() {
        let server = "10.0.0.9:8080".parse().unwrap();
        let text = routes_file(server, 3, 7);
        assert_eq!(text.replace("\"7\"", "\"8\""), routes_file(server, 3, 8));
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["resources"][0]["virtual_hosts"].as_array().unwrap().len(), 3);
        let by_file = config(Side::Client, Carries::ByFile("/x.json".into()));
        let chain = &by_file["static_resources"]["listeners"][0]["filter_chains"][0];
        let wanted = &chain["filters"][0]["typed_config"]["rds"]["route_config_name"];
        assert_eq!(*wanted, read["resources"][0]["name"]);
    }
}
