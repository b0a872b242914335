//! The client's side of one delta xDS stream, as a machine without I/O.
//!
//! It holds which names are wanted, which the server has been told of on this stream, and which version of each is in
//! force; it says what to send next and what of a response to apply. Its rules:
//!
//! - Explicit names only. A first request that subscribes to nothing would mean "everything", so none is sent.
//! - Every response is answered exactly once, in order: by an ACK, or by a NACK that names the rejected resources.
//!   The others of that response are in force. A rejected one keeps its last good version, and that version is what
//!   a reconnect claims to hold, so the server sends the newer one again (once per stream, never in a loop).
//! - After a reconnect the first request of each kind says what is held; only the difference comes back.
//! - A name that is wanted again after it was let go is unsubscribed and subscribed in two requests, in this order: the
//!   server must send it anew, because we forgot it.
//! - Forgetting follows wanting: what isn't wanted isn't held, and what still arrives for a subscription that was let go
//!   is not applied.
//!
//! A stream delivers in order and whole; the state that belongs to it dies with [`Subscription::on_disconnected`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::resource::{Kind, Name, Resource};
use crate::time::Now;

/// Ceiling of the first wait before a reconnect.
pub const BACKOFF_BASE: Duration = Duration::from_millis(500);

/// Ceiling of any wait before a reconnect.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Shortest wait before a reconnect: full jitter alone could hammer a server that accepts and closes.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// All kinds, in the order in which requests leave.
const KINDS: [Kind; 6] = [
    Kind::Trust,
    Kind::Listener,
    Kind::Routes,
    Kind::Cluster,
    Kind::Endpoints,
    Kind::Hints,
];

/// A resource's version, opaque.
pub type Version = String;

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Of this kind.
    pub kind: Kind,
    /// Names to begin with.
    pub subscribe: Vec<Name>,
    /// Names to end with.
    pub unsubscribe: Vec<Name>,
    /// What is held; only in the first request of a kind on a stream.
    pub initial_versions: Vec<(Name, Version)>,
    /// The response that this answers.
    pub nonce: Option<String>,
    /// `None`: everything of that response was accepted.
    pub nack: Option<Nack>,
}

/// What of a response was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// For people.
    pub message: String,
    /// Each refused resource and why.
    pub rejected: Vec<(Name, String)>,
}

/// What a response brought; `resources` hold the reason where one could not be decoded.
#[derive(Clone, Debug)]
pub struct Response {
    /// Of this kind.
    pub kind: Kind,
    /// To be echoed.
    pub nonce: String,
    /// What is new.
    pub resources: Vec<(Name, Version, Result<Resource, String>)>,
    /// What does not exist, or not any more.
    pub removed: Vec<Name>,
}

/// What to put in force, in one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// New or changed.
    pub resources: Vec<Resource>,
    /// Wanted, and known not to exist.
    pub removed: Vec<(Kind, Name)>,
}

/// What is known of a wanted name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// A good version is in force.
    Held,
    /// The server said that it doesn't exist.
    Absent,
    /// Asked for, no usable answer yet.
    Pending,
}

/// One kind's part.
#[derive(Debug, Default)]
struct KindState {
    wanted: BTreeSet<Name>,
    held: BTreeMap<Name, Version>,
    absent: BTreeSet<Name>,
    /// What the server believes we are subscribed to on this stream.
    on_wire: BTreeSet<Name>,
    /// Of those: let go since. Each must be unsubscribed before it may be subscribed again.
    stale: BTreeSet<Name>,
    /// Responses not answered yet.
    answers: VecDeque<(String, Option<Nack>)>,
    /// Whether this stream has carried a request of this kind.
    begun: bool,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Subscription {
    kinds: BTreeMap<Kind, KindState>,
    connected: bool,
    /// Streams in a row that ended without a response.
    failures: u32,
    nacks: u64,
}

impl Subscription {
    /// Nothing wanted, not connected.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over what an earlier process held, before the first [`Self::set_wanted`]. Names that this one doesn't
    /// want are forgotten by it.
    pub fn restore(&mut self, known: impl IntoIterator<Item = (Kind, Name, Version)>) {
        for (kind, name, version) in known {
            self.kinds.entry(kind).or_default().held.insert(name, version);
        }
    }

    /// Says what is wanted from now on.
    pub fn set_wanted(&mut self, wanted: BTreeSet<(Kind, Name)>) {
        let mut by_kind: BTreeMap<Kind, BTreeSet<Name>> = BTreeMap::new();
        for (kind, name) in wanted {
            by_kind.entry(kind).or_default().insert(name);
        }
        for kind in KINDS {
            let wanted = by_kind.remove(&kind).unwrap_or_default();
            if !wanted.is_empty() || self.kinds.contains_key(&kind) {
                self.kinds.entry(kind).or_default().set_wanted(wanted);
            }
        }
    }

    /// A stream is open.
    pub fn on_connected(&mut self) {
        self.forget_stream();
        self.connected = true;
    }

    /// The stream ended, or could not be opened. Returns when to try again: exponential backoff, full jitter.
    pub fn on_disconnected(&mut self, now: Now, rng: &mut fastrand::Rng) -> Now {
        self.forget_stream();
        self.connected = false;
        let ceiling = BACKOFF_BASE
            .saturating_mul(1 << self.failures.min(16))
            .min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        now + ceiling.mul_f64(rng.f64()).max(BACKOFF_MIN)
    }

    /// The next request to send, until there is none.
    pub fn next_request(&mut self) -> Option<Request> {
        if !self.connected {
            return None;
        }
        KINDS
            .iter()
            .find_map(|kind| self.kinds.get_mut(kind)?.next_request(*kind))
    }

    /// Takes a response in; its answer is among the next requests.
    pub fn on_response(&mut self, response: Response) -> Applied {
        self.failures = 0;
        let applied = self.kinds.entry(response.kind).or_default().on_response(response);
        self.nacks += u64::from(applied.1);
        applied.0
    }

    /// What is known of a name.
    pub fn known(&self, kind: Kind, name: &str) -> Known {
        match self.kinds.get(&kind) {
            Some(state) if state.held.contains_key(name) => Known::Held,
            Some(state) if state.absent.contains(name) => Known::Absent,
            _ => Known::Pending,
        }
    }

    /// Everything held, with its version; what [`Self::restore`] takes.
    pub fn held(&self) -> impl Iterator<Item = (Kind, &Name, &str)> {
        self.kinds
            .iter()
            .flat_map(|(kind, state)| state.held.iter().map(|(n, v)| (*kind, n, v.as_str())))
    }

    /// Whether a stream is open.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Responses that were refused in part or whole, since the start.
    pub fn nacks(&self) -> u64 {
        self.nacks
    }

    fn forget_stream(&mut self) {
        for state in self.kinds.values_mut() {
            state.on_wire.clear();
            state.stale.clear();
            state.answers.clear();
            state.begun = false;
        }
    }
}

impl KindState {
    fn set_wanted(&mut self, wanted: BTreeSet<Name>) {
        self.held.retain(|name, _| wanted.contains(name));
        self.absent.retain(|name| wanted.contains(name));
        self.stale.extend(self.on_wire.difference(&wanted).cloned());
        self.wanted = wanted;
    }

    fn next_request(&mut self, kind: Kind) -> Option<Request> {
        let subscribe: Vec<Name> = self.wanted.difference(&self.on_wire).cloned().collect();
        let unsubscribe: Vec<Name> = std::mem::take(&mut self.stale).into_iter().collect();
        let answer = self.answers.pop_front();
        if subscribe.is_empty() && unsubscribe.is_empty() && answer.is_none() {
            return None;
        }
        let first = !std::mem::replace(&mut self.begun, true);
        let held = |name: &Name| self.held.get(name).map(|version| (name.clone(), version.clone()));
        let initial_versions = if first {
            subscribe.iter().filter_map(held).collect()
        } else {
            Vec::new()
        };
        for name in &unsubscribe {
            self.on_wire.remove(name);
        }
        self.on_wire.extend(subscribe.iter().cloned());
        let (nonce, nack) = answer.map_or((None, None), |(nonce, nack)| (Some(nonce), nack));
        Some(Request {
            kind,
            subscribe,
            unsubscribe,
            initial_versions,
            nonce,
            nack,
        })
    }

    /// Whether news of this name belong to the subscription that is in force, not to one that was let go.
    fn expects(&self, name: &Name) -> bool {
        self.wanted.contains(name) && self.on_wire.contains(name) && !self.stale.contains(name)
    }

    /// Returns what applies, and whether anything was refused.
    fn on_response(&mut self, response: Response) -> (Applied, bool) {
        let mut applied = Applied::default();
        let mut rejected = Vec::new();
        for (name, version, resource) in response.resources {
            match resource {
                Err(why) => rejected.push((name, why)),
                Ok(resource) if self.expects(&name) => {
                    self.absent.remove(&name);
                    self.held.insert(name, version);
                    applied.resources.push(resource);
                }
                Ok(_) => {}
            }
        }
        for name in response.removed {
            if self.expects(&name) {
                self.held.remove(&name);
                self.absent.insert(name.clone());
                applied.removed.push((response.kind, name));
            }
        }
        let nack = nack(rejected);
        let refused = nack.is_some();
        self.answers.push_back((response.nonce, nack));
        (applied, refused)
    }
}

fn nack(rejected: Vec<(Name, String)>) -> Option<Nack> {
    let (name, why) = rejected.first()?;
    let message = match rejected.len() {
        1 => format!("`{name}` was rejected: {why}"),
        more => format!("{more} resources were rejected, the first is `{name}`: {why}"),
    };
    Some(Nack { message, rejected })
}

#[cfg(test)]
mod tests;
