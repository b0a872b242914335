//! Registrations: workloads that no cluster knows and that say themselves that they are there.
//!
//! A workload registers on a stream of its own, and that stream is its heartbeat. When it ends without a word, the
//! workload is given a grace period to come back before it is withdrawn; when it says goodbye (SIGTERM), it is withdrawn
//! at once. After a restart of the control plane every registration is as if its stream had just ended: nothing is
//! withdrawn before the grace period.
//!
//! - The address is the stream's peer, the identity its certificate's; the token must be of the same account and grant
//!   each Service. A node id that is taken by another identity is refused.
//! - A workload that registers on a socket which a lost one had listened on proves that the lost one is gone.
//! - A newer stream of the same workload takes over; the older one's end then means nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::catalog::Event;
use crate::names::Settings;
use crate::resource::Name;
use crate::rights::{Account, is_part};
use crate::time::Now;
use crate::world::ObjectName;
use crate::world::workload::{Workload, WorkloadPort};

#[cfg(test)]
mod tests;

/// Registrations at once.
pub const REGISTRATIONS_MAX: usize = 10_000;

/// Ports of one registration.
pub const PORTS_MAX: usize = 64;

/// Labels of one registration.
pub const LABELS_MAX: usize = 64;

/// Bytes of a label's key, of its value, and of a zone.
pub const LABEL_BYTES_MAX: usize = 317;

/// One registration stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeartbeatId(pub u64);

/// What a workload says, and what is known about who says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// `<namespace>/<name>`.
    pub node_id: String,
    /// Who it is by its certificate.
    pub account: Account,
    /// Whose token it brought.
    pub token: Account,
    /// Services that the token grants.
    pub granted: Vec<String>,
    /// The stream's peer.
    pub address: IpAddr,
    /// What it serves: Service, its port, the port that peers dial. In numbers as they came.
    pub ports: Vec<(String, u32, u32)>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its zone; empty: unknown.
    pub zone: String,
    /// Its health check passes.
    pub healthy: bool,
}

/// A change of what is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there, like this.
    Put(Workload),
    /// It is gone.
    Remove(ObjectName),
}

impl From<Change> for Event {
    fn from(change: Change) -> Self {
        match change {
            Change::Put(workload) => Self::Register(workload),
            Change::Remove(node) => Self::Unregister(node),
        }
    }
}

/// Why a registration is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Its name.
    #[error(
        "{0:?} is no node id of a workload; it has the form `<namespace>/<name>`, lower case, digits, `-`, `.`"
    )]
    NodeId(String),
    /// Its namespace.
    #[error("{account} may not register {node}: that is another namespace; check --namespace and the token")]
    Namespace {
        /// Who asks.
        account: Account,
        /// For whom.
        node: ObjectName,
    },
    /// Its token.
    #[error(
        "the token is of {token}, but the certificate of {account}; both have to come from one token file"
    )]
    Token {
        /// By the certificate.
        account: Account,
        /// By the token.
        token: Account,
    },
    /// Its Services.
    #[error(
        "the token does not grant the Service {service:?} to {account}; make one with `weft token create --service \
         {service}`"
    )]
    NotGranted {
        /// Who asks.
        account: Account,
        /// For what.
        service: String,
    },
    /// Taken.
    #[error("{node} is already there with the identity of another account; choose another --workload")]
    Taken {
        /// The name in question.
        node: ObjectName,
    },
    /// A number that is no port.
    #[error("{0} is no port; ports are 1 to 65535")]
    Port(u32),
    /// No ports.
    #[error("the registration names no port, so there is nothing to publish; use --register SERVICE:PORT")]
    NoPorts,
    /// Too much of something.
    #[error("too many {what}: at most {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
}

/// A registration as it is kept in the state directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    node_id: String,
    namespace: String,
    account: String,
    address: IpAddr,
    ports: Vec<(String, u16, u16)>,
    labels: BTreeMap<String, String>,
    zone: String,
    healthy: bool,
}

/// Whether a registration's stream is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heartbeat {
    On(HeartbeatId),
    Lost { withdraw_at: Now },
}

#[derive(Debug)]
struct Entry {
    account: Account,
    workload: Workload,
    heartbeat: Heartbeat,
}

impl Entry {
    fn sockets(&self) -> impl Iterator<Item = SocketAddr> {
        self.workload
            .ports
            .iter()
            .map(|port| SocketAddr::new(self.workload.address, port.listen_port))
    }
}

/// All registrations. Every method returns what changed of what is published.
#[derive(Debug)]
pub struct Registry {
    settings: Settings,
    grace: Duration,
    entries: BTreeMap<ObjectName, Entry>,
    heartbeats: BTreeMap<HeartbeatId, ObjectName>,
}

impl Registry {
    /// An empty one, which waits for lost workloads for `grace`.
    pub fn new(settings: Settings, grace: Duration) -> Self {
        Self {
            settings,
            grace,
            entries: BTreeMap::new(),
            heartbeats: BTreeMap::new(),
        }
    }

    /// Takes over what was kept: everything is published, and waited for.
    pub fn restore(&mut self, saved: Vec<Saved>, now: Now) -> Vec<Change> {
        let withdraw_at = now + self.grace;
        let mut changes = Vec::new();
        for one in saved {
            let Some((node, account)) = one.names() else {
                continue;
            };
            let workload = one.workload(&node, &account, &self.settings);
            changes.push(Change::Put(workload.clone()));
            let heartbeat = Heartbeat::Lost { withdraw_at };
            self.entries.insert(
                node,
                Entry {
                    account,
                    workload,
                    heartbeat,
                },
            );
        }
        changes
    }

    /// What to keep, ascending by node id.
    pub fn saved(&self) -> Vec<Saved> {
        self.entries.values().map(Saved::from).collect()
    }

    /// Registers a workload on a new stream. `pod`: the account of the Pod with this node id, if there is one.
    pub fn register(
        &mut self,
        heartbeat: HeartbeatId,
        registration: Registration,
        pod: Option<&Account>,
    ) -> Result<Vec<Change>, Refusal> {
        let (node, ports) = self.check(&registration, pod)?;
        let account = registration.account;
        let workload = Workload {
            node: node.clone(),
            identity: self.settings.identity(&account.namespace, &account.name),
            address: registration.address,
            ports,
            zone: registration.zone.into(),
            labels: shared(&registration.labels),
            healthy: registration.healthy,
            ready: true,
        };
        let entry = Entry {
            account,
            workload: workload.clone(),
            heartbeat: Heartbeat::On(heartbeat),
        };
        let mut changes = self.displace(&node, &entry);
        self.heartbeats.insert(heartbeat, node.clone());
        let before = self.entries.insert(node, entry);
        if let Some(Heartbeat::On(older)) = before.as_ref().map(|before| before.heartbeat)
            && older != heartbeat
        {
            self.heartbeats.remove(&older);
        }
        if before.is_none_or(|before| before.workload != workload) {
            changes.push(Change::Put(workload));
        }
        Ok(changes)
    }

    /// The workload on this stream reports its health.
    pub fn health(&mut self, heartbeat: HeartbeatId, healthy: bool) -> Vec<Change> {
        let entry = self
            .heartbeats
            .get(&heartbeat)
            .and_then(|node| self.entries.get_mut(node));
        let Some(entry) = entry.filter(|entry| entry.workload.healthy != healthy) else {
            return Vec::new();
        };
        entry.workload.healthy = healthy;
        vec![Change::Put(entry.workload.clone())]
    }

    /// The workload on this stream goes: it is withdrawn at once.
    pub fn withdraw(&mut self, heartbeat: HeartbeatId) -> Vec<Change> {
        let node = self.heartbeats.remove(&heartbeat);
        node.map(|node| self.remove(&node)).into_iter().collect()
    }

    /// The stream ended without a word.
    pub fn lost(&mut self, heartbeat: HeartbeatId, now: Now) {
        let Some(node) = self.heartbeats.remove(&heartbeat) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(&node) {
            entry.heartbeat = Heartbeat::Lost {
                withdraw_at: now + self.grace,
            };
        }
    }

    /// Withdraws who didn't come back in time.
    pub fn expire(&mut self, now: Now) -> Vec<Change> {
        let late =
            |entry: &Entry| matches!(entry.heartbeat, Heartbeat::Lost { withdraw_at } if withdraw_at <= now);
        let late = self.entries.iter().filter(|(_, entry)| late(entry));
        let late: Vec<ObjectName> = late.map(|(node, _)| node.clone()).collect();
        late.iter().map(|node| self.remove(node)).collect()
    }

    /// When [`Registry::expire`] has something to do next.
    pub fn next_expiry(&self) -> Option<Now> {
        let expiries = self.entries.values().filter_map(|entry| match entry.heartbeat {
            Heartbeat::Lost { withdraw_at } => Some(withdraw_at),
            Heartbeat::On(_) => None,
        });
        expiries.min()
    }

    /// Whose workload this is.
    pub fn owner(&self, node: &ObjectName) -> Option<&Account> {
        self.entries.get(node).map(|entry| &entry.account)
    }

    /// Everything that is published, ascending, with whether its stream is open.
    pub fn workloads(&self) -> impl Iterator<Item = (&Workload, bool)> {
        let is_on = |entry: &Entry| matches!(entry.heartbeat, Heartbeat::On(_));
        self.entries
            .values()
            .map(move |entry| (&entry.workload, is_on(entry)))
    }

    fn remove(&mut self, node: &ObjectName) -> Change {
        self.entries.remove(node);
        Change::Remove(node.clone())
    }

    /// Withdraws lost workloads that had one of the sockets of `entry`.
    fn displace(&mut self, node: &ObjectName, entry: &Entry) -> Vec<Change> {
        let gone = |other: &Entry| {
            matches!(other.heartbeat, Heartbeat::Lost { .. })
                && other
                    .sockets()
                    .any(|socket| entry.sockets().any(|new| new == socket))
        };
        let gone = self
            .entries
            .iter()
            .filter(|(name, other)| *name != node && gone(other));
        let gone: Vec<ObjectName> = gone.map(|(name, _)| name.clone()).collect();
        gone.iter().map(|name| self.remove(name)).collect()
    }

    fn check(
        &self,
        registration: &Registration,
        pod: Option<&Account>,
    ) -> Result<(ObjectName, Vec<WorkloadPort>), Refusal> {
        let Registration { account, token, .. } = registration;
        let node = node_name(&registration.node_id)?;
        if token != account {
            return Err(Refusal::Token {
                account: account.clone(),
                token: token.clone(),
            });
        }
        if node.namespace != account.namespace {
            return Err(Refusal::Namespace {
                account: account.clone(),
                node,
            });
        }
        if pod.or(self.owner(&node)).is_some_and(|owner| owner != account) {
            return Err(Refusal::Taken { node });
        }
        check_sizes(registration)?;
        if self.entries.len() >= REGISTRATIONS_MAX && !self.entries.contains_key(&node) {
            return Err(Refusal::TooMany {
                what: "registrations",
                limit: REGISTRATIONS_MAX,
            });
        }
        let granted = |service: &String| registration.granted.contains(service);
        let mut ports = Vec::new();
        for (service, service_port, listen_port) in &registration.ports {
            if !granted(service) {
                return Err(Refusal::NotGranted {
                    account: account.clone(),
                    service: service.clone(),
                });
            }
            ports.push(WorkloadPort {
                service: service.as_str().into(),
                service_port: port(*service_port)?,
                listen_port: port(*listen_port)?,
            });
        }
        ports.sort();
        ports.dedup();
        Ok((node, ports))
    }
}

fn node_name(id: &str) -> Result<ObjectName, Refusal> {
    id.split_once('/')
        .filter(|(namespace, name)| is_part(namespace) && is_part(name))
        .map(|(namespace, name)| ObjectName::new(namespace, name))
        .ok_or_else(|| Refusal::NodeId(id.chars().take(LABEL_BYTES_MAX).collect()))
}

fn check_sizes(registration: &Registration) -> Result<(), Refusal> {
    let long = |text: &String| text.len() > LABEL_BYTES_MAX;
    if registration.ports.is_empty() {
        return Err(Refusal::NoPorts);
    }
    if registration.ports.len() > PORTS_MAX {
        return Err(Refusal::TooMany {
            what: "ports",
            limit: PORTS_MAX,
        });
    }
    if registration.labels.len() > LABELS_MAX {
        return Err(Refusal::TooMany {
            what: "labels",
            limit: LABELS_MAX,
        });
    }
    if registration
        .labels
        .iter()
        .any(|(key, value)| long(key) || long(value))
        || long(&registration.zone)
    {
        return Err(Refusal::TooMany {
            what: "bytes of a label or zone",
            limit: LABEL_BYTES_MAX,
        });
    }
    Ok(())
}

fn port(number: u32) -> Result<u16, Refusal> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port > 0)
        .ok_or(Refusal::Port(number))
}

fn shared(labels: &BTreeMap<String, String>) -> BTreeMap<Name, Name> {
    labels
        .iter()
        .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
        .collect()
}

impl Saved {
    /// Whose registration this is. `None`: the file was changed by hand into something that can't be.
    fn names(&self) -> Option<(ObjectName, Account)> {
        let node = node_name(&self.node_id).ok()?;
        let fits = is_part(&self.account) && self.namespace == *node.namespace;
        fits.then(|| (node, Account::new(&self.namespace, &self.account)))
    }

    fn workload(&self, node: &ObjectName, account: &Account, settings: &Settings) -> Workload {
        let port = |(service, service_port, listen_port): &(String, u16, u16)| WorkloadPort {
            service: service.as_str().into(),
            service_port: *service_port,
            listen_port: *listen_port,
        };
        let mut ports: Vec<WorkloadPort> = self.ports.iter().map(port).collect();
        ports.sort();
        Workload {
            node: node.clone(),
            identity: settings.identity(&account.namespace, &account.name),
            address: self.address,
            ports,
            zone: self.zone.as_str().into(),
            labels: shared(&self.labels),
            healthy: self.healthy,
            ready: true,
        }
    }
}

impl From<&Entry> for Saved {
    fn from(entry: &Entry) -> Self {
        let workload = &entry.workload;
        let port = |port: &WorkloadPort| (port.service.to_string(), port.service_port, port.listen_port);
        let labels = workload.labels.iter();
        Self {
            node_id: workload.node.to_string(),
            namespace: entry.account.namespace.to_string(),
            account: entry.account.name.to_string(),
            address: workload.address,
            ports: workload.ports.iter().map(port).collect(),
            labels: labels
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect(),
            zone: workload.zone.to_string(),
            healthy: workload.healthy,
        }
    }
}
