//! Which connection the next request takes, when another is opened, and when one is retired.
//!
//! One [`Pool`] stands for one key: dialled address and port, expected identity, protocol, worker. It knows connections by
//! number only; the shell makes, keeps and loses them, and reports. A connection's life:
//!
//! ```text
//! opening ─▶ fresh ─ lead time before its end ─▶ aging ─ its end ─▶ retired ─ last stream over ─▶ closed
//!              └────────────── GOAWAY, connection lost ──────────────▶┘
//! ```
//!
//! Its end is the earlier expiry of the two leaves it was made with: from then on it takes no new request, while
//! streams that run on it end by themselves. So that nobody waits for a handshake at that moment, a successor is
//! opened [lead time](LEAD) before. Requests go to the oldest fresh connection with room, so that those which load no
//! longer needs fall idle and close; to an aging one only while there is no fresh one.
//!
//! What holds: never more streams on a connection than it allows; no request on a retired one; at most as many
//! connections opening as the waiting requests need, and one successor per connection.

use std::collections::BTreeMap;
use std::time::Duration;

use smallvec::SmallVec;

use crate::time::Now;

/// Requests at once on one shared HTTP/2 connection.
pub const HTTP2_STREAMS: u32 = 256;

/// How long before its end a connection's successor is opened; less for a connection whose whole life is short.
pub const LEAD: Duration = Duration::from_secs(10);

/// The lead is at most this fraction of a connection's life.
const LEAD_FRACTION: u32 = 4;

/// How long an unused HTTP/2 connection between sidecars is kept.
pub const HTTP2_IDLE: Duration = Duration::from_mins(5);

/// How long an unused HTTP/1 connection to an application is kept: shorter than common servers keep theirs.
pub const HTTP1_IDLE: Duration = Duration::from_secs(4);

/// A connection of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// What kind of connections a pool holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Requests at once on one connection; 1 or more.
    pub streams: u32,
    /// How long an unused connection is kept.
    pub idle: Duration,
}

impl Settings {
    /// Shared HTTP/2.
    pub const HTTP2: Self = Self {
        streams: HTTP2_STREAMS,
        idle: HTTP2_IDLE,
    };
    /// HTTP/1, one request at a time.
    pub const HTTP1: Self = Self {
        streams: 1,
        idle: HTTP1_IDLE,
    };
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// It goes on this connection, and counts there until [`Pool::release`].
    Use(ConnectionId),
    /// Open this connection, wait for it, and ask again.
    Open(ConnectionId),
    /// Wait for what is being opened, or for a place, and ask again.
    Wait,
}

/// What is to be done without a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// Open this connection: a successor.
    Open(ConnectionId),
    /// Close this connection: nothing runs on it, and nothing will. The pool has forgotten it.
    Close(ConnectionId),
}

#[derive(Debug)]
struct Member {
    stage: Stage,
    streams: u32,
    idle_since: Now,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    Open {
        /// At most this many streams.
        room: u32,
        /// The end: from then on no new request.
        end: Option<Now>,
        /// From then on a successor is wanted.
        aging: Option<Now>,
        /// One was asked for.
        succeeded: bool,
    },
    /// Refused further requests by itself.
    Drained,
}

impl Stage {
    fn is_fresh(self, now: Now) -> bool {
        matches!(self, Self::Open { aging, .. } if aging.is_none_or(|at| now < at))
    }

    fn takes(self, now: Now, streams: u32) -> bool {
        matches!(self, Self::Open { room, end, .. } if streams < room && end.is_none_or(|at| now < at))
    }

    fn is_retired(self, now: Now) -> bool {
        match self {
            Self::Opening => false,
            Self::Open { end, .. } => end.is_some_and(|at| at <= now),
            Self::Drained => true,
        }
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct Pool {
    settings: Settings,
    members: BTreeMap<ConnectionId, Member>,
    next: u64,
}

impl Pool {
    /// An empty one.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            members: BTreeMap::new(),
            next: 0,
        }
    }

    /// Where a request goes. `waiting`: how many others wait for a connection of this pool already.
    pub fn take(&mut self, now: Now, waiting: u32) -> Take {
        let takes = |(_, member): &(&ConnectionId, &mut Member)| member.stage.takes(now, member.streams);
        let best = self
            .members
            .iter_mut()
            .filter(takes)
            .min_by_key(|(id, member)| (!member.stage.is_fresh(now), **id));
        if let Some((id, member)) = best {
            member.streams += 1;
            return Take::Use(*id);
        }
        let opening = self.count(|member| member.stage == Stage::Opening);
        if opening.saturating_mul(self.settings.streams) > waiting {
            return Take::Wait;
        }
        Take::Open(self.open(now))
    }

    /// A connection is ready. `end`: the earlier expiry of both leaves; `None`: it has none. `room`: how many streams
    /// the peer allows at once. Returns false for one that is at its end already: it takes no request.
    pub fn opened(&mut self, id: ConnectionId, now: Now, end: Option<Now>, room: u32) -> bool {
        let room = room.clamp(1, self.settings.streams);
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        let aging = end.map(|end| end - LEAD.min(end.since(now) / LEAD_FRACTION));
        member.stage = Stage::Open {
            room,
            end,
            aging,
            succeeded: false,
        };
        member.idle_since = now;
        member.stage.takes(now, member.streams)
    }

    /// The peer allows another number of streams at once.
    pub fn room_changed(&mut self, id: ConnectionId, allowed: u32) {
        let most = self.settings.streams;
        if let Some(Member {
            stage: Stage::Open { room, .. },
            ..
        }) = self.members.get_mut(&id)
        {
            *room = allowed.clamp(1, most);
        }
    }

    /// The peer takes no further request on it (GOAWAY, `Connection: close`); what runs goes on. True: nothing runs, it
    /// can be closed and is forgotten.
    pub fn drained(&mut self, id: ConnectionId, now: Now) -> bool {
        if let Some(member) = self.members.get_mut(&id) {
            member.stage = Stage::Drained;
        }
        self.forget_if_over(id, now)
    }

    /// It could not be opened, or is gone. What ran on it is not released any more.
    pub fn lost(&mut self, id: ConnectionId) {
        self.members.remove(&id);
    }

    /// A request on it has ended. True: nothing runs on it and nothing will, it can be closed and is forgotten.
    pub fn release(&mut self, id: ConnectionId, now: Now) -> bool {
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        debug_assert!(member.streams > 0, "a stream was released twice");
        member.streams = member.streams.saturating_sub(1);
        member.idle_since = now;
        self.forget_if_over(id, now)
    }

    /// What is due. To be asked at [`Pool::due`], or now and then.
    pub fn upkeep(&mut self, now: Now) -> SmallVec<[Upkeep; 4]> {
        let mut done = SmallVec::new();
        if self.take_over(now) {
            done.push(Upkeep::Open(self.open(now)));
        }
        let idle = self.settings.idle;
        self.members.retain(|id, member| {
            let over = member.stage.is_retired(now) || now.since(member.idle_since) >= idle;
            let close = member.stage != Stage::Opening && member.streams == 0 && over;
            if close {
                done.push(Upkeep::Close(*id));
            }
            !close
        });
        done
    }

    /// When [`Pool::upkeep`] has something to do next; may be in the past. `None`: not before something else happens.
    pub fn due(&self) -> Option<Now> {
        self.members
            .values()
            .filter_map(|member| self.due_of(member))
            .min()
    }

    /// Whether another connection than `id` is being opened or takes requests, perhaps only when others have ended.
    pub fn has_other(&self, id: ConnectionId, now: Now) -> bool {
        self.members
            .iter()
            .any(|(other, member)| *other != id && !member.stage.is_retired(now))
    }

    /// Whether there is no connection at all.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Connections that are open or being opened, and requests that run on them.
    pub fn counts(&self) -> (usize, usize) {
        (
            self.members.len(),
            self.members.values().map(|member| member.streams as usize).sum(),
        )
    }

    fn due_of(&self, member: &Member) -> Option<Now> {
        let Stage::Open {
            end,
            aging,
            succeeded,
            ..
        } = member.stage
        else {
            return None;
        };
        let idle = (member.streams == 0).then(|| member.idle_since + self.settings.idle);
        let end = end.filter(|_| member.streams == 0);
        let aging = aging.filter(|_| !succeeded);
        [idle, end, aging].into_iter().flatten().min()
    }

    /// Marks all aging connections as succeeded; says whether a successor has to be opened for them.
    fn take_over(&mut self, now: Now) -> bool {
        let fresh = self.count(|member| member.stage.is_fresh(now) || member.stage == Stage::Opening) > 0;
        let mut wanted = false;
        for member in self.members.values_mut() {
            let retired = member.stage.is_retired(now);
            if let Stage::Open {
                aging: Some(at),
                succeeded,
                ..
            } = &mut member.stage
                && *at <= now
                && !*succeeded
            {
                *succeeded = true;
                wanted |= !retired;
            }
        }
        wanted && !fresh
    }

    fn open(&mut self, now: Now) -> ConnectionId {
        let id = ConnectionId(self.next);
        self.next += 1;
        self.members.insert(
            id,
            Member {
                stage: Stage::Opening,
                streams: 0,
                idle_since: now,
            },
        );
        id
    }

    fn forget_if_over(&mut self, id: ConnectionId, now: Now) -> bool {
        let over = |member: &Member| member.streams == 0 && member.stage.is_retired(now);
        let over = self.members.get(&id).is_some_and(over);
        if over {
            self.members.remove(&id);
        }
        over
    }

    fn count(&self, holds: impl Fn(&Member) -> bool) -> u32 {
        u32::try_from(self.members.values().filter(|member| holds(member)).count()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
