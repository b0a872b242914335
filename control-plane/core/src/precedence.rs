//! Who comes first: matches of routes by the Gateway API's rules, and objects that claim the same thing.
//!
//! A match is ranked by what it says ([`Specificity`]); ties go to the oldest route, then to the first by
//! `namespace/name`, then to the earlier rule and the earlier match within it. Regular expressions, whose place the
//! Gateway API leaves open, come after exact paths and before prefixes: who writes one means something narrower than a
//! prefix.

use std::cmp::Reverse;

use crate::resource::{PathMatch, RouteMatch};
use crate::world::route::{Match, Route, RouteKind, RouteRule};
use crate::world::{Created, ObjectName};

/// How specific a match is; the least comes first. Matches of the two kinds of route never meet in one table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Specificity {
    /// HTTPRoute: the path, then a method, then more headers, then more query parameters.
    Http {
        /// What the path is compared with.
        path: PathRank,
        /// Whether a method is asked for.
        method: Reverse<bool>,
        /// How many headers.
        headers: Reverse<usize>,
        /// How many query parameters.
        query: Reverse<usize>,
    },
    /// GRPCRoute: longer service, longer method, more headers.
    Grpc {
        /// Regular expressions come after exact names.
        regex: bool,
        /// Characters of the service.
        service: Reverse<usize>,
        /// Characters of the method.
        method: Reverse<usize>,
        /// How many headers.
        headers: Reverse<usize>,
    },
}

/// How specific a path is: exact, then regular expressions, then prefixes, the longer first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathRank {
    /// Characters of an exact path.
    Exact(Reverse<usize>),
    /// Characters of a regular expression.
    Regex(Reverse<usize>),
    /// Characters of a prefix.
    Prefix(Reverse<usize>),
}

impl Specificity {
    /// The rank of a match of an HTTPRoute.
    pub fn http(when: &RouteMatch) -> Self {
        let path = match &when.path {
            PathMatch::Exact(path) => PathRank::Exact(length(path)),
            PathMatch::Regex(path) => PathRank::Regex(length(path)),
            PathMatch::Prefix(path) => PathRank::Prefix(length(path)),
        };
        Self::Http {
            path,
            method: Reverse(when.method.is_some()),
            headers: Reverse(when.headers.len()),
            query: Reverse(when.query.len()),
        }
    }

    /// The rank of a match of a GRPCRoute, by what it says of service and method.
    pub fn grpc(regex: bool, service: &str, method: &str, headers: usize) -> Self {
        Self::Grpc {
            regex,
            service: length(service),
            method: length(method),
            headers: Reverse(headers),
        }
    }
}

fn length(text: &str) -> Reverse<usize> {
    Reverse(text.chars().count())
}

/// Who claimed first, to sort by: the older object, then the first by `namespace/name`.
pub fn seniority(created: Created, name: &ObjectName) -> (Created, ObjectName) {
    (created, name.clone())
}

/// All matches of `routes` in order of precedence, each with its rule and route.
pub fn in_order<'r>(routes: &[&'r Route]) -> Vec<(&'r Route, &'r RouteRule, &'r Match)> {
    let mut routes = routes.to_vec();
    routes.sort_by_key(|claim| seniority(claim.created, &claim.name));
    let mut matches: Vec<_> = routes
        .into_iter()
        .flat_map(|route| route.rules.iter().map(move |rule| (route, rule)))
        .flat_map(|(route, rule)| rule.matches.iter().map(move |found| (route, rule, found)))
        .collect();
    // Stable: what ties stays in the order of seniority, rule and match.
    matches.sort_by(|a, b| a.2.rank.cmp(&b.2.rank));
    matches
}

/// Of the routes that a client meets on one port of a Service, those in force. A consumer's routes replace the
/// producer's for its own namespace, and one kind of route excludes the kinds after it.
pub fn in_force<'r>(service: &ObjectName, routes: &[&'r Route]) -> Vec<&'r Route> {
    let consumes = routes.iter().any(|route| !route.produces(service));
    let of_one_side: Vec<_> = routes
        .iter()
        .copied()
        .filter(|route| route.produces(service) != consumes)
        .collect();
    let kind: Option<RouteKind> = of_one_side.iter().map(|route| route.kind).min();
    of_one_side
        .into_iter()
        .filter(|route| Some(route.kind) == kind)
        .collect()
}

#[cfg(test)]
mod tests;
