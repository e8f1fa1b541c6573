//! The random names of protocol: sessions and claims.
//!
//! Both are drawn from the operating system's random source and never used a second time: a session that was
//! abandoned can never be confused with its successor, and a claim that was released can never be taken for the next.

use std::fmt;
use std::sync::Arc;

/// Bytes of randomness in an id: enough that no two ever meet.
const RANDOM_BYTES: usize = 12;

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A fresh id that nobody else has.
            pub fn random() -> Self {
                Self(random_text().into())
            }

            /// The id as it is written in Redis.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

random_id! {
    /// Names one session: a worker's lease. New for each try to open one.
    SessionId
}

random_id! {
    /// Names one claim of one thread. In the worker's own table from before it is sent until it is answered for good.
    Nonce
}

fn random_text() -> String {
    let mut bytes = [0_u8; RANDOM_BYTES];
    if getrandom::fill(&mut bytes).is_err() {
        // The system has no random source: the boot clock, the process and a counter still make a name of its own.
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let clock = crate::clock::BootInstant::now().as_nanos() ^ (u64::from(std::process::id()) << 40);
        bytes[..8].copy_from_slice(&clock.to_le_bytes());
        bytes[8..].copy_from_slice(&COUNTER.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    }
    bytes.iter().fold(String::with_capacity(RANDOM_BYTES * 2), |mut text, byte| {
        use fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_never_alike() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| SessionId::random()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.as_str().len() == 24));
    }
}
