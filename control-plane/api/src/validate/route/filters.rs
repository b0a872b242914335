//! Filters: what each may say, and which go together.

use super::super::field::{Field, Problem, Problems};
use super::super::kubernetes::{distinct, port_number};
use super::super::metadata::check_name;
use super::super::name::{PRECISE_HOSTNAME, TOKEN};
use super::matches::MAX_HEADER_VALUE;
use super::refs::check_backend;
use super::{MAX_ITEMS, at_most, length, not_standard};

/// Longest path in a redirect or rewrite.
const MAX_PATH: usize = 1024;
/// Statuses of a redirect.
const REDIRECTS: [i64; 5] = [301, 302, 303, 307, 308];

/// Every filter type, and the field that carries what it says.
const TYPES: [(&str, &str); 8] = [
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestMirror", "requestMirror"),
    ("RequestRedirect", "requestRedirect"),
    ("URLRewrite", "urlRewrite"),
    ("ExtensionRef", "extensionRef"),
    ("CORS", "cors"),
    ("ExternalAuth", "externalAuth"),
];

/// Types that may stand any number of times.
const REPEATABLE: [&str; 2] = ["RequestMirror", "ExtensionRef"];
/// Types of the standard channel that the mesh can't honour.
const UNSUPPORTED: [&str; 3] = ["RequestMirror", "ExtensionRef", "CORS"];

/// The filters of a rule or a backend. `prefix`: the rule has exactly one match, by path prefix.
pub(super) fn check_filters(holder: &Field<'_>, prefix: bool, problems: &mut Problems) {
    let filters = holder.items("filters");
    for filter in &filters {
        check_type(filter, problems);
        check_headers(filter, problems);
        check_redirect(filter, prefix, problems);
        check_rewrite(filter, prefix, problems);
        check_mirror(filter, problems);
    }
    let once = |filter: &Field<'_>| {
        filter
            .text("type")
            .filter(|name| !REPEATABLE.contains(name))
            .map(str::to_owned)
    };
    distinct(&filters, "type", once, problems);
    let of = |name: &str| filters.iter().find(|filter| filter.text("type") == Some(name));
    if let (Some(_), Some(rewrite)) = (of("RequestRedirect"), of("URLRewrite")) {
        let reason = "a request can't be both redirected and rewritten";
        problems.error(&rewrite.at, reason, "say in the redirect where to, or remove it");
    }
}

/// The field that belongs to the type is there, and no other.
fn check_type(filter: &Field<'_>, problems: &mut Problems) {
    let Some(name) = filter.text("type") else { return };
    if name == "ExternalAuth" {
        return not_standard(&filter.at.key("type"), problems);
    }
    if !TYPES.iter().any(|(known, _)| *known == name) {
        return;
    }
    for (other, key) in TYPES {
        match (filter.get(key), other == name) {
            (Some(field), false) => {
                let remedy = format!("remove it, or write type: {other}");
                problems.error(
                    &field.at,
                    format!("doesn't belong to a filter of type {name}"),
                    remedy,
                );
            }
            (None, true) => {
                problems.error(
                    &filter.at.key(key),
                    "is missing",
                    format!("a filter of type {name} says there what to do"),
                );
            }
            _ => {}
        }
    }
    if UNSUPPORTED.contains(&name) {
        let reason = format!("the mesh can't honour filters of type {name}; requests that match get 500");
        problems.warning(&filter.at.key("type"), reason, "remove the filter");
    }
}

fn check_headers(filter: &Field<'_>, problems: &mut Problems) {
    for key in ["requestHeaderModifier", "responseHeaderModifier"] {
        let Some(change) = filter.get(key) else { continue };
        for list in ["set", "add", "remove"] {
            let Some(list) = change.get(list) else { continue };
            at_most(&list, MAX_ITEMS, problems);
        }
        for list in ["set", "add"] {
            let headers = change.items(list);
            for header in &headers {
                header
                    .get("name")
                    .iter()
                    .for_each(|name| check_name(name, &TOKEN, problems));
                length(header, "value", 1, MAX_HEADER_VALUE, problems);
                check_value(header, problems);
            }
            let name = |header: &Field<'_>| header.text("name").map(str::to_ascii_lowercase);
            distinct(&headers, "name", name, problems);
        }
        let removed = change.items("remove");
        for name in &removed {
            check_name(name, &TOKEN, problems);
        }
        let name = |name: &Field<'_>| name.value.as_str().map(str::to_ascii_lowercase);
        at_the_item(problems, |problems| distinct(&removed, "", name, problems));
    }
}

/// Problems of plain items stand at the item, not at a member of it.
fn at_the_item(problems: &mut Problems, check: impl FnOnce(&mut Problems)) {
    let mut found = Problems::default();
    check(&mut found);
    for Problem {
        at, reason, remedy, ..
    } in found.0
    {
        problems.error(&at.parent().unwrap_or_default(), reason, remedy);
    }
}

fn check_value(header: &Field<'_>, problems: &mut Problems) {
    let allowed = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    if header
        .text("value")
        .is_some_and(|value| !value.bytes().all(allowed))
    {
        let reason = "a header's value can't hold line breaks or other control characters";
        problems.error(&header.at.key("value"), reason, "write it on one line");
    }
}

fn check_redirect(filter: &Field<'_>, prefix: bool, problems: &mut Problems) {
    let Some(redirect) = filter.get("requestRedirect") else {
        return;
    };
    port_number(&redirect, "port", problems);
    if let Some(hostname) = redirect.get("hostname") {
        check_name(&hostname, &PRECISE_HOSTNAME, problems);
    }
    if let Some(status) = redirect
        .number("statusCode")
        .filter(|status| !REDIRECTS.contains(status))
    {
        let remedy = "write 301, 302, 303, 307 or 308";
        problems.error(
            &redirect.at.key("statusCode"),
            format!("{status} is no status of a redirect"),
            remedy,
        );
    }
    check_path(&redirect, prefix, problems);
}

fn check_rewrite(filter: &Field<'_>, prefix: bool, problems: &mut Problems) {
    let Some(rewrite) = filter.get("urlRewrite") else {
        return;
    };
    if let Some(hostname) = rewrite.get("hostname") {
        check_name(&hostname, &PRECISE_HOSTNAME, problems);
    }
    check_path(&rewrite, prefix, problems);
}

/// A new path: all of it, or in place of the matched prefix.
fn check_path(holder: &Field<'_>, prefix: bool, problems: &mut Problems) {
    let Some(path) = holder.get("path") else { return };
    let Some(name) = path.text("type") else { return };
    for (kind, key) in [
        ("ReplaceFullPath", "replaceFullPath"),
        ("ReplacePrefixMatch", "replacePrefixMatch"),
    ] {
        match (path.get(key), kind == name) {
            (Some(field), false) => {
                problems.error(
                    &field.at,
                    format!("doesn't belong to type {name}"),
                    format!("remove it, or write type: {kind}"),
                );
            }
            (None, true) => problems.error(&path.at.key(key), "is missing", "write the new path there"),
            (_, _) => length(&path, key, 0, MAX_PATH, problems),
        }
    }
    if name == "ReplacePrefixMatch" && !prefix {
        let reason =
            "there is no one prefix to replace: the rule must have exactly one match, of type PathPrefix";
        problems.error(
            &path.at.key("type"),
            reason,
            "give each prefix a rule of its own, or use ReplaceFullPath",
        );
    }
}

fn check_mirror(filter: &Field<'_>, problems: &mut Problems) {
    let Some(mirror) = filter.get("requestMirror") else {
        return;
    };
    if let Some(backend) = mirror.get("backendRef") {
        check_backend(&backend, problems);
    }
    if let Some(percent) = mirror
        .number("percent")
        .filter(|percent| !(0..=100).contains(percent))
    {
        problems.error(
            &mirror.at.key("percent"),
            format!("{percent} is no percentage"),
            "write a number from 0 to 100",
        );
    }
    let Some(fraction) = mirror.get("fraction") else {
        return;
    };
    if mirror.get("percent").is_some() {
        problems.error(
            &fraction.at,
            "percent says the share already",
            "keep one of the two",
        );
    }
    let (part, whole) = (
        fraction.number("numerator"),
        fraction.number("denominator").unwrap_or(100),
    );
    if whole < 1 || part.is_some_and(|part| !(0..=whole).contains(&part)) {
        problems.error(
            &fraction.at,
            "is no share",
            "write a denominator of at least 1 and a numerator up to it",
        );
    }
}
