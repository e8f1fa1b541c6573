//! The whole-system tests, one binary made of modules: real worker processes, a real redis-server for each test.
//!
//! With `HATS_SOAK=1` the tests of single ownership and takeover run their long forms (`just soak`).

mod layering;
