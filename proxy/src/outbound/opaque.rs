//! Opaque bytes to a destination: a connection of their own, to an endpoint that the same exchange chooses as for
//! requests. A connection is never made twice once bytes may have passed, only when it could not be made.

use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use weft_proxy_core::exchange::{Action, Event, Exchange, Terms};
use weft_proxy_core::limit::Permit;
use weft_proxy_core::protocol::Detected;
use weft_proxy_core::retry::Head;
use weft_proxy_core::snapshot::Destination;

use super::{Client, bounds, first_bytes, requests};
use crate::drain::{Busy, Tracked};
use crate::protocol::CONNECT;
use crate::stream::Stream;
use crate::tcp;
use crate::telemetry::access_log::Record;
use crate::upstream::open_opaque;
use crate::worker::{Target, Worker};

/// Silence of a client after which a server that may speak first is given the chance to.
const SERVER_FIRST: Duration = Duration::from_millis(50);

/// A connection to a destination whose protocol nobody declared: whoever speaks first shows what it is.
pub(super) async fn detect(
    client: Client,
    mut stream: Stream,
    destination: &Arc<Destination>,
    tracked: Tracked,
) {
    let upstream = tokio::select! {
        biased;
        speaks = stream.speaks() => match speaks {
            Ok(true) => None,
            Ok(false) | Err(_) => return,
        },
        upstream = server_first(&client, destination) => Some(upstream),
        () = tracked.finished() => return,
    };
    client
        .worker
        .learn_server_first(&destination.name, upstream.is_some());
    if let Some(opened) = upstream {
        return relay(&client, stream, opened, tracked.begin()).await;
    }
    let Some((detected, stream)) = first_bytes(stream, &tracked).await else {
        return;
    };
    match detected {
        // Whoever asks the destination for a tunnel means the destination, which is a proxy itself.
        Detected::Http1 if stream.prefix().starts_with(CONNECT) => {
            serve(&client, stream, destination, &tracked).await;
        }
        Detected::Http1 | Detected::Http2 if destination.routes.is_some() => {
            requests(client, stream, detected, tracked).await;
        }
        _ => serve(&client, stream, destination, &tracked).await,
    }
}

/// A connection on which the server spoke first; never, if it does not or can't.
async fn server_first(client: &Client, destination: &Arc<Destination>) -> Opened {
    if !client.worker.is_server_first(&destination.name) {
        tokio::time::sleep(SERVER_FIRST).await;
    }
    let Some(mut opened) = open(&client.worker, destination).await else {
        return pending().await;
    };
    match opened.stream.speaks().await {
        Ok(_) => opened,
        Err(_) => pending().await,
    }
}

/// Relays a connection to a destination, whatever it speaks.
pub(super) async fn serve(
    client: &Client,
    stream: Stream,
    destination: &Arc<Destination>,
    tracked: &Tracked,
) {
    let busy = tracked.begin();
    match open(&client.worker, destination).await {
        Some(opened) => relay(client, stream, opened, busy).await,
        None => stream.reset_on_close(),
    }
}

/// A connection to an endpoint of a destination.
struct Opened {
    stream: Stream,
    exchange: Exchange<'static>,
    target: Rc<Target>,
    meshed: bool,
    address: std::net::SocketAddr,
    _place: Permit,
}

async fn open(worker: &Rc<Worker>, destination: &Arc<Destination>) -> Option<Opened> {
    let entry = destination
        .opaque
        .as_ref()
        .and_then(|name| destination.clusters.get(name))?;
    let target = worker.target(entry);
    let mut exchange = Exchange::new(worker.local.now(), Terms::new(&Method::CONNECT));
    let mut event = Event::Start;
    let mut opened = None;
    let mut meshed = false;
    loop {
        event = match worker.step(&mut exchange, event, &target) {
            Action::Attempt { endpoint, .. } => {
                meshed = endpoint.identity.is_some();
                match open_opaque(&worker.local, &endpoint, &bounds(&target)).await {
                    Ok((stream, place)) => {
                        opened = Some((stream, place, endpoint.address));
                        Event::ResponseHead(Head::new(StatusCode::OK))
                    }
                    Err(failure) => Event::AttemptFailed(failure),
                }
            }
            Action::Wait { until } => {
                tokio::time::sleep_until(worker.local.instant(until)).await;
                Event::Timer
            }
            Action::Forward { .. } => {
                let (stream, place, address) = opened?;
                target.edge.connections(meshed).opened();
                return Some(Opened {
                    stream,
                    exchange,
                    target,
                    meshed,
                    address,
                    _place: place,
                });
            }
            Action::Respond(reason) => {
                tracing::info!(
                    destination = &*destination.name,
                    reason = reason.label(),
                    "no connection"
                );
                target.edge.connections(meshed).failed();
                Event::ResponseEnd(None)
            }
            Action::Done(_) => return None,
        };
    }
}

async fn relay(client: &Client, stream: Stream, opened: Opened, busy: Busy) {
    let Opened {
        stream: upstream,
        mut exchange,
        target,
        meshed,
        address,
        _place,
    } = opened;
    let worker = &client.worker;
    let started = worker.local.now();
    let relayed = tcp::relay(stream, upstream).await;
    let (event, end) = match relayed.end {
        tcp::End::Clean => (Event::ResponseEnd(None), "complete"),
        tcp::End::FirstBroke => (Event::DownstreamGone, "downstream_gone"),
        tcp::End::SecondBroke => (Event::ResponseReset, "upstream_reset"),
    };
    if relayed.end != tcp::End::Clean {
        target.edge.connections(meshed).unclean();
    }
    worker.step(&mut exchange, event, &target);
    drop(busy);
    let Some(log) = worker.log() else { return };
    log.write(&Record {
        direction: "outbound",
        peer: Some(client.peer),
        protocol: "tcp",
        destination: Some(&target.state.borrow().config().name),
        endpoint: Some(address),
        end,
        attempts: 1,
        duration_ms: worker.local.now().since(started).as_secs_f64() * 1e3,
        ..Record::default()
    });
}
