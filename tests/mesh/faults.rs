//! What must not be noticed: restarts, rollouts and edits under load.

use std::time::Duration;

use weft_tests::app::{Echo, TcpEcho};
use weft_tests::load::{Load, Targets};
use weft_tests::mesh::{Mesh, Sidecar, Spec};

use crate::manifests::{SERVICES, split};

/// Two replicas of `user`, one of `cart`, `stock` (h2c) and `queue`, and a client's sidecar.
struct Shop {
    mesh: Mesh,
    users: Vec<(Echo, Sidecar)>,
    client: Sidecar,
    _others: Vec<Sidecar>,
    _apps: (Echo, Echo, TcpEcho),
}

fn user(name: &str, app: &Echo) -> Spec {
    Spec::new("shop", "user", name).serves("user:80", app.address)
}

impl Shop {
    async fn start(routes: &str, options: &[&str]) -> Self {
        let mesh = Mesh::start(&[("services.yaml", SERVICES), ("routes.yaml", routes)], options).await;
        let mut users = Vec::new();
        for name in ["user-0", "user-1"] {
            let app = Echo::start(name).await;
            let sidecar = mesh.sidecar(&user(name, &app)).await;
            users.push((app, sidecar));
        }
        let (cart, stock, queue) = (
            Echo::start("cart-0").await,
            Echo::start("stock-0").await,
            TcpEcho::start("").await,
        );
        let others = vec![
            mesh.sidecar(&Spec::new("shop", "cart", "cart-0").serves("cart:80", cart.address))
                .await,
            mesh.sidecar(&Spec::new("shop", "stock", "stock-0").serves("stock:80", stock.address))
                .await,
            mesh.sidecar(&Spec::new("shop", "queue", "queue-0").serves("queue:1883", queue.address))
                .await,
        ];
        let client = Spec::new("shop", "order", "order-0").flag("bind", "127.0.0.1:0=queue:1883");
        let client = mesh.sidecar(&client).await;
        Self {
            mesh,
            users,
            client,
            _others: others,
            _apps: (cart, stock, queue),
        }
    }

    fn targets(&self) -> Targets {
        Targets {
            proxy: Some(self.client.outbound),
            http1: "user".to_owned(),
            http2: "stock".to_owned(),
            tcp: Some(self.client.bound("queue.shop.svc.cluster.local:1883").to_string()),
            stays: true,
            upgrade: Some("cart".to_owned()),
        }
    }
}

async fn none_failed(load: Load) {
    let tally = load.stop().await;
    assert!(
        tally.failures.is_empty(),
        "{} of {} failed: {:#?}",
        tally.failures.len(),
        tally.sent,
        tally.failures
    );
    assert!(
        tally.sent > 100,
        "only {} were sent: that proves nothing",
        tally.sent
    );
}

/// Load for `duration`: here time itself is what is tested.
async fn let_pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[tokio::test]
async fn every_replica_is_replaced_one_after_another() {
    let mut shop = Shop::start(&split(1, 0), &[]).await;
    let load = Load::start(&shop.targets());
    for round in 0..4 {
        let name = format!("user-new-{round}");
        let app = Echo::start(&name).await;
        let successor = shop.mesh.sidecar(&user(&name, &app)).await;
        // It takes traffic before its predecessor goes.
        while app.journal().is_empty() {
            let_pass(Duration::from_millis(10)).await;
        }
        let (old_app, mut old) = shop.users.remove(0);
        old.process.signal(libc::SIGTERM);
        assert_eq!(old.process.ended().await, Some(0), "drains by itself");
        drop(old_app);
        shop.users.push((app, successor));
    }
    none_failed(load).await;
}

#[tokio::test]
async fn weights_are_edited_two_hundred_times() {
    let shop = Shop::start(&split(50, 50), &[]).await;
    let load = Load::start(&shop.targets());
    for edit in 0..200 {
        shop.mesh
            .write_manifest("routes.yaml", &split(edit % 7 + 1, edit % 11 + 1));
        let_pass(Duration::from_millis(50)).await;
    }
    none_failed(load).await;
}

#[tokio::test]
async fn the_control_plane_is_gone_for_a_while() {
    let mut shop = Shop::start(&split(50, 50), &[]).await;
    let load = Load::start(&shop.targets());
    let_pass(Duration::from_secs(1)).await;
    shop.mesh.control_plane.kill().await;
    let_pass(Duration::from_secs(30)).await;
    shop.mesh.restart_control_plane().await;
    let_pass(Duration::from_secs(5)).await;
    none_failed(load).await;
}

#[tokio::test]
async fn leaves_of_a_minute_are_renewed_for_three() {
    let shop = Shop::start(&split(50, 50), &["--leaf-lifetime", "60s"]).await;
    let load = Load::start(&shop.targets());
    let mut serials = [Vec::new(), Vec::new()];
    for _ in 0..180 {
        let_pass(Duration::from_secs(1)).await;
        for (sidecar, seen) in [&shop.client, &shop.users[0].1].into_iter().zip(&mut serials) {
            let serial = sidecar.page("/config").await["identity"]["serial"].clone();
            if seen.last() != Some(&serial) {
                seen.push(serial);
            }
        }
    }
    none_failed(load).await;
    for seen in serials {
        assert!(seen.len() >= 5, "renewed four times at least: {seen:?}");
    }
}
