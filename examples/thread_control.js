// What a thread can say and do about itself. The first time it runs it gives itself up; the worker takes it
// again after five seconds (another worker of the cluster may do so at once), and the second time it disables
// itself for the whole cluster. `hats-worker thread enable examples/thread_control.js` starts it over.

const RUNS = "example:thread_control:runs";
const EPOCH = "example:thread_control:epoch";

let run = 0;

function init() {
  // Anything that must outlive this run is kept in Redis: the next owner starts with fresh variables.
  run = redis.Call("INCR", RUNS);
  console.log("run", run, "of", thread.Key.split(":").pop());
  console.log("Hang is", thread.Hang, "ms");

  // The epoch rises with every new owner. It is what Redis is shown to refuse writes of an earlier one.
  const before = Number(redis.Call("GET", EPOCH) ?? 0);
  console.log("the epoch has risen:", thread.Epoch > before);
  redis.Call("SET", EPOCH, thread.Epoch);
}

function main() {
  console.log("Status is", thread.Status());

  // State is written for people, a moment after the fact.
  while (thread.State() !== "running" && !thread.Stopped) sleep(20);
  console.log("State is", thread.State());

  if (run === 1) {
    thread.Stop(); // returns at once; the script runs on to the end of this call
  } else {
    redis.Call("DEL", RUNS, EPOCH);
    thread.Disable();
  }

  // Stopped is live: it turns true when the thread is stopped, disabled or drained.
  while (!thread.Stopped) sleep(1000);
  console.log("Stopped is", thread.Stopped);
}

function cleanup() {
  console.log(run === 1 ? "given up" : "disabled");
}
