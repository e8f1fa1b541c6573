use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::*;

/// How long anything may take here before it is taken for stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that speaks RESP2 as it is on the wire.
struct Raw(TcpStream);

impl Raw {
    /// A connection that has not given the password.
    fn stranger(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn to(server: &Server) -> Self {
        let mut raw = Self::stranger(server);
        assert_eq!(raw.ask(&["AUTH", &server.password]), "+OK");
        raw
    }

    fn send(&mut self, words: &[&str]) {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            let _ = write!(request, "${}\r\n{word}\r\n", word.len());
        }
        self.0.write_all(request.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while !line.ends_with(b"\r\n") {
            self.0.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).unwrap()
    }

    /// A reply on one line: the parts of an array in brackets, texts without their length.
    fn reply(&mut self) -> String {
        let line = self.line();
        let (kind, rest) = line.split_at(1);
        match (kind, rest) {
            ("$" | "*", "-1") => "nil".to_owned(),
            ("$", length) => {
                let mut text = vec![0; length.parse::<usize>().unwrap() + 2];
                self.0.read_exact(&mut text).unwrap();
                text.truncate(text.len() - 2);
                String::from_utf8_lossy(&text).into_owned()
            }
            ("*", count) => {
                let parts: Vec<_> = (0..count.parse::<usize>().unwrap()).map(|_| self.reply()).collect();
                format!("[{}]", parts.join(" "))
            }
            _ => line,
        }
    }

    fn ask(&mut self, words: &[&str]) -> String {
        self.send(words);
        self.reply()
    }

    fn eval(&mut self, source: &str) -> String {
        self.ask(&["EVAL", source, "0"])
    }
}

#[test]
fn keys_expire_by_themselves() {
    let server = Server::start().unwrap();
    let mut raw = Raw::to(&server);
    assert_eq!(raw.ask(&["SET", "k", "v", "PX", "100"]), "+OK");
    assert_eq!(raw.ask(&["GET", "k"]), "v");
    while raw.ask(&["GET", "k"]) != "nil" {
        std::thread::sleep(TICK);
    }
}

#[test]
fn nothing_listens_after_the_end() {
    let server = Server::start().unwrap();
    let address = server.address();
    let mut raw = Raw::to(&server);
    raw.send(&["BLPOP", "list", "0"]);
    drop(server);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn nothing_is_done_before_the_password() {
    let server = Server::start().unwrap();
    let password = server.password.clone();
    assert_eq!(server.url(), format!("redis://:{password}@{}", server.address()));
    assert!(password.len() >= 32 && Server::start().unwrap().password != password);
    assert!(!format!("{server:?}").contains(&password));
    for command in [
        &["PING"][..],
        &["GET", "k"],
        &["SET", "k", "v"],
        &["EVAL", "return 1", "0"],
        &["SCRIPT", "LOAD", "return 1"],
        &["MULTI"],
        // The library itself lets these pass.
        &["BLPOP", "list", "1"],
        &["BRPOPLPUSH", "a", "b", "1"],
        &["XREAD", "BLOCK", "1000", "STREAMS", "s", "0"],
        &["SUBSCRIBE", "channel"],
        &["PSUBSCRIBE", "*"],
        &["UNSUBSCRIBE"],
        &["HELLO", "3"],
        &["NO-SUCH-COMMAND"],
    ] {
        let reply = Raw::stranger(&server).ask(command);
        assert!(reply.starts_with("-NOAUTH "), "{command:?}: {reply}");
    }
    let mut raw = Raw::stranger(&server);
    for wrong in
        [&["AUTH", "wrong"][..], &["AUTH", "default", ""], &["HELLO", "3", "AUTH", "default", "wrong"]]
    {
        let reply = raw.ask(wrong);
        assert!(reply.starts_with("-WRONGPASS "), "{wrong:?}: {reply}");
        assert!(raw.ask(&["PING"]).starts_with("-NOAUTH "));
    }
    assert_eq!(raw.ask(&["AUTH", "default", &password]), "+OK");
    assert_eq!(raw.ask(&["PING"]), "+PONG");
    let mut raw = Raw::stranger(&server);
    assert!(raw.ask(&["HELLO", "2", "AUTH", "default", &password]).contains("server miniredis"));
    assert_eq!(raw.ask(&["GET", "k"]), "nil");
}

#[test]
fn scripts_have_no_way_out() {
    let server = Server::start().unwrap();
    let mut raw = Raw::to(&server);
    for name in [
        "io",
        "package",
        "require",
        "module",
        "debug",
        "load",
        "loadstring",
        "loadfile",
        "dofile",
        "getfenv",
        "setfenv",
        "newproxy",
        "print",
        "jit",
        "ffi",
        "bit32",
        "utf8",
    ] {
        // Directly, through the tables that have all names, and where nothing can throw.
        for source in [
            format!("return type({name})"),
            format!("return type(_G.{name})"),
            format!("return type(_G['{name}'])"),
        ] {
            let reply = raw.eval(&source);
            assert!(reply.contains(&format!("nonexistent global variable '{name}'")), "{source}: {reply}");
        }
        assert_eq!(raw.eval(&format!("return type(rawget(_G, '{name}'))")), "nil", "{name}");
    }
    for (source, expected) in [
        ("return io.popen('id'):read('*a')", "nonexistent global variable 'io'"),
        ("return os.execute('id')", "attempt to call field 'execute'"),
        ("return os.getenv('PATH')", "attempt to call field 'getenv'"),
        ("return string.dump(function() end)", "attempt to call field 'dump'"),
        ("return ('').dump(function() end)", "attempt to call"),
        ("return getmetatable('').__index.dump(function() end)", "attempt to call"),
        ("return getmetatable(_G)", "nil"),
        ("setmetatable(_G, nil) return 1", "cannot change a protected metatable"),
        ("return _ENV", "nonexistent global variable '_ENV'"),
        ("local names = {} for name in pairs(_G) do names[#names + 1] = name end return #names", ":"),
        ("return coroutine.wrap(function() return io end)()", "nonexistent global variable 'io'"),
        ("return redis.call('EVAL', 'return 1', 0)", "not allowed from script"),
        ("return redis.call('SCRIPT', 'LOAD', 'return 1')", "not allowed from script"),
        ("return redis.call('FUNCTION', 'LOAD', 'x')", "Unknown Redis command"),
        ("return redis.call('CONFIG', 'SET', 'dir', '/')", "Unknown Redis command"),
        ("return redis.call('BLPOP', 'l', 0)", "not allowed from script"),
        ("\x1bLua", "-ERR Error compiling script"),
        ("#!lua name=x\nreturn 1", "-ERR Error compiling script"),
    ] {
        let reply = raw.eval(source);
        assert!(reply.contains(expected), "{source}: {reply}");
    }
    // What one script changes, the next does not find.
    let change = "string.format = nil; redis.call = nil; pcall = nil; getmetatable('').__index = nil; left = 1 return 1";
    assert_eq!(raw.eval(change), ":1");
    assert_eq!(raw.eval("return redis.call('SET', 'k', ('%d'):format(1))"), "+OK");
    assert!(raw.eval("return left").contains("nonexistent global variable 'left'"));
    // The same by digest and for reading only.
    let digest = raw.ask(&["SCRIPT", "LOAD", "return io.popen('id')"]);
    assert!(raw.ask(&["EVALSHA", &digest, "0"]).contains("nonexistent global variable 'io'"));
    assert!(raw.ask(&["EVAL_RO", "return os.exit()", "0"]).contains("attempt to call field 'exit'"));
    assert!(raw.ask(&["FUNCTION", "LIST"]).starts_with("-ERR unknown command"));
    assert_eq!(raw.ask(&["PING"]), "+PONG");
}

#[test]
fn a_script_without_end_is_ended_whatever_it_tries() {
    let server = Server::start().unwrap();
    let mut raw = Raw::to(&server);
    let deep = "local function deep(n) while true do local co = coroutine.create(deep) \
                coroutine.resume(co, n + 1) if n > 50 then while true do end end end end deep(0)";
    for source in [
        "while true do end",
        "repeat until false",
        "for i = 1, 1e300 do end",
        "local function f() return f() end f()",
        "while true do pcall(function() while true do end end) end",
        "local function f() pcall(f) while true do end end while true do pcall(f) end",
        "while true do xpcall(function() while true do end end, function() while true do end end) end",
        "while true do pcall(pcall, pcall, function() while true do end end) end",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
        "while true do coroutine.wrap(function() pcall(function() while true do end end) end)() end",
        deep,
        "while true do redis.pcall('GET', 'k') end",
        "local s = ('x'):rep(1e7) while true do s:upper() end",
        "while true do table.sort({3, 2, 1}, function(a, b) return a < b end) end",
        "setmetatable({}, {__index = function(t, k) while true do end end}).x = nil \
         return setmetatable({}, {__index = function(t, k) while true do end end}).x",
        // One call of the library each.
        "return ('a'):rep(40):find(('.-'):rep(40) .. 'b')",
        "return ('a'):rep(1000):match(('a*'):rep(30) .. 'b')",
        "return ('a'):rep(1000):gsub(('a-'):rep(30) .. 'b', '')",
        "for _ in ('a'):rep(1000):gmatch(('a*'):rep(30) .. 'b') do end",
        "while true do pcall(string.find, ('a'):rep(40), ('.-'):rep(40) .. 'b') end",
        "return ('a'):rep(1000):gsub('a', function() while true do end end)",
    ] {
        let reply = raw.eval(source);
        assert!(
            reply.starts_with("-ERR script killed: it used more than 500 ms of CPU time"),
            "{source}: {reply}"
        );
        assert_eq!(raw.ask(&["PING"]), "+PONG");
    }
    // What is large is an error too, and costs nobody else.
    for source in [
        "local t = {} while true do t[#t + 1] = ('x'):rep(1e6) .. #t end",
        "return ('x'):rep(1e9)",
        "return ('a'):rep(1e5):find(('a?'):rep(1e5))",
        "local t = {} t[1] = t return t",
        "local t = {} for i = 1, 60 do t = {t, t} end return t",
        "local t = {} t.t = t return cjson.encode(t)",
        "local function f() return 1 + f() end return f()",
        "return cjson.decode(('['):rep(1e5))",
        "return {unpack({}, 1, 1e7)}",
    ] {
        let reply = raw.eval(source);
        assert!(reply.starts_with('-'), "{source}: {}", &reply[..reply.len().min(200)]);
        assert_eq!(raw.ask(&["PING"]), "+PONG");
    }
}

#[test]
fn others_are_answered_while_a_script_is_ended_and_after_it() {
    let server = Server::start().unwrap();
    let mut endless = Raw::to(&server);
    let mut other = Raw::to(&server);
    endless.send(&["EVAL", "while true do end", "0"]);
    let sent = Instant::now();
    assert_eq!(other.ask(&["SET", "k", "v"]), "+OK");
    assert!(endless.reply().starts_with("-ERR script killed"));
    assert!(sent.elapsed() < PATIENCE);
    assert_eq!(endless.ask(&["GET", "k"]), "v");
}

#[test]
fn scripts_work_as_in_redis() {
    let server = Server::start().unwrap();
    let mut raw = Raw::to(&server);
    for (source, expected) in [
        ("return 1", ":1"),
        ("return 1.9", ":1"),
        ("return true", ":1"),
        ("return false", "nil"),
        ("return nil", "nil"),
        ("return 'text'", "text"),
        ("return {1, 'two', {3}, nil, 5}", "[:1 two [:3]]"),
        ("return {ok = 'FINE'}", "+FINE"),
        ("return {err = 'MY fault'}", "-MY fault"),
        ("return redis.error_reply('STALE data')", "-STALE data"),
        ("return redis.error_reply('x')", "-ERR x"),
        ("return redis.status_reply('ok')", "+ok"),
        ("return redis.call('SET', 'k', 5)", "+OK"),
        ("return redis.call('INCRBY', 'k', 10.0) + 1", ":16"),
        ("return redis.call('GET', 'none')", "nil"),
        ("return redis.call('HSET', 'h', 'a', 1, 'b', 2)", ":2"),
        ("return redis.call('HGETALL', 'h')", "[a 1 b 2]"),
        (
            "return redis.call('LPUSH', 'k', 1)",
            "-WRONGTYPE Operation against a key holding the wrong kind of value",
        ),
        ("return redis.pcall('LPUSH', 'k', 1).err:sub(1, 9)", "WRONGTYPE"),
        ("return select(2, pcall(redis.call, 'NOPE')) ~= nil", ":1"),
        ("return redis.sha1hex('')", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        ("return cjson.encode({1, 'a', {b = true}})", r#"[1,"a",{"b":true}]"#),
        ("return cjson.decode('{\"a\": [1, null, 2.5]}').a[3] * 2", ":5"),
        ("return cjson.decode('[null]')[1] == cjson.null", ":1"),
        ("return type(os.clock())", "number"),
        ("return {pcall(error, 'mine')}", "[nil mine]"),
        ("return {pcall(error, {code = 7})}", "[nil []]"),
        ("return {xpcall(function() error('a', 0) end, function(e) return e .. 'b' end)}", "[nil ab]"),
        (
            "local co = coroutine.create(function(a) return a + coroutine.yield(a) end) \
          return {select(2, coroutine.resume(co, 1)), select(2, coroutine.resume(co, 2))}",
            "[:1 :3]",
        ),
        ("error('plain')", "-ERR user_script:1: plain"),
        ("return collectgarbage('count') > 0", ":1"),
    ] {
        assert_eq!(raw.eval(source), expected, "{source}");
    }
    assert_eq!(raw.ask(&["EVAL", "return {KEYS[1], ARGV[1], #KEYS, #ARGV}", "1", "a", "b"]), "[a b :1 :1]");
    assert_eq!(
        raw.ask(&["EVAL_RO", "return redis.call('SET', 'k', 1)", "0"]),
        "-ERR Write commands are not allowed from read-only scripts."
    );
    let digest = raw.ask(&["SCRIPT", "LOAD", "return 'loaded'"]);
    assert_eq!(raw.ask(&["EVALSHA", &digest.to_uppercase(), "0"]), "loaded");
    assert_eq!(raw.ask(&["SCRIPT", "EXISTS", &digest, "0"]), "[:1 :0]");
    assert_eq!(raw.ask(&["SCRIPT", "FLUSH"]), "+OK");
    assert!(raw.ask(&["EVALSHA", &digest, "0"]).starts_with("-NOSCRIPT "));
    // EVAL remembers what it ran.
    raw.eval("return 'loaded'");
    assert_eq!(raw.ask(&["EVALSHA", &digest, "0"]), "loaded");
}

#[test]
fn patterns_are_those_of_lua() {
    let server = Server::start().unwrap();
    let mut raw = Raw::to(&server);
    for (source, expected) in [
        ("return {('hello world'):find('o w')}", "[:5 :7]"),
        ("return {('a.b'):find('.', 1, true)}", "[:2 :2]"),
        ("return {('a.b'):find('.', 10)}", "[]"),
        ("return {('abc'):find('')}", "[:1 :0]"),
        ("return {('abc'):find('b', -2)}", "[:2 :2]"),
        ("return {('k = v'):find('(%w+)%s*=%s*(%w+)')}", "[:1 :5 k v]"),
        ("return {('2024-05-06'):match('^(%d+)-(%d+)-(%d+)$')}", "[2024 05 06]"),
        ("return {('abc'):match('()b()')}", "[:2 :3]"),
        ("return {('f(a(b)c)d'):match('%b()')}", "[(a(b)c)]"),
        ("return {('THE (quick) fox'):find('%f[%a]%a+%f[%A]')}", "[:1 :3]"),
        ("return {('[[x]]'):match('[]]+')}", "[]]]"),
        ("return {('a-b_c'):match('[%w_-]+')}", "[a-b_c]"),
        ("return {('xyz'):match('[^x-y]')}", "[z]"),
        ("return {('aaa'):match('a-b')}", "[]"),
        ("return {('<<a>>'):match('<(.-)>')}", "[<a]"),
        ("return {('\"hi\" \\'x\\''):match('([\"\\'])(.-)%1')}", "[\" hi]"),
        (
            "local t = {} for k, v in ('a=1,b=2'):gmatch('(%w)=(%w)') do t[#t + 1] = k .. v end return t",
            "[a1 b2]",
        ),
        ("local n = 0 for _ in ('abc'):gmatch('') do n = n + 1 end return n", ":4"),
        ("return {('hello'):gsub('l', 'L')}", "[heLLo :2]"),
        ("return {('hello'):gsub('l', 'L', 1)}", "[heLlo :1]"),
        ("return {('abc'):gsub('', '-')}", "[-a-b-c- :4]"),
        ("return {('abc def'):gsub('(%w)(%w*)', '%2%1%%')}", "[bca% efd% :2]"),
        ("return {('abc'):gsub('%w', '%0%0')}", "[aabbcc :3]"),
        ("return {('abc'):gsub('%w', {a = '1', b = false})}", "[1bc :3]"),
        ("return {('abc'):gsub('%w', function(c) if c == 'b' then return 7 end end)}", "[a7c :3]"),
        ("return {('abc abc'):gsub('^abc', 'x')}", "[x abc :1]"),
        ("return {('a,b,,c'):gsub(',', ';')}", "[a;b;;c :3]"),
        ("return {('x'):rep(3):gsub('x*', 'y')}", "[yy :2]"),
    ] {
        assert_eq!(raw.eval(source), expected, "{source}");
    }
    for (source, expected) in [
        ("return ('a'):find('[a')", "malformed pattern (missing ']')"),
        ("return ('a'):find('%')", "malformed pattern (ends with '%')"),
        ("return ('a'):find('(a')", "unfinished capture"),
        ("return ('a'):match('a)')", "invalid pattern capture"),
        ("return ('a'):find('%1')", "invalid capture index"),
        ("return ('a'):gsub('a', '%2')", "invalid capture index"),
        ("return ('a'):gsub('a', {a = {}})", "invalid replacement value (a table)"),
        ("return ('a'):find(('('):rep(40))", "too many captures"),
    ] {
        let reply = raw.eval(source);
        assert!(reply.contains(expected), "{source}: {reply}");
    }
}

#[test]
fn who_waits_is_served_in_time() {
    let server = Server::start().unwrap();
    let (mut waiter, mut other) = (Raw::to(&server), Raw::to(&server));
    assert_eq!(waiter.ask(&["BLPOP", "a", "b", "0.01"]), "nil");
    other.ask(&["RPUSH", "b", "first"]);
    assert_eq!(waiter.ask(&["BLPOP", "a", "b", "0"]), "[b first]");
    waiter.send(&["BRPOP", "a", "0"]);
    assert_eq!(other.ask(&["EVAL", "return redis.call('LPUSH', KEYS[1], 'x')", "1", "a"]), ":1");
    assert_eq!(waiter.reply(), "[a x]");
    waiter.send(&["BLMOVE", "a", "b", "LEFT", "RIGHT", "0"]);
    other.ask(&["LPUSH", "a", "y"]);
    assert_eq!(waiter.reply(), "y");
    assert_eq!(waiter.ask(&["BRPOPLPUSH", "b", "c", "1"]), "y");
    waiter.send(&["XREAD", "BLOCK", "0", "STREAMS", "s", "0"]);
    // Sent behind a command that waits, and answered after it.
    waiter.send(&["PING"]);
    other.ask(&["XADD", "s", "1-1", "f", "v"]);
    assert_eq!(waiter.reply(), "[[s [[1-1 [f v]]]]]");
    assert_eq!(waiter.reply(), "+PONG");
    for (wrong, expected) in [
        (&["BLPOP", "a", "x"][..], "-ERR timeout is not a float"),
        (&["BLPOP", "a", "-1"], "-ERR timeout is negative"),
        (&["BLPOP", "a", "1e300"], "-ERR timeout is out of range"),
        (&["BLPOP", "1"], "-ERR wrong number"),
        (&["BLPOP", "s", "1"], "-WRONGTYPE"),
    ] {
        let reply = waiter.ask(wrong);
        assert!(reply.starts_with(expected), "{wrong:?}: {reply}");
    }
    // One who has gone takes nothing with it.
    let mut gone = Raw::to(&server);
    gone.send(&["BLPOP", "q", "0"]);
    drop(gone);
    std::thread::sleep(TICK);
    other.ask(&["RPUSH", "q", "kept"]);
    assert_eq!(other.ask(&["LPOP", "q"]), "kept");
}

#[test]
fn what_is_published_comes_to_who_has_subscribed() {
    let server = Server::start().unwrap();
    let (mut listener, mut other) = (Raw::to(&server), Raw::to(&server));
    assert_eq!(listener.ask(&["SUBSCRIBE", "c"]), "[subscribe c :1]");
    assert_eq!(listener.ask(&["PSUBSCRIBE", "d*"]), "[psubscribe d* :2]");
    assert!(listener.ask(&["GET", "k"]).starts_with("-ERR Can't execute 'get'"));
    assert_eq!(other.ask(&["PUBLISH", "c", "one"]), ":1");
    assert_eq!(listener.reply(), "[message c one]");
    assert_eq!(other.ask(&["EVAL", "return redis.call('PUBLISH', 'd1', 'two')", "0"]), ":1");
    assert_eq!(listener.reply(), "[pmessage d* d1 two]");
    assert_eq!(listener.ask(&["UNSUBSCRIBE"]), "[unsubscribe c :1]");
    assert_eq!(listener.ask(&["PUNSUBSCRIBE", "d*"]), "[punsubscribe d* :0]");
    assert_eq!(listener.ask(&["GET", "k"]), "nil");
}
