//! What a watch says, made into what changed: a list that comes anew replaces what was held only once it is complete.
//!
//! An API server is listed, then watched, then listed again whenever the watch can't go on. Between the first object of
//! a list and its end nothing is known about what has not come yet, so nothing may be taken away; and nothing of it is
//! handed on either, as a half-read list could show a workload in neither of two objects that it moved between. A list
//! that breaks off is forgotten.

use std::collections::{BTreeMap, BTreeSet};

/// What a watch says, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard<K, V> {
    /// A list begins, the first or another.
    Restarted,
    /// An object of that list.
    Listed(K, V),
    /// The list is complete.
    Complete,
    /// An object appeared or changed.
    Changed(K, V),
    /// An object is gone.
    Gone(K),
    /// The kind itself is gone, and all its objects with it.
    Withdrawn,
}

/// What that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference<K, V> {
    /// This is how an object is now.
    Put(K, V),
    /// An object is no longer.
    Take(K),
}

/// The names of the objects of one kind that are held, and a list that is arriving.
#[derive(Debug)]
pub struct Mirror<K, V> {
    held: BTreeSet<K>,
    arriving: Option<BTreeMap<K, V>>,
}

impl<K, V> Default for Mirror<K, V> {
    fn default() -> Self {
        Self {
            held: BTreeSet::new(),
            arriving: None,
        }
    }
}

impl<K: Ord + Clone, V> Mirror<K, V> {
    /// Takes in what was heard; returns what is different now, to be applied as one. Objects that a list shows again
    /// are put again.
    pub fn hear(&mut self, heard: Heard<K, V>) -> Vec<Difference<K, V>> {
        match heard {
            Heard::Restarted => {
                self.arriving = Some(BTreeMap::new());
                Vec::new()
            }
            Heard::Listed(key, value) => {
                self.arriving.get_or_insert_default().insert(key, value);
                Vec::new()
            }
            Heard::Complete => self.replace(),
            Heard::Changed(key, value) => {
                if let Some(arriving) = &mut self.arriving {
                    arriving.insert(key, value);
                    return Vec::new();
                }
                self.held.insert(key.clone());
                vec![Difference::Put(key, value)]
            }
            Heard::Gone(key) => match &mut self.arriving {
                Some(arriving) => {
                    arriving.remove(&key);
                    Vec::new()
                }
                None if self.held.remove(&key) => vec![Difference::Take(key)],
                None => Vec::new(),
            },
            Heard::Withdrawn => {
                self.arriving = None;
                let held = std::mem::take(&mut self.held);
                held.into_iter().map(Difference::Take).collect()
            }
        }
    }

    /// The names of what is held, ascending.
    pub fn held(&self) -> impl Iterator<Item = &K> {
        self.held.iter()
    }

    /// The end of a list that never began says nothing.
    fn replace(&mut self) -> Vec<Difference<K, V>> {
        let Some(listed) = self.arriving.take() else {
            return Vec::new();
        };
        let gone = self.held.iter().filter(|key| !listed.contains_key(key)).cloned();
        let mut differences: Vec<_> = gone.map(Difference::Take).collect();
        self.held = listed.keys().cloned().collect();
        differences.extend(listed.into_iter().map(|(key, value)| Difference::Put(key, value)));
        differences
    }
}

/// Whether a server that is at `now` has lost what one at `known` had seen: its store was put back to an older state.
/// A watch from `known` would then be silent until the numbers have caught up. Versions that are no numbers can't be
/// compared; such a watch is not resumed either.
pub fn went_back(known: &str, now: &str) -> bool {
    match (known.parse::<u64>(), now.parse::<u64>()) {
        (Ok(known), Ok(now)) => now < known,
        _ => known != now,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Objects = BTreeMap<u8, u8>;

    fn apply(objects: &mut Objects, differences: Vec<Difference<u8, u8>>) {
        for difference in differences {
            match difference {
                Difference::Put(key, value) => objects.insert(key, value),
                Difference::Take(key) => objects.remove(&key),
            };
        }
    }

    fn list(objects: &Objects) -> impl Iterator<Item = Heard<u8, u8>> + '_ {
        let listed = objects.iter().map(|(key, value)| Heard::Listed(*key, *value));
        std::iter::once(Heard::Restarted).chain(listed)
    }

    fn anything() -> impl Strategy<Value = Heard<u8, u8>> {
        prop_oneof![
            1 => Just(Heard::Restarted),
            4 => (0..6_u8, any::<u8>()).prop_map(|(key, value)| Heard::Listed(key, value)),
            1 => Just(Heard::Complete),
            4 => (0..6_u8, any::<u8>()).prop_map(|(key, value)| Heard::Changed(key, value)),
            2 => (0..6_u8).prop_map(Heard::Gone),
            1 => Just(Heard::Withdrawn),
        ]
    }

    proptest! {
        /// Whatever came before, a whole list leaves exactly what a fresh start would have.
        #[test]
        fn a_whole_list_is_all_there_is(
            before in prop::collection::vec(anything(), 0..40),
            now in prop::collection::btree_map(0..6_u8, any::<u8>(), 0..6),
        ) {
            let (mut mirror, mut objects) = (Mirror::default(), Objects::new());
            for heard in before {
                let differences = mirror.hear(heard);
                apply(&mut objects, differences);
            }
            for heard in list(&now).chain([Heard::Complete]) {
                let differences = mirror.hear(heard);
                apply(&mut objects, differences);
            }
            prop_assert_eq!(&objects, &now);
            prop_assert_eq!(mirror.held().collect::<Vec<_>>(), now.keys().collect::<Vec<_>>());
        }

        /// Until a list is complete nothing changes, however often it breaks off.
        #[test]
        fn a_list_that_breaks_off_changes_nothing(
            held in prop::collection::btree_map(0..6_u8, any::<u8>(), 0..6),
            attempts in prop::collection::vec(prop::collection::btree_map(0..6_u8, any::<u8>(), 0..6), 0..4),
        ) {
            let (mut mirror, mut objects) = (Mirror::default(), Objects::new());
            for heard in list(&held).chain([Heard::Complete]) {
                let differences = mirror.hear(heard);
                apply(&mut objects, differences);
            }
            for attempt in &attempts {
                for heard in list(attempt) {
                    prop_assert_eq!(mirror.hear(heard), vec![]);
                }
            }
            prop_assert_eq!(objects, held);
        }

        /// A watch that goes on after a list says what the server says.
        #[test]
        fn after_a_list_changes_count_at_once(
            listed in prop::collection::btree_map(0..6_u8, any::<u8>(), 0..6),
            changes in prop::collection::vec((0..6_u8, prop::option::of(any::<u8>())), 0..20),
        ) {
            let (mut mirror, mut objects, mut server) = (Mirror::default(), Objects::new(), listed.clone());
            for heard in list(&listed).chain([Heard::Complete]) {
                let differences = mirror.hear(heard);
                apply(&mut objects, differences);
            }
            for (key, change) in changes {
                let differences = if let Some(value) = change {
                    server.insert(key, value);
                    mirror.hear(Heard::Changed(key, value))
                } else {
                    server.remove(&key);
                    mirror.hear(Heard::Gone(key))
                };
                apply(&mut objects, differences);
                prop_assert_eq!(&objects, &server);
            }
        }
    }

    #[test]
    fn a_kind_that_goes_takes_its_objects_along() {
        let mut mirror = Mirror::default();
        mirror.hear(Heard::Changed(1, 'a'));
        mirror.hear(Heard::Restarted);
        mirror.hear(Heard::Listed(2, 'b'));
        assert_eq!(mirror.hear(Heard::Withdrawn), [Difference::Take(1)]);
        assert_eq!(mirror.hear(Heard::Complete), []);
    }

    #[test]
    fn a_version_goes_back_by_its_number() {
        for (known, now, expected) in [
            ("9", "10", false),
            ("10", "10", false),
            ("10", "9", true),
            ("a", "b", true),
            ("a", "a", false),
        ] {
            assert_eq!(went_back(known, now), expected, "{known} {now}");
        }
    }
}
