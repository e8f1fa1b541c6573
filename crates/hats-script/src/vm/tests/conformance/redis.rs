//! `redis`: replies as RESP2 has them, and errors.

use super::{Line, Within};

pub(super) const LINES: &[Line] = &[
    Line {
        names: &["redis.Do"],
        within: Within::All,
        source: "",
        cases: &[
            ("redis.Do('HSET', 'h', 'f', 'v')", "[1]"),
            ("redis.Do('SET', 'k', 'ä')", "[\"OK\"]"),
            ("redis.Do('GET', 'k')", "[\"ä\"]"),
            ("redis.Do('get', 'k') == 'ä'", "true"),
            ("`${redis.Do('GET', 'k')}`", "ä"),
            ("redis.Do('SET', 'n', 41) && redis.Do('INCR', 'n') + 1", "43"),
            ("Array.isArray(redis.Do('GET', 'k'))", "true"),
            ("redis.Do('GET', 'absent')", "[null]"),
            ("redis.Do('HGETALL', 'h')", "[[\"f\", \"v\"]]"),
            ("(([value, err]) => err)(redis.Do('INCR', 'k'))", "ERR value is not an integer or out of range"),
            ("redis.Do('INCR', 'k')[0]", "null"),
            (
                "redis.Do('SET', 'b', new Uint8Array([0, 255, 7])) && redis.Call('GET', 'b')",
                "Uint8Array(3) [0, 255, 7]",
            ),
            (
                "redis.Do('SET', 'i', 9223372036854775807n) && redis.Call('INCRBY', 'i', 0)",
                "9223372036854775807n",
            ),
            ("redis.Do('SET', 't', true) && redis.Call('GET', 't')", "1"),
            ("redis.Do('SET', 'x', 1.5) && redis.Call('GET', 'x')", "1.5"),
            ("redis.Call('EVAL', 'return {1, {2, ARGV[1]}}', 0, 'z')", "[1, [2, \"z\"]]"),
            (
                "redis.Do('SET', 'k', {})",
                "TypeError: redis.Do: argument 3 must be a string, number, bigint, boolean or Uint8Array, not an object",
            ),
            (
                "redis.Do('SET', 'k', null)",
                "TypeError: redis.Do: argument 3 must be a string, number, bigint, boolean or Uint8Array, not null",
            ),
            ("redis.Do()", "TypeError: redis.Do: argument 1 must be a string, not undefined"),
            (
                "redis.Do('MULTI')[1]",
                "ERR MULTI is not available to scripts: the connection is shared by all scripts; use EVAL, which runs its commands in one step",
            ),
            ("redis.Do('NOSUCH')[1].slice(0, 19)", "ERR unknown command"),
            (
                "redis.Do('SELECT 1')[1]",
                "ERR unknown command: its name is one word, and its arguments are given one by one",
            ),
            (
                "(() => { const pair = redis.Do('GET', 'k'); pair[0] = pair; try { return `${pair}` } catch (e) { return `${e}` } })()",
                "RangeError: Maximum call stack size exceeded",
            ),
            (
                "redis.Do('ECHO', ...Array(1000).fill('x'.repeat(1 << 20)))",
                "RangeError: redis.Do: the arguments are longer than the script's heap limit of 67108864 bytes",
            ),
            (
                "redis.Do('SET', 'long', new Uint8Array(100000).fill(200)) && redis.Do('STRLEN', 'long')",
                "[100000]",
            ),
            ("redis.Do('BLPOP', 'l', 0.05)", "[null]"),
            ("redis.Do('BLPOP', 'l', 'soon')[1]", "ERR timeout is not a float or out of range"),
            ("redis.Do(5)", "TypeError: redis.Do: argument 1 must be a string, not 5"),
            ("redis.Do('SET', 'k')[1]", "ERR wrong number of arguments for 'set' command"),
            (
                "redis.Do('SELECT', 1)[1]",
                "ERR SELECT is not available to scripts: it would change the connection that all scripts share",
            ),
            (
                "redis.Do('SUBSCRIBE', 'c')[1]",
                "ERR SUBSCRIBE is not available to scripts: the connection is shared by all scripts; use a list with BLPOP, or a stream with XREAD BLOCK",
            ),
        ],
    },
    Line {
        names: &["redis.Call", "RedisError"],
        within: Within::All,
        source: "",
        cases: &[
            ("redis.Call('SET', 'k', 'ä')", "OK"),
            ("redis.Call('GET', 'k')", "ä"),
            (
                "(() => { try { redis.Call('INCR', 'k') } catch (e) { return [e.name, e instanceof RedisError, e instanceof Error] } })()",
                "[\"RedisError\", true, true]",
            ),
            ("redis.Call('GET', 'absent')", "null"),
            ("redis.Call('INCR', 'k')", "RedisError: ERR value is not an integer or out of range"),
            (
                "redis.Call('MULTI')",
                "RedisError: ERR MULTI is not available to scripts: the connection is shared by all scripts; use EVAL, which runs its commands in one step",
            ),
            ("redis.Call()", "TypeError: redis.Call: argument 1 must be a string, not undefined"),
            (
                "redis.Call('SET', 'k', [])",
                "TypeError: redis.Call: argument 3 must be a string, number, bigint, boolean or Uint8Array, not an array",
            ),
            (
                "(e => [e.name, e.message, e instanceof Error])(new RedisError('own'))",
                "[\"RedisError\", \"own\", true]",
            ),
        ],
    },
    Line {
        names: &["redis.Blpop"],
        within: Within::All,
        source: "",
        cases: &[
            ("redis.Do('RPUSH', 'l', 'one') && redis.Blpop(1, 'l')", "one"),
            ("redis.Blpop(0.05, 'l')", ""),
            (
                "redis.Do('RPUSH', 'l', new Uint8Array([255, 0])) && redis.Blpop(0, 'l')",
                "Uint8Array(2) [255, 0]",
            ),
            (
                "redis.Do('SET', 'text', 1) && redis.Blpop(1, 'text')",
                "RedisError: WRONGTYPE Operation against a key holding the wrong kind of value",
            ),
            ("redis.Blpop('1', 'l')", "TypeError: redis.Blpop: argument 1 must be a number, not \"1\""),
            (
                "redis.Blpop(-1, 'l')",
                "TypeError: redis.Blpop: argument 1 must be a number of seconds, 0 for no end, not -1",
            ),
            (
                "redis.Blpop(1)",
                "TypeError: redis.Blpop: argument 2 must be a string, number, bigint, boolean or Uint8Array, not undefined",
            ),
        ],
    },
    Line {
        names: &["redis.HsetFenced"],
        within: Within::Tasks,
        source: "",
        cases: &[
            ("redis.HsetFenced('fenced', {a: 1, b: 'two'})", "[2]"),
            ("redis.Call('HMGET', 'fenced', 'a', 'b', '__epoch')", "[\"1\", \"two\", \"1700000000123\"]"),
            (
                "redis.Do('HSET', 'fenced', '__epoch', '1800000000000') && redis.HsetFenced('fenced', {a: 3})[1].slice(0, 5)",
                "STALE",
            ),
            (
                "redis.HsetFenced('fenced', {})",
                "TypeError: redis.HsetFenced: argument 2 must be an object with at least one field, not an object",
            ),
            (
                "redis.HsetFenced('fenced', [1])",
                "TypeError: redis.HsetFenced: argument 2 must be an object of fields and values, not an array",
            ),
            ("redis.Do('SET', 'text', 1) && redis.HsetFenced('text', {a: 1})[1].slice(0, 9)", "WRONGTYPE"),
            (
                "redis.HsetFenced('fenced', {a: null})",
                "TypeError: redis.HsetFenced: field \"a\" must be a string, number, bigint, boolean or Uint8Array, not null",
            ),
            (
                "redis.HsetFenced()",
                "TypeError: redis.HsetFenced: argument 1 must be a string, number, bigint, boolean or Uint8Array, not undefined",
            ),
        ],
    },
    Line {
        names: &["redis.HsetFenced"],
        within: Within::Endpoints,
        source: "",
        cases: &[(
            "redis.HsetFenced('fenced', {a: 1})",
            "TypeError: redis.HsetFenced: an endpoint has no epoch, which only threads and jobs have: use redis.Do('HSET', …)",
        )],
    },
];
