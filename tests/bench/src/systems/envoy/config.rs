//! Writes the static configuration of one sidecar: what Istio gives a sidecar, without Istio's own filters and metrics.
//!
//! Pure. What is not set is Envoy's default on purpose: cipher order, session resumption, buffer limits, no access log. Two
//! things are set because the defaults would end a measurement: circuit breakers, and TLS 1.3 as the least version.

use std::net::SocketAddrV4;

use serde_json::{Value, json};

use super::certificates::{Certificates, Identity};
use crate::systems::routes;

/// Where a client's connections are redirected to, as in a sidecar of Istio's.
pub(super) const OUTBOUND: u16 = 15001;

/// Where connections to a server are redirected to.
pub(super) const INBOUND: u16 = 15006;

/// Envoy's admin port, on loopback.
pub(super) const ADMIN: u16 = 15000;

/// Instead of 1,024 connections, pending ones and requests.
const CIRCUIT_BREAKER: u32 = 1_000_000;

/// Which end of a connection a sidecar is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Encrypts what the client sends.
    Client,
    /// Decrypts it and hands it to the server.
    Server,
}

/// What a sidecar takes a connection for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    /// Bytes.
    Connections,
    /// HTTP requests, of which the client's sidecar compares each with `routes` routes.
    Requests { routes: u32 },
}

/// The whole configuration of the sidecar on `side`, for a server that listens on `servers`.
pub(super) fn sidecar(
    side: Side,
    servers: &[SocketAddrV4],
    certificates: &Certificates,
    carries: Carries,
) -> Value {
    let port = match side {
        Side::Client => OUTBOUND,
        Side::Server => INBOUND,
    };
    let chains: Vec<Value> =
        servers.iter().map(|server| filter_chain(side, *server, certificates, carries)).collect();
    let clusters: Vec<Value> = servers.iter().map(|server| cluster(side, *server, certificates)).collect();
    json!({
        "admin": { "address": address("127.0.0.1", ADMIN) },
        "static_resources": {
            "listeners": [{
                "name": "redirected",
                "address": address("0.0.0.0", port),
                "listener_filters": [{
                    "name": "envoy.filters.listener.original_dst",
                    "typed_config": typed("filters.listener.original_dst.v3.OriginalDst", json!({})),
                }],
                "filter_chains": chains,
            }],
            "clusters": clusters,
        },
    })
}

fn filter_chain(side: Side, server: SocketAddrV4, certificates: &Certificates, carries: Carries) -> Value {
    let name = name(server);
    let filter = match carries {
        Carries::Connections => {
            let proxy = json!({ "stat_prefix": name, "cluster": name });
            json!({
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": typed("filters.network.tcp_proxy.v3.TcpProxy", proxy),
            })
        }
        Carries::Requests { routes } => {
            // The server's side has one route to its application, as Istio's has.
            let count = if side == Side::Client { routes } else { 1 };
            http_connection_manager(&name, &routes::table(count))
        }
    };
    let mut chain = json!({
        "name": name,
        "filter_chain_match": { "destination_port": server.port() },
        "filters": [filter],
    });
    if side == Side::Server {
        let mut context = tls(&certificates.server, &certificates.client, &certificates.authority);
        context["require_client_certificate"] = true.into();
        chain["transport_socket"] = transport("DownstreamTlsContext", context);
    }
    chain
}

/// Routes each request to the cluster `name`. Paths are normalised, as in Istio.
fn http_connection_manager(name: &str, rules: &[routes::Rule]) -> Value {
    let routes = routes::envoy_routes(rules, name);
    let manager = json!({
        "stat_prefix": name,
        "normalize_path": true,
        "route_config": {
            "name": name,
            "virtual_hosts": [{ "name": name, "domains": ["*"], "routes": routes }],
        },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": typed("filters.http.router.v3.Router", json!({})),
        }],
    });
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config":
            typed("filters.network.http_connection_manager.v3.HttpConnectionManager", manager),
    })
}

fn cluster(side: Side, server: SocketAddrV4, certificates: &Certificates) -> Value {
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
    if side == Side::Client {
        let context = tls(&certificates.client, &certificates.server, &certificates.authority);
        cluster["transport_socket"] = transport("UpstreamTlsContext", context);
    }
    cluster
}

/// The part that both kinds of TLS context share: TLS 1.3, an identity of one's own, and who the peer must be.
fn tls(own: &Identity, peer: &Identity, authority: &str) -> Value {
    json!({ "common_tls_context": {
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": { "inline_string": own.chain },
            "private_key": { "inline_string": own.key },
        }],
        "validation_context": {
            "trusted_ca": { "inline_string": authority },
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": peer.uri } }],
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

    fn config(side: Side) -> Value {
        let servers = ["10.0.0.9:8080", "10.0.0.9:9000"].map(|server| server.parse().unwrap());
        sidecar(side, &servers, &Certificates::generate().unwrap(), Carries::Connections)
    }

    #[test]
    fn plaintext_is_only_between_an_application_and_its_own_sidecar() {
        let (client, server) = (config(Side::Client), config(Side::Server));
        for index in 0..2 {
            let chain =
                |config: &Value| config["static_resources"]["listeners"][0]["filter_chains"][index].clone();
            let cluster = |config: &Value| config["static_resources"]["clusters"][index].clone();
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
            let servers = ["10.0.0.9:8080".parse().unwrap()];
            let certificates = Certificates::generate().unwrap();
            let config = sidecar(side, &servers, &certificates, Carries::Requests { routes: 10 });
            let chain = &config["static_resources"]["listeners"][0]["filter_chains"][0];
            let hosts = &chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"];
            hosts[0]["routes"].as_array().unwrap().len()
        };
        assert_eq!((routes(Side::Client), routes(Side::Server)), (10, 1));
    }

    #[test]
    fn each_port_of_the_server_has_a_chain_and_a_cluster() {
        let resources = config(Side::Client)["static_resources"].clone();
        let chain = &resources["listeners"][0]["filter_chains"][1];
        assert_eq!(chain["filter_chain_match"]["destination_port"], 9000);
        assert_eq!(chain["filters"][0]["typed_config"]["cluster"], resources["clusters"][1]["name"]);
    }
}
