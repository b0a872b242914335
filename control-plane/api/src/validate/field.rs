//! What rules are written with: a value that knows its place, and a list to write problems on.
//!
//! Rules look at plain values, not at typed objects, so that they still have something to say when another field of
//! the same object is malformed; what has the wrong type is simply not seen here, the schema has spoken about it.

use serde_json::Value;

use super::finding::Severity;
use crate::pointer::Pointer;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    pub(super) value: &'a Value,
    pub(super) at: Pointer,
}

impl<'a> Field<'a> {
    /// A whole object.
    pub(super) fn root(value: &'a Value) -> Self {
        Self {
            value,
            at: Pointer::default(),
        }
    }

    /// A member of a mapping, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<Field<'a>> {
        self.value.get(key).map(|value| Field {
            value,
            at: self.at.key(key),
        })
    }

    /// A member further down.
    pub(super) fn find<const N: usize>(&self, keys: [&str; N]) -> Option<Field<'a>> {
        keys.iter().try_fold(self.clone(), |field, key| field.get(key))
    }

    /// The text of a member.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.value.get(key).and_then(Value::as_str)
    }

    /// The whole number in a member.
    pub(super) fn number(&self, key: &str) -> Option<i64> {
        self.value.get(key).and_then(Value::as_i64)
    }

    /// The items of a member that is a sequence; none if it isn't there.
    pub(super) fn items(&self, key: &str) -> Vec<Field<'a>> {
        self.get(key).map(|field| field.each()).unwrap_or_default()
    }

    /// The items of this sequence.
    pub(super) fn each(&self) -> Vec<Field<'a>> {
        let items = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        items
            .iter()
            .enumerate()
            .map(|(index, value)| Field {
                value,
                at: self.at.index(index),
            })
            .collect()
    }

    /// The members of this mapping, in the order of their keys.
    pub(super) fn members(&self) -> Vec<(&'a str, Field<'a>)> {
        let members = self.value.as_object().into_iter().flatten();
        members
            .map(|(key, value)| {
                (
                    key.as_str(),
                    Field {
                        value,
                        at: self.at.key(key),
                    },
                )
            })
            .collect()
    }
}

/// Something to say about one place.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) severity: Severity,
    pub(super) at: Pointer,
    pub(super) reason: String,
    pub(super) remedy: String,
}

/// Everything to say about one object.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    /// Refuses the object.
    pub(super) fn error(&mut self, at: &Pointer, reason: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Error, at, reason.into(), remedy.into());
    }

    /// Takes the object, but says so.
    pub(super) fn warning(&mut self, at: &Pointer, reason: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Warning, at, reason.into(), remedy.into());
    }

    /// Whether the object is refused.
    pub(super) fn refused(&self) -> bool {
        self.0.iter().any(|problem| problem.severity == Severity::Error)
    }

    fn add(&mut self, severity: Severity, at: &Pointer, reason: String, remedy: String) {
        self.0.push(Problem {
            severity,
            at: at.clone(),
            reason,
            remedy,
        });
    }
}

/// The candidate that a misspelt word was probably meant to be.
pub(super) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let allowed = (word.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// What to do about a word that is none of those that it can be.
pub(super) fn meant<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    closest(word, candidates).map_or_else(
        || "write one of them".to_owned(),
        |word| format!("did you mean {word}?"),
    )
}

/// `a, b or c`.
pub(super) fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.into_iter().collect();
    match words.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}
