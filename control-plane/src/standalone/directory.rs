//! Reading a directory of manifests: the `.yaml`, `.yml` and `.json` files in it, as `kubectl apply -f` takes them;
//! not its subdirectories, and nothing whose name begins with a dot (editors' and volumes' own files).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use weft_api::yaml::MAX_FILE_BYTES;

/// Most files that are read; further ones, by name, are said to be unreadable.
pub const MAX_FILES: usize = 1024;
/// Most bytes that are read of all files together.
pub const MAX_DIRECTORY_BYTES: usize = 64 * 1024 * 1024;

const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// A file's content, or why there is none.
pub type Content = Result<Arc<str>, String>;

/// The manifests of a directory, by file name.
pub type Directory = BTreeMap<Arc<str>, Content>;

/// What tells cheaply whether a directory may have changed: each file's time of change, length and inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fingerprint(BTreeMap<Arc<str>, Option<Stamp>>);

/// Seconds and nanoseconds of the last change, length, inode.
type Stamp = (i64, i64, u64, u64);

/// Looks at the files without reading them.
pub(super) fn fingerprint(dir: &Path) -> io::Result<Fingerprint> {
    let stamp = |name: &Arc<str>| {
        let file = fs::metadata(dir.join(&**name)).ok()?;
        Some((file.mtime(), file.mtime_nsec(), file.len(), file.ino()))
    };
    Ok(Fingerprint(
        names(dir)?
            .into_iter()
            .map(|name| (Arc::clone(&name), stamp(&name)))
            .collect(),
    ))
}

/// Reads all files. A file that can't be read is in the answer with the reason; only when the directory itself can't
/// be listed is there none.
pub fn read(dir: &Path) -> io::Result<Directory> {
    let mut left = MAX_DIRECTORY_BYTES;
    let mut directory = Directory::new();
    for (number, name) in names(dir)?.into_iter().enumerate() {
        let content = if number < MAX_FILES {
            read_part(&dir.join(&*name), left)
        } else {
            Err(format!("the directory has more than {MAX_FILES} files"))
        };
        left -= content.as_ref().map_or(0, |text| text.len());
        // Gone since it was listed: the next event or look at the directory says so again.
        if content.as_ref().err().is_none_or(|reason| !reason.is_empty()) {
            directory.insert(name, content);
        }
    }
    Ok(directory)
}

/// The names of manifests, ascending.
fn names(dir: &Path) -> io::Result<Vec<Arc<str>>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        let extension = Path::new(&name)
            .extension()
            .and_then(|extension| extension.to_str());
        let known = extension.is_some_and(|extension| EXTENSIONS.contains(&extension));
        if known && !name.starts_with('.') && !fs::metadata(dir.join(&name)).is_ok_and(|file| file.is_dir()) {
            names.push(Arc::from(name));
        }
    }
    names.sort();
    Ok(names)
}

/// Reads one file, within the limits of a directory that has no other.
pub fn read_file(path: &Path) -> Content {
    read_part(path, MAX_DIRECTORY_BYTES)
}

/// An empty reason: the file is gone.
fn read_part(path: &Path, left: usize) -> Content {
    let reason = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound if fs::symlink_metadata(path).is_err() => String::new(),
        _ => format!("the file can't be read: {error}"),
    };
    let metadata = fs::metadata(path).map_err(reason)?;
    if !metadata.is_file() {
        return Err("this is no regular file".to_owned());
    }
    let limit = MAX_FILE_BYTES.min(left);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(reason)?;
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(reason)?;
    if bytes.len() > limit {
        return Err(format!(
            "the file is too large: at most {MAX_FILE_BYTES} bytes are read of one file and {MAX_DIRECTORY_BYTES} of \
             all together"
        ));
    }
    String::from_utf8(bytes)
        .map(Arc::from)
        .map_err(|_| "the file is not UTF-8 text".to_owned())
}
