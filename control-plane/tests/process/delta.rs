//! A delta stream from its first request through restarts.

use std::collections::BTreeMap;

use weft_xds_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use weft_xds_proto::google::rpc::Status;
use weft_xds_proto::{pack_any, types, weft};

use crate::client::{Delta, Site, names, subscription};

const USER: &str = "user.shop.svc.cluster.local:80";
const ORDER: &str = "order.shop.svc.cluster.local:80";

const ORDER_SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: order, namespace: shop}
spec:
  ports: [{name: http, port: 80, appProtocol: http}]
";

/// Kinds of a destination, in the order of sending.
const KINDS: [&str; 4] = [types::CLUSTER, types::ENDPOINTS, types::LISTENER, types::ROUTE];

async fn subscribe_all(stream: &mut Delta, name: &str) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    for kind in KINDS {
        stream.subscribe(kind, &[name]).await;
        let response = stream.next().await;
        assert_eq!((response.type_url.as_str(), names(&response)), (kind, vec![name]));
        versions.insert(kind.to_owned(), response.resources[0].version.clone());
    }
    versions
}

#[tokio::test]
async fn what_appears_is_pushed_and_what_goes_is_removed() {
    let site = Site::start(&[]).await;
    let mut stream = site.delta("user", "shop/user-1", "weft").await;
    stream.subscribe(types::LISTENER, &[ORDER]).await;
    let response = stream.next().await;
    assert_eq!(
        (response.removed_resources, response.resources.len()),
        (vec![ORDER.to_owned()], 0)
    );
    site.write("order.yaml", ORDER_SERVICE);
    assert_eq!(names(&stream.next().await), [ORDER]);
    site.write(
        "order.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n",
    );
    assert_eq!(stream.next().await.removed_resources, [ORDER]);
}

#[tokio::test]
async fn neither_sides_restart_sends_anything_unchanged() {
    let mut site = Site::start(&[]).await;
    let mut stream = site.delta("user", "shop/user-1", "weft").await;
    let versions = subscribe_all(&mut stream, USER).await;
    drop(stream);
    for _ in 0..2 {
        let mut stream = site.delta("user", "shop/user-1", "weft").await;
        for kind in KINDS {
            let held = [(USER.to_owned(), versions[kind].clone())].into();
            let request = subscription(kind, &[USER]);
            stream
                .send(DeltaDiscoveryRequest {
                    initial_resource_versions: held,
                    ..request
                })
                .await;
            // Something else that is answered, to know that nothing came before it.
            stream.subscribe(kind, &["absent.shop.svc.cluster.local:1"]).await;
            let response = stream.next().await;
            assert_eq!((response.type_url.as_str(), response.resources.len()), (kind, 0));
            assert_eq!(response.removed_resources.len(), 1);
        }
        drop(stream);
        site.restart().await;
    }
}

#[tokio::test]
async fn a_rejected_resource_is_not_sent_again_before_it_changes() {
    let site = Site::start(&[]).await;
    let mut stream = site.delta("user", "shop/user-1", "weft").await;
    stream.subscribe(types::CLUSTER, &[USER]).await;
    let response = stream.next_unanswered().await;
    let list = weft::RejectedResources {
        resources: vec![weft::RejectedResource {
            name: USER.into(),
            reason: "not today".into(),
        }],
    };
    let nack = DeltaDiscoveryRequest {
        type_url: types::CLUSTER.into(),
        response_nonce: response.nonce,
        error_detail: Some(Status {
            code: 3,
            message: "1 rejected".into(),
            details: vec![pack_any(list)],
        }),
        ..DeltaDiscoveryRequest::default()
    };
    stream.send(nack).await;
    stream
        .subscribe(types::CLUSTER, &["absent.shop.svc.cluster.local:1"])
        .await;
    let response = stream.next().await;
    assert_eq!(
        (response.resources.len(), response.removed_resources.len()),
        (0, 1)
    );
    let clients = admin(&site, "/clients").await;
    let refused = &clients["clients"][0]["resources"]["Cluster"][USER]["refused"]["reason"];
    assert_eq!(refused, "not today", "{clients:#}");
}

/// The next response that has something in it.
async fn next_resources(stream: &mut Delta) -> Vec<String> {
    loop {
        let response = stream.next().await;
        if !response.resources.is_empty() {
            return names(&response).into_iter().map(str::to_owned).collect();
        }
    }
}

#[tokio::test]
async fn an_edit_that_is_refused_changes_nothing_and_is_said() {
    let late = "late.shop.svc.cluster.local:80";
    let site = Site::start(&[]).await;
    site.write("order.yaml", ORDER_SERVICE);
    let mut stream = site.delta("user", "shop/user-1", "weft").await;
    stream.subscribe(types::LISTENER, &[ORDER]).await;
    assert_eq!(next_resources(&mut stream).await, [ORDER]);
    site.write("order.yaml", &ORDER_SERVICE.replace("port: 80", "port: 80000"));
    site.write("late.yaml", &ORDER_SERVICE.replace("order", "late"));
    stream.subscribe(types::LISTENER, &[late]).await;
    assert_eq!(next_resources(&mut stream).await, [late]);
    stream.subscribe(types::CLUSTER, &[ORDER]).await;
    assert_eq!(
        next_resources(&mut stream).await,
        [ORDER],
        "what was good stays in force"
    );
    let objects = admin(&site, "/objects").await;
    assert!(objects["problems"][0]["reason"].is_string(), "{objects:#}");
}

/// An admin page.
async fn admin(site: &Site, path: &str) -> serde_json::Value {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(site.admin())
        .await
        .expect("the admin listener");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("an open connection");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    serde_json::from_str(body).expect("JSON")
}
