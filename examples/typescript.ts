// TypeScript: the types are taken out when the script is registered and leave blanks, so errors name the right lines.
//
//     cargo run --release -p hats-worker -- --scripts examples/typescript.ts
//
// Nothing is compiled, so there are no enums, namespaces and parameter properties: `erasableSyntaxOnly` tells an editor.
// The types of everything that a script can call are what `hats-worker types` prints.

interface Reading {
  sensor: string;
  degrees: number;
}

type Summary = Record<string, { count: number; highest: number }>;

const LIST = "example:readings";

const readings: Reading[] = [
  { sensor: "roof", degrees: 21.5 },
  { sensor: "cellar", degrees: 12 },
  { sensor: "roof", degrees: 24 },
];

function init(): void {
  redis.Call("DEL", LIST);
  for (const reading of readings) redis.Call<number>("RPUSH", LIST, JSON.stringify(reading));
}

function summarize(texts: string[]): Summary {
  const summary: Summary = {};
  for (const text of texts) {
    const { sensor, degrees } = JSON.parse(text) as Reading;
    const known = (summary[sensor] ??= { count: 0, highest: -Infinity });
    known.count += 1;
    known.highest = Math.max(known.highest, degrees);
  }
  return summary;
}

function main() {
  const [texts, error] = redis.Do<string[]>("LRANGE", LIST, 0, -1);
  if (texts === null) throw new Error(error);
  console.log(summarize(texts));
  redis.Call("DEL", LIST);
  thread.Disable();
}
