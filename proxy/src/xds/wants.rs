//! Which destinations to subscribe to: what the settings name, what was asked for, what peers of this workload use.
//!
//! A name that was asked for stays wanted while it is used, and for [`MAX_IDLE_MINUTES`] longer, so that memory and
//! pushes follow what is in use. Hints add names as if they had been asked for when they came; they never remove any.

use std::collections::{BTreeMap, BTreeSet};

use weft_proxy_core::resource::{Kind, Name};

/// Minutes without use after which a destination is let go.
pub const MAX_IDLE_MINUTES: u32 = 10;
/// Most destinations that were asked for.
pub const MAX_DESTINATIONS: usize = 4096;

/// See the module's head.
#[derive(Debug)]
pub struct Wants {
    pinned: BTreeSet<(Kind, Name)>,
    /// With the minutes since the last use.
    asked: BTreeMap<Name, u32>,
    hinted: BTreeSet<Name>,
}

impl Wants {
    /// Wants `pinned`, always.
    pub fn new(pinned: BTreeSet<(Kind, Name)>) -> Self {
        Self {
            pinned,
            asked: BTreeMap::new(),
            hinted: BTreeSet::new(),
        }
    }

    /// Somebody asks for `name`. When there is no more room, a name that doesn't exist makes room, as `is_absent` says.
    /// Returns whether `name` is new among what is wanted.
    pub fn ask(&mut self, name: &Name, is_absent: impl Fn(&Name) -> bool) -> bool {
        if self.pinned.contains(&(Kind::Listener, name.clone())) {
            return false;
        }
        if let Some(idle) = self.asked.get_mut(name) {
            *idle = 0;
            return false;
        }
        if self.asked.len() >= MAX_DESTINATIONS {
            let Some(absent) = self.asked.keys().find(|name| is_absent(name)).cloned() else {
                return false;
            };
            self.asked.remove(&absent);
        }
        self.asked.insert(name.clone(), 0);
        true
    }

    /// The hints as they are now. Returns whether one of them is new.
    pub fn hint(&mut self, hints: &BTreeSet<Name>) -> bool {
        let new: Vec<Name> = hints.difference(&self.hinted).cloned().collect();
        self.hinted.clone_from(hints);
        new.iter().filter(|name| self.ask(name, |_| false)).count() > 0
    }

    /// A minute has passed in which `used` were used. Returns whether a name was let go.
    pub fn minute(&mut self, used: &BTreeSet<Name>) -> bool {
        let before = self.asked.len();
        self.asked.retain(|name, idle| {
            *idle = if used.contains(name) { 0 } else { *idle + 1 };
            *idle <= MAX_IDLE_MINUTES
        });
        self.asked.len() != before
    }

    /// What is wanted.
    pub fn roots(&self) -> BTreeSet<(Kind, Name)> {
        let asked = self.asked.keys().map(|name| (Kind::Listener, name.clone()));
        self.pinned.iter().cloned().chain(asked).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.into()
    }

    fn names(texts: &[&str]) -> BTreeSet<Name> {
        texts.iter().map(|text| name(text)).collect()
    }

    fn wants() -> Wants {
        Wants::new(
            [
                (Kind::Listener, name("pinned:1")),
                (Kind::Trust, name("spiffe://td")),
            ]
            .into(),
        )
    }

    fn listeners(wants: &Wants) -> BTreeSet<Name> {
        wants
            .roots()
            .into_iter()
            .filter(|(kind, _)| *kind == Kind::Listener)
            .map(|(_, name)| name)
            .collect()
    }

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut wants = wants();
        assert!(wants.ask(&name("a:1"), |_| false));
        assert!(wants.ask(&name("b:1"), |_| false));
        assert!(!wants.ask(&name("a:1"), |_| false) && !wants.ask(&name("pinned:1"), |_| false));
        for _ in 0..MAX_IDLE_MINUTES {
            assert!(!wants.minute(&names(&["a:1"])));
        }
        assert!(wants.minute(&names(&["a:1"])));
        assert_eq!(listeners(&wants), names(&["a:1", "pinned:1"]));
        assert!(wants.roots().contains(&(Kind::Trust, name("spiffe://td"))));
    }

    #[test]
    fn hints_add_once_and_never_remove() {
        let mut wants = wants();
        assert!(wants.hint(&names(&["a:1", "b:1"])));
        assert!(!wants.hint(&names(&["a:1"])), "a hint that ends removes nothing");
        assert_eq!(listeners(&wants), names(&["a:1", "b:1", "pinned:1"]));
        for _ in 0..=MAX_IDLE_MINUTES {
            wants.minute(&BTreeSet::new());
        }
        assert!(
            !wants.hint(&names(&["a:1"])),
            "a hint that nobody uses is not renewed by standing there"
        );
        assert_eq!(listeners(&wants), names(&["pinned:1"]));
        assert!(wants.hint(&names(&["a:1", "b:1"])), "one that comes again is");
    }

    #[test]
    fn there_is_room_for_so_many_and_absent_ones_make_room() {
        let mut wants = wants();
        for index in 0..MAX_DESTINATIONS {
            assert!(wants.ask(&name(&format!("n{index}:1")), |_| false));
        }
        assert!(!wants.ask(&name("more:1"), |_| false));
        assert!(wants.ask(&name("more:1"), |absent| &**absent == "n7:1"));
        let listeners = listeners(&wants);
        assert!(listeners.contains("more:1") && !listeners.contains("n7:1"));
        assert_eq!(listeners.len(), MAX_DESTINATIONS + 1);
    }
}
