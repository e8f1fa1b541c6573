// Uses a library that the worker was given for all of its scripts.
//
//     cargo run --release -p hats-worker -- --preload examples/preload/text.js --scripts examples/preload/main.js
//
// Scripts of 2020 had underscore as `_`: get it from npm, and --preload underscore-umd-min.js brings it back.

function main() {
  console.log(text.title("the quick brown fox"));
  console.log(text.words("  four  words are here ").length);
  thread.Disable();
}
