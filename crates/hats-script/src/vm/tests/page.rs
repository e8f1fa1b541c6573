//! Pages: what a request is told, what is answered, how it ends.

use std::sync::Arc;

use super::*;
use crate::{Page, PageRequest, PageResponse, is_handler};

/// A page that is one block of code, as a template makes it.
fn script(code: &str) -> Page {
    Page::script("/test", format!("($=>async()=>{{{code}\n}})").into(), Limits::default())
}

pub(super) fn request() -> PageRequest {
    let header = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    PageRequest {
        method: "POST".to_owned(),
        path: "/a b/7".to_owned(),
        url: "http://host/a%20b/7?x=1&x=2&y=%C3%BC".to_owned(),
        query: vec![pair("x", "1"), pair("y", "ü"), pair("x", "2"), pair("__proto__", "p")],
        headers: vec![
            header("host", b"host"),
            header("connection", b"keep-alive"),
            header("content-length", b"6"),
            header("cookie", b"a=1"),
            header("x-many", b"one"),
            header("cookie", b"b=2"),
            header("x-many", b"two"),
            header("x-odd", b"\xff"),
        ],
        body: "bödy".to_owned().into_bytes().into(),
        params: vec![pair("id", "7")],
    }
}

async fn answer_on(lanes: &Lanes, page: Page, request: PageRequest) -> Result<PageResponse, ScriptError> {
    let (_, answered) = lanes.answer(&Arc::new(page), Fake::of(Kind::Endpoint), request);
    answered.await.unwrap()
}

async fn answer(page: Page) -> Result<PageResponse, ScriptError> {
    answer_on(&one_lane(), page, request()).await
}

/// An answer as text: status, headers in order, body.
fn shown(answered: Result<PageResponse, ScriptError>) -> String {
    match answered {
        Ok(response) => {
            let headers = response.headers.iter().map(|(name, value)| {
                format!("{}: {}", name.to_lowercase(), String::from_utf8(value.clone()).unwrap())
            });
            let headers = headers.collect::<Vec<_>>().join(", ");
            format!("{} [{headers}] {}", response.status, String::from_utf8_lossy(&response.body))
        }
        Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

async fn check(code: &str, expected: &str) {
    assert_eq!(shown(answer(script(code)).await), expected, "{code}");
}

const HTML: &str = "content-type: text/html; charset=utf-8";

async fn check_body(code: &str, expected: &str) {
    check(code, &format!("200 [{HTML}] {expected}")).await;
}

#[tokio::test]
async fn a_page_writes_its_answer() {
    let page = script("$(0,6);$.e='<i>'; response.Write('<b>')").text("Hello <?");
    assert_eq!(shown(answer(page).await), format!("200 [{HTML}] Hello &lt;i&gt;<b>"));
    let page = script("$(0,1,3,4)").text("a<?b").content_type("text/plain");
    assert_eq!(shown(answer(page).await), "200 [content-type: text/plain] ab");
    let page = script("$(1,99)").text("a");
    assert_eq!(shown(answer(page).await), "RangeError: the page's text has no such piece");
}

#[tokio::test]
async fn what_is_written_is_text_or_bytes() {
    for (value, written) in [
        ("'ü🦀\\0'", "ü🦀\0"),
        ("'a\\ud800'", "a\u{fffd}"),
        ("1", "1"),
        ("-1.5", "-1.5"),
        ("10n", "10"),
        ("true", "true"),
        ("null", ""),
        ("undefined", ""),
        ("{a: [1, null]}", "{\"a\":[1,null]}"),
        ("[1, {b: 2}]", "[1,{\"b\":2}]"),
        ("Object.create(null)", "{}"),
        ("new URL('http://x/')", "http://x/"),
        ("new Error('wrong')", "Error: wrong"),
        ("Object.assign(['reply'], {[Symbol.toPrimitive]: () => 'reply'})", "reply"),
        ("{toJSON() {}}", ""),
        ("new Uint8Array([104, 105])", "hi"),
        ("new TextEncoder().encode('x'.repeat(100))", &"x".repeat(100)),
    ] {
        check_body(&format!("response.Write({value})"), written).await;
    }
    check("response.Write(Symbol())", "TypeError: response.Write: a symbol cannot be written").await;
    check("response.Write(() => 1)", "TypeError: response.Write: a function cannot be written").await;
    check(
        "response.Write(Promise.resolve(1))",
        "TypeError: response.Write: a promise, which has to be awaited first, cannot be written",
    )
    .await;
    let bytes = answer(script("response.Write(new Uint8Array([0, 255, 10, 13]))")).await.unwrap();
    assert_eq!(bytes.body, [0, 255, 10, 13]);
}

#[tokio::test]
async fn an_answer_has_a_bounded_length() {
    let limits = Limits { http_body: 10, ..Limits::default() };
    for code in ["response.Write('x'.repeat(11))", "for (;;) response.Write('x')", "for (;;) $(0,2)"] {
        let page = Page::script("/test", format!("$=>()=>{{{code}}}").into(), limits).text("yz");
        let error = shown(answer(page).await);
        assert!(error.contains("the answer is longer than its limit of 10 bytes (HttpBodyLimit"), "{error}");
    }
    let code = "response.Write('x'.repeat(10)); try { response.Write('y') } catch {}";
    let page = Page::script("/test", format!("$=>()=>{{{code}}}").into(), limits);
    assert_eq!(answer(page).await.unwrap().body, b"xxxxxxxxxx");
    let error = shown(answer(script("for (let n = 0; ; n++) response.SetHeader('x-' + n, 'y')")).await);
    assert_eq!(
        error,
        "RangeError: response.SetHeader: the headers of the answer are longer than 65536 bytes"
    );
    check("for (let n = 0; n < 1e5; n++) response.SetHeader('x', n); ", &format!("200 [x: 99999, {HTML}] "))
        .await;
}

#[tokio::test]
async fn status_type_and_headers_are_set() {
    check(
        "response.SetStatus(404); response.SetContentType('a/b'); response.SetHeader('X-A', 1); \
         response.SetHeader('x-a', ' two '); response.SetHeader('Set-Cookie', 'a'); response.SetHeader('set-cookie', 'b')",
        "404 [x-a: two, set-cookie: a, set-cookie: b, content-type: a/b] ",
    )
    .await;
    check(
        "response.SetHeader('content-type', 'c/d'); response.SetHeader('x', 'ü\\t1')",
        "200 [x: ü\t1, content-type: c/d] ",
    )
    .await;
    check(
        "response.SetStatus(302); response.SetHeader('Location', '/x')",
        &format!("302 [location: /x, {HTML}] "),
    )
    .await;
    for status in [204, 205, 304] {
        check(&format!("response.SetStatus({status}); response.Write('x')"), &format!("{status} [] ")).await;
    }
}

#[tokio::test]
async fn what_no_answer_can_have_is_refused() {
    for (call, expected) in [
        (
            "SetHeader('x', 'a\\r\\nb: c')",
            "TypeError: response.SetHeader: the value of header \"x\" has a character that no header can have",
        ),
        (
            "SetHeader('x', 'a\\0')",
            "TypeError: response.SetHeader: the value of header \"x\" has a character that no header can have",
        ),
        (
            "SetContentType('a\\nb')",
            "TypeError: response.SetContentType: the value of header \"Content-Type\" has a character that no header can have",
        ),
        ("SetHeader('a b', '')", "TypeError: response.SetHeader: \"a b\" is no name of a header"),
        ("SetHeader('', '')", "TypeError: response.SetHeader: \"\" is no name of a header"),
        ("SetHeader('x\\r\\ny', '')", "TypeError: response.SetHeader: \"x\\r\\ny\" is no name of a header"),
        (
            "SetHeader('Content-Length', 5)",
            "TypeError: response.SetHeader: header \"Content-Length\" belongs to the worker",
        ),
        (
            "SetHeader('transfer-encoding', 'chunked')",
            "TypeError: response.SetHeader: header \"transfer-encoding\" belongs to the worker",
        ),
        (
            "SetHeader('Connection', 'close')",
            "TypeError: response.SetHeader: header \"Connection\" belongs to the worker",
        ),
        (
            "SetStatus(101)",
            "RangeError: response.SetStatus: argument 1 must be a status from 200 to 599, not 101",
        ),
        (
            "SetStatus(600)",
            "RangeError: response.SetStatus: argument 1 must be a status from 200 to 599, not 600",
        ),
        (
            "SetStatus(200.5)",
            "RangeError: response.SetStatus: argument 1 must be a status from 200 to 599, not 200.5",
        ),
        (
            "Error('x', 200)",
            "RangeError: response.Error: argument 2 must be a status from 400 to 599, not 200",
        ),
    ] {
        check(&format!("response.{call}"), expected).await;
    }
}

#[tokio::test]
async fn an_error_fixes_the_answer() {
    check(
        "response.SetHeader('www-authenticate', 'Basic'); response.Write('lost'); response.Error('no', 401); \
         response.Write('late'); response.SetStatus(200); response.SetHeader('x', 'y'); response.SetContentType('a/b'); \
         response.Error('second', 500)",
        "401 [www-authenticate: Basic, content-type: text/plain; charset=utf-8] no",
    )
    .await;
    check("response.Error('<b>')", "500 [content-type: text/plain; charset=utf-8] <b>").await;
    check("response.Error('x', 404); throw new Error('later')", "Error: later").await;
}

#[tokio::test]
async fn a_request_is_told() {
    let all = "[request.Method, request.Path, request.Body, request.Query, request.Params]";
    check_body(
        &format!("response.Write({all})"),
        "[\"POST\",\"/a b/7\",\"bödy\",{\"x\":[\"1\",\"2\"],\"y\":[\"ü\"],\"__proto__\":[\"p\"]},{\"id\":\"7\"}]",
    )
    .await;
    check_body(
        "response.Write(['Host', 'COOKIE', 'x-many', 'X-Odd', 'none'].map(request.GetHeader).map(String))",
        "[\"host\",\"a=1; b=2\",\"one, two\",\"\u{fffd}\",\"undefined\"]",
    )
    .await;
    check_body("response.Write(request.Bytes())", "bödy").await;
    check_body("response.Write(request.Query === request.Query)", "true").await;
    check_body(
        "request.Query.x.push('3'); request.Body = 'mine'; response.Write([request.Query.x, request.Body])",
        "[[\"1\",\"2\",\"3\"],\"mine\"]",
    )
    .await;
    check("request.GetHeader()", "TypeError: request.GetHeader: argument 1 must be a string, not undefined")
        .await;
    let bad = PageRequest { body: vec![b'a', 0xff, b'b'].into(), ..PageRequest::default() };
    let page = script("response.Write([request.Body, [...request.Bytes()]])");
    let sent = answer_on(&one_lane(), page, bad).await.unwrap();
    assert_eq!(String::from_utf8(sent.body).unwrap(), "[\"a\u{fffd}b\",[97,255,98]]");
}

#[tokio::test]
async fn nothing_of_a_request_is_left_for_the_next() {
    let lanes = one_lane();
    let dirt = "var left = 1; globalThis.left = 1; Array.prototype.left = 1; request.Query.left = [1]; \
         setInterval(() => response.Write('late'), 1); response.SetHeader('left', '1'); new Promise(() => {})";
    for _ in 0..3 {
        assert!(answer_on(&lanes, script(dirt), request()).await.is_ok());
        let look = "response.Write([typeof left, [].left, request.Query.left]); sleep(5)";
        let seen = shown(answer_on(&lanes, script(look), PageRequest::default()).await);
        assert_eq!(seen, format!("200 [{HTML}] [\"undefined\",null,null]"));
    }
}

#[tokio::test]
async fn what_goes_wrong_ends_the_request() {
    for (code, expected) in [
        ("null.x", "TypeError: cannot read property 'x' of null"),
        ("throw 'text'", "uncaught text"),
        ("Promise.reject(new Error('left'))", "unhandled rejection: Error: left"),
        ("await Promise.reject(new Error('awaited'))", "Error: awaited"),
        ("setTimeout(() => { throw new Error('timer') }); await new Promise(() => {})", "Error: timer"),
        ("queueMicrotask(() => { throw new Error('task') })", "Error: task"),
    ] {
        check(code, expected).await;
    }
    assert_eq!(answer(script("await new Promise(() => {})")).await, Err(ScriptError::Unsettled));
    let error = answer(script("\n\nnull.x")).await.unwrap_err().to_string();
    assert!(error.contains("(/test:3:"), "{error}");
    assert_eq!(
        shown(answer(Page::script("/test", "1".into(), Limits::default())).await),
        "TypeError: the script is no page"
    );
    check("let x = ;", "SyntaxError: unexpected token in expression: ';'").await;
}

#[tokio::test]
async fn a_request_has_a_time_limit() {
    assert_eq!(script("").limits().call_timeout, Some(Duration::from_secs(30)));
    let limit = Duration::from_millis(50);
    let hasty = Limits { call_timeout: Some(limit), ..Limits::default() };
    for code in [
        "for (;;);",
        "for (;;) try { for (;;); } catch {}",
        "sleep(60000)",
        "setInterval(() => {}, 1); await new Promise(() => {})",
        "(async () => { for (;;) await null })()",
    ] {
        let page = Page::script("/test", format!("$=>async()=>{{{code}}}").into(), hasty);
        assert_eq!(answer(page).await, Err(ScriptError::Timeout(limit)), "{code}");
    }
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_is_interrupted() {
    let lanes = one_lane();
    let page = Arc::new(script("for (;;) try { sleep(60000) } catch {}"));
    let (handle, answered) = lanes.answer(&page, Fake::of(Kind::Endpoint), request());
    handle.interrupt();
    assert_eq!(answered.await.unwrap(), Err(ScriptError::Interrupted));
}

#[tokio::test]
async fn a_source_has_a_bounded_length() {
    let limits = Limits { source: 5, ..Limits::default() };
    let page = Page::script("/test", "$=>()=>{$(0,4)}".into(), limits).text("abcd");
    assert_eq!(answer(page.clone()).await.unwrap().body, b"abcd");
    assert_eq!(answer(page.text("abcdef")).await, Err(ScriptError::SourceTooLong(6, 5)));
    let page = Page::handler("/test", "export default 1".into(), limits);
    assert_eq!(answer(page).await, Err(ScriptError::SourceTooLong(16, 5)));
}

#[tokio::test]
async fn preloaded_libraries_come_before_a_page_and_see_no_request() {
    let library = crate::Library {
        name: "lib.js".into(),
        source: "var seen = typeof request + request.Method; var greet = (name) => 'hello ' + name".into(),
    };
    let lanes = Lanes::start(&LanesConfig {
        preload: vec![library].into(),
        count: 1,
        warm_bytes: LanesConfig::WARM_BYTES,
        preemption: Default::default(),
        worker: Fake::new(),
        env: EnvOverlay::default(),
        #[cfg(feature = "http")]
        http: None,
        #[cfg(feature = "redis")]
        redis: None,
        #[cfg(feature = "sql")]
        sql: None,
        on_turn: Arc::new(|_| {}),
    })
    .unwrap();
    let page = script("response.Write([seen, greet('you')])");
    let sent = answer_on(&lanes, page, request()).await.unwrap();
    assert_eq!(sent.body, b"[\"objectundefined\",\"hello you\"]");
}

#[test]
fn a_handler_is_a_module_with_a_default_export() {
    for source in [
        "export default function (request) { return 'x' }",
        "export default { fetch() {} }",
        "import x from './x.js'\nexport { x as default }",
        "const f = () => 'x'\nexport default f // last",
        "export * from './y.js'; export default 1",
        // Meant to be one: it is better to say what is wrong than to show it to everybody.
        "const secret = 's'\nexport default { fetch( {} }",
        "  import x from 'y'\nexport default async (r) => { await }",
    ] {
        assert!(is_handler(source), "{source}");
    }
    for source in [
        "",
        "plain text",
        "<p>export default</p>",
        "<pre>\nexport default function () {}\n</pre> <? x ?>",
        "// export default\nconst x = 1",
        "export const fetch = () => 'default'",
        "export * as x from './default.js'",
        "{\"export\": \"default\"}",
        "const x = 'export default 1'",
        "exporting\nexport defaults of",
    ] {
        assert!(!is_handler(source), "{source}");
    }
}

#[cfg(not(feature = "http"))]
#[tokio::test]
async fn a_handler_needs_http() {
    let page = Page::handler("/test", "export default () => 'x'".into(), Limits::default());
    let expected =
        "Error: this worker was built without HTTP for scripts, which handlers need: write a template";
    assert_eq!(shown(answer(page).await), expected);
}

#[cfg(feature = "http")]
mod handlers {
    use super::*;

    fn handler(module: &str) -> Page {
        Page::handler("/users/:id", module.into(), Limits::default())
    }

    async fn check(module: &str, expected: &str) {
        assert_eq!(shown(answer(handler(module)).await), expected, "{module}");
    }

    #[tokio::test]
    async fn a_handler_returns_its_answer() {
        for (returned, expected) in [
            ("'<b>'", format!("200 [{HTML}] <b>")),
            ("''", format!("200 [{HTML}] ")),
            ("new Uint8Array([104, 105])", "200 [content-type: application/octet-stream] hi".to_owned()),
            ("new Response('text')", "200 [content-type: text/plain;charset=UTF-8] text".to_owned()),
            ("new Response(new Uint8Array([104]))", "200 [] h".to_owned()),
            ("new Response(null, {status: 204})", "204 [] ".to_owned()),
            ("new Response()", "200 [] ".to_owned()),
            (
                "Response.json({a: 1}, {status: 201})",
                "201 [content-type: application/json] {\"a\":1}".to_owned(),
            ),
            ("Response.redirect('/ö?x#y', 303)", "303 [location: /%C3%B6?x#y] ".to_owned()),
            ("Response.redirect('https://elsewhere/x')", "302 [location: https://elsewhere/x] ".to_owned()),
            (
                "new Response('x', {headers: [['Set-Cookie', 'a=1'], ['set-cookie', 'b=2'], ['X-A', '1'], ['x-a', '2'], \
                 ['Connection', 'close'], ['Content-Length', '99'], ['content-type', 'a/b']]})",
                "200 [set-cookie: a=1, set-cookie: b=2, x-a: 1, x-a: 2, content-type: a/b] x".to_owned(),
            ),
            (
                "new (class Mine extends Response {})('x', {headers: {'content-type': 'a/b'}})",
                "200 [content-type: a/b] x".to_owned(),
            ),
        ] {
            for module in [
                format!("export default () => {returned}"),
                format!("export default async function (request) {{ await null; return {returned} }}"),
                format!("export default {{ async fetch() {{ return {returned} }} }}"),
                format!("export default {{ value: 1, fetch() {{ return this.value && ({returned}) }} }}"),
            ] {
                check(&module, &expected).await;
            }
        }
        let page = handler("export default () => 'x'").content_type("a/b");
        assert_eq!(shown(answer(page).await), "200 [content-type: a/b] x");
        let page = handler("export default () => new Uint8Array([104])").content_type("a/b");
        assert_eq!(shown(answer(page).await), "200 [content-type: a/b] h");
    }

    #[tokio::test]
    async fn a_handler_is_given_a_request() {
        let body = |code: &str| {
            format!("export default async (request) => Response.json(await (async () => {{ {code} }})())")
        };
        for (code, expected) in [
            ("return [request.method, request.url]", "[\"POST\",\"http://host/a%20b/7?x=1&x=2&y=%C3%BC\"]"),
            ("return [request.params, request.Params.id]", "[{\"id\":\"7\"},\"7\"]"),
            ("return await request.text()", "\"bödy\""),
            ("return [...await request.bytes()].length", "5"),
            ("return [request instanceof Request, request.bodyUsed]", "[true,false]"),
            ("await request.text(); return request.bodyUsed", "true"),
            (
                "return [...request.headers]",
                "[[\"content-length\",\"6\"],[\"cookie\",\"a=1, b=2\"],[\"host\",\"host\"],[\"x-many\",\"one, two\"],[\"x-odd\",\"\u{fffd}\"]]",
            ),
            ("return [request.headers.get('HOST'), request.headers === request.headers]", "[\"host\",true]"),
            (
                "const copy = request.clone(); return [await copy.text(), await request.text(), copy.params.id]",
                "[\"bödy\",\"bödy\",\"7\"]",
            ),
            ("return await new Request('http://other/', request.clone()).headers.get('host')", "\"host\""),
            ("return [...new URL(request.url).searchParams]", "[[\"x\",\"1\"],[\"x\",\"2\"],[\"y\",\"ü\"]]"),
            ("return request.signal.aborted", "false"),
            ("return globalThis.request.Method", "\"POST\""),
        ] {
            check(&body(code), &format!("200 [content-type: application/json] {expected}")).await;
        }
        let page = handler(&body("return [await request.clone().text(), [...await request.bytes()]]"));
        let bad = PageRequest {
            method: "PUT".into(),
            url: "http://h/".into(),
            body: vec![0, 255].into(),
            ..PageRequest::default()
        };
        let sent = answer_on(&one_lane(), page, bad).await.unwrap();
        assert_eq!(String::from_utf8(sent.body).unwrap(), "[\"\\u0000\u{fffd}\",[0,255]]");
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        for (module, expected) in [
            (
                "export default () => {}",
                "TypeError: the handler returned nothing: return a Response or a string, or write with response.Write",
            ),
            (
                "export default () => null",
                "TypeError: the handler returned nothing: return a Response or a string, or write with response.Write",
            ),
            (
                "export default () => ({a: 1})",
                "TypeError: the handler must return a Response, a string or a Uint8Array, not an object",
            ),
            (
                "export default () => 5",
                "TypeError: the handler must return a Response, a string or a Uint8Array, not 5",
            ),
            (
                "export default 5",
                "TypeError: the default export must be a function (request) or an object with fetch(request), not 5",
            ),
            (
                "export default { get: 1 }",
                "TypeError: the default export must be a function (request) or an object with fetch(request), not an object",
            ),
            (
                "export const x = 1",
                "TypeError: the default export must be a function (request) or an object with fetch(request), not undefined",
            ),
            (
                "export default () => Response.error()",
                "TypeError: the handler returned Response.error(), which is no answer",
            ),
            (
                "export default async () => { const r = new Response('x'); await r.text(); return r }",
                "TypeError: the handler returned a Response whose body has been used already",
            ),
            (
                "export default () => { response.Write('x'); return 'y' }",
                "TypeError: the handler returned its answer and had begun one with response: use one of both",
            ),
            ("export default () => { throw new RangeError('far') }", "RangeError: far"),
            ("export default async () => { await null; throw new Error('rejected') }", "Error: rejected"),
            (
                "export default () => { Promise.reject(new Error('left')); return 'x' }",
                "unhandled rejection: Error: left",
            ),
            ("throw new Error('at the top'); export default () => 'x'", "Error: at the top"),
            (
                "await new Promise(done => setTimeout(done, 1)); throw new Error('late'); export default 1",
                "Error: late",
            ),
            (
                "export default () => 'x'.repeat(11 << 20)",
                "RangeError: the handler: the answer is longer than its limit of 10485760 bytes (HttpBodyLimit of the endpoint, --http-body-limit of the worker)",
            ),
            ("export default {", "SyntaxError: invalid property name"),
        ] {
            check(module, expected).await;
        }
        let error = answer(handler("\nexport default () => {\n  null.x }")).await.unwrap_err().to_string();
        assert!(error.contains("(/users/:id:3:"), "{error}");
    }

    #[tokio::test]
    async fn a_handler_may_write_with_response_instead() {
        check(
            "export default () => { response.SetStatus(201); response.Write('x') }",
            &format!("201 [{HTML}] x"),
        )
        .await;
        check(
            "export default () => { response.Error('no', 403); return 'ignored' }",
            "403 [content-type: text/plain; charset=utf-8] no",
        )
        .await;
    }

    #[tokio::test]
    async fn a_handler_has_the_modules_of_its_bundle_and_runs_anew_each_time() {
        let lanes = one_lane();
        for file in [None, Some("dir/main.js".into())] {
            let folder = if file.is_some() { "dir/" } else { "" };
            let bundle = Bundle {
                file,
                modules: Arc::new(
                    [(format!("{folder}n.js"), "export let n = 0; export const next = () => ++n".into())]
                        .into(),
                ),
                ..Bundle::from(
                    "import { next } from './n.js'; let own = 0; export default () => `${next()} ${++own}`",
                )
            };
            let page = Page::handler("/n", bundle, Limits::default());
            for _ in 0..2 {
                assert_eq!(answer_on(&lanes, page.clone(), request()).await.unwrap().body, b"1 1");
            }
        }
    }
}
