//! The OS thread that keeps the session alive.
