//! Requests from sidecar to sidecar, and what routes do with them.

use http::{Method, StatusCode};
use weft_tests::app::Echo;
use weft_tests::client::{Answer, Ask, http1, http2};
use weft_tests::mesh::{Mesh, Sidecar, Spec};

use crate::manifests::{SERVICES, split};

/// How long traffic may take to follow an edit.
const MOVES_WITHIN: std::time::Duration = std::time::Duration::from_secs(1);

async fn get(sidecar: &Sidecar, uri: &str) -> Answer {
    http1(sidecar.outbound, Ask::get(uri))
        .await
        .expect("the sidecar answers")
}

#[tokio::test]
async fn a_request_crosses_two_sidecars() {
    let mesh = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
    let app = Echo::start("user-0").await;
    let _server = mesh
        .sidecar(&Spec::new("shop", "user", "user-0").serves("user:80", app.address))
        .await;
    let client = mesh.sidecar(&Spec::new("shop", "order", "order-0")).await;

    for uri in [
        "http://user/a?b=c",
        "http://user.shop/",
        "http://user.shop.svc.cluster.local:80/",
    ] {
        let answer = get(&client, uri).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (StatusCode::OK, "user-0"),
            "{uri}: {answer:?}"
        );
    }
    let answer = http2(client.outbound, Ask::post("http://user/h2", vec![7u8; 100_000]))
        .await
        .expect("answers");
    assert_eq!(answer.status, StatusCode::OK);

    let journal = app.journal();
    assert_eq!(journal[0].uri, "/a?b=c");
    assert_eq!(
        journal[0].headers["x-weft-client-id"],
        "spiffe://cluster.local/ns/shop/sa/order"
    );
    assert!(journal[0].headers.contains_key("traceparent"));
    assert_eq!(journal[3].body_bytes, 100_000);

    let metrics = client.metrics().await;
    let line = metrics
        .lines()
        .find(|line| line.starts_with("weft_outbound_requests_total") && line.contains(r#"protocol="http1""#))
        .unwrap_or_else(|| panic!("no such metric in:\n{metrics}"));
    for label in [r#"destination="user.shop.svc.cluster.local:80""#, r#"tls="mtls""#] {
        assert!(line.contains(label), "{line}");
    }
    assert!(
        !metrics.contains(r#"tls="none""#),
        "nothing may go in the clear:\n{metrics}"
    );
    assert!(
        metrics
            .lines()
            .any(|line| line.starts_with("weft_panics_total") && line.ends_with(" 0"))
    );
}

#[tokio::test]
async fn what_applications_claim_about_identity_is_dropped() {
    let mesh = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
    let app = Echo::start("user-0").await;
    let _server = mesh
        .sidecar(&Spec::new("shop", "user", "user-0").serves("user:80", app.address))
        .await;
    let client = mesh.sidecar(&Spec::new("shop", "order", "order-0")).await;
    let lie = "spiffe://cluster.local/ns/shop/sa/admin";
    let ask = Ask::get("http://user/")
        .header("x-weft-client-id", lie)
        .header("X-Weft-Client-Id", lie)
        .header("x-weft-attempt", "9");
    let answer = http1(client.outbound, ask).await.expect("answers");
    assert_eq!(answer.status, StatusCode::OK);
    let seen = app.journal().remove(0).headers;
    let ids: Vec<_> = seen.get_all("x-weft-client-id").iter().collect();
    assert_eq!(ids, ["spiffe://cluster.local/ns/shop/sa/order"]);
    assert!(
        !seen.contains_key("x-weft-attempt"),
        "private between sidecars: {seen:?}"
    );
}

#[tokio::test]
async fn answers_of_our_own_say_why() {
    let routes = r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: user, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: user}]
  rules:
  - matches: [{path: {type: Exact, value: /gone}}]
    backendRefs: [{name: nowhere, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 301}
  - matches: [{path: {type: PathPrefix, value: /none}}]
    backendRefs: [{name: user, port: 80, weight: 0}]
  - matches: [{path: {type: PathPrefix, value: /cart}}]
    backendRefs: [{name: cart, port: 80}]
  - matches: [{method: PUT}]
    backendRefs: [{name: user, port: 80}]
";
    let mesh = Mesh::start(&[("services.yaml", SERVICES), ("routes.yaml", routes)], &[]).await;
    let app = Echo::start("user-0").await;
    let _server = mesh
        .sidecar(&Spec::new("shop", "user", "user-0").serves("user:80", app.address))
        .await;
    let client = mesh.sidecar(&Spec::new("shop", "order", "order-0")).await;
    for (path, status) in [("/", 404), ("/gone", 500), ("/none", 503), ("/cart", 503)] {
        let answer = get(&client, &format!("http://user{path}")).await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {answer:?}");
        assert!(
            answer.proxy_status().is_some_and(|text| text.contains("weft")),
            "{path}: {answer:?}"
        );
    }
    let answer = get(&client, "http://user/old/x?y=1").await;
    assert_eq!(answer.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(answer.headers["location"], "http://user/new/x?y=1");
    let put = http1(client.outbound, Ask::get("http://user/x").method(Method::PUT))
        .await
        .expect("answers");
    assert_eq!(put.status, StatusCode::OK);
    let unknown = get(&client, "http://nobody/").await;
    assert!(
        unknown.status.is_client_error() || unknown.status.is_server_error(),
        "{unknown:?}"
    );
    assert!(unknown.proxy_status().is_some(), "{unknown:?}");
    assert!(
        app.journal().iter().all(|seen| seen.method == "PUT"),
        "nothing else may reach the application"
    );
}

#[tokio::test]
async fn an_edited_weight_moves_traffic() {
    let even = split(1, 0);
    let mesh = Mesh::start(&[("services.yaml", SERVICES), ("routes.yaml", &even)], &[]).await;
    let (user, cart) = (Echo::start("user-0").await, Echo::start("cart-0").await);
    let _user = mesh
        .sidecar(&Spec::new("shop", "user", "user-0").serves("user:80", user.address))
        .await;
    let _cart = mesh
        .sidecar(&Spec::new("shop", "cart", "cart-0").serves("cart:80", cart.address))
        .await;
    let client = mesh.sidecar(&Spec::new("shop", "order", "order-0")).await;
    assert_eq!(get(&client, "http://user/").await.text(), "user-0");

    mesh.write_manifest("routes.yaml", &split(0, 1));
    let started = std::time::Instant::now();
    while get(&client, "http://user/").await.text() != "cart-0" {
        assert!(started.elapsed() < MOVES_WITHIN, "the edit has not arrived");
    }
    // Once it has arrived it stays.
    for _ in 0..20 {
        assert_eq!(get(&client, "http://user/").await.text(), "cart-0");
    }

    mesh.write_manifest(
        "routes.yaml",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nspec: [",
    );
    mesh.write_manifest("marker.yaml", &split(0, 1).replace("split", "other"));
    for _ in 0..20 {
        assert_eq!(
            get(&client, "http://user/").await.text(),
            "cart-0",
            "a broken file changes nothing"
        );
    }
}

#[tokio::test]
async fn a_new_replica_takes_traffic_and_a_stopped_one_loses_none() {
    let mesh = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
    let (first, second) = (Echo::start("user-0").await, Echo::start("user-1").await);
    let spec = |name: &str, app: &Echo| Spec::new("shop", "user", name).serves("user:80", app.address);
    let mut server = mesh.sidecar(&spec("user-0", &first)).await;
    let client = mesh.sidecar(&Spec::new("shop", "order", "order-0")).await;
    assert_eq!(get(&client, "http://user/").await.text(), "user-0");
    let _second = mesh.sidecar(&spec("user-1", &second)).await;
    while second.journal().is_empty() {
        assert_eq!(get(&client, "http://user/").await.status, StatusCode::OK);
    }
    server.process.signal(libc::SIGTERM);
    let mut answers = Vec::new();
    for _ in 0..200 {
        answers.push(get(&client, "http://user/").await.status);
    }
    assert!(
        answers.iter().all(|status| *status == StatusCode::OK),
        "{answers:?}"
    );
    assert_eq!(server.process.ended().await, Some(0));
    assert_eq!(get(&client, "http://user/").await.text(), "user-1");
}
