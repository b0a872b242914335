//! The subscriptions of one stream to one type: for each name what is, what the client has, and so what is due.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Content, Interest, RESPONSE_BYTES_MAX, Receipt, Turn};
use crate::resource::Name;
use crate::version::Version;

/// What a client has of a name, as far as the server knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Held {
    /// Not known: whatever the catalog says is news.
    #[default]
    Unknown,
    /// It was told that there is no such resource.
    Absent,
    /// This content.
    At(Version),
}

/// What the catalog says.
#[derive(Debug, Default)]
enum Latest {
    /// Nothing yet.
    #[default]
    Pending,
    /// It doesn't exist. A full state of the world keeps naming what is leaving until the additions are through.
    Absent { leaving: Option<Content> },
    /// It is this.
    Present(Content),
}

/// One name.
#[derive(Debug, Default)]
struct Entry {
    /// Asked for by name, not only as a part of everything.
    explicit: bool,
    latest: Latest,
    /// What the client confirmed.
    acked: Held,
    /// What it has once it accepts all that is under way.
    sent: Held,
    /// The newest response that it was in.
    sent_nonce: u64,
    /// The newest response when the subscription began: answers to older ones are about an earlier subscription.
    since_nonce: u64,
    /// What it refused last; not offered again.
    rejected: Held,
    /// A request that came too late to count no longer named it: the client has dropped it, even if it asks again.
    dropped: bool,
    /// It was refused for its own sake, not because of something else in the same response.
    blamed: bool,
}

/// What goes into a response.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) resources: Vec<(Name, Content)>,
    pub(super) removed: Vec<Name>,
    /// What the client will have of each name that this settles.
    pub(super) items: Vec<(Name, Held)>,
}

/// What a client said about one item of a response.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// It is in force.
    Accepted,
    /// It was rejected for its own sake.
    Blamed(Arc<str>),
    /// It was rejected with its whole response; `again`: something in that response has changed since, so that the
    /// rest may be offered again.
    Along { reason: Arc<str>, again: bool },
}

/// How far a subscription to everything has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wildcard {
    #[default]
    Off,
    /// Asked for; the catalog hasn't answered.
    Pending,
    On,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    entries: BTreeMap<Name, Entry>,
    /// Of these, the ones that were asked for by name.
    asked: usize,
    /// Names whose content, or absence, is due.
    due: BTreeSet<Name>,
    /// Names whose catalog answer is awaited.
    pending: usize,
    wildcard: Wildcard,
    /// The wildcard was asked for by a request without names; naming any ends it (state of the world).
    legacy: bool,
    /// An answer is owed even if there is nothing in it: the client waits to hear that there is nothing.
    answer_owed: bool,
    /// Of the newest response of this type.
    pub(super) last_nonce: u64,
}

impl Entry {
    /// What the client would have, were it sent what is.
    fn target(&self) -> Held {
        match &self.latest {
            Latest::Pending => Held::Unknown,
            Latest::Absent { .. } => Held::Absent,
            Latest::Present(content) => Held::At(content.version),
        }
    }

    fn is_due(&self) -> bool {
        let target = self.target();
        target != Held::Unknown && target != self.sent && target != self.rejected
    }

    fn is_present(&self) -> bool {
        matches!(self.latest, Latest::Present(_))
    }

    /// Content that was sent, is gone, and still has to be named.
    fn leaving(&self) -> Option<&Content> {
        match &self.latest {
            Latest::Absent {
                leaving: Some(content),
            } if self.sent == Held::At(content.version) => Some(content),
            _ => None,
        }
    }
}

impl Subscriptions {
    /// Names that the client asked for.
    pub(super) fn asked(&self) -> usize {
        self.asked
    }

    /// Whether a request without names means everything still (or for the first time).
    pub(super) fn legacy_wildcard(&self) -> bool {
        self.legacy
    }

    /// Delta: takes names away. What everything still includes is answered once more, because the client can't
    /// otherwise know whether it is a part of it.
    pub(super) fn unsubscribe(&mut self, names: &[Name], interest: &mut Interest) {
        for name in names {
            if &**name == "*" {
                self.end_wildcard(interest);
            } else if let Some(entry) = self.entries.get_mut(name).filter(|entry| entry.explicit) {
                interest.unsubscribe.push(name.clone());
                if self.wildcard == Wildcard::Off {
                    self.forget(name);
                } else {
                    entry.sent = Held::Unknown;
                    self.leave_to_everything(name);
                }
            }
        }
    }

    /// Delta: adds names, with what the client holds of them.
    pub(super) fn subscribe(
        &mut self,
        names: Vec<Name>,
        wildcard: bool,
        held: &BTreeMap<Name, String>,
        nonce: u64,
        turn: &mut Turn,
    ) {
        if wildcard && self.wildcard == Wildcard::Off {
            self.start_wildcard(&mut turn.interest);
            for name in held.keys() {
                // What is known of a name that was asked for already is better than what the client says.
                if !self.entries.contains_key(name) {
                    self.begin(name, false, held, nonce, turn);
                }
            }
        }
        for name in names.into_iter().filter(|name| &**name != "*") {
            match self.entries.get_mut(&name) {
                Some(entry) if entry.explicit => {
                    (entry.sent, entry.rejected) = (Held::Unknown, Held::Unknown);
                    self.judge(&name);
                }
                Some(entry) => {
                    entry.explicit = true;
                    self.asked += 1;
                    turn.interest.subscribe.push(name);
                }
                None => {
                    self.begin(&name, true, held, nonce, turn);
                    turn.interest.subscribe.push(name);
                }
            }
        }
    }

    /// State of the world: these are all names.
    pub(super) fn replace(&mut self, names: Vec<Name>, wildcard: bool, nonce: u64, turn: &mut Turn) {
        match (wildcard, self.wildcard) {
            (true, Wildcard::Off) => self.start_wildcard(&mut turn.interest),
            (false, Wildcard::Pending | Wildcard::On) => self.end_wildcard(&mut turn.interest),
            _ => {}
        }
        self.legacy = wildcard && names.is_empty();
        let wanted: BTreeSet<Name> = names.into_iter().filter(|name| &**name != "*").collect();
        let dropped = self
            .entries
            .iter()
            .filter(|(name, entry)| entry.explicit && !wanted.contains(*name));
        let dropped: Vec<Name> = dropped.map(|(name, _)| name.clone()).collect();
        for name in dropped {
            if self.wildcard == Wildcard::Off {
                self.forget(&name);
            } else {
                self.leave_to_everything(&name);
            }
            turn.interest.unsubscribe.push(name);
        }
        for name in wanted {
            match self.entries.get_mut(&name) {
                Some(entry) if entry.explicit && entry.dropped => {
                    (entry.sent, entry.rejected, entry.dropped) = (Held::Unknown, Held::Unknown, false);
                    self.judge(&name);
                    continue;
                }
                Some(entry) if entry.explicit => continue,
                Some(entry) => {
                    entry.explicit = true;
                    self.asked += 1;
                }
                None => self.begin(&name, true, &BTreeMap::new(), nonce, turn),
            }
            turn.interest.subscribe.push(name);
        }
    }

    /// State of the world: these were all names before the client saw the newest response. That doesn't count as its
    /// subscription, but what it had dropped by then it has to be sent again, should it still want it.
    pub(super) fn outdated(&mut self, names: &[Name]) {
        let names: BTreeSet<&Name> = names.iter().collect();
        for (name, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.explicit) {
            entry.dropped |= !names.contains(name);
        }
    }

    /// See [`super::Session::update`].
    pub(super) fn update(&mut self, name: &Name, content: Option<Content>) {
        let everything = self.wildcard != Wildcard::Off;
        let entry = match self.entries.entry(name.clone()) {
            Slot::Occupied(slot) => slot.into_mut(),
            Slot::Vacant(slot) if everything && content.is_some() => {
                self.pending += 1;
                slot.insert(Entry::default())
            }
            Slot::Vacant(_) => return,
        };
        if matches!(entry.latest, Latest::Pending) {
            self.pending -= 1;
        }
        let before = std::mem::take(&mut entry.latest);
        entry.latest = match (content, before) {
            (Some(content), _) => Latest::Present(content),
            (None, Latest::Present(content)) => Latest::Absent {
                leaving: Some(content),
            },
            (None, Latest::Absent { leaving }) => Latest::Absent { leaving },
            (None, Latest::Pending) => Latest::Absent { leaving: None },
        };
        let never_heard_of =
            entry.sent == Held::Unknown && entry.acked == Held::Unknown && entry.sent_nonce == 0;
        let mended = entry.rejected != Held::Unknown && entry.rejected != entry.target();
        if !entry.explicit && !entry.is_present() && never_heard_of {
            self.forget(name);
        } else {
            self.judge(name);
        }
        if mended {
            self.pardon();
        }
    }

    /// See [`super::Session::all`].
    pub(super) fn all(&mut self, resources: Vec<(Name, Content)>) {
        if self.wildcard == Wildcard::Off {
            return;
        }
        self.wildcard = Wildcard::On;
        let present: BTreeSet<Name> = resources.iter().map(|(name, _)| name.clone()).collect();
        let gone = self
            .entries
            .iter()
            .filter(|(name, entry)| !entry.explicit && !present.contains(*name));
        let gone: Vec<Name> = gone.map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.update(&name, None);
        }
        for (name, content) in resources {
            self.update(&name, Some(content));
        }
    }

    /// New and changed resources, as many as fit into one response.
    pub(super) fn changes(&mut self) -> Option<Answer> {
        let mut answer = Answer::default();
        let mut bytes = 0_usize;
        for name in &self.due {
            if let Some(Entry {
                latest: Latest::Present(content),
                ..
            }) = self.entries.get(name)
            {
                bytes += content.body.len();
                if bytes > RESPONSE_BYTES_MAX && !answer.resources.is_empty() {
                    break;
                }
                answer.items.push((name.clone(), Held::At(content.version)));
                answer.resources.push((name.clone(), content.clone()));
            }
        }
        let owed = self.answer_owed && self.wildcard == Wildcard::On;
        (!answer.items.is_empty() || owed).then_some(answer)
    }

    /// Names that are gone or were never there. Only additions come before it, so all that is due now is absent.
    pub(super) fn removals(&mut self) -> Option<Answer> {
        let absent = |name: &&Name| self.entries.get(*name).is_some_and(|entry| !entry.is_present());
        let mut bytes = 0_usize;
        let fits = |name: &&Name| {
            bytes += name.len();
            bytes <= RESPONSE_BYTES_MAX
        };
        let removed: Vec<Name> = self.due.iter().filter(absent).take_while(fits).cloned().collect();
        let items = removed.iter().map(|name| (name.clone(), Held::Absent)).collect();
        (!removed.is_empty()).then(|| Answer {
            removed,
            items,
            ..Answer::default()
        })
    }

    /// All subscribed resources, once the catalog has answered for each. With `removals` those that have gone are
    /// left out; before that, they are still named.
    pub(super) fn full_state(&mut self, removals: bool) -> Option<Answer> {
        let is_leaving = |name: &Name| {
            self.entries
                .get(name)
                .is_some_and(|entry| entry.leaving().is_some())
        };
        let owed = self.answer_owed && self.wildcard == Wildcard::On;
        let due = self.due.iter().any(|name| removals || !is_leaving(name));
        if self.pending > 0 || !(due || owed) {
            return None;
        }
        let mut answer = Answer::default();
        for (name, entry) in &self.entries {
            match (&entry.latest, entry.leaving()) {
                (Latest::Present(content), _) => {
                    answer.items.push((name.clone(), Held::At(content.version)));
                    answer.resources.push((name.clone(), content.clone()));
                }
                (_, Some(content)) if !removals => answer.resources.push((name.clone(), content.clone())),
                _ => answer.items.push((name.clone(), Held::Absent)),
            }
        }
        Some(answer)
    }

    /// The response `nonce` with `items` is under way.
    pub(super) fn sent(&mut self, items: &[(Name, Held)], nonce: u64) {
        self.last_nonce = nonce;
        self.answer_owed = false;
        for (name, held) in items {
            if let Some(entry) = self.entries.get_mut(name) {
                (entry.sent, entry.sent_nonce) = (*held, nonce);
            }
            self.judge(name);
        }
    }

    /// Whether everything that `items` said is still so.
    pub(super) fn is_current(&self, items: &[(Name, Held)]) -> bool {
        items.iter().all(|(name, held)| {
            self.entries
                .get(name)
                .is_some_and(|entry| entry.target() == *held)
        })
    }

    /// The client accepted what response `nonce` said of `name`, or it didn't. `None`: that says nothing about the
    /// present subscription.
    pub(super) fn settle(&mut self, name: Name, held: Held, nonce: u64, verdict: Verdict) -> Option<Receipt> {
        let entry = self
            .entries
            .get_mut(&name)
            .filter(|entry| entry.since_nonce < nonce)?;
        let newest = entry.sent_nonce == nonce;
        let accepted = matches!(verdict, Verdict::Accepted);
        let rejected = match verdict {
            Verdict::Accepted => None,
            _ if entry.acked == held => return None,
            Verdict::Blamed(reason) | Verdict::Along { reason, .. } if !newest => Some(reason),
            Verdict::Blamed(reason) => {
                (entry.sent, entry.rejected, entry.blamed) = (entry.acked, held, true);
                Some(reason)
            }
            Verdict::Along { reason, again } => {
                let rejected = if again { Held::Unknown } else { held };
                (entry.sent, entry.rejected, entry.blamed) = (entry.acked, rejected, false);
                Some(reason)
            }
        };
        if accepted {
            entry.acked = held;
            if newest {
                entry.rejected = Held::Unknown;
            }
        }
        if accepted && newest && !entry.explicit && matches!(entry.latest, Latest::Absent { .. }) {
            self.forget(&name);
        } else {
            self.judge(&name);
        }
        let version = match held {
            Held::At(version) => Some(version),
            Held::Absent | Held::Unknown => None,
        };
        Some(Receipt {
            name,
            version,
            rejected,
        })
    }

    /// A name that is not known yet.
    fn begin(
        &mut self,
        name: &Name,
        explicit: bool,
        held: &BTreeMap<Name, String>,
        nonce: u64,
        turn: &mut Turn,
    ) {
        let version = held.get(name).and_then(|version| version.parse::<Version>().ok());
        let known = version.map_or(Held::Unknown, Held::At);
        let entry = Entry {
            explicit,
            acked: known,
            sent: known,
            since_nonce: nonce,
            ..Entry::default()
        };
        self.entries.insert(name.clone(), entry);
        self.pending += 1;
        self.asked += usize::from(explicit);
        if version.is_some() {
            turn.receipts.push(Receipt {
                name: name.clone(),
                version,
                rejected: None,
            });
        }
    }

    fn start_wildcard(&mut self, interest: &mut Interest) {
        self.wildcard = Wildcard::Pending;
        self.answer_owed = true;
        interest.wildcard = Some(true);
    }

    fn end_wildcard(&mut self, interest: &mut Interest) {
        if self.wildcard == Wildcard::Off {
            return;
        }
        self.wildcard = Wildcard::Off;
        self.answer_owed = false;
        interest.wildcard = Some(false);
        let implied = self.entries.iter().filter(|(_, entry)| !entry.explicit);
        let implied: Vec<Name> = implied.map(|(name, _)| name.clone()).collect();
        for name in implied {
            self.forget(&name);
        }
    }

    /// A name isn't asked for by itself any longer. Whether it is a part of everything is the catalog's to say.
    fn leave_to_everything(&mut self, name: &Name) {
        if let Some(entry) = self.entries.get_mut(name) {
            self.asked -= usize::from(std::mem::take(&mut entry.explicit));
            if !matches!(std::mem::take(&mut entry.latest), Latest::Pending) {
                self.pending += 1;
            }
        }
        self.judge(name);
    }

    /// Something that was rejected has changed: what was only rejected along with it is offered again.
    fn pardon(&mut self) {
        let along = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.rejected != Held::Unknown && !entry.blamed);
        let mut again = Vec::new();
        for (name, entry) in along {
            entry.rejected = Held::Unknown;
            again.push(name.clone());
        }
        for name in again {
            self.judge(&name);
        }
    }

    fn forget(&mut self, name: &Name) {
        self.due.remove(name);
        let Some(entry) = self.entries.remove(name) else {
            return;
        };
        self.asked -= usize::from(entry.explicit);
        if matches!(entry.latest, Latest::Pending) {
            self.pending -= 1;
        }
        if entry.rejected != Held::Unknown {
            self.pardon();
        }
    }

    fn judge(&mut self, name: &Name) {
        if self.entries.get(name).is_some_and(Entry::is_due) {
            self.due.insert(name.clone());
        } else {
            self.due.remove(name);
        }
    }
}
