//! Manifests that are none.

use std::time::Instant;

use weft_tests::client::{Ask, http1};
use weft_tests::mesh::{metrics, page};
use weft_tests::process::PATIENCE;

use super::{Target, assert_no_panic};
use crate::manifests::{SERVICES, split};

#[tokio::test]
async fn malformed_manifests_are_named_and_change_nothing() {
    let target = Target::start().await;
    let nested = |open: &str, depth| format!("a: {}", open.repeat(depth));
    let mut laughs = "a0: &a0 [ha]\n".to_owned();
    for level in 1..30 {
        let of = format!("*a{}", level - 1);
        laughs.extend(["a", &level.to_string(), ": &a", &level.to_string()]);
        laughs.extend([" [", &of, ", ", &of, ", ", &of, "]\n"]);
    }
    let files = [
        ("deep-list.yaml", nested("[", 100_000)),
        ("deep-map.yaml", nested("{a: ", 100_000)),
        ("deep-json.json", nested("{\"a\":[", 50_000)),
        ("laughs.yaml", laughs),
        ("large.yaml", "x".repeat(10 << 20)),
        ("many.yaml", "---\na: 1\n".repeat(200_000)),
        (
            "cut.yaml",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nspec: [".to_owned(),
        ),
        (
            "kind.yaml",
            "apiVersion: v1\nkind: [Service]\nmetadata: {name: {}, namespace: 7}\n".to_owned(),
        ),
        ("tabs.yaml", "apiVersion:\tv1\n\tkind: Service\n".to_owned()),
        (
            "ports.yaml",
            SERVICES
                .replace("port: 80", "port: 800000")
                .replace("name: user", "name: broken"),
        ),
    ];
    for (name, text) in &files {
        target.mesh.write_manifest(name, text);
    }
    let mut random = fastrand::Rng::with_seed(7);
    let folder = target.mesh.path().join("manifests");
    let garbage: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(100_000).collect();
    std::fs::write(folder.join("garbage.yaml"), garbage).expect("writable");
    std::fs::create_dir(folder.join("folder.yaml")).expect("writable");
    std::os::unix::fs::symlink("nowhere", folder.join("dangling.yaml")).expect("writable");
    let fifo = std::process::Command::new("mkfifo")
        .arg(folder.join("fifo.yaml"))
        .status()
        .expect("mkfifo runs");
    assert!(fifo.success());

    // Every one of them is named as what it is, ...
    let started = Instant::now();
    let named = files.iter().map(|(name, _)| *name).chain(["garbage.yaml"]);
    for name in named {
        while !page(target.mesh.admin, "/objects").await["problems"]
            .to_string()
            .contains(name)
        {
            let objects = page(target.mesh.admin, "/objects").await;
            assert!(
                started.elapsed() < PATIENCE,
                "{name} is not among {:#}",
                objects["problems"]
            );
        }
    }
    target.assert_well().await;
    // ... and a good edit beside them takes its way.
    target.mesh.write_manifest("routes.yaml", &split(1, 0));
    while http1(target.client.outbound, Ask::get("http://user/good"))
        .await
        .expect("answers")
        .text()
        != "user-0"
    {
        assert!(started.elapsed() < PATIENCE, "the good edit never arrived");
    }
    assert_no_panic(&metrics(target.mesh.status).await);
}
