//! Where the trust bundle has to be written, and where it has to go.

use std::collections::{BTreeMap, BTreeSet};

use crate::resource::Name;

/// A namespace's copy, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Whether it holds the bundle in force.
    pub right: bool,
    /// Whether we made it: what others made is kept right, and never deleted.
    pub ours: bool,
}

/// What to do about one namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Make it.
    Create(Name),
    /// Put it right.
    Correct(Name),
    /// Take it away.
    Delete(Name),
}

/// What to do so that exactly the `wanted` namespaces have a right copy, in their order.
pub fn plan(wanted: &BTreeSet<Name>, copies: &BTreeMap<Name, Copy>) -> Vec<Action> {
    let write = wanted.iter().filter_map(|name| match copies.get(name) {
        None => Some(Action::Create(name.clone())),
        Some(copy) => (!copy.right).then(|| Action::Correct(name.clone())),
    });
    let gone = copies
        .iter()
        .filter(|(name, copy)| copy.ours && !wanted.contains(*name));
    write
        .chain(gone.map(|(name, _)| Action::Delete(name.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn copies() -> impl Strategy<Value = BTreeMap<Name, Copy>> {
        let copy = (any::<bool>(), any::<bool>()).prop_map(|(right, ours)| Copy { right, ours });
        prop::collection::btree_map("[a-d]".prop_map(|name| name.as_str().into()), copy, 0..5)
    }

    proptest! {
        /// What is done leads to the goal, in one go, and then there is nothing left to do.
        #[test]
        fn a_plan_leads_to_the_goal(
            wanted in prop::collection::btree_set("[a-d]".prop_map(|name| Name::from(name.as_str())), 0..5),
            mut copies in copies(),
        ) {
            let foreign: BTreeSet<Name> = copies.iter().filter(|(_, copy)| !copy.ours).map(|(name, _)| name.clone()).collect();
            for action in plan(&wanted, &copies) {
                match action {
                    Action::Create(name) => {
                        prop_assert_eq!(copies.insert(name, Copy { right: true, ours: true }), None);
                    }
                    Action::Correct(name) => match copies.get_mut(&name) {
                        Some(copy) => copy.right = true,
                        None => prop_assert!(false, "there is nothing to correct in {}", name),
                    },
                    Action::Delete(name) => prop_assert!(copies.remove(&name).is_some_and(|copy| copy.ours)),
                }
            }
            prop_assert!(wanted.iter().all(|name| copies.get(name).is_some_and(|copy| copy.right)));
            prop_assert!(copies.keys().all(|name| wanted.contains(name) || foreign.contains(name)));
            prop_assert!(plan(&wanted, &copies).is_empty());
        }
    }
}
