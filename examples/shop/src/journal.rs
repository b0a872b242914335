//! The journal of a service: each POST it executed, by any of its replicas.
//!
//! An entry is written before the POST has any effect, so "executed twice" can't hide: it is two entries with one
//! id. `GET /journal` reads it.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;

/// How many entries a replica holds in memory and shows; the file has all of them.
const SHOWN: usize = 100_000;

/// One executed POST.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The caller's `x-request-id`.
    pub id: String,
    /// The replica that executed it.
    pub replica: String,
    /// What was posted to.
    pub path: String,
}

/// The journal as one replica sees it.
#[derive(Debug)]
pub struct Journal {
    ledger: Ledger<Entry>,
    entries: VecDeque<Entry>,
}

impl Journal {
    /// Opens the journal file; `None`: a journal of this process alone.
    ///
    /// # Errors
    /// When the file can't be opened.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        Ok(Self {
            ledger: Ledger::open(path)?,
            entries: VecDeque::new(),
        })
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// When it can't be written; the POST must then not be executed.
    pub fn record(&mut self, entry: Entry) -> io::Result<()> {
        let mut locked = self.ledger.lock()?;
        let news = locked.news()?;
        locked.append(&entry)?;
        drop(locked);
        self.keep(news);
        self.keep([entry]);
        Ok(())
    }

    /// The newest entries of all replicas, oldest first.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn entries(&mut self) -> io::Result<&VecDeque<Entry>> {
        let news = self.ledger.lock()?.news()?;
        self.keep(news);
        Ok(&self.entries)
    }

    fn keep(&mut self, entries: impl IntoIterator<Item = Entry>) {
        self.entries.extend(entries);
        let surplus = self.entries.len().saturating_sub(SHOWN);
        self.entries.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, replica: &str) -> Entry {
        Entry {
            id: id.into(),
            replica: replica.into(),
            path: "/orders".into(),
        }
    }

    #[test]
    fn it_shows_every_replica_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut first = Journal::open(Some(&path)).unwrap();
        let mut second = Journal::open(Some(&path)).unwrap();
        first.record(entry("a", "1")).unwrap();
        second.record(entry("b", "2")).unwrap();
        second.record(entry("b", "2")).unwrap();
        let all = [entry("a", "1"), entry("b", "2"), entry("b", "2")];
        assert!(first.entries().unwrap().iter().eq(&all));
        assert!(second.entries().unwrap().iter().eq(&all));
        drop(first);
        let mut again = Journal::open(Some(&path)).unwrap();
        assert!(again.entries().unwrap().iter().eq(&all));
    }
}
