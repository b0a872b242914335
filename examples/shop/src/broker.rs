//! A small MQTT 3.1.1 broker: publish and subscribe with wildcards, at most once and at least once.
//!
//! The codec is rumqttc's; rumqttd would have been a whole broker, but it brings a second hyper, a second axum and
//! five configuration languages with it, and can't say which port the kernel gave it. Left out: retained messages,
//! sessions that outlive a connection, wills, passwords, exactly once. A publisher is acknowledged when its message
//! stands in the queue of every subscriber; a subscriber that doesn't empty its queue is disconnected.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rumqttc::mqttbytes::matches;
use rumqttc::mqttbytes::v4::{Codec, SubscribeReasonCode};
use rumqttc::{ConnAck, ConnectReturnCode, Packet, PubAck, Publish, QoS, SubAck, Subscribe, UnsubAck};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, FramedWrite};
use tokio_util::sync::CancellationToken;

/// Largest packet, in bytes.
const MAX_PACKET: usize = 64 * 1024;

/// Packets that may wait for one client.
const QUEUE: usize = 1024;

/// How long a client may take to send its first packet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may stay silent that asked for no keep-alive.
const IDLE_TIMEOUT: Duration = Duration::from_hours(1);

/// How long a closed connection waits for the client's end of it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

type Reader = FramedRead<OwnedReadHalf, Codec>;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("MQTT: {0}")]
    Protocol(#[from] rumqttc::mqttbytes::Error),
    #[error("the client was silent for too long")]
    Silent,
    #[error("the client does not empty its queue")]
    Slow,
    #[error("the first packet was not CONNECT")]
    NotConnect,
    #[error("exactly-once delivery is not offered")]
    ExactlyOnce,
}

#[derive(Debug)]
struct Subscriber {
    filters: Vec<(String, QoS)>,
    queue: mpsc::Sender<Packet>,
    /// Ends the connection.
    close: CancellationToken,
    next_packet: u16,
}

/// Who is subscribed to what, by connection.
#[derive(Debug, Default)]
struct Subscribers(Mutex<HashMap<u64, Subscriber>>);

/// Serves until `stop`, then closes every connection.
pub async fn serve(listener: TcpListener, stop: CancellationToken) {
    let subscribers = Arc::new(Subscribers::default());
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    number += 1;
                    let close = stop.child_token();
                    connections.spawn(connection(number, stream, peer, Arc::clone(&subscribers), close));
                }
                Err(error) => tracing::warn!(%error, "a connection can't be accepted"),
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(
    number: u64,
    stream: TcpStream,
    peer: SocketAddr,
    subscribers: Arc<Subscribers>,
    close: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let (read, write) = stream.into_split();
    let codec = Codec {
        max_incoming_size: MAX_PACKET,
        max_outgoing_size: MAX_PACKET,
    };
    let mut reader = FramedRead::new(read, codec.clone());
    let (queue, packets) = mpsc::channel(QUEUE);
    let writer = tokio::spawn(write_all(packets, FramedWrite::new(write, codec)));
    let result = session(number, &mut reader, queue, &subscribers, close).await;
    subscribers.remove(number);
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a client is disconnected");
    }
    // The queue's senders are gone: the writer sends what is left and closes its half. The client closes the other.
    let rest = async { while let Some(Ok(_)) = reader.next().await {} };
    let _ = timeout(CLOSE_TIMEOUT, rest).await;
    let _ = timeout(CLOSE_TIMEOUT, writer).await;
}

async fn write_all(mut packets: mpsc::Receiver<Packet>, mut writer: FramedWrite<OwnedWriteHalf, Codec>) {
    while let Some(packet) = packets.recv().await {
        if writer.feed(packet).await.is_err() {
            return;
        }
        if packets.is_empty() && SinkExt::<Packet>::flush(&mut writer).await.is_err() {
            return;
        }
    }
    let _ = writer.get_mut().shutdown().await;
}

/// One client, from its first packet to its last.
async fn session(
    number: u64,
    reader: &mut Reader,
    queue: mpsc::Sender<Packet>,
    subscribers: &Subscribers,
    close: CancellationToken,
) -> Result<(), Error> {
    let silence = match timeout(CONNECT_TIMEOUT, reader.next()).await {
        Ok(Some(Ok(Packet::Connect(connect)))) => silence_allowed(connect.keep_alive),
        Ok(Some(Ok(_))) => return Err(Error::NotConnect),
        Ok(Some(Err(error))) => return Err(error.into()),
        Ok(None) => return Ok(()),
        Err(_) => return Err(Error::Silent),
    };
    send(
        &queue,
        Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false)),
    )?;
    loop {
        let packet = tokio::select! {
            () = close.cancelled() => return Ok(()),
            read = timeout(silence, reader.next()) => match read {
                Ok(Some(packet)) => packet?,
                Ok(None) => return Ok(()),
                Err(_) => return Err(Error::Silent),
            },
        };
        match packet {
            Packet::Publish(message) => {
                let answer = acknowledgement(&message)?;
                subscribers.publish(&message);
                answer.map_or(Ok(()), |answer| send(&queue, answer))?;
            }
            Packet::Subscribe(wanted) => {
                let answer = subscribers.subscribe(number, wanted, &queue, &close);
                send(&queue, Packet::SubAck(answer))?;
            }
            Packet::Unsubscribe(unwanted) => {
                subscribers.unsubscribe(number, &unwanted.topics);
                send(&queue, Packet::UnsubAck(UnsubAck::new(unwanted.pkid)))?;
            }
            Packet::PingReq => send(&queue, Packet::PingResp)?,
            Packet::Disconnect => return Ok(()),
            _ => {}
        }
    }
}

/// One and a half times what the client promised (MQTT 3.1.1, 3.1.2.10).
fn silence_allowed(keep_alive_seconds: u16) -> Duration {
    match keep_alive_seconds {
        0 => IDLE_TIMEOUT,
        seconds => Duration::from_secs(u64::from(seconds)) * 3 / 2,
    }
}

fn acknowledgement(message: &Publish) -> Result<Option<Packet>, Error> {
    match message.qos {
        QoS::AtMostOnce => Ok(None),
        QoS::AtLeastOnce => Ok(Some(Packet::PubAck(PubAck::new(message.pkid)))),
        QoS::ExactlyOnce => Err(Error::ExactlyOnce),
    }
}

fn send(queue: &mpsc::Sender<Packet>, packet: Packet) -> Result<(), Error> {
    queue.try_send(packet).map_err(|_| Error::Slow)
}

impl Subscribers {
    fn subscribe(
        &self,
        number: u64,
        wanted: Subscribe,
        queue: &mpsc::Sender<Packet>,
        close: &CancellationToken,
    ) -> SubAck {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let subscriber = all.entry(number).or_insert_with(|| Subscriber {
            filters: Vec::new(),
            queue: queue.clone(),
            close: close.clone(),
            next_packet: 1,
        });
        let mut granted = Vec::new();
        for filter in wanted.filters {
            let qos = match filter.qos {
                QoS::AtMostOnce => QoS::AtMostOnce,
                QoS::AtLeastOnce | QoS::ExactlyOnce => QoS::AtLeastOnce,
            };
            subscriber.filters.retain(|(path, _)| *path != filter.path);
            subscriber.filters.push((filter.path, qos));
            granted.push(SubscribeReasonCode::Success(qos));
        }
        SubAck::new(wanted.pkid, granted)
    }

    fn unsubscribe(&self, number: u64, filters: &[String]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(subscriber) = all.get_mut(&number) {
            subscriber.filters.retain(|(path, _)| !filters.contains(path));
        }
    }

    fn remove(&self, number: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&number);
    }

    fn publish(&self, message: &Publish) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for subscriber in all.values_mut() {
            subscriber.deliver(message);
        }
    }
}

impl Subscriber {
    /// Once, however many filters match, with the best quality among them.
    fn deliver(&mut self, message: &Publish) {
        let matching = self
            .filters
            .iter()
            .filter(|(path, _)| matches(&message.topic, path));
        let Some(qos) = matching.map(|(_, qos)| *qos).max_by_key(|qos| *qos as u8) else {
            return;
        };
        let mut copy = Publish::from_bytes(message.topic.clone(), qos, message.payload.clone());
        if qos != QoS::AtMostOnce {
            copy.pkid = self.next_packet;
            self.next_packet = self.next_packet.checked_add(1).unwrap_or(1);
        }
        if self.queue.try_send(Packet::Publish(copy)).is_err() {
            self.close.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions};

    use super::*;

    async fn start() -> (SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, stop.clone()));
        (address, stop)
    }

    fn client(name: &str, broker: SocketAddr) -> (AsyncClient, EventLoop) {
        let options = MqttOptions::new(name, broker.ip().to_string(), broker.port());
        AsyncClient::new(options, 100)
    }

    async fn until(events: &mut EventLoop, wanted: impl Fn(&Packet) -> bool) -> Packet {
        loop {
            if let Event::Incoming(packet) = events.poll().await.unwrap()
                && wanted(&packet)
            {
                return packet;
            }
        }
    }

    #[tokio::test]
    async fn a_message_reaches_those_who_asked_for_it() {
        let (broker, _stop) = start().await;
        let (wants, mut heard) = client("wants", broker);
        wants.subscribe("orders/+", QoS::AtLeastOnce).await.unwrap();
        until(&mut heard, |p| matches!(p, Packet::SubAck(_))).await;
        let (says, mut said) = client("says", broker);
        for (topic, text) in [("other/7", "no"), ("orders/7/x", "no"), ("orders/7", "yes")] {
            says.publish(topic, QoS::AtLeastOnce, false, text).await.unwrap();
            until(&mut said, |p| matches!(p, Packet::PubAck(_))).await;
        }
        let packet = until(&mut heard, |p| matches!(p, Packet::Publish(_))).await;
        let Packet::Publish(message) = packet else {
            unreachable!()
        };
        assert_eq!(
            (message.topic.as_str(), &message.payload[..]),
            ("orders/7", &b"yes"[..])
        );
    }

    #[tokio::test]
    async fn a_stopped_broker_closes_its_connections() {
        let (broker, stop) = start().await;
        let (_client, mut events) = client("any", broker);
        until(&mut events, |p| matches!(p, Packet::ConnAck(_))).await;
        stop.cancel();
        assert!(events.poll().await.is_err());
    }

    #[tokio::test]
    async fn what_is_not_mqtt_is_closed() {
        use tokio::io::AsyncReadExt;
        let (broker, _stop) = start().await;
        // A length that does not end, a packet that is not CONNECT, a packet above the limit.
        for bytes in [
            &[0x10, 0xff, 0xff, 0xff, 0xff][..],
            &[0xc0, 0],
            &[0x10, 0xff, 0xff, 0x7f],
        ] {
            let mut stream = TcpStream::connect(broker).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            assert!(rest.is_empty());
        }
    }
}
