//! What validation has to say, and how it reads.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::object::ObjectRef;
use crate::yaml::Position;

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object is refused; what was in force before stays in force.
    Error,
    /// The object is taken, but not everything in it will have the effect it seems to have.
    Warning,
    /// Nothing is wrong: the mesh doesn't read this.
    Skipped,
}

/// One thing to say about a manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Finding {
    /// Name of the file, as it was given.
    pub file: Arc<str>,
    /// Where in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// How much it weighs.
    pub severity: Severity,
    /// The object it is about, if it could be told.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub object: Option<ObjectRef>,
    /// The field, as `spec.rules[0].name`; empty for the object or file as a whole.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it; may be empty.
    pub remedy: String,
}

impl Finding {
    /// Whether it keeps something from being taken over.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// `file:line:column: severity: object: field: reason; remedy`, on one line.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(match self.severity {
            Severity::Error => ": error",
            Severity::Warning => ": warning",
            Severity::Skipped => ": skipped",
        })?;
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.reason)?;
        if self.remedy.is_empty() {
            Ok(())
        } else {
            write!(f, "; {}", self.remedy)
        }
    }
}

#[expect(clippy::ref_option, reason = "the shape that serde asks for")]
fn as_text<S: Serializer>(object: &Option<ObjectRef>, serializer: S) -> Result<S::Ok, S::Error> {
    match object {
        Some(object) => serializer.collect_str(object),
        None => serializer.serialize_none(),
    }
}
