//! One xDS stream as the server sees it: requests, catalog changes and acknowledgements go in, responses come out.
//!
//! The machine speaks both variants of ADS. It knows what its client asked for, what the catalog says about each of
//! those names, and what the client holds; whatever differs is *due*. Everything follows from that one comparison:
//!
//! - **Delta.** A name that doesn't exist is answered as removed, its later creation is a difference like any other.
//!   A client that says which versions it holds is sent only what differs, so neither side's restart sends anything
//!   unchanged. An unsubscription isn't answered. A subscription that is repeated on a stream is answered again: the
//!   client may have dropped the resource in between.
//! - **State of the world.** A new stream gets one full answer per type. Afterwards a change of listeners or clusters
//!   sends all subscribed ones (leaving one out deletes it), a change of any other type only what changed. A request
//!   counts as the client's subscription only when it carries the newest nonce.
//! - **Rejection.** A NACK that lists resources rejects those, and the rest of the response counts as accepted; one
//!   without a list rejects the whole response. What was rejected is not sent again until its content changes; what
//!   was rejected along with it, when either changes.
//! - **Order.** Additions by [`Kind`]'s order, then removals in the opposite order: nothing is named before it is
//!   known, nothing goes while it is named. Responses may be under way together ([`OUTSTANDING_MAX`] of them), so the
//!   order holds without waiting for the client; beyond that number changes coalesce.
//!
//! It doesn't decide what a client may read (see [`crate::rights`]), and holds bodies only as shared bytes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use thiserror::Error;

use crate::resource::{Kind, Name};
use crate::version::Version;

mod subscription;
#[cfg(test)]
mod tests;

use subscription::{Answer, Held, Subscriptions, Verdict};

/// Names that one stream may subscribe to, over all types.
pub const NAMES_MAX: usize = 65_536;

/// Bytes of a resource name.
pub const NAME_BYTES_MAX: usize = 512;

/// Responses under way on one stream that the client hasn't answered.
pub const OUTSTANDING_MAX: usize = 32;

/// Bytes of bodies in one response, beyond which the rest goes into another one (a body is never cut; a full state of
/// the world can't be).
pub const RESPONSE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a client's own words that are kept.
pub const REASON_BYTES_MAX: usize = 1024;

/// Every kind, in the order of sending.
pub const KINDS: [Kind; 6] = [
    Kind::Cluster,
    Kind::Endpoints,
    Kind::Listener,
    Kind::Route,
    Kind::Secret,
    Kind::Hints,
];

/// Which of the two protocols the stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Incremental: resources by name, each with a version.
    Delta,
    /// Every request lists all names, a response has one version.
    StateOfTheWorld,
}

/// A resource as it goes to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Names the content.
    pub version: Version,
    /// The encoded resource, shared by all streams that send it.
    pub body: Arc<[u8]>,
}

/// A request, of either variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The type it is about.
    pub kind: Kind,
    /// The response that it answers; empty: none.
    pub nonce: String,
    /// Why that response was rejected; `None`: it was accepted.
    pub rejection: Option<Rejection>,
    /// The change of the subscription.
    pub names: Names,
}

/// What a request says about names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// Delta.
    Change {
        /// Names from now on; `*` is everything.
        subscribe: Vec<Name>,
        /// Names no longer.
        unsubscribe: Vec<Name>,
        /// What the client holds from an earlier stream: versions in the client's own spelling.
        held: BTreeMap<Name, String>,
    },
    /// State of the world: all of them.
    All(Vec<Name>),
}

/// A NACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The client's words.
    pub message: String,
    /// Only these were rejected, each with a reason; empty: the whole response.
    pub resources: Vec<(Name, String)>,
}

/// What a request asks of the catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Names to look up and to follow: each is answered by [`Session::update`].
    pub subscribe: Vec<Name>,
    /// Names to follow no longer. While everything of the type is followed, each is answered by [`Session::update`] too:
    /// it may be a part of everything.
    pub unsubscribe: Vec<Name>,
    /// Follow everything of this type from now on (answered by [`Session::all`]), or no longer.
    pub wildcard: Option<bool>,
}

/// What the client said about one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its name.
    pub name: Name,
    /// The content in question; `None`: its absence.
    pub version: Option<Version>,
    /// The reason, if it was rejected.
    pub rejected: Option<Arc<str>>,
}

/// What came of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// For the catalog.
    pub interest: Interest,
    /// For the ledger of acknowledgements, oldest first.
    pub receipts: Vec<Receipt>,
}

/// A response to send now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its type.
    pub kind: Kind,
    /// Its nonce, unique on this stream.
    pub nonce: String,
    /// The version of the whole (state of the world only): a hash of the names and versions in it.
    pub version: Version,
    /// New or changed, ascending by name.
    pub resources: Vec<(Name, Content)>,
    /// Gone, or never there (delta only), ascending.
    pub removed: Vec<Name>,
}

/// Why a stream is ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// Too many names.
    #[error(
        "the client subscribes to, or says that it holds, more than {NAMES_MAX} names on one stream; it should ask for \
         what it uses"
    )]
    TooManyNames,
    /// A name of a wrong length.
    #[error("a resource name of {0} bytes; names have 1 to {NAME_BYTES_MAX} bytes")]
    NameLength(usize),
    /// Everything, from a client that has to name what it wants.
    #[error("{0:?}: this client may not ask for everything (`*`); it has to name what it uses")]
    Wildcard(Kind),
    /// A delta request on a state-of-the-world stream, or the reverse.
    #[error("the request belongs to the other variant of the protocol")]
    Variant,
}

/// A response that the client hasn't answered yet.
#[derive(Debug)]
struct Sent {
    nonce: u64,
    kind: Kind,
    items: Vec<(Name, Held)>,
}

/// One stream. Feed it with [`Session::request`], [`Session::update`] and [`Session::all`], and after each of them
/// send what [`Session::next_response`] returns until it returns `None`.
#[derive(Debug)]
pub struct Session {
    variant: Variant,
    wildcard_allowed: bool,
    kinds: BTreeMap<Kind, Subscriptions>,
    outstanding: VecDeque<Sent>,
    /// Of the newest response.
    nonce: u64,
}

impl Session {
    /// A new stream; `wildcard_allowed`: its client may ask for all listeners and clusters.
    pub fn new(variant: Variant, wildcard_allowed: bool) -> Self {
        Self {
            variant,
            wildcard_allowed,
            kinds: BTreeMap::new(),
            outstanding: VecDeque::new(),
            nonce: 0,
        }
    }

    /// Takes a request: first the acknowledgement in it, then the change of the subscription.
    pub fn request(&mut self, request: Request) -> Result<Turn, ProtocolError> {
        let mut turn = Turn::default();
        self.acknowledge(&request, &mut turn.receipts);
        match (self.variant, request.names) {
            (
                Variant::Delta,
                Names::Change {
                    subscribe,
                    unsubscribe,
                    held,
                },
            ) => {
                let wildcard = self.wildcard_of(request.kind, &subscribe, subscribe.is_empty())?;
                if held.len() > NAMES_MAX {
                    return Err(ProtocolError::TooManyNames);
                }
                let nonce = self.nonce;
                let subscriptions = self.kinds.entry(request.kind).or_default();
                subscriptions.unsubscribe(&unsubscribe, &mut turn.interest);
                subscriptions.subscribe(subscribe, wildcard, &held, nonce, &mut turn);
            }
            (Variant::StateOfTheWorld, Names::All(names)) => {
                let current = self.kinds.get(&request.kind).map_or(0, |one| one.last_nonce);
                let first = !self.kinds.contains_key(&request.kind);
                if first || is_nonce(&request.nonce, current) {
                    let keeps = self
                        .kinds
                        .get(&request.kind)
                        .is_none_or(Subscriptions::legacy_wildcard);
                    let wildcard = self.wildcard_of(request.kind, &names, names.is_empty() && keeps)?;
                    let nonce = self.nonce;
                    let subscriptions = self.kinds.entry(request.kind).or_default();
                    subscriptions.replace(names, wildcard, nonce, &mut turn);
                } else if let Some(subscriptions) = self.kinds.get_mut(&request.kind) {
                    subscriptions.outdated(&names);
                }
            }
            _ => return Err(ProtocolError::Variant),
        }
        let grows = !turn.interest.subscribe.is_empty();
        if grows && self.kinds.values().map(Subscriptions::asked).sum::<usize>() > NAMES_MAX {
            return Err(ProtocolError::TooManyNames);
        }
        Ok(turn)
    }

    /// The catalog says what `name` is now; `None`: it doesn't exist. What nobody asked for is ignored.
    pub fn update(&mut self, kind: Kind, name: &Name, content: Option<Content>) {
        if let Some(subscriptions) = self.kinds.get_mut(&kind) {
            subscriptions.update(name, content);
        }
    }

    /// The catalog answers a wildcard: these are all that exist. Later changes come by [`Session::update`].
    pub fn all(&mut self, kind: Kind, resources: Vec<(Name, Content)>) {
        if let Some(subscriptions) = self.kinds.get_mut(&kind) {
            subscriptions.all(resources);
        }
    }

    /// The next response that is due, if the client isn't too far behind.
    pub fn next_response(&mut self) -> Option<Response> {
        if self.outstanding.len() >= OUTSTANDING_MAX {
            return None;
        }
        let additions = KINDS.iter().map(|&kind| (kind, false));
        let removals = KINDS.iter().rev().map(|&kind| (kind, true));
        let (kind, answer) = additions
            .chain(removals)
            .find_map(|(kind, removals)| Some((kind, self.answer(kind, removals)?)))?;
        Some(self.respond(kind, answer))
    }

    fn answer(&mut self, kind: Kind, removals: bool) -> Option<Answer> {
        let subscriptions = self.kinds.get_mut(&kind)?;
        let full_state = matches!(kind, Kind::Listener | Kind::Cluster);
        match (self.variant, removals) {
            (Variant::StateOfTheWorld, _) if full_state => subscriptions.full_state(removals),
            (Variant::Delta, true) => subscriptions.removals(),
            (Variant::StateOfTheWorld, true) => None,
            (_, false) => subscriptions.changes(),
        }
    }

    fn respond(&mut self, kind: Kind, answer: Answer) -> Response {
        self.nonce += 1;
        let nonce = self.nonce;
        let parts: Vec<(&str, u64)> = answer
            .resources
            .iter()
            .map(|(name, content)| (&**name, content.version.as_u64()))
            .collect();
        let version = Version::of(&parts);
        if let Some(subscriptions) = self.kinds.get_mut(&kind) {
            subscriptions.sent(&answer.items, nonce);
        }
        self.outstanding.push_back(Sent {
            nonce,
            kind,
            items: answer.items,
        });
        Response {
            kind,
            nonce: nonce.to_string(),
            version,
            resources: answer.resources,
            removed: answer.removed,
        }
    }

    /// Settles the response that the request answers. Older ones of its type that were never answered count as
    /// accepted: clients take responses in order, and a rejection is always said.
    fn acknowledge(&mut self, request: &Request, receipts: &mut Vec<Receipt>) {
        let Ok(nonce) = request.nonce.parse::<u64>() else {
            return;
        };
        let known = |sent: &Sent| sent.nonce == nonce && sent.kind == request.kind;
        if !self.outstanding.iter().any(known) {
            return;
        }
        let (settled, waiting): (Vec<_>, Vec<_>) = self
            .outstanding
            .drain(..)
            .partition(|sent| sent.kind == request.kind && sent.nonce <= nonce);
        self.outstanding = waiting.into();
        let Some(subscriptions) = self.kinds.get_mut(&request.kind) else {
            return;
        };
        for sent in settled {
            let rejection = request.rejection.as_ref().filter(|_| sent.nonce == nonce);
            let again = !subscriptions.is_current(&sent.items);
            for (name, held) in sent.items {
                let verdict =
                    rejection.map_or(Verdict::Accepted, |rejection| rejection.verdict(&name, again));
                receipts.extend(subscriptions.settle(name, held, sent.nonce, verdict));
            }
        }
    }

    /// Whether this subscription asks for everything: by `*`, or the old way by a first request without names.
    fn wildcard_of(&self, kind: Kind, names: &[Name], empty: bool) -> Result<bool, ProtocolError> {
        let allowed = self.wildcard_allowed && matches!(kind, Kind::Listener | Kind::Cluster);
        for name in names {
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                return Err(ProtocolError::NameLength(name.len()));
            }
            if &**name == "*" && !allowed {
                return Err(ProtocolError::Wildcard(kind));
            }
        }
        let first = self.variant == Variant::StateOfTheWorld || !self.kinds.contains_key(&kind);
        Ok(allowed && (names.iter().any(|name| &**name == "*") || (first && empty)))
    }
}

impl Rejection {
    /// What it says about `name`.
    fn verdict(&self, name: &Name, again: bool) -> Verdict {
        if self.resources.is_empty() {
            return Verdict::Along {
                reason: cut(&self.message).into(),
                again,
            };
        }
        match self.resources.iter().find(|(rejected, _)| rejected == name) {
            Some((_, reason)) => Verdict::Blamed(cut(reason).into()),
            None => Verdict::Accepted,
        }
    }
}

fn is_nonce(text: &str, nonce: u64) -> bool {
    match nonce {
        0 => text.is_empty(),
        _ => text.parse() == Ok(nonce),
    }
}

/// At most [`REASON_BYTES_MAX`] bytes of `text`, whole characters.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(REASON_BYTES_MAX)]
}
