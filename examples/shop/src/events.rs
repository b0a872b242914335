//! Order events over MQTT: order publishes, user subscribes. The broker is reached through a port that the sidecar
//! opens for it, as opaque TCP.

use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::client::to_json;
use crate::order::Outcome;
use crate::user::{Heard, hear};

/// Topics are `orders/<user>`.
const TOPIC: &str = "orders";

/// How often a silent connection is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Pause before a broken connection is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Events that wait for the broker; more are dropped with a warning.
const QUEUE: usize = 1024;

/// How long the last events may take when an application stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OrderEvent {
    pub(crate) order: String,
    pub(crate) user: u32,
    pub(crate) outcome: Outcome,
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
    broker: SocketAddr,
    stop: CancellationToken,
) -> (Publisher, impl Future<Output = ()> + use<>) {
    let (client, events) = AsyncClient::new(options(name, broker), QUEUE);
    let driver = drive(client.clone(), events, stop, None);
    (Publisher { client }, driver)
}

/// Hears every order's event until `stop`.
pub(crate) async fn listen(name: &str, broker: SocketAddr, heard: Heard, stop: CancellationToken) {
    let (client, events) = AsyncClient::new(options(name, broker), QUEUE);
    drive(client, events, stop, Some(heard)).await;
}

fn options(name: &str, broker: SocketAddr) -> MqttOptions {
    let mut options = MqttOptions::new(name, broker.ip().to_string(), broker.port());
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
                    Ok(event) => hear(heard, event),
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
