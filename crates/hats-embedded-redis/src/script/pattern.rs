//! `string.find`, `match`, `gmatch` and `gsub`, with an end.
//!
//! Lua's own are one call of C each: a pattern such as `('.-'):rep(30) .. 'x'` keeps it busy for years where no hook can end it,
//! and one of a million `a?` overflows its stack. These do the same ([`Matcher`] follows the rules of Lua 5.1, `%b` and `%f`
//! included), look at the CPU time now and then, and refuse to nest more than [`DEPTH_MAX`] deep.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mlua::{Lua, MultiValue, Table, Value};

use super::{CPU_TIME_MAX, ENDED, cpu_time};

/// Captures of one pattern, as in Lua.
const CAPTURES_MAX: usize = 32;
/// Parts of a pattern that are inside one another while it is matched. Each takes some stack.
const DEPTH_MAX: usize = 20_000;
/// Steps between two looks at the CPU time.
const STEPS_PER_CHECK: u32 = 10_000;

/// Puts ours in place of those of Lua.
pub(super) fn install(lua: &Lua, string: &Table, has_ended: &Arc<AtomicBool>) -> mlua::Result<()> {
    let ended = has_ended.clone();
    let find = move |lua: &Lua, args: (mlua::String, mlua::String, Option<i64>, Option<bool>)| {
        search(lua, &args, true, &ended)
    };
    string.raw_set("find", lua.create_function(find)?)?;
    let ended = has_ended.clone();
    let only_match = move |lua: &Lua, (text, pattern, start): (mlua::String, mlua::String, Option<i64>)| {
        search(lua, &(text, pattern, start, None), false, &ended)
    };
    string.raw_set("match", lua.create_function(only_match)?)?;
    let ended = has_ended.clone();
    let gmatch = move |lua: &Lua, (text, pattern): (mlua::String, mlua::String)| {
        let (text, pattern, ended) = (text.as_bytes().to_vec(), pattern.as_bytes().to_vec(), ended.clone());
        let mut next = 0;
        lua.create_function_mut(move |lua, ()| {
            let mut matcher = Matcher::new(&text, &pattern, &ended);
            let first = next;
            for start in first..=text.len() {
                if let Some(end) = matcher.at(start, 0)? {
                    // An empty one is not found again.
                    next = if end == start { end + 1 } else { end };
                    return matcher.captures(lua, Some((start, end)));
                }
            }
            next = text.len() + 1;
            Ok(MultiValue::from_iter([Value::Nil]))
        })
    };
    let gmatch = lua.create_function(gmatch)?;
    string.raw_set("gmatch", &gmatch)?;
    string.raw_set("gfind", gmatch)?;
    let ended = has_ended.clone();
    let gsub =
        move |lua: &Lua, args: (mlua::String, mlua::String, Value, Option<i64>)| replace(lua, &args, &ended);
    string.raw_set("gsub", lua.create_function(gsub)?)
}

/// `find`, or `match` where the place is not wanted.
fn search(
    lua: &Lua,
    (text, pattern, start, is_plain): &(mlua::String, mlua::String, Option<i64>, Option<bool>),
    with_place: bool,
    has_ended: &AtomicBool,
) -> mlua::Result<MultiValue> {
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let length = i64::try_from(text.len()).unwrap_or(i64::MAX);
    let start = match start.unwrap_or(1) {
        start if start < 0 => (length + start).max(0),
        start => (start - 1).clamp(0, length),
    };
    let start = usize::try_from(start).unwrap_or_default();
    let place = |start: usize, end: usize| [Value::Integer(count(start + 1)), Value::Integer(count(end))];
    let mut matcher = Matcher::new(&text, &pattern, has_ended);
    let is_special = pattern.iter().any(|byte| b"^$*+?.([%-".contains(byte));
    if with_place && (*is_plain == Some(true) || !is_special) {
        for at in start..=text.len() {
            matcher.step()?;
            if text[at..].starts_with(&pattern) {
                return Ok(place(at, at + pattern.len()).into_iter().collect());
            }
        }
        return Ok(MultiValue::from_iter([Value::Nil]));
    }
    let is_anchored = pattern.first() == Some(&b'^');
    for at in start..=text.len() {
        if let Some(end) = matcher.at(at, usize::from(is_anchored))? {
            if !with_place {
                return matcher.captures(lua, Some((at, end)));
            }
            let mut found: Vec<Value> = place(at, end).into();
            found.extend(matcher.captures(lua, None)?);
            return Ok(found.into_iter().collect());
        }
        if is_anchored {
            break;
        }
    }
    Ok(MultiValue::from_iter([Value::Nil]))
}

/// `gsub`.
fn replace(
    lua: &Lua,
    (text, pattern, with, limit): &(mlua::String, mlua::String, Value, Option<i64>),
    has_ended: &AtomicBool,
) -> mlua::Result<(mlua::String, i64)> {
    if !matches!(
        with,
        Value::String(_) | Value::Integer(_) | Value::Number(_) | Value::Table(_) | Value::Function(_)
    ) {
        return Err(error("bad argument #3 to 'gsub' (string/function/table expected)"));
    }
    let template = lua.coerce_string(match with {
        Value::Table(_) | Value::Function(_) => Value::Nil,
        with => with.clone(),
    })?;
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let is_anchored = pattern.first() == Some(&b'^');
    let mut matcher = Matcher::new(&text, &pattern, has_ended);
    let (mut out, mut at, mut done) = (Vec::new(), 0, 0);
    while limit.is_none_or(|limit| done < limit) {
        let found = matcher.at(at, usize::from(is_anchored))?;
        if let Some(end) = found {
            done += 1;
            let whole = (at, end);
            let new = match with {
                Value::Table(table) => table.get::<Value>(matcher.capture(lua, 0, whole)?)?,
                Value::Function(function) => function.call::<Value>(matcher.captures(lua, Some(whole))?)?,
                _ => {
                    matcher.fill(
                        lua,
                        &mut out,
                        template.as_ref().map(mlua::String::as_bytes).as_deref(),
                        whole,
                    )?;
                    Value::Boolean(true)
                }
            };
            match new {
                Value::Boolean(true) if template.is_some() => {}
                Value::Nil | Value::Boolean(false) => out.extend_from_slice(&text[at..end]),
                new => match lua.coerce_string(new.clone())? {
                    Some(new) => out.extend_from_slice(&new.as_bytes()),
                    None => return Err(error(&format!("invalid replacement value (a {})", new.type_name()))),
                },
            }
        }
        match found {
            Some(end) if end > at => at = end,
            _ if at < text.len() => {
                out.push(text[at]);
                at += 1;
            }
            _ => break,
        }
        if is_anchored {
            break;
        }
        if out.len() > super::MEMORY_MAX {
            return Err(error("not enough memory"));
        }
    }
    out.extend_from_slice(text.get(at..).unwrap_or_default());
    Ok((lua.create_string(&out)?, done))
}

fn error(text: &str) -> mlua::Error {
    mlua::Error::runtime(text)
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// What a capture has caught.
#[derive(Clone, Copy)]
enum Caught {
    /// Begun here, and not closed.
    Open(usize),
    Text(usize, usize),
    Position(usize),
}

/// One pattern on one text.
struct Matcher<'a> {
    text: &'a [u8],
    pattern: &'a [u8],
    caught: Vec<Caught>,
    depth: usize,
    steps: u32,
    has_ended: &'a AtomicBool,
    /// CPU time of the OS thread at the first look. Zero: there was none yet.
    started: std::time::Duration,
}

type Found = mlua::Result<Option<usize>>;

impl<'a> Matcher<'a> {
    fn new(text: &'a [u8], pattern: &'a [u8], has_ended: &'a AtomicBool) -> Self {
        Self {
            text,
            pattern,
            caught: Vec::new(),
            depth: 0,
            steps: 0,
            has_ended,
            started: std::time::Duration::ZERO,
        }
    }

    /// Counts one step, and ends the script if it has computed for too long.
    fn step(&mut self) -> mlua::Result<()> {
        self.steps += 1;
        if !self.steps.is_multiple_of(STEPS_PER_CHECK) {
            return Ok(());
        }
        let now = cpu_time();
        if self.started.is_zero() {
            self.started = now;
        }
        if now.saturating_sub(self.started) > CPU_TIME_MAX {
            self.has_ended.store(true, Ordering::Relaxed);
            return Err(error(ENDED));
        }
        Ok(())
    }

    /// Where the match that begins at `start` ends. `from` is where the pattern begins.
    fn at(&mut self, start: usize, from: usize) -> Found {
        self.caught.clear();
        self.depth = 0;
        self.go(start, from)
    }

    /// As [`Self::rest`], one level deeper.
    fn go(&mut self, at: usize, p: usize) -> Found {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(error("pattern too complex"));
        }
        let found = self.rest(at, p);
        self.depth -= 1;
        found
    }

    /// Where the rest of the pattern, from `p` on, ends if it begins at `at`.
    fn rest(&mut self, mut at: usize, mut p: usize) -> Found {
        loop {
            self.step()?;
            let Some(&byte) = self.pattern.get(p) else { return Ok(Some(at)) };
            match (byte, self.pattern.get(p + 1)) {
                (b'(', Some(b')')) => return self.capture_from(Caught::Position(at), at, p + 2),
                (b'(', _) => return self.capture_from(Caught::Open(at), at, p + 1),
                (b')', _) => return self.close(at, p + 1),
                (b'$', None) => return Ok((at == self.text.len()).then_some(at)),
                (b'%', Some(b'b')) => match self.balanced(at, p + 2)? {
                    Some(end) => (at, p) = (end, p + 4),
                    None => return Ok(None),
                },
                (b'%', Some(b'f')) => {
                    p += 2;
                    if self.pattern.get(p) != Some(&b'[') {
                        return Err(error("missing '[' after '%f' in pattern"));
                    }
                    let end = self.class_end(p)?;
                    let before = at.checked_sub(1).map_or(0, |before| self.text[before]);
                    let here = self.text.get(at).copied().unwrap_or(0);
                    if self.in_set(before, p, end - 1) || !self.in_set(here, p, end - 1) {
                        return Ok(None);
                    }
                    p = end;
                }
                (b'%', Some(digit)) if digit.is_ascii_digit() => {
                    let (start, end) = self.caught_before(*digit)?;
                    if !self.text[at..].starts_with(&self.text[start..end]) {
                        return Ok(None);
                    }
                    (at, p) = (at + end - start, p + 2);
                }
                _ => {
                    let end = self.class_end(p)?;
                    let is_one = self.is_one(at, p, end);
                    match self.pattern.get(end) {
                        Some(b'?') => {
                            if is_one && let Some(found) = self.go(at + 1, end + 1)? {
                                return Ok(Some(found));
                            }
                            p = end + 1;
                        }
                        Some(b'*') => return self.longest(at, p, end, 0),
                        Some(b'+') => return self.longest(at, p, end, 1),
                        Some(b'-') => return self.shortest(at, p, end),
                        _ if is_one => (at, p) = (at + 1, end),
                        _ => return Ok(None),
                    }
                }
            }
        }
    }

    fn longest(&mut self, at: usize, p: usize, end: usize, least: usize) -> Found {
        let mut count = 0;
        while self.is_one(at + count, p, end) {
            self.step()?;
            count += 1;
        }
        while count >= least {
            if let Some(found) = self.go(at + count, end + 1)? {
                return Ok(Some(found));
            }
            match count.checked_sub(1) {
                Some(fewer) => count = fewer,
                None => break,
            }
        }
        Ok(None)
    }

    fn shortest(&mut self, mut at: usize, p: usize, end: usize) -> Found {
        loop {
            if let Some(found) = self.go(at, end + 1)? {
                return Ok(Some(found));
            }
            if !self.is_one(at, p, end) {
                return Ok(None);
            }
            at += 1;
        }
    }

    fn capture_from(&mut self, caught: Caught, at: usize, p: usize) -> Found {
        if self.caught.len() >= CAPTURES_MAX {
            return Err(error("too many captures"));
        }
        self.caught.push(caught);
        let found = self.go(at, p)?;
        if found.is_none() {
            self.caught.pop();
        }
        Ok(found)
    }

    fn close(&mut self, at: usize, p: usize) -> Found {
        let open = self.caught.iter().rposition(|caught| matches!(caught, Caught::Open(_)));
        let Some(index) = open else { return Err(error("invalid pattern capture")) };
        let before = self.caught[index];
        if let Caught::Open(start) = before {
            self.caught[index] = Caught::Text(start, at);
        }
        let found = self.go(at, p)?;
        if found.is_none() {
            self.caught[index] = before;
        }
        Ok(found)
    }

    fn balanced(&mut self, at: usize, p: usize) -> Found {
        let (Some(&open), Some(&close)) = (self.pattern.get(p), self.pattern.get(p + 1)) else {
            return Err(error("unbalanced pattern"));
        };
        if self.text.get(at) != Some(&open) {
            return Ok(None);
        }
        let mut inside = 1;
        for (index, &byte) in self.text.iter().enumerate().skip(at + 1) {
            self.step()?;
            if byte == close {
                inside -= 1;
                if inside == 0 {
                    return Ok(Some(index + 1));
                }
            } else if byte == open {
                inside += 1;
            }
        }
        Ok(None)
    }

    /// Where the single class that begins at `p` ends.
    fn class_end(&self, p: usize) -> mlua::Result<usize> {
        match self.pattern.get(p) {
            Some(b'%') if p + 1 >= self.pattern.len() => Err(error("malformed pattern (ends with '%')")),
            Some(b'%') => Ok(p + 2),
            Some(b'[') => {
                let mut at = p + 1;
                if self.pattern.get(at) == Some(&b'^') {
                    at += 1;
                }
                loop {
                    // A bracket that comes first is one of the set.
                    match self.pattern.get(at) {
                        None => return Err(error("malformed pattern (missing ']')")),
                        Some(b'%') => at += 2,
                        Some(_) => at += 1,
                    }
                    if self.pattern.get(at) == Some(&b']') {
                        return Ok(at + 1);
                    }
                }
            }
            _ => Ok(p + 1),
        }
    }

    /// Whether the byte at `at` is of the class from `p` to `end`.
    fn is_one(&self, at: usize, p: usize, end: usize) -> bool {
        let Some(&byte) = self.text.get(at) else { return false };
        match self.pattern[p] {
            b'.' => true,
            b'%' => is_of_class(byte, self.pattern[p + 1]),
            b'[' => self.in_set(byte, p, end - 1),
            other => other == byte,
        }
    }

    /// Whether a byte is of the set from the bracket at `p` to that at `last`.
    fn in_set(&self, byte: u8, p: usize, last: usize) -> bool {
        let is_inverted = self.pattern.get(p + 1) == Some(&b'^');
        let mut at = p + 1 + usize::from(is_inverted);
        while at < last {
            let here = self.pattern[at];
            if here == b'%' && at + 1 < last {
                if is_of_class(byte, self.pattern[at + 1]) {
                    return !is_inverted;
                }
                at += 2;
            } else if self.pattern[at + 1] == b'-' && at + 2 < last {
                if (here..=self.pattern[at + 2]).contains(&byte) {
                    return !is_inverted;
                }
                at += 3;
            } else {
                if here == byte {
                    return !is_inverted;
                }
                at += 1;
            }
        }
        is_inverted
    }

    /// What `%1` and so on mean inside of the pattern.
    fn caught_before(&self, digit: u8) -> mlua::Result<(usize, usize)> {
        match usize::from(digit).checked_sub(usize::from(b'1')).and_then(|index| self.caught.get(index)) {
            Some(Caught::Text(start, end)) => Ok((*start, *end)),
            _ => Err(error("invalid capture index")),
        }
    }

    fn capture(&self, lua: &Lua, index: usize, whole: (usize, usize)) -> mlua::Result<Value> {
        let (start, end) = match self.caught.get(index) {
            None if index == 0 => whole,
            None => return Err(error("invalid capture index")),
            Some(Caught::Open(_)) => return Err(error("unfinished capture")),
            Some(Caught::Text(start, end)) => (*start, *end),
            Some(Caught::Position(at)) => return Ok(Value::Integer(count(at + 1))),
        };
        Ok(Value::String(lua.create_string(&self.text[start..end])?))
    }

    /// All captures; without any the whole match, if it is given.
    fn captures(&self, lua: &Lua, whole: Option<(usize, usize)>) -> mlua::Result<MultiValue> {
        let number = self.caught.len().max(usize::from(whole.is_some()));
        (0..number).map(|index| self.capture(lua, index, whole.unwrap_or_default())).collect()
    }

    /// Writes a replacement in which `%1` and so on are captures.
    fn fill(
        &self,
        lua: &Lua,
        out: &mut Vec<u8>,
        template: Option<&[u8]>,
        whole: (usize, usize),
    ) -> mlua::Result<()> {
        let mut bytes = template.unwrap_or_default().iter();
        while let Some(&byte) = bytes.next() {
            match byte {
                b'%' => match bytes.next() {
                    Some(b'0') => out.extend_from_slice(&self.text[whole.0..whole.1]),
                    Some(digit) if digit.is_ascii_digit() => {
                        let value = self.capture(lua, usize::from(digit - b'1'), whole)?;
                        let text = lua.coerce_string(value)?;
                        out.extend_from_slice(
                            text.as_ref().map(mlua::String::as_bytes).as_deref().unwrap_or_default(),
                        );
                    }
                    Some(other) => out.push(*other),
                    None => return Err(error("invalid use of '%' in replacement string")),
                },
                byte => out.push(byte),
            }
        }
        Ok(())
    }
}

/// Whether a byte is of the class that stands after a `%`.
fn is_of_class(byte: u8, class: u8) -> bool {
    let is_one = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => byte.is_ascii_whitespace() || byte == 0x0b,
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    is_one != class.is_ascii_uppercase()
}
