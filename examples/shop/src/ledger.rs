//! An append-only log of JSON lines that the replicas of one service share.
//!
//! A real shop has a database; this one needs just enough of it: replicas see each other's writes, a decision and
//! its write are one step, and what was written survives a SIGKILL (not a power cut: nothing is synced). Writers
//! lock the file, read what others appended since they last looked, decide, append. Without a path the log lives
//! and ends with the process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// One log. `E` is an entry.
#[derive(Debug)]
pub struct Ledger<E> {
    file: Option<File>,
    /// How much of the file has been read, in bytes; always the end of a line.
    seen: u64,
    entry: PhantomData<E>,
}

/// A locked log; unlocked when dropped.
#[derive(Debug)]
pub struct Locked<'a, E> {
    ledger: &'a mut Ledger<E>,
}

impl<E: Serialize + DeserializeOwned> Ledger<E> {
    /// Opens the log at `path` and makes it if it is missing. `None`: nothing is shared or kept.
    ///
    /// # Errors
    /// When the file can't be opened.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let open = |path| OpenOptions::new().create(true).read(true).append(true).open(path);
        Ok(Self {
            file: path.map(open).transpose()?,
            seen: 0,
            entry: PhantomData,
        })
    }

    /// Locks the log against the other replicas. Blocks; the lock is held for microseconds.
    ///
    /// # Errors
    /// When the file can't be locked.
    pub fn lock(&mut self) -> io::Result<Locked<'_, E>> {
        if let Some(file) = &self.file {
            file.lock()?;
        }
        Ok(Locked { ledger: self })
    }
}

impl<E: Serialize + DeserializeOwned> Locked<'_, E> {
    /// What other replicas (or an earlier run) appended since the last call. A line that can't be read is left out
    /// with a warning.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn news(&mut self) -> io::Result<Vec<E>> {
        let Some(file) = &mut self.ledger.file else {
            return Ok(Vec::new());
        };
        file.seek(SeekFrom::Start(self.ledger.seen))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let end = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |last| last + 1);
        self.ledger.seen += end as u64;
        Ok(bytes[..end]
            .split(|&b| b == b'\n')
            .filter(|line| !line.is_empty())
            .filter_map(read_line)
            .collect())
    }

    /// Appends one entry. Call [`Locked::news`] before it: what it had not returned by then is never returned.
    ///
    /// # Errors
    /// When the entry can't be written.
    pub fn append(&mut self, entry: &E) -> io::Result<()> {
        let Some(file) = &mut self.ledger.file else {
            return Ok(());
        };
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        file.write_all(&line)?;
        self.ledger.seen = file.metadata()?.len();
        Ok(())
    }
}

impl<E> Drop for Locked<'_, E> {
    fn drop(&mut self) {
        if let Some(file) = &self.ledger.file
            && let Err(error) = file.unlock()
        {
            tracing::error!(%error, "a ledger can't be unlocked");
        }
    }
}

fn read_line<E: DeserializeOwned>(line: &[u8]) -> Option<E> {
    serde_json::from_slice(line)
        .inspect_err(|error| tracing::warn!(%error, "a line of a ledger can't be read and is left out"))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn replicas_see_each_others_entries_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut first = Ledger::<u32>::open(Some(&path)).unwrap();
        let mut second = Ledger::<u32>::open(Some(&path)).unwrap();
        first.lock().unwrap().append(&1).unwrap();
        {
            let mut locked = second.lock().unwrap();
            assert_eq!(locked.news().unwrap(), [1]);
            locked.append(&2).unwrap();
            locked.append(&3).unwrap();
            assert_eq!(locked.news().unwrap(), [] as [u32; 0], "own entries aren't news");
        }
        assert_eq!(first.lock().unwrap().news().unwrap(), [2, 3]);
    }

    #[test]
    fn a_torn_last_line_waits_and_a_bad_line_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, b"1\nnonsense\n2\n3").unwrap();
        let mut ledger = Ledger::<u32>::open(Some(&path)).unwrap();
        assert_eq!(ledger.lock().unwrap().news().unwrap(), [1, 2]);
        std::fs::write(&path, b"1\nnonsense\n2\n34\n").unwrap();
        assert_eq!(ledger.lock().unwrap().news().unwrap(), [34]);
    }

    #[test]
    fn deciding_and_writing_is_one_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let takers: Vec<_> = (0..4)
            .map(|_| {
                let mut ledger = Ledger::<u32>::open(Some(&path)).unwrap();
                thread::spawn(move || {
                    let mut taken = 0;
                    let mut sum = 0;
                    for _ in 0..50 {
                        let mut locked = ledger.lock().unwrap();
                        sum += locked.news().unwrap().iter().sum::<u32>();
                        if sum < 100 {
                            locked.append(&1).unwrap();
                            sum += 1;
                            taken += 1;
                        }
                    }
                    taken
                })
            })
            .collect();
        let taken: u32 = takers.into_iter().map(|t| t.join().unwrap()).sum();
        assert_eq!(taken, 100);
    }

    #[test]
    fn without_a_path_nothing_is_kept() {
        let mut ledger = Ledger::<u32>::open(None).unwrap();
        ledger.lock().unwrap().append(&1).unwrap();
        assert_eq!(ledger.lock().unwrap().news().unwrap(), [] as [u32; 0]);
    }
}
