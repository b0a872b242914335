//! One request's life, from its head to the end of its response.
//!
//! The shell performs actions and reports events; this machine decides what comes next. One action is outstanding at
//! any time, and the next event answers it:
//!
//! ```text
//! Start ─▶ Attempt ─ AttemptFailed, Timer, ResponseHead ─▶ Attempt | Wait | Forward | Respond
//!          Wait    ─ Timer ─▶ Attempt | Respond
//!          Forward ─ ResponseEnd, ResponseReset, Timer ─▶ Done
//!          Respond ─ ResponseEnd ─▶ Done
//!          (any)   ─ DownstreamGone ─▶ Done
//! ```
//!
//! An action that answers a response head with anything but `Forward` means: drop that response. `Timer` is reported
//! when the moment that the outstanding action names has come. What holds throughout: each endpoint that was acquired
//! is released once; nothing follows a forwarded head but its end; attempts are bounded by the policy, so a machine
//! whose every action is answered reaches `Done`, once. A machine that is dropped half-way leaks nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};
use smallvec::SmallVec;

use crate::budget;
use crate::cluster::{ClusterState, Pick, Unavailable};
use crate::deadline;
use crate::lease::{Lease, Verdict};
use crate::limit::Permit;
use crate::outcome::{End, Outcome, Reason, RetryDenied, grpc_failed};
use crate::resource::{Endpoint, Retry};
use crate::retry::{self, Attempted, Decision, Failure, Head};
use crate::time::Now;

/// Longest request body that is kept for a second attempt, in bytes. The shell counts, and reports
/// [`Exchange::body_overflowed`].
pub const REPLAY_BUFFER: usize = 64 * 1024;

/// What a request's head and its route say about it.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The method.
    pub method: &'a Method,
    /// It is a gRPC call.
    pub grpc: bool,
    /// The route's retries; `None`: the cluster's default.
    pub retry: Option<&'a Retry>,
    /// The route's limit for the whole exchange.
    pub timeout: Option<Duration>,
    /// The route's limit for one attempt.
    pub attempt_timeout: Option<Duration>,
    /// What the caller said in `grpc-timeout`.
    pub grpc_timeout: Option<Duration>,
    /// Hash of the key, for consistent hashing.
    pub hash: Option<u64>,
    /// Which attempt of the hop before this request is; 1 for a caller that doesn't say.
    pub peer_attempt: u32,
}

impl<'a> Terms<'a> {
    /// Those of a request of which nothing special is said.
    pub fn new(method: &'a Method) -> Self {
        Self {
            method,
            grpc: false,
            retry: None,
            timeout: None,
            attempt_timeout: None,
            grpc_timeout: None,
            hash: None,
            peer_attempt: 1,
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The request is there.
    Start,
    /// The attempt ended without a usable response head.
    AttemptFailed(Failure),
    /// The attempt's response head; not an interim one (1xx other than 101).
    ResponseHead(Head),
    /// The moment that the outstanding action names.
    Timer,
    /// The response was sent to its end. With the `grpc-status` of its trailers.
    ResponseEnd(Option<u32>),
    /// The endpoint broke off its response.
    ResponseReset,
    /// Who asked is not there any more.
    DownstreamGone,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send the request, from the start of its body.
    Attempt {
        /// Where to.
        endpoint: Arc<Endpoint>,
        /// Value of [`crate::hygiene::ATTEMPT`]: counted on from the hop before.
        number: u32,
        /// Report [`Event::Timer`] then.
        deadline: Option<Now>,
    },
    /// Do nothing, and report [`Event::Timer`] then.
    Wait {
        /// The moment.
        until: Now,
    },
    /// Send the response's head and then all of it.
    Forward {
        /// Report [`Event::Timer`] then.
        deadline: Option<Now>,
    },
    /// Answer by ourselves.
    Respond(Reason),
    /// It is over. A response that is not complete is to be reset.
    Done(Outcome),
}

#[derive(Debug)]
enum State {
    Idle,
    Attempting(Lease),
    Waiting,
    Forwarding(Lease, Head),
    Responding(Reason),
    Done,
}

/// See the module's head.
#[derive(Debug)]
pub struct Exchange<'a> {
    terms: Terms<'a>,
    state: State,
    /// Of the whole exchange.
    overall: Option<Now>,
    /// The caller's, which `overall` never passes.
    caller: Option<Now>,
    /// Of what is outstanding; never later than `overall`.
    current: Option<Now>,
    attempts: u32,
    tried: SmallVec<[SocketAddr; 4]>,
    /// The running retry's place in the budget.
    permit: Option<Permit>,
    replayable: bool,
    last_failure: Option<Reason>,
    denied: Option<RetryDenied>,
}

impl<'a> Exchange<'a> {
    /// A request whose head was complete at `start`.
    pub fn new(start: Now, terms: Terms<'a>) -> Self {
        // Unlike a route's, a caller's limit of zero is a limit: it has already passed.
        let caller = terms.grpc_timeout.map(|timeout| start + timeout);
        Self {
            terms,
            state: State::Idle,
            overall: deadline::earlier(deadline::after(start, terms.timeout), caller),
            caller,
            current: None,
            attempts: 0,
            tried: SmallVec::new(),
            permit: None,
            replayable: true,
            last_failure: None,
            denied: None,
        }
    }

    /// The same exchange once its answer is decided (`Forward`, `Respond`): no attempt follows, so it needs nothing of
    /// the request and its route any more, and may live as long as the response's body.
    pub fn into_response(self) -> Exchange<'static> {
        debug_assert!(matches!(
            self.state,
            State::Forwarding(..) | State::Responding(_) | State::Done
        ));
        let terms = Terms {
            method: &Method::GET,
            retry: None,
            ..self.terms
        };
        Exchange {
            terms,
            state: self.state,
            overall: self.overall,
            caller: self.caller,
            current: self.current,
            attempts: self.attempts,
            tried: self.tried,
            permit: self.permit,
            replayable: self.replayable,
            last_failure: self.last_failure,
            denied: self.denied,
        }
    }

    /// More of the request's body was sent than [`REPLAY_BUFFER`] keeps.
    pub fn body_overflowed(&mut self) {
        self.replayable = false;
    }

    /// The attempt that is under way had its connection `at` this moment, and was sent: the endpoint's latency counts
    /// from here.
    pub fn sent(&mut self, at: Now) {
        if let State::Attempting(lease) = &mut self.state {
            lease.sent(at);
        }
    }

    /// What to write into `grpc-timeout` of the attempt that begins now; `None`: leave it as it came.
    pub fn grpc_timeout(&self, now: Now) -> Option<HeaderValue> {
        let deadline = self.current.filter(|_| self.terms.grpc)?;
        Some(deadline::write_grpc_timeout(deadline.since(now)))
    }

    /// Takes in what happened and says what to do. `cluster` is the same one throughout.
    pub fn step(
        &mut self,
        event: Event,
        now: Now,
        rng: &mut fastrand::Rng,
        cluster: &mut ClusterState,
    ) -> Action {
        match (std::mem::replace(&mut self.state, State::Done), event) {
            (State::Idle, Event::Start) | (State::Waiting, Event::Timer) => self.attempt(now, rng, cluster),
            (State::Attempting(lease), Event::AttemptFailed(failure)) => {
                self.failed(lease, failure, now, rng, cluster)
            }
            (State::Attempting(lease), Event::Timer) if self.current == self.overall => {
                cluster.release(lease, now, self.late());
                self.respond(Reason::RequestTimeout)
            }
            (State::Attempting(lease), Event::Timer) => {
                self.failed(lease, Failure::TimedOut, now, rng, cluster)
            }
            (State::Attempting(lease), Event::ResponseHead(head)) => {
                self.answered(lease, head, now, rng, cluster)
            }
            (
                State::Forwarding(lease, head),
                event @ (Event::ResponseEnd(_) | Event::ResponseReset | Event::Timer),
            ) => self.forwarded(lease, head, event, now, cluster),
            (State::Responding(reason), Event::ResponseEnd(_)) => self.responded(reason),
            (state, Event::DownstreamGone) if !matches!(state, State::Done) => self.gone(state, now, cluster),
            (state, event) => {
                debug_assert!(false, "{event:?} does not answer {state:?}");
                self.gone(state, now, cluster)
            }
        }
    }

    /// The next attempt, if there is time and an endpoint for it.
    fn attempt(&mut self, now: Now, rng: &mut fastrand::Rng, cluster: &mut ClusterState) -> Action {
        if self.overall.is_some_and(|overall| overall <= now) {
            return self.respond(Reason::RequestTimeout);
        }
        let pick = Pick {
            hash: self.terms.hash,
            avoid: &self.tried,
        };
        let lease = match cluster.acquire(now, rng, &pick) {
            Ok(lease) => lease,
            // The failure that was seen tells more than the want of another endpoint.
            Err(why) => return self.respond(self.last_failure.unwrap_or_else(|| unavailable(why))),
        };
        let endpoint = Arc::clone(lease.endpoint());
        if !self.tried.contains(&endpoint.address) {
            self.tried.push(endpoint.address);
        }
        self.attempts += 1;
        self.current = deadline::earlier(self.overall, deadline::after(now, self.terms.attempt_timeout));
        self.state = State::Attempting(lease);
        let number = self.terms.peer_attempt.saturating_add(self.attempts - 1);
        Action::Attempt {
            endpoint,
            number,
            deadline: self.current,
        }
    }

    fn failed(
        &mut self,
        lease: Lease,
        failure: Failure,
        now: Now,
        rng: &mut fastrand::Rng,
        cluster: &mut ClusterState,
    ) -> Action {
        self.last_failure = Some(failure.reason());
        let wait = self.grant(Attempted::Failed(failure), now, rng, cluster);
        // A limit of our own says nothing about the endpoint.
        let ours = failure == Failure::Overloaded;
        cluster.release(
            lease,
            now,
            if ours {
                Verdict::Cancelled
            } else {
                Verdict::Failure
            },
        );
        match wait {
            Some(wait) => self.again(wait, now, rng, cluster),
            None => self.respond(failure.reason()),
        }
    }

    fn answered(
        &mut self,
        mut lease: Lease,
        head: Head,
        now: Now,
        rng: &mut fastrand::Rng,
        cluster: &mut ClusterState,
    ) -> Action {
        if let Some(wait) = self.grant(Attempted::Answered(head), now, rng, cluster) {
            let verdict = if head.is_failure() {
                Verdict::Failure
            } else {
                Verdict::Success
            };
            cluster.release(lease, now, verdict);
            self.last_failure = None;
            return self.again(wait, now, rng, cluster);
        }
        if !head.is_failure() {
            cluster.responded(&mut lease, now);
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // The exchange is over for HTTP; what follows belongs to the upgrade and has no limit.
            self.current = None;
        }
        self.state = State::Forwarding(lease, head);
        Action::Forward {
            deadline: self.current,
        }
    }

    fn again(
        &mut self,
        wait: Duration,
        now: Now,
        rng: &mut fastrand::Rng,
        cluster: &mut ClusterState,
    ) -> Action {
        if wait.is_zero() {
            return self.attempt(now, rng, cluster);
        }
        self.state = State::Waiting;
        Action::Wait { until: now + wait }
    }

    /// The end of a response that was forwarded.
    fn forwarded(
        &mut self,
        lease: Lease,
        head: Head,
        event: Event,
        now: Now,
        cluster: &mut ClusterState,
    ) -> Action {
        let (reason, verdict) = match event {
            Event::ResponseReset => (Reason::UpstreamReset, Verdict::Failure),
            Event::Timer if self.current == self.overall => (Reason::RequestTimeout, self.late()),
            Event::Timer => (Reason::AttemptTimeout, Verdict::Failure),
            Event::ResponseEnd(trailers) => {
                let grpc = head.grpc.or(trailers).filter(|_| self.terms.grpc);
                let failed = head.is_failure() || grpc.is_some_and(grpc_failed);
                let verdict = if failed {
                    Verdict::Failure
                } else {
                    Verdict::Success
                };
                cluster.release(lease, now, verdict);
                return self.done(None, Some(head.status), grpc, End::Complete);
            }
            _ => return self.gone(State::Forwarding(lease, head), now, cluster),
        };
        cluster.release(lease, now, verdict);
        self.done(Some(reason), Some(head.status), None, End::UpstreamReset)
    }

    /// The end of an answer of our own.
    fn responded(&mut self, reason: Reason) -> Action {
        let grpc = self.terms.grpc.then(|| reason.grpc_status());
        let status = if self.terms.grpc {
            StatusCode::OK
        } else {
            reason.status()
        };
        self.done(Some(reason), Some(status), grpc, End::Complete)
    }

    fn decide(&self, ended: Attempted, cluster: &ClusterState) -> Decision {
        let request = retry::Request {
            policy: self.terms.retry.unwrap_or(&cluster.config().default_retry),
            idempotent: retry::is_idempotent(self.terms.method),
            grpc: self.terms.grpc,
            replayable: self.replayable,
            attempts: self.attempts,
            peer_attempt: self.terms.peer_attempt,
        };
        retry::decide(&request, ended)
    }

    /// The wait before another attempt, if one is right and there is time and budget for it. To be asked while the ended
    /// attempt still counts as running: the request does.
    fn grant(
        &mut self,
        ended: Attempted,
        now: Now,
        rng: &mut fastrand::Rng,
        cluster: &ClusterState,
    ) -> Option<Duration> {
        self.permit = None;
        let (budgeted, ceiling, at_least) = match self.decide(ended, cluster) {
            Decision::Retry {
                budgeted,
                ceiling,
                at_least,
            } => (budgeted, ceiling, at_least),
            Decision::Stop(denied) => {
                self.denied = denied;
                return None;
            }
        };
        let wait = ceiling.mul_f64(rng.f64()).max(at_least);
        if self.overall.is_some_and(|overall| now + wait >= overall) {
            self.denied = Some(RetryDenied::Deadline);
            return None;
        }
        self.permit = budget::take(&cluster.config().retry_budget, cluster.shared());
        if budgeted && self.permit.is_none() {
            self.denied = Some(RetryDenied::Budget);
            return None;
        }
        Some(wait)
    }

    /// What a passed deadline says about the endpoint: nothing when the caller's impatience set it.
    fn late(&self) -> Verdict {
        if self.current == self.caller {
            Verdict::Cancelled
        } else {
            Verdict::Failure
        }
    }

    fn respond(&mut self, reason: Reason) -> Action {
        self.permit = None;
        self.state = State::Responding(reason);
        Action::Respond(reason)
    }

    fn gone(&mut self, state: State, now: Now, cluster: &mut ClusterState) -> Action {
        let (reason, status) = match state {
            State::Attempting(lease) => {
                cluster.release(lease, now, Verdict::Cancelled);
                (None, None)
            }
            State::Forwarding(lease, head) => {
                cluster.release(lease, now, Verdict::Cancelled);
                (None, Some(head.status))
            }
            State::Responding(reason) => (Some(reason), None),
            State::Idle | State::Waiting | State::Done => (None, None),
        };
        self.done(reason, status, None, End::DownstreamGone)
    }

    fn done(
        &mut self,
        reason: Option<Reason>,
        status: Option<StatusCode>,
        grpc: Option<u32>,
        end: End,
    ) -> Action {
        self.permit = None;
        self.state = State::Done;
        Action::Done(Outcome {
            reason,
            status,
            grpc,
            end,
            attempts: self.attempts,
            retry_denied: self.denied,
        })
    }
}

fn unavailable(why: Unavailable) -> Reason {
    match why {
        Unavailable::NoEndpoints => Reason::NoEndpoint,
        Unavailable::EndpointsOpen | Unavailable::ServiceOpen => Reason::CircuitOpen,
        Unavailable::TooManyRequests => Reason::Overloaded,
    }
}

#[cfg(test)]
mod tests;
