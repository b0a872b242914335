//! HTTPRoute.

use std::str::FromStr;

use super::super::field::{Field, Problems};
use super::filters::check_filters;
use super::matches::{check_headers, check_query, check_regex};
use super::refs::check_backends;
use super::{check_common, length};
use crate::duration::Duration;

/// Longest path in a match.
const MAX_PATH: usize = 1024;

/// An HTTPRoute.
pub(in crate::validate) fn http_route(object: &Field<'_>, problems: &mut Problems) {
    let Some(spec) = object.get("spec") else { return };
    check_common(&spec, problems);
    for rule in spec.items("rules") {
        check_rule(&rule, problems);
    }
}

fn check_rule(rule: &Field<'_>, problems: &mut Problems) {
    let matches = rule.items("matches");
    for field in &matches {
        check_path(field, problems);
        check_headers(field, problems);
        check_query(field, problems);
    }
    let prefix = one_prefix(&matches, rule.get("matches").is_some());
    check_filters(rule, prefix, problems);
    check_backends(rule, problems, |backend, problems| {
        check_filters(backend, prefix, problems);
    });
    let redirects = |filter: &Field<'_>| filter.text("type") == Some("RequestRedirect");
    if let Some(backends) = rule
        .get("backendRefs")
        .filter(|backends| !backends.each().is_empty())
        && rule.items("filters").iter().any(redirects)
    {
        let reason = "a rule that redirects sends nothing to backends";
        problems.error(
            &backends.at,
            reason,
            "remove the backends, or the filter of type RequestRedirect",
        );
    }
    check_timeouts(rule, problems);
    check_retry(rule, problems);
}

/// Whether there is exactly one match and it goes by path prefix. A rule without matches has one: the prefix `/`.
fn one_prefix(matches: &[Field<'_>], written: bool) -> bool {
    match matches {
        [] => !written,
        [only] => {
            let kind = only
                .get("path")
                .and_then(|path| path.text("type"))
                .unwrap_or("PathPrefix");
            kind == "PathPrefix"
        }
        _ => false,
    }
}

fn check_path(field: &Field<'_>, problems: &mut Problems) {
    let Some(path) = field.get("path") else { return };
    length(&path, "value", 0, MAX_PATH, problems);
    let Some(value) = path.text("value") else { return };
    if path.text("type") == Some("RegularExpression") {
        return check_regex(&path, "value", problems);
    }
    let at = path.at.key("value");
    if !value.starts_with('/') {
        problems.error(
            &at,
            format!("{value:?} doesn't begin with a slash"),
            format!("write {:?}", format!("/{value}")),
        );
    }
    let lower = value.to_ascii_lowercase();
    if let Some(part) = ["//", "/./", "/../", "%2f", "#"]
        .into_iter()
        .find(|part| lower.contains(part))
    {
        problems.error(
            &at,
            format!("must not contain {part:?}"),
            "write the path as it reads once it is normalised",
        );
    }
    if value.ends_with("/..") || value.ends_with("/.") {
        let remedy = "write the path as it reads once it is normalised";
        problems.error(&at, "must not end with \"/.\" or \"/..\"", remedy);
    }
    if !path_characters(value.as_bytes()) {
        let remedy = "write other characters percent-encoded: %20 for a space";
        problems.error(&at, format!("{value:?} has characters that no path has"), remedy);
    }
}

/// RFC 3986: what may stand in a path.
fn path_characters(mut path: &[u8]) -> bool {
    while let Some((first, rest)) = path.split_first() {
        path = match (*first, rest) {
            (b'%', [high, low, rest @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            (b'#', rest) => rest, // said already
            (byte, rest) if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte) => rest,
            _ => return false,
        };
    }
    true
}

fn check_timeouts(rule: &Field<'_>, problems: &mut Problems) {
    let Some(timeouts) = rule.get("timeouts") else {
        return;
    };
    let request = duration(&timeouts, "request", problems);
    let backend = duration(&timeouts, "backendRequest", problems);
    if let (Some(request), Some(backend)) = (request, backend)
        && request != Duration::default()
        && backend > request
    {
        let reason = format!("one attempt may take {backend}, but the whole request only {request}");
        problems.error(
            &timeouts.at.key("backendRequest"),
            reason,
            "make it at most as long as request",
        );
    }
}

/// In the standard channel since 1.7.
fn check_retry(rule: &Field<'_>, problems: &mut Problems) {
    let Some(retry) = rule.get("retry") else { return };
    for code in retry.items("codes") {
        if let Some(number) = code.value.as_i64().filter(|number| !(400..=599).contains(number)) {
            problems.error(
                &code.at,
                format!("{number} is no status of a failure"),
                "write numbers from 400 to 599",
            );
        }
    }
    if let Some(attempts) = retry
        .number("attempts")
        .filter(|attempts| u32::try_from(*attempts).is_err())
    {
        let remedy = "write a small number; 0 switches retries off";
        problems.error(
            &retry.at.key("attempts"),
            format!("{attempts} is no number of retries"),
            remedy,
        );
    }
    duration(&retry, "backoff", problems);
}

fn duration(field: &Field<'_>, key: &str, problems: &mut Problems) -> Option<Duration> {
    let text = field.text(key)?;
    let parsed = Duration::from_str(text).ok();
    if parsed.is_none() {
        let remedy = "write whole numbers with h, m, s or ms, such as 250ms, 5s or 1h30m";
        problems.error(&field.at.key(key), format!("{text:?} is no duration"), remedy);
    }
    parsed
}
