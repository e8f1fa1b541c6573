//! The engine under fuzz: what the target of cargo-fuzz and the property test in hats-arena share.

pub mod case;
pub mod program;
