//! The operator's values for injection, in a file that may change at any time.
//!
//! The kubelet exchanges the file of a `ConfigMap` as a whole, within a minute or so. It is read for every call: that is
//! a few hundred bytes, and no notification can be missed. What can't be used changes nothing.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;
use weft_api::yaml::{self, YamlError};
use weft_control_plane_core::inject::{Injector, Values};

/// Bytes of the file.
const BYTES_MAX: u64 = 64 * 1024;

/// Values that can't be used.
#[derive(Debug, Error)]
pub enum ValuesError {
    /// The file.
    #[error("the injection values in {} can't be read: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text.
    #[error("the injection values in {} are not understood: {source}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: YamlError,
    },
    /// What it says.
    #[error("the injection values in {} can't be: {}", path.display(), problems.join("; "))]
    Content {
        /// Which file.
        path: PathBuf,
        /// Every mistake.
        problems: Vec<String>,
    },
}

/// Values of a file, as of its last usable content.
pub struct InjectorFile {
    path: PathBuf,
    last: Mutex<Last>,
}

struct Last {
    /// What was last seen, usable or not.
    text: String,
    injector: Arc<Injector>,
}

/// Reads a file of values.
pub fn load(path: &Path) -> Result<Injector, ValuesError> {
    parse(path, &read(path)?)
}

impl InjectorFile {
    /// The values of a file, which have to be usable.
    pub fn open(path: &Path) -> Result<Self, ValuesError> {
        let text = read(path)?;
        let injector = Arc::new(parse(path, &text)?);
        Ok(Self {
            path: path.to_owned(),
            last: Mutex::new(Last { text, injector }),
        })
    }

    /// What holds now.
    pub fn current(&self) -> Arc<Injector> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let text = match read(&self.path) {
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(%error, "the last usable injection values stay in force");
                return Arc::clone(&last.injector);
            }
        };
        if text != last.text {
            match parse(&self.path, &text) {
                Ok(injector) => {
                    tracing::info!("new injection values are in force");
                    last.injector = Arc::new(injector);
                }
                Err(error) => tracing::error!(%error, "the last usable injection values stay in force"),
            }
            last.text = text;
        }
        Arc::clone(&last.injector)
    }
}

fn read(path: &Path) -> Result<String, ValuesError> {
    let limited = |path: &Path| {
        let mut text = String::new();
        let bytes = File::open(path)?.take(BYTES_MAX + 1).read_to_string(&mut text)?;
        if bytes as u64 > BYTES_MAX {
            return Err(io::Error::other(format!("it has more than {BYTES_MAX} bytes")));
        }
        Ok(text)
    };
    limited(path).map_err(|source| ValuesError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Reads values; `path` is where they are from.
pub fn parse(path: &Path, text: &str) -> Result<Injector, ValuesError> {
    let values: Values = yaml::from_str(text).map_err(|source| ValuesError::Syntax {
        path: path.to_owned(),
        source,
    })?;
    Injector::new(values).map_err(|problems| ValuesError::Content {
        path: path.to_owned(),
        problems: problems.iter().map(ToString::to_string).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_usable_content_stays_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("values.yaml");
        assert!(matches!(InjectorFile::open(&path), Err(ValuesError::Read { .. })));
        fs::write(&path, "image: [").unwrap();
        assert!(matches!(
            InjectorFile::open(&path),
            Err(ValuesError::Syntax { .. })
        ));
        fs::write(&path, "image: a b\nlogLevel: loud").unwrap();
        let error = InjectorFile::open(&path).err().unwrap().to_string();
        assert!(
            error.contains("image: ") && error.contains("logLevel: "),
            "{error}"
        );

        fs::write(&path, "image: a:1").unwrap();
        let file = InjectorFile::open(&path).unwrap();
        let image = || file.current().values().image.clone();
        assert_eq!(image(), "a:1");
        fs::write(&path, "image: a:2").unwrap();
        assert_eq!(image(), "a:2");
        fs::write(&path, "image: a:3\nmisspelt: 1").unwrap();
        assert_eq!(image(), "a:2");
        fs::write(&path, vec![b' '; 65_537]).unwrap();
        assert_eq!(image(), "a:2");
        fs::remove_file(&path).unwrap();
        assert_eq!(image(), "a:2");
        fs::write(&path, "image: a:4").unwrap();
        assert_eq!(image(), "a:4");
    }
}
