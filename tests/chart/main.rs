//! The charts, as a real helm renders them: what is installed, what is refused, and that nothing has drifted from
//! the programs. What an API server makes of them is tested in `tests/kube`.

mod helm;
mod install;
mod monitoring;
mod rights;
mod values;
