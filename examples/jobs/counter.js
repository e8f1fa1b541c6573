// Counts its own runs: one for each tick, however many workers the cluster has.
//
//     cargo run --release -p hats-worker -- --jobs "examples/jobs/counter.js=*/5 * * * * *"
//
// The schedule may stand here as well, as it does below; then `--jobs examples/jobs/counter.js` will do, and
// `--jobs examples/jobs` registers all files of this folder. What the command line says goes first.
//
// cron: */10 * * * * *

// The whole file runs at each tick in a fresh scope, then main() if there is one. What is to last is kept in Redis.
const RUNS = "example:counter:runs";

function main() {
  const runs = redis.Call("INCR", RUNS);
  console.log("run number", runs, "of", job.Key);
  return { runs }; // the result: `hats-worker job history examples/jobs/counter.js` shows it
}
