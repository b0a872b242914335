//! A map that keeps only its newest entries, so that a shop that runs for weeks stays small.

use std::collections::{HashMap, VecDeque};

/// How many entries are kept.
const CAPACITY: usize = 10_000;

/// From a name to `V`, bounded.
#[derive(Debug)]
pub(crate) struct Recent<V> {
    values: HashMap<String, V>,
    /// Names by age, oldest first; each name in `values` stands here once.
    order: VecDeque<String>,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self {
            values: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<V> Recent<V> {
    /// Sets a value; the oldest goes when there are too many.
    pub(crate) fn insert(&mut self, name: &str, value: V) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push_back(name.to_owned());
        }
        if self.order.len() > CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&V> {
        self.values.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first() {
        let mut recent = Recent::default();
        for n in 0..=CAPACITY {
            recent.insert(&n.to_string(), n);
        }
        assert_eq!(recent.get("0"), None);
        assert_eq!(recent.get("1"), Some(&1));
        assert_eq!(recent.get(&CAPACITY.to_string()), Some(&CAPACITY));
        assert_eq!(recent.order.len(), CAPACITY);
        assert_eq!(recent.values.len(), CAPACITY);
    }
}
