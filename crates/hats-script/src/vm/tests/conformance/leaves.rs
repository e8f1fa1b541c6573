//! Every function of the host is a leaf, whatever a script does to be asked something by one: where these tests run, JavaScript
//! above a function of the host is a panic, which is not the script's to catch.

use super::*;

/// Everything that the engine might ask while a function of the host runs, patched. The script's own code is not harmed.
const HOSTILE: &str = "
    var asked = 0;
    Error.prepareStackTrace = (error) => { asked++; return `${error.message}` };
    Promise.prototype.then = ((then) => function (...given) { asked++; return then.apply(this, given) })(Promise.prototype.then);
    for (const prototype of [Object.prototype, Array.prototype, Error.prototype, TypeError.prototype, RangeError.prototype]) {
      for (const name of ['0', '1', '2', '3', 'a', 'x', 'id', 'n', 'message', 'stack', 'bytes', 'body', 'headers', 'status', 'error']) {
        if (Object.hasOwn(prototype, name) && name !== 'message') continue;
        const kept = Symbol(name);
        Object.defineProperty(prototype, name, {
          get() { asked++; return this[kept] }, set(value) { asked++; this[kept] = value }, configurable: true,
        });
      }
      Object.defineProperty(prototype, 'toJSON', { get() { asked++ }, configurable: true });
    }
    Object.defineProperty(Symbol.prototype, 'description', { get() { asked++; return 'patched' } });
    for (const [type, names] of [[Date, ['getTime', 'valueOf', 'toISOString']], [Uint8Array, ['toBase64']], [String, ['toWellFormed', 'toString']]]) {
      for (const name of names) {
        const own = type.prototype[name];
        type.prototype[name] = function (...given) { asked++; return own.apply(this, given) };
      }
    }
    Date[Symbol.hasInstance] = Uint8Array[Symbol.hasInstance] = () => { asked++; return true };
    Object.defineProperty(Object.getPrototypeOf(Uint8Array.prototype), 'length', { get() { asked++; return 1e9 } });
";

/// Values that have something to say to whoever asks them.
const VALUES: &str = "
    var values = () => {
      const ask = () => { asked++; return console.log('nested', env.Get('PATH')) ?? 'said' };
      const everything = new Proxy(function () {}, new Proxy({}, { get: () => ask }));
      const traps = { get(target, name) { ask(); return target[name] }, ownKeys(target) { ask(); return Reflect.ownKeys(target) },
                      getOwnPropertyDescriptor(target, name) { ask(); return Reflect.getOwnPropertyDescriptor(target, name) },
                      getPrototypeOf(target) { ask(); return Reflect.getPrototypeOf(target) } };
      const error = new Error('x');
      for (const name of ['name', 'message', 'stack']) Object.defineProperty(error, name, { get: ask });
      const bytes = Object.defineProperties(new Uint8Array([1, 2]), { length: { get: ask }, buffer: { get: ask } });
      const date = new (class extends Date { getTime() { return ask() } valueOf() { return ask() } toISOString() { return ask() } })(0);
      const holes = Object.defineProperty([1, , 3], '1', { get: ask, enumerable: true });
      return [
        { get x() { return ask() }, toString: ask }, { toJSON: ask }, { valueOf: ask }, { [Symbol.toPrimitive]: ask },
        { then(resolve) { ask(); resolve(1) } }, new Proxy({ x: 1 }, traps), new Proxy([1, 2], traps),
        new Proxy(new Uint8Array(2), traps), everything, error, bytes, date, holes, Object.create(everything),
        Object.create(new Proxy({}, traps)), Symbol('s'), new Map([[{ get x() { return ask() } }, 1]]), new Set([error]),
        Object.assign(() => {}, { get x() { return ask() } }), new (class extends Map { *[Symbol.iterator]() { ask() } })(),
        { headers: { get x() { return ask() }, y: holes }, timeoutMs: { valueOf: ask } }, { get headers() { return { x: ask() } } },
        { x: [{ toString: ask }], y: holes, get z() { return ask() } }, /x/, new DOMException('x', 'y'), Promise.resolve(1),
        'text', 1, 2n ** 70n, true, null, undefined, '\\ud800', new Uint8Array([0xff]), 
      ];
    };
";

/// Calls a function with each of the values in each place; what comes of it is not the point.
const CALL: &str = "
    (function (f, self, before) {
      let calls = 0;
      const most = 3;
      for (let place = 0; place < most; place++) {
        const all = values();
        for (let n = 0; n < all.length; n++) {
          // Literals: an assignment would be the business of the setters above.
          const first = before.length > 0 ? before[0] : 'x', second = before.length > 1 ? before[1] : 'x';
          const given = place === 0 ? [all[n]] : place === 1 ? [first, all[n]] : [first, second, all[n]];
          try { const result = f.apply(self, given); calls++; `${result}` } catch (error) { try { `${error}` } catch {} }
          try { f.call(all[n], 'x', all[n]) } catch {}
          try { [all[n]].map(f) } catch {}
        }
      }
      return calls >= 0;
    })
";

/// The functions of the host, each with what makes a call of it get as far as it can.
const FUNCTIONS: &[(Within, &str, &str, &str)] = &[
    (Within::All, "console.log", "console", "[]"),
    (Within::All, "console.info", "console", "[]"),
    (Within::All, "console.debug", "console", "[]"),
    (Within::All, "console.warn", "console", "[]"),
    (Within::All, "console.error", "console", "[]"),
    (Within::All, "env.Get", "env", "[]"),
    (Within::All, "env.Set", "env", "['LEAVES']"),
    (Within::All, "env.Unset", "env", "[]"),
    (Within::All, "setTimeout", "undefined", "[() => {}]"),
    (Within::All, "setInterval", "undefined", "[() => {}, 1e9]"),
    (Within::All, "clearTimeout", "undefined", "[]"),
    (Within::All, "clearInterval", "undefined", "[]"),
    (Within::All, "queueMicrotask", "undefined", "[() => {}]"),
    (Within::All, "structuredClone", "undefined", "[]"),
    (Within::All, "atob", "undefined", "[]"),
    (Within::All, "btoa", "undefined", "[]"),
    (Within::All, "Math.random", "Math", "[]"),
    (Within::All, "Atomics.notify", "Atomics", "[]"),
    (Within::All, "performance.now", "performance", "[]"),
    (Within::All, "crypto.getRandomValues", "crypto", "[]"),
    (Within::All, "crypto.randomUUID", "crypto", "[]"),
    (Within::All, "(...given) => new URL(...given).searchParams.append('a', 'b')", "undefined", "['x:y']"),
    (Within::All, "(...given) => `${new URLSearchParams(...given)}`", "undefined", "[]"),
    (Within::All, "(...given) => new TextEncoder().encode(...given)", "undefined", "[]"),
    (Within::All, "(...given) => new TextDecoder().decode(...given)", "undefined", "[]"),
    (Within::All, "(...given) => new TextDecoder(...given)", "undefined", "[]"),
    (Within::All, "(...given) => new AbortController().abort(...given)", "undefined", "[]"),
    (Within::All, "(...given) => new EventTarget().dispatchEvent(new Event(...given))", "undefined", "['x']"),
    (Within::All, "http.Get", "http", "['§/text']"),
    (Within::All, "http.Head", "http", "['§/text']"),
    (Within::All, "http.Delete", "http", "['§/text']"),
    (Within::All, "http.Post", "http", "['§/text', 'body']"),
    (Within::All, "http.Put", "http", "['§/text', 'body']"),
    (Within::All, "http.Patch", "http", "['§/text', 'body']"),
    (Within::All, "http.PostForm", "http", "['§/text', {a: 1}]"),
    (Within::All, "(...given) => { fetch(...given).then(() => {}, () => {}) }", "undefined", "['§/text']"),
    (Within::All, "(...given) => new Request(...given)", "undefined", "['x:y']"),
    (Within::All, "(...given) => new Response(...given)", "undefined", "['x']"),
    (Within::All, "(...given) => Response.redirect(...given)", "undefined", "[]"),
    (Within::All, "(...given) => new Headers(...given)", "undefined", "[]"),
    (Within::All, "redis.Do", "redis", "['ECHO', 'x']"),
    (Within::All, "redis.Call", "redis", "['ECHO', 'x']"),
    (Within::All, "redis.Blpop", "redis", "[0.001, 'none']"),
    (Within::All, "redis.HsetFenced", "redis", "['fenced', {a: 1}]"),
    (
        Within::All,
        "(...given) => { const pair = redis.Do('ECHO', 'x'); pair[0] = given[0]; return `${pair}` }",
        "undefined",
        "[]",
    ),
    (Within::All, "sql.New", "sql", "[':memory:', 'sqlite']"),
    (Within::All, "sql.New(':memory:', 'sqlite').Query", "undefined", "['SELECT ? AS x, 1 AS \"0\"', 1]"),
    (Within::All, "sql.New(':memory:', 'sqlite').Exec", "undefined", "['SELECT ?', 1]"),
    (Within::All, "sql.New(':memory:', 'sqlite').Ping", "undefined", "[]"),
    (Within::All, "sql.New(':memory:', 'sqlite').Close", "undefined", "[]"),
    (Within::Threads, "thread.State", "thread", "[]"),
    (Within::Threads, "thread.Status", "thread", "[]"),
    (Within::Threads, "thread.Stop", "thread", "[]"),
    (Within::Threads, "thread.Disable", "thread", "[]"),
    (Within::Jobs, "job.State", "job", "[]"),
    (Within::Jobs, "job.Status", "job", "[]"),
    (Within::Jobs, "job.Disable", "job", "[]"),
    (Within::Jobs, "() => job.Tick", "job", "[]"),
    (Within::Endpoints, "response.Write", "response", "[]"),
    (Within::Endpoints, "response.SetContentType", "response", "[]"),
    (Within::Endpoints, "response.SetHeader", "response", "['x', 'y']"),
    (Within::Endpoints, "response.SetStatus", "response", "[]"),
    (Within::Endpoints, "response.Error", "response", "['x', 404]"),
    (Within::Endpoints, "request.GetHeader", "request", "[]"),
    (Within::Endpoints, "request.Bytes", "request", "[]"),
    (Within::Endpoints, "(self) => Reflect.get(request, 'Body', self)", "request", "[]"),
    (Within::Endpoints, "(self) => Reflect.set(request, 'Query', self, self)", "request", "[]"),
    (Within::Endpoints, "() => [request.Query, request.Params, request.Body]", "request", "[]"),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_function_of_the_host_runs_javascript() {
    let redis = Miniredis::run().await.unwrap();
    let world = World::new(&redis.redis_url()).await;
    // In a world that is as it was, and in one that is patched.
    let sources = [format!("var asked = 0;{VALUES}"), format!("{HOSTILE}{VALUES}")].map(leaked);
    for kind in kinds() {
        for (within, function, this, before) in FUNCTIONS {
            let line = Line { names: &[], within: *within, source: "", cases: &[] };
            if !line.is_of(kind) {
                continue;
            }
            let call = format!("{CALL}({function}, {this}, {before})").replace('§', &world.http.url(""));
            for source in sources {
                let shown = world.shown(kind, source, &call).await;
                assert_eq!(shown, "true", "{kind:?} {function}");
            }
        }
    }
}

/// What a patched world is asked by the host's functions changes nothing that is documented of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_may_patch_what_it_likes() {
    let redis = Miniredis::run().await.unwrap();
    let world = World::new(&redis.redis_url()).await;
    for kind in kinds() {
        for line in lines().filter(|line| line.is_of(kind)) {
            for (expression, _) in line.cases {
                let expression = expression.replace('§', &world.http.url(""));
                // Where the world is patched a case may come to another end; it comes to one, and asks no function of the host.
                world.shown(kind, leaked(format!("{HOSTILE}{}", line.source)), &expression).await;
            }
        }
        for (expression, expected) in [
            ("redis.Do('ECHO', 'x').length + redis.Call('ECHO', 'x')", "1x"),
            ("`${redis.Do('ECHO', 'x')}`", "x"),
            (
                "Object.keys(sql.New(':memory:', 'sqlite').Query('SELECT 1 AS \"0\", 2 AS x, 3 AS __proto__')[0])",
                "[\"0\", \"x\", \"__proto__\"]",
            ),
            (
                "sql.New(':memory:', 'sqlite').Query('SELECT ? AS t', new Date(0))[0].t",
                "1970-01-01 00:00:00.000",
            ),
            ("redis.Call('ECHO', new Uint8Array([65, 66]))", "AB"),
            ("redis.Call('ECHO', '\\ud800')", "\u{fffd}"),
            (
                "(() => { try { redis.Call('NONE') } catch (e) { return [e instanceof RedisError, e instanceof Error, e.name, RedisError.name] } })()",
                "[true, true, \"RedisError\", \"RedisError\"]",
            ),
            ("new (class Mine extends RedisError {})('x') instanceof RedisError", "true"),
            (
                "(() => { try { env.Get(Symbol('s')) } catch (e) { return Object.getOwnPropertyDescriptor(e, 'message').value } })()",
                "env.Get: argument 1 must be a string, not Symbol(s)",
            ),
        ] {
            assert_eq!(world.shown(kind, HOSTILE, expression).await, expected, "{expression}");
        }
    }
}

fn leaked(source: String) -> &'static str {
    source.leak()
}
