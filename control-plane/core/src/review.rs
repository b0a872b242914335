//! What an API server's review of a token means, and how long it is remembered.
//!
//! A token counts only if the API server vouches for it, for our audience, for a service account, and if it is bound to
//! a Pod: then everything that is known of its bearer comes from the review alone. A good answer is remembered for a
//! minute at most, never longer than the token lives, and forgotten once its Pod is seen to be gone; a Pod that is gone
//! is remembered as long, since a review that was under way may say otherwise.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use thiserror::Error;

use crate::resource::Name;
use crate::rights::{Account, is_part};
use crate::time::Now;

#[cfg(test)]
mod tests;

/// How long a good answer is remembered.
pub const ACCEPTED_FOR: Duration = Duration::from_mins(1);

/// How long a bad one is.
pub const REFUSED_FOR: Duration = Duration::from_secs(5);

/// Answers that are remembered; beyond it the oldest is forgotten.
pub const ANSWERS_MAX: usize = 16_384;

/// Pods that are remembered as gone; beyond it the one that went first is forgotten.
pub const GONE_MAX: usize = 16_384;

/// Bytes of what a review says that go into an error.
const EXCERPT_BYTES_MAX: usize = 256;

/// What every service account's user name begins with.
const ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// A review's status, as far as it counts.
#[derive(Clone, Copy, Debug)]
pub struct Review<'a> {
    /// Whether the token is genuine and in force.
    pub authenticated: bool,
    /// Which of the audiences that were asked for it has; none: the server doesn't know audiences.
    pub audiences: &'a [String],
    /// Why it is not.
    pub error: Option<&'a str>,
    /// The user.
    pub username: &'a str,
    /// `authentication.kubernetes.io/pod-name`.
    pub pod_name: &'a [String],
    /// `authentication.kubernetes.io/pod-uid`.
    pub pod_uid: &'a [String],
    /// `authentication.kubernetes.io/node-name`.
    pub node_name: &'a [String],
}

/// Who bears a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its service account.
    pub account: Account,
    /// Its Pod's name, in the account's namespace.
    pub pod: Name,
    /// Its Pod's uid.
    pub uid: Name,
    /// Its Pod's node, where the API server says.
    pub node: Option<Name>,
}

/// Why a token doesn't count.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The API server says so.
    #[error("the API server refuses the token: {0}; has it expired, or is its Pod gone?")]
    Refused(String),
    /// It is meant for somebody else.
    #[error(
        "the token is not meant for audience {expected:?}; is the volume that projects it the one that injection adds?"
    )]
    Audience {
        /// Ours.
        expected: &'static str,
    },
    /// A person's, a node's.
    #[error("the token is {0:?}'s, which is no service account")]
    User(String),
    /// It would outlive its Pod.
    #[error(
        "the token of {0} is not bound to a Pod; only tokens that the kubelet projects into Pods are taken"
    )]
    Unbound(Account),
    /// Its Pod is gone.
    #[error("the Pod {namespace}/{pod} of the token is gone", namespace = .0.namespace, pod = .1)]
    Gone(Account, Name),
}

/// What `review` says, when `audience` was asked for.
pub fn decide(review: &Review<'_>, audience: &'static str) -> Result<Bound, Refusal> {
    if !review.authenticated {
        let reason = review.error.unwrap_or("it gives no reason");
        return Err(Refusal::Refused(excerpt(reason)));
    }
    if !review.audiences.iter().any(|one| one == audience) {
        return Err(Refusal::Audience { expected: audience });
    }
    let account = account(review.username).ok_or_else(|| Refusal::User(excerpt(review.username)))?;
    let (Some(pod), Some(uid)) = (only(review.pod_name), only(review.pod_uid)) else {
        return Err(Refusal::Unbound(account));
    };
    if !is_part(pod) {
        return Err(Refusal::Unbound(account));
    }
    Ok(Bound {
        account,
        pod: pod.into(),
        uid: uid.into(),
        node: only(review.node_name).map(Name::from),
    })
}

fn account(username: &str) -> Option<Account> {
    let (namespace, name) = username.strip_prefix(ACCOUNT_PREFIX)?.split_once(':')?;
    (is_part(namespace) && is_part(name)).then(|| Account::new(namespace, name))
}

/// The one value, if there is exactly one.
fn only(values: &[String]) -> Option<&str> {
    match values {
        [one] if !one.is_empty() => Some(one),
        _ => None,
    }
}

fn excerpt(text: &str) -> String {
    text[..text.floor_char_boundary(EXCERPT_BYTES_MAX)].to_owned()
}

/// Names a token without being one: its SHA-256.
pub type Digest = [u8; 32];

#[derive(Debug)]
struct Entry {
    answer: Result<Bound, Refusal>,
    until: Now,
    order: u64,
}

/// Answers of the last minute. All operations cost the logarithm of what is held, or of what they forget.
#[derive(Debug, Default)]
pub struct Answers {
    entries: BTreeMap<Digest, Entry>,
    /// In the order in which they came.
    order: BTreeMap<u64, Digest>,
    by_pod: BTreeMap<Name, Vec<Digest>>,
    gone: BTreeMap<Name, Now>,
    went: VecDeque<Name>,
    next: u64,
}

impl Answers {
    /// What is remembered of a token.
    pub fn get(&self, token: &Digest, now: Now) -> Option<&Result<Bound, Refusal>> {
        let entry = self.entries.get(token)?;
        (now < entry.until).then_some(&entry.answer)
    }

    /// Remembers an answer; `lifetime`: what is left of the token's own. Returns what counts: a bearer whose Pod went
    /// meanwhile is refused.
    pub fn put(
        &mut self,
        token: Digest,
        answer: Result<Bound, Refusal>,
        lifetime: Duration,
        now: Now,
    ) -> Result<Bound, Refusal> {
        let answer = answer.and_then(|bound| match self.gone.get(&bound.uid) {
            Some(_) => Err(Refusal::Gone(bound.account, bound.pod)),
            None => Ok(bound),
        });
        self.forget(&token);
        while self.entries.len() >= ANSWERS_MAX {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            self.forget(&oldest);
        }
        let until = match &answer {
            Ok(_) => now + ACCEPTED_FOR.min(lifetime),
            Err(_) => now + REFUSED_FOR,
        };
        if let Ok(bound) = &answer {
            self.by_pod.entry(bound.uid.clone()).or_default().push(token);
        }
        self.next += 1;
        self.order.insert(self.next, token);
        self.entries.insert(
            token,
            Entry {
                answer: answer.clone(),
                until,
                order: self.next,
            },
        );
        answer
    }

    /// A Pod is gone: its tokens don't count any longer.
    pub fn pod_gone(&mut self, uid: &str, now: Now) {
        for token in self.by_pod.remove(uid).unwrap_or_default() {
            self.forget(&token);
        }
        while let Some(first) = self.went.front() {
            let fresh = self
                .gone
                .get(first)
                .is_some_and(|at| now.since(*at) < ACCEPTED_FOR);
            if fresh && self.went.len() < GONE_MAX {
                break;
            }
            if let Some(first) = self.went.pop_front() {
                self.gone.remove(&first);
            }
        }
        if self.gone.insert(uid.into(), now).is_none() {
            self.went.push_back(uid.into());
        }
    }

    /// How many answers are held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn forget(&mut self, token: &Digest) {
        let Some(entry) = self.entries.remove(token) else {
            return;
        };
        self.order.remove(&entry.order);
        let Ok(bound) = entry.answer else { return };
        if let Some(tokens) = self.by_pod.get_mut(&bound.uid) {
            tokens.retain(|one| one != token);
            if tokens.is_empty() {
                self.by_pod.remove(&bound.uid);
            }
        }
    }
}
