//! An OCI image layout of one image with one layer, without any daemon: as blobs with their digests, which become
//! a folder or one tar. The same layer and settings give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, DescriptorBuilder, HistoryBuilder, ImageConfigurationBuilder,
    ImageIndexBuilder, ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder, SCHEMA_VERSION,
    Sha256Digest,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::layer;

/// When the image says it was made: always, so that two builds are the same.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Everybody may read it.
const READABLE: u32 = 0o644;

/// What containerd calls the image after an import.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// What other tools call the image within a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What an image is, beside its layer.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Its name without a tag, such as `weft.test/weft`.
    pub(crate) name: String,
    /// Its tag.
    pub(crate) tag: String,
    /// What is started where the pod names no command.
    pub(crate) entrypoint: Vec<String>,
    /// Who it runs as, in numbers: a kubelet can tell that this is not root.
    pub(crate) user: String,
    /// What it is and where it comes from (`org.opencontainers.image.…`).
    pub(crate) labels: BTreeMap<String, String>,
}

/// A whole layout in memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Digest of the manifest, `sha256:…`: what a pod may name the image by.
    pub(crate) digest: String,
    /// Each file's path within the layout, with its content.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl Layout {
    /// The layout of an image with `layer` (a tar) as its only one.
    pub(crate) fn new(settings: &Settings, layer: &[u8]) -> anyhow::Result<Self> {
        let mut blobs = Blobs::default();
        let (_, diff_id) = digest(layer);
        let layer = blobs.add(MediaType::ImageLayerGzip, layer::compressed(layer)?)?;
        let config = blobs.add(MediaType::ImageConfig, config(settings, diff_id)?)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(config)
            .layers(vec![layer])
            .build()?;
        let manifest = blobs.add(MediaType::ImageManifest, canonical(&manifest)?)?;
        let digest = manifest.digest().to_string();
        let mut files = blobs.0;
        files.insert("index.json".to_owned(), index(settings, &manifest)?);
        files.insert(
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        );
        Ok(Self { digest, files })
    }

    /// Bytes that whoever pulls the image has to load.
    pub(crate) fn size(&self) -> usize {
        let blobs = self.files.iter().filter(|(path, _)| path.starts_with("blobs/"));
        blobs.map(|(_, content)| content.len()).sum()
    }

    /// Writes it as a folder, which may be there already.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        for (path, content) in &self.files {
            let path = folder.join(path);
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent).with_context(|| format!("can't make {}", parent.display()))?;
            fs::write(&path, content).with_context(|| format!("can't write {}", path.display()))?;
        }
        Ok(())
    }

    /// The same as one tar.
    pub(crate) fn archive(&self) -> io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content) in &self.files {
            layer::append(&mut tar, path, READABLE, content)?;
        }
        tar.into_inner()
    }
}

/// Blobs by their path.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    fn add(&mut self, media_type: MediaType, content: Vec<u8>) -> anyhow::Result<Descriptor> {
        let (hex, _) = digest(&content);
        let descriptor = DescriptorBuilder::default()
            .media_type(media_type)
            .digest(hex.parse::<Sha256Digest>()?)
            .size(u64::try_from(content.len())?)
            .build()?;
        self.0.insert(format!("blobs/sha256/{hex}"), content);
        Ok(descriptor)
    }
}

/// SHA-256 as hexadecimal digits, and as a digest.
fn digest(content: &[u8]) -> (String, String) {
    let hex = format!("{:x}", Sha256::digest(content));
    let digest = format!("sha256:{hex}");
    (hex, digest)
}

/// JSON with sorted keys: the specification's types have maps without an order.
fn canonical(value: &impl Serialize) -> anyhow::Result<Vec<u8>> {
    let mut value = serde_json::to_value(value)?;
    value.sort_all_objects();
    Ok(serde_json::to_vec(&value)?)
}

fn config(settings: &Settings, diff_id: String) -> anyhow::Result<Vec<u8>> {
    let mut process = ConfigBuilder::default()
        .user(settings.user.as_str())
        .working_dir("/")
        .labels(
            settings
                .labels
                .clone()
                .into_iter()
                .collect::<std::collections::HashMap<_, _>>(),
        );
    if !settings.entrypoint.is_empty() {
        process = process.entrypoint(settings.entrypoint.clone());
    }
    let history = HistoryBuilder::default()
        .created(CREATED)
        .created_by("cargo xtask image")
        .build()?;
    let config = ImageConfigurationBuilder::default()
        .created(CREATED)
        .architecture(Arch::default())
        .os(Os::Linux)
        .config(process.build()?)
        .rootfs(
            RootFsBuilder::default()
                .typ("layers")
                .diff_ids(vec![diff_id])
                .build()?,
        )
        .history(vec![history])
        .build()?;
    canonical(&config)
}

/// The image twice, under its tag and under its digest: a pod may name either, and an import makes both known.
fn index(settings: &Settings, manifest: &Descriptor) -> anyhow::Result<Vec<u8>> {
    let Settings { name, tag, .. } = settings;
    let platform = PlatformBuilder::default()
        .architecture(Arch::default())
        .os(Os::Linux)
        .build()?;
    let known_as = |full: String, short: String| {
        let mut descriptor = manifest.clone();
        descriptor.set_platform(Some(platform.clone()));
        let names = [(CONTAINERD_NAME.to_owned(), full), (REF_NAME.to_owned(), short)];
        descriptor.set_annotations(Some(names.into()));
        descriptor
    };
    let digest = manifest.digest().to_string();
    let index = ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![
            known_as(format!("{name}:{tag}"), tag.clone()),
            known_as(format!("{name}@{digest}"), digest),
        ])
        .build()?;
    canonical(&index)
}
