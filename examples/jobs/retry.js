// What a run can say about itself, and what happens when it fails: it is tried again for the same tick, after a pause
// that grows. The third attempt succeeds here. Then the job disables itself for the whole cluster;
// `hats-worker job enable examples/jobs/retry.js` starts it over.
//
//     cargo run --release -p hats-worker -- --jobs examples/jobs/retry.js
//
// cron: */2 * * * * *
// retries: 2
// timeout: 30
// tz: Europe/Berlin

const TICK = "example:retry:tick";

// The instant that the run was scheduled for: the same in all attempts, however late they are.
if (job.Attempt === 1) redis.Call("SET", TICK, job.Tick.toISOString());
const isSame = redis.Call("GET", TICK) === job.Tick.toISOString();

function main() {
  console.log("attempt", job.Attempt, "for one and the same tick:", isSame, "at an even second:", job.Tick.getSeconds() % 2 === 0);

  // Whatever is thrown and not caught makes the run fail; State, Error and the history show it.
  if (job.Attempt <= 2) throw new Error("the server is busy");

  redis.Call("DEL", TICK);
  job.Disable();
  console.log("Status is", job.Status());
}
