//! The record against one that keeps the whole history.

use proptest::prelude::*;

use super::*;

const POLICY: Outlier = Outlier {
    consecutive_failures: 3,
    base_ejection: Duration::from_secs(1),
    max_ejection: Duration::from_millis(3500),
    max_ejection_percent: 50,
};

fn at(ms: u64) -> Now {
    Now::default() + Duration::from_millis(ms)
}

fn eject(mut record: Record, now: u64) -> Record {
    for _ in 0..3 {
        record = record.failed(&POLICY, at(now), || true);
    }
    record
}

#[test]
fn ejections_in_a_row_last_longer_up_to_the_most() {
    let mut record = Record::default();
    let mut now = 0;
    for lasts in [1000, 2000, 3000, 3500, 3500] {
        record = eject(record, now);
        assert!(record.is_ejected(at(now + lasts - 1)) && !record.is_ejected(at(now + lasts)));
        now += lasts;
    }
    assert_eq!(
        eject(record, now + 3500).until(),
        at(now + 3500 + 1000),
        "a new row"
    );
}

#[test]
fn waits_for_room() {
    let mut record = Record::default();
    for _ in 0..10 {
        record = record.failed(&POLICY, at(0), || false);
    }
    assert!(!record.is_ejected(at(0)));
    assert!(record.failed(&POLICY, at(0), || true).is_ejected(at(0)));
}

#[test]
fn the_share_is_never_exceeded() {
    let share = |max_ejection_percent, endpoints| {
        most_ejected(
            &Outlier {
                max_ejection_percent,
                ..POLICY
            },
            endpoints,
        )
    };
    assert_eq!(
        (
            share(50, 2),
            share(50, 3),
            share(10, 9),
            share(100, 4),
            share(255, 4)
        ),
        (1, 1, 0, 4, 4)
    );
}

proptest! {
    #[test]
    fn agrees_with_the_whole_history(steps in proptest::collection::vec((0_u64..1500, any::<bool>(), any::<bool>()), 0..120)) {
        let cell = Cell::default();
        // (begin, end, number in its row) of every ejection; failures since the last success or ejection.
        let (mut ejections, mut failures, mut now): (Vec<(u64, u64, u64)>, u32, u64) = (Vec::new(), 0, 0);
        for (pause, success, room) in steps {
            now += pause;
            let ejected = ejections.last().is_some_and(|&(_, end, _)| now < end);
            if success {
                cell.succeeded();
                failures = 0;
            } else {
                let told = cell.failed(&POLICY, at(now), || room);
                let mut expected = false;
                if !ejected {
                    failures += 1;
                    expected = failures >= 3 && room;
                }
                prop_assert_eq!(told, expected);
                if expected {
                    let nth = match ejections.last() {
                        Some(&(begin, end, nth)) if now - end < end - begin => nth + 1,
                        _ => 1,
                    };
                    ejections.push((now, now + (1000 * nth).min(3500), nth));
                    failures = 0;
                }
            }
            let expected = ejections.last().filter(|&&(_, end, _)| now < end);
            prop_assert_eq!(cell.record().is_ejected(at(now)), expected.is_some());
            if let Some(&(_, end, _)) = expected {
                prop_assert_eq!(cell.record().until(), at(end));
            }
            prop_assert!(!cell.record().is_ejected(at(now + 3500)), "always returns");
        }
    }

    #[test]
    fn packing_loses_nothing(failures in any::<u16>(), ejections in any::<u8>(), until_ms in 0..=UNTIL_MASK) {
        let record = Record { failures, ejections, until_ms };
        prop_assert_eq!(Record::unpack(record.pack()), record);
    }
}
