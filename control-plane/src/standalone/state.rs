//! What is in force, and how a new look at the directory changes it. Pure: the same directories in the same order
//! give the same changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_api::object::{Object, ObjectRef};
use weft_api::validate::{Finding, Located, Report, Severity, check_str, duplicate};

use super::Change;
use super::directory::{Content, Directory};

/// The objects in force and the files they came from.
#[derive(Debug, Default)]
pub struct State {
    held: BTreeMap<ObjectRef, Held>,
    files: BTreeMap<Arc<str>, Reading>,
}

#[derive(Debug)]
struct Held {
    object: Object,
    file: Arc<str>,
}

/// A file's text and what it was found to hold; kept, so that only files that changed are read again.
#[derive(Debug)]
struct Reading {
    content: Content,
    report: Report,
}

/// One place where an object stands.
struct Claim<'a> {
    place: Located<ObjectRef>,
    /// `None`: it is refused.
    object: Option<&'a Object>,
}

impl State {
    /// Takes over a new look at the directory.
    pub fn update(&mut self, directory: Directory) -> Change {
        self.read(directory);
        let files = std::mem::take(&mut self.files);
        let change = self.weigh(&files);
        self.files = files;
        change
    }

    /// Whether a file is gone that was there at the last look.
    pub fn misses(&self, directory: &Directory) -> bool {
        self.files.keys().any(|name| !directory.contains_key(name))
    }

    /// The directory itself can't be read: everything stays as it is.
    pub fn unreadable(&self, directory: &str, reason: &str) -> Change {
        let mut problems: Vec<_> = self
            .files
            .values()
            .flat_map(|file| file.report.findings.clone())
            .collect();
        problems.push(Finding {
            file: directory.into(),
            position: None,
            severity: Severity::Error,
            object: None,
            field: String::new(),
            reason: format!("the directory can't be read: {reason}; everything read earlier stays in force"),
            remedy: "check that it exists and may be read".to_owned(),
        });
        Change {
            problems,
            ..Change::default()
        }
    }

    fn read(&mut self, directory: Directory) {
        let mut earlier = std::mem::take(&mut self.files);
        for (name, content) in directory {
            let reading = match earlier.remove(&name) {
                Some(reading) if reading.content == content => reading,
                _ => Reading {
                    report: report(&name, &content),
                    content,
                },
            };
            self.files.insert(name, reading);
        }
    }

    fn weigh(&mut self, files: &BTreeMap<Arc<str>, Reading>) -> Change {
        let mut change = Change::default();
        let claims = claims(files);
        for (name, claims) in &claims {
            self.decide(name, claims, &mut change);
        }
        let mut kept = BTreeMap::<Arc<str>, usize>::new();
        self.held.retain(|name, held| {
            if claims.contains_key(name) {
                return true;
            }
            let keeper = keeper(name, held, files);
            match &keeper {
                Some(file) => *kept.entry(Arc::clone(file)).or_default() += 1,
                None => change.deleted.push(name.clone()),
            }
            keeper.is_some()
        });
        change
            .problems
            .extend(kept.into_iter().map(|(file, count)| still_in_force(file, count)));
        change
            .problems
            .extend(files.values().flat_map(|file| file.report.findings.clone()));
        change.problems.sort();
        change
    }

    /// Which of an object's places counts: the file that it is in force from; else the first with a valid version.
    fn decide(&mut self, name: &ObjectRef, claims: &[Claim<'_>], change: &mut Change) {
        let held = self.held.get(name);
        let holder = held.and_then(|held| claims.iter().position(|claim| claim.place.file == held.file));
        let valid = || claims.iter().position(|claim| claim.object.is_some());
        let winner = holder.or_else(valid).unwrap_or(0);
        let Some(counts) = claims.get(winner) else { return };
        for (index, claim) in claims.iter().enumerate() {
            if index != winner {
                change.problems.push(duplicate(&claim.place, &counts.place));
            }
        }
        match (counts.object, held) {
            (Some(object), Some(held)) if held.object == *object && held.file == counts.place.file => {}
            (Some(object), held) => {
                if held.is_none_or(|held| held.object != *object) {
                    change.applied.push(object.clone());
                }
                let held = Held {
                    object: object.clone(),
                    file: Arc::clone(&counts.place.file),
                };
                self.held.insert(name.clone(), held);
            }
            (None, held) => change.problems.push(refused(&counts.place, held.is_some())),
        }
    }
}

/// Every place of every object, in the order of files and lines.
fn claims(files: &BTreeMap<Arc<str>, Reading>) -> BTreeMap<ObjectRef, Vec<Claim<'_>>> {
    let mut claims = BTreeMap::<ObjectRef, Vec<Claim<'_>>>::new();
    for Reading { report, .. } in files.values() {
        let mut places: Vec<_> = report
            .objects
            .iter()
            .map(|located| {
                let value = located.value.object_ref();
                let place = Located {
                    value,
                    file: Arc::clone(&located.file),
                    position: located.position,
                };
                Claim {
                    place,
                    object: Some(&located.value),
                }
            })
            .chain(report.refused.iter().map(|place| Claim {
                place: place.clone(),
                object: None,
            }))
            .collect();
        places.sort_by_key(|claim| claim.place.position);
        for claim in places {
            claims.entry(claim.place.value.clone()).or_default().push(claim);
        }
    }
    claims
}

/// The file in which an object may still stand though it can't be seen there: the one that it came from, or another
/// that names it; if that file can't be read as a whole.
fn keeper(name: &ObjectRef, held: &Held, files: &BTreeMap<Arc<str>, Reading>) -> Option<Arc<str>> {
    let broken = |file: &&Arc<str>| files.get(*file).is_some_and(|reading| !reading.report.complete);
    let mentions = |file: &&Arc<str>| {
        let content = files.get(*file).map(|reading| &reading.content);
        content.is_some_and(|content| content.as_ref().is_ok_and(|text| text.contains(&*name.name)))
    };
    let own = Some(&held.file).filter(broken);
    own.or_else(|| files.keys().filter(broken).find(mentions))
        .cloned()
}

/// An empty file, or one of nothing but white space, is taken for one that is just being written: editors that write in
/// place empty it first. Whoever means it deletes the file.
fn report(name: &Arc<str>, content: &Content) -> Report {
    match content {
        Ok(text) if text.trim_ascii().is_empty() => Report {
            objects: Vec::new(),
            refused: Vec::new(),
            complete: false,
            findings: Vec::new(),
        },
        Ok(text) => check_str(name, text),
        Err(reason) => Report {
            objects: Vec::new(),
            refused: Vec::new(),
            complete: false,
            findings: vec![unreadable(name, reason)],
        },
    }
}

/// What is said about a file that [`super::directory`] can't read.
pub fn unreadable(name: &str, reason: &str) -> Finding {
    Finding {
        file: name.into(),
        position: None,
        severity: Severity::Error,
        object: None,
        field: String::new(),
        reason: reason.to_owned(),
        remedy: "make it readable, or move it out of the directory".to_owned(),
    }
}

fn refused(place: &Located<ObjectRef>, held: bool) -> Finding {
    let (reason, remedy) = if held {
        (
            "the object is refused; its last good version stays in force",
            "repair it, or delete it to take it out of force",
        )
    } else {
        (
            "the object is refused, and no earlier version is in force",
            "repair it",
        )
    };
    Finding {
        file: Arc::clone(&place.file),
        position: place.position,
        severity: Severity::Warning,
        object: Some(place.value.clone()),
        field: String::new(),
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
    }
}

fn still_in_force(file: Arc<str>, count: usize) -> Finding {
    let objects = if count == 1 {
        "1 object"
    } else {
        &format!("{count} objects")
    };
    Finding {
        file,
        position: None,
        severity: Severity::Warning,
        object: None,
        field: String::new(),
        reason: format!(
            "the file is empty or can't be read as a whole; {objects} read earlier and not seen now stay in force"
        ),
        remedy: "repair the file; to take its objects out of force, delete it".to_owned(),
    }
}

#[cfg(test)]
mod tests;
