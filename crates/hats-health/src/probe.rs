//! The other side of the health port: asks a worker how it is, for supervisors that can run a program but send no request.
//!
//! What must hold: there is an answer within the time that was given, whatever listens there and however it behaves; and
//! no more of what it sends is read than a bounded number of bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An answer of ours is far shorter.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether the process answers, and that is all: what a supervisor may restart it for.
    Live,
    /// Whether work may be sent there.
    Ready,
}

impl Question {
    /// Where the answer is.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Live => "/livez",
            Self::Ready => "/readyz",
        }
    }
}

/// Asks whoever listens there. The answer is its text, in one line.
///
/// # Errors
/// A line that says why the answer is not yes, or that there was none within that time.
pub async fn ask(address: SocketAddr, question: Question, within: Duration) -> Result<String, String> {
    let url = format!("http://{address}{}", question.path());
    match timeout(within, answer(address, question)).await {
        Ok(Ok((StatusCode::OK, text))) => Ok(text),
        Ok(Ok((status, text))) => Err(format!("{url} says {}: {text}", status.as_u16())),
        Ok(Err(why)) => Err(format!("{url} cannot be asked: {why}")),
        Err(_) => Err(format!("{url} has not answered within {} ms", within.as_millis())),
    }
}

async fn answer(address: SocketAddr, question: Question) -> Result<(StatusCode, String), String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::get(question.path())
        .header(hyper::header::HOST, address.to_string())
        .header(hyper::header::CONNECTION, "close")
        .body(Body::empty())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = to_bytes(Body::new(answer.into_body()), ANSWER_BYTES_MAX)
            .await
            .map_err(|error| error.to_string())?;
        Ok((status, one_line(&String::from_utf8_lossy(&body))))
    };
    tokio::pin!(exchange);
    let connection = async {
        // What it ends with, the exchange is told as well.
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answered = &mut exchange => answered,
        never = connection => match never {},
    }
}

fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_control()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::server::{Check, Listener, Port, Readiness, Server, Views};

    const PATIENCE: Duration = Duration::from_secs(60);
    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    async fn serve(ready: bool) -> Server {
        let readiness = Readiness {
            checks: vec![Check::new("redis.session", ready, "redis does not answer")],
            ..Readiness::default()
        };
        let views = Views { readiness: Arc::new(move || readiness.clone()), metrics: Arc::new(String::new) };
        Listener::bind(LOCALHOST, Port::Given(0)).await.unwrap().serve(views)
    }

    /// Listens, says this to the first who has asked, and keeps the connection.
    async fn say(text: &'static str) -> SocketAddr {
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // An answer before the question would be another fault.
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            std::future::pending::<()>().await;
        });
        address
    }

    #[tokio::test]
    async fn a_worker_that_is_not_ready_is_alive() {
        let server = serve(false).await;
        assert_eq!(ask(server.address(), Question::Live, PATIENCE).await.unwrap(), "alive");
        let why = ask(server.address(), Question::Ready, PATIENCE).await.unwrap_err();
        assert!(why.contains("/readyz says 503: ") && why.contains("redis does not answer"), "{why}");
        assert_eq!(why.lines().count(), 1, "{why}");
    }

    #[tokio::test]
    async fn a_ready_worker_says_so() {
        let server = serve(true).await;
        let answer = ask(server.address(), Question::Ready, PATIENCE).await.unwrap();
        assert!(answer.contains(r#""ready":true"#), "{answer}");
    }

    #[tokio::test]
    async fn nobody_there_is_an_answer_too() {
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let why = ask(address, Question::Live, PATIENCE).await.unwrap_err();
        assert!(why.contains("cannot be asked: "), "{why}");
    }

    #[tokio::test]
    async fn one_that_hangs_or_speaks_something_else_is_not_alive() {
        for text in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nalive"] {
            let why = ask(say(text).await, Question::Live, Duration::from_millis(300)).await.unwrap_err();
            assert!(why.contains("has not answered within 300 ms"), "{text:?}: {why}");
        }
        let why = ask(say("+PONG\r\n").await, Question::Live, PATIENCE).await.unwrap_err();
        assert!(why.contains("cannot be asked: "), "{why}");
    }
}
