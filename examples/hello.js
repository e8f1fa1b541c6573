// The smallest useful thread: it says hello and then counts.
//
//     cargo run --release -p hats-worker -- --scripts examples/hello.js
//
// The whole file runs once, then init(), then main() again and again. When the thread ends in good order
// (Ctrl-C, a disable, a new version of this file) cleanup() has up to five seconds for its goodbyes.

let calls = 0;

function init() {
  console.log("hello from", thread.Key);
}

function main() {
  calls += 1;
  console.log("main() call number", calls);
  sleep(1000); // blocks this script only: the worker goes on with its other threads
}

function cleanup() {
  console.log("goodbye");
}
