//! A worker inside another program: it brings its own Redis, runs one thread, and ends when that has done its work.
//!
//!     cargo run -p hats-core --features embedded-redis --example embed

#![expect(clippy::print_stdout, reason = "a program for people")]

use hats_core::config::{Config, Script};
use hats_core::{Stopped, Worker};
use tokio_util::sync::CancellationToken;

/// Says hello three times and then disables the worker it runs on, which drains and stops: the last `sleep` returns
/// early, and `cleanup()` follows.
const GREETER: &str = r#"
let greetings = 0;

function main() {
  greetings += 1;
  console.log("hello from inside,", "greeting", greetings);
  if (greetings < 3) return;
  redis.Call("HSET", `${worker.Cluster}:workers:${worker.Name}`, "Status", "disabled");
  sleep(60000);
}

function cleanup() {
  console.log("goodbye");
}
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_ansi(false).with_env_filter("info,fred=error").init();

    let mut config = Config::default();
    config.scripts = vec![Script { name: "greeter".parse()?, source: GREETER.into() }];
    // Claim it at once instead of waiting for workers that might share it.
    config.run_now = true;

    let worker = Worker::builder()
        .config(config)
        // A script that cannot be stopped after its lease was lost would soon run in two places.
        .on_hard_stop(|stop| {
            eprintln!("hard stop: {stop}");
            std::process::exit(70);
        })
        .build()?;

    // Cancelling this token is how the program around a worker stops it.
    let shutdown = CancellationToken::new();
    let interrupted = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupted.cancel();
        }
    });

    match worker.run(shutdown).await? {
        Stopped::Disabled => println!("the script has ended its worker"),
        stopped => println!("{stopped}"),
    }
    Ok(())
}
