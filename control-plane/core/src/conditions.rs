//! What is in force: for each object, and for each Service it is about, whether it is accepted and whether what it
//! names exists. In the Gateway API's words, so that the same values become `status` in a cluster.

use std::fmt;

use weft_api::object::{Kind, ObjectRef};

use crate::ingest::{self, Rejected};
use crate::names::Settings;
use crate::precedence::{in_force, seniority};
use crate::resource::Name;
use crate::translate::Context;
use crate::translate::attach::{Destination, means, takes_routes};
use crate::world::policy::{TlsPolicy, TlsTarget, TrafficPolicy};
use crate::world::route::{BackendTarget, Parent, Route};
use crate::world::{Fact, Item, ObjectName, Reader, World};

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionType {
    /// The object is in force.
    Accepted,
    /// Everything it names exists.
    ResolvedRefs,
}

/// Why a condition is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// In force.
    Accepted,
    /// All there.
    ResolvedRefs,
    /// Another object claims the same and goes before.
    Conflicted,
    /// The parent doesn't exist, or has no such port.
    NoMatchingParent,
    /// The target of a policy doesn't exist, or has no such port.
    TargetNotFound,
    /// A field asks for what the mesh doesn't do.
    UnsupportedValue,
    /// The parent's port carries opaque bytes.
    UnsupportedProtocol,
    /// The object can't be understood.
    Invalid,
    /// A backend doesn't exist, or has no such port.
    BackendNotFound,
    /// A backend is of a kind that can't be one.
    InvalidKind,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What an object is attached to: a parent of a route, a target of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ancestor {
    /// A Namespace.
    Namespace(Name),
    /// A Service, or one of its ports.
    Service {
        /// The Service.
        name: ObjectName,
        /// One port by number.
        port: Option<u16>,
        /// One port by name.
        section: Option<Name>,
    },
}

/// `Service <namespace>/<name>` with the port, if one is named; `Namespace <name>`.
impl fmt::Display for Ancestor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Service { name, port, section } => {
                write!(f, "Service {name}")?;
                match (port, section) {
                    (Some(port), _) => write!(f, ":{port}"),
                    (None, Some(section)) => write!(f, ":{section}"),
                    (None, None) => Ok(()),
                }
            }
        }
    }
}

/// One statement about an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condition {
    /// What it is about; `None`: the object as a whole.
    pub ancestor: Option<Ancestor>,
    /// What it says.
    pub kind: ConditionType,
    /// Whether that holds.
    pub holds: bool,
    /// Why.
    pub reason: Reason,
    /// In a sentence, for people.
    pub message: String,
}

impl Condition {
    fn new(
        ancestor: Option<&Ancestor>,
        kind: ConditionType,
        reason: Reason,
        message: impl Into<String>,
    ) -> Self {
        let holds = matches!(reason, Reason::Accepted | Reason::ResolvedRefs);
        Self {
            ancestor: ancestor.cloned(),
            kind,
            holds,
            reason,
            message: message.into(),
        }
    }
}

/// An object and what is in force of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectStatus {
    /// The object.
    pub object: ObjectRef,
    /// `metadata.generation` of what the conditions are about; `None`: out of a file.
    pub generation: Option<i64>,
    /// One or more.
    pub conditions: Vec<Condition>,
}

/// An object that was applied, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// `metadata.generation` of its newest version.
    pub(crate) generation: Option<i64>,
    /// Why that version is not in force.
    pub(crate) rejected: Option<Rejected>,
}

/// The conditions of objects, in their order.
pub(crate) fn of_all<'a>(
    world: &World,
    settings: &Settings,
    objects: impl Iterator<Item = (&'a ObjectRef, &'a Known)>,
) -> Vec<ObjectStatus> {
    let mut context = Context {
        world: Reader::new(world),
        settings,
    };
    let mut all = Vec::new();
    for (object, known) in objects {
        let item = ingest::id(object).and_then(|id| world.item(&id));
        let conditions = match &known.rejected {
            Some(rejected) => vec![invalid(rejected, item.is_some())],
            None => of(&mut context, object, item),
        };
        all.push(ObjectStatus {
            object: object.clone(),
            generation: known.generation,
            conditions,
        });
    }
    all
}

fn invalid(rejected: &Rejected, older: bool) -> Condition {
    let rest = if older {
        "the last good version stays in force"
    } else {
        "nothing of it is in force"
    };
    Condition::new(
        None,
        ConditionType::Accepted,
        Reason::Invalid,
        format!("{rejected}; {rest}"),
    )
}

fn of(context: &mut Context<'_>, object: &ObjectRef, item: Option<&Item>) -> Vec<Condition> {
    match item {
        Some(Item::Route(route)) => route_conditions(context, route),
        Some(Item::Policy(policy)) => policy_conditions(context, policy),
        Some(Item::TlsPolicy(policy)) => tls_conditions(context, policy),
        None if object.kind != Kind::Namespace => {
            let message = "is no part of the mesh";
            vec![Condition::new(
                None,
                ConditionType::Accepted,
                Reason::Accepted,
                message,
            )]
        }
        _ => vec![Condition::new(
            None,
            ConditionType::Accepted,
            Reason::Accepted,
            "is read",
        )],
    }
}

fn route_conditions(context: &mut Context<'_>, route: &Route) -> Vec<Condition> {
    let (reason, message) = references(context, route);
    let mut conditions = Vec::new();
    for parent in &route.parents {
        let ancestor = Ancestor::Service {
            name: parent.service.clone(),
            port: parent.port,
            section: parent.section.clone(),
        };
        let (accepted, why) = accepted(context, route, parent);
        conditions.push(Condition::new(
            Some(&ancestor),
            ConditionType::Accepted,
            accepted,
            why,
        ));
        conditions.push(Condition::new(
            Some(&ancestor),
            ConditionType::ResolvedRefs,
            reason,
            message.clone(),
        ));
    }
    if conditions.is_empty() {
        let message = "has no Service for a parent, and so says nothing to the mesh";
        conditions.push(Condition::new(
            None,
            ConditionType::Accepted,
            Reason::Accepted,
            message,
        ));
    }
    conditions
}

/// Whether a route is in force on a parent: on one of the ports that it means, at least.
fn accepted(context: &mut Context<'_>, route: &Route, parent: &Parent) -> (Reason, String) {
    let Some(service) = context.world.service(&parent.service) else {
        return (
            Reason::NoMatchingParent,
            format!("there is no Service {}", parent.service),
        );
    };
    let ports = service.ports.iter().map(|port| Destination {
        service: service.as_ref(),
        port,
    });
    let meant: Vec<Destination<'_>> = ports.filter(|to| means(parent, *to)).collect();
    if meant.is_empty() {
        return (
            Reason::NoMatchingParent,
            format!("Service {} has no such port", parent.service),
        );
    }
    let speaking: Vec<_> = meant
        .into_iter()
        .filter(|to| takes_routes(context, *to))
        .collect();
    if speaking.is_empty() {
        let why = format!(
            "Service {}, or a Pod behind it, declares opaque bytes (TCP) there, which take no routes",
            parent.service
        );
        return (Reason::UnsupportedProtocol, why);
    }
    let wins = speaking.iter().any(|to| !conflicted(context, route, *to));
    if !wins {
        let why = format!(
            "a GRPCRoute is attached to Service {} there, which excludes HTTPRoutes",
            parent.service
        );
        return (Reason::Conflicted, why);
    }
    if let Some(first) = route.unsupported.first() {
        let why = format!("{first}; requests of such rules are answered with 500");
        return (Reason::UnsupportedValue, why);
    }
    let why = if route.hostnames {
        "is in force; its hostnames are ignored on a Service"
    } else {
        "is in force"
    };
    (Reason::Accepted, why.into())
}

/// Whether a route of another kind excludes it on this port, among those that bind for the same clients.
fn conflicted(context: &mut Context<'_>, route: &Route, destination: Destination<'_>) -> bool {
    let service = &destination.service.name;
    let attached: Vec<&Route> = context
        .world
        .routes(Fact::RoutesOf(service.clone()))
        .map(AsRef::as_ref)
        .filter(|other| other.name.namespace == route.name.namespace)
        .filter(|other| other.parents.iter().any(|parent| means(parent, destination)))
        .collect();
    in_force(service, &attached)
        .iter()
        .all(|winner| winner.kind != route.kind)
}

/// Whether all backends of a route exist.
fn references(context: &mut Context<'_>, route: &Route) -> (Reason, String) {
    for backend in route.backends() {
        match &backend.target {
            BackendTarget::OtherKind(kind) => {
                return (
                    Reason::InvalidKind,
                    format!("a backend is a {kind}; only a Service can be one"),
                );
            }
            BackendTarget::Service(service, port) if Destination::find(context, service, *port).is_none() => {
                let why =
                    format!("there is no Service {service} with port {port}; its share is answered with 500");
                return (Reason::BackendNotFound, why);
            }
            BackendTarget::Service(..) | BackendTarget::Refused => {}
        }
    }
    (Reason::ResolvedRefs, "every backend exists".into())
}

fn policy_conditions(context: &mut Context<'_>, policy: &TrafficPolicy) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for target in &policy.targets {
        let rivals = context
            .world
            .policies(&target.service)
            .filter(|rival| rival.targets.contains(target));
        let senior = rivals.min_by_key(|claim| seniority(claim.created, &claim.name));
        let winner = senior
            .map(|senior| &senior.name)
            .filter(|winner| **winner != policy.name);
        let exists = exists(context, &target.service, target.port.as_deref());
        conditions.extend(on_target(&target.service, target.port.as_ref(), exists, winner));
    }
    conditions
}

fn tls_conditions(context: &mut Context<'_>, policy: &TlsPolicy) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for target in &policy.targets {
        let rivals = context
            .world
            .tls_policies(&policy.name.namespace)
            .filter(|rival| rival.targets.contains(target));
        let senior = rivals.min_by_key(|claim| seniority(claim.created, &claim.name));
        let winner = senior
            .map(|senior| &senior.name)
            .filter(|winner| **winner != policy.name);
        let (service, port) = match target {
            TlsTarget::Namespace => {
                let (reason, why) = rivalry(winner);
                let ancestor = Ancestor::Namespace(policy.name.namespace.clone());
                conditions.extend(on_existing(&ancestor, reason, why));
                continue;
            }
            TlsTarget::Service(service) => (service, None),
            TlsTarget::Port(service, port) => (service, Some(port)),
        };
        let exists = exists(context, service, port.map(AsRef::as_ref));
        conditions.extend(on_target(service, port, exists, winner));
    }
    conditions
}

fn exists(context: &mut Context<'_>, service: &ObjectName, port: Option<&str>) -> bool {
    match port {
        Some(port) => Destination::find_named(context, service, port).is_some(),
        None => context.world.service(service).is_some(),
    }
}

fn on_target(
    service: &ObjectName,
    port: Option<&Name>,
    exists: bool,
    winner: Option<&ObjectName>,
) -> [Condition; 2] {
    let ancestor = Ancestor::Service {
        name: service.clone(),
        port: None,
        section: port.cloned(),
    };
    if exists {
        let (reason, why) = rivalry(winner);
        return on_existing(&ancestor, reason, why);
    }
    let why = "there is no such Service, or no port of that name";
    [ConditionType::Accepted, ConditionType::ResolvedRefs]
        .map(|kind| Condition::new(Some(&ancestor), kind, Reason::TargetNotFound, why))
}

/// On a target that exists: nothing else is named by a policy.
fn on_existing(ancestor: &Ancestor, reason: Reason, why: String) -> [Condition; 2] {
    let found = "the target exists";
    [
        Condition::new(Some(ancestor), ConditionType::Accepted, reason, why),
        Condition::new(
            Some(ancestor),
            ConditionType::ResolvedRefs,
            Reason::ResolvedRefs,
            found,
        ),
    ]
}

fn rivalry(winner: Option<&ObjectName>) -> (Reason, String) {
    match winner {
        Some(winner) => (
            Reason::Conflicted,
            format!("{winner} has the same target and is older"),
        ),
        None => (Reason::Accepted, "is in force".into()),
    }
}

#[cfg(test)]
mod tests;
