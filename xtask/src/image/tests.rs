//! Whole images, from programs of a few bytes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::layer::Program;
use super::*;

fn told(shop: bool) -> Image {
    Image {
        archive: None,
        out: None,
        profile: "dev".to_owned(),
        name: None,
        tag: "1.2.3".to_owned(),
        shop,
    }
}

fn layout(shop: bool) -> Layout {
    let program = |binary: &Binary| Program {
        name: binary.name.to_owned(),
        content: binary.name.as_bytes().to_vec(),
    };
    let told = told(shop);
    let programs: Vec<_> = told.binaries().iter().map(program).collect();
    Layout::new(&told.settings(), &layer::tar(&programs).unwrap()).unwrap()
}

fn json(layout: &Layout, path: &str) -> Value {
    serde_json::from_slice(&layout.files[path]).unwrap()
}

/// What a descriptor points at, after its digest and size were checked.
fn blob<'a>(layout: &'a Layout, descriptor: &Value) -> &'a [u8] {
    use sha2::{Digest, Sha256};

    let digest = descriptor["digest"].as_str().unwrap();
    let hex = digest.strip_prefix("sha256:").unwrap();
    let content = &layout.files[&format!("blobs/sha256/{hex}")];
    assert_eq!(format!("{:x}", Sha256::digest(content)), hex);
    assert_eq!(descriptor["size"], content.len());
    content
}

fn unpacked(layer: &[u8]) -> Vec<u8> {
    use std::io::Read;

    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(layer).read_to_end(&mut tar).unwrap();
    tar
}

#[test]
fn the_same_programs_give_the_same_image() {
    let first = layout(false);
    for _ in 0..20 {
        let next = layout(false);
        assert_eq!(next, first);
        assert_eq!(next.archive().unwrap(), first.archive().unwrap());
    }
}

#[test]
fn every_digest_is_right_and_every_blob_is_used() {
    let layout = layout(false);
    let index = json(&layout, "index.json");
    let manifest: Value = serde_json::from_slice(blob(&layout, &index["manifests"][0])).unwrap();
    assert_eq!(index["manifests"][0]["digest"], layout.digest);
    let config: Value = serde_json::from_slice(blob(&layout, &manifest["config"])).unwrap();
    let tar = unpacked(blob(&layout, &manifest["layers"][0]));
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    let diff_id = format!("sha256:{:x}", <sha2::Sha256 as sha2::Digest>::digest(tar));
    assert_eq!(config["rootfs"]["diff_ids"][0], diff_id);
    assert_eq!(
        layout.files.len(),
        5,
        "three blobs, the index and the layout's version"
    );
}

#[test]
fn the_mesh_is_two_programs_and_nobody_is_root() {
    let layout = layout(false);
    let index = json(&layout, "index.json");
    let manifest: Value = serde_json::from_slice(blob(&layout, &index["manifests"][0])).unwrap();
    let tar = unpacked(blob(&layout, &manifest["layers"][0]));
    let mut tar = tar::Archive::new(tar.as_slice());
    let names: BTreeSet<_> = tar
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(
        names,
        ["weft-control-plane", "weft-proxy"].map(str::to_owned).into()
    );
    let config: Value = serde_json::from_slice(blob(&layout, &manifest["config"])).unwrap();
    assert_eq!(config["config"]["User"], "2102:2102");
    assert_eq!(config["config"].get("Entrypoint"), None);
    assert_eq!(config["os"], "linux");
    assert_eq!(config["created"], "1970-01-01T00:00:00Z");
}

#[test]
fn an_import_knows_it_by_tag_and_by_digest() {
    let layout = layout(false);
    let index = json(&layout, "index.json");
    let names: Vec<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["annotations"]["io.containerd.image.name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "weft.test/weft:1.2.3",
            &format!("weft.test/weft@{}", layout.digest)
        ]
    );
}

#[test]
fn the_shop_starts_by_itself_and_is_captured() {
    let layout = layout(true);
    let index = json(&layout, "index.json");
    let manifest: Value = serde_json::from_slice(blob(&layout, &index["manifests"][0])).unwrap();
    let config: Value = serde_json::from_slice(blob(&layout, &manifest["config"])).unwrap();
    assert_eq!(
        config["config"]["Entrypoint"],
        serde_json::json!(["/weft", "shop"])
    );
    assert_ne!(
        config["config"]["User"], "2102:2102",
        "what runs as the sidecar's user is not captured"
    );
}

#[test]
fn a_folder_holds_what_the_archive_holds() {
    let folder = tempfile::tempdir().unwrap();
    let layout = layout(false);
    layout.write(folder.path()).unwrap();
    let archive = layout.archive().unwrap();
    let mut count = 0;
    for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let mut content = Vec::new();
        std::io::copy(&mut entry, &mut content).unwrap();
        assert_eq!(fs::read(folder.path().join(path)).unwrap(), content);
        count += 1;
    }
    assert_eq!(count, layout.files.len());
}

#[test]
fn the_report_has_the_line_that_installs_it() {
    let mut told = told(false);
    told.archive = Some("weft.tar".into());
    let layout = layout(false);
    let report = report(&told, &told.settings(), &layout, 1_500_000, None);
    assert!(report.contains("size     1.5 MB"), "{report}");
    assert!(
        report.contains("ctr -n k8s.io images import weft.tar"),
        "{report}"
    );
    let set = format!(
        "--set image.repository=weft.test/weft --set image.digest={}",
        layout.digest
    );
    assert!(report.contains(&set), "{report}");
}

#[test]
fn the_meshs_image_stays_small() {
    let mut mesh = told(false);
    mesh.profile = DIST.to_owned();
    mesh.check(BYTES_MAX).unwrap();
    let refused = mesh.check(BYTES_MAX + 1).unwrap_err().to_string();
    assert!(refused.contains("25.0 MB, more than the 25 MB"), "{refused}");
    mesh.profile = "dev".to_owned();
    mesh.check(BYTES_MAX + 1).unwrap();
    told(true).check(BYTES_MAX + 1).unwrap();
}

#[test]
fn names_and_tags_are_what_registries_take() {
    assert!(name("registry.example:5000/team/weft").is_ok());
    assert!(tag("0.1.0-rc.1").is_ok());
    for bad in ["", "Weft", "a//b", "a/b@sha256:0", "a b"] {
        assert!(name(bad).is_err(), "{bad:?}");
    }
    for bad in ["", "a b", "a:b", "é"] {
        assert!(tag(bad).is_err(), "{bad:?}");
    }
}
