// What every scope has in JavaScript: functions of the host are leaves, which call no JavaScript, so whatever has to run
// functions, getters or conversions of the script does that here and gives a leaf what has come of it.
//
// Runs once, before any code of the script. What a leaf has to take apart is made of objects without a prototype and of rest
// arrays: all of their elements are their own, whatever the script has put on a prototype. What only some scripts need is
// compiled at its first use: `source` has its text, and `give` the leaves that it is given. `once` has those that are needed
// here and now.
//
// Returns what the host itself calls, each of them from outside of the script.
(source, give, isPlain, once) => {
  const world = globalThis;
  const compile = eval;
  const { defineProperty, keys } = Object;
  const define = (object, name, value, enumerable) =>
    defineProperty(object, name, { __proto__: null, value, enumerable, writable: true, configurable: true });
  const named = (f, name) => defineProperty(f, "name", { __proto__: null, value: name, configurable: true });
  const method = (object, name, f) => define(object, name, named(f, name), true);

  // Names and values of an object, its getters called, as a leaf can read them.
  const pairs = (object) => {
    const flat = { __proto__: null };
    const names = keys(object);
    let length = 0;
    for (let n = 0; n < names.length; n++) {
      flat[length++] = names[n];
      flat[length++] = object[names[n]];
    }
    flat.length = length;
    return flat;
  };
  const made = (name) => compile(`"use strict";${source(name)}`)(give(name), pairs, isPlain);

  // Globals that are made at their first use. One function both gets and sets: only who sets calls it with an argument.
  const lazy = (name, make) => {
    const access = (...given) => {
      const value = given.length ? given[0] : make(name);
      define(world, name, value, false);
      return value;
    };
    defineProperty(world, name, { __proto__: null, get: access, set: access, configurable: true });
  };
  // Those of one source, which need each other.
  const group = (from, names) => {
    let all;
    const one = (name) => (all ??= made(from))[name];
    for (let n = 0; n < names.length; n++) lazy(names[n], one);
    return () => (all ??= made(from));
  };

  let inspector;
  const inspect = () => (inspector ??= made("inspect"));

  const { log, isLogged, lineMax } = once.console;
  const console = {};
  const logger = (name) => method(console, name, (...given) => {
    let length = 0;
    for (let n = 0; n < given.length && length <= lineMax; n++) {
      const value = given[n];
      if (typeof value === "object" ? value !== null : typeof value === "function") {
        if (!isLogged(name)) return;
        length += (given[n] = inspect().text(value)).length;
      }
    }
    log(name, given);
  });
  logger("log");
  logger("info");
  logger("debug");
  logger("warn");
  logger("error");
  define(world, "console", console, true);

  // The await is what defers the function: no name of the script has a part in it.
  const { checked, failed } = once.microtask;
  const run = async (f) => {
    await undefined;
    try {
      f();
    } catch (error) {
      if (!failed(error)) {
        const parts = inspect().parts(error);
        failed(error, parts[0], parts[1], parts[2]);
      }
    }
  };
  method(world, "queueMicrotask", (f) => {
    run(checked(f));
  });

  group("url", ["URL", "URLSearchParams"]);
  group("text", ["TextEncoder", "TextDecoder"]);
  group("crypto", ["crypto"]);
  group("events", ["Event", "CustomEvent", "EventTarget", "AbortSignal", "AbortController"]);
  group("base64", ["atob", "btoa"]);
  lazy("structuredClone", made);
  let fetch;
  if (once.http) {
    lazy("http", made);
    fetch = group("fetch", ["fetch", "Headers", "Request", "Response"]);
  }
  let convert;
  if (once.redis) {
    const { redis, hsetFenced } = once.redis;
    method(redis, "HsetFenced", (key, fields) =>
      hsetFenced(key, fields, isPlain(fields) ? pairs(fields) : undefined));
    define(world, "redis", redis, true);
    lazy("RedisError", made);
    // A conversion has to give a primitive; an array reply is joined, as arrays are.
    ({ convert } = {
      convert() {
        const reply = this[0];
        return typeof reply === "object" && reply !== null ? `${reply}` : reply;
      },
    });
  }
  if (once.sql) lazy("sql", give);

  let escape;
  if (once.response) {
    const { response, write, error, escaped } = once.response;
    let toText;
    const text = (value) => (toText ??= made("objectToText"))(value);
    method(response, "Write", (value) => {
      if (write(value)) write(text(value));
    });
    method(response, "Error", (value, status) => {
      if (error(value, status)) error(text(value), status);
    });
    define(world, "response", response, true);
    escape = named((value) => {
      if (escaped(value)) escaped(text(value));
    }, "<?= ?>");
  }
  return { __proto__: null, text: (value) => inspect().text(value), convert, escape, fetch };
}
