//! From text to objects, with everything that is wrong said at once.
//!
//! Every object goes through the same stages: which kind is it; does it keep the schema (unknown fields, types,
//! bounds); does it keep the rules, those of CEL for our own kinds, those in `route`, `kubernetes` and
//! `policy` for the others. No stage stops at its first problem, and no object's problems stop another's. Only what
//! passed all stages becomes an [`Object`].
//!
//! A finding names the file, the line, the field, what is wrong and what to do. Objects of kinds that the mesh
//! doesn't read are no problem; a single line says which were skipped.

mod field;
mod finding;
mod kinds;
mod kubernetes;
mod metadata;
mod name;
mod object;
mod policy;
mod route;
mod schema;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use finding::{Finding, Severity};

use crate::object::{Object, ObjectRef};
use crate::yaml::{self, Position};

/// Something that was read from a file, and where it began there.
#[derive(Clone, Debug, PartialEq)]
pub struct Located<T> {
    /// What was read.
    pub value: T,
    /// Name of the file, as it was given.
    pub file: Arc<str>,
    /// Where it begins.
    pub position: Option<Position>,
}

/// What one file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The objects that keep every rule, in the order of the file.
    pub objects: Vec<Located<Object>>,
    /// Objects that are there and are refused.
    pub refused: Vec<Located<ObjectRef>>,
    /// Whether every object in the file could be told. If not (broken YAML, an object without a name or of a
    /// misspelt kind), the file may hold more objects than are listed.
    pub complete: bool,
    /// Everything there is to say, in the order of the file.
    pub findings: Vec<Finding>,
}

/// Reads one file's text. The name is only used in what is said about it.
pub fn check_str(file: &str, text: &str) -> Report {
    let file: Arc<str> = file.into();
    let mut report = Report {
        objects: Vec::new(),
        refused: Vec::new(),
        complete: true,
        findings: Vec::new(),
    };
    let mut skipped = BTreeMap::<String, usize>::new();
    for document in yaml::documents(text) {
        match document {
            Ok(document) => object::check_document(&document, &file, &mut report, &mut skipped),
            Err(error) => {
                report.complete = false;
                report.findings.push(Finding {
                    file: Arc::clone(&file),
                    position: error.position(),
                    severity: Severity::Error,
                    object: None,
                    field: String::new(),
                    reason: error.to_string(),
                    remedy: error.remedy().to_owned(),
                });
            }
        }
    }
    report.findings.sort_by_key(|finding| finding.position);
    report.findings.extend(skipped_line(&file, &skipped));
    report
}

/// Reads several files, given by name and text, and says everything about them, objects that stand in more than one
/// place included.
pub fn check_all<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<Finding> {
    let reports: Vec<_> = files
        .into_iter()
        .map(|(file, text)| check_str(file, text))
        .collect();
    let mut first = BTreeMap::<ObjectRef, Located<()>>::new();
    let mut findings = Vec::new();
    for report in reports {
        for place in report.places() {
            let here = Located {
                value: (),
                file: Arc::clone(&place.file),
                position: place.position,
            };
            match first.get(&place.value) {
                Some(earlier) => findings.push(duplicate(&place, earlier)),
                None => drop(first.insert(place.value, here)),
            }
        }
        findings.extend(report.findings);
    }
    findings
}

/// What is said of an object that stands in two places, of which only the first counts.
pub fn duplicate<T>(second: &Located<ObjectRef>, first: &Located<T>) -> Finding {
    let line = first
        .position
        .map(|position| format!(":{}", position.line))
        .unwrap_or_default();
    Finding {
        file: Arc::clone(&second.file),
        position: second.position,
        severity: Severity::Error,
        object: Some(second.value.clone()),
        field: "metadata.name".to_owned(),
        reason: format!(
            "the object stands in {}{line} too; that one counts, this one is refused",
            first.file
        ),
        remedy: "remove or rename one of the two".to_owned(),
    }
}

impl Report {
    /// Every object that the file holds, valid or not, with its place.
    pub fn places(&self) -> Vec<Located<ObjectRef>> {
        let objects = self.objects.iter().map(|object| Located {
            value: object.value.object_ref(),
            file: Arc::clone(&object.file),
            position: object.position,
        });
        let mut places: Vec<_> = objects.chain(self.refused.iter().cloned()).collect();
        places.sort_by_key(|place| place.position);
        places
    }
}

fn skipped_line(file: &Arc<str>, skipped: &BTreeMap<String, usize>) -> Option<Finding> {
    let kinds: Vec<_> = skipped
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    (!kinds.is_empty()).then(|| Finding {
        file: Arc::clone(file),
        position: None,
        severity: Severity::Skipped,
        object: None,
        field: String::new(),
        reason: format!("{} (the mesh doesn't read these kinds)", kinds.join(", ")),
        remedy: String::new(),
    })
}
