//! `EVAL`, `EVALSHA`, `EVAL_RO`, `EVALSHA_RO` and `SCRIPT`: Lua that reaches the data, and nothing else.
//!
//! Each call has an interpreter of its own, so no script can change what another one finds. In it:
//!
//! - The libraries are those of the language itself, `string`, `table`, `math` and `coroutine`, and of Redis `redis`, `cjson`
//!   and `os.clock`. `io`, `os`, `package` and `debug` are never loaded, and of the global names only those of [`GLOBALS`]
//!   stay: `load`, `loadstring`, `dofile`, `require`, `getfenv` … do not exist. `string.dump` does not either, and compiled
//!   Lua is not accepted, since a forged one can break out of the interpreter.
//! - A script that has used [`CPU_TIME_MAX`] of the CPU is ended by an error that it cannot catch ([`PRELUDE`]). CPU time and
//!   not wall time, so that no script pays for a machine that is busy or was suspended. Lua's own pattern matching, which
//!   can take for ever in one call, is replaced ([`pattern`]).
//! - Memory is limited to [`MEMORY_MAX`], and what a script returns in depth and size ([`value`]).

mod pattern;
mod value;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use encore_miniredis::connection::ConnCtx;
use encore_miniredis::db::SharedState;
use encore_miniredis::dispatch::{
    CommandTable, MSG_INVALID_INT, MSG_INVALID_KEYS_NUMBER, MSG_NEGATIVE_KEYS_NUMBER, MSG_NO_SCRIPT_FOUND,
    err_wrong_number,
};
use encore_miniredis::frame::Frame;
use mlua::{ChunkMode, Function, HookTriggers, Lua, LuaOptions, MultiValue, StdLib, Table, Value, VmState};
use rustix::time::{ClockId, clock_gettime};
use sha1::{Digest, Sha1};

/// CPU time that one script may use. Scripts of workers use a thousandth of it.
pub(crate) const CPU_TIME_MAX: Duration = Duration::from_millis(500);
/// Memory of one script's interpreter.
const MEMORY_MAX: usize = 64 << 20;
/// Instructions between two looks at the CPU time. Few, since one instruction may be a call that copies megabytes.
const INSTRUCTIONS_PER_CHECK: u32 = 100;
/// What a script that was ended is answered with.
const ENDED: &str =
    "ERR script killed: it used more than 500 ms of CPU time, the limit of the embedded redis";

/// The global names that scripts have, of those of the language.
const GLOBALS: [&str; 25] = [
    "_G",
    "_VERSION",
    "assert",
    "collectgarbage",
    "coroutine",
    "error",
    "getmetatable",
    "ipairs",
    "math",
    "next",
    "pairs",
    "pcall",
    "rawequal",
    "rawget",
    "rawlen",
    "rawset",
    "select",
    "setmetatable",
    "string",
    "table",
    "tonumber",
    "tostring",
    "type",
    "unpack",
    "xpcall",
];

/// Makes everything that catches errors throw on the one that ends the script. Otherwise a script could catch it in a loop.
/// `xpcall` calls its handler after the error and not during it: a handler that runs during the error of the hook runs with
/// hooks off, and nothing could end it.
/// What stands in these functions' scope cannot be reached by the script: there is no `debug` and no `getfenv`.
const PRELUDE: &str = r#"
local has_ended, ended, error, pcall, resume = ...
local function check(ok, ...)
  if not ok and has_ended() then error(ended, 0) end
  return ok, ...
end
local function handle(handler, ok, ...)
  if ok then return ok, ... end
  local _, handled = check(pcall(handler, ...))
  return false, handled
end
_G.pcall = function(...) return check(pcall(...)) end
_G.xpcall = function(f, handler) return handle(handler, check(pcall(f))) end
coroutine.resume = function(...) return check(resume(...)) end
"#;

/// Commands that scripts may not call: they change the connection, or run scripts.
const NOT_IN_SCRIPTS: [&str; 21] = [
    "AUTH",
    "BLMOVE",
    "BLPOP",
    "BRPOP",
    "BRPOPLPUSH",
    "DISCARD",
    "EVAL",
    "EVALSHA",
    "EVALSHA_RO",
    "EVAL_RO",
    "EXEC",
    "HELLO",
    "MULTI",
    "PSUBSCRIBE",
    "PUNSUBSCRIBE",
    "QUIT",
    "SCRIPT",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "UNWATCH",
    "WATCH",
];

/// Puts our commands in place of those of the library.
pub(crate) fn register(table: &mut CommandTable) {
    table.add("EVAL", |state, context, args| eval(state, context, args, false), false, -3);
    table.add("EVAL_RO", |state, context, args| eval(state, context, args, true), true, -3);
    table.add("EVALSHA", |state, context, args| evalsha(state, context, args, false), false, -3);
    table.add("EVALSHA_RO", |state, context, args| evalsha(state, context, args, true), true, -3);
    table.add("SCRIPT", script, false, -2);
}

fn eval(state: &Arc<SharedState>, context: &mut ConnCtx, args: &[Vec<u8>], is_read_only: bool) -> Frame {
    let [source, args @ ..] = args else { return Frame::error(err_wrong_number("eval")) };
    let call = Call { state, context, source: &String::from_utf8_lossy(source), is_read_only };
    call.run(args).unwrap_or_else(Frame::Error)
}

fn evalsha(state: &Arc<SharedState>, context: &mut ConnCtx, args: &[Vec<u8>], is_read_only: bool) -> Frame {
    let [digest, args @ ..] = args else { return Frame::error(err_wrong_number("evalsha")) };
    let digest = String::from_utf8_lossy(digest).to_lowercase();
    let known = state.lock().scripts.get(&digest).cloned();
    let Some(source) = known else { return Frame::error(MSG_NO_SCRIPT_FOUND) };
    Call { state, context, source: &source, is_read_only }.run(args).unwrap_or_else(Frame::Error)
}

fn script(state: &Arc<SharedState>, _: &mut ConnCtx, args: &[Vec<u8>]) -> Frame {
    let [what, args @ ..] = args else { return Frame::error(err_wrong_number("script")) };
    let what = String::from_utf8_lossy(what).to_uppercase();
    match (&*what, args) {
        ("LOAD", [source]) => {
            let source = String::from_utf8_lossy(source).into_owned();
            match Interpreter::new().and_then(|lua| lua.compile(&source).map(drop)) {
                Ok(()) => {
                    let digest = digest(source.as_bytes());
                    state.lock().scripts.insert(digest.clone(), source);
                    Frame::bulk_string(&digest)
                }
                Err(error) => Frame::Error(error),
            }
        }
        ("EXISTS", [_, ..]) => {
            let inner = state.lock();
            let is_known = |digest: &Vec<u8>| {
                inner.scripts.contains_key(&String::from_utf8_lossy(digest).to_lowercase())
            };
            Frame::Array(args.iter().map(|digest| Frame::Integer(i64::from(is_known(digest)))).collect())
        }
        ("FLUSH", [] | [_]) => {
            state.lock().scripts.clear();
            Frame::ok()
        }
        // One that runs keeps everybody from asking: it has ended by now.
        ("KILL", []) => Frame::error("NOTBUSY No scripts in execution right now."),
        _ => Frame::error(format!(
            "ERR unknown subcommand or wrong number of arguments for '{}'. There are LOAD, EXISTS, FLUSH and KILL.",
            what.to_lowercase()
        )),
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha1::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One call of a script.
struct Call<'a> {
    state: &'a Arc<SharedState>,
    context: &'a ConnCtx,
    source: &'a str,
    is_read_only: bool,
}

impl Call<'_> {
    /// `args` is the number of keys, the keys, and the other arguments.
    fn run(&self, args: &[Vec<u8>]) -> Result<Frame, String> {
        let [count, args @ ..] = args else { return Err(MSG_INVALID_INT.to_owned()) };
        let count: i64 = String::from_utf8_lossy(count).parse().map_err(|_| MSG_INVALID_INT.to_owned())?;
        let count = usize::try_from(count).map_err(|_| MSG_NEGATIVE_KEYS_NUMBER.to_owned())?;
        let (keys, args) = args.split_at_checked(count).ok_or_else(|| MSG_INVALID_KEYS_NUMBER.to_owned())?;

        let lua = Interpreter::new()?;
        let function = lua.compile(self.source)?;
        self.state.lock().scripts.insert(digest(self.source.as_bytes()), self.source.to_owned());
        lua.open(self, keys, args).map_err(|error| lua.failure(&error))?;
        let returned: Value = function.call(()).map_err(|error| lua.failure(&error))?;
        value::reply_of(&returned)
    }
}

/// An interpreter for one call.
struct Interpreter {
    lua: Lua,
    /// The script has used up its CPU time.
    has_ended: Arc<AtomicBool>,
}

impl Interpreter {
    fn new() -> Result<Self, String> {
        let lua = Lua::new_with(StdLib::STRING | StdLib::TABLE | StdLib::MATH, LuaOptions::default())
            .map_err(|error| format!("ERR cannot start Lua: {error}"))?;
        let interpreter = Self { lua, has_ended: Arc::default() };
        interpreter.close().map_err(|error| format!("ERR cannot start Lua: {error}"))?;
        Ok(interpreter)
    }

    /// Takes away what scripts may not have, and sets the limits.
    fn close(&self) -> mlua::Result<()> {
        let Self { lua, has_ended } = self;
        lua.set_memory_limit(MEMORY_MAX)?;
        let globals = lua.globals();
        let mut unknown: Vec<Value> = Vec::new();
        for pair in globals.pairs::<Value, Value>() {
            let (name, _) = pair?;
            let is_known =
                name.as_string().and_then(|name| name.to_str().ok().map(|name| GLOBALS.contains(&&*name)));
            if is_known != Some(true) {
                unknown.push(name);
            }
        }
        for name in unknown {
            globals.raw_set(name, Value::Nil)?;
        }
        let string: Table = globals.raw_get("string")?;
        string.raw_set("dump", Value::Nil)?;
        pattern::install(lua, &string, has_ended)?;

        let ended = has_ended.clone();
        let asked = lua.create_function(move |_, ()| Ok(ended.load(Ordering::Relaxed)))?;
        let coroutine: Table = globals.raw_get("coroutine")?;
        let catching: [Value; 3] =
            [globals.raw_get("error")?, globals.raw_get("pcall")?, coroutine.raw_get("resume")?];
        let [error, pcall, resume] = catching;
        let prelude = lua.load(PRELUDE).set_name("=prelude").into_function()?;
        prelude.call::<()>((asked, ENDED, error, pcall, resume))?;
        Ok(())
    }

    /// Gives the script what it works with, and starts its clock.
    fn open(&self, call: &Call<'_>, keys: &[Vec<u8>], args: &[Vec<u8>]) -> mlua::Result<()> {
        let Self { lua, has_ended } = self;
        let globals = lua.globals();
        let strings = |bytes: &[Vec<u8>]| -> mlua::Result<Table> {
            lua.create_sequence_from(
                bytes.iter().map(|one| lua.create_string(one)).collect::<mlua::Result<Vec<_>>>()?,
            )
        };
        globals.raw_set("KEYS", strings(keys)?)?;
        globals.raw_set("ARGV", strings(args)?)?;
        globals.raw_set("cjson", value::cjson(lua)?)?;
        globals.raw_set("redis", redis(lua, call)?)?;
        let os = lua.create_table()?;
        let started = cpu_time();
        os.raw_set("clock", lua.create_function(move |_, ()| Ok((cpu_time() - started).as_secs_f64()))?)?;
        globals.raw_set("os", os)?;

        // As in Redis, a name that is not there is a mistake.
        let guard = lua.create_table()?;
        let missing = |_: &Lua, (_, name): (Value, Value)| -> mlua::Result<Value> {
            let name = name.to_string().unwrap_or_default();
            Err(mlua::Error::runtime(format!(
                "Script attempted to access nonexistent global variable '{name}'"
            )))
        };
        guard.raw_set("__index", lua.create_function(missing)?)?;
        guard.raw_set("__metatable", false)?;
        globals.set_metatable(Some(guard))?;

        let has_ended = has_ended.clone();
        lua.set_global_hook(HookTriggers::new().every_nth_instruction(INSTRUCTIONS_PER_CHECK), move |_, _| {
            if cpu_time().saturating_sub(started) < CPU_TIME_MAX {
                return Ok(VmState::Continue);
            }
            has_ended.store(true, Ordering::Relaxed);
            Err(mlua::Error::runtime(ENDED))
        })
    }

    fn compile(&self, source: &str) -> Result<Function, String> {
        let chunk = self.lua.load(source).set_name("@user_script").set_mode(ChunkMode::Text);
        chunk.into_function().map_err(|error| format!("ERR Error compiling script: {}", first_line(&error)))
    }

    fn failure(&self, error: &mlua::Error) -> String {
        if self.has_ended.load(Ordering::Relaxed) {
            return ENDED.to_owned();
        }
        let text = first_line(error);
        // Replies of commands begin with their code.
        let is_code = |word: &str| word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase());
        match text.split_once(' ') {
            Some((code, _)) if is_code(code) => text,
            _ => format!("ERR {text}"),
        }
    }
}

/// What an error says, without the stack.
fn first_line(error: &mlua::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    let line =
        line.strip_prefix("runtime error: ").or_else(|| line.strip_prefix("syntax error: ")).unwrap_or(line);
    line.to_owned()
}

/// CPU time that this OS thread has used.
pub(super) fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// The library `redis`.
fn redis(lua: &Lua, call: &Call<'_>) -> mlua::Result<Table> {
    let redis = lua.create_table()?;
    let commands = Commands {
        state: call.state.clone(),
        database: Arc::new(AtomicUsize::new(call.context.selected_db)),
        is_read_only: call.is_read_only,
    };
    let protected = commands.clone();
    redis.raw_set(
        "call",
        lua.create_function(move |lua, args: MultiValue| match commands.carry_out(args)? {
            Frame::Error(error) => Err(mlua::Error::runtime(error)),
            reply => value::value_of(lua, &reply),
        })?,
    )?;
    redis.raw_set(
        "pcall",
        lua.create_function(move |lua, args: MultiValue| value::value_of(lua, &protected.carry_out(args)?))?,
    )?;
    let field = |name: &'static str, with_code: bool| {
        lua.create_function(move |lua, text: mlua::String| {
            let mut text = text.to_string_lossy();
            if with_code {
                text = text.strip_prefix('-').map(str::to_owned).unwrap_or(text);
                if !text.contains(' ') {
                    text = format!("ERR {text}");
                }
            }
            let reply = lua.create_table()?;
            reply.raw_set(name, text)?;
            Ok(reply)
        })
    };
    redis.raw_set("error_reply", field("err", true)?)?;
    redis.raw_set("status_reply", field("ok", false)?)?;
    redis.raw_set("sha1hex", lua.create_function(|_, text: mlua::String| Ok(digest(&text.as_bytes())))?)?;
    redis.raw_set("log", lua.create_function(|_, _: MultiValue| Ok(()))?)?;
    redis.raw_set("set_repl", lua.create_function(|_, _: MultiValue| Ok(()))?)?;
    redis.raw_set("replicate_commands", lua.create_function(|_, ()| Ok(true))?)?;
    let setresp = |_: &Lua, version: i64| match version {
        2 | 3 => Ok(()),
        _ => Err(mlua::Error::runtime("RESP version must be 2 or 3.")),
    };
    redis.raw_set("setresp", lua.create_function(setresp)?)?;
    for (name, number) in [
        ("LOG_DEBUG", 0),
        ("LOG_VERBOSE", 1),
        ("LOG_NOTICE", 2),
        ("LOG_WARNING", 3),
        ("REPL_NONE", 0),
        ("REPL_AOF", 1),
        ("REPL_SLAVE", 2),
        ("REPL_REPLICA", 2),
        ("REPL_ALL", 3),
    ] {
        redis.raw_set(name, number)?;
    }
    Ok(redis)
}

/// The commands that a script calls.
#[derive(Clone)]
struct Commands {
    state: Arc<SharedState>,
    /// What `SELECT` in the script has selected, for the script alone.
    database: Arc<AtomicUsize>,
    is_read_only: bool,
}

impl Commands {
    /// The reply of a command; also where it is an error. `Err`: it is no command.
    fn carry_out(&self, args: MultiValue) -> mlua::Result<Frame> {
        let words = args.into_iter().map(|arg| match arg {
            Value::String(text) => Ok(text.as_bytes().to_vec()),
            Value::Integer(number) => Ok(number.to_string().into_bytes()),
            Value::Number(number) => Ok(value::number_text(number).into_bytes()),
            _ => Err(mlua::Error::runtime("Lua redis lib command arguments must be strings or integers")),
        });
        let words = words.collect::<mlua::Result<Vec<_>>>()?;
        let Some((name, args)) = words.split_first() else {
            return Err(mlua::Error::runtime("Please specify at least one argument for this redis lib call"));
        };
        let name = String::from_utf8_lossy(name).to_uppercase();
        if NOT_IN_SCRIPTS.contains(&&*name) {
            return Ok(Frame::error("ERR This Redis command is not allowed from script"));
        }
        let command = self.state.command_table.get().and_then(|table| table.get(&name));
        let Some(command) = command else {
            return Ok(Frame::error("ERR Unknown Redis command called from script"));
        };
        if self.is_read_only && !command.read_only {
            return Ok(Frame::error("ERR Write commands are not allowed from read-only scripts."));
        }
        let count = i32::try_from(words.len()).unwrap_or(i32::MAX);
        let is_right = match command.arity {
            0 => true,
            arity if arity > 0 => count == arity,
            arity => count >= -arity,
        };
        if !is_right {
            return Ok(Frame::error(err_wrong_number(&name)));
        }
        let mut context = ConnCtx::new();
        context.selected_db = self.database.load(Ordering::Relaxed);
        context.authenticated = true;
        context.nested = true;
        let reply = (command.handler)(&self.state, &mut context, args);
        self.database.store(context.selected_db, Ordering::Relaxed);
        Ok(reply)
    }
}
