//! Connections that stop being HTTP: CONNECT tunnels and granted upgrades.
//!
//! The request's handler puts into the connection's [`Slot`] what its byte stream is for; HTTP ends, and [`go_on`] does
//! the rest.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Method, Response};
use weft_proxy_core::hygiene::RequestFacts;
use weft_proxy_core::outcome::Reason;
use weft_proxy_core::resource::Name;
use weft_proxy_core::snapshot::Lookup;

use super::{Client, bound, forbidden};
use crate::finish::{Finish, Judge, Open, Relayed, answer, completed};
use crate::http::Body;
use crate::stream::Stream;
use crate::upgraded::join;
use crate::upstream::Own;
use crate::worker::Worker;

/// What a connection's byte stream is for after HTTP.
pub(super) type Slot = Rc<RefCell<Option<Next>>>;

/// See [`Slot`].
#[derive(Debug)]
pub(super) enum Next {
    /// A tunnel to a destination.
    Tunnel(Name),
    /// An upgrade: the other end, and the exchange that goes on.
    Upgrade(Box<Own>, Box<Open>),
}

/// Answers CONNECT.
pub(super) async fn connect(
    client: &Client,
    facts: &RequestFacts,
    finish: Finish,
    slot: Option<Slot>,
) -> Response<Relayed> {
    let refuse =
        |reason: Reason, detail: &str, finish| answer(reason, Some(detail), &Method::CONNECT, finish, None);
    let worker = &client.worker;
    if let Some(error) = forbidden(worker, facts) {
        return refuse(Reason::ConnectForbidden, &error.to_string(), finish);
    }
    let (Some(authority), Some(slot)) = (&facts.authority, slot) else {
        return refuse(Reason::BadRequest, "CONNECT is taken over HTTP/1.1 only", finish);
    };
    let name = worker.name_of(authority, facts.default_port);
    match worker.destination(&name).await {
        Lookup::Absent if !worker.local.config.egress_allowed => {
            return refuse(Reason::DestinationUnknown, &name, finish);
        }
        Lookup::Pending => return refuse(Reason::ConfigPending, &name, finish),
        Lookup::Known(_) | Lookup::Absent => {}
    }
    *slot.borrow_mut() = Some(Next::Tunnel(name));
    let outcome = completed(http::StatusCode::OK, 0);
    let open = Open {
        finish,
        judge: Judge::Plain(outcome),
        held: None,
    };
    Response::new(Relayed::new(Body::Empty, open, None, None))
}

/// Passes a 101 on, and has the byte streams joined once it has left.
pub(super) fn switch(
    mut response: Response<Body>,
    protocol: Option<HeaderValue>,
    own: Box<Own>,
    open: Open,
    slot: Option<Slot>,
) -> Response<Relayed> {
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        response.headers_mut().insert(UPGRADE, protocol);
    }
    if let Some(slot) = slot {
        *slot.borrow_mut() = Some(Next::Upgrade(own, Box::new(open)));
    }
    response.map(|_| Relayed::untold(Body::Empty))
}

/// What follows HTTP on a connection.
pub(super) async fn go_on(worker: Rc<Worker>, stream: Stream, peer: SocketAddr, slot: Slot) {
    let next = slot.borrow_mut().take();
    match next {
        // The tunnel is a connection like any other: what runs in it may be HTTP again.
        Some(Next::Tunnel(name)) => Box::pin(bound(worker, stream, peer, name)).await,
        Some(Next::Upgrade(own, open)) => join(stream, *own, *open).await,
        None => {}
    }
}
