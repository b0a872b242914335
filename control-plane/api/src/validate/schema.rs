//! Structural schemas: what the API server checks before any rule runs. Unknown fields, types, bounds, enums.
//!
//! A schema is read once from the JSON that schemars and the CRD derive write, `$ref`s resolved, and becomes a tree
//! that is quick to walk. A test holds the list of keywords that all our schemas use: one that this file doesn't know
//! would be a check that silently isn't made.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

use super::field::{Field, Problems, closest, meant, one_of};
use crate::pointer::Pointer;

/// Most names that a remedy lists.
const MAX_LISTED: usize = 16;

/// What a value must look like.
#[derive(Debug)]
pub(super) struct Schema {
    shape: Shape,
    /// What the field is for.
    description: String,
}

#[derive(Debug)]
enum Shape {
    Any,
    Boolean,
    Number,
    IntegerOrText,
    Integer {
        min: i64,
        max: i64,
    },
    Text(Text),
    Sequence {
        items: Box<Schema>,
        min: u64,
        max: Option<u64>,
    },
    Mapping {
        members: BTreeMap<String, Schema>,
        required: Vec<String>,
        rest: Rest,
    },
}

#[derive(Debug)]
struct Text {
    words: Vec<String>,
    pattern: Option<Regex>,
    min: u64,
    max: Option<u64>,
}

/// What holds for members that have no schema of their own.
#[derive(Debug)]
enum Rest {
    Refused,
    Taken,
    Each(Box<Schema>),
}

impl Schema {
    /// Reads a schema. `definitions` is what `#/definitions/…` points into.
    pub(super) fn read(json: &Value, definitions: &Map<String, Value>) -> Self {
        let Value::Object(json) = json else {
            return Self {
                shape: Shape::Any,
                description: String::new(),
            };
        };
        let description = json
            .get("description")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if let Some(name) = json.get("$ref").and_then(Value::as_str) {
            let target = name
                .strip_prefix("#/definitions/")
                .and_then(|name| definitions.get(name));
            let target = Self::read(target.expect("a reference has a definition"), definitions);
            return Self {
                description,
                ..target
            };
        }
        Self {
            shape: shape(json, definitions),
            description,
        }
    }

    /// Adds a member to a mapping.
    pub(super) fn add(&mut self, name: &str, schema: Self) {
        if let Shape::Mapping { members, .. } = &mut self.shape {
            members.insert(name.to_owned(), schema);
        }
    }

    /// The schema of a place further down.
    pub(super) fn find(&self, at: &Pointer) -> Option<&Self> {
        let Some(parent) = at.parent() else {
            return Some(self);
        };
        match &self.find(&parent)?.shape {
            Shape::Sequence { items, .. } => Some(items),
            Shape::Mapping { members, .. } => members
                .iter()
                .find(|(name, _)| parent.key(name) == *at)
                .map(|(_, schema)| schema),
            _ => None,
        }
    }

    /// What is known about a plain field, for who got it wrong.
    pub(super) fn hint(&self) -> Option<String> {
        let plain = !matches!(self.shape, Shape::Mapping { .. } | Shape::Sequence { .. });
        (plain && !self.description.is_empty()).then(|| format!("the field in short: {}", self.description))
    }

    /// Writes down everything in which the value differs from the schema.
    pub(super) fn check(&self, field: &Field<'_>, problems: &mut Problems) {
        match (&self.shape, field.value) {
            (Shape::IntegerOrText, Value::Number(number)) if number.is_i64() => {}
            (Shape::Any, _)
            | (Shape::Boolean, Value::Bool(_))
            | (Shape::Number, Value::Number(_))
            | (Shape::IntegerOrText, Value::String(_)) => {}
            (Shape::Integer { min, max }, Value::Number(number)) if !number.is_f64() => {
                if !number
                    .as_i64()
                    .is_some_and(|number| (*min..=*max).contains(&number))
                {
                    problems.error(&field.at, format!("{number} is out of range"), range(*min, *max));
                }
            }
            (Shape::Text(text), Value::String(value)) => text.check(value, &field.at, problems),
            (Shape::Sequence { items, min, max }, Value::Array(values)) => {
                count(values.len() as u64, *min, *max, &field.at, problems);
                field.each().iter().for_each(|item| items.check(item, problems));
            }
            (
                Shape::Mapping {
                    members,
                    required,
                    rest,
                },
                Value::Object(_),
            ) => {
                check_members(members, required, rest, field, problems);
            }
            (shape, value) => {
                let reason = format!("must be {}, but is {}", shape.noun(), noun(value));
                problems.error(&field.at, reason, shape.type_remedy(value));
            }
        }
    }
}

impl Shape {
    fn noun(&self) -> &'static str {
        match self {
            Self::Any => "anything",
            Self::Boolean => "true or false",
            Self::Number => "a number",
            Self::IntegerOrText => "a whole number or text",
            Self::Integer { .. } => "a whole number",
            Self::Text(_) => "text",
            Self::Sequence { .. } => "a list",
            Self::Mapping { .. } => "a mapping",
        }
    }

    fn type_remedy(&self, value: &Value) -> String {
        match (self, value) {
            (Self::Text(_), Value::Number(_) | Value::Bool(_)) => format!("put it in quotes: \"{value}\""),
            (Self::Integer { .. }, Value::String(text)) if text.parse::<i64>().is_ok() => {
                "take it out of its quotes".to_owned()
            }
            (Self::Sequence { .. }, _) => {
                "write a list: each item on a line of its own, with a dash".to_owned()
            }
            _ => String::new(),
        }
    }
}

impl Text {
    fn check(&self, value: &str, at: &Pointer, problems: &mut Problems) {
        let words = || self.words.iter().map(String::as_str);
        if !self.words.is_empty() && !words().any(|word| word == value) {
            problems.error(
                at,
                format!("{value:?} is none of {}", one_of(words())),
                meant(value, words()),
            );
        }
        let length = value.chars().count() as u64;
        if length < self.min {
            problems.error(
                at,
                "must not be empty",
                "fill it in, or leave the field out if it is optional",
            );
        }
        if let Some(max) = self.max.filter(|max| length > *max) {
            problems.error(
                at,
                format!("has {length} characters; at most {max} are allowed"),
                "shorten it",
            );
        }
        if let Some(pattern) = self.pattern.as_ref().filter(|pattern| !pattern.is_match(value)) {
            let (reason, remedy) = mismatch(value, pattern.as_str());
            problems.error(at, reason, remedy);
        }
    }
}

/// Says in words what a pattern wants, for the patterns of our own schemas.
fn mismatch(value: &str, pattern: &str) -> (String, String) {
    if pattern == crate::duration::PATTERN {
        let remedy = "write whole numbers with h, m, s or ms, such as 250ms, 5s or 1h30m";
        return (format!("{value:?} is no duration"), remedy.to_owned());
    }
    (
        format!("{value:?} has characters that don't belong here"),
        format!("it must match {pattern}"),
    )
}

fn check_members(
    members: &BTreeMap<String, Schema>,
    required: &[String],
    rest: &Rest,
    field: &Field<'_>,
    problems: &mut Problems,
) {
    for name in required.iter().filter(|name| field.get(name).is_none()) {
        let what = members
            .get(name)
            .map(|schema| schema.description.as_str())
            .unwrap_or_default();
        let what = what.split_once(". ").map_or(what, |(first, _)| first);
        problems.error(&field.at.key(name), "is missing", format!("add it: {what}"));
    }
    for (name, member) in field.members() {
        match (members.get(name), rest) {
            (Some(schema), _) => schema.check(&member, problems),
            (None, Rest::Each(schema)) => schema.check(&member, problems),
            (None, Rest::Taken) => {}
            (None, Rest::Refused) => {
                problems.error(&member.at, "is no field that exists here", known(name, members));
            }
        }
    }
}

fn known(name: &str, members: &BTreeMap<String, Schema>) -> String {
    let names = || members.keys().map(String::as_str);
    match closest(name, names()) {
        Some(meant) => format!("did you mean {meant}?"),
        None if members.len() <= MAX_LISTED => format!("remove it, or write {}", one_of(names())),
        None => "remove it, or look for the level that it belongs to".to_owned(),
    }
}

fn count(items: u64, min: u64, max: Option<u64>, at: &Pointer, problems: &mut Problems) {
    if items < min {
        problems.error(
            at,
            format!("has {items} items; at least {min} are needed"),
            "add what is missing",
        );
    }
    if let Some(max) = max.filter(|max| items > *max) {
        problems.error(
            at,
            format!("has {items} items; at most {max} are allowed"),
            "split the object in two",
        );
    }
}

fn range(min: i64, max: i64) -> String {
    match (min, max) {
        (i64::MIN, max) => format!("write at most {max}"),
        (min, i64::MAX) => format!("write at least {min}"),
        (min, max) => format!("write a number from {min} to {max}"),
    }
}

fn noun(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn shape(json: &Map<String, Value>, definitions: &Map<String, Value>) -> Shape {
    let flag = |key: &str| json.get(key).and_then(Value::as_bool) == Some(true);
    if flag("x-kubernetes-int-or-string") {
        return Shape::IntegerOrText;
    }
    match json.get("type").and_then(Value::as_str) {
        None => Shape::Any,
        Some("boolean") => Shape::Boolean,
        Some("number") => Shape::Number,
        Some("integer") => integer(json),
        Some("string") => Shape::Text(text(json)),
        Some("array") => Shape::Sequence {
            items: Box::new(Schema::read(
                json.get("items").unwrap_or(&Value::Null),
                definitions,
            )),
            min: bound(json, "minItems").unwrap_or(0),
            max: bound(json, "maxItems"),
        },
        Some("object") => mapping(json, definitions, flag("x-kubernetes-preserve-unknown-fields")),
        Some(other) => unreachable!("a schema has no type {other}"),
    }
}

fn mapping(json: &Map<String, Value>, definitions: &Map<String, Value>, preserve: bool) -> Shape {
    let properties = json.get("properties").and_then(Value::as_object);
    let members: BTreeMap<_, _> = properties
        .into_iter()
        .flatten()
        .map(|(name, schema)| (name.clone(), Schema::read(schema, definitions)))
        .collect();
    let rest = match json.get("additionalProperties") {
        Some(schema @ Value::Object(_)) => Rest::Each(Box::new(Schema::read(schema, definitions))),
        Some(Value::Bool(true)) => Rest::Taken,
        _ if preserve || members.is_empty() => Rest::Taken,
        _ => Rest::Refused,
    };
    let required = json
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    Shape::Mapping {
        members,
        required: required.filter_map(Value::as_str).map(str::to_owned).collect(),
        rest,
    }
}

fn text(json: &Map<String, Value>) -> Text {
    let words = json.get("enum").and_then(Value::as_array).into_iter().flatten();
    let pattern = json.get("pattern").and_then(Value::as_str);
    Text {
        words: words.filter_map(Value::as_str).map(str::to_owned).collect(),
        pattern: pattern.map(|pattern| Regex::new(pattern).expect("a schema's pattern compiles")),
        min: bound(json, "minLength").unwrap_or(0),
        max: bound(json, "maxLength"),
    }
}

/// Whole numbers have the bounds of their format, or narrower ones.
fn integer(json: &Map<String, Value>) -> Shape {
    let (low, high) = match json.get("format").and_then(Value::as_str) {
        Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
        Some("uint8") => (0, i64::from(u8::MAX)),
        Some("uint16") => (0, i64::from(u16::MAX)),
        Some("uint32") => (0, i64::from(u32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "bounds in schemas are whole and small"
    )]
    let bound = |key: &str| json.get(key).and_then(Value::as_f64).map(|bound| bound as i64);
    Shape::Integer {
        min: bound("minimum").unwrap_or(low).max(low),
        max: bound("maximum").unwrap_or(high).min(high),
    }
}

fn bound(json: &Map<String, Value>, key: &str) -> Option<u64> {
    json.get(key).and_then(Value::as_u64)
}
