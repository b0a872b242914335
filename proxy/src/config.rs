//! Settings: flags and environment as they come ([`RunArgs`]), and what they mean ([`Config`]).
//!
//! Everything is text at first, so that all mistakes are found and told together, each with its flag, instead of one
//! per start. A [`Config`] is complete and consistent; nothing behind it checks a setting again.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use weft_identity::spiffe::{SpiffeId, TrustDomain};
use weft_proxy_core::authority::{Authority, Scope};
use weft_proxy_core::resource::Name;

pub use capture::Capture;

mod capture;
mod parse;

/// Port of an authority that has none.
pub const DEFAULT_PORT: u16 = 80;

/// Longest `--drain-time`.
pub const MAX_DRAIN_TIME: Duration = Duration::from_hours(1);

/// Namespace and service account of the control plane, in every trust domain.
pub const CONTROL_PLANE_ACCOUNT: (&str, &str) = ("weft-system", "weft-control-plane");

/// Flags and environment of `weft proxy run`, unchecked.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Where the control plane is.
    #[arg(long, env = "WEFT_CONTROL_PLANE", value_name = "HOST:PORT")]
    pub control_plane: String,
    /// PEM file with the roots to trust at first (the control plane's trust-bundle.pem).
    #[arg(long, env = "WEFT_TRUST_BUNDLE", value_name = "FILE")]
    pub trust_bundle: PathBuf,
    /// File with the service-account token; read anew for each use.
    #[arg(long, env = "WEFT_TOKEN_FILE", value_name = "FILE")]
    pub token_file: PathBuf,
    /// Trust domain of the mesh.
    #[arg(
        long,
        env = "WEFT_TRUST_DOMAIN",
        default_value = "cluster.local",
        value_name = "NAME"
    )]
    pub trust_domain: String,
    /// Domain that Service names end in.
    #[arg(
        long,
        env = "WEFT_CLUSTER_DOMAIN",
        default_value = "cluster.local",
        value_name = "NAME"
    )]
    pub cluster_domain: String,
    /// Namespace of this workload, from where short names are seen.
    #[arg(long, env = "WEFT_NAMESPACE", value_name = "NS")]
    pub namespace: String,
    /// Name of this workload (its Pod, or what it registers as); needed with --inbound.
    #[arg(long, env = "WEFT_WORKLOAD", value_name = "NAME")]
    pub workload: Option<String>,
    /// Directory for key, certificate and the last known configuration; made if absent.
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Loopback address where applications send their requests.
    #[arg(
        long,
        env = "WEFT_OUTBOUND",
        default_value = "127.0.0.1:15001",
        value_name = "ADDR"
    )]
    pub outbound: String,
    /// Opens a loopback address for one mesh address, any protocol; repeatable.
    #[arg(
        long = "bind",
        env = "WEFT_BIND",
        value_delimiter = ',',
        value_name = "LOCAL=AUTHORITY"
    )]
    pub binds: Vec<String>,
    /// Opens an address for peers and forwards to the application; repeatable.
    #[arg(long, env = "WEFT_INBOUND", value_delimiter = ',', value_name = "LISTEN=APP")]
    pub inbound: Vec<String>,
    /// Where the pod's outbound connections are led to (`weft proxy init`).
    #[arg(long, env = "WEFT_CAPTURED_OUTBOUND", value_name = "ADDR")]
    pub captured_outbound: Option<String>,
    /// Where the pod's inbound connections are led to.
    #[arg(long, env = "WEFT_CAPTURED_INBOUND", value_name = "ADDR")]
    pub captured_inbound: Option<String>,
    /// Address blocks of the cluster, separated by commas: what lies outside them passes at once while the control plane
    /// can't be reached and --egress is allow [default: the private blocks].
    #[arg(long, env = "WEFT_MESH_CIDRS", value_name = "CIDRS")]
    pub mesh_cidrs: Option<String>,
    /// Ports whose connections are opaque bytes, in either direction: ports and ranges, separated by commas.
    #[arg(long, env = "WEFT_OPAQUE_PORTS", default_value = "", value_name = "PORTS")]
    pub opaque_ports: String,
    /// The application's probes, which the status listener runs: a JSON object by `<container>/<kind>`.
    #[arg(long, env = "WEFT_PROBES", default_value = "{}", value_name = "JSON")]
    pub probes: String,
    /// Addresses of this pod, separated by commas; probes go to the first.
    #[arg(long, env = "WEFT_POD_IPS", default_value = "", value_name = "ADDRS")]
    pub pod_ips: String,
    /// Registers this workload as an endpoint of a Service's port; repeatable.
    #[arg(
        long,
        env = "WEFT_REGISTER",
        value_delimiter = ',',
        value_name = "SERVICE:PORT[=APP]"
    )]
    pub register: Vec<String>,
    /// A label of the registered workload; repeatable.
    #[arg(
        long = "label",
        env = "WEFT_LABELS",
        value_delimiter = ',',
        value_name = "KEY=VALUE"
    )]
    pub labels: Vec<String>,
    /// Topology zone of this workload.
    #[arg(
        long,
        env = "WEFT_ZONE",
        default_value = "",
        hide_default_value = true,
        value_name = "ZONE"
    )]
    pub zone: String,
    /// How the application's health is found out: `tcp` (it accepts connections), or a URL that answers with 2xx.
    #[arg(
        long,
        env = "WEFT_HEALTH_CHECK",
        default_value = "tcp",
        value_name = "tcp|http://…"
    )]
    pub health_check: String,
    /// What happens to destinations that are no part of the mesh.
    #[arg(long, env = "WEFT_EGRESS", default_value = "deny", value_name = "deny|allow")]
    pub egress: String,
    /// Data threads [default: the CPU limit rounded up, at most 4].
    #[arg(long, env = "WEFT_WORKERS", value_name = "N")]
    pub workers: Option<String>,
    /// Address of /live, /ready and /metrics.
    #[arg(
        long,
        env = "WEFT_STATUS",
        default_value = "0.0.0.0:15020",
        value_name = "ADDR"
    )]
    pub status: String,
    /// Loopback address of the admin listener.
    #[arg(
        long,
        env = "WEFT_ADMIN",
        default_value = "127.0.0.1:15000",
        value_name = "ADDR"
    )]
    pub admin: String,
    /// Longest time from SIGTERM to the end.
    #[arg(long, env = "WEFT_DRAIN_TIME", default_value = "30s", value_name = "DURATION")]
    pub drain_time: String,
    /// error, warn, info, debug or trace.
    #[arg(long, env = "WEFT_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    /// One JSON line per exchange: for all, none, or a sample of them.
    #[arg(
        long,
        env = "WEFT_ACCESS_LOG",
        default_value = "off",
        value_name = "on|off|sample"
    )]
    pub access_log: String,
}

/// A setting that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The flag.
    pub flag: &'static str,
    /// What it was set to.
    pub value: String,
    /// What is wrong with that, and what would be right.
    pub problem: String,
}

/// Everything that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{} `{}`: {}", error.flag, error.value, error.problem)?;
        }
        Ok(())
    }
}

/// A local port for one mesh address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Loopback address to listen on.
    pub listen: SocketAddr,
    /// The mesh address behind it.
    pub authority: Authority,
}

/// An inbound port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboundAddress {
    /// Address that peers dial.
    pub listen: SocketAddr,
    /// The application behind it.
    pub app: SocketAddr,
}

/// An endpoint to register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The Service, in the workload's own namespace.
    pub service: String,
    /// Which of its ports.
    pub service_port: u16,
    /// Which inbound port serves it: an index into [`Config::inbound`].
    pub inbound: usize,
}

/// How the application's health is found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthCheck {
    /// Every registered application accepts a connection.
    Tcp,
    /// This URL answers with 2xx.
    Http {
        /// Whom to ask.
        address: SocketAddr,
        /// Path and query.
        path: String,
    },
}

/// Which exchanges are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogMode {
    /// All.
    On,
    /// None.
    Off,
    /// A sample.
    Sample,
}

/// Complete, consistent settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Host and port of the control plane.
    pub control_plane: String,
    /// Who the control plane must be.
    pub control_plane_id: SpiffeId,
    /// PEM file with the first roots.
    pub trust_bundle: PathBuf,
    /// The service-account token.
    pub token_file: PathBuf,
    /// Trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// From where short names are seen.
    pub scope: Scope,
    /// Namespace of this workload.
    pub namespace: String,
    /// Name of this workload, if it has one.
    pub workload: Option<String>,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// Where applications send their requests.
    pub outbound: SocketAddr,
    /// Local ports for mesh addresses.
    pub binds: Vec<Bind>,
    /// Ports for peers.
    pub inbound: Vec<InboundAddress>,
    /// What is led through this proxy, and what of it is known beforehand.
    pub capture: Capture,
    /// Endpoints to register.
    pub registrations: Vec<Registration>,
    /// Labels of the registered workload.
    pub labels: BTreeMap<String, String>,
    /// Topology zone; empty: unknown.
    pub zone: Name,
    /// How the application's health is found out.
    pub health_check: HealthCheck,
    /// Destinations that are no part of the mesh are passed unchanged, instead of refused.
    pub egress_allowed: bool,
    /// Data threads.
    pub workers: usize,
    /// Address of the status listener.
    pub status: SocketAddr,
    /// Address of the admin listener.
    pub admin: SocketAddr,
    /// Longest time from SIGTERM to the end.
    pub drain_time: Duration,
    /// The log's level.
    pub log_level: String,
    /// Which exchanges are logged.
    pub access_log: AccessLogMode,
    /// The addresses of our own listeners that no application may be led to; filled in once they are bound.
    pub own_addresses: Vec<SocketAddr>,
}

impl Config {
    /// What `args` mean, or everything that is wrong with them. `default_workers` where nothing is said.
    pub fn new(args: &RunArgs, default_workers: usize) -> Result<Self, ConfigErrors> {
        parse::config(args, default_workers)
    }

    /// Whether peers may connect to this workload.
    pub fn has_inbound(&self) -> bool {
        !self.inbound.is_empty() || self.capture.inbound.is_some()
    }

    /// Whether a process of ours listens on `port`.
    pub fn is_own_port(&self, port: u16) -> bool {
        self.own_addresses.iter().any(|own| own.port() == port)
    }

    /// The node id of this process, whose identity is `own`: the workload's where it has an inbound side, else that
    /// of its service account.
    pub fn node_id(&self, own: &SpiffeId) -> String {
        match &self.workload {
            Some(workload) if self.has_inbound() => format!("{}/{workload}", self.namespace),
            _ => format!("{}/sa/{}", self.namespace, own.service_account()),
        }
    }

    /// The name that the authority `text` is asked for by, with [`DEFAULT_PORT`] where it has no port.
    pub fn expand(&self, authority: &Authority) -> Name {
        self.scope.expand(authority, DEFAULT_PORT).into()
    }

    /// The applications whose health counts: those that are registered, without doubles.
    pub fn registered_apps(&self) -> Vec<SocketAddr> {
        let mut apps: Vec<_> = self
            .registrations
            .iter()
            .map(|r| self.inbound[r.inbound].app)
            .collect();
        apps.sort_unstable();
        apps.dedup();
        apps
    }
}

/// An address on loopback; a bare port is one on 127.0.0.1.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = || {
        text.parse()
            .ok()
            .map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    };
    let named = || text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    text.parse()
        .ok()
        .or_else(bare)
        .or_else(|| named().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
}

#[cfg(test)]
mod tests;
