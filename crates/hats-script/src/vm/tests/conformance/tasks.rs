//! What tells a script who it is, and what it needs no server for.

use super::{Line, Within};

pub(super) const LINES: &[Line] = &[
    Line {
        names: &["env.Get"],
        within: Within::All,
        source: "",
        cases: &[
            ("env.Get('no_such_variable')", "undefined"),
            ("env.Get('')", "undefined"),
            ("typeof env.Get('PATH')", "string"),
            ("(env.Set('colour', 'grün'), env.Get('colour'))", "grün"),
            ("env.Get('HATS_REDIS_PASSWORD')", "undefined"),
            ("env.Get()", "TypeError: env.Get: argument 1 must be a string, not undefined"),
            ("env.Get(5)", "TypeError: env.Get: argument 1 must be a string, not 5"),
        ],
    },
    Line {
        names: &["env.Set"],
        within: Within::All,
        source: "",
        cases: &[
            ("env.Set('colour', 'blue')", "null"),
            ("env.Get('colour')", "blue"),
            (
                "[5, 1.5, 7n, true, ''].map(value => (env.Set('v', value), env.Get('v')))",
                "[\"5\", \"1.5\", \"7\", \"true\", \"\"]",
            ),
            (
                "env.Set('HATS_X', 1)",
                "HATS_X belongs to the worker: names that begin with HATS_ cannot be set",
            ),
            (
                "env.Set('hats_x', 1)",
                "hats_x belongs to the worker: names that begin with HATS_ cannot be set",
            ),
            ("env.Set('a=b', 1)", "\"a=b\" is no name of an environment variable"),
            ("env.Set('', 1)", "\"\" is no name of an environment variable"),
            ("env.Set('k', 'a\\0b')", "the value for k contains a NUL character"),
            ("env.Set()", "TypeError: env.Set: argument 1 must be a string, not undefined"),
            (
                "env.Set('k')",
                "TypeError: env.Set: argument 2 must be a string, number, bigint or boolean, not undefined",
            ),
            (
                "env.Set('k', {})",
                "TypeError: env.Set: argument 2 must be a string, number, bigint or boolean, not an object",
            ),
            (
                "env.Set('k', null)",
                "TypeError: env.Set: argument 2 must be a string, number, bigint or boolean, not null",
            ),
        ],
    },
    Line {
        names: &["env.Unset"],
        within: Within::All,
        source: "",
        cases: &[
            ("(env.Set('gone', 1), env.Unset('gone'))", "null"),
            ("env.Get('gone')", "undefined"),
            ("env.Unset('never_there')", "null"),
            ("[env.Unset('PATH'), env.Get('PATH')]", "[null, undefined]"),
            (
                "env.Unset('HATS_X')",
                "HATS_X belongs to the worker: names that begin with HATS_ cannot be set",
            ),
            ("env.Unset(1)", "TypeError: env.Unset: argument 1 must be a string, not 1"),
        ],
    },
    Line {
        names: &["worker.Name", "worker.Cluster", "worker.ShuttingDown", "worker.Healthy"],
        within: Within::All,
        source: "",
        cases: &[
            ("worker", "{ Name: \"w1\", Cluster: \"default\", ShuttingDown: false, Healthy: true }"),
            ("(worker.Name = 'mine', worker.Name)", "w1"),
        ],
    },
    Line {
        names: &["thread.Key", "thread.Hang", "thread.Epoch", "thread.Stopped"],
        within: Within::Threads,
        source: "",
        cases: &[
            ("thread.Key", "default:Threads:test.js"),
            ("thread.Hang", "1.5"),
            ("thread.Epoch", "1700000000123"),
            ("thread.Stopped", "false"),
            ("(thread.Stopped = true, thread.Stopped)", "false"),
            ("typeof job", "undefined"),
        ],
    },
    Line {
        names: &["thread.State", "thread.Status", "thread.Stop", "thread.Disable"],
        within: Within::Threads,
        source: "",
        cases: &[
            ("thread.State()", "running"),
            ("thread.Status()", "enabled"),
            ("thread.Stop()", "undefined"),
            ("thread.Disable()", "undefined"),
        ],
    },
    Line {
        names: &[
            "job.Key",
            "job.Epoch",
            "job.Tick",
            "job.Attempt",
            "job.Stopped",
            "job.State",
            "job.Status",
            "job.Disable",
        ],
        within: Within::Jobs,
        source: "",
        cases: &[
            ("job.Key", "default:Jobs:test.js"),
            ("job.Epoch", "1700000000123"),
            ("[job.Tick, job.Tick instanceof Date]", "[2023-11-14T22:13:20.500Z, true]"),
            ("(job.Tick.setTime(0), job.Tick = 5, job.Tick.getTime())", "1700000000500"),
            ("job.Attempt", "2"),
            ("job.Stopped", "false"),
            ("(job.Stopped = true, job.Stopped)", "false"),
            ("job.State()", "running"),
            ("job.Status()", "enabled"),
            ("job.Disable()", "undefined"),
        ],
    },
    // The older spelling.
    Line {
        names: &[
            "thread.Key",
            "thread.Epoch",
            "thread.Tick",
            "thread.Attempt",
            "thread.Stopped",
            "thread.State",
            "thread.Status",
            "thread.Disable",
        ],
        within: Within::Jobs,
        source: "",
        cases: &[("thread === job", "true")],
    },
    Line {
        names: &["request.Method", "request.Path", "request.Body", "request.Query", "request.Params"],
        within: Within::Endpoints,
        source: "",
        cases: &[
            ("[request.Method, request.Path, request.Body]", "[\"POST\", \"/a b/7\", \"bödy\"]"),
            ("request.Query", "{ x: [\"1\", \"2\"], y: [\"ü\"], __proto__: [\"p\"] }"),
            ("[request.Query.x[1], request.Query.none]", "[\"2\", undefined]"),
            ("request.Params", "{ id: \"7\" }"),
            ("[typeof thread, typeof job]", "[\"undefined\", \"undefined\"]"),
        ],
    },
    Line {
        names: &["request.GetHeader", "request.Bytes"],
        within: Within::Endpoints,
        source: "",
        cases: &[
            ("request.GetHeader('HOST')", "host"),
            ("request.GetHeader('cookie')", "a=1; b=2"),
            ("request.GetHeader('X-Many')", "one, two"),
            ("request.GetHeader('none')", "undefined"),
            ("request.GetHeader(1)", "TypeError: request.GetHeader: argument 1 must be a string, not 1"),
            ("request.Bytes()", "Uint8Array(5) [98, 195, 182, 100, 121]"),
        ],
    },
    Line {
        names: &[
            "response.Write",
            "response.Error",
            "response.SetContentType",
            "response.SetHeader",
            "response.SetStatus",
        ],
        within: Within::Endpoints,
        source: "",
        cases: &[
            (
                "[response.Write('x'), response.SetStatus(201), response.SetHeader('a', 'b'), \
                 response.SetContentType('a/b'), response.Error('x', 404)].join('')",
                "",
            ),
            (
                "response.Write('x'.repeat(1001))",
                "RangeError: response.Write: the answer is longer than its limit of 1000 bytes \
                 (HttpBodyLimit of the endpoint, --http-body-limit of the worker)",
            ),
            ("response.Write(Symbol())", "TypeError: response.Write: a symbol cannot be written"),
            (
                "response.SetStatus(100)",
                "RangeError: response.SetStatus: argument 1 must be a status from 200 to 599, not 100",
            ),
            (
                "response.SetStatus('x')",
                "TypeError: response.SetStatus: argument 1 must be a number, not \"x\"",
            ),
            (
                "response.Error('x', 399)",
                "RangeError: response.Error: argument 2 must be a status from 400 to 599, not 399",
            ),
            (
                "response.SetHeader('a', 'b\\nc')",
                "TypeError: response.SetHeader: the value of header \"a\" has a character that no header can have",
            ),
            (
                "response.SetHeader('a', null)",
                "TypeError: response.SetHeader: argument 2 must be a string, number, bigint or boolean, not null",
            ),
            (
                "response.SetHeader('Content-Length', 1)",
                "TypeError: response.SetHeader: header \"Content-Length\" belongs to the worker",
            ),
            (
                "response.SetContentType()",
                "TypeError: response.SetContentType: argument 1 must be a string, not undefined",
            ),
        ],
    },
    Line {
        names: &["console.log", "console.info", "console.debug", "console.warn", "console.error"],
        within: Within::All,
        source: "class Point { constructor() { this.x = 1 } } const loop = {}; loop.me = loop;",
        // What they write is shown as the results of all these cases are.
        cases: &[
            (
                "['log', 'info', 'debug', 'warn', 'error'].map(level => console[level]('a', {b: 1}, '\\ud800'))",
                "[undefined, undefined, undefined, undefined, undefined]",
            ),
            ("console.log()", "undefined"),
            ("'plain'", "plain"),
            ("['text', 1.5, true, null, undefined, 10n]", "[\"text\", 1.5, true, null, undefined, 10n]"),
            ("new Point()", "Point { x: 1 }"),
            ("loop", "{ me: [Circular] }"),
            ("({a: {b: {c: {d: {}}}}})", "{ a: { b: { c: { d: [Object] } } } }"),
            (
                "[function named() {}, () => {}, Symbol('s'), /x/g]",
                "[[Function: named], [Function], Symbol(s), /x/g]",
            ),
            ("({get bad() { throw 1 }})", "{ bad: [throws] }"),
            ("new Proxy({}, {})", "[Proxy]"),
            ("({'odd key': 1})", "{ \"odd key\": 1 }"),
            ("({'a\\0b': 1, '\\ud800': 2, a: 3})", "{ \"a\\0b\": 1, \"\u{fffd}\": 2, a: 3 }"),
        ],
    },
    Line {
        names: &["sleep"],
        within: Within::All,
        source: "",
        cases: &[
            ("sleep(1)", "true"),
            ("sleep(0)", "true"),
            ("sleep()", "TypeError: sleep: argument 1 must be a number, not undefined"),
            ("sleep('x')", "TypeError: sleep: argument 1 must be a number, not \"x\""),
            ("sleep(NaN)", "TypeError: sleep: argument 1 must be a number, not NaN"),
            ("sleep(-1)", "TypeError: sleep: argument 1 must be a number of milliseconds, not -1"),
        ],
    },
    Line {
        names: &["setTimeout", "setInterval", "clearTimeout", "clearInterval", "queueMicrotask"],
        within: Within::All,
        source: "let log = [];",
        cases: &[
            ("new Promise(r => setTimeout((a, b) => r(a + b), 5, 1, 2))", "3"),
            ("new Promise(r => setTimeout(r))", "undefined"),
            ("typeof setTimeout(() => {}, 1)", "number"),
            (
                "new Promise(r => { setTimeout(() => log.push('b'), 3); setTimeout(() => log.push('a'), 1); setTimeout(() => r(log), 5) })",
                "[\"a\", \"b\"]",
            ),
            (
                "(async () => { const t = setTimeout(() => log.push('no'), 1); clearTimeout(t); await new Promise(r => setTimeout(r, 10)); return log.length })()",
                "0",
            ),
            (
                "new Promise(r => { let n = 0; const t = setInterval(() => { if (++n === 3) { clearInterval(t); r(n) } }, 0) })",
                "3",
            ),
            (
                "(async () => { queueMicrotask(() => log.push('m')); await null; await null; return log.join() })()",
                "m",
            ),
            ("clearTimeout(12345), clearTimeout(), clearInterval('x')", "undefined"),
            ("setTimeout(1)", "TypeError: setTimeout: argument 1 must be a function, not 1"),
            ("setInterval('code')", "TypeError: setInterval: argument 1 must be a function, not \"code\""),
            ("queueMicrotask()", "TypeError: queueMicrotask: argument 1 must be a function, not undefined"),
            ("new Promise(() => setTimeout(() => { throw new RangeError('late') }, 1))", "RangeError: late"),
        ],
    },
    Line {
        names: &["structuredClone"],
        within: Within::All,
        source: "",
        cases: &[
            (
                "structuredClone({a: [1, new Date(0), new Map([[1, {b: 2}]])], s: new Set([3])})",
                "{ a: [1, 1970-01-01T00:00:00.000Z, Map(1) { 1 => { b: 2 } }], s: Set(1) { 3 } }",
            ),
            (
                "(() => { const o = {}; o.self = o; const c = structuredClone(o); return c !== o && c.self === c })()",
                "true",
            ),
            ("structuredClone(new Uint8Array([1, 2]))", "Uint8Array(2) [1, 2]"),
            ("structuredClone(() => 1)", "DataCloneError: structuredClone: () => 1 cannot be cloned"),
            ("structuredClone()", "TypeError: structuredClone: argument 1 is missing"),
        ],
    },
];
