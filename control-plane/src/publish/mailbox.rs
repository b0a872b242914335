//! What a stream hasn't taken yet: the newest content of each name that changed. Bounded by what it follows.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use weft_control_plane_core::resource::{Kind, Name};
use weft_control_plane_core::stream::Content;

use super::Update;

/// What changed since the stream looked last. The whole goes before the single names, which are newer.
#[derive(Debug, Default)]
pub struct News {
    /// Everything of a type: the answer to a wildcard.
    pub all: BTreeMap<Kind, Vec<(Name, Content)>>,
    /// Single names; `None`: doesn't exist.
    pub updates: BTreeMap<(Kind, Name), Update>,
}

/// Written by the publisher, read by one stream. The lock is held for one insertion or one exchange.
#[derive(Debug, Default)]
pub struct Mailbox {
    news: Mutex<News>,
    wake: Notify,
}

impl Mailbox {
    /// Waits for something and takes all there is.
    pub async fn take(&self) -> News {
        loop {
            let news = std::mem::take(&mut *self.lock());
            if !news.all.is_empty() || !news.updates.is_empty() {
                return news;
            }
            // A permit that was given meanwhile is kept, so nothing is slept through.
            self.wake.notified().await;
        }
    }

    /// Takes all there is.
    #[cfg(test)]
    pub(super) fn take_now(&self) -> News {
        std::mem::take(&mut *self.lock())
    }

    pub(super) fn put(&self, kind: Kind, name: Name, update: Update) {
        self.lock().updates.insert((kind, name), update);
        self.wake.notify_one();
    }

    /// The answer to a wildcard; what was known of these names before is older.
    pub(super) fn put_all(&self, kind: Kind, resources: Vec<(Name, Content)>) {
        let mut news = self.lock();
        for (name, _) in &resources {
            news.updates.remove(&(kind, name.clone()));
        }
        news.all.insert(kind, resources);
        drop(news);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_of_each_name_is_taken_once() {
        let mailbox = Mailbox::default();
        let content = |text: &str| Content {
            version: weft_control_plane_core::version::Version::of(text),
            body: text.as_bytes().into(),
        };
        mailbox.put(Kind::Cluster, "a".into(), None);
        mailbox.put(Kind::Cluster, "a".into(), Some(content("1")));
        mailbox.put(Kind::Cluster, "b".into(), None);
        mailbox.put_all(Kind::Cluster, vec![("b".into(), content("2"))]);
        let news = mailbox.take().await;
        assert_eq!(
            news.updates,
            BTreeMap::from([((Kind::Cluster, "a".into()), Some(content("1")))])
        );
        assert_eq!(news.all[&Kind::Cluster], [("b".into(), content("2"))]);
        let waiting = tokio::time::timeout(std::time::Duration::ZERO, mailbox.take());
        assert!(waiting.await.is_err(), "there is nothing left");
        mailbox.put(Kind::Route, "c".into(), None);
        assert_eq!(mailbox.take().await.updates.len(), 1);
    }
}
