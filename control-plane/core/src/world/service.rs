//! Services: the names that traffic is sent to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::{Created, Fact, ObjectName};
use crate::resource::{Name, Protocol};

/// A Service with an address of its own or none (headless). An `ExternalName` is no destination of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// Its age.
    pub created: Created,
    /// Where captured connections to it go.
    pub cluster_ips: BTreeSet<IpAddr>,
    /// IPv6 goes before IPv4 where a workload has both.
    pub ipv6_first: bool,
    /// Its TCP ports, in its own order, no number twice.
    pub ports: Vec<ServicePort>,
    /// Labels of the workloads behind it; empty: it selects none by itself.
    pub selector: BTreeMap<Name, Name>,
    /// `trafficDistribution` asks for closeness: the caller's zone first. `PreferSameNode` means that too, as a node is in
    /// one zone, and endpoints are told apart by zone only. Hints of its slices mean the same without it.
    pub prefer_zone: bool,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; may be empty on the only port.
    pub name: Name,
    /// Its number.
    pub port: u16,
    /// Where it leads on a workload.
    pub target: TargetPort,
    /// What `appProtocol` or the name declares.
    pub protocol: Protocol,
}

/// The port of a workload that a Service's port leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name of a container's port.
    Name(Name),
}

impl fmt::Display for TargetPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Service {
    /// A port by number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.port == number)
    }

    /// Whether it selects workloads with these labels.
    pub fn selects(&self, labels: &BTreeMap<Name, Name>) -> bool {
        !self.selector.is_empty() && contains(labels, &self.selector)
    }

    /// Whether every workload it selects is one that `other` selects too.
    pub fn refines(&self, other: &Self) -> bool {
        !other.selector.is_empty() && contains(&self.selector, &other.selector)
    }

    /// Ports that lead to the same port of a workload and say that it speaks differently, with the one that comes first.
    /// A workload's port has one protocol: that of the first that declares one.
    pub fn contradictions(&self) -> Vec<(&ServicePort, &ServicePort)> {
        let mut first: BTreeMap<&TargetPort, &ServicePort> = BTreeMap::new();
        let declared = self.ports.iter().filter(|port| port.protocol != Protocol::Detect);
        declared
            .filter_map(|port| {
                let before = *first.entry(&port.target).or_insert(port);
                (before.protocol != port.protocol).then_some((before, port))
            })
            .collect()
    }

    pub(super) fn facts(&self) -> BTreeSet<Fact> {
        let mut facts: BTreeSet<Fact> = self.cluster_ips.iter().map(|ip| Fact::ClusterIp(*ip)).collect();
        facts.insert(Fact::Services);
        facts.insert(Fact::ServicesIn(self.name.namespace.clone()));
        facts.insert(Fact::Service(self.name.clone()));
        facts
    }
}

fn contains(labels: &BTreeMap<Name, Name>, wanted: &BTreeMap<Name, Name>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// How a port speaks by its `appProtocol`, or else by the part of its name before the first `-`. A word that nobody
/// agreed on declares nothing.
pub fn declared_protocol(app_protocol: Option<&str>, port_name: &str) -> Protocol {
    match app_protocol {
        Some(word) => protocol_of(word),
        None => protocol_of(port_name.split('-').next().unwrap_or_default()),
    }
}

fn protocol_of(word: &str) -> Protocol {
    match word.to_ascii_lowercase().as_str() {
        "http" | "http1" | "kubernetes.io/ws" => Protocol::Http1,
        "http2" | "h2c" | "kubernetes.io/h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        // TLS of the application's own, and protocols whose bytes are never HTTP, several of which wait for the
        // server to speak first.
        "tcp" | "tls" | "https" | "wss" | "kubernetes.io/wss" | "amqp" | "kafka" | "mongo" | "mqtt"
        | "mysql" | "nats" | "postgres" | "postgresql" | "redis" | "smtp" => Protocol::Tcp,
        _ => Protocol::Detect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_protocol_is_asked_before_the_name() {
        for (app, name, expected) in [
            (None, "http", Protocol::Http1),
            (None, "http-admin", Protocol::Http1),
            (None, "httpx", Protocol::Detect),
            (None, "grpc-web2", Protocol::Grpc),
            (None, "", Protocol::Detect),
            (Some("kubernetes.io/h2c"), "http", Protocol::Http2),
            (Some("HTTP2"), "tcp", Protocol::Http2),
            (Some("example.com/custom"), "http", Protocol::Detect),
            (Some("https"), "http", Protocol::Tcp),
            (None, "tcp-mqtt", Protocol::Tcp),
        ] {
            assert_eq!(declared_protocol(app, name), expected, "{app:?} {name}");
        }
    }
}
