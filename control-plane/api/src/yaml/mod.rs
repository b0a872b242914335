//! The only place that reads or writes YAML.
//!
//! `serde_yaml` says what a document means; `saphyr-parser`'s events say where things stand in it, and how large it
//! would grow, before `serde_yaml` is let near it: aliases that blow up, endless nesting and endless files end as
//! errors with a line. Both must be able to read a document. The rest of the mesh sees JSON values and positions,
//! so that another reader can be put here without anybody noticing.
//!
//! As with kubectl: several documents in one file, merge keys (`<<`), numbers as keys are text, `null` is the same
//! as left out.

mod index;
#[cfg(test)]
mod tests;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use index::Positions;

/// Largest file, in bytes.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;
/// Most documents in one file.
pub const MAX_DOCUMENTS: usize = 4096;
/// Deepest nesting, in collections.
pub const MAX_DEPTH: usize = 64;
/// Most values in one file, with every alias counted as large as what it stands for.
pub const MAX_VALUES: usize = 500_000;

/// A place in a file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// Why a text can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// Over [`MAX_FILE_BYTES`].
    #[error("the file has {0} bytes; at most {MAX_FILE_BYTES} are read")]
    TooLarge(usize),
    /// Over [`MAX_DOCUMENTS`].
    #[error("the file has more than {MAX_DOCUMENTS} documents")]
    TooManyDocuments(Position),
    /// Over [`MAX_DEPTH`].
    #[error("nested more than {MAX_DEPTH} levels deep")]
    TooDeep(Position),
    /// Over [`MAX_VALUES`].
    #[error("the file has more than {MAX_VALUES} values, aliases expanded")]
    TooManyValues(Position),
    /// A key of a mapping is itself a collection or an alias.
    #[error("a key must be plain text")]
    KeyNotText(Position),
    /// A key stands twice in one mapping.
    #[error("the key {key:?} is written twice; it stands in line {} already", first.line)]
    DuplicateKey {
        /// The key.
        key: String,
        /// Where it stands the second time.
        position: Position,
        /// Where it stands first.
        first: Position,
    },
    /// No YAML.
    #[error("not readable as YAML: {message}")]
    Syntax {
        /// What the reader says.
        message: String,
        /// Where.
        position: Option<Position>,
    },
}

impl YamlError {
    /// Where, if that can be said.
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::TooLarge(_) => None,
            Self::TooManyDocuments(position)
            | Self::TooDeep(position)
            | Self::TooManyValues(position)
            | Self::KeyNotText(position)
            | Self::DuplicateKey { position, .. } => Some(*position),
            Self::Syntax { position, .. } => *position,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::TooLarge(_) | Self::TooManyDocuments(_) => "split the file",
            Self::TooDeep(_) => {
                "no object that the mesh reads is nested so deep; look for a stray indentation"
            }
            Self::TooManyValues(_) => "split the file, or write out what its aliases repeat",
            Self::KeyNotText(_) => {
                "write the key as text; braces in a template may still have to be filled in"
            }
            Self::DuplicateKey { .. } => "keep one of the two",
            Self::Syntax { .. } => {
                "look for wrong indentation, tabs or missing quotes at this place or just above"
            }
        }
    }
}

/// One document of a file.
#[derive(Debug)]
pub(crate) struct Document {
    /// What it says, nulls in mappings left out.
    pub(crate) value: Value,
    /// Where things stand in it.
    pub(crate) positions: Positions,
}

/// Reads all documents of a file. Documents without content are left out. After an error in the syntax nothing
/// further is read; a document with a key twice is an error by itself.
pub(crate) fn documents(text: &str) -> Vec<Result<Document, YamlError>> {
    if text.len() > MAX_FILE_BYTES {
        return vec![Err(YamlError::TooLarge(text.len()))];
    }
    let index = index::read(text);
    let mut documents = Vec::with_capacity(index.documents.len());
    let mut sources = serde_yaml::Deserializer::from_str(text);
    for positions in index.documents {
        let value = sources.next().ok_or_else(readers_differ).and_then(value);
        let document = positions.and_then(|positions| {
            Ok(Document {
                value: value?,
                positions,
            })
        });
        if !matches!(&document, Ok(document) if document.value.is_null()) {
            documents.push(document);
        }
    }
    documents.extend(index.broken.map(Err));
    documents
}

/// Reads all documents of a file as they are written, nulls included, for those who give them back. Documents without
/// content are left out.
pub fn values(text: &str) -> Result<Vec<Value>, YamlError> {
    if text.len() > MAX_FILE_BYTES {
        return Err(YamlError::TooLarge(text.len()));
    }
    let index = index::read(text);
    let mut sources = serde_yaml::Deserializer::from_str(text);
    let mut values = Vec::with_capacity(index.documents.len());
    for positions in index.documents {
        positions?;
        values.push(sources.next().ok_or_else(readers_differ).and_then(as_written)?);
    }
    if let Some(error) = index.broken {
        return Err(error);
    }
    values.retain(|value| !value.is_null());
    Ok(values)
}

/// Reads one value of a type of ours, as for configuration and tests.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    if text.len() > MAX_FILE_BYTES {
        return Err(YamlError::TooLarge(text.len()));
    }
    serde_yaml::from_str(text).map_err(|error| syntax(&error))
}

/// Writes a value as one document.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, YamlError> {
    serde_yaml::to_string(value).map_err(|error| syntax(&error))
}

fn value(source: serde_yaml::Deserializer<'_>) -> Result<Value, YamlError> {
    let mut value = as_written(source)?;
    drop_nulls(&mut value);
    Ok(value)
}

fn as_written(source: serde_yaml::Deserializer<'_>) -> Result<Value, YamlError> {
    let mut value = serde_yaml::Value::deserialize(source).map_err(|error| syntax(&error))?;
    value.apply_merge().map_err(|error| syntax(&error))?;
    serde_json::to_value(value).map_err(|error| YamlError::Syntax {
        message: error.to_string(),
        position: None,
    })
}

/// `key: null` means the same as no key, as the API server has it for fields that aren't nullable.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn readers_differ() -> YamlError {
    YamlError::Syntax {
        message: "the file ends before its last document".to_owned(),
        position: None,
    }
}

fn syntax(error: &serde_yaml::Error) -> YamlError {
    let position = error.location().map(|at| Position {
        line: at.line(),
        column: at.column(),
    });
    YamlError::Syntax {
        message: error.to_string(),
        position,
    }
}
