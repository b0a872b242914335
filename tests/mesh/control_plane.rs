//! Restarts, and the control plane's absence.

use http::StatusCode;
use weft_tests::app::Echo;
use weft_tests::client::{Ask, http1};
use weft_tests::mesh::{Mesh, Spec};

use crate::manifests::SERVICES;

#[tokio::test]
async fn without_the_control_plane_everything_known_goes_on() {
    let mut mesh = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
    let app = Echo::start("user-0").await;
    let server = mesh
        .sidecar(&Spec::new("shop", "user", "user-0").serves("user:80", app.address))
        .await;
    let client_spec = Spec::new("shop", "order", "order-0");
    let mut client = mesh.sidecar(&client_spec).await;
    let status = async |address| {
        http1(address, Ask::get("http://user/"))
            .await
            .expect("answers")
            .status
    };
    assert_eq!(status(client.outbound).await, StatusCode::OK);

    // What is known is written down soon after it came, not within the request.
    let saved = mesh.path().join("order-0").join("config.pb");
    let holds = |name: &[u8]| {
        std::fs::read(&saved).is_ok_and(|bytes| bytes.windows(name.len()).any(|window| window == name))
    };
    let started = std::time::Instant::now();
    while !holds(b"user.shop.svc.cluster.local:80") {
        assert_eq!(status(client.outbound).await, StatusCode::OK);
        assert!(
            started.elapsed() < weft_tests::process::PATIENCE,
            "{} was not written",
            saved.display()
        );
    }

    mesh.control_plane.kill().await;
    assert_eq!(status(client.outbound).await, StatusCode::OK);

    // A sidecar that starts meanwhile serves from what it knew.
    client.process.kill().await;
    let client = mesh.sidecar(&client_spec).await;
    assert_eq!(status(client.outbound).await, StatusCode::OK);

    mesh.restart_control_plane().await;
    assert_eq!(status(client.outbound).await, StatusCode::OK);
    let page = server.page("/config").await;
    assert!(
        page.to_string()
            .contains("spiffe://cluster.local/ns/shop/sa/user"),
        "{page:#}"
    );
}
