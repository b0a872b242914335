//! Who comes first: matches of routes by the Gateway API's rules, and objects that claim the same thing.
//!
//! A match is ranked by what it says ([`crate::world::rank`]); ties go to the oldest route, then to the first by
//! `namespace/name`, then to the earlier rule and the earlier match within it.

use crate::world::route::{Match, Route, RouteKind, RouteRule};
use crate::world::{Created, ObjectName};

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
