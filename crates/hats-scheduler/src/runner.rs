//! Runners: how a task of each kind is run on its fiber, from the first line of its source to the last.

pub(crate) mod thread;
