//! Servers for one test each, gone when dropped.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hats_cluster::address::RedisConfig;
use tempfile::TempDir;

/// A redis-server in a process of its own.
pub(crate) struct RedisServer {
    process: Child,
    port: u16,
    folder: TempDir,
    options: Vec<String>,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        loop {
            let folder = TempDir::new().unwrap();
            let port = free_port();
            let process = launch(port, &folder, &options);
            let mut server = Self { process, port, folder, options: options.clone() };
            // The port may have been taken between asking for it and using it: then another is tried.
            if server.answers().await {
                return server;
            }
        }
    }

    pub(crate) fn config(&self) -> RedisConfig {
        RedisConfig::new(format!("127.0.0.1:{}", self.port).parse().unwrap())
    }

    /// Kills it and starts it again without its data.
    pub(crate) async fn restart_empty(&mut self, away: Duration) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        tokio::time::sleep(away).await;
        self.process = launch(self.port, &self.folder, &self.options);
        assert!(self.answers().await);
    }

    /// Stops its process for a while: connections stay, nothing is answered.
    pub(crate) async fn freeze(&self, away: Duration) {
        self.signal("-STOP");
        tokio::time::sleep(away).await;
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    async fn answers(&mut self) -> bool {
        for _ in 0..500 {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn launch(port: u16, folder: &TempDir, options: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(options)
        .arg("--dir")
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// The embedded server.
pub(crate) fn embedded() -> (hats_embedded_redis::Server, RedisConfig) {
    let server = hats_embedded_redis::Server::start().unwrap();
    let config = RedisConfig::new(server.url().parse().unwrap());
    (server, config)
}

/// A way to a server that can be made to swallow everything.
pub(crate) struct Link {
    port: u16,
    silent: std::sync::Arc<tokio::sync::watch::Sender<bool>>,
}

impl Link {
    pub(crate) async fn to(server: &RedisServer) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let silent = std::sync::Arc::new(tokio::sync::watch::Sender::new(false));
        let (to, silence) = (server.port, silent.clone());
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let mut silence = silence.subscribe();
                tokio::spawn(async move {
                    if *silence.borrow() {
                        // Accepted and never answered, even when the link is well again.
                        return std::future::pending().await;
                    }
                    let mut server = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    let silence = async { silence.wait_for(|silent| *silent).await.map(drop) };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut from, &mut server) => {}
                        _ = silence => std::future::pending().await,
                    }
                });
            }
        });
        Self { port, silent }
    }

    pub(crate) fn config(&self) -> RedisConfig {
        RedisConfig::new(format!("127.0.0.1:{}", self.port).parse().unwrap())
    }

    pub(crate) fn be_silent(&self, silent: bool) {
        self.silent.send_replace(silent);
    }
}
