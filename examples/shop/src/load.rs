//! The load generator: a steady rate of what customers do.
//!
//! A request is sent when its time has come, whether or not earlier ones are answered (an open loop); it is left out,
//! and counted, only when too many are under way already. What is asked follows from its number alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::client::{Call, Client, Outbound};
use crate::context::Context;
use crate::inventory::INITIAL_STOCK;
use crate::product::CATALOGUE;
use crate::user::USERS;

/// Requests that may be under way at once.
const MAX_RUNNING: usize = 512;

/// What is asked, in turn. Every [`CATALOGUE`]d product is ordered now and then, also the one that can't be paid.
const MIX: [Action; 10] = [
    Action::ReadUser,
    Action::ReadProduct,
    Action::Order,
    Action::ReadUser,
    Action::Visit,
    Action::ReadProduct,
    Action::Rename,
    Action::Order,
    Action::ReadProducts,
    Action::Restock,
];

#[derive(Clone, Copy, Debug)]
enum Action {
    ReadUser,
    ReadProduct,
    ReadProducts,
    Rename,
    Visit,
    Order,
    Restock,
}

/// What was sent and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Requests that were sent.
    pub sent: u64,
    /// Requests without an answer, or with a 5xx.
    pub failed: u64,
    /// Requests left out because too many were under way.
    pub left_out: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
}

impl Tally {
    /// Counts an answer by its status; `None`: there was none.
    fn count(&mut self, status: Option<u16>) {
        self.sent += 1;
        match status {
            Some(status) => {
                *self.statuses.entry(status).or_default() += 1;
                self.failed += u64::from(status >= 500);
            }
            None => self.failed += 1,
        }
    }
}

/// Sends `rate` requests a second until `stop`, then waits for those under way. Ids begin with `name`.
pub async fn run(name: &str, outbound: Outbound, rate: u32, stop: CancellationToken) -> Tally {
    let client = Arc::new(Client::new(outbound));
    let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut tally = Tally::default();
    let mut running = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(Ok(result)) = running.join_next() => tally.count(result),
            _ = ticks.tick() => {
                if running.len() < MAX_RUNNING {
                    running.spawn(send(Arc::clone(&client), format!("{name}-{number}"), number));
                } else {
                    tally.left_out += 1;
                }
                number += 1;
            }
        }
    }
    while let Some(result) = running.join_next().await {
        if let Ok(result) = result {
            tally.count(result);
        }
    }
    tally
}

async fn send(client: Arc<Client>, id: String, number: usize) -> Option<u16> {
    let context = Context::new(id);
    let (method, authority, path, body) = request(number);
    let call = Call {
        method,
        authority,
        path: &path,
        body,
        context: &context,
    };
    let answer = match client.call(call).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(id = context.id, authority, path, %error, "a request has no answer");
            return None;
        }
    };
    if answer.status.is_server_error() {
        let said = String::from_utf8_lossy(&answer.body);
        tracing::warn!(id = context.id, authority, path, status = %answer.status, %said, "a request failed");
    }
    Some(answer.status.as_u16())
}

fn request(number: usize) -> (Method, &'static str, String, Option<Value>) {
    let user = number % USERS as usize + 1;
    // Steps by one product per round of the mix, so that each action meets each product.
    let (sku, ..) = CATALOGUE[(number / MIX.len() + number) % CATALOGUE.len()];
    match MIX[number % MIX.len()] {
        Action::ReadUser => (Method::GET, "user", format!("/users/{user}"), None),
        Action::ReadProduct => (Method::GET, "product", format!("/products/{sku}"), None),
        Action::ReadProducts => (Method::GET, "product", "/products".into(), None),
        Action::Rename => {
            let name = json!({ "name": format!("user {user}, renamed by {number}") });
            (Method::PUT, "user", format!("/users/{user}"), Some(name))
        }
        Action::Visit => (
            Method::POST,
            "user",
            format!("/users/{user}/visits"),
            Some(json!({})),
        ),
        Action::Order => {
            let order = json!({ "user": user, "sku": sku, "quantity": 1 });
            (Method::POST, "order", "/orders".into(), Some(order))
        }
        Action::Restock => {
            let level = json!({ "available": INITIAL_STOCK });
            (Method::PUT, "inventory", format!("/stock/{sku}"), Some(level))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_product_is_ordered_and_restocked() {
        for (method, authority) in [(Method::POST, "order"), (Method::PUT, "inventory")] {
            let skus: BTreeSet<String> = (0..MIX.len() * CATALOGUE.len())
                .map(request)
                .filter(|(m, a, ..)| *m == method && *a == authority)
                .map(|(_, _, path, body)| match body {
                    Some(body) if body.get("sku").is_some() => body["sku"].to_string(),
                    _ => path,
                })
                .collect();
            assert_eq!(skus.len(), CATALOGUE.len(), "{method} {authority}");
        }
    }
}
