//! Names of the web: what each is for, and what it says of wrong arguments. The standards' finer points are tested beside
//! `web.rs` and `fetch.rs`.

use super::{Line, Within};

pub(super) const LINES: &[Line] = &[
    Line {
        names: &["URL"],
        within: Within::All,
        source: "",
        cases: &[
            ("new URL('../c?d=e#f', 'HTTPS://Example.org:443/a/b')", "URL https://example.org/c?d=e#f"),
            (
                "(u => [u.protocol, u.username, u.password, u.hostname, u.port, u.pathname, u.search, u.hash])(new URL('http://me:pw@h:81/p?q#f'))",
                "[\"http:\", \"me\", \"pw\", \"h\", \"81\", \"/p\", \"?q\", \"#f\"]",
            ),
            (
                "(u => (u.searchParams.set('a', 'ä'), u.hash = 'x', u.href))(new URL('http://h/'))",
                "http://h/?a=%C3%A4#x",
            ),
            ("[URL.canParse('http://h'), URL.canParse('h'), URL.parse('h')]", "[true, false, null]"),
            ("new URL()", "TypeError: URL: argument 1 is missing"),
            ("new URL('h')", "TypeError: URL: \"h\" is not a valid URL"),
            (
                "new URL('//x', 'mailto:a')",
                "TypeError: URL: \"//x\" is not a valid URL, relative to \"mailto:a\"",
            ),
            ("new URL('a:b').href = '::'", "TypeError: URL.href: \"::\" is not a valid URL"),
        ],
    },
    Line {
        names: &["URLSearchParams"],
        within: Within::All,
        source: "",
        cases: &[
            ("new URLSearchParams({a: 'x y', b: '&'})", "URLSearchParams a=x+y&b=%26"),
            ("[...new URLSearchParams('?a=1&b=2&a=3')]", "[[\"a\", \"1\"], [\"b\", \"2\"], [\"a\", \"3\"]]"),
            (
                "(p => [p.get('a'), p.getAll('a'), p.has('c'), p.get('c'), p.size])(new URLSearchParams('a=1&a=2'))",
                "[\"1\", [\"1\", \"2\"], false, null, 2]",
            ),
            (
                "(p => (p.append('b', 2), p.set('a', 5), p.delete('c'), p.sort(), `${p}`))(new URLSearchParams('c=0&a=1'))",
                "a=5&b=2",
            ),
            ("new URLSearchParams().append('a')", "TypeError: URLSearchParams.append: argument 2 is missing"),
            (
                "new URLSearchParams([[1]])",
                "TypeError: URLSearchParams: argument 1 has an item that is no pair of a name and a value",
            ),
        ],
    },
    Line {
        names: &["TextEncoder", "TextDecoder"],
        within: Within::All,
        source: "",
        cases: &[
            ("new TextEncoder().encode('ä\\ud800')", "Uint8Array(5) [195, 164, 239, 191, 189]"),
            (
                "(bytes => [new TextEncoder().encodeInto('aäb', bytes), bytes])(new Uint8Array(2))",
                "[{ read: 1, written: 1 }, Uint8Array(2) [97, 0]]",
            ),
            ("new TextDecoder().decode(new Uint8Array([0xef, 0xbb, 0xbf, 195, 164, 255]))", "ä\u{fffd}"),
            ("new TextDecoder('windows-1252').decode(new Uint8Array([228, 128]))", "ä€"),
            (
                "(d => [d.encoding, d.fatal, d.ignoreBOM])(new TextDecoder('latin1'))",
                "[\"windows-1252\", false, false]",
            ),
            (
                "(d => d.decode(new Uint8Array([195]), {stream: true}) + d.decode(new Uint8Array([164])))(new TextDecoder())",
                "ä",
            ),
            ("new TextDecoder('x')", "RangeError: TextDecoder: \"x\" is not a known encoding"),
            (
                "new TextDecoder('utf-8', {fatal: true}).decode(new Uint8Array([255]))",
                "TypeError: TextDecoder.decode: the bytes are not valid utf-8",
            ),
            (
                "new TextDecoder().decode('x')",
                "TypeError: TextDecoder.decode: argument 1 must be an ArrayBuffer or a view of one",
            ),
            (
                "new TextEncoder().encodeInto('x', 1)",
                "TypeError: TextEncoder.encodeInto: argument 2 must be a Uint8Array",
            ),
        ],
    },
    Line {
        names: &["atob", "btoa"],
        within: Within::All,
        source: "",
        cases: &[
            (
                "[btoa('gr\\u00fcn'), atob('Z3L8bg==') === 'gr\\u00fcn', atob(' Z3L8bg ').length]",
                "[\"Z3L8bg==\", true, 4]",
            ),
            ("atob()", "TypeError: atob: argument 1 must be a string, not undefined"),
            ("btoa()", "TypeError: btoa: argument 1 must be a string, not undefined"),
            ("atob('!')", "InvalidCharacterError: atob: argument 1 is not correctly encoded base64"),
            (
                "btoa('€')",
                "InvalidCharacterError: btoa: argument 1 has a character above U+00FF: encode it first, with TextEncoder for instance",
            ),
        ],
    },
    Line {
        names: &["crypto.getRandomValues", "crypto.randomUUID"],
        within: Within::All,
        source: "",
        cases: &[
            (
                "/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID())",
                "true",
            ),
            ("crypto.randomUUID() === crypto.randomUUID()", "false"),
            (
                "(a => [crypto.getRandomValues(a) === a, a.some(n => n > 0)])(new Uint32Array(64))",
                "[true, true]",
            ),
            (
                "crypto.getRandomValues([])",
                "TypeError: crypto.getRandomValues: argument 1 must be a typed array of integers",
            ),
            (
                "crypto.getRandomValues(new Float64Array(1))",
                "TypeMismatchError: crypto.getRandomValues: argument 1 must be a typed array of integers",
            ),
            (
                "crypto.getRandomValues(new Uint8Array(65537))",
                "QuotaExceededError: crypto.getRandomValues: at most 65536 bytes are given at once, not 65537",
            ),
        ],
    },
    Line {
        names: &["performance.now", "performance.timeOrigin"],
        within: Within::All,
        source: "",
        cases: &[
            ("(before => (sleep(5), performance.now() - before >= 5))(performance.now())", "true"),
            (
                "performance.now() < 600000 && Math.abs(performance.timeOrigin + performance.now() - Date.now()) < 600000",
                "true",
            ),
        ],
    },
    Line {
        names: &["Event", "CustomEvent", "EventTarget"],
        within: Within::All,
        source: "const target = new EventTarget(), seen = [];",
        cases: &[
            (
                "(target.addEventListener('x', e => (seen.push(e.type, e.detail, e.target === target), e.preventDefault()), {once: true}), \
                 [target.dispatchEvent(new CustomEvent('x', {detail: 7, cancelable: true})), target.dispatchEvent(new Event('x')), seen])",
                "[false, true, [\"x\", 7, true]]",
            ),
            (
                "(f => (target.addEventListener('x', f), target.removeEventListener('x', f), target.dispatchEvent(new Event('x')), seen))(e => seen.push(e))",
                "[]",
            ),
            (
                "(target.addEventListener('x', () => { throw new RangeError('mine') }), target.dispatchEvent(new Event('x')))",
                "RangeError: mine",
            ),
            ("new Event()", "TypeError: Event: argument 1 is missing"),
            ("new CustomEvent()", "TypeError: CustomEvent: argument 1 is missing"),
            (
                "target.addEventListener('x')",
                "TypeError: EventTarget.addEventListener: argument 2 is missing",
            ),
            (
                "target.addEventListener('x', 5)",
                "TypeError: EventTarget.addEventListener: argument 2 must be a function or an object",
            ),
            ("target.dispatchEvent({})", "TypeError: EventTarget.dispatchEvent: argument 1 must be an Event"),
        ],
    },
    Line {
        names: &["AbortController", "AbortSignal"],
        within: Within::All,
        source: "const stop = new AbortController(), seen = [];",
        cases: &[
            (
                "(stop.signal.onabort = e => seen.push(e.type), stop.abort(), stop.abort(), [stop.signal.aborted, stop.signal.reason.name, seen])",
                "[true, \"AbortError\", [\"abort\"]]",
            ),
            (
                "(any => (stop.abort(7), [any.aborted, any.reason]))(AbortSignal.any([AbortSignal.timeout(1e9), stop.signal]))",
                "[true, 7]",
            ),
            (
                "new Promise(r => { const s = AbortSignal.timeout(1); s.onabort = () => r(s.reason.name) })",
                "TimeoutError",
            ),
            ("AbortSignal.abort().throwIfAborted()", "AbortError: The operation was aborted"),
            (
                "new AbortSignal()",
                "TypeError: AbortSignal: use AbortController, or AbortSignal.abort, timeout or any",
            ),
            (
                "AbortSignal.timeout('x')",
                "TypeError: AbortSignal.timeout: argument 1 must be a number of milliseconds",
            ),
            ("AbortSignal.any([1])", "TypeError: AbortSignal.any: argument 1 must be a list of AbortSignals"),
        ],
    },
    Line {
        names: &["DOMException"],
        within: Within::All,
        source: "",
        cases: &[
            (
                "(e => [e.name, e.message, e.code, e instanceof Error])(new DOMException('no', 'AbortError'))",
                "[\"AbortError\", \"no\", 20, true]",
            ),
            ("(() => { throw new DOMException('no', 'DataError') })()", "DataError: no"),
        ],
    },
    Line {
        names: &["fetch", "Request", "Response", "Headers"],
        within: Within::All,
        source: "",
        cases: &[
            (
                "fetch('§/json').then(async r => [r.status, r.ok, r.headers.get('content-type'), await r.json()])",
                "[200, true, \"application/json\", { a: [1, 2] }]",
            ),
            ("fetch(new URL('/latin', '§')).then(r => r.bytes())", "Uint8Array(5) [103, 114, 252, 223, 101]"),
            (
                "fetch(new Request('§/echo', {method: 'POST', body: 'hi', headers: new Headers({'X-A': 1})})).then(r => r.text()).then(t => [t.split(' ')[0], t.includes('x-a: 1'), t.slice(-3)])",
                "[\"POST\", true, \"\\nhi\"]",
            ),
            ("fetch('§/status/404').then(r => [r.ok, r.status])", "[false, 404]"),
            ("fetch('§/held', {signal: AbortSignal.timeout(20)}).catch(e => e.name)", "TimeoutError"),
            ("fetch('§/held', {timeoutMs: 20})", "TypeError: fetch: timed out after 20 ms"),
            (
                "fetch('http://169.254.169.254/')",
                "TypeError: fetch: 169.254.169.254 is out of reach for scripts: a link-local address",
            ),
            ("fetch('/x')", "TypeError: fetch: \"/x\" is no URL: relative URL without a base"),
            ("fetch('§', {method: 'GET', body: 'x'})", "TypeError: Request: a GET request has no body"),
            ("new Request('§', {method: 'a b'})", "TypeError: Request: \"a b\" is no method"),
            ("new Request('§', {signal: {}})", "TypeError: Request: signal must be an AbortSignal"),
            ("new Headers(7)", "TypeError: Headers: argument 1 must be an object or an array of pairs"),
            ("new Headers({'a b': 1})", "TypeError: Headers.append: \"a b\" is no name of a header"),
            ("[...new Headers([['B', 1], ['a', 2], ['b', ' 3 ']])]", "[[\"a\", \"2\"], [\"b\", \"1, 3\"]]"),
            ("Response.json({a: 1}, {status: 201}).json()", "{ a: 1 }"),
            (
                "new Response('x', {status: 99})",
                "RangeError: Response: status must be from 200 to 599, not 99",
            ),
            ("Response.json(undefined)", "TypeError: Response.json: argument 1 cannot be written as JSON"),
        ],
    },
];
