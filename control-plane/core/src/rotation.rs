//! The exchange of the root, step by step.
//!
//! Old and new roots are published together; once every connected proxy of every replica has confirmed them, and they lie
//! wherever a proxy that starts reads them, the new one signs; once every replica signs with it, the old one is kept
//! until the last leaf under it has expired, and then it goes. Nothing is remembered but what the Secret says, so that
//! any replica can go on. What can't be known holds everything up; nothing is ever done on a guess.
//!
//! Giving up is as safe: before the switch the new root goes, after it the roles are exchanged, and the new root goes the
//! same way that the old one would have gone.

use std::time::Duration;

use crate::issue::UnixTime;
use crate::status::Taken;

#[cfg(test)]
mod tests;

/// Added to the lifetime of leaves, against clocks that differ.
pub const MARGIN: Duration = Duration::from_mins(5);

/// How far an exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Both roots are published; the old one signs.
    Publishing,
    /// The new one signs; some replicas may not know yet.
    Switching,
    /// Every replica signs with the new one; the old one is trusted until then.
    Retiring(UnixTime),
}

/// What an operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Exchange the root.
    Start,
    /// Go back to the one from before.
    Abort,
}

/// How the mesh is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Whether this replica publishes and signs with what the Secret says.
    pub own: bool,
    /// How far the proxies are with the published roots.
    pub taken: Taken,
    /// Replicas that publish other roots, or sign with another authority.
    pub behind: Vec<String>,
    /// Whether the roots lie wherever a proxy that starts reads them.
    pub distributed: bool,
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Nobody asked for anything.
    Idle,
    /// Replicas can't be reached.
    Unreachable(Vec<String>),
    /// Replicas don't follow the Secret yet.
    Behind(Vec<String>),
    /// Proxies have not confirmed.
    Proxies {
        /// So many have.
        confirmed: u64,
        /// Of so many.
        proxies: u64,
        /// One that refused, and why.
        refusal: Option<String>,
    },
    /// The roots aren't everywhere yet.
    Distribution,
    /// Leaves under the old root are in force until then.
    Leaves(UnixTime),
}

/// What to do to the Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a root and publish it beside the old one.
    Begin,
    /// The published one signs from now on.
    Switch,
    /// Everybody signs with it: keep the old one until then.
    Retire(UnixTime),
    /// The old one goes. The exchange is over.
    Finish,
    /// The new one, which has signed nothing, goes. The exchange is over.
    Undo,
    /// The old one signs again; the new one retires.
    Revert,
    /// The request is for nothing: forget it.
    Dismiss,
    /// Nothing, for now.
    Wait(Wait),
}

/// What to do next. `phase`: as the Secret says; `leaves`: the longest lifetime of a leaf.
pub fn next(
    phase: Option<Phase>,
    request: Option<Request>,
    sight: &Sight,
    leaves: Duration,
    now: UnixTime,
) -> Step {
    match (phase, request) {
        (None, Some(Request::Start)) => Step::Begin,
        (None, Some(Request::Abort)) | (Some(_), Some(Request::Start)) => Step::Dismiss,
        (None, None) => Step::Wait(Wait::Idle),
        (Some(Phase::Publishing), Some(Request::Abort)) => Step::Undo,
        (Some(Phase::Switching | Phase::Retiring(_)), Some(Request::Abort)) => Step::Revert,
        (Some(Phase::Publishing), None) => agreed(sight)
            .or_else(|| confirmed(sight))
            .or_else(|| (!sight.distributed).then_some(Wait::Distribution))
            .map_or(Step::Switch, Step::Wait),
        (Some(Phase::Switching), None) => {
            let until = UnixTime(now.0.saturating_add((leaves + MARGIN).as_secs()));
            agreed(sight).map_or(Step::Retire(until), Step::Wait)
        }
        (Some(Phase::Retiring(until)), None) => {
            let early = (now < until).then_some(Wait::Leaves(until));
            early.or_else(|| agreed(sight)).map_or(Step::Finish, Step::Wait)
        }
    }
}

/// `None`: every replica is reached and does what the Secret says.
fn agreed(sight: &Sight) -> Option<Wait> {
    if !sight.taken.unreachable.is_empty() {
        return Some(Wait::Unreachable(sight.taken.unreachable.clone()));
    }
    if !sight.own || !sight.behind.is_empty() {
        return Some(Wait::Behind(sight.behind.clone()));
    }
    None
}

/// `None`: every proxy has the roots.
fn confirmed(sight: &Sight) -> Option<Wait> {
    let count = &sight.taken.count;
    (count.confirmed < count.proxies).then(|| Wait::Proxies {
        confirmed: count.confirmed,
        proxies: count.proxies,
        refusal: count.refusal.clone(),
    })
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Idle => f.write_str("nothing is going on"),
            Self::Unreachable(pods) => write!(f, "on hold: no answer from {}", pods.join(", ")),
            Self::Behind(pods) if pods.is_empty() => f.write_str("this replica has yet to follow the Secret"),
            Self::Behind(pods) => write!(f, "waiting for {} to follow the Secret", pods.join(", ")),
            Self::Proxies {
                confirmed,
                proxies,
                refusal,
            } => {
                write!(f, "{confirmed} of {proxies} proxies have confirmed the roots")?;
                refusal
                    .as_ref()
                    .map_or(Ok(()), |why| write!(f, "; refused by {why}"))
            }
            Self::Distribution => f.write_str("the roots are not in every namespace yet"),
            Self::Leaves(until) => write!(
                f,
                "leaves under the old root are in force until {} (Unix time)",
                until.0
            ),
        }
    }
}
