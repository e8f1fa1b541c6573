//! The Redis wire format: values, their frames in a stream, and a small blocking client.
//!
//! The proxy needs the frames, so the kit reads RESP itself; the client on top is a page and has, unlike a real one,
//! no opinion of its own about timeouts and retries.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A reply, or a command as it is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Absent: null of any kind.
    Null,
    /// Text, simple or bulk, and RESP3's numbers that are no integers.
    Text(Vec<u8>),
    /// An integer.
    Int(i64),
    /// An error reply.
    Error(String),
    /// A list; RESP3's maps are flat lists too.
    List(Vec<Value>),
    /// RESP3: not a reply, comes when it likes.
    Push(Vec<Value>),
}

impl Value {
    /// The text of a text or integer.
    pub fn text(&self) -> Option<String> {
        match self {
            Value::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Value::Int(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The integer, also when it came as text.
    pub fn int(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            Value::Text(_) => self.text()?.parse().ok(),
            _ => None,
        }
    }

    /// The texts of a list.
    pub fn texts(&self) -> Vec<String> {
        match self {
            Value::List(items) | Value::Push(items) => items.iter().filter_map(Value::text).collect(),
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Text(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Value::Int(number) => write!(f, "{number}"),
            Value::Error(text) => write!(f, "error: {text}"),
            Value::List(items) | Value::Push(items) => {
                f.write_str("[")?;
                for (position, item) in items.iter().enumerate() {
                    if position > 0 {
                        f.write_str(", ")?;
                    }
                    item.fmt(f)?;
                }
                f.write_str("]")
            }
        }
    }
}

/// The first value in `buffer` and how many bytes it takes, or nothing while it is incomplete.
///
/// # Errors
/// When the bytes are no RESP.
pub fn parse(buffer: &[u8]) -> Result<Option<(Value, usize)>> {
    let Some(end) = buffer.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let Some((&kind, _)) = buffer.split_first() else { return Ok(None) };
    let line =
        std::str::from_utf8(buffer.get(1..end).unwrap_or_default()).context("a line that is no text")?;
    let after = end + 2;
    let number = || line.parse::<i64>().with_context(|| format!("not a length: {line:?}"));
    match kind {
        b'+' | b',' | b'(' => Ok(Some((Value::Text(line.as_bytes().to_vec()), after))),
        b'-' => Ok(Some((Value::Error(line.to_owned()), after))),
        b':' => Ok(Some((Value::Int(number()?), after))),
        b'_' => Ok(Some((Value::Null, after))),
        b'#' => Ok(Some((Value::Int(i64::from(line == "t")), after))),
        b'$' | b'!' | b'=' => {
            let Ok(length) = usize::try_from(number()?) else { return Ok(Some((Value::Null, after))) };
            let Some(bytes) = buffer.get(after..after + length) else { return Ok(None) };
            if buffer.len() < after + length + 2 {
                return Ok(None);
            }
            let value = match kind {
                b'!' => Value::Error(String::from_utf8_lossy(bytes).into_owned()),
                _ => Value::Text(bytes.to_vec()),
            };
            Ok(Some((value, after + length + 2)))
        }
        b'*' | b'~' | b'>' | b'%' | b'|' => {
            let Ok(length) = usize::try_from(number()?) else { return Ok(Some((Value::Null, after))) };
            let length = if matches!(kind, b'%' | b'|') { length * 2 } else { length };
            let mut items = Vec::new();
            let mut at = after;
            for _ in 0..length {
                let Some((item, taken)) = parse(buffer.get(at..).unwrap_or_default())? else {
                    return Ok(None);
                };
                items.push(item);
                at += taken;
            }
            let value = if kind == b'>' { Value::Push(items) } else { Value::List(items) };
            Ok(Some((value, at)))
        }
        // A command as one types it. fred greets with one: HELLO 3.
        b'A'..=b'Z' | b'a'..=b'z' => {
            let line = std::str::from_utf8(buffer.get(..end).unwrap_or_default())?;
            let words = line.split_ascii_whitespace().map(|word| Value::Text(word.as_bytes().to_vec()));
            Ok(Some((Value::List(words.collect()), after)))
        }
        other => bail!("no RESP: starts with byte {other}"),
    }
}

/// A command as bytes.
pub fn command<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        let argument = argument.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects; every later read ends after `timeout`.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(address: SocketAddr, timeout: Duration) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends one command and gives its reply, an error reply included.
    ///
    /// # Errors
    /// When the connection fails or answers nothing in time.
    pub fn ask<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Result<Value> {
        self.send(&command(arguments))?;
        self.reply()
    }

    /// Sends bytes as they are, for pipelines.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Reads the next reply.
    ///
    /// # Errors
    /// When the connection fails or nothing comes in time.
    pub fn reply(&mut self) -> Result<Value> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some((value, taken)) = parse(&self.buffer)? {
                self.buffer.drain(..taken);
                return Ok(value);
            }
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                bail!("the server closed the connection");
            }
            self.buffer.extend_from_slice(chunk.get(..read).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_only_when_whole() {
        let bytes = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n+OK\r\n";
        let whole = bytes.len() - b"+OK\r\n".len();
        for cut in 0..whole {
            assert_eq!(parse(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
        let (value, taken) = parse(bytes).unwrap().unwrap();
        assert_eq!((value.to_string().as_str(), taken), ("[GET, k]", whole));
    }

    #[test]
    fn pushes_maps_and_nulls_have_their_own_shapes() {
        let check = |bytes: &str, expect: &str| {
            let (value, taken) = parse(bytes.as_bytes()).unwrap().unwrap();
            assert_eq!((format!("{value:?}").as_str(), taken), (expect, bytes.len()));
        };
        check(">1\r\n:7\r\n", "Push([Int(7)])");
        check("%1\r\n+a\r\n:1\r\n", "List([Text([97]), Int(1)])");
        check("$-1\r\n", "Null");
        check("_\r\n", "Null");
        check("-ERR no\r\n", "Error(\"ERR no\")");
    }

    #[test]
    fn a_command_may_be_typed() {
        let (value, taken) = parse(b"HELLO 3\r\n*1\r\n").unwrap().unwrap();
        assert_eq!((value.texts(), taken), (vec!["HELLO".to_owned(), "3".to_owned()], 9));
        assert_eq!(parse(b"HELLO").unwrap(), None);
    }
}
