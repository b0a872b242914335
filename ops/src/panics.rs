//! Panics are bugs: each is counted in `weft_panics_total` and logged where it happened, before it unwinds the one
//! task or connection that it ends.

use std::panic;
use std::sync::Once;

/// Counts and logs every panic of this process from now on. Call it after [`crate::recorder::install`].
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let count = metrics::counter!("weft_panics_total");
        count.increment(0);
        panic::set_hook(Box::new(move |info| {
            count.increment(1);
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let message = info.payload_as_str().unwrap_or("no message");
            tracing::error!(
                place,
                message,
                "a task panicked; it ends, everything else goes on"
            );
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::thread;

    #[test]
    fn a_panic_is_counted() {
        let recorder = crate::recorder::install().unwrap();
        super::install();
        assert!(recorder.render().contains("weft_panics_total 0"));
        assert!(thread::spawn(|| panic!("on purpose")).join().is_err());
        assert!(
            recorder.render().contains("weft_panics_total 1"),
            "{}",
            recorder.render()
        );
    }
}
