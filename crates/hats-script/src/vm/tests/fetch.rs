//! `fetch`, and how operations of the host go on beside the script.

use super::http::{check, eval, eval_with, open};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn fetch_works_as_on_the_web() {
    let (server, lanes) = open().await;
    check(
        &lanes,
        &server,
        &[
            ("fetch('§/text').then(r => r.text())", "grüße\u{0}!"),
            ("fetch('§/json').then(r => r.json())", "{ a: [1, 2] }"),
            ("fetch('§/bom').then(r => r.json())", "{ a: 1 }"),
            ("fetch('§/latin').then(r => r.text())", "gr\u{fffd}\u{fffd}e"),
            ("fetch('§/latin').then(r => r.bytes())", "Uint8Array(5) [103, 114, 252, 223, 101]"),
            ("fetch('§/text').then(r => r.arrayBuffer()).then(b => b.byteLength)", "9"),
            ("fetch('§/json').then(r => [r.ok, r.status, r.statusText, r.type, r.redirected, r.bodyUsed])", "[true, 200, \"OK\", \"basic\", false, false]"),
            ("fetch('§/status/404').then(r => [r.ok, r.status])", "[false, 404]"),
            ("fetch('§/json').then(r => r.headers.get('CONTENT-type'))", "application/json"),
            ("fetch('§/headers').then(r => [r.headers.get('x-many'), r.headers.getSetCookie(), r.headers.get('none')])", "[\"a, b\", [\"c=1\", \"d=2\"], null]"),
            ("fetch('§/headers').then(r => [...r.headers].map(([name]) => name))", "[\"__proto__\", \"content-length\", \"etag\", \"set-cookie\", \"set-cookie\", \"x-many\", \"x-utf\"]"),
            ("fetch('§/echo', {method: 'post', body: 'hi', headers: {'X-A': 1}}).then(r => r.text()).then(t => [t.slice(0, 5), t.includes('x-a: 1'), t.includes('content-type: text/plain;charset=UTF-8'), t.slice(-2)])", "[\"POST \", true, true, \"hi\"]"),
            ("fetch('§/echo', {method: 'PUT', body: new Uint8Array([104, 105]).buffer}).then(r => r.text()).then(t => t.slice(-3))", "\nhi"),
            ("fetch('§/echo', {method: 'PUT', body: new Uint16Array([26984]).subarray(0)}).then(r => r.text()).then(t => t.slice(-3))", "\nhi"),
            ("fetch(new Request('§/echo', {method: 'PATCH', body: 'x'}), {headers: [['a', 'b'], ['a', 'c']]}).then(r => r.text()).then(t => [t.split(' ')[0], t.includes('a: b\\na: c')])", "[\"PATCH\", true]"),
            ("fetch(new URL('/text?a=b#c', '§')).then(r => r.url.replace(/.*:\\d+/, ''))", "/text?a=b"),
            ("fetch('§/echo', {method: 'POST', body: new URLSearchParams({a: 'ä b'})}).then(r => r.text()).then(t => [t.includes('content-type: application/x-www-form-urlencoded;charset=UTF-8'), t.split('\\n').at(-1)])", "[true, \"a=%C3%A4+b\"]"),
            ("(async stop => { for (let n = 0; n < 3; n++) await fetch('§/text', {signal: AbortSignal.any([stop.signal, AbortSignal.timeout(60000)])}); stop.abort(); return fetch('§/text', {signal: stop.signal}).catch(e => e.name) })(new AbortController())", "AbortError"),
            ("fetch('§/redirects/2').then(r => [r.redirected, r.url.replace(/.*:\\d+/, ''), r.status])", "[true, \"/redirects/0\", 200]"),
            ("fetch('§/redirects/1', {redirect: 'manual'}).then(r => [r.status, r.headers.get('location')])", "[302, \"/redirects/0\"]"),
            ("fetch('§/redirects/1', {redirect: 'error'}).catch(e => e.message.replace(/:\\d+/g, ''))", "fetch: http://127.0.0.1 redirects to http://127.0.0.1"),
            ("fetch('§/redirects/11').catch(e => [e.name, e.message.slice(0, 30)])", "[\"TypeError\", \"fetch: more than 10 redirects,\"]"),
            ("fetch('§/truncated').catch(String)", "TypeError: fetch: the answer broke off: end of file before message length reached"),
            ("fetch('§/endless').catch(String)", "TypeError: fetch: the body is longer than the limit of 10485760 bytes (HttpBodyLimit of the task, --http-body-limit of the worker)"),
            ("fetch('§/held', {timeoutMs: 20}).catch(String)", "TypeError: fetch: timed out after 20 ms"),
            ("fetch('/x').catch(String)", "TypeError: fetch: \"/x\" is no URL: relative URL without a base"),
            ("fetch().catch(String)", "TypeError: fetch: \"undefined\" is no URL: relative URL without a base"),
            ("fetch('§', 5).catch(String)", "TypeError: Request: argument 2 must be an object"),
            ("fetch('§', {method: 'GET', body: 'x'}).catch(String)", "TypeError: Request: a GET request has no body"),
            ("fetch('§', {method: 'a b'}).catch(String)", "TypeError: Request: \"a b\" is no method"),
            ("fetch('§', {method: 'TRACE'}).catch(String)", "TypeError: Request: TRACE is not available"),
            ("fetch('§', {redirect: 'no'}).catch(String)", "TypeError: Request: redirect must be \"follow\", \"manual\" or \"error\", not \"no\""),
            ("fetch('§', {timeoutMs: 0}).catch(String)", "TypeError: Request: timeoutMs must be a number of milliseconds up to a day"),
            ("fetch('§', {headers: {'a b': 1}}).catch(String)", "TypeError: Headers.append: \"a b\" is no name of a header"),
            ("fetch('§', {headers: {a: 'x\\r\\ny'}}).catch(String)", "TypeError: Headers.append: the value has a character that no header can have"),
            ("fetch('§', {headers: {'Hats-Fence': 'x'}}).catch(String)", "TypeError: fetch: header \"hats-fence\" belongs to the worker"),
            ("fetch('§', {signal: {}}).catch(String)", "TypeError: Request: signal must be an AbortSignal"),
            ("fetch('§/refuse').catch(e => String(e).replace(/\\d{4,}/, 'PORT'))", "TypeError: fetch: http://127.0.0.1:PORT: connection closed before message completed"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_responses_and_headers_stand_on_their_own() {
    let (server, lanes) = open().await;
    check(
        &lanes,
        &server,
        &[
            ("(h => [[...h.keys()], [...h.values()], h.has('B'), h.get('a')])(new Headers({b: ' 1\\t', A: 2}))", "[[\"a\", \"b\"], [\"2\", \"1\"], true, \"2\"]"),
            ("(h => (h.append('a', 2), h.set('b', 3), h.delete('c'), h.delete('none'), [...h]))(new Headers([['a', 1], ['c', 4]]))", "[[\"a\", \"1, 2\"], [\"b\", \"3\"]]"),
            ("(h => { const seen = []; new Headers(h).forEach((value, name, self) => seen.push(name, value, self === h)); return seen })(new Headers({a: 1}))", "[\"a\", \"1\", false]"),
            ("new Headers([['a']])", "TypeError: Headers: each header must be a pair of name and value"),
            ("new Headers(7)", "TypeError: Headers: argument 1 must be an object or an array of pairs"),
            ("new Headers().forEach()", "TypeError: Headers.forEach: argument 1 must be a function"),
            ("new Request('http://EXAMPLE.com:80/a b').url", "http://example.com/a%20b"),
            ("(r => [r.method, r.redirect, r.headers.get('content-type'), r.signal.aborted])(new Request('http://x/', {method: 'put', body: 'b'}))", "[\"PUT\", \"follow\", \"text/plain;charset=UTF-8\", false]"),
            ("(r => [new Request(r).method, r.bodyUsed])(new Request('http://x/', {method: 'custom', body: 'b'}))", "[\"custom\", true]"),
            ("(async r => [await r.clone().text(), r.bodyUsed, await r.text(), r.bodyUsed])(new Request('http://x/', {method: 'POST', body: 'b'}))", "[\"b\", false, \"b\", true]"),
            ("(async r => { await r.text(); return r.text() })(new Response('x')).catch(String)", "TypeError: Response.text: the body has been used already"),
            ("(async r => { await r.text(); return r.clone() })(new Response('x')).catch(String)", "TypeError: Response.clone: the body has been used already"),
            ("(async r => [await r.text(), await r.text(), r.bodyUsed])(new Response())", "[\"\", \"\", false]"),
            ("(r => [r.status, r.ok, r.statusText, r.type, r.url, r.headers.get('content-type')])(new Response('x', {status: 201, statusText: 'Made'}))", "[201, true, \"Made\", \"default\", \"\", \"text/plain;charset=UTF-8\"]"),
            ("(async r => [r.headers.get('content-type'), await r.json()])(Response.json({a: 1}))", "[\"application/json\", { a: 1 }]"),
            ("(r => [r.status, r.headers.get('location')])(Response.redirect('http://x/y'))", "[302, \"http://x/y\"]"),
            ("(r => [r.type, r.status])(Response.error())", "[\"error\", 0]"),
            ("new Response('x', {status: 99})", "RangeError: Response: status must be from 200 to 599, not 99"),
            ("new Response('x', {status: 204})", "TypeError: Response: one with status 204 has no body"),
            ("Response.json(undefined)", "TypeError: Response.json: argument 1 cannot be written as JSON"),
            ("new Response(new Uint8Array([1, 2])).bytes()", "Uint8Array(2) [1, 2]"),
            ("(async bytes => { const r = new Response(bytes); bytes[0] = 9; return r.bytes() })(new Uint8Array([1, 2]))", "Uint8Array(2) [1, 2]"),
            ("new Response({toString() { return 'made' }}).text()", "made"),
            ("[fetch, Headers, Request, Response, AbortController, AbortSignal].map(f => [typeof f, f.name])", "[[\"function\", \"fetch\"], [\"function\", \"Headers\"], [\"function\", \"Request\"], [\"function\", \"Response\"], [\"function\", \"AbortController\"], [\"function\", \"AbortSignal\"]]"),
            ("[new Headers(), new Request('http://x'), new Response(), new AbortController().signal].map(o => Object.prototype.toString.call(o))", "[\"[object Headers]\", \"[object Request]\", \"[object Response]\", \"[object AbortSignal]\"]"),
            ("(globalThis.Response = 5, new Headers(), Response)", "5"),
            ("(() => { globalThis.fetch = () => 'mine'; return fetch() })()", "mine"),
            ("Object.keys(globalThis).includes('fetch')", "false"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_ends_the_request_and_tells_why() {
    let (server, lanes) = open().await;
    check(
        &lanes,
        &server,
        &[
            ("(() => { const c = new AbortController(); const p = fetch('§/held', {signal: c.signal}); setTimeout(() => c.abort(), 20); return p.catch(e => [e.name, c.signal.aborted]) })()", "[\"AbortError\", true]"),
            ("(() => { const c = new AbortController(); c.abort('reason'); return fetch('§/held', {signal: c.signal}).catch(e => e) })()", "reason"),
            ("fetch('§/held', {signal: AbortSignal.timeout(20)}).catch(e => e.name)", "TimeoutError"),
            ("fetch('§/held', {signal: AbortSignal.any([new AbortController().signal, AbortSignal.timeout(20)])}).catch(e => e.name)", "TimeoutError"),
            ("fetch('§/text', {signal: AbortSignal.abort()}).catch(e => e.name)", "AbortError"),
            ("AbortSignal.any([AbortSignal.abort(1), AbortSignal.abort(2)]).reason", "1"),
            ("(async () => { const c = new AbortController(); const r = await fetch('§/text', {signal: c.signal}); c.abort(); return r.text() })()", "grüße\u{0}!"),
            (
                "(() => { const c = new AbortController(), seen = []; const gone = () => seen.push('gone'); c.signal.onabort = e => seen.push(e.type); \
                 c.signal.addEventListener('abort', gone); c.signal.addEventListener('abort', {handleEvent(e) { seen.push(e.target === c.signal) }}); \
                 c.signal.removeEventListener('abort', gone); c.abort(); c.abort(); return seen })()",
                "[\"abort\", true]",
            ),
            ("(c => { c.signal.addEventListener('abort', () => { throw new Error('late') }); c.abort(7); return c.signal.throwIfAborted() })(new AbortController())", "uncaught 7"),
            ("new AbortSignal()", "TypeError: AbortSignal: use AbortController, or AbortSignal.abort, timeout or any"),
            ("AbortSignal.timeout('x')", "TypeError: AbortSignal.timeout: argument 1 must be a number of milliseconds"),
        ],
    )
    .await;
    server.wait_for(|seen| seen.abandoned == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_goes_on_while_promises_are_pending() {
    let (server, lanes) = open().await;
    check(
        &lanes,
        &server,
        &[
            (
                "(async () => { let ticks = 0; const t = setInterval(() => ticks++, 1); \
                 const texts = await Promise.all([1, 2, 3].map(() => fetch('§/slow/100').then(r => r.text()))); \
                 clearInterval(t); return [texts.join(), ticks > 5] })()",
                "[\"slow,slow,slow\", true]",
            ),
            (
                "(async () => { const order = []; const slow = fetch('§/slow/100').then(() => order.push('slow')); \
                 await fetch('§/text').then(() => order.push('quick')); setTimeout(() => order.push('timer'), 5); await slow; return order.join() })()",
                "quick,timer,slow",
            ),
            ("Promise.race([fetch('§/held'), new Promise(r => setTimeout(r, 5, 'timer'))])", "timer"),
            ("Promise.all(Array.from({length: 300}, (_, n) => fetch('§/long/' + n).then(r => r.text()))).then(all => all.every((text, n) => text.length === n))", "true"),
            (
                "Promise.allSettled(Array.from({length: 1001}, () => fetch('§/held', {timeoutMs: 100}))).then(all => all.filter(one => /too many/.test(one.reason)).length)",
                "1",
            ),
        ],
    )
    .await;
}

/// Between the calls of `main` as well, and for a script that has no `main` at all.
#[tokio::test(flavor = "multi_thread")]
async fn promises_are_settled_between_calls() {
    let (server, lanes) = open().await;
    let source = format!(
        "globalThis.got = []; function main() {{ fetch('{}').then(r => r.text()).then(text => got.push(text)) }}",
        server.url("/text")
    );
    let (_, ended) = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
        vm.load(&source, "test.js")?;
        for hang in [Duration::ZERO, Duration::from_millis(1), Duration::from_secs(3600)] {
            vm.call("main")?;
            while vm.eval("got.length > 0")? != "true" {
                // A long pause ends when the promise is settled, and begins anew.
                vm.idle(Some(hang.min(Duration::from_millis(5))))?;
            }
            assert_eq!(vm.eval("got.pop()")?, "grüße\u{0}!");
        }
        vm.load("fetch('no url')", "test.js")?;
        Ok::<_, ScriptError>(())
    });
    let error = ended.await.unwrap_err().to_string();
    assert!(error.starts_with("unhandled rejection: TypeError: fetch: \"no url\" is no URL"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_script_without_an_end_hears_of_its_promises() {
    let (server, lanes) = open().await;
    let source =
        format!("fetch('{}').then(r => {{ throw new Error('at ' + r.status) }})", server.url("/text"));
    let (_, ended) = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
        vm.load(&source, "test.js")?;
        vm.idle(None)
    });
    let error = ended.await.unwrap_err().to_string();
    assert!(error.starts_with("unhandled rejection: Error: at 200"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_ends_with_the_script() {
    let (server, lanes) = open().await;
    let source = format!("for (let n = 0; n < 5; n++) fetch('{}').catch(() => {{}})", server.url("/held"));
    let inner = server.clone();
    let (_, ended) = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
        vm.load(&source, "test.js")?;
        hats_fiber::wait(inner.wait_for(|seen| seen.requests.len() == 5)).unwrap();
        Ok::<_, ScriptError>(())
    });
    assert_eq!(ended.await, Ok(()));
    server.wait_for(|seen| seen.abandoned == 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promises_end_with_the_lease_and_with_the_interrupt() {
    let (server, lanes) = open().await;
    let expression = format!("fetch('{}')", server.url("/held"));
    for (ask, abandoned, expected) in [
        (ScriptHandle::kill as fn(&ScriptHandle), 1, ScriptError::Lost),
        (ScriptHandle::interrupt, 2, ScriptError::Interrupted),
    ] {
        let expression = expression.clone();
        let (handle, ended) =
            spawn(&lanes, &Fake::new(), Limits::default(), move |vm| vm.eval(&expression).map(drop));
        server.wait_for(|seen| seen.requests.len() == abandoned).await;
        ask(&handle);
        assert_eq!(ended.await, Err(expected));
        server.wait_for(|seen| seen.abandoned == abandoned).await;
    }
    let fake = Fake::new();
    fake.trusted_ms.store(100, Ordering::Relaxed);
    let (_, ended) = spawn(&lanes, &fake, Limits::default(), move |vm| vm.eval(&expression));
    server.wait_for(|seen| seen.requests.len() == 3).await;
    fake.trusted_ms.store(0, Ordering::Relaxed);
    server.wait_for(|seen| seen.abandoned == 3).await;
    assert_eq!(ended.await, Err(ScriptError::Lost));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_an_awaited_promise_come_to_its_end_and_cleanup_fetch() {
    let (server, lanes) = open().await;
    let source = format!(
        "async function main() {{ globalThis.got = await (await fetch('{}')).text() }}
         async function cleanup() {{ globalThis.last = (await fetch('{}')).status }}",
        server.url("/held"),
        server.url("/text")
    );
    let (handle, ended) = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
        vm.load(&source, "test.js")?;
        vm.call("main")?;
        assert_eq!(vm.idle(Some(Duration::from_secs(3600)))?, Wake::Stop);
        vm.call("cleanup")?;
        Ok::<_, ScriptError>((vm.eval("got")?, vm.eval("last")?))
    });
    server.wait_for(|seen| seen.requests.len() == 1).await;
    handle.interrupt_waits();
    server.release();
    assert_eq!(ended.await, Ok(("held".to_owned(), "200".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_under_way_have_a_limit_together() {
    let (server, lanes) = open().await;
    let limits = Limits { memory: 24 << 20, ..Limits::default() };
    let expression = "Promise.allSettled([1, 2, 3, 4].map(() => fetch('§/long/8000000'))).then(all => \
                      all.filter(one => one.status === 'rejected').map(one => one.reason.message).includes( \
                      \"fetch: the bodies under way are longer than the script's heap limit of 25165824 bytes (MemoryLimit of the task, --memory-limit of the worker)\") || all.length)"
        .replace('§', &server.url(""));
    let shown = eval_with(&lanes, limits, &expression).await;
    // Which of the two limits is met first is a matter of chance; neither harms anybody else.
    assert!(shown == "true" || shown == "4" || shown.starts_with("MemoryError"), "{shown}");
    assert_eq!(eval(&lanes, &server, "fetch('§/text').then(r => r.status)").await, "200");
}

/// Prints what the modules take of a script's heap: what is made at the first use costs others nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_used_takes_little() {
    let (_, lanes) = open().await;
    let (_, ended) = spawn(&lanes, &Fake::new(), Limits::default(), |vm| {
        let empty = vm.memory_used();
        vm.eval("typeof http.Get")?;
        let http = vm.memory_used();
        vm.eval("typeof fetch")?;
        Ok::<_, ScriptError>((empty, http - empty, vm.memory_used() - http))
    });
    let (empty, http, fetch) = ended.await.unwrap();
    println!(
        "heap of a script that does nothing: {empty} bytes; a look at http adds {http}, at fetch {fetch}"
    );
    assert!(fetch > http, "fetch is made at its first use");
}
