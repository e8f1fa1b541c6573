//! The Lua scripts themselves, and the reading of their replies.

use std::sync::OnceLock;

use bytes::Bytes;
use fred::types::Value;

use crate::error::Error;
use crate::records::SourceDigest;

/// A script that runs in Redis.
pub(super) struct Lua {
    name: &'static str,
    text: &'static str,
    sha: OnceLock<SourceDigest>,
}

impl Lua {
    const fn new(name: &'static str, text: &'static str) -> Self {
        Self { name, text, sha: OnceLock::new() }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn text(&self) -> &'static str {
        self.text
    }

    /// What EVALSHA calls it.
    pub(super) fn sha(&self) -> &str {
        self.sha.get_or_init(|| SourceDigest::of(self.text)).as_str()
    }
}

macro_rules! scripts {
    ($($constant:ident $name:literal)*) => {
        $(pub(super) static $constant: Lua = Lua::new($name, include_str!(concat!("../lua/", $name, ".lua")));)*

        /// Those that stand alone.
        static ALL: &[&Lua] = &[$(&$constant),*];
    };
}

scripts! {
    OPEN "open"
    RENEW "renew"
    CLOSE "close"
    SUSPECT "suspect"
    STRIKE "strike"
    REVIEW "review"
    ABSOLVE "absolve"
    BURY "bury"
    FORGET "forget"
    CLAIM "claim"
    RELEASE "release"
    PARDON "pardon"
    PREFER "prefer"
    RETIRE "retire"
    READ "read"
    PUT "put"
    EDIT "edit"
    MENDED "mended"
    ROW "row"
    INDEX "index"
}

macro_rules! tick_scripts {
    ($($constant:ident $name:literal)*) => {
        $(pub(super) static $constant: Lua = Lua::new(
            $name,
            concat!(include_str!("../lua/ticks.lua"), include_str!(concat!("../lua/ticks/", $name, ".lua"))),
        );)*

        /// Those about the ticks of jobs.
        static OF_TICKS: &[&Lua] = &[$(&$constant),*];
    };
}

tick_scripts! {
    ADOPT "adopt"
    TICK "tick"
    MANUAL "manual"
    FINISH "finish"
    SETTLE "settle"
    RETIRE_TICKS "retire_ticks"
}

/// All scripts there are.
pub(super) fn all() -> impl Iterator<Item = &'static Lua> {
    ALL.iter().chain(OF_TICKS).copied()
}

/// What a script gave back: a list whose first word says what happened.
pub(super) struct Reply {
    lua: &'static str,
    values: Vec<Value>,
}

impl Reply {
    pub(super) fn new(lua: &'static str, value: Value) -> Result<Self, Error> {
        match value {
            Value::Array(values) => Ok(Self { lua, values }),
            // The client turns a list of one into that one.
            Value::Null => Ok(Self { lua, values: Vec::new() }),
            value @ (Value::String(_) | Value::Bytes(_)) => Ok(Self { lua, values: vec![value] }),
            value => Err(Error::Protocol(format!("{lua}: {value:?}"))),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The text at a place; it must be there.
    pub(super) fn text(&self, nth: usize) -> Result<String, Error> {
        self.values.get(nth).and_then(lossy).ok_or_else(|| self.unexpected())
    }

    /// The number at a place; it must be there.
    pub(super) fn number(&self, nth: usize) -> Result<u64, Error> {
        self.text(nth)?.parse().map_err(|_| self.unexpected())
    }

    /// The value at a place, taken out; absent or nil is none.
    pub(super) fn take(&mut self, nth: usize) -> Option<Value> {
        self.values.get_mut(nth).map(Value::take).filter(|value| !value.is_null())
    }

    /// The names and values in the list at a place. A value that is no UTF-8 is none; in a name that is replaced.
    pub(super) fn pairs(&mut self, nth: usize) -> Vec<(String, Option<String>)> {
        let Some(Value::Array(values)) = self.take(nth) else { return Vec::new() };
        values
            .chunks_exact(2)
            .map(|pair| (lossy(&pair[0]).unwrap_or_default(), pair[1].as_string()))
            .collect()
    }

    /// Calls with each text of the list at a place.
    pub(super) fn each_of(&mut self, nth: usize, mut each: impl FnMut(&str)) {
        if let Some(Value::Array(values)) = self.take(nth) {
            values.iter().filter_map(|value| value.as_str()).for_each(|text| each(&text));
        }
    }

    /// That this reply is none that the script documents.
    pub(super) fn unexpected(&self) -> Error {
        Error::Protocol(format!("{}: {:?}", self.lua, self.values))
    }
}

/// A value as the bytes that it is.
pub(super) fn raw(value: Value) -> Bytes {
    match value {
        Value::Bytes(bytes) => bytes,
        Value::String(text) => text.into_inner(),
        value => value.into_string().map_or_else(Bytes::new, Bytes::from),
    }
}

/// A value as text; bytes that are no UTF-8 are replaced.
pub(super) fn lossy(value: &Value) -> Option<String> {
    match value {
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        value => value.as_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_says_what_it_takes_and_gives_and_names_one_key() {
        for lua in all() {
            let header = format!("-- {}: ", lua.name());
            assert!(lua.text().lines().any(|line| line.starts_with(&header)), "{}", lua.name());
            assert!(lua.text().contains("-- KEYS[1]") && lua.text().contains("-- Returns"), "{}", lua.name());
            assert!(!lua.text().contains("KEYS[2]"), "{}", lua.name());
            let mut code = lua.text().lines().filter(|line| !line.trim_start().starts_with("--"));
            let calls: Vec<_> = code.by_ref().filter(|line| line.contains("redis.call(")).collect();
            for call in &calls {
                assert!(call.contains("(\'TIME\'") || call.contains("key"), "{}: {call}", lua.name());
            }
            // What only reads needs no leave to write.
            if lua.name() != "read" {
                let first = calls[0];
                assert!(first.contains("'HDEL', key, '-'") || first.contains("'SREM', key, ''"), "{first}");
            }
        }
    }
}
