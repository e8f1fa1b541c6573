//! How well this worker is, as whoever composes it has found.

use std::sync::Arc;

/// How well this worker is. What it looks at is none of this crate's business; what follows is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Condition {
    /// Why it is critical: it has more to do than it can bear. It takes nothing new and hands what it owns to healthy
    /// peers, the heaviest first; where there is none it goes on. None: it is not.
    pub critical: Option<Arc<str>>,
    /// Fields of the worker's row that say so in figures.
    pub figures: Vec<(&'static str, String)>,
}

/// Which of this crate's connections to Redis answer, as last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Links {
    /// That of the session: the last renewal was answered.
    pub session: bool,
    /// That of the commands: the last sample of the sessions was answered.
    pub commands: bool,
    /// That of the watch: established, or known to be impossible here.
    pub watch: bool,
}

impl Links {
    /// Whether all of them do.
    #[must_use]
    pub fn all(self) -> bool {
        self.session && self.commands && self.watch
    }
}
