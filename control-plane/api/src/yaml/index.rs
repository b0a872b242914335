//! Where things stand in a file, and whether it stays within bounds: one pass over the parser's events.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScanError};

use super::{MAX_DEPTH, MAX_DOCUMENTS, MAX_VALUES, Position, YamlError};
use crate::pointer::Pointer;

/// The places of one document's values.
#[derive(Debug, Default)]
pub(crate) struct Positions(HashMap<Pointer, Position>);

impl Positions {
    /// Where a value stands; for one that isn't written (a missing field, a merged one) what it would stand in.
    pub(crate) fn find(&self, pointer: &Pointer) -> Option<Position> {
        let mut pointer = pointer.clone();
        loop {
            if let Some(position) = self.0.get(&pointer) {
                return Some(*position);
            }
            pointer = pointer.parent()?;
        }
    }
}

/// What the pass found.
pub(super) struct Index {
    /// One entry for each document, an error where a key is doubled.
    pub(super) documents: Vec<Result<Positions, YamlError>>,
    /// What ended the pass before the file's end.
    pub(super) broken: Option<YamlError>,
}

/// Walks through all documents.
pub(super) fn read(text: &str) -> Index {
    let mut reader = Reader::default();
    let mut documents = Vec::new();
    for event in Parser::new_from_str(text) {
        let step = event
            .map_err(|error| scan_error(&error))
            .and_then(|(event, span)| {
                let position = at(&span.start);
                match event {
                    Event::DocumentStart(_) if documents.len() == MAX_DOCUMENTS => {
                        Err(YamlError::TooManyDocuments(position))
                    }
                    Event::DocumentEnd => {
                        documents.push(reader.finish());
                        Ok(())
                    }
                    event => reader.step(&event, position),
                }
            });
        if let Err(error) = step {
            return Index {
                documents,
                broken: Some(error),
            };
        }
    }
    Index {
        documents,
        broken: None,
    }
}

/// A collection that is still open.
struct Open {
    pointer: Pointer,
    next: Next,
    anchor: usize,
    values: usize,
}

/// What comes next in it.
enum Next {
    Item(usize),
    Key,
    ValueOf(Pointer),
}

#[derive(Default)]
struct Reader {
    open: Vec<Open>,
    positions: HashMap<Pointer, Position>,
    doubled: Option<YamlError>,
    anchors: HashMap<usize, usize>,
    values: usize,
}

impl Reader {
    fn finish(&mut self) -> Result<Positions, YamlError> {
        self.open.clear();
        let positions = Positions(std::mem::take(&mut self.positions));
        self.doubled.take().map_or(Ok(positions), Err)
    }

    fn step(&mut self, event: &Event<'_>, position: Position) -> Result<(), YamlError> {
        match event {
            Event::Scalar(text, _, anchor, _) => {
                if let Some(Open { next: Next::Key, .. }) = self.open.last() {
                    self.key(text, position)
                } else {
                    self.place(position)?;
                    self.add(1, *anchor, position)
                }
            }
            Event::Alias(anchor) => {
                self.place(position)?;
                self.add(self.anchors.get(anchor).copied().unwrap_or(1), 0, position)
            }
            Event::MappingStart(anchor, _) => self.enter(Next::Key, *anchor, position),
            Event::SequenceStart(anchor, _) => self.enter(Next::Item(0), *anchor, position),
            Event::MappingEnd | Event::SequenceEnd => {
                let Some(closed) = self.open.pop() else {
                    return Ok(());
                };
                self.values -= closed.values;
                self.add(closed.values, closed.anchor, position)
            }
            _ => Ok(()),
        }
    }

    /// Takes a key of the innermost mapping.
    fn key(&mut self, text: &str, position: Position) -> Result<(), YamlError> {
        let Some(mapping) = self.open.last_mut() else {
            return Ok(());
        };
        let pointer = mapping.pointer.key(text);
        mapping.next = Next::ValueOf(pointer.clone());
        if let Some(first) = self.positions.insert(pointer, position)
            && self.doubled.is_none()
        {
            self.doubled = Some(YamlError::DuplicateKey {
                key: text.to_owned(),
                position,
                first,
            });
        }
        self.add(1, 0, position)
    }

    /// Finds the place of the value that begins here, and moves on behind it.
    fn place(&mut self, position: Position) -> Result<Pointer, YamlError> {
        let Some(collection) = self.open.last_mut() else {
            self.positions.insert(Pointer::default(), position);
            return Ok(Pointer::default());
        };
        match std::mem::replace(&mut collection.next, Next::Key) {
            Next::Item(index) => {
                collection.next = Next::Item(index + 1);
                let pointer = collection.pointer.index(index);
                self.positions.insert(pointer.clone(), position);
                Ok(pointer)
            }
            Next::ValueOf(pointer) => Ok(pointer),
            Next::Key => Err(YamlError::KeyNotText(position)),
        }
    }

    fn enter(&mut self, next: Next, anchor: usize, position: Position) -> Result<(), YamlError> {
        let pointer = self.place(position)?;
        if self.open.len() == MAX_DEPTH {
            return Err(YamlError::TooDeep(position));
        }
        self.open.push(Open {
            pointer,
            next,
            anchor,
            values: 0,
        });
        self.add(1, 0, position)
    }

    /// Counts values into the innermost collection and the file.
    fn add(&mut self, values: usize, anchor: usize, position: Position) -> Result<(), YamlError> {
        if anchor > 0 {
            self.anchors.insert(anchor, values);
        }
        if let Some(collection) = self.open.last_mut() {
            collection.values = collection.values.saturating_add(values);
        }
        self.values = self.values.saturating_add(values);
        if self.values > MAX_VALUES {
            Err(YamlError::TooManyValues(position))
        } else {
            Ok(())
        }
    }
}

fn at(marker: &Marker) -> Position {
    Position {
        line: marker.line(),
        column: marker.col() + 1,
    }
}

fn scan_error(error: &ScanError) -> YamlError {
    YamlError::Syntax {
        message: error.info().to_owned(),
        position: Some(at(error.marker())),
    }
}
