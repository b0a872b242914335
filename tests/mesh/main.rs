//! The mesh as users run it: the real binary, processes on loopback, no test double.

mod control_plane;
mod faults;
mod hostile;
mod identity;
mod kills;
mod manifests;
mod neighbours;
mod observe;
mod policies;
mod refused;
mod resend;
mod rights;
mod routing;
mod tcp;
mod upgrade;
