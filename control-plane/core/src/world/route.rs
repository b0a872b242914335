//! Routes: HTTPRoute and GRPCRoute with Services as parents, in one form.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::rank::Specificity;
use super::{Created, Fact, ObjectName};
use crate::resource::{Action, HeaderEdit, Name, Retry, Rewrite, RouteMatch};

/// The kinds of route, in the order in which one excludes the next on one Service and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// GRPCRoute.
    Grpc,
    /// HTTPRoute.
    Http,
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
        })
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Which kind.
    pub kind: RouteKind,
    /// Its name.
    pub name: ObjectName,
    /// Its age.
    pub created: Created,
    /// Its Services; other parents are none of the mesh's business and left out.
    pub parents: Vec<Parent>,
    /// Its rules, in its own order.
    pub rules: Vec<RouteRule>,
    /// Fields whose meaning can't be honoured: `field: why`. The rules they stand in answer 500.
    pub unsupported: Vec<String>,
    /// It names hosts, which a mesh route ignores.
    pub hostnames: bool,
}

/// A Service, or one of its ports, that a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parent {
    /// The Service.
    pub service: ObjectName,
    /// One port by number.
    pub port: Option<u16>,
    /// One port by name.
    pub section: Option<Name>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRule {
    /// Its name, or else its index.
    pub name: Name,
    /// One or more.
    pub matches: Vec<Match>,
    /// Changes to the request's head.
    pub request: HeaderEdit,
    /// Changes to the response's head.
    pub response: HeaderEdit,
    /// Changes to host and path.
    pub rewrite: Rewrite,
    /// What it does.
    pub does: Does,
    /// Whole exchange; `None`: no limit.
    pub timeout: Option<Duration>,
    /// One attempt; `None`: no limit.
    pub attempt_timeout: Option<Duration>,
    /// Retries.
    pub retry: Option<Retry>,
}

/// A condition, and its rank among others.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// The condition.
    pub when: RouteMatch,
    /// Its rank.
    pub rank: Specificity,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq)]
pub enum Does {
    /// To one of these by weight. None at all: 500.
    Forward(Vec<BackendRef>),
    /// What needs no backend.
    Answer(Action),
}

/// A share of a rule's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRef {
    /// Its share.
    pub weight: u32,
    /// Where to.
    pub target: BackendTarget,
    /// Changes on this share only.
    pub request: HeaderEdit,
    /// Changes on this share only.
    pub response: HeaderEdit,
}

/// Where a share goes, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendTarget {
    /// A port of a Service, which need not exist.
    Service(ObjectName, u16),
    /// Something that can't be a backend: its kind.
    OtherKind(String),
    /// Something with a filter that can't be honoured: 500.
    Refused,
}

impl Route {
    /// Whether it binds for all clients: its own namespace's Service. Otherwise (a consumer's route) it binds for its
    /// own namespace.
    pub fn produces(&self, service: &ObjectName) -> bool {
        self.name.namespace == service.namespace
    }

    /// Every backend.
    pub fn backends(&self) -> impl Iterator<Item = &BackendRef> {
        self.rules.iter().flat_map(|rule| match &rule.does {
            Does::Forward(backends) => backends.as_slice(),
            Does::Answer(_) => &[],
        })
    }

    pub(super) fn facts(&self) -> BTreeSet<Fact> {
        let mut facts: BTreeSet<Fact> = self
            .parents
            .iter()
            .map(|parent| Fact::RoutesOf(parent.service.clone()))
            .collect();
        facts.extend(self.backends().filter_map(|backend| match &backend.target {
            BackendTarget::Service(service, _) => Some(Fact::RoutesTo(service.clone())),
            BackendTarget::OtherKind(_) | BackendTarget::Refused => None,
        }));
        facts
    }
}
