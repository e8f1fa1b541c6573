// Redis from a script. Calls look synchronous: the reply is the return value, and while this script waits the
// worker runs its other threads.

const WORDS = "example:words";
const PERSON = "example:person";
const SEEN = "example:seen";

function init() {
  redis.Call("DEL", WORDS, PERSON, SEEN);

  // redis.Call returns the reply and throws RedisError.
  redis.Call("RPUSH", WORDS, "one", "two", "three");
  console.log("words:", redis.Call("LRANGE", WORDS, 0, -1).join(" "));
  console.log("how many:", redis.Call("LLEN", WORDS));

  // redis.Do returns [reply], or [null, error].
  const [value, error] = redis.Do("GET", WORDS);
  console.log("GET of a list:", value, "-", String(error).split(" ")[0]);

  // The array that Do returns turns into its reply where text or a number is wanted.
  console.log("in a template: " + `${redis.Do("LINDEX", WORDS, 0)}`);

  try {
    redis.Call("INCR", WORDS);
  } catch (e) {
    console.log("caught:", e.name);
  }

  // Replies have their RESP2 shapes: HGETALL is a flat list of names and values, nil is null.
  redis.Call("HSET", PERSON, "name", "Ada");
  console.log("person:", redis.Call("HGETALL", PERSON).join(", "));
  console.log("nobody:", redis.Call("HGET", PERSON, "died"));

  // Wait up to five seconds for an element. The empty string says that none came.
  console.log("popped:", redis.Blpop(5, WORDS));

  // A fenced write: refused if a later owner of this thread has written the hash since.
  const [fields, stale] = redis.HsetFenced(SEEN, { by: "redis.js", word: "one" });
  if (stale === undefined) console.log("fenced write of new fields:", fields);
  else console.log("refused:", stale);
  console.log("seen:", redis.Call("HMGET", SEEN, "by", "word").join(" "));

  redis.Call("DEL", WORDS, PERSON, SEEN);
  console.log("redis is done");
}
