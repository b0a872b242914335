//! The connections of a worker: which there are, which are busy, and how they are asked to end.
//!
//! Every accepted connection holds a [`Tracked`]. Its task polls it for a [`Signal`]; exchanges and tunnels on it hold
//! a [`Busy`]. Once a second the worker [sweeps](Tracker::sweep): a request head that is not whole
//! [`HEAD_TIMEOUT`] after its first byte ends its connection (HTTP/1 is answered 408), and so does idleness. Thus a deadline costs no timer and
//! no clock read per request, and is kept to a second.
//!
//! Draining is a state of the worker, not of a moment: connections accepted while it lasts are asked to end, too, each
//! after its first exchange (endpoint removal takes time to spread, and who comes late is still served). One whose
//! exchange is over counts as running until it has ended: what was answered last may still be on its way to a slow
//! reader.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use crate::telemetry::metrics::Direction;

/// From the first byte of a request head to its last, in seconds.
pub const HEAD_TIMEOUT: u32 = 10;
/// An application's connection without an exchange, in seconds.
pub const IDLE_TIMEOUT: u32 = 600;

/// What a connection is asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Nothing.
    #[default]
    None,
    /// Take no new exchange after the running ones (GOAWAY, `Connection: close`).
    Finish,
    /// End now.
    Abort,
}

/// All connections of a worker.
#[derive(Debug, Default)]
pub struct Tracker {
    connections: RefCell<BTreeMap<u64, Rc<State>>>,
    next: Cell<u64>,
    draining: Cell<bool>,
    second: Rc<Cell<u32>>,
    running: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct State {
    signal: Cell<Signal>,
    waker: RefCell<Option<Waker>>,
    busy: Cell<u32>,
    /// An exchange has begun on it.
    used: Cell<bool>,
    /// Nothing runs on it, it is about to end, and until then it counts as running.
    leaving: Cell<bool>,
    /// All has left it, or it is no connection of the tracker's any more; what still runs on it has places of its own.
    gone: Cell<bool>,
    /// The second in which the head that is being read began, plus one; 0 while none is.
    head_since: Cell<u32>,
    /// The same for a block of fields in HTTP/2, which may come while exchanges run.
    block_since: Cell<u32>,
    /// The second in which the last exchange ended.
    idle_since: Cell<u32>,
}

/// A connection's place in the tracker; dropping it takes the connection out.
#[derive(Debug)]
pub struct Tracked {
    id: u64,
    state: Rc<State>,
    tracker: Weak<Tracker>,
    second: Rc<Cell<u32>>,
    running: Arc<AtomicUsize>,
    direction: Direction,
}

/// A running exchange or tunnel.
#[derive(Debug)]
pub struct Busy {
    state: Rc<State>,
    second: Rc<Cell<u32>>,
    running: Arc<AtomicUsize>,
}

/// Notes when a request head begins; the transport beneath HTTP holds it.
#[derive(Clone, Debug)]
pub struct HeadClock {
    state: Rc<State>,
    second: Rc<Cell<u32>>,
}

impl Tracker {
    /// A tracker that adds its running exchanges to `running`, which other threads may read.
    pub fn new(running: Arc<AtomicUsize>) -> Rc<Self> {
        Rc::new(Self {
            running,
            ..Self::default()
        })
    }

    /// A new connection.
    pub fn track(self: &Rc<Self>, direction: Direction) -> Tracked {
        let id = self.next.get();
        self.next.set(id + 1);
        let state = Rc::new(State::default());
        state.idle_since.set(self.second.get());
        if self.draining.get() {
            state.signal.set(Signal::Finish);
        }
        self.connections.borrow_mut().insert(id, Rc::clone(&state));
        Tracked {
            id,
            state,
            tracker: Rc::downgrade(self),
            second: Rc::clone(&self.second),
            running: Arc::clone(&self.running),
            direction,
        }
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.connections.borrow().len()
    }

    /// From now on connections finish what they do and end.
    pub fn drain(&self) {
        self.draining.set(true);
        self.signal_all(Signal::Finish);
    }

    /// Asks connections on which nothing runs to end.
    pub fn finish_idle(&self) {
        let connections = self.connections.borrow();
        for state in connections.values().filter(|state| state.busy.get() == 0) {
            state.raise(Signal::Finish);
        }
    }

    /// Ends every connection.
    pub fn abort(&self) {
        self.draining.set(true);
        self.signal_all(Signal::Abort);
    }

    fn signal_all(&self, signal: Signal) {
        self.connections
            .borrow()
            .values()
            .for_each(|state| state.raise(signal));
    }

    /// To be called once a second: advances the clock and ends connections whose time is up.
    pub fn sweep(&self) {
        let now = self.second.get() + 1;
        self.second.set(now);
        for state in self.connections.borrow().values() {
            if is_late(&state.head_since, now) || is_late(&state.block_since, now) {
                state.raise(Signal::Abort);
            } else if state.busy.get() == 0 && now - state.idle_since.get() > IDLE_TIMEOUT {
                state.raise(if state.used.get() {
                    Signal::Finish
                } else {
                    Signal::Abort
                });
            }
        }
    }
}

/// Whether what began in the second before `since` should be whole by now.
fn is_late(since: &Cell<u32>, now: u32) -> bool {
    let since = since.get();
    since != 0 && now - (since - 1) > HEAD_TIMEOUT
}

impl State {
    fn raise(&self, signal: Signal) {
        if self.signal.get() < signal {
            self.signal.set(signal);
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whether the exchange that has just ended was the last one, so that its place is the connection's until that ends.
    fn begins_to_leave(&self) -> bool {
        let last = self.busy.get() == 0 && self.signal.get() == Signal::Finish;
        last && !self.gone.get() && !self.leaving.replace(true)
    }

    /// What the connection is to do now: one that was never used finishes after its first exchange.
    fn due(&self) -> Signal {
        match self.signal.get() {
            Signal::Finish if !self.used.get() => Signal::None,
            signal => signal,
        }
    }
}

impl Tracked {
    /// Ready when the signal is above `known`.
    pub fn poll_signal(&self, cx: &Context<'_>, known: Signal) -> Poll<Signal> {
        let signal = self.state.due();
        if signal > known {
            return Poll::Ready(signal);
        }
        let mut waker = self.state.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Asks the connection to take no new exchange after the running ones.
    pub fn finish(&self) {
        self.state.raise(Signal::Finish);
    }

    /// Waits until the connection is to end.
    pub async fn finished(&self) {
        poll_fn(|cx| self.poll_signal(cx, Signal::None)).await;
    }

    /// Which side it was accepted on.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Whether the connection was asked to end.
    pub fn finishing(&self) -> bool {
        self.state.signal.get() != Signal::None
    }

    /// An exchange or a tunnel begins.
    pub fn begin(&self) -> Busy {
        self.state.head_since.set(0);
        if !self.state.used.replace(true) && self.state.signal.get() == Signal::Finish {
            self.state.wake();
        }
        self.state.busy.set(self.state.busy.get() + 1);
        self.running.fetch_add(1, Ordering::Relaxed);
        Busy {
            state: Rc::clone(&self.state),
            second: Rc::clone(&self.second),
            running: Arc::clone(&self.running),
        }
    }

    /// Whatever was answered has left: what remains of the connection holds up no drain.
    pub fn all_has_left(&self) {
        self.state.gone.set(true);
        if self.state.leaving.replace(false) {
            self.running.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether the connection ends because a request head did not come in time.
    pub fn head_is_late(&self) -> bool {
        is_late(&self.state.head_since, self.second.get())
    }

    /// For the transport beneath HTTP.
    pub fn head_clock(&self) -> HeadClock {
        HeadClock {
            state: Rc::clone(&self.state),
            second: Rc::clone(&self.second),
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.all_has_left();
        if let Some(tracker) = self.tracker.upgrade() {
            tracker.connections.borrow_mut().remove(&self.id);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.state.busy.set(self.state.busy.get() - 1);
        self.state.idle_since.set(self.second.get());
        if !self.state.begins_to_leave() {
            self.running.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl HeadClock {
    /// A head of HTTP/1 has begun, now unless it had before. It is whole when its exchange begins.
    pub fn begun(&self) {
        if self.state.head_since.get() == 0 {
            self.state.head_since.set(self.second.get() + 1);
        }
    }

    /// Whether a block of fields of HTTP/2 has begun and is not whole.
    pub fn within_block(&self, within: bool) {
        let since = &self.state.block_since;
        if !within {
            since.set(0);
        } else if since.get() == 0 {
            since.set(self.second.get() + 1);
        }
    }

    /// Seconds of the worker's life.
    pub fn second(&self) -> u32 {
        self.second.get()
    }

    /// Whether an exchange runs.
    pub fn busy(&self) -> bool {
        self.state.busy.get() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(tracked: &Tracked) -> Signal {
        match tracked.poll_signal(&Context::from_waker(Waker::noop()), Signal::None) {
            Poll::Ready(signal) => signal,
            Poll::Pending => Signal::None,
        }
    }

    #[test]
    fn a_head_has_ten_seconds_from_its_first_byte() {
        let tracker = Tracker::new(Arc::default());
        let slow = tracker.track(Direction::Outbound);
        (0..60).for_each(|_| tracker.sweep());
        slow.head_clock().begun();
        (0..HEAD_TIMEOUT).for_each(|_| tracker.sweep());
        slow.head_clock().begun();
        assert_eq!(signal(&slow), Signal::None);
        assert!(!slow.head_is_late());
        tracker.sweep();
        assert_eq!(signal(&slow), Signal::Abort);
        assert!(slow.head_is_late());
    }

    #[test]
    fn a_block_of_fields_has_ten_seconds_also_while_exchanges_run() {
        let tracker = Tracker::new(Arc::default());
        let connection = tracker.track(Direction::Outbound);
        let clock = connection.head_clock();
        clock.within_block(true);
        (0..HEAD_TIMEOUT).for_each(|_| tracker.sweep());
        clock.within_block(false);
        clock.within_block(true);
        let _busy = connection.begin();
        (0..HEAD_TIMEOUT).for_each(|_| tracker.sweep());
        assert_eq!(signal(&connection), Signal::None);
        tracker.sweep();
        assert_eq!(signal(&connection), Signal::Abort);
        assert!(!connection.head_is_late(), "no head of HTTP/1");
    }

    #[test]
    fn a_busy_connection_is_never_swept() {
        let tracker = Tracker::new(Arc::default());
        let connection = tracker.track(Direction::Outbound);
        connection.head_clock().begun();
        let busy = connection.begin();
        (0..=IDLE_TIMEOUT).for_each(|_| tracker.sweep());
        assert_eq!(signal(&connection), Signal::None);
        drop(busy);
        (0..=IDLE_TIMEOUT).for_each(|_| tracker.sweep());
        assert_eq!(signal(&connection), Signal::Finish);
    }

    #[test]
    fn draining_reaches_old_and_new_connections_and_counts_what_runs() {
        let running = Arc::new(AtomicUsize::new(0));
        let tracker = Tracker::new(Arc::clone(&running));
        let old = tracker.track(Direction::Outbound);
        let busy = old.begin();
        assert_eq!(running.load(Ordering::Relaxed), 1);
        tracker.drain();
        assert_eq!(signal(&old), Signal::Finish);
        let late = tracker.track(Direction::Outbound);
        assert_eq!(signal(&late), Signal::None, "its first exchange is still served");
        let served = late.begin();
        assert_eq!(signal(&late), Signal::Finish);
        assert_eq!(tracker.open(), 2);
        drop((served, late, busy, old));
        assert_eq!((tracker.open(), running.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn what_was_answered_runs_until_its_connection_has_ended() {
        let tracker = Tracker::new(Arc::default());
        let running = || tracker.running.load(Ordering::Relaxed);
        let connection = tracker.track(Direction::Inbound);
        drop(connection.begin());
        assert_eq!(running(), 0, "kept for the next exchange");
        let last = connection.begin();
        let upgraded = tracker.track(Direction::Inbound);
        let goes_on = upgraded.begin();
        tracker.drain();
        drop(last);
        drop(connection.begin());
        assert_eq!(
            running(),
            2,
            "one place for the connection, whatever still comes on it"
        );
        drop(upgraded);
        assert_eq!(running(), 2);
        drop(goes_on);
        assert_eq!(
            running(),
            1,
            "what outlives its connection has a place of its own"
        );
        connection.all_has_left();
        assert_eq!(running(), 0);
        drop(connection);
        assert_eq!(running(), 0);
    }
}
