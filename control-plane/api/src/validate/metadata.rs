//! Rules that every object's metadata keeps.

use super::field::{Field, Problems};
use super::name::{LABEL, LABEL_VALUE, QUALIFIED, Rule, SUBDOMAIN};
use crate::object::Kind;

/// Most bytes of all annotations together, as in Kubernetes.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;

pub(super) fn check(kind: Kind, object: &Field<'_>, problems: &mut Problems) {
    let Some(metadata) = object.get("metadata") else {
        let at = object.at.key("metadata");
        return problems.error(&at, "is missing", "add metadata with a name");
    };
    check_names(kind, &metadata, problems);
    if let Some(labels) = metadata.get("labels") {
        check_keys(&labels, problems);
        for (_, value) in labels.members() {
            if value.value.as_str().is_some_and(|text| !LABEL_VALUE.keeps(text)) {
                problems.error(
                    &value.at,
                    format!("a label's value must be {}", LABEL_VALUE.is),
                    "shorten or respell it",
                );
            }
        }
    }
    if let Some(annotations) = metadata.get("annotations") {
        check_keys(&annotations, problems);
        let length = |(key, value): (&str, Field<'_>)| key.len() + value.value.as_str().map_or(0, str::len);
        if annotations.members().into_iter().map(length).sum::<usize>() > MAX_ANNOTATION_BYTES {
            let reason = format!("annotations have more than {MAX_ANNOTATION_BYTES} bytes together");
            problems.error(&annotations.at, reason, "keep large data elsewhere");
        }
    }
}

fn check_names(kind: Kind, metadata: &Field<'_>, problems: &mut Problems) {
    let rule = match kind {
        Kind::Namespace | Kind::Service => LABEL,
        _ => SUBDOMAIN,
    };
    match metadata.get("name") {
        Some(name) => check_name(&name, &rule, problems),
        None => problems.error(
            &metadata.at.key("name"),
            "is missing",
            "give the object a name; it can't be generated",
        ),
    }
    match metadata.get("namespace") {
        Some(namespace) if !kind.namespaced() => {
            problems.error(
                &namespace.at,
                format!("a {kind} lives in no namespace"),
                "remove it",
            );
        }
        Some(namespace) => check_name(&namespace, &LABEL, problems),
        None => {}
    }
}

fn check_keys(members: &Field<'_>, problems: &mut Problems) {
    for (key, member) in members.members() {
        if !QUALIFIED.keeps(key) {
            problems.error(
                &member.at,
                format!("a key must be {}", QUALIFIED.is),
                "respell it",
            );
        }
    }
}

/// Holds a text against a rule for names.
pub(super) fn check_name(field: &Field<'_>, rule: &Rule, problems: &mut Problems) {
    if let Some(text) = field.value.as_str().filter(|text| !rule.keeps(text)) {
        problems.error(&field.at, format!("{text:?} must be {}", rule.is), "respell it");
    }
}
