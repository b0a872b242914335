//! Processes that end with their parent, whatever ends it.
//!
//! The parent names itself in the child's environment; the child asks the kernel to kill it when that parent is gone.
//! No handler is involved, so it holds for SIGKILL and for a panic too. The kernel watches the parent's *thread*:
//! a parent must start its children from a thread that lives as long as it does (the demo uses its main thread).

use std::process::{ExitCode, id};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Names the parent's process id.
pub(crate) const PARENT: &str = "WEFT_PARENT";

/// The value of [`PARENT`] for children of this process.
pub(crate) fn parent() -> String {
    id().to_string()
}

/// Binds this process to the parent that [`PARENT`] names; does nothing without one.
///
/// # Errors
/// The exit code to end with at once: the parent is gone already, or the kernel refuses.
pub(crate) fn follow_parent() -> Result<(), ExitCode> {
    let Ok(parent) = std::env::var(PARENT) else {
        return Ok(());
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("error: this process can't be bound to its parent: {error}");
        return Err(ExitCode::FAILURE);
    }
    // The parent may have ended before the line above.
    let alive = getppid().is_some_and(|now| now.as_raw_nonzero().get().to_string() == parent);
    if alive { Ok(()) } else { Err(ExitCode::FAILURE) }
}
