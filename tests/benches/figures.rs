//! The figures of the product, printed by `just bench`; nothing is asserted.
fn main() {}
