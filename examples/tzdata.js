// Counts the records of a real file, exactly once, whatever happens to the workers.
//
// examples/data/load.sh pushes the 4,600 lines of the IANA time zone source into a Redis list. Any number of
// threads with this source drain it together, on any number of workers. Kill workers as you like: at the end the
// counters equal what examples/data/count.sh finds in the file.
//
//   {tz}:queue                what is still to be done
//   {tz}:taken:<thread key>   what this thread has taken and not yet counted
//   {tz}:counts               the counters, a hash
//   {tz}:epochs               the newest epoch of each thread that has counted, a hash
//   {tz}:progress:<thread key> what the thread's present owner has done, for people
//
// (The braces put all of them on one node of a Redis Cluster, so that one Lua script may touch them together.)
//
// A worker can die between any two lines of this script, so three things have to be true:
//
// 1. Taking loses nothing. LMOVE takes a record from the queue and puts it on a list of this thread's own in one
//    step. At every moment a record is in the queue, or on one such list, or counted. The list is named after the
//    thread and not after the worker: whoever runs this thread next finds it, and settle() counts what lies there.
// 2. Counting is one step. COUNT removes the record from the list and raises the counters in one Lua script, and
//    it raises them only if the record was there to remove. Sent twice, or sent again because the reply was lost,
//    it counts once.
// 3. An owner of the past changes nothing. A worker may freeze with a request on its way and wake up after the
//    thread has moved: no lease can call that request back. So COUNT shows thread.Epoch, which rises with every
//    new owner, and Redis refuses an epoch older than the newest it has seen.

const QUEUE = "{tz}:queue";
const TAKEN = `{tz}:taken:${thread.Key}`;
const COUNTS = "{tz}:counts";
const EPOCHS = "{tz}:epochs";
const PROGRESS = `{tz}:progress:${thread.Key}`;

// KEYS: taken, counts, epochs. ARGV: thread key, epoch, record, counter, counter, …
// Returns 1 if the record was counted, 0 if it had been counted before.
const COUNT = `
local newest = tonumber(redis.call('HGET', KEYS[3], ARGV[1]) or '0')
if tonumber(ARGV[2]) < newest then
  return redis.error_reply('STALE a later owner of this thread has counted')
end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
if redis.call('LREM', KEYS[1], 1, ARGV[3]) == 0 then return 0 end
for i = 4, #ARGV do redis.call('HINCRBY', KEYS[2], ARGV[i], 1) end
return 1
`;

let done = 0; // counted under this owner
let reported = -1;

function init() {
  // What an earlier owner of this thread had taken when it died.
  const found = settle();
  if (found > 0) console.log("recovered", found, "records of an earlier owner");
}

function main() {
  const record = redis.Call("LMOVE", QUEUE, TAKEN, "LEFT", "RIGHT");
  if (record === null) {
    report();
    sleep(200); // the queue is empty: look again in a while
    return;
  }
  settle();
  if (done % 100 === 0) report();
}

function cleanup() {
  report();
}

// Counts whatever lies on this thread's list, oldest first, rather than the record that main() has just taken. The
// list is the truth: it may also hold a record whose LMOVE was answered too late to be noticed.
function settle() {
  let counted = 0;
  for (;;) {
    const record = redis.Call("LINDEX", TAKEN, 0);
    if (record === null) break;
    const owner = [thread.Key, thread.Epoch];
    counted += redis.Call("EVAL", COUNT, 3, TAKEN, COUNTS, EPOCHS, ...owner, record, ...countersOf(record));
  }
  done += counted;
  return counted;
}

// A record is "<line number> <line>". The first word of a line says what it is: R is a rule, Z begins a zone, L is
// another name for a zone, anything else continues the zone above it.
function countersOf(record) {
  const [, word, second, third] = record.split(" ");
  switch (word) {
    case "R":
      return ["records", "rules", `rules ${second}`];
    case "Z":
      return ["records", "zones", `zones ${area(second)}`];
    case "L":
      return ["records", "links", `links ${area(third)}`];
    default:
      return ["records", "continuations"];
  }
}

function area(zone) {
  return zone.includes("/") ? zone.split("/")[0] : "(none)";
}

// Two owners that both write "done: n" do overwrite each other, so here the fence alone keeps an old owner's figure
// from replacing a newer one. redis.HsetFenced does it for any hash without a line of Lua.
function report() {
  if (done === reported) return;
  redis.HsetFenced(PROGRESS, { done, worker: worker.Name });
  reported = done;
}
