//! From resources that name each other to destinations that hold each other.
//!
//! ```text
//! apply(resources) ─▶ Store: last good resources ─▶ link(previous) ─▶ Snapshot: immutable, what requests use
//!                        └─▶ wanted(): what to subscribe to
//! ```
//!
//! Resources arrive in any order. A destination is *closed* when everything it refers to is there: listener → route
//! table → clusters → endpoints. Closure is judged for each destination by itself:
//! - one that is closed is linked as it is now;
//! - one that isn't keeps the structure (listener and route table) it was last closed with, or stays
//!   [`Lookup::Pending`] if it never was, and holds up no other;
//! - clusters and endpoints of a structure that is kept still follow every change: new routes that wait for one
//!   cluster don't freeze the endpoints of another. There is one [`ClusterEntry`] for a cluster in a whole snapshot.
//!
//! What has not changed keeps its `Arc`, so that a worker sees by a pointer comparison that there is nothing to do.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::ClusterEntry;
use crate::resource::{
    Cluster, Endpoints, Hints, Inbound, Kind, Listener, ListenerBody, Name, Protocol, Resource, RouteConfig,
    TrustBundle,
};
use crate::route::Table;

/// A destination, with everything it refers to.
#[derive(Debug)]
pub struct Destination {
    /// The authority it was asked for by.
    pub name: Name,
    /// How it speaks.
    pub protocol: Protocol,
    /// For requests.
    pub routes: Option<Arc<Table>>,
    /// The cluster for opaque bytes.
    pub opaque: Option<Name>,
    /// Every cluster that `routes` and `opaque` name.
    pub clusters: BTreeMap<Name, Arc<ClusterEntry>>,
}

/// What is known about a name.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// A destination.
    Known(Arc<Destination>),
    /// Definitely none.
    Absent,
    /// No answer yet, or none that is closed.
    Pending,
}

/// Everything that requests use, at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    destinations: BTreeMap<Name, Lookup>,
    /// Every cluster in use by a destination.
    pub clusters: BTreeMap<Name, Arc<ClusterEntry>>,
    /// What this workload offers.
    pub inbound: Option<Arc<Inbound>>,
    /// Trust bundles.
    pub trust: BTreeMap<Name, Arc<TrustBundle>>,
    /// Names that peers of this workload use.
    pub hints: BTreeSet<Name>,
}

impl Snapshot {
    /// What is known about the authority `name`. One that nobody asked for is [`Lookup::Pending`].
    pub fn lookup(&self, name: &str) -> Lookup {
        self.destinations.get(name).cloned().unwrap_or(Lookup::Pending)
    }

    /// Every name asked for, and what is known about it.
    pub fn destinations(&self) -> &BTreeMap<Name, Lookup> {
        &self.destinations
    }

    fn known(&self, name: &str) -> Option<&Arc<Destination>> {
        match self.destinations.get(name) {
            Some(Lookup::Known(destination)) => Some(destination),
            Some(Lookup::Absent | Lookup::Pending) | None => None,
        }
    }
}

/// A resource that can't be used; its last good version stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// What is wrong, for an operator.
    pub reason: String,
}

/// The last good version of every resource, by kind and name.
#[derive(Debug, Default)]
pub struct Store {
    roots: BTreeSet<(Kind, Name)>,
    clusters: BTreeMap<Name, Arc<Cluster>>,
    endpoints: BTreeMap<Name, Arc<Endpoints>>,
    listeners: BTreeMap<Name, Arc<Listener>>,
    tables: BTreeMap<Name, Arc<Table>>,
    trust: BTreeMap<Name, Arc<TrustBundle>>,
    hints: BTreeMap<Name, Arc<Hints>>,
    /// Listeners of which the control plane said that they don't exist.
    absent: BTreeSet<Name>,
    /// What the destinations that were linked last refer to.
    in_use: BTreeSet<(Kind, Name)>,
}

impl Store {
    /// Says what is asked for: listeners (authorities and this workload's inbound), trust bundles, hints. Everything
    /// else follows from these.
    pub fn set_roots(&mut self, roots: BTreeSet<(Kind, Name)>) {
        self.roots = roots;
    }

    /// Takes over resources and removals. Returns those that can't be used. A trust bundle is never removed: without
    /// one, nothing could be verified any more.
    pub fn apply(&mut self, resources: Vec<Resource>, removed: Vec<(Kind, Name)>) -> Vec<Refused> {
        let refused = resources
            .into_iter()
            .filter_map(|resource| self.put(resource).err())
            .collect();
        for (kind, name) in removed {
            self.remove(kind, name);
        }
        refused
    }

    fn put(&mut self, resource: Resource) -> Result<(), Refused> {
        match resource {
            Resource::Cluster(new) => put(&mut self.clusters, new.name.clone(), new),
            Resource::Endpoints(new) => put(&mut self.endpoints, new.cluster.clone(), new),
            Resource::Trust(new) => put(&mut self.trust, new.name.clone(), new),
            Resource::Hints(new) => put(&mut self.hints, new.name.clone(), new),
            Resource::Listener(new) => {
                self.absent.remove(&new.name);
                put(&mut self.listeners, new.name.clone(), new);
            }
            Resource::Routes(new) => self.put_routes(&new)?,
        }
        Ok(())
    }

    fn put_routes(&mut self, new: &RouteConfig) -> Result<(), Refused> {
        if self.tables.get(&new.name).is_some_and(|table| table.is_of(new)) {
            return Ok(());
        }
        let table = Table::compile(new).map_err(|error| Refused {
            kind: Kind::Routes,
            name: new.name.clone(),
            reason: error.to_string(),
        })?;
        self.tables.insert(new.name.clone(), Arc::new(table));
        Ok(())
    }

    fn remove(&mut self, kind: Kind, name: Name) {
        match kind {
            Kind::Cluster => drop(self.clusters.remove(&name)),
            Kind::Endpoints => drop(self.endpoints.remove(&name)),
            Kind::Routes => drop(self.tables.remove(&name)),
            Kind::Hints => drop(self.hints.remove(&name)),
            Kind::Trust => {}
            Kind::Listener => {
                self.listeners.remove(&name);
                self.absent.insert(name);
            }
        }
    }

    /// Everything to subscribe to: the roots, what they refer to by now, and what the destinations in use refer to,
    /// which may be an older version.
    pub fn wanted(&self) -> BTreeSet<(Kind, Name)> {
        let mut wanted = self.roots.clone();
        wanted.extend(self.in_use.iter().cloned());
        for listener in self.root_listeners().filter_map(|name| self.listeners.get(name)) {
            let ListenerBody::Outbound { routes, cluster, .. } = &listener.body else {
                continue;
            };
            let table = routes.as_ref().and_then(|name| self.tables.get(name));
            wanted.extend(references(routes.as_ref(), table, cluster.as_ref()));
        }
        wanted
    }

    /// Forgets what isn't `wanted`. To be called whenever the subscription is set to `wanted`: from then on the control
    /// plane no longer says when it changes.
    pub fn retain(&mut self, wanted: &BTreeSet<(Kind, Name)>) {
        let is_wanted = |kind: Kind, name: &Name| wanted.contains(&(kind, Name::clone(name)));
        self.clusters.retain(|name, _| is_wanted(Kind::Cluster, name));
        self.endpoints.retain(|name, _| is_wanted(Kind::Endpoints, name));
        self.listeners.retain(|name, _| is_wanted(Kind::Listener, name));
        self.tables.retain(|name, _| is_wanted(Kind::Routes, name));
        self.trust.retain(|name, _| is_wanted(Kind::Trust, name));
        self.hints.retain(|name, _| is_wanted(Kind::Hints, name));
        self.absent.retain(|name| is_wanted(Kind::Listener, name));
    }

    /// Links everything that is closed; what isn't stays as it is in `previous`, the snapshot that this store linked
    /// last (an empty one at first).
    pub fn link(&mut self, previous: &Snapshot) -> Snapshot {
        let structures: Vec<Structure> = self
            .root_listeners()
            .filter_map(|name| self.structure(name, previous))
            .collect();
        let mut next = Snapshot {
            trust: self.trust.clone(),
            hints: self
                .hints
                .values()
                .flat_map(|hints| hints.listeners.iter().cloned())
                .collect(),
            ..Snapshot::default()
        };
        next.inbound = self.inbound(previous);
        for name in structures.iter().flat_map(Structure::clusters) {
            self.link_cluster(name, previous, &mut next.clusters);
        }
        for name in self.root_listeners().filter(|name| !self.is_inbound(name)) {
            let lookup = if self.absent.contains(name) {
                Lookup::Absent
            } else {
                Lookup::Pending
            };
            next.destinations.insert(name.clone(), lookup);
        }
        let mut in_use = BTreeSet::new();
        for structure in structures {
            in_use.extend(references(
                structure.table_name(),
                structure.routes.as_ref(),
                structure.opaque.as_ref(),
            ));
            let (name, destination) = (structure.name.clone(), structure.link(previous, &next.clusters));
            next.destinations.insert(name, Lookup::Known(destination));
        }
        self.in_use = in_use;
        next
    }

    fn root_listeners(&self) -> impl Iterator<Item = &Name> {
        self.roots
            .iter()
            .filter(|(kind, _)| *kind == Kind::Listener)
            .map(|(_, name)| name)
    }

    fn is_inbound(&self, name: &Name) -> bool {
        self.listeners
            .get(name)
            .is_some_and(|listener| matches!(listener.body, ListenerBody::Inbound(_)))
    }

    fn inbound(&self, previous: &Snapshot) -> Option<Arc<Inbound>> {
        let inbound = self
            .root_listeners()
            .find_map(|name| match &self.listeners.get(name)?.body {
                ListenerBody::Inbound(inbound) => Some(inbound),
                ListenerBody::Outbound { .. } => None,
            })?;
        let same = previous.inbound.as_ref().filter(|old| ***old == *inbound);
        Some(same.map_or_else(|| Arc::new(inbound.clone()), Arc::clone))
    }

    /// The structure of a destination: the newest that is closed, else the one it had. `None`: it never had one, or
    /// it no longer exists.
    fn structure(&self, name: &Name, previous: &Snapshot) -> Option<Structure> {
        if self.absent.contains(name) || self.is_inbound(name) {
            return None;
        }
        let newest = self
            .listeners
            .get(name)
            .and_then(|listener| self.closed(listener));
        newest.or_else(|| previous.known(name).map(|old| Structure::of(old)))
    }

    fn closed(&self, listener: &Listener) -> Option<Structure> {
        let ListenerBody::Outbound {
            protocol,
            routes,
            cluster,
        } = &listener.body
        else {
            return None;
        };
        let routes = match routes {
            Some(name) => Some(Arc::clone(self.tables.get(name)?)),
            None => None,
        };
        let structure = Structure {
            name: listener.name.clone(),
            protocol: *protocol,
            routes,
            opaque: cluster.clone(),
        };
        let is_there = |name: &Name| self.clusters.contains_key(name) && self.endpoints.contains_key(name);
        let is_closed = structure.clusters().all(is_there);
        is_closed.then_some(structure)
    }

    /// Adds the entry of the cluster `name`: as it is now when both halves are there, else as it was.
    fn link_cluster(
        &self,
        name: &Name,
        previous: &Snapshot,
        entries: &mut BTreeMap<Name, Arc<ClusterEntry>>,
    ) {
        let Entry::Vacant(vacant) = entries.entry(name.clone()) else {
            return;
        };
        let old = previous.clusters.get(name);
        let (config, endpoints) = match (self.clusters.get(name), self.endpoints.get(name), old) {
            (Some(config), Some(endpoints), _) => (config, endpoints),
            (_, _, Some(old)) => (&old.config, &old.endpoints),
            // A structure is closed, or comes from `previous` together with its clusters.
            (_, _, None) => return,
        };
        let same = old.filter(|old| is_same(&old.config, config) && is_same(&old.endpoints, endpoints));
        vacant.insert(same.map_or_else(
            || {
                let (config, endpoints) = (Arc::clone(config), Arc::clone(endpoints));
                Arc::new(ClusterEntry::new(config, endpoints, old.map(|old| &**old)))
            },
            Arc::clone,
        ));
    }
}

/// Keeps the old value when the new one is equal.
fn put<T: PartialEq>(map: &mut BTreeMap<Name, Arc<T>>, name: Name, new: T) {
    match map.entry(name) {
        Entry::Occupied(old) if **old.get() == new => {}
        Entry::Occupied(mut old) => drop(old.insert(Arc::new(new))),
        Entry::Vacant(vacant) => drop(vacant.insert(Arc::new(new))),
    }
}

/// Whether two values are equal; the same one is so without a look.
fn is_same<T: PartialEq>(a: &Arc<T>, b: &Arc<T>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

/// What a listener refers to, directly and through its route table.
fn references<'a>(
    routes: Option<&'a Name>,
    table: Option<&'a Arc<Table>>,
    opaque: Option<&'a Name>,
) -> impl Iterator<Item = (Kind, Name)> + use<'a> {
    let clusters = table.into_iter().flat_map(|table| table.clusters()).chain(opaque);
    let halves = clusters.flat_map(|name| [(Kind::Cluster, name.clone()), (Kind::Endpoints, name.clone())]);
    routes
        .map(|name| (Kind::Routes, name.clone()))
        .into_iter()
        .chain(halves)
}

/// A destination without its clusters.
#[derive(Debug)]
struct Structure {
    name: Name,
    protocol: Protocol,
    routes: Option<Arc<Table>>,
    opaque: Option<Name>,
}

impl Structure {
    fn of(destination: &Destination) -> Self {
        Self {
            name: destination.name.clone(),
            protocol: destination.protocol,
            routes: destination.routes.clone(),
            opaque: destination.opaque.clone(),
        }
    }

    fn table_name(&self) -> Option<&Name> {
        self.routes.as_deref().map(Table::name)
    }

    fn clusters(&self) -> impl Iterator<Item = &Name> {
        self.routes
            .iter()
            .flat_map(|table| table.clusters())
            .chain(&self.opaque)
    }

    /// With its clusters: the destination that `previous` holds if nothing about it has changed.
    fn link(self, previous: &Snapshot, entries: &BTreeMap<Name, Arc<ClusterEntry>>) -> Arc<Destination> {
        let clusters: BTreeMap<_, _> = self
            .clusters()
            .filter_map(|name| entries.get_key_value(name))
            .map(|(name, entry)| (name.clone(), Arc::clone(entry)))
            .collect();
        let is_unchanged = |old: &Destination| {
            let same_routes = match (&old.routes, &self.routes) {
                (Some(old), Some(new)) => is_same(old, new),
                (None, None) => true,
                _ => false,
            };
            same_routes
                && old.protocol == self.protocol
                && old.opaque == self.opaque
                && old.clusters.keys().eq(clusters.keys())
                && old
                    .clusters
                    .values()
                    .zip(clusters.values())
                    .all(|(old, new)| Arc::ptr_eq(old, new))
        };
        match previous.known(&self.name) {
            Some(old) if is_unchanged(old) => Arc::clone(old),
            _ => Arc::new(Destination {
                name: self.name,
                protocol: self.protocol,
                routes: self.routes,
                opaque: self.opaque,
                clusters,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
