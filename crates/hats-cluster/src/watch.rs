//! How a worker notices that a definition or a claim has changed.
