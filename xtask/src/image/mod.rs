//! `cargo xtask image`: the container image, written without any daemon.
//!
//! The mesh's image holds two static programs and nothing else: no shell, no library, no package manager. The
//! sample system has an image of its own (`--shop`). [`build`] makes the programs, [`layer`] the tar with them,
//! [`layout`] the image around it.

mod build;
mod layer;
mod layout;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;

use build::Binary;
use layout::{Layout, Settings};

/// User and group of every process in the image; the capture's rules let this user's connections pass.
const USER: u32 = 2102;

/// User and group of the sample system, which must be another: capture lets the sidecar's connections pass by their user.
const SHOP_USER: u32 = 10_001;

/// Most bytes of a name and of a tag.
const NAME_BYTES_MAX: usize = 200;

/// The profile that images are released with.
const DIST: &str = "dist";

/// Most bytes of the mesh's image, as released.
const BYTES_MAX: usize = 25_000_000;

/// Programs of the mesh's image.
const MESH: [Binary; 2] = [
    Binary {
        package: "weft-control-plane",
        name: "weft-control-plane",
    },
    Binary {
        package: "weft-proxy",
        name: "weft-proxy",
    },
];

/// Programs of the sample system's image.
const SHOP: [Binary; 1] = [Binary {
    package: "weft",
    name: "weft",
}];

/// Make the container image.
#[derive(Debug, Args)]
pub(crate) struct Image {
    /// Write one tar, for `ctr -n k8s.io images import` and `kind load image-archive`.
    #[arg(long, value_name = "FILE")]
    archive: Option<PathBuf>,
    /// Write an OCI layout as a folder. Without this and --archive: `target/image/` and the last part of the name.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The profile that the programs are built with; dist is the smallest and takes longest.
    #[arg(long, default_value = DIST)]
    profile: String,
    /// Name of the image without a tag [default: weft.test/weft, with --shop weft.test/shop].
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// Its tag.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"), value_parser = tag)]
    tag: String,
    /// The sample system's image instead of the mesh's.
    #[arg(long)]
    shop: bool,
}

impl Image {
    /// The mesh's image is on every node: it stays small.
    fn check(&self, size: usize) -> anyhow::Result<()> {
        let small = self.shop || self.profile != DIST || size <= BYTES_MAX;
        let megabytes = |bytes: usize| bytes as f64 / 1e6;
        ensure!(
            small,
            "the image has {:.1} MB, more than the {:.0} MB that a node should have to pull",
            megabytes(size),
            megabytes(BYTES_MAX)
        );
        Ok(())
    }

    fn binaries(&self) -> &'static [Binary] {
        if self.shop { &SHOP } else { &MESH }
    }

    fn settings(&self) -> Settings {
        let (name, title, entrypoint, user) = if self.shop {
            (
                "weft.test/shop",
                "The sample system of Weft",
                vec!["/weft", "shop"],
                SHOP_USER,
            )
        } else {
            (
                "weft.test/weft",
                "Weft: sidecar and control plane",
                Vec::new(),
                USER,
            )
        };
        let labels = [
            ("title", title),
            ("version", env!("CARGO_PKG_VERSION")),
            ("licenses", env!("CARGO_PKG_LICENSE")),
            ("source", env!("CARGO_PKG_REPOSITORY")),
        ];
        Settings {
            name: self.name.clone().unwrap_or_else(|| name.to_owned()),
            tag: self.tag.clone(),
            entrypoint: entrypoint.into_iter().map(str::to_owned).collect(),
            user: format!("{user}:{user}"),
            labels: labels
                .map(|(key, value)| (format!("org.opencontainers.image.{key}"), value.to_owned()))
                .into(),
        }
    }
}

/// Builds the programs, writes the image, and prints what to do with it.
pub(crate) fn run(told: &Image, root: &Path) -> anyhow::Result<()> {
    let settings = told.settings();
    let programs = build::build(root, &told.profile, told.binaries())?;
    let layer = layer::tar(&programs)?;
    let layout = Layout::new(&settings, &layer)?;
    let size = layout.size();
    told.check(size)?;
    if let Some(archive) = &told.archive {
        let parent = archive.parent().unwrap_or(root);
        fs::create_dir_all(parent).with_context(|| format!("can't make {}", parent.display()))?;
        fs::write(archive, layout.archive()?)
            .with_context(|| format!("can't write {}", archive.display()))?;
    }
    let last = settings.name.rsplit('/').next().unwrap_or("weft").to_owned();
    let folder = told.out.clone().or_else(|| {
        told.archive
            .is_none()
            .then(|| root.join("target/image").join(last))
    });
    if let Some(folder) = &folder {
        layout.write(folder)?;
    }
    print!("{}", report(told, &settings, &layout, size, folder.as_deref()));
    Ok(())
}

/// What was made, and the commands that take it from here.
fn report(told: &Image, settings: &Settings, layout: &Layout, size: usize, folder: Option<&Path>) -> String {
    let Settings { name, tag, .. } = settings;
    let mut lines = vec![
        format!("image    {name}:{tag}"),
        format!("digest   {}", layout.digest),
        format!("size     {:.1} MB", size as f64 / 1e6),
    ];
    if let Some(folder) = folder {
        lines.push(format!("layout   {}", folder.display()));
    }
    if let Some(archive) = &told.archive {
        let archive = archive.display();
        lines.push(format!("archive  {archive}"));
        lines.push(format!("import   ctr -n k8s.io images import {archive}"));
        lines.push(format!("         kind load image-archive {archive}"));
    }
    if !told.shop {
        lines.push(
            "install  helm install weft charts/weft -n weft-system --create-namespace --wait \\".to_owned(),
        );
        lines.push(format!(
            "           --set image.repository={name} --set image.digest={}",
            layout.digest
        ));
    }
    lines.join("\n") + "\n"
}

/// A name as registries take it.
fn name(text: &str) -> anyhow::Result<String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.:".contains(&byte);
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(inner);
    ensure!(
        text.len() <= NAME_BYTES_MAX && text.split('/').all(is_part),
        "write it as registry.example/folder/name, in lower case and without a tag"
    );
    Ok(text.to_owned())
}

/// A tag as registries take it.
fn tag(text: &str) -> anyhow::Result<String> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    ensure!(
        !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(inner),
        "write letters, digits, '-', '_' and '.'"
    );
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
