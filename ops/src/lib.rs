//! What every process of the mesh has: status and admin listeners, log, signals, metrics recorder.
