//! Whether a process is ready: a fixed set of named conditions that must all hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// The conditions of one process. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Health(Arc<watch::Sender<BTreeMap<&'static str, bool>>>);

impl Health {
    /// None of `conditions` holds yet.
    pub fn new(conditions: &[&'static str]) -> Self {
        let conditions = conditions.iter().map(|name| (*name, false)).collect();
        Self(Arc::new(watch::Sender::new(conditions)))
    }

    /// Says whether `condition` holds.
    pub fn set(&self, condition: &'static str, holds: bool) {
        self.0
            .send_if_modified(|conditions| conditions.insert(condition, holds) != Some(holds));
    }

    /// Whether everything holds.
    pub fn is_ready(&self) -> bool {
        self.0.borrow().values().all(|holds| *holds)
    }

    /// What doesn't hold, sorted.
    pub fn missing(&self) -> Vec<&'static str> {
        self.0
            .borrow()
            .iter()
            .filter(|(_, holds)| !**holds)
            .map(|(name, _)| *name)
            .collect()
    }

    /// Ends as soon as everything holds.
    pub async fn ready(&self) {
        let all = |conditions: &BTreeMap<_, bool>| conditions.values().all(|holds| *holds);
        // The sender is held by `self`, so waiting can't fail.
        let _ = self.0.subscribe().wait_for(all).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_all_conditions_hold() {
        let health = Health::new(&["certificate", "configuration"]);
        assert!(!health.is_ready());
        health.set("certificate", true);
        assert_eq!(health.missing(), ["configuration"]);
        let other = health.clone();
        let waiting = tokio::spawn(async move { other.ready().await });
        health.set("configuration", true);
        waiting.await.unwrap();
        health.set("certificate", false);
        assert_eq!(
            (health.is_ready(), health.missing()),
            (false, vec!["certificate"])
        );
    }
}
