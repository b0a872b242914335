//! Who of several replicas leads: one record that the API server keeps (a Lease), and each replica's clock.
//!
//! Nobody compares clocks. A candidate takes the lease when it has seen it unchanged for a whole lease time by its own
//! clock; a leader trusts itself for two thirds of that since it *asked* for the renewal that was granted. So a leader
//! that was paused finds its time over before it looks at anything else, and the next one began later than that. Every
//! write of the lease names the version that it replaces: of two, one fails. A write whose end is not known counts as
//! failed, and the lease is read before the next one.

use std::time::Duration;

use crate::resource::Name;
use crate::time::Now;

#[cfg(test)]
mod tests;

/// How long a lease that isn't renewed keeps others out.
pub const LEASE: Duration = Duration::from_secs(15);

/// How long a leader trusts itself after it asked for a renewal.
pub const HELD: Duration = Duration::from_secs(10);

/// How often a leader renews, and how often the others look.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// The lease as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Names this state of it: no two are equal.
    pub version: Name,
    /// Who holds it; `None`: released.
    pub holder: Option<Name>,
    /// How often it changed hands.
    pub transitions: u32,
}

/// What a candidate wants to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The version that it replaces; `None`: there is no lease.
    pub over: Option<Name>,
    /// Who holds it from now on; `None`: it is released.
    pub holder: Option<Name>,
    /// How often it changed hands.
    pub transitions: u32,
    /// Whether it changes hands with this.
    pub acquires: bool,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read the lease, and tell [`Candidate::read`].
    Read,
    /// Write it, and tell [`Candidate::granted`] or [`Candidate::failed`].
    Write(Claim),
    /// Nothing until then.
    Wait(Now),
}

/// One of those who may lead.
#[derive(Clone, Debug)]
pub struct Candidate {
    id: Name,
    /// What it knows of the lease; `None`: nothing, or nothing any longer.
    known: Option<Known>,
    /// Until when it leads.
    held_until: Option<Now>,
    next: Now,
}

#[derive(Clone, Debug)]
struct Known {
    lease: Option<Lease>,
    /// Since when it has been so.
    since: Now,
}

impl Candidate {
    /// A candidate; `id` is this process's alone.
    pub fn new(id: Name, now: Now) -> Self {
        Self {
            id,
            known: None,
            held_until: None,
            next: now,
        }
    }

    /// Whether it leads.
    pub fn leads(&self, now: Now) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    /// Until when it leads, as long as it isn't granted more.
    pub fn held_until(&self) -> Option<Now> {
        self.held_until
    }

    /// What to do at `now`.
    pub fn step(&self, now: Now) -> Step {
        if now < self.next {
            return Step::Wait(self.next);
        }
        let Some(known) = &self.known else {
            return Step::Read;
        };
        let Some(lease) = &known.lease else {
            return Step::Write(self.claim(None, 0, true));
        };
        let over = Some(lease.version.clone());
        match &lease.holder {
            Some(holder) if *holder == self.id => Step::Write(self.claim(over, lease.transitions, false)),
            Some(_) if now.since(known.since) < LEASE => Step::Read,
            _ => Step::Write(self.claim(over, lease.transitions.saturating_add(1), true)),
        }
    }

    fn claim(&self, over: Option<Name>, transitions: u32, acquires: bool) -> Claim {
        Claim {
            over,
            holder: Some(self.id.clone()),
            transitions,
            acquires,
        }
    }

    /// The lease was read, and is this; `None`: there is none. `now`: after the answer.
    pub fn read(&mut self, lease: Option<Lease>, now: Now) {
        let is_mine = lease
            .as_ref()
            .is_some_and(|lease| lease.holder.as_ref() == Some(&self.id));
        let is_free = lease.as_ref().is_none_or(|lease| lease.holder.is_none());
        if !is_mine {
            self.held_until = None;
        }
        match &self.known {
            Some(known) if known.lease == lease => {}
            _ => self.known = Some(Known { lease, since: now }),
        }
        let waited = self
            .known
            .as_ref()
            .is_some_and(|known| now.since(known.since) >= LEASE);
        self.next = if is_mine || is_free || waited {
            now
        } else {
            now + INTERVAL
        };
    }

    /// A claim that was sent at `asked` was granted, and the lease's version is now `version`.
    pub fn granted(&mut self, claim: Claim, version: Name, asked: Now) {
        self.held_until = claim.holder.as_ref().map(|_| asked + HELD);
        self.next = asked + INTERVAL;
        let lease = Lease {
            version,
            holder: claim.holder,
            transitions: claim.transitions,
        };
        self.known = Some(Known {
            lease: Some(lease),
            since: asked,
        });
    }

    /// Reading or writing failed, or its end isn't known: what is known of the lease may not be so any longer.
    pub fn failed(&mut self, wrote: bool, now: Now) {
        if wrote {
            self.known = None;
        }
        self.next = now + INTERVAL;
    }

    /// Somebody else wrote first.
    pub fn conflict(&mut self, now: Now) {
        (self.known, self.held_until, self.next) = (None, None, now);
    }

    /// Gives the lease up, if it is held: what to write. It doesn't lead from here on, whatever becomes of that.
    pub fn release(&mut self) -> Option<Claim> {
        self.held_until = None;
        let lease = self.known.as_ref()?.lease.as_ref()?;
        (lease.holder.as_ref() == Some(&self.id)).then(|| Claim {
            over: Some(lease.version.clone()),
            holder: None,
            transitions: lease.transitions,
            acquires: false,
        })
    }
}
