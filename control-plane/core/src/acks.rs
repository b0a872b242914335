//! The ledger of acknowledgements: which client confirmed, or refused, which version of what.
//!
//! It answers "who is connected and what do they hold" for people, and "does everybody have this" for whatever waits
//! for it (a root's rotation, an object's `Programmed` condition).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::resource::{Kind, Name};
use crate::stream::Receipt;
use crate::version::Version;

/// One stream, for as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What a client has of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// The version it confirmed last; `None`: none, or its absence.
    pub version: Option<Version>,
    /// The version that it refused since, and why.
    pub refused: Option<(Option<Version>, Arc<str>)>,
}

/// Where a stream stands with a version of a resource; the worse is the greater.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It has confirmed it.
    #[default]
    Confirmed,
    /// It hasn't said anything yet.
    Waiting,
    /// It has refused it, for this reason.
    Refused(Arc<str>),
}

impl Holding {
    /// Where its stream stands with `version` (`None`: with the absence of the resource).
    pub fn standing(&self, version: Option<Version>) -> Standing {
        match &self.refused {
            Some((refused, why)) if *refused == version => Standing::Refused(Arc::clone(why)),
            _ if self.version == version => Standing::Confirmed,
            _ => Standing::Waiting,
        }
    }
}

/// See the module's head. Cost of each record: logarithmic in the number of names.
#[derive(Debug, Default)]
pub struct Ledger {
    streams: BTreeMap<StreamId, BTreeMap<(Kind, Name), Holding>>,
}

impl Ledger {
    /// `stream` subscribes to names. What it said of them before stays.
    pub fn subscribed(&mut self, stream: StreamId, kind: Kind, names: &[Name]) {
        let holdings = self.streams.entry(stream).or_default();
        for name in names {
            holdings.entry((kind, name.clone())).or_default();
        }
    }

    /// `stream` doesn't want these any longer.
    pub fn unsubscribed(&mut self, stream: StreamId, kind: Kind, names: &[Name]) {
        if let Some(holdings) = self.streams.get_mut(&stream) {
            for name in names {
                holdings.remove(&(kind, name.clone()));
            }
        }
    }

    /// `stream` said this.
    pub fn record(&mut self, stream: StreamId, kind: Kind, receipts: Vec<Receipt>) {
        let holdings = self.streams.entry(stream).or_default();
        for receipt in receipts {
            let holding = holdings.entry((kind, receipt.name)).or_default();
            match receipt.rejected {
                Some(reason) => holding.refused = Some((receipt.version, reason)),
                None => {
                    *holding = Holding {
                        version: receipt.version,
                        refused: None,
                    }
                }
            }
        }
    }

    /// The stream has ended.
    pub fn closed(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    /// What a stream subscribes to and has, ascending.
    pub fn holdings(&self, stream: StreamId) -> impl Iterator<Item = (&(Kind, Name), &Holding)> {
        self.streams.get(&stream).into_iter().flatten()
    }

    /// Where a stream stands with `version` of a resource. One that doesn't subscribe to it waits.
    pub fn standing(&self, stream: StreamId, kind: Kind, name: &Name, version: Option<Version>) -> Standing {
        let holdings = self.streams.get(&stream);
        let holding = holdings.and_then(|holdings| holdings.get(&(kind, name.clone())));
        holding.map_or(Standing::Waiting, |holding| holding.standing(version))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn receipt(name: &str, version: u8, refused: bool) -> Receipt {
        Receipt {
            name: name.into(),
            version: Some(Version::of(&version)),
            rejected: refused.then(|| "no".into()),
        }
    }

    #[test]
    fn a_refusal_keeps_what_was_confirmed_until_something_is_confirmed_again() {
        let mut ledger = Ledger::default();
        let stream = StreamId(1);
        ledger.subscribed(stream, Kind::Cluster, &["a".into()]);
        ledger.record(
            stream,
            Kind::Cluster,
            vec![receipt("a", 1, false), receipt("a", 2, true)],
        );
        let (_, holding) = ledger.holdings(stream).next().unwrap();
        assert_eq!(holding.version, Some(Version::of(&1_u8)));
        assert_eq!(holding.refused, Some((Some(Version::of(&2_u8)), "no".into())));
        ledger.record(stream, Kind::Cluster, vec![receipt("a", 3, false)]);
        assert_eq!(ledger.holdings(stream).next().unwrap().1.refused, None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Subscribe(u64, &'static str),
        Unsubscribe(u64, &'static str),
        Record(u64, &'static str, u8, bool),
        Close(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let name = || prop::sample::select(vec!["a", "b"]);
        prop_oneof![
            (0_u64..3, name()).prop_map(|(stream, name)| Step::Subscribe(stream, name)),
            (0_u64..3, name()).prop_map(|(stream, name)| Step::Unsubscribe(stream, name)),
            (0_u64..3, name(), 0_u8..3, any::<bool>()).prop_map(|(a, b, c, d)| Step::Record(a, b, c, d)),
            (0_u64..3).prop_map(Step::Close),
        ]
    }

    /// What a stream's history says about a name, read from its beginning.
    fn history(steps: &[Step], stream: u64, name: &str) -> Option<(Option<u8>, Option<u8>)> {
        let mut state = None;
        for step in steps {
            match step {
                Step::Subscribe(of, one) if (*of, *one) == (stream, name) => {
                    state = state.or(Some((None, None)));
                }
                Step::Unsubscribe(of, one) if (*of, *one) == (stream, name) => state = None,
                Step::Record(of, one, version, refused) if (*of, *one) == (stream, name) => {
                    let confirmed = state.and_then(|(confirmed, _)| confirmed);
                    state = Some(if *refused {
                        (confirmed, Some(*version))
                    } else {
                        (Some(*version), None)
                    });
                }
                Step::Close(of) if *of == stream => state = None,
                _ => {}
            }
        }
        state
    }

    proptest! {
        #[test]
        fn streams_stand_where_their_histories_say(steps in prop::collection::vec(step(), 0..40), asked in 0_u8..3) {
            let mut ledger = Ledger::default();
            for step in steps.clone() {
                match step {
                    Step::Subscribe(stream, name) => ledger.subscribed(StreamId(stream), Kind::Route, &[name.into()]),
                    Step::Unsubscribe(stream, name) => {
                        ledger.unsubscribed(StreamId(stream), Kind::Route, &[name.into()]);
                    }
                    Step::Record(stream, name, version, refused) => {
                        ledger.record(StreamId(stream), Kind::Route, vec![receipt(name, version, refused)]);
                    }
                    Step::Close(stream) => ledger.closed(StreamId(stream)),
                }
            }
            for (stream, name) in (0..3).flat_map(|stream| [(stream, "a"), (stream, "b")]) {
                let expected = match history(&steps, stream, name) {
                    Some((_, Some(refused))) if refused == asked => Standing::Refused("no".into()),
                    Some((Some(confirmed), _)) if confirmed == asked => Standing::Confirmed,
                    _ => Standing::Waiting,
                };
                let asked = Some(Version::of(&asked));
                prop_assert_eq!(ledger.standing(StreamId(stream), Kind::Route, &name.into(), asked), expected);
            }
        }
    }
}
