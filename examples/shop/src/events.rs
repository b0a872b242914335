//! Order events over MQTT: order publishes, user subscribes. The broker is reached through a port that the sidecar
//! opens for it, as opaque TCP.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::uri::Authority;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::message::to_json;

/// Topics are `orders/<user>`.
const TOPIC: &str = "orders";

/// The port of a broker of which none is said.
const MQTT_PORT: u16 = 1883;

/// How often a silent connection is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Pause before a broken connection is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Events that wait for the broker; more are dropped with a warning.
const QUEUE: usize = 1024;

/// How many events are kept per user.
const EVENTS_KEPT: usize = 50;

/// How long the last events may take when an application stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// What became of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// Paid and sold.
    Placed,
    /// The payment was declined, the goods are back in stock.
    Declined,
    /// There were not enough goods.
    SoldOut,
    /// A step failed; what was done before it is undone.
    Failed,
}

/// What is told of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OrderEvent {
    pub(crate) order: String,
    pub(crate) user: u32,
    pub(crate) outcome: Outcome,
}

/// What was heard, by user, oldest first. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Arc<Mutex<HashMap<u32, VecDeque<OrderEvent>>>>);

impl Heard {
    /// What was heard of a user's orders.
    pub(crate) fn of(&self, user: u32) -> VecDeque<OrderEvent> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&user).cloned().unwrap_or_default()
    }

    fn hear(&self, event: OrderEvent) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let events = all.entry(event.user).or_default();
        events.push_back(event);
        if events.len() > EVENTS_KEPT {
            events.pop_front();
        }
    }
}

/// Publishes, without waiting for the broker.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    client: AsyncClient,
}

impl Publisher {
    pub(crate) fn publish(&self, event: &OrderEvent) {
        let topic = format!("{TOPIC}/{}", event.user);
        let payload = to_json(event);
        if let Err(error) = self.client.try_publish(topic, QoS::AtLeastOnce, false, payload) {
            tracing::warn!(order = event.order, %error, "an event is lost: the broker does not keep up");
        }
    }
}

/// A publisher, and the task that drives it until `stop`.
pub(crate) fn publisher(
    name: &str,
    broker: &Authority,
    stop: CancellationToken,
) -> (Publisher, impl Future<Output = ()> + use<>) {
    let (client, events) = AsyncClient::new(options(name, broker), QUEUE);
    let driver = drive(client.clone(), events, stop, None);
    (Publisher { client }, driver)
}

/// Hears every order's event until `stop`.
pub(crate) async fn listen(name: &str, broker: Authority, heard: Heard, stop: CancellationToken) {
    let (client, events) = AsyncClient::new(options(name, &broker), QUEUE);
    drive(client, events, stop, Some(heard)).await;
}

fn options(name: &str, broker: &Authority) -> MqttOptions {
    let host = broker.host().trim_matches(['[', ']']);
    let mut options = MqttOptions::new(name, host, broker.port_u16().unwrap_or(MQTT_PORT));
    options.set_keep_alive(KEEP_ALIVE);
    options
}

async fn drive(client: AsyncClient, mut events: EventLoop, stop: CancellationToken, heard: Option<Heard>) {
    loop {
        let event = tokio::select! {
            event = events.poll() => event,
            () = stop.cancelled() => return farewell(client, events).await,
        };
        match (event, &heard) {
            (Ok(Event::Incoming(Packet::ConnAck(_))), Some(_)) => {
                let subscribed = client.try_subscribe(format!("{TOPIC}/+"), QoS::AtLeastOnce);
                if let Err(error) = subscribed {
                    tracing::warn!(%error, "order events can't be subscribed to");
                }
            }
            (Ok(Event::Incoming(Packet::Publish(message))), Some(heard)) => {
                match serde_json::from_slice(&message.payload) {
                    Ok(event) => heard.hear(event),
                    Err(error) => tracing::warn!(%error, "an event can't be read"),
                }
            }
            (Ok(_), _) => {}
            (Err(error), _) => {
                tracing::warn!(%error, "no connection to the broker");
                sleep(RECONNECT_PAUSE).await;
            }
        }
    }
}

/// Sends what is still queued, says goodbye, and waits for the broker to close: closing first would reset a
/// connection on which an acknowledgement is still under way.
async fn farewell(client: AsyncClient, mut events: EventLoop) {
    if client.try_disconnect().is_ok() {
        let closed = async { while events.poll().await.is_ok() {} };
        let _ = tokio::time::timeout(FAREWELL, closed).await;
    }
}
