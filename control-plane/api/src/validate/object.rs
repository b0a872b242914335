//! One object's way from a value to an [`Object`].

use std::collections::BTreeMap;
use std::sync::Arc;

use kube_core::cel::{ErrorKind, ValidationError};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::field::{Field, Problem, Problems, meant};
use super::finding::{Finding, Severity};
use super::kinds::{Definition, definition};
use super::schema::Schema;
use super::{Located, Report, kubernetes, metadata, policy, route};
use crate::annotation::DEFAULT_NAMESPACE;
use crate::object::{Kind, Object, ObjectRef};
use crate::pointer::Pointer;
use crate::yaml::Document;

/// What a value claims to be.
enum Claim {
    Read(Kind),
    List,
    Skipped(String),
    Unclear(Problem),
}

/// Reads a document: one object, or a `v1` List of them, as `kubectl get -o yaml` writes it.
pub(super) fn check_document(
    document: &Document,
    file: &Arc<str>,
    report: &mut Report,
    skipped: &mut BTreeMap<String, usize>,
) {
    let root = Field::root(&document.value);
    let objects = match claim(&document.value) {
        Claim::List => root.items("items"),
        _ => vec![root],
    };
    for field in objects {
        let place = Place {
            document,
            file,
            base: &field.at,
        };
        match claim(field.value) {
            Claim::Read(kind) => check_object(kind, field.value, &place, report),
            Claim::Skipped(kind) => *skipped.entry(kind).or_default() += 1,
            Claim::List => place.say(None, list_in_list(), report),
            Claim::Unclear(problem) => {
                report.complete = false;
                place.say(None, problem, report);
            }
        }
    }
}

/// Where an object stands: in a document, perhaps inside a List.
struct Place<'a> {
    document: &'a Document,
    file: &'a Arc<str>,
    base: &'a Pointer,
}

impl Place<'_> {
    fn say(&self, object: Option<&ObjectRef>, problem: Problem, report: &mut Report) {
        report.findings.push(Finding {
            file: Arc::clone(self.file),
            position: self.document.positions.find(&problem.at.within(self.base)),
            severity: problem.severity,
            object: object.cloned(),
            field: problem.at.to_string(),
            reason: problem.reason,
            remedy: problem.remedy,
        });
    }

    fn located<T>(&self, value: T) -> Located<T> {
        let position = self.document.positions.find(self.base);
        Located {
            value,
            file: Arc::clone(self.file),
            position,
        }
    }
}

fn check_object(kind: Kind, value: &Value, place: &Place<'_>, report: &mut Report) {
    let mut problems = Problems::default();
    check_rules(definition(kind), value, &mut problems);
    let object = if problems.refused() {
        None
    } else {
        parse(kind, value, &mut problems)
    };
    let name = value.pointer("/metadata/name").and_then(Value::as_str);
    let namespace = value
        .pointer("/metadata/namespace")
        .and_then(Value::as_str)
        .unwrap_or(DEFAULT_NAMESPACE);
    let object_ref = name.map(|name| ObjectRef::new(kind, namespace, name));
    match (object, &object_ref) {
        (Some(object), _) => report.objects.push(place.located(object)),
        (None, Some(object_ref)) => report.refused.push(place.located(object_ref.clone())),
        (None, None) => report.complete = false,
    }
    for problem in problems.0 {
        place.say(object_ref.as_ref(), problem, report);
    }
}

fn check_rules(definition: &Definition, value: &Value, problems: &mut Problems) {
    let root = Field::root(value);
    definition.schema.check(&root, problems);
    let keeps_schema = !problems.refused();
    metadata::check(definition.kind, &root, problems);
    match definition.kind {
        Kind::Namespace | Kind::TrafficPolicy => {}
        Kind::Service => kubernetes::service(&root, problems),
        Kind::Pod => kubernetes::pod(&root, problems),
        Kind::EndpointSlice => kubernetes::endpoint_slice(&root, problems),
        Kind::HttpRoute => route::http_route(&root, problems),
        Kind::GrpcRoute => route::grpc_route(&root, problems),
        Kind::MeshTlsPolicy => policy::mesh_tls(&root, problems),
    }
    check_cel(definition, value, keeps_schema, problems);
}

/// The rules that our CRDs carry, run by the same engine's port to Rust. A rule may take for granted what the schema says:
/// over an object that breaks the schema, one that can't be run says nothing, and one that is broken still says so.
fn check_cel(definition: &Definition, value: &Value, keeps_schema: bool, problems: &mut Problems) {
    let Some(rules) = &definition.cel else { return };
    let Err(errors) = kube_core::cel::validate_compiled(rules, value, None) else {
        return;
    };
    let told = |error: &ValidationError| keeps_schema || error.kind == ErrorKind::ValidationFailure;
    for error in errors.into_vec().into_iter().filter(told) {
        let at = Pointer::from_dotted(&error.field_path);
        let remedy = definition
            .schema
            .find(&at)
            .and_then(Schema::hint)
            .unwrap_or_default();
        problems.error(&at, error.message, remedy);
    }
}

fn parse(kind: Kind, value: &Value, problems: &mut Problems) -> Option<Object> {
    match kind {
        Kind::Namespace => typed(value, Object::Namespace, problems),
        Kind::Service => typed(value, Object::Service, problems),
        Kind::Pod => typed(value, Object::Pod, problems),
        Kind::EndpointSlice => typed(value, Object::EndpointSlice, problems),
        Kind::HttpRoute => typed(value, Object::HttpRoute, problems),
        Kind::GrpcRoute => typed(value, Object::GrpcRoute, problems),
        Kind::TrafficPolicy => typed(value, Object::TrafficPolicy, problems),
        Kind::MeshTlsPolicy => typed(value, Object::MeshTlsPolicy, problems),
    }
}

fn typed<T: DeserializeOwned>(
    value: &Value,
    wrap: fn(Arc<T>) -> Object,
    problems: &mut Problems,
) -> Option<Object> {
    match T::deserialize(value) {
        Ok(object) => Some(wrap(Arc::new(object))),
        Err(error) => {
            problems.error(
                &Pointer::default(),
                error.to_string(),
                "compare the object with `kubectl explain`",
            );
            None
        }
    }
}

fn claim(value: &Value) -> Claim {
    let text = |key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        let missing = if text("kind").is_none() {
            "kind"
        } else {
            "apiVersion"
        };
        let reason = "every object says what it is by apiVersion and kind";
        return unclear(
            "",
            format!("{reason}; {missing} is missing"),
            "add it, or take the document out".to_owned(),
        );
    };
    if (version, kind) == ("v1", "List") {
        return Claim::List;
    }
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let ours = Kind::ALL
        .into_iter()
        .find(|known| known.name() == kind && known.group() == group);
    match ours {
        Some(known) if known.api_version() == version => Claim::Read(known),
        Some(known) => unclear(
            "apiVersion",
            format!("the mesh doesn't read {kind} in version {version}"),
            format!("write apiVersion: {}", known.api_version()),
        ),
        None => misspelt(version, group, kind).unwrap_or_else(|| Claim::Skipped(kind.to_owned())),
    }
}

/// A kind that was probably meant to be one that the mesh reads.
fn misspelt(version: &str, group: &str, kind: &str) -> Option<Claim> {
    let same_group = || Kind::ALL.into_iter().filter(|known| known.group() == group);
    if group == crate::annotation::GROUP {
        let remedy = meant(kind, same_group().map(Kind::name));
        return Some(unclear("kind", format!("{group} has no kind {kind}"), remedy));
    }
    let case = same_group().find(|known| known.name().eq_ignore_ascii_case(kind));
    if let Some(known) = case {
        return Some(unclear(
            "kind",
            format!("there is no kind {kind}"),
            format!("did you mean {known}?"),
        ));
    }
    let elsewhere = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
    let of_kubernetes = !group.contains('.') || group.ends_with(".k8s.io");
    of_kubernetes.then(|| {
        let remedy = format!("write apiVersion: {}", elsewhere.api_version());
        unclear("apiVersion", format!("{version} has no kind {kind}"), remedy)
    })
}

fn unclear(key: &str, reason: String, remedy: String) -> Claim {
    let at = if key.is_empty() {
        Pointer::default()
    } else {
        Pointer::default().key(key)
    };
    Claim::Unclear(Problem {
        severity: Severity::Error,
        at,
        reason,
        remedy,
    })
}

fn list_in_list() -> Problem {
    Problem {
        severity: Severity::Error,
        at: Pointer::default(),
        reason: "a List in a List is not read".to_owned(),
        remedy: "put the objects into one List, or into documents of their own".to_owned(),
    }
}
