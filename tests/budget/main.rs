//! What a request may cost: allocations and system calls of a pair of sidecars together, against `budget.json`.
//!
//! Both are counts, not times: they don't depend on the machine, so a change that makes requests dearer is seen on a
//! laptop. One request under way shows the cost of a request alone; sixteen at once show that what goes to one peer
//! together leaves in few writes. What was measured stands in the test's output (`--nocapture`); a budget that has
//! become generous is to be lowered by hand.

mod allocator;
mod pair;
mod system_calls;
mod traffic;

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use allocator::allocations;
use pair::Pair;
use system_calls::{Trace, threads_named};
use traffic::{Client, application};

/// Requests before anything is counted: connections, pools and tables exist then.
const WARM_UP: u64 = 256;
/// Requests that are counted.
const COUNTED: u64 = 2048;
/// Requests at once, of each load.
const WAVES: [usize; 2] = [1, 16];
/// The name of a data worker's thread.
const WORKER: &str = "weft-worker-0";

/// Counts are of the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // A test that failed leaves nothing behind that could matter.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn budget(what: &str, wave: usize) -> f64 {
    let budgets: Value = serde_json::from_str(include_str!("budget.json")).expect("valid JSON");
    budgets[what][format!("{wave} at once")]
        .as_f64()
        .expect("a number for each load")
}

fn assert_within(what: &str, wave: usize, counted: u64) {
    let (counted, allowed) = (counted as f64 / COUNTED as f64, budget(what, wave));
    println!("{what} per request, {wave} at once: {counted:.2} of {allowed}");
    assert!(
        counted <= allowed,
        "{what} per request, {wave} at once: {counted:.2}, the budget is {allowed}"
    );
}

/// A pair that has warmed up, its client, and how many waves are counted.
fn warm(wave: usize, folder: &tempfile::TempDir) -> (Pair, Client, u64) {
    let pair = Pair::start(application(wave), folder.path());
    let mut client = Client::connect(pair.outbound, wave);
    for _ in 0..WARM_UP / wave as u64 {
        client.wave();
    }
    (pair, client, COUNTED / wave as u64)
}

#[test]
fn allocations_stay_within_the_budget() {
    let _alone = alone();
    for wave in WAVES {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (_pair, mut client, waves) = warm(wave, &folder);
        let before = allocations();
        for _ in 0..waves {
            client.wave();
        }
        let counted = allocations() - before;
        assert_within("allocations", wave, counted);
    }
}

#[test]
fn system_calls_stay_within_the_budget() {
    let _alone = alone();
    for wave in WAVES {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let before = threads_named(WORKER);
        let (_pair, mut client, waves) = warm(wave, &folder);
        let workers: Vec<String> = threads_named(WORKER)
            .into_iter()
            .filter(|thread| !before.contains(thread))
            .collect();
        assert_eq!(workers.len(), 2, "one worker for each sidecar");
        let trace = Trace::attach(&workers, folder.path());
        for _ in 0..waves {
            client.wave();
        }
        let calls = trace.end();
        println!("{calls:?}");
        assert_within("system calls", wave, calls.iter().map(|(_, calls)| calls).sum());
    }
}
