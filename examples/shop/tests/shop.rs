//! The whole shop over real sockets, without a mesh: two replicas of each service, a broker, the load generator.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weft_shop::app::{self, Listeners, RunError};
use weft_shop::client::{Answer, Call, Client, Outbound};
use weft_shop::context::Context;
use weft_shop::{Config, Service, broker, load};

struct Shop {
    dir: TempDir,
    /// By replica: `user` and `user-2`, and so on.
    peers: BTreeMap<String, SocketAddr>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<Result<(), RunError>>>,
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

impl Shop {
    /// Starts everything but `missing`, whose sockets exist and answer nothing.
    async fn start(missing: &[Service]) -> Self {
        let stop = CancellationToken::new();
        let (listening, broker) = listener().await;
        tokio::spawn(broker::serve(listening, stop.clone()));
        let mut peers = BTreeMap::new();
        let mut starting = Vec::new();
        for service in Service::ALL {
            for suffix in ["", "-2"] {
                let name = format!("{}{suffix}", service.name());
                let (http, address) = listener().await;
                let (grpc, grpc_address) = listener().await;
                peers.insert(name.clone(), address);
                peers.insert(format!("{name}:81"), grpc_address);
                if missing.contains(&service) {
                    continue;
                }
                let grpc = Some(grpc);
                starting.push((service, name, Listeners { http, grpc }));
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let mut tasks = Vec::new();
        for (service, replica, listeners) in starting {
            let config = Config {
                version: "v2".into(),
                outbound: Outbound::Direct(peers.clone()),
                broker: Some(broker.to_string().parse().unwrap()),
                data: Some(folder(dir.path(), service)),
                replica,
            };
            tasks.push(tokio::spawn(app::run(service, config, listeners, stop.clone())));
        }
        Self {
            dir,
            peers,
            stop,
            tasks,
        }
    }

    fn client(&self) -> Client {
        Client::new(Outbound::Direct(self.peers.clone()))
    }

    async fn end(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap().unwrap();
        }
        drop(self.dir);
    }
}

fn folder(dir: &Path, service: Service) -> std::path::PathBuf {
    let folder = dir.join(service.name());
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

async fn call(
    client: &Client,
    method: Method,
    to: &str,
    path: &str,
    id: &str,
    body: Option<Value>,
) -> Answer {
    let call = Call {
        method,
        authority: to,
        path,
        body,
        context: &Context::new(id),
    };
    client.call(call).await.unwrap()
}

async fn get(client: &Client, to: &str, path: &str) -> Value {
    let answer = call(client, Method::GET, to, path, "reader", None).await;
    assert_eq!(answer.status, StatusCode::OK, "{to}{path}");
    answer.json().unwrap()
}

async fn order(client: &Client, to: &str, id: &str, sku: &str, quantity: u32) -> Answer {
    let body = json!({ "user": 7, "sku": sku, "quantity": quantity });
    call(client, Method::POST, to, "/orders", id, Some(body)).await
}

/// How often each id stands in a service's journal.
async fn journal(client: &Client, service: &str) -> BTreeMap<String, u32> {
    let entries = get(client, service, "/journal").await;
    let mut counts = BTreeMap::new();
    for entry in entries.as_array().unwrap() {
        *counts
            .entry(entry["id"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn an_order_goes_through_every_service() {
    let shop = Shop::start(&[]).await;
    let client = shop.client();
    let before = get(&client, "product", "/products/silk").await;
    assert_eq!(before["available"], 1000, "product asks inventory over gRPC");
    assert_eq!(before["goes_with"], "shuttle", "v2 recommends");

    let placed = order(&client, "order", "o1", "silk", 2).await;
    assert_eq!(placed.status, StatusCode::CREATED);
    assert_eq!(
        get(&client, "inventory-2", "/stock/silk").await["available"],
        998,
        "the replicas share the stock"
    );
    assert_eq!(get(&client, "payment-2", "/payments/o1").await, "taken");
    assert_eq!(get(&client, "order-2", "/orders/o1").await["outcome"], "placed");
    for (service, id) in [
        ("order-2", "o1"),
        ("inventory-2", "o1/reserve"),
        ("payment-2", "o1/pay"),
    ] {
        let journal = journal(&client, service).await;
        assert_eq!(journal, BTreeMap::from([(id.into(), 1)]), "{service}");
    }
    shop.end().await;
}

#[tokio::test]
async fn a_declined_payment_returns_the_goods() {
    let shop = Shop::start(&[]).await;
    let client = shop.client();
    let declined = order(&client, "order", "o1", "loom", 1).await;
    assert_eq!(declined.status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(declined.json::<Value>().unwrap()["outcome"], "declined");
    assert_eq!(
        journal(&client, "inventory").await["o1/reserve"],
        1,
        "they were reserved"
    );
    assert_eq!(
        get(&client, "inventory-2", "/stock/loom").await["available"],
        1000
    );
    assert_eq!(get(&client, "payment", "/payments/o1").await, "declined");
    shop.end().await;
}

#[tokio::test]
async fn a_payment_that_breaks_is_voided_and_the_goods_are_returned() {
    let shop = Shop::start(&[Service::Payment]).await;
    let client = shop.client();
    let failed = order(&client, "order", "o1", "silk", 1).await;
    assert_eq!(failed.status, StatusCode::BAD_GATEWAY);
    assert_eq!(get(&client, "inventory", "/stock/silk").await["available"], 1000);
    assert_eq!(get(&client, "order", "/orders/o1").await["outcome"], "failed");
    shop.end().await;
}

#[tokio::test]
async fn what_is_not_in_stock_is_not_sold() {
    let shop = Shop::start(&[]).await;
    let client = shop.client();
    let level = Some(json!({ "available": 3 }));
    call(&client, Method::PUT, "inventory", "/stock/reed", "put", level).await;
    assert_eq!(
        order(&client, "order", "o1", "reed", 2).await.status,
        StatusCode::CREATED
    );
    assert_eq!(
        order(&client, "order-2", "o2", "reed", 2).await.status,
        StatusCode::CONFLICT
    );
    assert_eq!(get(&client, "inventory-2", "/stock/reed").await["available"], 1);
    assert_eq!(
        order(&client, "order", "o3", "gold", 1).await.status,
        StatusCode::UNPROCESSABLE_ENTITY
    );
    shop.end().await;
}

#[tokio::test]
async fn events_reach_the_user_through_the_broker() {
    let shop = Shop::start(&[]).await;
    let client = shop.client();
    // What is published before user has subscribed is lost, as with any broker: order until something is heard.
    let mut heard = json!([]);
    for n in 0..1000 {
        order(&client, "order", &format!("o{n}"), "wool", 1).await;
        heard = get(&client, "user-2", "/users/7/events").await;
        if heard != json!([]) {
            break;
        }
    }
    assert_eq!(heard[0]["outcome"], "placed");
    shop.end().await;
}

#[tokio::test]
async fn a_request_that_is_running_when_the_shop_stops_is_answered() {
    let shop = Shop::start(&[]).await;
    let client = shop.client();
    let first = order(&client, "order", "o1", "wool", 1).await;
    assert_eq!(first.status, StatusCode::CREATED);
    let (placed, ()) = tokio::join!(order(&client, "order", "o2", "wool", 1), async {
        // Stopped as soon as the order has begun.
        while !journal(&shop.client(), "order").await.contains_key("o2") {}
        shop.stop.cancel();
    });
    assert!(placed.status == StatusCode::CREATED || placed.status == StatusCode::BAD_GATEWAY);
    shop.end().await;
}

#[tokio::test]
async fn load_is_answered_and_nothing_is_executed_twice() {
    let shop = Shop::start(&[]).await;
    let end = CancellationToken::new();
    let outbound = Outbound::Direct(shop.peers.clone());
    let load = tokio::spawn(load::run("load", outbound, 200, end.clone()));
    let client = shop.client();
    let enough = async {
        while journal(&client, "order").await.len() < 50 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), enough)
        .await
        .unwrap();
    end.cancel();
    let tally = load.await.unwrap();
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert!(
        tally.statuses.contains_key(&402),
        "some payments are declined: {tally:?}"
    );
    for service in Service::ALL {
        let journal = journal(&client, service.name()).await;
        assert!(journal.values().all(|&n| n == 1), "{journal:?}");
    }
    shop.end().await;
}
