// Logs each global that is really there, with its members, one a line, as compiler.cjs tells what is declared.

const own = Object.getOwnPropertyNames;
// Those of errors are the language's, and DOMException has a constant for each code.
const errors = new Set(["constructor", "name", "message", "stack", "cause"]);
const isIgnored = (name) => errors.has(name) || name.endsWith("_ERR");
const ends = new Set([null, Object.prototype, Function.prototype, Error, Error.prototype]);

function members(object) {
  const found = new Set();
  for (let at = object; !ends.has(at); at = Object.getPrototypeOf(at)) {
    for (const name of own(at)) if (!isIgnored(name)) found.add(name);
    if (Object.hasOwn(at, Symbol.iterator)) found.add("@@iterator");
  }
  return [...found].sort();
}

function isClass(value) {
  if (typeof value !== "function" || typeof value.prototype !== "object") return false;
  return own(value.prototype).length > 1 || Object.getPrototypeOf(value.prototype) !== Object.prototype;
}

function show(name, list) {
  console.log(JSON.stringify([name, list]));
}

// Functions of this file are globals too.
const mine = new Set(["members", "isClass", "show", "main"]);

for (const name of own(globalThis)) {
  if (mine.has(name)) continue;
  const value = globalThis[name];
  if (isClass(value)) {
    show(name, members(value.prototype));
    show(`static ${name}`, members(value).filter((key) => key !== "length" && key !== "prototype"));
  } else {
    show(name, typeof value === "function" || Object(value) !== value ? [] : members(value));
  }
}
if (typeof sql !== "undefined") {
  const db = sql.New(":memory:", "sqlite");
  show("type Hats.Database", members(db));
  db.Close();
}
console.log("done");

function main() {
  thread.Disable();
}
