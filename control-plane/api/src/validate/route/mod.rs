//! Rules for HTTPRoute and GRPCRoute: Gateway API 1.7, standard channel, in words of our own.
//!
//! The schema of the bindings says which fields there are; everything that the API's own schema says beyond that
//! (bounds, formats, what goes together) is here, because the bindings carry no rules. What the standard channel
//! doesn't have is refused; what it has and the mesh can't honour is a warning that says what requests get.

mod filters;
mod grpc;
mod http;
mod matches;
mod refs;

pub(super) use grpc::grpc_route;
pub(super) use http::http_route;

use super::field::{Field, Problems};
use super::kubernetes::distinct;
use super::metadata::check_name;
use super::name::{HOSTNAME, SUBDOMAIN};

/// Most parents of a route.
const MAX_PARENTS: usize = 32;
/// Most hostnames of a route.
const MAX_HOSTNAMES: usize = 16;
/// Most rules of a route.
const MAX_RULES: usize = 16;
/// Most matches of a rule.
const MAX_MATCHES: usize = 64;
/// Most matches of a whole route.
const MAX_ALL_MATCHES: usize = 128;
/// Most filters of a rule or backend, and most backends of a rule, headers or query parameters of a match, headers
/// of a change.
const MAX_ITEMS: usize = 16;

/// What both kinds have in common: parents, hostnames, and the numbers of rules and matches.
fn check_common(spec: &Field<'_>, problems: &mut Problems) {
    refs::check_parents(spec, problems);
    check_hostnames(spec, problems);
    let rules = spec.items("rules");
    match spec.get("rules") {
        None => {}
        Some(field) if rules.is_empty() => {
            problems.error(
                &field.at,
                "an empty list of rules matches nothing",
                "add a rule, or leave the field out",
            );
        }
        Some(field) => at_most(&field, MAX_RULES, problems),
    }
    let matches = rules
        .iter()
        .map(|rule| rule.items("matches").len())
        .sum::<usize>();
    if matches > MAX_ALL_MATCHES {
        let reason =
            format!("all rules together have {matches} matches; at most {MAX_ALL_MATCHES} are allowed");
        problems.error(&spec.at.key("rules"), reason, "split the route in two");
    }
    for rule in &rules {
        if let Some(name) = rule.get("name") {
            check_name(&name, &SUBDOMAIN, problems);
        }
        rule.get("matches")
            .iter()
            .for_each(|field| at_most(field, MAX_MATCHES, problems));
        rule.get("filters")
            .iter()
            .for_each(|field| at_most(field, MAX_ITEMS, problems));
        rule.get("backendRefs")
            .iter()
            .for_each(|field| at_most(field, MAX_ITEMS, problems));
        if rule.get("sessionPersistence").is_some() {
            not_standard(&rule.at.key("sessionPersistence"), problems);
        }
    }
    distinct(
        &rules,
        "name",
        |rule| rule.text("name").map(str::to_owned),
        problems,
    );
    if spec.get("useDefaultGateways").is_some() {
        not_standard(&spec.at.key("useDefaultGateways"), problems);
    }
}

fn check_hostnames(spec: &Field<'_>, problems: &mut Problems) {
    let Some(hostnames) = spec.get("hostnames") else {
        return;
    };
    at_most(&hostnames, MAX_HOSTNAMES, problems);
    for hostname in hostnames.each() {
        check_name(&hostname, &HOSTNAME, problems);
    }
    if !hostnames.each().is_empty() {
        let reason = "hostnames have no effect on a route whose parent is a Service";
        problems.warning(
            &hostnames.at,
            reason,
            "remove them; the Service's own names are what the route serves",
        );
    }
}

fn not_standard(at: &crate::pointer::Pointer, problems: &mut Problems) {
    problems.error(at, "is not in the Gateway API's standard channel", "remove it");
}

/// A list with an upper bound.
fn at_most(list: &Field<'_>, max: usize, problems: &mut Problems) {
    let count = list.value.as_array().map_or(0, Vec::len);
    if count > max {
        problems.error(
            &list.at,
            format!("has {count} items; at most {max} are allowed"),
            "split the rule in two",
        );
    }
}

/// A text with bounds on its length, in bytes for ASCII and characters beyond.
fn length(field: &Field<'_>, key: &str, min: usize, max: usize, problems: &mut Problems) {
    let Some(text) = field.text(key) else { return };
    let count = text.chars().count();
    if count < min {
        problems.error(&field.at.key(key), "must not be empty", "fill it in");
    } else if count > max {
        let reason = format!("has {count} characters; at most {max} are allowed");
        problems.error(&field.at.key(key), reason, "shorten it");
    }
}
