//! What kind of command a name is: one that any connection can carry, one that blocks, or one that would change the
//! connection that all scripts share.

use fred::types::{ClusterHash, Value as RedisValue};

/// How a command has to be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Over the shared connection.
    Plain,
    /// Over a connection that nothing else uses meanwhile: it may answer with any error.
    Alone,
    /// In slices over a connection of its own.
    Blocking,
    /// Not at all; what to use instead.
    Refused(&'static str),
}

/// Where a blocking command says how long it may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timeout {
    /// Seconds, as the argument at this place.
    Seconds(usize),
    /// Milliseconds, as the argument at this place.
    Milliseconds(usize),
}

const TRANSACTION: &str =
    "the connection is shared by all scripts; use EVAL, which runs its commands in one step";
const SUBSCRIBE: &str =
    "the connection is shared by all scripts; use a list with BLPOP, or a stream with XREAD BLOCK";
const CONNECTION: &str = "it would change the connection that all scripts share";
const DEBUGGER: &str = "it would put the connection that all scripts share into the debugger of Lua";
const WAIT: &str =
    "replies and offsets of other scripts share the connection; use EVAL, or min-replicas-to-write";

/// Whether this can be the name of a command. The client would take one with blanks in it apart and send, say, the
/// `SELECT` in `SELECT 1`, which by that name is unknown here.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// `name` is in upper case.
pub(super) fn kind_of(name: &str, arguments: &[RedisValue]) -> Kind {
    match name {
        "MULTI" | "EXEC" | "DISCARD" | "WATCH" | "UNWATCH" => Kind::Refused(TRANSACTION),
        "SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE" | "UNSUBSCRIBE" | "PUNSUBSCRIBE" | "SUNSUBSCRIBE" => {
            Kind::Refused(SUBSCRIBE)
        }
        "SELECT" | "AUTH" | "HELLO" | "RESET" | "QUIT" | "MONITOR" | "SYNC" | "PSYNC" | "REPLCONF"
        | "READONLY" | "READWRITE" | "ASKING" => Kind::Refused(CONNECTION),
        "CLIENT" if !is_harmless_client_command(arguments) => Kind::Refused(CONNECTION),
        "SCRIPT" if arguments.first().is_some_and(|first| text(first).eq_ignore_ascii_case("DEBUG")) => {
            Kind::Refused(DEBUGGER)
        }
        "WAIT" | "WAITAOF" => Kind::Refused(WAIT),
        "EVAL" | "EVALSHA" | "EVAL_RO" | "EVALSHA_RO" | "FCALL" | "FCALL_RO" => Kind::Alone,
        _ if timeout_of(name, arguments).is_some() => Kind::Blocking,
        _ => Kind::Plain,
    }
}

/// The error for a command that names a key of the workers' own: what is counted there against a task is not for that task
/// to change.
pub(super) fn refused_key(cluster: &str, arguments: &[RedisValue]) -> Option<String> {
    let is_own = |argument: &RedisValue| {
        let rest = argument.as_bytes().and_then(|bytes| bytes.strip_prefix(cluster.as_bytes()));
        rest.is_some_and(|rest| rest.starts_with(SYSTEM.as_bytes()))
    };
    arguments.iter().any(is_own).then(|| {
        format!(
            "ERR keys that begin with {cluster}{SYSTEM} are the workers' own and not available to scripts"
        )
    })
}

/// Behind the name of the cluster, how the keys begin that scripts may not touch.
const SYSTEM: &str = ":System:";

/// Where the timeout of a blocking command is; None if the command does not block.
pub(super) fn timeout_of(name: &str, arguments: &[RedisValue]) -> Option<Timeout> {
    match name {
        "BLPOP" | "BRPOP" | "BLMOVE" | "BRPOPLPUSH" | "BZPOPMIN" | "BZPOPMAX" => {
            arguments.len().checked_sub(1).map(Timeout::Seconds)
        }
        "BLMPOP" | "BZMPOP" => (!arguments.is_empty()).then_some(Timeout::Seconds(0)),
        "XREAD" | "XREADGROUP" => stream_options(arguments).block.map(Timeout::Milliseconds),
        _ => None,
    }
}

/// Places of the ids in `XREAD … STREAMS key… id…`, each with the place of its key.
pub(super) fn stream_ids(name: &str, arguments: &[RedisValue]) -> Vec<(usize, usize)> {
    if name != "XREAD" {
        return Vec::new();
    }
    let Some(first_key) = stream_options(arguments).keys else { return Vec::new() };
    let count = arguments.len().saturating_sub(first_key) / 2;
    (first_key..first_key + count).map(|key| (key, key + count)).collect()
}

/// Which slot of a Redis Cluster a command belongs to.
pub(super) fn hash_of(name: &str, arguments: &[RedisValue]) -> ClusterHash {
    let place = match name {
        "EVAL" | "EVALSHA" | "EVAL_RO" | "EVALSHA_RO" | "FCALL" | "FCALL_RO" => ClusterHash::Offset(2),
        "BLMPOP" | "BZMPOP" | "OBJECT" | "XGROUP" | "XINFO" | "MEMORY" => ClusterHash::Offset(1),
        "LMPOP" | "ZMPOP" | "SINTERCARD" | "ZUNION" | "ZINTER" | "ZDIFF" => ClusterHash::Offset(1),
        "XREAD" | "XREADGROUP" => {
            stream_options(arguments).keys.map_or(ClusterHash::FirstKey, ClusterHash::Offset)
        }
        _ if arguments.is_empty() => ClusterHash::Random,
        _ => ClusterHash::FirstKey,
    };
    // The client goes by the first argument, whatever place it is told, if it is not told the slot itself.
    ClusterHash::from(place.hash(arguments))
}

fn is_harmless_client_command(arguments: &[RedisValue]) -> bool {
    let first = arguments.first().map(|first| text(first).to_ascii_uppercase());
    matches!(first.as_deref(), Some("ID" | "INFO" | "LIST" | "GETNAME" | "KILL" | "UNBLOCK" | "HELP"))
}

/// Where things are among the arguments of `XREAD` and `XREADGROUP`.
#[derive(Default)]
struct StreamOptions {
    /// The time after `BLOCK`; the last one counts, as for the server.
    block: Option<usize>,
    /// The first word after `STREAMS`.
    keys: Option<usize>,
}

/// Reads the options as the server does: a group may be called `STREAMS`, and a consumer `BLOCK`.
fn stream_options(arguments: &[RedisValue]) -> StreamOptions {
    let mut options = StreamOptions::default();
    let mut place = 0;
    while let Some(argument) = arguments.get(place) {
        place += match text(argument).to_ascii_uppercase().as_str() {
            "BLOCK" => {
                options.block = Some(place + 1);
                2
            }
            "COUNT" => 2,
            "GROUP" => 3,
            "STREAMS" => {
                options.keys = Some(place + 1);
                return options;
            }
            _ => 1,
        };
    }
    options
}

/// An argument as text; one that is no text is like no word.
pub(super) fn text(value: &RedisValue) -> String {
    value.as_string().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_workers_own_are_refused_wherever_they_stand() {
        let refused = |arguments: &[&str]| {
            let arguments: Vec<RedisValue> = arguments.iter().map(|&text| text.into()).collect();
            refused_key("c", &arguments).is_some()
        };
        assert!(refused(&["c:System:Poison:thread:a"]));
        assert!(refused(&["return 1", "1", "c:System:Poison:thread:a"]));
        assert!(!refused(&["c:Systems", "d:System:x", "cc:System:x", "", "x c:System:"]));
        assert_eq!(refused_key("c", &[RedisValue::from(1)]), None);
    }

    fn words(line: &str) -> Vec<RedisValue> {
        line.split(' ')
            .filter(|word| !word.is_empty())
            .map(|word| RedisValue::from(word.to_owned()))
            .collect()
    }

    fn kind(line: &str) -> Kind {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        kind_of(name, &words(rest))
    }

    #[test]
    fn commands_that_change_the_connection_are_refused_with_what_to_use_instead() {
        for line in [
            "MULTI",
            "SUBSCRIBE c",
            "SELECT 1",
            "AUTH p",
            "CLIENT REPLY OFF",
            "CLIENT TRACKING ON",
            "WAIT 1 0",
            "SCRIPT debug YES",
        ] {
            assert!(matches!(kind(line), Kind::Refused(_)), "{line}");
        }
        for line in ["GET k", "CLIENT ID", "client list", "XREAD COUNT 1 STREAMS s 0"] {
            assert_eq!(kind(line), Kind::Plain, "{line}");
        }
        assert_eq!(kind("EVAL s 0"), Kind::Alone);
    }

    #[test]
    fn the_timeout_of_each_blocking_command_is_found() {
        for (line, timeout) in [
            ("BLPOP a b 5", Timeout::Seconds(2)),
            ("BLMOVE a b LEFT RIGHT 0", Timeout::Seconds(4)),
            ("BLMPOP 1.5 1 a LEFT", Timeout::Seconds(0)),
            ("XREAD COUNT 2 block 100 STREAMS s $", Timeout::Milliseconds(3)),
            ("XREADGROUP GROUP g c BLOCK 0 STREAMS s >", Timeout::Milliseconds(4)),
        ] {
            let (name, rest) = line.split_once(' ').unwrap();
            assert_eq!(timeout_of(name, &words(rest)), Some(timeout), "{line}");
        }
        assert_eq!(timeout_of("XREAD", &words("STREAMS block 0")), None);
    }

    #[test]
    fn words_that_look_like_options_do_not_hide_that_a_command_blocks() {
        for (line, place) in [
            ("GROUP streams block BLOCK 0 STREAMS s >", 4),
            ("COUNT 1 GROUP streams c BLOCK 0 STREAMS s >", 6),
            ("BLOCK 1 BLOCK 0 GROUP g c STREAMS s >", 3),
        ] {
            let timeout = Some(Timeout::Milliseconds(place));
            assert_eq!(timeout_of("XREADGROUP", &words(line)), timeout, "{line}");
        }
    }

    #[test]
    fn a_name_is_one_word() {
        assert!(is_name("GET") && is_name("JSON.GET") && is_name("my-command"));
        for wrong in ["", "SELECT 1", " MULTI", "MULTI\u{a0}", "GET\r\n"] {
            assert!(!is_name(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn stream_ids_are_paired_with_their_keys() {
        assert_eq!(stream_ids("XREAD", &words("BLOCK 0 STREAMS a b $ 0")), [(3, 5), (4, 6)]);
    }
}
