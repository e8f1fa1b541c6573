// A thread made of several files: a module that imports others by paths relative to itself.
//
//     cargo run --release -p hats-worker -- --scripts examples/modules/main.js
//
// All files are stored in Redis with the thread, so whichever worker runs it has no need of this folder. A change of any of
// them, once registered, restarts the thread.

import { Counter } from "./lib/counter.js";
import greet, { greetings } from "./lib/greet.js";

const counter = new Counter();

// The functions that a worker calls may be exports or globals.
export function init() {
  console.log(greet("world"));
}

export async function main() {
  counter.up();
  if (counter.value === 2) {
    // Loaded when it is needed, out of the same bundle.
    const { farewell } = await import("./lib/farewell.js");
    console.log(farewell("world"), "after", greetings(), "greeting and", counter.value, "calls");
  }
  sleep(10);
}
