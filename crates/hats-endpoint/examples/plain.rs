//! A server that does nothing but say hello: what the figures of endpoints are compared with. It prints where it listens.

#![expect(clippy::print_stdout, reason = "printing is how it says where it is")]

use std::error::Error;

use axum::Router;
use axum::response::Html;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let router = Router::new().fallback(|| async { Html("hello") });
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", socket.local_addr()?);
    loop {
        let (stream, _) = socket.accept().await?;
        stream.set_nodelay(true)?;
        let service = TowerToHyperService::new(router.clone());
        // Ends with its connection.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
