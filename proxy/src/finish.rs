//! The end of an exchange: its response's body on the way to the client, and what is told when that is over.
//!
//! [`Relayed`] is the body that the server side sends. It sees the end, the trailers, a break and the deadline, lets the
//! exchange judge them, and has the outcome counted and logged, once. A client that goes away drops the body, or the
//! future that would have made it; both drop the [`Finish`], and that tells the end too. So no exchange is lost to the
//! metrics, however it ends.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use weft_proxy_core::exchange::{Action, Event, Exchange};
use weft_proxy_core::outcome::{End, Outcome, Reason, RetryDenied, grpc_status};
use weft_proxy_core::resource::Name;
use weft_proxy_core::time::Now;

use crate::drain::Busy;
use crate::http::body::clean;
use crate::http::{Body, BodyError};
use crate::telemetry::access_log::Record;
use crate::telemetry::metrics::{self, Direction, Edge, Protocol};
use crate::upstream::Held;
use crate::worker::{Target, Worker};

/// Tells the end of an exchange when it is told, or dropped.
#[derive(Debug)]
pub struct Finish {
    worker: Rc<Worker>,
    _busy: Busy,
    started: Now,
    direction: Direction,
    protocol: Protocol,
    /// Whose metrics count it; `None` while the destination is not known.
    pub edge: Option<Rc<Edge>>,
    /// Whether the endpoint, or the peer, is meshed.
    pub meshed: bool,
    /// What the log says beside the outcome, where it is wanted.
    pub noted: Option<Box<Noted>>,
    told: bool,
}

/// What the access log says about a request.
#[derive(Clone, Debug, Default)]
pub struct Noted {
    /// Who asked.
    pub peer: Option<SocketAddr>,
    /// The identity it proved.
    pub identity: Option<Name>,
    /// The method.
    pub method: Method,
    /// The authority as the client named it.
    pub authority: Option<String>,
    /// The path, without the query.
    pub path: String,
    /// The cluster or Service.
    pub destination: Option<Name>,
    /// The rule that matched.
    pub route: Option<Name>,
    /// The last endpoint that was tried.
    pub endpoint: Option<SocketAddr>,
    /// The trace's id.
    pub trace: Option<String>,
}

impl Finish {
    /// An exchange that began at `started`.
    pub fn new(
        worker: &Rc<Worker>,
        busy: Busy,
        started: Now,
        direction: Direction,
        protocol: Protocol,
    ) -> Self {
        Self {
            worker: Rc::clone(worker),
            _busy: busy,
            started,
            direction,
            protocol,
            edge: None,
            meshed: false,
            noted: None,
            told: false,
        }
    }

    /// The worker it runs on.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// When it began.
    pub fn started(&self) -> Now {
        self.started
    }

    /// Whether it is a gRPC call.
    pub fn grpc(&self) -> bool {
        self.protocol == Protocol::Grpc
    }

    /// Notes something for the log, where it is wanted.
    pub fn note(&mut self, write: impl FnOnce(&mut Noted)) {
        if let Some(noted) = &mut self.noted {
            write(noted);
        }
    }

    /// Counts and logs the outcome.
    pub fn tell(mut self, outcome: &Outcome) {
        self.told = true;
        self.count(outcome);
    }

    fn count(&self, outcome: &Outcome) {
        let elapsed = self.worker.local.now().since(self.started);
        if let Some(edge) = &self.edge {
            edge.requests(self.protocol, self.meshed)
                .count(outcome.is_failure(), elapsed);
            edge.count_retries(outcome.attempts.saturating_sub(1));
        }
        let (Some(noted), Some(log)) = (&self.noted, self.worker.log_sink()) else {
            return;
        };
        log.write(&Record {
            direction: self.direction.label(),
            peer: noted.peer,
            identity: noted.identity.as_deref(),
            protocol: self.protocol.label(),
            method: Some(noted.method.as_str()),
            authority: noted.authority.as_deref(),
            path: Some(&noted.path),
            destination: noted.destination.as_deref(),
            route: noted.route.as_deref(),
            endpoint: noted.endpoint,
            status: outcome.status.map(|status| status.as_u16()),
            grpc_status: outcome.grpc,
            reason: outcome.reason.map(Reason::label),
            flag: outcome.reason.map(|reason| reason.facts().flag),
            end: match outcome.end {
                End::Complete => "complete",
                End::UpstreamReset => "upstream_reset",
                End::DownstreamGone => "downstream_gone",
            },
            attempts: outcome.attempts,
            retry_denied: outcome.retry_denied.map(RetryDenied::label),
            duration_ms: elapsed.as_secs_f64() * 1e3,
            trace: noted.trace.as_deref(),
        });
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        if !self.told {
            self.count(&Outcome {
                reason: None,
                status: None,
                grpc: None,
                end: End::DownstreamGone,
                attempts: 0,
                retry_denied: None,
            });
        }
    }
}

/// The outcome of an answer with `status` after `attempts`, if it is sent to its end.
pub fn completed(status: StatusCode, attempts: u32) -> Outcome {
    Outcome {
        reason: None,
        status: Some(status),
        grpc: None,
        end: End::Complete,
        attempts,
        retry_denied: None,
    }
}

/// Who judges the end.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one")]
pub enum Judge {
    /// An exchange with a cluster.
    Exchange(Exchange<'static>, Rc<Target>),
    /// Nobody: the one attempt towards the application, or an answer of our own; this is its outcome if it completes.
    Plain(Outcome),
}

/// What is still open while a response's body is sent.
#[derive(Debug)]
pub struct Open {
    /// Counts and logs.
    pub finish: Finish,
    /// Judges.
    pub judge: Judge,
    /// The connection, until the body has ended.
    pub held: Option<Held>,
}

impl Open {
    /// Tells how it ended.
    pub fn end(self, event: Event) {
        let Self { finish, judge, held } = self;
        drop(held);
        let outcome = match judge {
            Judge::Exchange(mut exchange, target) => {
                match finish.worker.step(&mut exchange, event, &target) {
                    Action::Done(outcome) => outcome,
                    action => {
                        debug_assert!(false, "{action:?} after the end");
                        return;
                    }
                }
            }
            Judge::Plain(outcome) => judged(outcome, event, finish.grpc()),
        };
        finish.tell(&outcome);
    }
}

fn judged(mut outcome: Outcome, event: Event, grpc: bool) -> Outcome {
    match event {
        Event::ResponseEnd(status) => outcome.grpc = outcome.grpc.or(status).filter(|_| grpc),
        Event::DownstreamGone => outcome.end = End::DownstreamGone,
        _ => {
            outcome.reason = Some(Reason::UpstreamReset);
            outcome.end = End::UpstreamReset;
        }
    }
    outcome
}

/// When a body must have ended. A timer is only made for one that is waited for: most are there with their head.
#[derive(Debug)]
enum Deadline {
    At(Instant),
    Timer(Pin<Box<Sleep>>),
}

impl Deadline {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::At(at) = *self {
            *self = Self::Timer(Box::pin(sleep_until(at)));
        }
        match self {
            Self::Timer(timer) => timer.as_mut().poll(cx),
            Self::At(_) => Poll::Pending,
        }
    }
}

/// A response's body on its way to the client.
#[derive(Debug)]
pub struct Relayed {
    body: Body,
    open: Option<Open>,
    deadline: Option<Deadline>,
    /// Bytes to come, where the head says so.
    left: Option<u64>,
}

impl Relayed {
    /// `body`, whose end `open` tells, at the latest at `deadline`. `length` as the head declares it.
    pub fn new(body: Body, open: Open, deadline: Option<Now>, length: Option<u64>) -> Self {
        let worker = &open.finish.worker;
        let deadline = deadline.map(|at| Deadline::At(worker.local.instant(at)));
        Self {
            body,
            open: Some(open),
            deadline,
            left: length,
        }
    }

    /// A body whose end nobody is told by it.
    pub fn untold(body: Body) -> Self {
        Self {
            body,
            open: None,
            deadline: None,
            left: None,
        }
    }

    fn end(&mut self, event: Event) {
        self.deadline = None;
        if let Some(open) = self.open.take() {
            open.end(event);
        }
    }

    /// Ready when time is up; what is left of the body is dropped then.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.deadline {
            Some(deadline) => ready!(deadline.poll(cx)),
            None => return Poll::Pending,
        }
        self.end(Event::Timer);
        self.body = Body::Empty;
        Poll::Ready(())
    }

    fn is_whole(&self) -> bool {
        self.left == Some(0) || http_body::Body::is_end_stream(&self.body)
    }

    fn pass(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let mut trailers = match frame.into_data() {
            Ok(data) => {
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(data.len() as u64);
                }
                return Frame::data(data);
            }
            Err(frame) => frame.into_trailers().unwrap_or_default(),
        };
        let status = grpc_status(&trailers);
        clean(&mut trailers);
        self.end(Event::ResponseEnd(status));
        Frame::trailers(trailers)
    }
}

impl http_body::Body for Relayed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if matches!(this.deadline, Some(Deadline::Timer(_))) && this.poll_late(cx).is_ready() {
            return Poll::Ready(Some(Err(BodyError::Late)));
        }
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            return this.poll_late(cx).map(|()| Some(Err(BodyError::Late)));
        };
        match frame {
            Some(Ok(frame)) => Poll::Ready(Some(Ok(this.pass(frame)))),
            Some(Err(error)) => {
                this.end(Event::ResponseReset);
                Poll::Ready(Some(Err(error)))
            }
            None => {
                this.end(Event::ResponseEnd(None));
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&self.body)
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        // Who sends a body does not ask for more once it has all of it.
        let whole = self.is_whole();
        self.end(if whole {
            Event::ResponseEnd(None)
        } else {
            Event::DownstreamGone
        });
    }
}

/// An answer of our own, counted. `judge`: the exchange that decided it, where there was one.
pub fn answer(
    reason: Reason,
    detail: Option<&str>,
    method: &Method,
    finish: Finish,
    judge: Option<(Exchange<'_>, Rc<Target>)>,
) -> Response<Relayed> {
    metrics::count_own_answer(reason, finish.direction);
    let grpc = finish.grpc();
    let (head, body) = reason.response(grpc, detail).into_parts();
    let judge = match judge {
        Some((exchange, target)) => Judge::Exchange(exchange.into_response(), target),
        None => Judge::Plain(Outcome {
            reason: Some(reason),
            status: Some(head.status),
            grpc: grpc.then(|| reason.grpc_status()),
            end: End::Complete,
            attempts: 0,
            retry_denied: None,
        }),
    };
    let body = if method == Method::HEAD {
        Bytes::new()
    } else {
        body
    };
    let open = Open {
        finish,
        judge,
        held: None,
    };
    Response::from_parts(head, Relayed::new(body.into(), open, None, None))
}
