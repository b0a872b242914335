//! GRPCRoute.

use super::super::field::{Field, Problems};
use super::filters::check_filters;
use super::matches::{check_headers, check_regex};
use super::refs::check_backends;
use super::{check_common, length};

/// Longest name of a service or method in a match.
const MAX_NAME: usize = 1024;

/// A GRPCRoute.
pub(in crate::validate) fn grpc_route(object: &Field<'_>, problems: &mut Problems) {
    let Some(spec) = object.get("spec") else { return };
    check_common(&spec, problems);
    for rule in spec.items("rules") {
        for field in rule.items("matches") {
            check_method(&field, problems);
            check_headers(&field, problems);
        }
        check_filters(&rule, false, problems);
        check_backends(&rule, problems, |backend, problems| {
            check_filters(backend, false, problems);
        });
    }
}

fn check_method(field: &Field<'_>, problems: &mut Problems) {
    let Some(method) = field.get("method") else { return };
    length(&method, "service", 0, MAX_NAME, problems);
    length(&method, "method", 0, MAX_NAME, problems);
    if method.get("service").is_none() && method.get("method").is_none() {
        let reason = "names neither a service nor a method";
        return problems.error(&method.at, reason, "add one of the two, or leave the field out");
    }
    let expression = method.text("type") == Some("RegularExpression");
    for (key, dots, example) in [
        ("service", true, "shop.v1.Inventory"),
        ("method", false, "Reserve"),
    ] {
        let Some(text) = method.text(key) else { continue };
        if expression {
            check_regex(&method, key, problems);
        } else if !identifier(text, dots) {
            let remedy = format!("write it as the .proto file does: {example}");
            problems.error(
                &method.at.key(key),
                format!("{text:?} is no {key} of gRPC"),
                remedy,
            );
        }
    }
}

/// Letters, digits and underscores, not beginning with a digit; several with dots between, if `dots`.
fn identifier(text: &str, dots: bool) -> bool {
    let one = |part: &str| {
        part.bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if dots {
        text.strip_prefix('.').unwrap_or(text).split('.').all(one)
    } else {
        one(text)
    }
}
