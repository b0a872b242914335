//! The last known configuration on disk, so that a restart needs nobody: each resource as it came, with its version.
//!
//! The file is one `DeltaDiscoveryResponse`, the message in which resources come anyway; its `nonce` holds the node id
//! that they belong to. Versions let the control plane skip what has not changed.

use std::path::Path;

use prost::Message;
use weft_identity::files::{self, FileError};
use weft_xds_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use weft_xds_proto::google::protobuf::Any;

/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: usize = 256 * 1024 * 1024;

/// One resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// The name it was sent under.
    pub name: String,
    /// Its version.
    pub version: String,
    /// As it came.
    pub body: Any,
}

/// Writes `resources`, which belong to `node_id`.
pub fn save(path: &Path, node_id: &str, resources: Vec<Saved>) -> Result<(), FileError> {
    let message = DeltaDiscoveryResponse {
        nonce: node_id.to_owned(),
        resources: resources
            .into_iter()
            .map(|saved| Resource {
                name: saved.name,
                version: saved.version,
                resource: Some(saved.body),
                ..Resource::default()
            })
            .collect(),
        ..DeltaDiscoveryResponse::default()
    };
    files::write_private(path, &message.encode_to_vec())
}

/// What was saved for `node_id`: nothing if the file is absent, broken, or another node's.
pub fn load(path: &Path, node_id: &str) -> Result<Vec<Saved>, FileError> {
    let bytes = files::read(path)?
        .filter(|bytes| bytes.len() <= MAX_FILE_BYTES)
        .unwrap_or_default();
    let message = DeltaDiscoveryResponse::decode(&bytes[..]).unwrap_or_default();
    if message.nonce != node_id {
        return Ok(Vec::new());
    }
    let saved = message.resources.into_iter().filter_map(|resource| {
        Some(Saved {
            name: resource.name,
            version: resource.version,
            body: resource.resource?,
        })
    });
    Ok(saved.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_by_its_node_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.pb");
        assert_eq!(load(&path, "shop/user-1").unwrap(), Vec::new());
        let body = Any {
            type_url: "type.googleapis.com/x".into(),
            value: vec![1, 2, 3],
        };
        let saved = vec![Saved {
            name: "a:1".into(),
            version: "7".into(),
            body,
        }];
        save(&path, "shop/user-1", saved.clone()).unwrap();
        assert_eq!(load(&path, "shop/user-1").unwrap(), saved);
        assert_eq!(load(&path, "shop/user-2").unwrap(), Vec::new());
    }

    #[test]
    fn a_broken_file_is_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.pb");
        for bytes in [&b""[..], b"\xff\xff\xff", b"not protobuf at all"] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(load(&path, "shop/user-1").unwrap(), Vec::new());
        }
    }
}
