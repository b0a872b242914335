//! What a match may say about headers and query parameters, in both kinds of route.

use regex::RegexBuilder;

use super::super::field::{Field, Problems};
use super::super::kubernetes::distinct;
use super::super::metadata::check_name;
use super::super::name::TOKEN;
use super::{MAX_ITEMS, at_most, length};

/// Longest value of a header, in a match or a change.
pub(super) const MAX_HEADER_VALUE: usize = 4096;
/// Longest value of a query parameter.
const MAX_QUERY_VALUE: usize = 1024;
/// Memory that one compiled regular expression may take, in bytes.
const MAX_REGEX_BYTES: usize = 1024 * 1024;

pub(super) fn check_headers(matches: &Field<'_>, problems: &mut Problems) {
    check_pairs(matches, "headers", MAX_HEADER_VALUE, problems);
}

pub(super) fn check_query(matches: &Field<'_>, problems: &mut Problems) {
    check_pairs(matches, "queryParams", MAX_QUERY_VALUE, problems);
}

fn check_pairs(matches: &Field<'_>, key: &str, max: usize, problems: &mut Problems) {
    let Some(list) = matches.get(key) else { return };
    at_most(&list, MAX_ITEMS, problems);
    let pairs = list.each();
    for pair in &pairs {
        if let Some(name) = pair.get("name") {
            check_name(&name, &TOKEN, problems);
        }
        length(pair, "value", 1, max, problems);
        if pair.text("type") == Some("RegularExpression") {
            check_regex(pair, "value", problems);
        }
    }
    let name = |pair: &Field<'_>| pair.text("name").map(str::to_owned);
    if key == "headers" {
        distinct(
            &pairs,
            "name",
            |pair| name(pair).map(|name| name.to_ascii_lowercase()),
            problems,
        );
    } else {
        distinct(&pairs, "name", name, problems);
    }
}

/// A member that must be a regular expression that the proxy can compile.
pub(super) fn check_regex(field: &Field<'_>, key: &str, problems: &mut Problems) {
    let Some(text) = field.text(key) else { return };
    if let Err(error) = RegexBuilder::new(text).size_limit(MAX_REGEX_BYTES).build() {
        let error = error.to_string();
        let detail = error
            .lines()
            .last()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned();
        let remedy = "write it in RE2's syntax: no look-around, no back-references";
        problems.error(
            &field.at.key(key),
            format!("{text:?} is no regular expression that can be used: {detail}"),
            remedy,
        );
    }
}
