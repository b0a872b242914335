//! One attempt: the head it sends, the connection it takes, and what its response says.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::header::HOST;
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version};
use weft_proxy_core::deadline::GRPC_TIMEOUT;
use weft_proxy_core::exchange::Exchange;
use weft_proxy_core::hygiene::{
    ATTEMPT, BodyLength, VERSION, Violation, check_response, strip_hop_by_hop, strip_private, take_private,
};
use weft_proxy_core::outcome::{Reason, grpc_status};
use weft_proxy_core::resource::{Endpoint, Protocol};
use weft_proxy_core::retry::{Failure, Head, parse_retry_after};
use weft_proxy_core::time::Now;

use super::{Forwarding, bounds};
use crate::finish::{Finish, Judge, Open, Relayed};
use crate::http::{Body, UploadBody};
use crate::outbound::upgrade;
use crate::upstream::{Held, Own, Speak};
use crate::worker::Worker;

/// A response whose head nobody has forwarded yet.
pub(super) struct Answered {
    response: Response<Body>,
    over: Over,
    length: BodyLength,
}

/// What a response came over.
enum Over {
    /// A connection of a pool.
    Pooled(Held),
    /// A connection of its own, which may turn into a byte stream.
    Own(Box<Own>),
}

/// `attempt`, unless `deadline` passes first.
pub(super) async fn within<T>(
    worker: &Worker,
    deadline: Option<Now>,
    attempt: impl Future<Output = T>,
) -> Option<T> {
    let mut timer = pin!(deadline.map(|at| tokio::time::sleep_until(worker.local.instant(at))));
    let mut attempt = pin!(attempt);
    poll_fn(|cx| {
        if let Poll::Ready(ended) = attempt.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        match timer.as_mut().as_pin_mut() {
            Some(timer) => timer.poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}

impl Answered {
    /// When its request was sent.
    pub(super) fn sent(&self) -> Now {
        match &self.over {
            Over::Pooled(held) => held.sent(),
            Over::Own(own) => own.sent(),
        }
    }
}

impl Forwarding<'_> {
    /// The head of an attempt.
    pub(super) fn attempt_head(
        &self,
        exchange: &Exchange<'_>,
        number: u32,
        meshed: bool,
    ) -> Request<UploadBody> {
        let mut request = Request::new(self.upload.attempt());
        *request.method_mut() = self.sent.method.clone();
        *request.uri_mut() = self.sent.uri.clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.sent.headers);
        if meshed {
            if number > 1 {
                headers.insert(ATTEMPT, HeaderValue::from(number));
            }
            if self.undeclared_http2() {
                headers.insert(VERSION, HeaderValue::from_static("2"));
            }
        } else {
            headers.remove(ATTEMPT);
        }
        if let Some(left) = exchange.grpc_timeout(self.worker.local.now()) {
            headers.insert(GRPC_TIMEOUT, left);
        }
        request
    }

    /// Sends an attempt and reads the head of its response.
    pub(super) async fn attempt(
        &self,
        endpoint: &Arc<Endpoint>,
        mut request: Request<UploadBody>,
    ) -> Result<(Head, Answered), Failure> {
        let bounds = bounds(self.target);
        let speak = self.speak(endpoint);
        if speak == Speak::Http1 || self.upgrade.is_some() {
            to_origin_form(&mut request);
        } else {
            *request.version_mut() = Version::HTTP_2;
        }
        let (response, over) = if self.upgrade.is_some() {
            let connecting = Box::pin(Own::connect(&self.worker.local, endpoint, &bounds));
            let mut own = Box::new(connecting.await?);
            (own.send(request).await?, Over::Own(own))
        } else {
            let upstream = &self.worker.upstream;
            let (response, held) = upstream
                .send(&self.worker.local, endpoint, speak, &bounds, request)
                .await?;
            (response, Over::Pooled(held))
        };
        self.read_head(response, over, endpoint.identity.is_some())
    }

    fn speak(&self, endpoint: &Endpoint) -> Speak {
        if endpoint.identity.is_some() {
            return Speak::Http2;
        }
        match self.target.state.borrow().config().protocol {
            Protocol::Http2 | Protocol::Grpc => Speak::Http2,
            Protocol::Detect if weft_proxy_core::outcome::is_grpc(&self.sent.headers) => Speak::Http2,
            Protocol::Detect if self.undeclared_http2() => Speak::Http2,
            Protocol::Detect | Protocol::Http1 | Protocol::Tcp => Speak::Http1,
        }
    }

    /// Whether the client speaks HTTP/2 to an application of which nobody declared how it speaks: then it speaks that.
    fn undeclared_http2(&self) -> bool {
        let declared = self.target.state.borrow().config().protocol;
        self.sent.version == Version::HTTP_2 && declared == Protocol::Detect
    }

    fn read_head(
        &self,
        mut response: Response<Body>,
        over: Over,
        meshed: bool,
    ) -> Result<(Head, Answered), Failure> {
        let upgrade = self.upgrade.is_some();
        let length = check_response(response.version(), response.status(), response.headers(), upgrade)
            .map_err(of_violation)?;
        let unprocessed = if meshed {
            let private = take_private(response.headers_mut());
            if private.lost {
                return Err(Failure::Reset);
            }
            private.unprocessed
        } else {
            strip_private(response.headers_mut());
            false
        };
        let trailers_only = http_body::Body::is_end_stream(response.body());
        let head = Head {
            status: response.status(),
            grpc: if trailers_only {
                grpc_status(response.headers())
            } else {
                None
            },
            retry_after: parse_retry_after(response.headers()),
            unprocessed,
        };
        Ok((
            head,
            Answered {
                response,
                over,
                length,
            },
        ))
    }

    /// Sends the response on.
    pub(super) fn forward(
        self,
        answered: Answered,
        exchange: Exchange<'_>,
        finish: Finish,
        deadline: Option<Now>,
    ) -> Response<Relayed> {
        let Answered {
            mut response,
            over,
            length,
        } = answered;
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let protocol = response.headers().get(http::header::UPGRADE).cloned();
        strip_hop_by_hop(response.headers_mut());
        self.route
            .rule
            .edit_response(Some(self.route.backend), response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        response.extensions_mut().clear();
        let judge = Judge::Exchange(exchange.into_response(), Rc::clone(self.target));
        let held = match over {
            Over::Pooled(held) => Some(held),
            Over::Own(own) if switched => {
                let open = Open {
                    finish,
                    judge,
                    held: None,
                };
                return upgrade::switch(response, protocol, own, open, self.slot);
            }
            Over::Own(_) => None,
        };
        let known = match length {
            BodyLength::Known(length) if self.sent.method != http::Method::HEAD => Some(length),
            _ => None,
        };
        let open = Open { finish, judge, held };
        response.map(|body| Relayed::new(body, open, deadline, known))
    }
}

fn of_violation(violation: Violation) -> Failure {
    match violation.of_response() {
        Reason::UpstreamHeadTooLarge => Failure::HeadTooLarge,
        Reason::UpgradeFailed => Failure::UpgradeFailed,
        _ => Failure::Protocol,
    }
}

/// HTTP/1 names the authority in `Host`, first of all fields.
fn to_origin_form(request: &mut Request<UploadBody>) {
    let uri = std::mem::take(request.uri_mut()).into_parts();
    if let Some(host) = uri
        .authority
        .and_then(|authority| HeaderValue::try_from(authority.as_str()).ok())
    {
        request.headers_mut().insert(HOST, host);
    }
    *request.uri_mut() = uri.path_and_query.map_or_else(Uri::default, Uri::from);
    *request.version_mut() = Version::HTTP_11;
}
