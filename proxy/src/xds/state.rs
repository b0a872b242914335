//! What the configuration stream knows, between two events: from responses to a published snapshot.
//!
//! ```text
//! names asked for ─▶ Wants ─▶ roots ─▶ Store ─▶ wanted ─▶ Subscription ─▶ requests
//! responses ─▶ decode ─▶ Subscription ─▶ Store ─▶ link ─▶ Published
//! ```
//!
//! No socket and no clock here: the client hands in what arrived and sends what [`State::next_request`] says.

use std::collections::{BTreeMap, BTreeSet};
use std::panic;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;
use weft_identity::bundle::TrustBundle;
use weft_identity::spiffe::TrustDomain;
use weft_ops::health::Health;
use weft_proxy_core::resource::{Kind, Name, Resource};
use weft_proxy_core::snapshot::{Lookup, Snapshot, Store};
use weft_proxy_core::subscription::{Applied, Known, Nack, Request, Response, Subscription};
use weft_xds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_xds_proto::google::protobuf::Any;
use weft_xds_proto::google::rpc::Status;
use weft_xds_proto::weft::{RejectedResource, RejectedResources};
use weft_xds_proto::{names, pack_any, types};

use super::saved::Saved;
use super::wants::Wants;
use crate::published::Published;

/// Name of the readiness condition.
pub const CONDITION: &str = "configuration";

/// gRPC's `INVALID_ARGUMENT`, the code of every NACK.
const INVALID_ARGUMENT: i32 = 3;

/// See the module's head.
#[derive(Debug)]
pub struct State {
    published: Arc<Published>,
    health: Health,
    trust_domain: TrustDomain,
    roots: watch::Sender<Option<TrustBundle>>,
    /// What must be known before we are ready.
    needed: BTreeSet<(Kind, Name)>,
    /// Of those: what must exist.
    must_exist: Option<Name>,
    wants: Wants,
    store: Store,
    subscription: Subscription,
    snapshot: Arc<Snapshot>,
    /// Every resource in force as it came, with its version.
    raw: BTreeMap<(Kind, Name), (String, Any)>,
    /// What was refused last, and why.
    rejected: BTreeMap<(Kind, Name), String>,
}

/// What a proxy always subscribes to.
#[derive(Clone, Debug)]
pub struct Always {
    /// Its node id.
    pub node_id: String,
    /// Whether it has an inbound side.
    pub inbound: bool,
    /// Whether it is ready only once the control plane knows its inbound side; one that registers is known afterwards.
    pub must_be_known: bool,
    /// Destinations of its bound ports.
    pub binds: Vec<Name>,
}

impl State {
    /// Nothing known yet. New trust bundles go to `roots`.
    pub fn new(
        always: &Always,
        trust_domain: TrustDomain,
        published: Arc<Published>,
        health: Health,
        roots: watch::Sender<Option<TrustBundle>>,
    ) -> Self {
        let mut needed = BTreeSet::from([(Kind::Trust, names::trust_bundle(trust_domain.as_str()).into())]);
        if always.inbound {
            needed.insert((Kind::Listener, names::inbound(&always.node_id).into()));
        }
        needed.extend(always.binds.iter().map(|name| (Kind::Listener, name.clone())));
        let mut pinned = needed.clone();
        pinned.insert((Kind::Hints, names::hints(&always.node_id).into()));
        let mut state = Self {
            published,
            health,
            trust_domain,
            roots,
            needed,
            must_exist: always
                .must_be_known
                .then(|| names::inbound(&always.node_id).into()),
            wants: Wants::new(pinned),
            store: Store::default(),
            subscription: Subscription::new(),
            snapshot: Arc::default(),
            raw: BTreeMap::new(),
            rejected: BTreeMap::new(),
        };
        state.relink();
        state
    }

    /// Takes over what an earlier process had saved.
    pub fn restore(&mut self, saved: Vec<Saved>) {
        let (mut resources, mut versions) = (Vec::new(), Vec::new());
        for Saved { name, version, body } in saved {
            let Ok(resource) = decode(&name, &body) else {
                continue;
            };
            let key = (resource.kind(), Name::from(name));
            if let (Kind::Listener, name) = &key
                && !name.starts_with(names::INBOUND_PREFIX)
            {
                self.wants.ask(name, |_| false);
            }
            versions.push((key.0, key.1.clone(), version.clone()));
            self.raw.insert(key, (version, body));
            resources.push(resource);
        }
        tracing::info!(
            resources = resources.len(),
            "going on with the last known configuration"
        );
        self.subscription.restore(versions);
        self.put(Applied {
            resources,
            removed: Vec::new(),
        });
    }

    /// Somebody asks for these destinations.
    pub fn ask(&mut self, names: &[Name]) {
        let subscription = &self.subscription;
        let is_absent = |name: &Name| subscription.known(Kind::Listener, name) == Known::Absent;
        let new = names
            .iter()
            .filter(|name| self.wants.ask(name, is_absent))
            .count();
        if new > 0 {
            self.relink();
        }
    }

    /// A minute has passed: what was not used for long is let go, but not while nobody could bring it back.
    pub fn minute(&mut self) {
        if self.subscription.is_connected() && self.wants.minute(&self.published.take_used()) {
            self.relink();
        }
    }

    /// The subscription's machine, for opening and losing the stream.
    pub fn subscription(&mut self) -> &mut Subscription {
        &mut self.subscription
    }

    /// Takes a response in. Returns whether anything in force has changed.
    pub fn on_response(&mut self, message: DeltaDiscoveryResponse) -> bool {
        let Some(kind) = kind(&message.type_url) else {
            tracing::warn!(
                type_url = message.type_url,
                "resources of a type that was not asked for are ignored"
            );
            return false;
        };
        let mut raw = BTreeMap::new();
        let mut resources = Vec::new();
        for resource in message.resources {
            let name = Name::from(resource.name);
            let body = resource.resource.unwrap_or_default();
            let decoded = decode_as(kind, &name, &body);
            self.note_rejection(kind, &name, decoded.as_ref().err());
            resources.push((name.clone(), resource.version.clone(), decoded));
            raw.insert(name, (resource.version, body));
        }
        let removed = message.removed_resources.into_iter().map(Name::from);
        let removed = removed.filter(|name| !self.is_own_side(kind, name)).collect();
        let nacks = self.subscription.nacks();
        let applied = self.subscription.on_response(Response {
            kind,
            nonce: message.nonce,
            resources,
            removed,
        });
        metrics::counter!("weft_xds_nacks_total").increment(self.subscription.nacks() - nacks);
        for resource in &applied.resources {
            if let Some(body) = raw.remove(resource.name()) {
                self.raw.insert((kind, resource.name().clone()), body);
            }
        }
        let changed = applied != Applied::default();
        self.put(applied);
        changed
    }

    /// Our own inbound side is withdrawn together with our registration, while connections still have to be served
    /// as before: what we hold of it stays, for this process and the next.
    fn is_own_side(&self, kind: Kind, name: &Name) -> bool {
        let own = kind == Kind::Listener && name.starts_with(names::INBOUND_PREFIX);
        own && self.raw.contains_key(&(kind, name.clone()))
    }

    fn note_rejection(&mut self, kind: Kind, name: &Name, reason: Option<&String>) {
        let key = (kind, name.clone());
        let Some(reason) = reason else {
            return drop(self.rejected.remove(&key));
        };
        tracing::warn!(kind = ?kind, name = &**name, reason, "a resource is refused; its last good version stays");
        self.rejected.insert(key, reason.clone());
    }

    fn put(&mut self, applied: Applied) {
        for key in &applied.removed {
            self.raw.remove(key);
            self.rejected.remove(key);
        }
        for refused in self.store.apply(applied.resources, applied.removed) {
            tracing::error!(kind = ?refused.kind, name = &*refused.name, reason = refused.reason, "can't be linked");
        }
        self.relink();
    }

    /// Brings wants, store, subscription and the published snapshot together.
    fn relink(&mut self) {
        self.store.set_roots(self.wants.roots());
        let mut snapshot = self.store.link(&self.snapshot);
        if self.wants.hint(&snapshot.hints) {
            self.store.set_roots(self.wants.roots());
            snapshot = self.store.link(&snapshot);
        }
        let wanted = self.store.wanted();
        self.store.retain(&wanted);
        self.raw.retain(|key, _| wanted.contains(key));
        self.rejected.retain(|key, _| wanted.contains(key));
        self.subscription.set_wanted(wanted);
        self.snapshot = Arc::new(snapshot);
        self.published.publish(Arc::clone(&self.snapshot));
        metrics::gauge!("weft_xds_resources").set(self.raw.len() as f64);
        self.take_roots();
        let is_known = |(kind, name): &(Kind, Name)| match self.subscription.known(*kind, name) {
            Known::Held => true,
            Known::Absent => self.must_exist.as_ref() != Some(name),
            Known::Pending => false,
        };
        if self.needed.iter().all(is_known) {
            self.health.set(CONDITION, true);
        }
    }

    fn take_roots(&self) {
        let Some(trust) = self
            .snapshot
            .trust
            .get(&*names::trust_bundle(self.trust_domain.as_str()))
        else {
            return;
        };
        let roots = trust.roots.iter().map(|root| root.to_vec().into()).collect();
        match TrustBundle::new(self.trust_domain.clone(), roots) {
            Ok(bundle) => {
                self.roots.send_if_modified(|old| {
                    let changed = old.as_ref() != Some(&bundle);
                    *old = Some(bundle);
                    changed
                });
            }
            Err(error) => tracing::warn!(%error, "the trust bundle is not taken over"),
        }
    }

    /// The next request to send, without the node.
    pub fn next_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        self.subscription.next_request().map(encode)
    }

    /// Everything in force as it came.
    pub fn saved(&self) -> Vec<Saved> {
        let saved = |((_, name), (version, body)): (&(Kind, Name), &(String, Any))| Saved {
            name: name.to_string(),
            version: version.clone(),
            body: body.clone(),
        };
        self.raw.iter().map(saved).collect()
    }

    /// For people: what is held, with versions, what was refused and why, what is known of each destination.
    pub fn report(&self) -> Value {
        let resources = self.raw.iter().map(|((kind, name), (version, _))| {
            json!({ "kind": format!("{kind:?}"), "name": &**name, "acked_version": version })
        });
        let rejected = self.rejected.iter().map(|((kind, name), reason)| {
            json!({ "kind": format!("{kind:?}"), "name": &**name, "nack_reason": reason })
        });
        let destinations = self.snapshot.destinations().iter().map(|(name, lookup)| {
            let state = match lookup {
                Lookup::Known(_) => "known",
                Lookup::Absent => "absent",
                Lookup::Pending => "pending",
            };
            json!({ "name": &**name, "state": state })
        });
        json!({
            "connected": self.subscription.is_connected(),
            "nacks": self.subscription.nacks(),
            "resources": resources.collect::<Vec<_>>(),
            "rejected": rejected.collect::<Vec<_>>(),
            "destinations": destinations.collect::<Vec<_>>(),
        })
    }
}

/// A resource that makes the decoder panic is refused like any other that can't be read, and ends nothing else.
fn decode(name: &str, body: &Any) -> Result<Resource, String> {
    panic::catch_unwind(|| super::decode::decode(name, body))
        .map_err(|_| "this proxy has a defect and can't read it; its log says where".to_owned())?
        .map_err(|error| error.to_string())
}

fn decode_as(kind: Kind, name: &Name, body: &Any) -> Result<Resource, String> {
    let resource = decode(name, body)?;
    if resource.kind() == kind {
        return Ok(resource);
    }
    Err(format!(
        "a {:?} came in a response of type {kind:?}",
        resource.kind()
    ))
}

fn kind(type_url: &str) -> Option<Kind> {
    Some(match type_url {
        types::CLUSTER => Kind::Cluster,
        types::ENDPOINTS => Kind::Endpoints,
        types::LISTENER => Kind::Listener,
        types::ROUTE => Kind::Routes,
        types::SECRET => Kind::Trust,
        types::HINTS => Kind::Hints,
        _ => return None,
    })
}

fn type_url(kind: Kind) -> &'static str {
    match kind {
        Kind::Cluster => types::CLUSTER,
        Kind::Endpoints => types::ENDPOINTS,
        Kind::Listener => types::LISTENER,
        Kind::Routes => types::ROUTE,
        Kind::Trust => types::SECRET,
        Kind::Hints => types::HINTS,
    }
}

fn encode(request: Request) -> DeltaDiscoveryRequest {
    let texts = |names: Vec<Name>| names.iter().map(ToString::to_string).collect();
    DeltaDiscoveryRequest {
        type_url: type_url(request.kind).to_owned(),
        resource_names_subscribe: texts(request.subscribe),
        resource_names_unsubscribe: texts(request.unsubscribe),
        initial_resource_versions: request
            .initial_versions
            .into_iter()
            .map(|(name, version)| (name.to_string(), version))
            .collect(),
        response_nonce: request.nonce.unwrap_or_default(),
        error_detail: request.nack.map(rejection),
        ..DeltaDiscoveryRequest::default()
    }
}

fn rejection(nack: Nack) -> Status {
    let resource = |(name, reason): (Name, String)| RejectedResource {
        name: name.to_string(),
        reason,
    };
    let rejected = RejectedResources {
        resources: nack.rejected.into_iter().map(resource).collect(),
    };
    Status {
        code: INVALID_ARGUMENT,
        message: nack.message,
        details: vec![pack_any(rejected)],
    }
}

#[cfg(test)]
mod tests;
