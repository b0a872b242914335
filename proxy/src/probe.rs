//! Probes of the application on kubelet's behalf: `GET /probe/<container>/<kind>` on the status port.
//!
//! Kubelet has no certificate of the mesh, so under Strict its probes of the application's own ports would be refused.
//! Injection points them here, and here the original is run from within the pod, as kubelet would have run it: HTTP,
//! TCP or gRPC, with its own timeout, to the pod's own address. The answer is 200, or 503 with the reason.
//!
//! What differs from kubelet: a redirect counts as success without being followed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use tokio::time::timeout;

mod grpc;
mod web;

/// Most probes of one pod.
pub const MAX_PROBES: usize = 256;
/// Where `timeoutSeconds` says nothing, as in Kubernetes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time for one probe; kubelet gives up before, as told by the same `timeoutSeconds`.
const MAX_TIMEOUT: Duration = Duration::from_mins(5);
/// Where the status listener has them.
const PREFIX: &str = "/probe/";

/// Why a text is no set of probes.
#[derive(Debug, thiserror::Error)]
pub enum ProbesError {
    /// Not what injection writes.
    #[error("it is not a JSON object of probes by `<container>/<kind>`: {0}")]
    Json(#[from] serde_json::Error),
    /// Too many.
    #[error("{0} probes are too many; {MAX_PROBES} are allowed")]
    TooMany(usize),
    /// Not exactly one action.
    #[error("`{0}` must have exactly one of httpGet, tcpSocket and grpc")]
    Action(String),
}

/// The probes of a pod, by `<container>/<kind>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    probes: BTreeMap<String, Probe>,
    address: Option<IpAddr>,
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Probe {
    action: Action,
    timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Http(HttpGet),
    Tcp(TcpSocket),
    Grpc(Grpc),
}

/// A probe as the Pod has it (`core/v1` Probe), with numeric ports.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    http_get: Option<HttpGet>,
    tcp_socket: Option<TcpSocket>,
    grpc: Option<Grpc>,
    timeout_seconds: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpGet {
    port: u16,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    scheme: Option<String>,
    #[serde(default)]
    http_headers: Vec<Header>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Header {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct TcpSocket {
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Grpc {
    port: u16,
    #[serde(default)]
    service: Option<String>,
}

impl Probes {
    /// Reads what injection wrote: a JSON object. `address` is the pod's own; loopback, if it isn't known.
    pub fn read(text: &str, address: Option<IpAddr>) -> Result<Self, ProbesError> {
        let written: BTreeMap<String, Written> = serde_json::from_str(text)?;
        if written.len() > MAX_PROBES {
            return Err(ProbesError::TooMany(written.len()));
        }
        let probe = |(name, written): (String, Written)| {
            let timeout = written
                .timeout_seconds
                .map_or(DEFAULT_TIMEOUT, Duration::from_secs)
                .clamp(DEFAULT_TIMEOUT, MAX_TIMEOUT);
            let action = match (written.http_get, written.tcp_socket, written.grpc) {
                (Some(action), None, None) => Action::Http(action),
                (None, Some(action), None) => Action::Tcp(action),
                (None, None, Some(action)) => Action::Grpc(action),
                _ => return Err(ProbesError::Action(name)),
            };
            Ok((name, Probe { action, timeout }))
        };
        Ok(Self {
            probes: written.into_iter().map(probe).collect::<Result<_, _>>()?,
            address,
        })
    }

    /// The answer to a request for `path` with `head`, once the probe has run. `None`: the path is no probe's.
    pub fn answer(
        &self,
        path: &str,
        head: &HeaderMap,
    ) -> Option<impl Future<Output = (StatusCode, String)> + Send + use<>> {
        let name = path.strip_prefix(PREFIX)?;
        let agent = head.get(USER_AGENT).cloned();
        let probe = self.probes.get(name).cloned();
        let ip = self.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Some(async move {
            let Some(probe) = probe else {
                return (StatusCode::NOT_FOUND, "the pod has no such probe\n".to_owned());
            };
            match probe.run(ip, agent).await {
                Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
                Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            }
        })
    }
}

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the application does not accept connections at {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    #[error("the application's TLS at {0} fails: {1}")]
    Tls(SocketAddr, std::io::Error),
    #[error("the application at {0} does not answer: {1}")]
    Answer(SocketAddr, hyper::Error),
    #[error("the probe can't be sent: {0}")]
    Request(http::Error),
    #[error("the application at {0} answers {1}")]
    Status(SocketAddr, StatusCode),
    #[error("the application at {0} answers the gRPC status {1}")]
    GrpcStatus(SocketAddr, String),
    #[error("the application at {0} says that it is not serving")]
    NotServing(SocketAddr),
    #[error("the application did not answer within {0:?}")]
    Timeout(Duration),
}

impl Probe {
    async fn run(&self, ip: IpAddr, agent: Option<HeaderValue>) -> Result<(), Failure> {
        let running = async {
            match &self.action {
                Action::Http(get) => web::get(get, SocketAddr::new(ip, get.port), agent).await,
                Action::Tcp(tcp) => connect(SocketAddr::new(ip, tcp.port)).await.map(drop),
                Action::Grpc(grpc) => {
                    let service = grpc.service.as_deref().unwrap_or_default();
                    grpc::check(SocketAddr::new(ip, grpc.port), service).await
                }
            }
        };
        let ended = timeout(self.timeout, running).await;
        ended.unwrap_or(Err(Failure::Timeout(self.timeout)))
    }
}

async fn connect(address: SocketAddr) -> Result<tokio::net::TcpStream, Failure> {
    let connected = crate::socket::connect_to_application(address).await;
    connected.map_err(|error| Failure::Connect(address, error))
}

#[cfg(test)]
mod tests;
