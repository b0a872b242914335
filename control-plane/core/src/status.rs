//! What the mesh writes into the status of routes and policies, and when.
//!
//! [`Desired`] is what should be said of an object: its conditions, and how far the proxies are. [`patch`] compares that
//! with the object as the API server has it, and says what to write, if anything; whatever other controllers say stays
//! as it is. [`Book`] remembers what was written, so that the API server is asked about an object only when something is
//! new: at once when words change, every [`COUNT_INTERVAL`] when only a count does.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};
use weft_api::annotation::DEFAULT_NAMESPACE;
use weft_api::kubernetes::Time;
use weft_api::object::{Kind, ObjectRef};
use weft_api::policy::MAX_ANCESTORS;

use crate::conditions::{Ancestor, Condition, ConditionType, ObjectStatus, Reason};
use crate::time::Now;
use crate::world::ObjectName;

/// Who writes: `controllerName`, and the name under which fields are managed.
pub const CONTROLLER: &str = "weft.dev/control-plane";

/// Entries in a route's status, of all controllers together (Gateway API).
pub const PARENTS_MAX: usize = 32;

/// Between two writes of which the later brings only another count.
pub const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// After this time an object is read again though nothing is new: somebody may have changed what was written.
pub const RECHECK_INTERVAL: Duration = Duration::from_mins(10);

/// Before the first repetition of a write that failed; doubled each time.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// Before any repetition.
const RETRY_MAX: Duration = Duration::from_mins(1);

/// Bytes of a condition's message.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Names of replicas in a message.
const REPLICAS_NAMED_MAX: usize = 3;

/// How far the proxies are that subscribe to something built from an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All of them.
    pub proxies: u64,
    /// Those that have confirmed all of it.
    pub confirmed: u64,
    /// Those that have refused some of it.
    pub refused: u64,
    /// Which proxy refused it and why, for one of them.
    pub refusal: Option<String>,
}

/// What is known of that over all replicas of the control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Of the replicas that answer.
    pub count: Count,
    /// Replicas that have not read the object as it is.
    pub behind: Vec<String>,
    /// Replicas that can't be reached. What their proxies have is unknown.
    pub unreachable: Vec<String>,
}

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It doesn't.
    False,
    /// Nobody knows.
    Unknown,
}

impl Truth {
    /// As Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// One condition, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its type.
    pub kind: &'static str,
    /// Whether it holds.
    pub status: Truth,
    /// In one word.
    pub reason: String,
    /// In a sentence.
    pub message: String,
}

/// What is said about one parent or target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which; `None`: each that no other entry names.
    pub ancestor: Option<Ancestor>,
    /// The conditions.
    pub says: Vec<Said>,
}

/// What should be said about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The object.
    pub object: ObjectRef,
    /// The generation that this is about.
    pub generation: i64,
    /// By parent or target.
    pub entries: Vec<Entry>,
}

/// The type of the condition that counts proxies.
const PROGRAMMED: &str = "Programmed";

/// Its reason where a proxy refused something.
const REFUSED: &str = "Refused";

impl Desired {
    /// From an object's conditions and its proxies. `None`: the object has no generation, and so is in no cluster.
    pub fn new(status: &ObjectStatus, taken: &Taken) -> Option<Self> {
        let mut entries: Vec<Entry> = Vec::new();
        let written = status
            .conditions
            .iter()
            .filter(|one| one.ancestor.is_some() || !one.holds);
        for condition in written {
            let said = said(condition);
            let entry = entries
                .iter_mut()
                .find(|entry| entry.ancestor == condition.ancestor);
            match entry {
                Some(entry) if entry.says.iter().any(|known| known.kind == said.kind) => {}
                Some(entry) => entry.says.push(said),
                None => entries.push(Entry {
                    ancestor: condition.ancestor.clone(),
                    says: vec![said],
                }),
            }
        }
        for entry in &mut entries {
            let accepted = entry
                .says
                .iter()
                .all(|said| said.kind != "Accepted" || said.status == Truth::True);
            entry.says.push(programmed(accepted, taken));
        }
        Some(Self {
            object: status.object.clone(),
            generation: status.generation?,
            entries,
        })
    }

    /// What is new, compared with what was said before.
    fn change(&self, before: &Self) -> Change {
        if self == before {
            return Change::None;
        }
        let paired = self.entries.iter().zip(&before.entries);
        let countable = self.generation == before.generation
            && self.entries.len() == before.entries.len()
            && paired.into_iter().all(|(new, old)| only_counts(new, old));
        if countable { Change::Count } else { Change::Words }
    }
}

/// What a new wish differs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    /// Only in how many proxies have it.
    Count,
    Words,
}

/// Whether two entries differ only in a count. Having arrived everywhere, and being refused, are more than that.
fn only_counts(new: &Entry, old: &Entry) -> bool {
    let counts = |new: &Said, old: &Said| {
        new.kind == PROGRAMMED
            && old.kind == PROGRAMMED
            && (new.status == old.status || new.status == Truth::False)
            && (new.reason == old.reason || new.reason == "Pending")
    };
    let mut paired = new.says.iter().zip(&old.says);
    new.ancestor == old.ancestor
        && new.says.len() == old.says.len()
        && paired.all(|(new, old)| new == old || counts(new, old))
}

/// A condition in one line: what a parser says may have several.
fn said(condition: &Condition) -> Said {
    let words: Vec<&str> = condition.message.split_whitespace().collect();
    let message = words.join(" ");
    Said {
        kind: match condition.kind {
            ConditionType::Accepted => "Accepted",
            ConditionType::ResolvedRefs => "ResolvedRefs",
        },
        status: if condition.holds {
            Truth::True
        } else {
            Truth::False
        },
        reason: condition.reason.to_string(),
        message: message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)].to_owned(),
    }
}

fn programmed(accepted: bool, taken: &Taken) -> Said {
    let Count {
        proxies,
        confirmed,
        refused,
        refusal,
    } = &taken.count;
    let counted = if *proxies == 0 {
        "in use by no proxy".to_owned()
    } else {
        format!("{confirmed}/{proxies} proxies")
    };
    let (status, reason, message) = if !accepted {
        (
            Truth::False,
            Reason::Invalid.to_string(),
            "is not in force, see Accepted".to_owned(),
        )
    } else if *refused > 0 {
        let why = refusal.as_deref().unwrap_or("without a reason");
        (
            Truth::False,
            REFUSED.to_owned(),
            format!("{counted}; {refused} refused it: {why}"),
        )
    } else if !taken.unreachable.is_empty() {
        let named = some_of(&taken.unreachable);
        let why = format!("{counted}, without those of {named}, which can't be reached");
        (Truth::Unknown, "ReplicaUnreachable".to_owned(), why)
    } else if !taken.behind.is_empty() {
        let why = format!("{counted}, and {} has yet to read it", some_of(&taken.behind));
        (Truth::False, "Pending".to_owned(), why)
    } else if confirmed < proxies {
        (Truth::False, "Pending".to_owned(), counted)
    } else {
        (Truth::True, PROGRAMMED.to_owned(), counted)
    };
    Said {
        kind: PROGRAMMED,
        status,
        reason,
        message: message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)].to_owned(),
    }
}

/// Names of replicas, as many as a message takes.
fn some_of(replicas: &[String]) -> String {
    let named = replicas.iter().take(REPLICAS_NAMED_MAX);
    named.map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Something that a person should notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Whether something is wrong.
    pub warning: bool,
    /// In one word.
    pub reason: String,
    /// In a sentence.
    pub note: String,
}

/// What to do about an object's status.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It says all that it should.
    Nothing,
    /// The object is newer, or older, than what is known of it: once that is settled.
    Later,
    /// A merge patch of the status sub-resource, which holds only for the version that was read, and what is new in it.
    Write {
        /// The patch.
        body: Value,
        /// For people.
        news: Vec<News>,
    },
}

/// Where a kind keeps what.
struct Form {
    references: &'static str,
    entries: &'static str,
    reference: &'static str,
    entries_max: usize,
}

const ROUTE: Form = Form {
    references: "parentRefs",
    entries: "parents",
    reference: "parentRef",
    entries_max: PARENTS_MAX,
};

const POLICY: Form = Form {
    references: "targetRefs",
    entries: "ancestors",
    reference: "ancestorRef",
    entries_max: MAX_ANCESTORS,
};

impl Form {
    fn of(kind: Kind) -> &'static Self {
        match kind {
            Kind::HttpRoute | Kind::GrpcRoute => &ROUTE,
            _ => &POLICY,
        }
    }
}

/// What to write, so that `current`, the whole object as the API server has it, says what is desired at `now`.
pub fn patch(desired: &Desired, current: &Value, now: &Time) -> Outcome {
    if current.pointer("/metadata/generation").and_then(Value::as_i64) != Some(desired.generation) {
        return Outcome::Later;
    }
    let form = Form::of(desired.object.kind);
    let path = format!("/status/{}", form.entries);
    let existing = current.pointer(&path).and_then(Value::as_array);
    let mut wanted = wanted(desired, current, form);
    let mut entries = Vec::new();
    let mut news = Vec::new();
    for entry in existing.into_iter().flatten() {
        if entry["controllerName"] != CONTROLLER {
            entries.push(entry.clone());
            continue;
        }
        let about = ancestor(&entry[form.reference], &desired.object);
        // One of ours whose parent or target is gone, or that stands there twice, goes.
        if let Some(at) = wanted
            .iter()
            .position(|(wanted, ..)| Some(wanted) == about.as_ref())
        {
            let (about, reference, says) = wanted.remove(at);
            news.extend(tidings(&about, says, Some(entry)));
            entries.push(written(
                form,
                reference,
                says,
                Some(entry),
                desired.generation,
                now,
            ));
        }
    }
    for (about, reference, says) in wanted {
        if entries.len() < form.entries_max {
            news.extend(tidings(&about, says, None));
            entries.push(written(form, reference, says, None, desired.generation, now));
        }
    }
    if existing.map_or(entries.is_empty(), |existing| *existing == entries) {
        return Outcome::Nothing;
    }
    let version = &current["metadata"]["resourceVersion"];
    let body = json!({ "metadata": { "resourceVersion": version }, "status": { form.entries: entries } });
    Outcome::Write { body, news }
}

/// The parents or targets that are the mesh's business, each with its reference as it is written and what to say.
fn wanted<'d>(desired: &'d Desired, current: &Value, form: &Form) -> Vec<(Ancestor, Value, &'d [Said])> {
    let mut wanted: Vec<(Ancestor, Value, &[Said])> = Vec::new();
    let path = format!("/spec/{}", form.references);
    let references = current.pointer(&path).and_then(Value::as_array);
    for reference in references.into_iter().flatten() {
        let Some(about) = ancestor(reference, &desired.object) else {
            continue;
        };
        let named = desired
            .entries
            .iter()
            .find(|entry| entry.ancestor.as_ref() == Some(&about));
        let entry = named.or_else(|| desired.entries.iter().find(|entry| entry.ancestor.is_none()));
        let known = wanted.iter().any(|(known, ..)| *known == about);
        if let Some(entry) = entry.filter(|_| !known) {
            wanted.push((about, reference.clone(), &entry.says));
        }
    }
    wanted
}

/// What a reference of `object` names; `None`: nothing of the mesh. A parent without a kind is a Gateway.
fn ancestor(reference: &Value, object: &ObjectRef) -> Option<Ancestor> {
    let text = |key: &str| reference[key].as_str();
    if text("group") != Some("") {
        return None;
    }
    let own = if object.namespace.is_empty() {
        DEFAULT_NAMESPACE
    } else {
        &object.namespace
    };
    match text("kind")? {
        "Service" => Some(Ancestor::Service {
            name: ObjectName::new(text("namespace").unwrap_or(own), text("name")?),
            port: reference["port"]
                .as_u64()
                .and_then(|port| u16::try_from(port).ok()),
            section: text("sectionName").map(Into::into),
        }),
        "Namespace" => Some(Ancestor::Namespace(text("name")?.into())),
        _ => None,
    }
}

/// One entry of ours. A condition keeps the time of its last transition while its status stays the same.
fn written(
    form: &Form,
    reference: Value,
    says: &[Said],
    before: Option<&Value>,
    generation: i64,
    now: &Time,
) -> Value {
    let conditions = says.iter().map(|said| {
        let known = before.and_then(|entry| condition(entry, said.kind));
        let since = known
            .filter(|known| known["status"] == said.status.as_str())
            .map(|known| &known["lastTransitionTime"])
            .filter(|since| since.is_string());
        json!({
            "type": said.kind,
            "status": said.status.as_str(),
            "reason": said.reason,
            "message": said.message,
            "observedGeneration": generation,
            "lastTransitionTime": since.cloned().unwrap_or_else(|| json!(now)),
        })
    });
    let mut entry = Map::new();
    entry.insert(form.reference.to_owned(), reference);
    entry.insert("controllerName".to_owned(), CONTROLLER.into());
    entry.insert("conditions".to_owned(), conditions.collect());
    Value::Object(entry)
}

fn condition<'v>(entry: &'v Value, kind: &str) -> Option<&'v Value> {
    let mut conditions = entry["conditions"].as_array()?.iter();
    conditions.find(|condition| condition["type"] == kind)
}

/// What is new for people: something is wrong that wasn't, or for another reason; or it is right again.
fn tidings(about: &Ancestor, says: &[Said], before: Option<&Value>) -> Vec<News> {
    let mut news = Vec::new();
    for said in says {
        let known = before.and_then(|entry| condition(entry, said.kind));
        let was = known.and_then(|known| known["status"].as_str());
        let same = known.is_some_and(|known| known["reason"] == *said.reason);
        let wrong = match said.kind {
            PROGRAMMED => said.reason == REFUSED,
            _ => said.status == Truth::False,
        };
        let cured = said.kind == "Accepted" && said.status == Truth::True && was == Some("False");
        if (wrong && !same) || cured {
            news.push(News {
                warning: wrong,
                reason: said.reason.clone(),
                note: format!("{about}: {}", said.message),
            });
        }
    }
    news
}

/// What was written of an object, or what became of the attempt.
#[derive(Clone, Debug, Default)]
struct Page {
    written: Option<(Desired, Now)>,
    failures: u32,
    not_before: Option<Now>,
}

/// Events that may be written within [`ALLOWANCE_TIME`].
pub const EVENTS_MAX: u32 = 60;

/// How long an allowance of Events lasts.
pub const ALLOWANCE_TIME: Duration = Duration::from_mins(1);

/// How many Events may still be written: a thousand objects that break together are told by their status.
#[derive(Debug, Default)]
pub struct Allowance {
    since: Now,
    taken: u32,
}

impl Allowance {
    /// Whether one more may be written now.
    pub fn take(&mut self, now: Now) -> bool {
        if now.since(self.since) >= ALLOWANCE_TIME {
            *self = Self { since: now, taken: 0 };
        }
        self.taken += 1;
        self.taken <= EVENTS_MAX
    }
}

/// See the module's head. One of these lives as long as a replica leads: what somebody else wrote meanwhile is read from
/// the API server.
#[derive(Debug, Default)]
pub struct Book {
    pages: BTreeMap<ObjectRef, Page>,
}

impl Book {
    /// Of what is desired, that which has to be looked after now. What isn't desired any longer is forgotten.
    pub fn due(&mut self, all: &[Desired], now: Now) -> Vec<Desired> {
        let mut before = std::mem::take(&mut self.pages);
        let mut due = Vec::new();
        for desired in all {
            let page = before.remove(&desired.object).unwrap_or_default();
            if page.is_due(desired, now) {
                due.push(desired.clone());
            }
            self.pages.insert(desired.object.clone(), page);
        }
        due
    }

    /// An object says what was desired.
    pub fn wrote(&mut self, desired: Desired, now: Now) {
        let page = Page {
            written: Some((desired.clone(), now)),
            ..Page::default()
        };
        self.pages.insert(desired.object, page);
    }

    /// An object can't be written now: again after a pause, longer each time.
    pub fn failed(&mut self, object: &ObjectRef, now: Now) {
        if let Some(page) = self.pages.get_mut(object) {
            let pause = RETRY_MIN
                .saturating_mul(1 << page.failures.min(16))
                .min(RETRY_MAX);
            page.failures += 1;
            page.not_before = Some(now + pause);
        }
    }
}

impl Page {
    fn is_due(&self, desired: &Desired, now: Now) -> bool {
        if self.not_before.is_some_and(|moment| now < moment) {
            return false;
        }
        let Some((written, at)) = &self.written else {
            return true;
        };
        let age = now.since(*at);
        match desired.change(written) {
            Change::Words => true,
            Change::Count => age >= COUNT_INTERVAL,
            Change::None => age >= RECHECK_INTERVAL,
        }
    }
}

#[cfg(test)]
mod tests;
