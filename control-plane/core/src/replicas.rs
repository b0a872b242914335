//! What the replicas of the control plane tell each other: how far the proxies of each are. Summed up, it is how far the
//! mesh is; while one can't be reached, nobody knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::resource::Name;
use crate::status::{Count, Taken};

/// Roots and issuer of a replica, and how far its proxies are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// Names the set of roots that it publishes.
    pub bundle: String,
    /// Names the authority that it signs with.
    pub issuer: String,
    /// How far the proxies are that follow the roots.
    pub count: Count,
}

/// What one replica says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// About the roots.
    pub roots: Roots,
    /// About each object with a status: its generation there, and how far the proxies are.
    pub objects: BTreeMap<String, (Option<i64>, Count)>,
}

/// All replicas but this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// By pod; `None`: it doesn't answer.
    pub heard: BTreeMap<Name, Option<Arc<Report>>>,
    /// Whether it is known which replicas there are.
    pub listed: bool,
}

/// What an unlisted set of replicas is called.
const UNLISTED: &str = "the replicas can't be listed";

impl Others {
    /// Those whose proxies nobody knows of, by pod; none: everything is known.
    pub fn unreachable(&self) -> Vec<String> {
        let silent = self.heard.iter().filter(|(_, report)| report.is_none());
        let silent = silent.map(|(pod, _)| pod.to_string());
        silent
            .chain((!self.listed).then(|| UNLISTED.to_owned()))
            .collect()
    }

    /// How far the mesh is with an object, given how far the `own` proxies are. A replica that has another generation of
    /// it in force has confirmed nothing of this one, and which of its proxies this one will be for nobody knows; nor of
    /// one that has not read the object at all.
    pub fn taken(&self, object: &str, generation: Option<i64>, own: Count) -> Taken {
        let (mut count, mut behind) = (own, Vec::new());
        for (pod, report) in &self.heard {
            let Some(report) = report else { continue };
            let known = report.objects.get(object);
            let same = known.is_some_and(|(theirs, _)| *theirs == generation);
            if let Some((_, further)) = known {
                count = add(count, further, same);
            }
            if !same {
                behind.push(pod.to_string());
            }
        }
        Taken {
            count,
            behind,
            unreachable: self.unreachable(),
        }
    }

    /// How far the mesh is with the roots that this replica publishes.
    pub fn roots(&self, own: &Roots) -> Taken {
        let mut count = own.count.clone();
        for report in self.heard.values().flatten() {
            count = add(count, &report.roots.count, report.roots.bundle == own.bundle);
        }
        Taken {
            count,
            unreachable: self.unreachable(),
            ..Taken::default()
        }
    }

    /// The pods that don't publish the same roots, or don't sign with the same authority.
    pub fn behind(&self, own: &Roots) -> Vec<String> {
        let differs =
            |report: &Report| report.roots.bundle != own.bundle || report.roots.issuer != own.issuer;
        let behind = self
            .heard
            .iter()
            .filter(|(_, report)| report.as_ref().is_some_and(|report| differs(report)));
        behind.map(|(pod, _)| pod.to_string()).collect()
    }
}

fn add(mut sum: Count, further: &Count, same: bool) -> Count {
    sum.proxies = sum.proxies.saturating_add(further.proxies);
    if same {
        sum.confirmed = sum.confirmed.saturating_add(further.confirmed);
        sum.refused = sum.refused.saturating_add(further.refused);
        sum.refusal = sum.refusal.or_else(|| further.refusal.clone());
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(proxies: u64, confirmed: u64) -> Count {
        Count {
            proxies,
            confirmed,
            ..Count::default()
        }
    }

    fn report(bundle: &str, generation: i64) -> Arc<Report> {
        Arc::new(Report {
            roots: Roots {
                bundle: bundle.to_owned(),
                issuer: "i".to_owned(),
                count: count(3, 3),
            },
            objects: BTreeMap::from([("route".to_owned(), (Some(generation), count(2, 2)))]),
        })
    }

    #[test]
    fn what_another_generation_confirmed_is_not_this_one() {
        let mut others = Others {
            heard: BTreeMap::from([
                ("b".into(), Some(report("x", 7))),
                ("c".into(), Some(report("y", 6))),
            ]),
            listed: true,
        };
        let taken = others.taken("route", Some(7), count(1, 1));
        assert_eq!((taken.count.proxies, taken.count.confirmed), (5, 3));
        assert!(taken.unreachable.is_empty());
        assert_eq!(taken.behind, ["c"]);
        assert_eq!(others.taken("other", Some(1), count(1, 0)).count, count(1, 0));
        let own = Roots {
            bundle: "x".to_owned(),
            issuer: "i".to_owned(),
            count: count(1, 1),
        };
        assert_eq!(others.roots(&own).count, count(7, 4));
        assert_eq!(others.behind(&own), ["c"]);
        others.heard.insert("d".into(), None);
        assert_eq!(others.taken("route", Some(7), count(1, 1)).unreachable, ["d"]);
        others.listed = false;
        assert_eq!(others.roots(&own).unreachable, ["d", UNLISTED]);
    }

    #[test]
    fn a_replica_that_has_not_read_an_object_is_waited_for() {
        use crate::conditions::{Ancestor, Condition, ConditionType, ObjectStatus, Reason};
        use crate::status::{Desired, Truth};
        let status = ObjectStatus {
            object: weft_api::object::ObjectRef::new(weft_api::object::Kind::HttpRoute, "shop", "r"),
            generation: Some(7),
            conditions: vec![Condition {
                ancestor: Some(Ancestor::Namespace("shop".into())),
                kind: ConditionType::Accepted,
                holds: true,
                reason: Reason::Accepted,
                message: "is in force".to_owned(),
            }],
        };
        let programmed = |others: &Others| {
            let taken = others.taken("route", Some(7), count(1, 1));
            let desired = Desired::new(&status, &taken).unwrap();
            let said = desired.entries[0].says.last().unwrap();
            (said.status, said.message.clone())
        };
        let mut others = Others {
            heard: BTreeMap::from([("b".into(), Some(report("x", 7)))]),
            listed: true,
        };
        assert_eq!(programmed(&others), (Truth::True, "3/3 proxies".to_owned()));
        others.heard.insert("c".into(), Some(Arc::default()));
        let (status, message) = programmed(&others);
        assert_eq!(status, Truth::False);
        assert!(message.contains("c has yet to read it"), "{message}");
    }
}
