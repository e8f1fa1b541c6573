//! A small HTTP server for scripts to talk to. It answers `GET /greeting`, never answers `/held`, sends everything else
//! back as it came, and passes for a proxy as well: it does not look at the host that is asked for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;

/// A client that says nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server; it runs until the test process ends.
#[derive(Clone, Debug)]
pub struct WebServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl WebServer {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let server = Self { address: listener.local_addr()?, requests: Arc::default() };
        let inner = server.clone();
        thread::Builder::new().name("web".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = inner.clone();
                thread::spawn(move || server.serve(&stream));
            }
        })?;
        Ok(server)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The heads of the requests so far, each with its lines ended by `\n`.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An error is a client that has gone.
    fn serve(&self, mut stream: &TcpStream) -> Option<()> {
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut reader = BufReader::new(stream);
        loop {
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
                let line = line.trim_end();
                if line.is_empty() {
                    break;
                }
                if let Some((name, value)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.trim().parse().ok()?;
                }
                head.push_str(line);
                head.push('\n');
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            let asks_for = |path: &str| head.split(' ').nth(1).is_some_and(|target| target.ends_with(path));
            let (is_greeting, is_held) = (asks_for("/greeting"), asks_for("/held"));
            self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(head);
            if is_held {
                // Ends when the client goes.
                reader.read_line(&mut String::new()).ok()?;
                return None;
            }
            let (kind, body) = match is_greeting {
                true => ("application/json", br#"{"greeting": "good morning"}"#.to_vec()),
                false => ("text/plain", body),
            };
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), &body].concat()).ok()?;
        }
    }
}
