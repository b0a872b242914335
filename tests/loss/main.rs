//! Nothing is lost: what happens to traffic while everything that can be rolled is rolled, on a real node. Run by
//! `tests/cluster/run` with `--test-threads=1`; the images' archives are in the folder that `WEFT_IMAGES` names.
//!
//! The tests share one mesh; each has a namespace of its own, with applications that echo ([`pods`]).

mod adoption;
mod certificates;
mod families;
mod jobs;
mod pods;
mod rolls;
mod strangers;
