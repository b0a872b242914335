use proptest::prelude::*;

use super::*;

fn at(millis: u64) -> Now {
    Now::from_nanos(millis * 1_000_000)
}

fn opening(pool: &mut Pool, now: Now, waiting: u32) -> ConnectionId {
    match pool.take(now, waiting) {
        Take::Open(id) => id,
        other => panic!("{other:?}"),
    }
}

/// A pool with one open connection that ends at `end`.
fn open(settings: Settings, end: Option<Now>) -> (Pool, ConnectionId) {
    let mut pool = Pool::new(settings);
    let id = opening(&mut pool, at(0), 0);
    assert!(pool.opened(id, at(0), end, u32::MAX));
    (pool, id)
}

#[test]
fn one_connection_is_shared_until_it_is_full() {
    let (mut pool, id) = open(Settings::HTTP2, None);
    for _ in 0..HTTP2_STREAMS {
        assert_eq!(pool.take(at(1), 0), Take::Use(id));
    }
    let second = opening(&mut pool, at(1), 0);
    assert_eq!(pool.take(at(1), 1), Take::Wait);
    assert!(!pool.release(id, at(2)));
    assert_eq!(pool.take(at(2), 2), Take::Use(id));
    assert!(pool.opened(second, at(3), None, u32::MAX));
    assert_eq!(pool.take(at(3), 0), Take::Use(second));
}

#[test]
fn waiting_requests_open_no_more_than_they_need() {
    let mut pool = Pool::new(Settings {
        streams: 2,
        ..Settings::HTTP2
    });
    opening(&mut pool, at(0), 0);
    assert_eq!(pool.take(at(0), 1), Take::Wait);
    opening(&mut pool, at(0), 2);
    assert_eq!(pool.take(at(0), 3), Take::Wait);
}

#[test]
fn another_connection_counts_until_it_takes_no_request_any_more() {
    let (mut pool, old) = open(Settings::HTTP1, Some(at(60_000)));
    assert!(!pool.has_other(old, at(0)));
    assert_eq!(pool.take(at(1), 0), Take::Use(old));
    let new = opening(&mut pool, at(1), 0);
    assert!(pool.has_other(new, at(59_999)), "its one place may become free");
    assert!(!pool.has_other(new, at(60_000)), "it ends with what runs on it");
    assert!(pool.has_other(old, at(60_000)), "one that is being opened");
}

#[test]
fn the_peers_limit_counts() {
    let mut pool = Pool::new(Settings::HTTP2);
    let id = opening(&mut pool, at(0), 0);
    assert!(pool.opened(id, at(0), None, 1));
    assert_eq!(pool.take(at(0), 0), Take::Use(id));
    assert!(matches!(pool.take(at(0), 0), Take::Open(_)));
    pool.room_changed(id, 2);
    assert_eq!(pool.take(at(0), 0), Take::Use(id));
}

#[test]
fn a_successor_is_opened_before_the_end_and_takes_over() {
    let end = at(60_000);
    let (mut pool, old) = open(Settings::HTTP2, Some(end));
    pool.take(at(49_000), 0);
    assert_eq!(pool.due(), Some(at(50_000)));
    assert!(pool.upkeep(at(49_999)).is_empty());
    let upkeep = pool.upkeep(at(50_000));
    let [Upkeep::Open(new)] = upkeep[..] else {
        panic!("{upkeep:?}")
    };
    assert!(pool.upkeep(at(50_001)).is_empty(), "one successor");
    assert_eq!(
        pool.take(at(50_002), 0),
        Take::Use(old),
        "nobody waits for the handshake"
    );
    assert!(pool.opened(new, at(50_500), Some(at(110_000)), u32::MAX));
    assert_eq!(pool.take(at(51_000), 0), Take::Use(new));
    assert!(pool.upkeep(end).is_empty(), "streams run on");
    assert!(!pool.release(old, end));
    assert!(pool.release(old, end), "the last stream closes it");
}

#[test]
fn no_successor_is_opened_where_a_fresh_connection_stands_ready() {
    let (mut pool, _) = open(
        Settings {
            streams: 1,
            ..Settings::HTTP2
        },
        Some(at(60_000)),
    );
    pool.take(at(40_000), 0);
    let second = opening(&mut pool, at(40_000), 0);
    assert!(pool.opened(second, at(40_000), Some(at(100_000)), 1));
    assert!(pool.upkeep(at(50_000)).is_empty());
}

#[test]
fn past_its_end_a_connection_takes_nothing() {
    let (mut pool, old) = open(Settings::HTTP2, Some(at(1000)));
    assert_eq!(pool.take(at(999), 0), Take::Use(old));
    let new = opening(&mut pool, at(1000), 0);
    assert!(
        !pool.opened(new, at(1001), Some(at(1001)), u32::MAX),
        "made of an expired leaf"
    );
}

#[test]
fn a_drained_connection_finishes_what_runs() {
    let (mut pool, id) = open(Settings::HTTP2, None);
    assert_eq!(pool.take(at(1), 0), Take::Use(id));
    assert!(!pool.drained(id, at(2)));
    assert!(matches!(pool.take(at(2), 0), Take::Open(_)));
    assert!(pool.release(id, at(3)));
    assert!(!pool.release(id, at(3)), "it is forgotten");
}

#[test]
fn unused_connections_close_and_used_ones_stay() {
    let (mut pool, id) = open(Settings::HTTP1, None);
    assert_eq!(pool.take(at(10), 0), Take::Use(id));
    assert!(pool.upkeep(at(100_000)).is_empty());
    pool.release(id, at(100_000));
    assert_eq!(pool.due(), Some(at(104_000)));
    assert_eq!(pool.upkeep(at(104_000))[..], [Upkeep::Close(id)]);
    assert!(pool.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Request,
    Opened {
        index: usize,
        life: Option<u64>,
        room: u32,
    },
    Lost(usize),
    Drained(usize),
    Ended(usize),
    Upkeep,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let index = 0usize..6;
    prop_oneof![
        8 => Just(Step::Request),
        4 => (index.clone(), prop::option::of(0u64..40_000), 0u32..5)
            .prop_map(|(index, life, room)| Step::Opened { index, life, room }),
        1 => index.clone().prop_map(Step::Lost),
        1 => index.clone().prop_map(Step::Drained),
        6 => index.prop_map(Step::Ended),
        2 => Just(Step::Upkeep),
        4 => (0u64..4000).prop_map(Step::Pass),
    ]
}

/// What a connection really is, kept by the test.
#[derive(Clone, Debug)]
struct Real {
    open: bool,
    streams: u32,
    room: u32,
    end: Option<Now>,
    drained: bool,
}

/// The slow model: every connection that the shell has not closed.
#[derive(Default)]
struct Model {
    real: BTreeMap<ConnectionId, Real>,
    waiting: u32,
    now: Now,
}

const SETTINGS: Settings = Settings {
    streams: 3,
    idle: Duration::from_secs(6),
};

impl Model {
    fn nth(&self, index: usize, holds: impl Fn(&Real) -> bool) -> Option<ConnectionId> {
        let fitting: Vec<_> = self
            .real
            .iter()
            .filter(|(_, real)| holds(real))
            .map(|(id, _)| *id)
            .collect();
        (!fitting.is_empty()).then(|| fitting[index % fitting.len()])
    }

    fn usable(&self, real: &Real) -> bool {
        let ended = real.end.is_some_and(|end| end <= self.now);
        real.open && !real.drained && !ended && real.streams < real.room
    }

    fn add(&mut self, id: ConnectionId) {
        let real = Real {
            open: false,
            streams: 0,
            room: 0,
            end: None,
            drained: false,
        };
        assert!(self.real.insert(id, real).is_none(), "numbers are not used twice");
    }

    fn request(&mut self, pool: &mut Pool) {
        let any = self.real.values().any(|real| self.usable(real));
        let opening = u32::try_from(self.real.values().filter(|real| !real.open).count()).expect("few");
        match pool.take(self.now, self.waiting) {
            Take::Use(id) => {
                assert!(
                    self.usable(&self.real[&id]),
                    "usable: {:?} at {:?}",
                    self.real[&id],
                    self.now
                );
                self.real.get_mut(&id).expect("known").streams += 1;
            }
            Take::Open(id) => {
                assert!(!any, "reuse is preferred");
                assert!(opening * SETTINGS.streams <= self.waiting, "opens are bounded");
                self.add(id);
                self.waiting += 1;
            }
            Take::Wait => {
                assert!(!any && opening > 0, "who waits is waited for");
                self.waiting += 1;
            }
        }
    }

    /// Waiting requests ask again, as the shell has them do; those that wait on keep waiting.
    fn wake(&mut self, pool: &mut Pool) {
        for _ in 0..std::mem::take(&mut self.waiting) {
            self.request(pool);
        }
    }

    fn upkeep(&mut self, pool: &mut Pool) {
        for upkeep in pool.upkeep(self.now) {
            match upkeep {
                Upkeep::Open(id) => self.add(id),
                Upkeep::Close(id) => {
                    let real = self.real.remove(&id).expect("known");
                    assert!(real.open && real.streams == 0, "nothing is cut off");
                }
            }
        }
    }

    fn run(&mut self, pool: &mut Pool, step: &Step) {
        match *step {
            Step::Request => self.request(pool),
            Step::Pass(millis) => self.now = self.now + Duration::from_millis(millis),
            Step::Upkeep => self.upkeep(pool),
            Step::Opened { index, life, room } => {
                let Some(id) = self.nth(index, |real| !real.open) else {
                    return;
                };
                let end = life.map(|millis| self.now + Duration::from_millis(millis));
                let usable = pool.opened(id, self.now, end, room);
                let real = self.real.get_mut(&id).expect("known");
                *real = Real {
                    open: true,
                    room: room.clamp(1, SETTINGS.streams),
                    end,
                    ..*real
                };
                assert_eq!(usable, self.usable(&self.real[&id].clone()));
                if usable {
                    self.wake(pool);
                } else {
                    self.waiting = 0;
                }
            }
            Step::Lost(index) => {
                if let Some(id) = self.nth(index, |_| true) {
                    pool.lost(id);
                    self.real.remove(&id);
                    self.wake(pool);
                }
            }
            Step::Drained(index) => {
                let Some(id) = self.nth(index, |real| real.open) else {
                    return;
                };
                self.real.get_mut(&id).expect("known").drained = true;
                if pool.drained(id, self.now) {
                    assert_eq!(self.real.remove(&id).expect("known").streams, 0);
                }
            }
            Step::Ended(index) => {
                let Some(id) = self.nth(index, |real| real.streams > 0) else {
                    return;
                };
                self.real.get_mut(&id).expect("known").streams -= 1;
                if pool.release(id, self.now) {
                    assert_eq!(self.real.remove(&id).expect("known").streams, 0);
                }
                self.wake(pool);
            }
        }
    }
}

proptest! {
    #[test]
    fn what_the_pool_believes_is_what_is(steps in proptest::collection::vec(step(), 0..150)) {
        let (mut pool, mut model) = (Pool::new(SETTINGS), Model::default());
        for step in &steps {
            model.run(&mut pool, step);
            let streams: usize = model.real.values().map(|real| real.streams as usize).sum();
            prop_assert_eq!(pool.counts(), (model.real.len(), streams));
        }
        // Once everything has ended, nothing stays for ever.
        while let Some(id) = model.nth(0, |real| real.streams > 0) {
            model.real.get_mut(&id).expect("known").streams -= 1;
            if pool.release(id, model.now) {
                model.real.remove(&id);
            }
        }
        while let Some(id) = model.nth(0, |real| !real.open) {
            pool.lost(id);
            model.real.remove(&id);
        }
        model.now = model.now + SETTINGS.idle;
        for _ in 0..2 {
            model.upkeep(&mut pool);
            while let Some(id) = model.nth(0, |real| !real.open) {
                pool.lost(id);
                model.real.remove(&id);
            }
        }
        prop_assert!(pool.is_empty());
    }

    /// Upkeep that is asked for whenever it is due has a successor ready while its predecessor still takes requests.
    #[test]
    fn a_request_never_finds_only_a_retired_connection(life in 1000u64..100_000, handshake in 1u64..100, requests in 1u64..50) {
        let (mut pool, first) = open(Settings::HTTP2, Some(at(life)));
        let (mut opening, mut generations) = (BTreeMap::new(), 0);
        let mut used = vec![first];
        for tick in 0..requests * 20 {
            let now = at(tick * life / 40);
            if pool.due().is_some_and(|due| due <= now) {
                for upkeep in pool.upkeep(now) {
                    if let Upkeep::Open(id) = upkeep {
                        opening.insert(id, now + Duration::from_millis(handshake.min(life / 40)));
                        generations += 1;
                    }
                }
            }
            let ready: Vec<_> = opening.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
            for id in ready {
                opening.remove(&id);
                pool.opened(id, now, Some(now + Duration::from_millis(life)), u32::MAX);
            }
            match pool.take(now, 0) {
                Take::Use(id) => {
                    pool.release(id, now);
                    used.push(id);
                }
                other => prop_assert!(false, "{other:?} at {now:?}"),
            }
        }
        used.dedup();
        prop_assert!(used.len() <= generations + 1, "connections are not switched to and fro");
    }
}
