//! Private files, replaced as a whole.
//!
//! Keys and leaves lie on disk so that a restarted process needs nobody to become ready. They are written beside
//! their place with mode 0600 and then renamed, so that a reader sees the old content or the new, never half.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;

/// Mode of every file that is written here: its owner only.
pub const PRIVATE_MODE: u32 = 0o600;
/// Mode of a directory that is made here: its owner only.
pub const PRIVATE_DIRECTORY_MODE: u32 = 0o700;

/// A file could not be read or written.
#[derive(Debug, Error)]
pub enum FileError {
    /// Reading failed.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write {}: {source}; the directory must exist and belong to this process", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Reads `path`; `None` when it doesn't exist.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Replaces `path` by `bytes`, readable by its owner only. The directory is not made.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace(path, bytes).map_err(|source| FileError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Makes `path` of `bytes`, readable by its owner only, unless it is there: of several that do so at once one wins, and
/// the file has its content as a whole. Whether it was this one.
pub fn create_private(path: &Path, bytes: &[u8]) -> Result<bool, FileError> {
    let made = beside(path).and_then(|new| {
        let made = write_new(&new, bytes).and_then(|()| fs::hard_link(&new, path));
        // The content has its name by now, or an error worth telling.
        let _ = fs::remove_file(&new);
        made
    });
    match made {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(FileError::Write {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Makes `path` and what leads to it, the last one accessible by its owner only.
pub fn create_private_directory(path: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_DIRECTORY_MODE)
        .create(path);
    made.map_err(|source| FileError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Numbers writes, so that two at once don't meet in one unfinished file.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// Where a file is written before it gets its name.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(
        ".{}.{}.new",
        std::process::id(),
        WRITES.fetch_add(1, Ordering::Relaxed)
    ));
    Ok(path.with_file_name(name))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = beside(path)?;
    let written = write_new(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // What is left over must not pile up; the first error is the one worth telling.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A file that a crashed process left behind may have another mode: it goes first.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE_MODE)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn content_is_replaced_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        fs::write(&path, "open to all").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        write_private(&path, b"secret").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"secret");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            PRIVATE_MODE
        );
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn writers_at_once_leave_one_whole_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.pb");
        std::thread::scope(|scope| {
            for byte in 0..8_u8 {
                let path = &path;
                scope.spawn(move || (0..20).for_each(|_| write_private(path, &vec![byte; 100_000]).unwrap()));
            }
        });
        let content = read(&path).unwrap().unwrap();
        assert!(content.len() == 100_000 && content.iter().all(|byte| *byte == content[0]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn absence_is_no_error_and_a_missing_directory_is_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(&dir.path().join("none")).unwrap().is_none());
        let error = write_private(&dir.path().join("none/key.pem"), b"x").unwrap_err();
        assert!(error.to_string().contains("none/key.pem"), "{error}");
    }

    #[test]
    fn a_directory_is_made_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_private_directory(&path).unwrap();
        create_private_directory(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            PRIVATE_DIRECTORY_MODE
        );
    }
}
