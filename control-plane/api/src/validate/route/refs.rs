//! What a route points at: its parents and its backends.

use std::collections::BTreeMap;

use super::super::field::{Field, Problems};
use super::super::kubernetes::port_number;
use super::super::metadata::check_name;
use super::super::name::{LABEL, SUBDOMAIN};
use super::{MAX_PARENTS, at_most};

/// Largest weight of a backend.
const MAX_WEIGHT: i64 = 1_000_000;

pub(super) fn check_parents(spec: &Field<'_>, problems: &mut Problems) {
    let Some(parents) = spec.get("parentRefs") else {
        let reason = "a route without parents is attached to nothing";
        return problems.warning(
            &spec.at.key("parentRefs"),
            reason,
            "name the Service whose callers it is for",
        );
    };
    at_most(&parents, MAX_PARENTS, problems);
    for parent in parents.each() {
        check_target(&parent, problems);
        port_number(&parent, "port", problems);
        if let Some(section) = parent.get("sectionName") {
            check_name(&section, &SUBDOMAIN, problems);
        }
        let group = parent.text("group").unwrap_or(crate::gateway::GROUP);
        let kind = parent.text("kind").unwrap_or("Gateway");
        if (group, kind) != ("", "Service") {
            let remedy = "for the mesh, write group: \"\" and kind: Service";
            problems.warning(
                &parent.at,
                format!("a parent of kind {kind} is not the mesh's to serve"),
                remedy,
            );
        }
    }
    check_distinct(&parents.each(), problems);
}

/// Several references to one parent must each name a part of it, and no part twice.
fn check_distinct(parents: &[Field<'_>], problems: &mut Problems) {
    let mut seen: BTreeMap<_, Vec<&Field<'_>>> = BTreeMap::new();
    for parent in parents {
        let part = |key: &str, default| parent.text(key).unwrap_or(default).to_owned();
        let group = part("group", crate::gateway::GROUP);
        let key = (
            group,
            part("kind", "Gateway"),
            part("namespace", ""),
            part("name", ""),
        );
        seen.entry(key).or_default().push(parent);
    }
    for same in seen.values().filter(|same| same.len() > 1) {
        for (index, parent) in same.iter().enumerate().skip(1) {
            if same[..index]
                .iter()
                .any(|earlier| section(earlier) == section(parent))
            {
                let reason = "the same parent, with the same section and port, is named twice";
                problems.error(&parent.at, reason, "keep one of the two");
            } else if same[..index]
                .iter()
                .any(|earlier| only_ports_differ(earlier, parent))
            {
                let reason = "the same parent is named twice with different ports, which the Gateway API's \
                              standard channel doesn't tell apart";
                problems.error(&parent.at, reason, "name each port by sectionName");
            }
        }
        for parent in same.iter().filter(|parent| section(parent) == ("", None)) {
            let reason =
                "the parent is named several times, and this reference doesn't say which part it means";
            problems.error(
                &parent.at,
                reason,
                "add sectionName or port, or keep only this reference",
            );
        }
    }
}

/// Whether two references to one parent differ in nothing but their ports.
fn only_ports_differ(one: &Field<'_>, other: &Field<'_>) -> bool {
    let ((one_section, one_port), (other_section, other_port)) = (section(one), section(other));
    one_section == other_section && one_port.is_some() && other_port.is_some()
}

/// The part of its parent that a reference means.
fn section<'a>(parent: &Field<'a>) -> (&'a str, Option<i64>) {
    (parent.text("sectionName").unwrap_or(""), parent.number("port"))
}

/// The backends of a rule. `filters` checks those of one backend.
pub(super) fn check_backends(
    rule: &Field<'_>,
    problems: &mut Problems,
    mut filters: impl FnMut(&Field<'_>, &mut Problems),
) {
    for backend in rule.items("backendRefs") {
        check_backend(&backend, problems);
        if let Some(weight) = backend
            .number("weight")
            .filter(|weight| !(0..=MAX_WEIGHT).contains(weight))
        {
            let remedy = format!("write a number from 0 to {MAX_WEIGHT}; shares are relative to each other");
            problems.error(
                &backend.at.key("weight"),
                format!("{weight} is no weight"),
                remedy,
            );
        }
        filters(&backend, problems);
    }
}

/// One reference to a backend.
pub(super) fn check_backend(backend: &Field<'_>, problems: &mut Problems) {
    check_target(backend, problems);
    port_number(backend, "port", problems);
    let group = backend.text("group").unwrap_or("");
    let kind = backend.text("kind").unwrap_or("Service");
    if (group, kind) != ("", "Service") {
        let reason = format!("the mesh can't send requests to a {kind}; its share of the requests gets 500");
        problems.warning(&backend.at.key("kind"), reason, "name a Service");
    } else if backend.get("port").is_none() {
        problems.error(
            &backend.at.key("port"),
            "is missing",
            "a Service is referred to with one of its ports",
        );
    }
}

fn check_target(target: &Field<'_>, problems: &mut Problems) {
    if let Some(name) = target.get("name") {
        check_name(&name, &SUBDOMAIN, problems);
    }
    if let Some(namespace) = target.get("namespace") {
        check_name(&namespace, &LABEL, problems);
    }
    if let Some(group) = target.get("group").filter(|group| group.value != "") {
        check_name(&group, &SUBDOMAIN, problems);
    }
    if let Some(kind) = target.get("kind") {
        let text = kind.value.as_str().unwrap_or("Service");
        let rest = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !text.starts_with(|first: char| first.is_ascii_alphabetic())
            || !text.bytes().all(rest)
            || text.len() > 63
        {
            problems.error(
                &kind.at,
                format!("{text:?} is no kind"),
                "write the kind as manifests do: Service",
            );
        }
    }
}
