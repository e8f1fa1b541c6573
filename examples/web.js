// Names of the web that every script has without an import. They are made when a script uses them for the first
// time, so that a script that does not use them pays nothing for them.

function init() {
  // URL takes an address apart, resolves relative ones and is changed in place; searchParams goes with it both ways.
  const url = new URL("../search?q=caf%C3%A9#results", "https://example.org/docs/api/");
  console.log("address:", url.href);
  console.log("query:", url.searchParams.get("q"));
  url.searchParams.set("page", "2");
  url.hash = "";
  console.log("next page:", `${url}`);
  console.log("is an address:", URL.canParse("https://example.org"), URL.canParse("example.org"));

  // Query strings and form bodies.
  const form = new URLSearchParams({ name: "Ada Lovelace", born: "1815" });
  form.append("tag", "a&b");
  console.log("form:", form.toString());

  // Text and bytes. Replies of Redis that are no text are such bytes, and so are arguments.
  const bytes = new TextEncoder().encode("naïve ☕");
  console.log("bytes:", bytes.length, "of", "naïve ☕".length, "characters");
  redis.Call("SET", "example:web", bytes);
  console.log("back:", redis.Call("GET", "example:web"));
  console.log("latin1:", new TextDecoder("iso-8859-1").decode(new Uint8Array([0x63, 0x61, 0x66, 0xe9])));

  // Bytes that come in pieces: a character that is not complete yet waits for the next piece.
  const decoder = new TextDecoder();
  const pieces = [bytes.subarray(0, 3), bytes.subarray(3, 8), bytes.subarray(8)];
  console.log("pieces:", pieces.map((piece) => decoder.decode(piece, { stream: true })).join("") + decoder.decode());

  console.log("base64:", btoa("hello"), atob("aGVsbG8="));
  try {
    atob("not base64!");
  } catch (e) {
    console.log("caught:", e.name);
  }

  // Random numbers that nobody can guess.
  console.log("uuid:", /^[0-9a-f-]{36}$/.test(crypto.randomUUID()));
  console.log("random bytes:", crypto.getRandomValues(new Uint8Array(16)).length);

  // A clock that never goes back, in milliseconds since this script has begun.
  const begun = performance.now();
  sleep(5);
  console.log("slept for 5 ms:", performance.now() - begun >= 5);

  // Cancelling: whoever has the signal learns of it, and why.
  const controller = new AbortController();
  controller.signal.addEventListener("abort", () => console.log("aborted:", controller.signal.reason.message));
  controller.abort(new Error("not needed any more"));

  const copy = structuredClone({ when: new Date(0), seen: new Set(["a"]) });
  console.log("copy:", copy);
  redis.Call("DEL", "example:web");
  console.log("web is done");
}
