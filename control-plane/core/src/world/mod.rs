//! The inputs of translation, normalised: what the cluster's objects, the registered workloads and the CA say, in the
//! core's own words.
//!
//! There is one way in and one way out. In: [`World::put`] files an item under every [`Fact`] that it helps to
//! answer, and says which facts that touched. Out: a [`Reader`] returns what is filed under a fact, and notes
//! that it was asked. So what a translation depends on is recorded while it runs, by the same index that tells what a
//! change touches, and no list of dependencies is kept by hand: a translation can't read what would not wake it.
//!
//! Items are immutable and shared; a changed object is a new item.

pub mod policy;
pub mod rank;
pub mod route;
pub mod service;
pub mod slice;
pub mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::resource::Name;
use policy::{TlsPolicy, TrafficPolicy};
use route::Route;
use service::Service;
use slice::Slice;
use workload::{Pod, Workload};

/// The name of a namespaced object, of a Service above all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Its namespace.
    pub namespace: Name,
    /// Its name within.
    pub name: Name,
}

impl ObjectName {
    /// From its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// From `<namespace>/<name>`.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        (!namespace.is_empty() && !name.is_empty() && !name.contains('/')).then(|| Self::new(namespace, name))
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// When an object was created, in seconds since 1970. An object without a time (out of a file) counts as newer than
/// any with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Created(pub i64);

impl Default for Created {
    fn default() -> Self {
        Self(i64::MAX)
    }
}

/// One question that translation may ask of the world. What is filed under it is the whole answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact {
    /// Every Service.
    Services,
    /// The Services of a namespace.
    ServicesIn(Name),
    /// The Service of this name.
    Service(ObjectName),
    /// The Services with this cluster IP.
    ClusterIp(IpAddr),
    /// The slices of a Service.
    Slices(ObjectName),
    /// The slices with an endpoint that names this Pod.
    SlicesOfPod(ObjectName),
    /// The slices with an endpoint at this address.
    SlicesAt(IpAddr),
    /// The Pod of this name.
    Pod(ObjectName),
    /// The Pods at this address.
    PodsAt(IpAddr),
    /// The Pods of a namespace that have opaque ports.
    OpaqueIn(Name),
    /// The Pod of this name, if it is outside the mesh.
    Outsider(ObjectName),
    /// Whether every Pod there is has been told.
    PodsTold,
    /// The routes with this Service as a parent.
    RoutesOf(ObjectName),
    /// The routes with this Service as a backend.
    RoutesTo(ObjectName),
    /// The traffic policies with this Service as a target.
    PoliciesOf(ObjectName),
    /// The TLS policies of a namespace.
    TlsPoliciesIn(Name),
    /// The registered workload with this node id.
    Workload(ObjectName),
    /// The registered workloads of a namespace.
    WorkloadsIn(Name),
    /// The registered workloads at this address.
    WorkloadsAt(IpAddr),
    /// The roots.
    Trust,
    /// What the workloads of an identity use.
    UsedBy(Name),
}

/// Names one item, whatever kind it is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Id {
    /// A [`Service`].
    Service(ObjectName),
    /// A [`Slice`].
    Slice(ObjectName),
    /// A [`Pod`].
    Pod(ObjectName),
    /// A Pod outside the mesh.
    Outsider(ObjectName),
    /// That every Pod has been told.
    PodsTold,
    /// A [`Route`].
    Route(route::RouteKind, ObjectName),
    /// A [`TrafficPolicy`].
    Policy(ObjectName),
    /// A [`TlsPolicy`].
    TlsPolicy(ObjectName),
    /// A [`Workload`].
    Workload(ObjectName),
    /// The trust bundle.
    Trust,
    /// What an identity uses.
    Used(Name),
}

/// One input.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    Slice(Arc<Slice>),
    /// A Pod.
    Pod(Arc<Pod>),
    /// A Pod outside the mesh.
    Outsider(ObjectName),
    /// Every Pod there is has been told: one that is not known is not there, or not told yet.
    PodsTold,
    /// An HTTPRoute or a GRPCRoute.
    Route(Arc<Route>),
    /// A TrafficPolicy.
    Policy(Arc<TrafficPolicy>),
    /// A MeshTLSPolicy.
    TlsPolicy(Arc<TlsPolicy>),
    /// A workload that registered itself.
    Workload(Arc<Workload>),
    /// Roots, DER, sorted.
    Trust(Arc<[Arc<[u8]>]>),
    /// What the workloads of an identity use: the identity, and names of listeners.
    Used(Name, Arc<BTreeSet<Name>>),
}

impl Item {
    /// Its name.
    pub fn id(&self) -> Id {
        match self {
            Self::Service(item) => Id::Service(item.name.clone()),
            Self::Slice(item) => Id::Slice(item.name.clone()),
            Self::Pod(item) => Id::Pod(item.name.clone()),
            Self::Outsider(name) => Id::Outsider(name.clone()),
            Self::PodsTold => Id::PodsTold,
            Self::Route(item) => Id::Route(item.kind, item.name.clone()),
            Self::Policy(item) => Id::Policy(item.name.clone()),
            Self::TlsPolicy(item) => Id::TlsPolicy(item.name.clone()),
            Self::Workload(item) => Id::Workload(item.node.clone()),
            Self::Trust(_) => Id::Trust,
            Self::Used(identity, _) => Id::Used(identity.clone()),
        }
    }

    /// Every fact that it helps to answer.
    fn facts(&self) -> BTreeSet<Fact> {
        match self {
            Self::Service(item) => item.facts(),
            Self::Slice(item) => item.facts(),
            Self::Pod(item) => item.facts(),
            Self::Outsider(name) => BTreeSet::from([Fact::Outsider(name.clone())]),
            Self::PodsTold => BTreeSet::from([Fact::PodsTold]),
            Self::Route(item) => item.facts(),
            Self::Policy(item) => item
                .targets
                .iter()
                .map(|target| Fact::PoliciesOf(target.service.clone()))
                .collect(),
            Self::TlsPolicy(item) => BTreeSet::from([Fact::TlsPoliciesIn(item.name.namespace.clone())]),
            Self::Workload(item) => item.facts(),
            Self::Trust(_) => BTreeSet::from([Fact::Trust]),
            Self::Used(identity, _) => BTreeSet::from([Fact::UsedBy(identity.clone())]),
        }
    }
}

/// All inputs, filed under the facts they answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    items: BTreeMap<Id, Item>,
    filed: BTreeMap<Fact, BTreeMap<Id, Item>>,
}

impl World {
    /// Takes an item in, in place of the one with its name. Returns the facts whose answer may differ now: none, if
    /// nothing changed.
    pub fn put(&mut self, item: Item) -> BTreeSet<Fact> {
        let id = item.id();
        if self.items.get(&id) == Some(&item) {
            return BTreeSet::new();
        }
        let mut touched = self.remove(&id);
        for fact in item.facts() {
            self.filed
                .entry(fact.clone())
                .or_default()
                .insert(id.clone(), item.clone());
            touched.insert(fact);
        }
        self.items.insert(id, item);
        touched
    }

    /// Takes an item out. Returns the facts whose answer may differ now.
    pub fn remove(&mut self, id: &Id) -> BTreeSet<Fact> {
        let Some(item) = self.items.remove(id) else {
            return BTreeSet::new();
        };
        let touched = item.facts();
        for fact in &touched {
            if let Some(filed) = self.filed.get_mut(fact) {
                filed.remove(id);
                if filed.is_empty() {
                    self.filed.remove(fact);
                }
            }
        }
        touched
    }

    /// An item by its name. Not for translation, which reads by [`Reader`].
    pub fn item(&self, id: &Id) -> Option<&Item> {
        self.items.get(id)
    }

    /// All items, ascending by name. Not for translation, which reads by [`Reader`].
    pub fn items(&self) -> impl Iterator<Item = (&Id, &Item)> {
        self.items.iter()
    }
}

/// What a translation read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// What it asked: what would wake it.
    pub asked: BTreeSet<Fact>,
    /// The routes and policies whose words are in the result.
    pub built_from: BTreeSet<Id>,
}

/// Reads the world and remembers what it was asked.
#[derive(Debug)]
pub struct Reader<'w> {
    world: &'w World,
    asked: BTreeSet<Fact>,
    built_from: BTreeSet<Id>,
}

impl<'w> Reader<'w> {
    /// A reader that was asked nothing yet.
    pub fn new(world: &'w World) -> Self {
        Self {
            world,
            asked: BTreeSet::new(),
            built_from: BTreeSet::new(),
        }
    }

    /// What was read.
    pub fn into_read(self) -> Read {
        Read {
            asked: self.asked,
            built_from: self.built_from,
        }
    }

    /// Notes that the words of a route or policy are in the result: who acknowledges that has taken it over.
    pub fn builds_from(&mut self, id: Id) {
        self.built_from.insert(id);
    }

    /// What is filed under a fact, ascending by name.
    fn find(&mut self, fact: Fact) -> impl Iterator<Item = &'w Item> + use<'w> {
        let filed = self.world.filed.get(&fact);
        self.asked.insert(fact);
        filed.into_iter().flat_map(BTreeMap::values)
    }

    /// The Services under a fact.
    pub fn services(&mut self, fact: Fact) -> impl Iterator<Item = &'w Arc<Service>> + use<'w> {
        self.find(fact).filter_map(|item| {
            if let Item::Service(found) = item {
                Some(found)
            } else {
                None
            }
        })
    }

    /// The Service of this name.
    pub fn service(&mut self, name: &ObjectName) -> Option<&'w Arc<Service>> {
        self.services(Fact::Service(name.clone())).next()
    }

    /// The slices under a fact.
    pub fn slices(&mut self, fact: Fact) -> impl Iterator<Item = &'w Arc<Slice>> + use<'w> {
        self.find(fact).filter_map(|item| {
            if let Item::Slice(found) = item {
                Some(found)
            } else {
                None
            }
        })
    }

    /// The Pods under a fact.
    pub fn pods(&mut self, fact: Fact) -> impl Iterator<Item = &'w Arc<Pod>> + use<'w> {
        self.find(fact).filter_map(|item| {
            if let Item::Pod(found) = item {
                Some(found)
            } else {
                None
            }
        })
    }

    /// The Pod of this name.
    pub fn pod(&mut self, name: &ObjectName) -> Option<&'w Arc<Pod>> {
        self.pods(Fact::Pod(name.clone())).next()
    }

    /// Whether a Pod is known to be outside the mesh.
    pub fn is_outsider(&mut self, pod: &ObjectName) -> bool {
        self.find(Fact::Outsider(pod.clone())).next().is_some()
    }

    /// Whether every Pod there is has been told.
    pub fn pods_told(&mut self) -> bool {
        self.find(Fact::PodsTold).next().is_some()
    }

    /// The routes under a fact.
    pub fn routes(&mut self, fact: Fact) -> impl Iterator<Item = &'w Arc<Route>> + use<'w> {
        self.find(fact).filter_map(|item| {
            if let Item::Route(found) = item {
                Some(found)
            } else {
                None
            }
        })
    }

    /// The traffic policies of a Service.
    pub fn policies(
        &mut self,
        service: &ObjectName,
    ) -> impl Iterator<Item = &'w Arc<TrafficPolicy>> + use<'w> {
        let filed = self.find(Fact::PoliciesOf(service.clone()));
        filed.filter_map(|item| {
            if let Item::Policy(found) = item {
                Some(found)
            } else {
                None
            }
        })
    }

    /// The TLS policies of a namespace.
    pub fn tls_policies(&mut self, namespace: &Name) -> impl Iterator<Item = &'w Arc<TlsPolicy>> + use<'w> {
        let filed = self.find(Fact::TlsPoliciesIn(namespace.clone()));
        filed.filter_map(|item| {
            if let Item::TlsPolicy(found) = item {
                Some(found)
            } else {
                None
            }
        })
    }

    /// The registered workloads under a fact.
    pub fn workloads(&mut self, fact: Fact) -> impl Iterator<Item = &'w Arc<Workload>> + use<'w> {
        self.find(fact).filter_map(|item| {
            if let Item::Workload(found) = item {
                Some(found)
            } else {
                None
            }
        })
    }

    /// The registered workload with this node id.
    pub fn workload(&mut self, node: &ObjectName) -> Option<&'w Arc<Workload>> {
        self.workloads(Fact::Workload(node.clone())).next()
    }

    /// The roots; `None` before the first are known.
    pub fn trust(&mut self) -> Option<&'w Arc<[Arc<[u8]>]>> {
        self.find(Fact::Trust).find_map(|item| {
            if let Item::Trust(roots) = item {
                Some(roots)
            } else {
                None
            }
        })
    }

    /// Names of listeners that the workloads of an identity use.
    pub fn used_by(&mut self, identity: &Name) -> Option<&'w Arc<BTreeSet<Name>>> {
        let mut filed = self.find(Fact::UsedBy(identity.clone()));
        filed.find_map(|item| {
            if let Item::Used(_, names) = item {
                Some(names)
            } else {
                None
            }
        })
    }
}

#[cfg(test)]
mod tests;
