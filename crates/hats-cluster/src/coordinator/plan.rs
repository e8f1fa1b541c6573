//! What to claim, and when: pure decisions, given `now`.
