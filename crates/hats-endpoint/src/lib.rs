//! Endpoints: HTTP requests answered by scripts that stand in Redis.

pub mod template;
