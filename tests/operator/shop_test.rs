//! The shop's own test, in the mesh: orders go through every service, each step exactly once, and events come back.
//!
//! Asked is through the sidecar of the load generator, as a program in its pod would.

use std::time::Instant;

use http::StatusCode;
use serde_json::{Value, json};
use weft_tests::client::{Answer, Ask, http1};
use weft_tests::kube::{Kubernetes, PATIENCE};
use weft_tests::node::{Forwarded, GLANCE, forward, kubectl};

use crate::shop::NAMESPACE;

/// A sidecar's port for applications that go there on purpose, on loopback.
const OUTBOUND_PORT: u16 = 15002;

/// A user whose events are looked at.
const USER: u32 = 7;

/// A way into the mesh.
struct Shop(Forwarded);

impl Shop {
    async fn open(cluster: &Kubernetes) -> Self {
        let pod = format!("get pods -n {NAMESPACE} -l app=load -o name");
        let pod = kubectl(cluster, &pod).await;
        Self(forward(cluster, NAMESPACE, pod.trim(), OUTBOUND_PORT).await)
    }

    async fn ask(&self, ask: Ask) -> Answer {
        http1(self.0.address, ask).await.expect("the sidecar answers")
    }

    async fn get(&self, uri: &str) -> Value {
        let answer = self.ask(Ask::get(uri)).await;
        assert_eq!(answer.status, StatusCode::OK, "{uri}: {answer:?}");
        serde_json::from_slice(&answer.body).expect("the shop answers JSON")
    }

    /// Orders under an id, which every step of the order carries.
    async fn order(&self, id: &str, sku: &str) -> Answer {
        let body = json!({ "user": USER, "sku": sku, "quantity": 2 }).to_string();
        let ask = Ask::post("http://order/orders", body)
            .header("content-type", "application/json")
            .header("x-request-id", id);
        self.ask(ask).await
    }

    /// How often a service has executed each POST.
    async fn executed(&self, service: &str, id: &str) -> usize {
        let journal = self.get(&format!("http://{service}/journal")).await;
        let entries = journal.as_array().expect("entries");
        entries.iter().filter(|entry| entry["id"] == id).count()
    }
}

pub(crate) async fn passes(cluster: &Kubernetes) {
    let shop = Shop::open(cluster).await;
    let silk = shop.get("http://product/products/silk").await;
    assert!(
        silk["available"].as_u64() > Some(0),
        "product asks inventory over gRPC: {silk}"
    );
    an_order_goes_through_every_service(&shop).await;
    a_declined_payment_returns_the_goods(&shop).await;
    events_reach_the_user_through_the_broker(&shop).await;
    nothing_is_executed_twice(&shop).await;
}

async fn an_order_goes_through_every_service(shop: &Shop) {
    let placed = shop.order("silk-1", "silk").await;
    assert_eq!(placed.status, StatusCode::CREATED, "{placed:?}");
    assert_eq!(shop.get("http://payment/payments/silk-1").await, "taken");
    assert_eq!(shop.get("http://order/orders/silk-1").await["outcome"], "placed");
    for (service, id) in [
        ("order", "silk-1"),
        ("inventory", "silk-1/reserve"),
        ("payment", "silk-1/pay"),
    ] {
        assert_eq!(shop.executed(service, id).await, 1, "{service}");
    }
}

async fn a_declined_payment_returns_the_goods(shop: &Shop) {
    let declined = shop.order("loom-1", "loom").await;
    assert_eq!(declined.status, StatusCode::PAYMENT_REQUIRED, "{declined:?}");
    assert_eq!(
        shop.get("http://order/orders/loom-1").await["outcome"],
        "declined"
    );
    assert_eq!(shop.get("http://payment/payments/loom-1").await, "declined");
    assert_eq!(
        shop.executed("inventory", "loom-1/reserve").await,
        1,
        "they were reserved"
    );
}

/// Each replica of user hears every order; what was told before it had subscribed it has not heard.
async fn events_reach_the_user_through_the_broker(shop: &Shop) {
    let deadline = Instant::now() + PATIENCE;
    for number in 1.. {
        let id = format!("wool-{number}");
        let placed = shop.order(&id, "wool").await;
        assert_eq!(placed.status, StatusCode::CREATED, "{placed:?}");
        let heard = shop.get(&format!("http://user/users/{USER}/events")).await;
        let heard = heard.as_array().expect("events").iter();
        if heard
            .clone()
            .any(|event| event["order"] == *id && event["outcome"] == "placed")
        {
            return;
        }
        assert!(Instant::now() < deadline, "nothing is heard of {id}");
        tokio::time::sleep(GLANCE).await;
    }
}

async fn nothing_is_executed_twice(shop: &Shop) {
    for service in ["order", "inventory", "payment", "user"] {
        let journal = shop.get(&format!("http://{service}/journal")).await;
        let mut ids: Vec<&str> = journal
            .as_array()
            .expect("entries")
            .iter()
            .filter_map(|entry| entry["id"].as_str())
            .collect();
        let executed = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), executed, "{service} has executed something twice");
    }
}
