//! The image's one layer: a tar that depends on names and contents alone.

use std::io::{self, Write};

use flate2::{Compression, GzBuilder};

/// Owner of every file in the layer.
const ROOT: u64 = 0;

/// The oldest time that there is, so that no file tells when it was built.
const EPOCH: u64 = 0;

/// Everybody may read and run it, nobody may change it.
const EXECUTABLE: u32 = 0o555;

/// A program in the image's root folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Program {
    /// Its name there, without a slash.
    pub(crate) name: String,
    /// The program.
    pub(crate) content: Vec<u8>,
}

/// The tar of `programs`, in the order of their names. The same programs give the same bytes.
pub(crate) fn tar(programs: &[Program]) -> io::Result<Vec<u8>> {
    let mut sorted: Vec<_> = programs.iter().collect();
    sorted.sort();
    let mut tar = tar::Builder::new(Vec::new());
    for program in sorted {
        append(&mut tar, &program.name, EXECUTABLE, &program.content)?;
    }
    tar.into_inner()
}

/// `tar` with gzip, whose head has no time, no name and no system in it. The same bytes give the same bytes.
pub(crate) fn compressed(tar: &[u8]) -> io::Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(tar)?;
    gzip.finish()
}

/// Appends a file whose header has no trace of where and when it was made.
pub(crate) fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    content: &[u8],
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(ROOT);
    header.set_gid(ROOT);
    header.set_mtime(EPOCH);
    header.set_size(u64::try_from(content.len()).map_err(io::Error::other)?);
    tar.append_data(&mut header, path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str, content: &[u8]) -> Program {
        Program {
            name: name.to_owned(),
            content: content.to_vec(),
        }
    }

    #[test]
    fn the_order_of_arrival_does_not_matter() {
        let (a, b) = (program("a", b"one"), program("b", b"two"));
        let forward = tar(&[a.clone(), b.clone()]).unwrap();
        assert_eq!(forward, tar(&[b, a.clone()]).unwrap());
        assert_ne!(forward, tar(&[a]).unwrap());
    }

    #[test]
    fn a_header_says_nothing_of_the_machine() {
        let layer = tar(&[program("weft-proxy", b"content")]).unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let entries: Vec<_> = archive.entries().unwrap().collect::<Result<_, _>>().unwrap();
        let [entry] = entries.as_slice() else {
            panic!("one file, not {}", entries.len())
        };
        let header = entry.header();
        assert_eq!(header.path().unwrap().to_str(), Some("weft-proxy"));
        assert_eq!(header.mode().unwrap(), 0o555);
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
        assert_eq!(header.mtime().unwrap(), 0);
        assert_eq!(header.username().unwrap().unwrap_or_default(), "");
        assert_eq!(entry.size(), 7);
    }
}
