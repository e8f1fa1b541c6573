//! `http`: answers, failures as results, wrong arguments.

use super::{Line, Within};

pub(super) const LINES: &[Line] = &[
    Line {
        names: &["http.Get", "http.Head"],
        within: Within::All,
        source: "",
        cases: &[
            (
                "http.Get('§/json')",
                "{ body: \"{\\\"a\\\": [1, 2]}\", \
                 headers: { \"Content-Length\": [\"13\"], \"Content-Type\": [\"application/json\"] }, status: 200 }",
            ),
            ("JSON.parse(http.Get('§/json').body).a[1]", "2"),
            ("http.Get('§/text').body", "grüße\u{0}!"),
            ("http.Get('§/text').bytes", "Uint8Array(9) [103, 114, 195, 188, 195, 159, 101, 0, 33]"),
            ("(({body, bytes}) => [body.length, bytes.length])(http.Get('§/text'))", "[7, 9]"),
            ("(r => r.bytes === r.bytes)(http.Get('§/text'))", "true"),
            ("(r => (r.body = 'x', r.bytes.length))(http.Get('§/text'))", "9"),
            ("(r => (r.bytes = 7, r.bytes))(http.Get('§/text'))", "7"),
            ("(r => 'bytes' in r && delete r.bytes && r.bytes === undefined)(http.Get('§/text'))", "true"),
            ("JSON.stringify(http.Get('§/bom').body)", "\"\u{feff}{\\\"a\\\": 1}\""),
            ("http.Get('§/latin').body", "gr\u{fffd}\u{fffd}e"),
            ("http.Get('§/latin').bytes", "Uint8Array(5) [103, 114, 252, 223, 101]"),
            ("http.Get('§/nowhere').status", "404"),
            ("http.Get('§/status/500').status", "500"),
            ("http.Get('§/status/204')", "{ body: \"\", headers: {}, status: 204 }"),
            (
                "http.Head('§/head')",
                "{ headers: { \"Content-Length\": [\"12345\"], \"X-A\": [\"b\"] }, status: 200 }",
            ),
            ("http.Head('§/echo').status", "200"),
            (
                "http.Get('§/headers').headers",
                "{ \"Content-Length\": [\"0\"], Etag: [\"\\\"x\\\"\"], \"X-Many\": [\"a\", \"b\"], \"Set-Cookie\": [\"c=1\", \"d=2\"], \
                 __proto__: [\"evil\"], \"X-Utf\": [\"gr\u{fffd}\u{fffd}e\"] }",
            ),
            ("Object.getPrototypeOf(http.Get('§/headers').headers) === Object.prototype", "true"),
            ("http.Get('§/gzip')", "{ body: \"unpacked\", headers: {}, status: 200 }"),
            ("http.Get('§/slow/5', {timeoutMs: 60000}).body", "slow"),
            (
                "http.Get('§/echo', {headers: {'X-One': 1, 'x-two': ['a', 'b']}}).body.match(/x-.*/g)",
                "[\"x-one: 1\", \"x-two: a\", \"x-two: b\"]",
            ),
            (
                "http.Get('not a url')",
                "{ error: \"\\\"not a url\\\" is no URL: relative URL without a base\", status: 0, body: \"\", headers: {} }",
            ),
            (
                "http.Head('not a url')",
                "{ error: \"\\\"not a url\\\" is no URL: relative URL without a base\", status: 0, body: \"\", headers: {} }",
            ),
            (
                "http.Get('http://169.254.169.254/').error",
                "169.254.169.254 is out of reach for scripts: a link-local address",
            ),
            ("http.Get('§/held', {timeoutMs: 20}).error", "timed out after 20 ms"),
            (
                "http.Get('§/echo', {headers: {'x-a\\0b': 1}})",
                "TypeError: http.Get: argument 2: \"x-a\\0b\" is no name of a header",
            ),
            (
                "http.Get('§/echo', {'headers\\0': {}})",
                "TypeError: http.Get: argument 2: \"headers\\0\" is no option; the options are headers and timeoutMs",
            ),
            ("http.Get()", "TypeError: http.Get: argument 1 must be a string, not undefined"),
            ("http.Get(7)", "TypeError: http.Get: argument 1 must be a string, not 7"),
            ("http.Head()", "TypeError: http.Head: argument 1 must be a string, not undefined"),
            ("http.Head({})", "TypeError: http.Head: argument 1 must be a string, not an object"),
        ],
    },
    Line {
        names: &["http.Delete", "http.Post", "http.Put", "http.Patch"],
        within: Within::All,
        source: "const sent = (answer) => { const lines = answer.body.split('\\n'); return [lines[0], lines.some(line => line.startsWith('content-type')), lines.at(-1)] };",
        cases: &[
            ("sent(http.Delete('§/echo'))", "[\"DELETE /echo HTTP/1.1\", false, \"\"]"),
            ("sent(http.Post('§/echo', 'grüße'))", "[\"POST /echo HTTP/1.1\", false, \"grüße\"]"),
            (
                "sent(http.Put('§/echo', new Uint8Array([104, 105])))",
                "[\"PUT /echo HTTP/1.1\", false, \"hi\"]",
            ),
            (
                "sent(http.Patch('§/echo', '{}', {headers: {'Content-Type': 'application/json'}}))",
                "[\"PATCH /echo HTTP/1.1\", true, \"{}\"]",
            ),
            (
                "http.Post('§/nowhere', '')",
                "{ body: \"no such path\", headers: { \"Content-Length\": [\"12\"] }, status: 404 }",
            ),
            (
                "['Delete', 'Post', 'Put', 'Patch'].map(call => http[call]('ftp://x/', '').status)",
                "TypeError: http.Delete: argument 2 must be an object such as {headers, timeoutMs}, not \"\"",
            ),
            (
                "['Post', 'Put', 'Patch'].map(call => http[call]('ftp://x/', '').error)",
                "[\"ftp://x is no http or https URL\", \"ftp://x is no http or https URL\", \"ftp://x is no http or https URL\"]",
            ),
            (
                "http.Delete('ftp://x/')",
                "{ error: \"ftp://x is no http or https URL\", status: 0, body: \"\", headers: {} }",
            ),
            ("http.Delete()", "TypeError: http.Delete: argument 1 must be a string, not undefined"),
            ("http.Post(null, '')", "TypeError: http.Post: argument 1 must be a string, not null"),
            ("http.Put(7, '')", "TypeError: http.Put: argument 1 must be a string, not 7"),
            ("http.Patch()", "TypeError: http.Patch: argument 1 must be a string, not undefined"),
            (
                "http.Post('§')",
                "TypeError: http.Post: argument 2 must be a string or Uint8Array, not undefined",
            ),
            (
                "http.Post('§', {})",
                "TypeError: http.Post: argument 2 must be a string or Uint8Array, not an object",
            ),
            ("http.Put('§', 5)", "TypeError: http.Put: argument 2 must be a string or Uint8Array, not 5"),
            (
                "http.Put('§', new Uint16Array(1))",
                "TypeError: http.Put: argument 2 must be a string or Uint8Array, not an object",
            ),
            (
                "http.Patch('§', null)",
                "TypeError: http.Patch: argument 2 must be a string or Uint8Array, not null",
            ),
        ],
    },
    Line {
        names: &["http.PostForm"],
        within: Within::All,
        source: "",
        cases: &[
            (
                "http.PostForm('§/echo', {a: 'x y', 'b&': ['1', 2, 3n], c: true, d: []}).body.split('\\n').at(-1)",
                "a=x+y&b%26=1&b%26=2&b%26=3&c=true",
            ),
            (
                "http.PostForm('§/echo', {'a\\0b': 1, '\\ud800': 2}).body.split('\\n').at(-1)",
                "a%00b=1&%EF%BF%BD=2",
            ),
            (
                "http.PostForm('§/echo', {}).body.match(/content-type.*/)[0]",
                "content-type: application/x-www-form-urlencoded",
            ),
            (
                "http.PostForm('ftp://x/', {})",
                "{ error: \"ftp://x is no http or https URL\", status: 0, body: \"\", headers: {} }",
            ),
            ("http.PostForm()", "TypeError: http.PostForm: argument 1 must be a string, not undefined"),
            (
                "http.PostForm('§')",
                "TypeError: http.PostForm: argument 2 must be an object of names and values, not undefined",
            ),
            (
                "http.PostForm('§', 'a=b')",
                "TypeError: http.PostForm: argument 2 must be an object of names and values, not \"a=b\"",
            ),
            (
                "http.PostForm('§', {a: {}})",
                "TypeError: http.PostForm: argument 2: field \"a\" must be a string, number, bigint, boolean or an array of these, not an object",
            ),
            (
                "http.PostForm('§', {a: ['x', null]})",
                "TypeError: http.PostForm: argument 2: field \"a\" must be a string, number, bigint, boolean or an array of these, not an array",
            ),
        ],
    },
];
