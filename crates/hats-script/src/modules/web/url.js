// URL and URLSearchParams of the WHATWG URL standard. Left out: URL.createObjectURL and revokeObjectURL.
//
// A URL keeps the list of its parts as `native` gives them, in the order of PART. A URLSearchParams keeps names and
// values, one after the other; it may belong to a URL, and then each tells the other of its changes: a URL by `load`,
// its parameters by the function that `adopt` has given them.
//
// The engine keeps the text of a class with the class, so what there is to say of them is said here.
(native) => {
  const PART = {
    href: 0, origin: 1, protocol: 2, username: 3, password: 4, host: 5, hostname: 6, port: 7, pathname: 8, search: 9, hash: 10,
  };
  const IteratorPrototype = Object.getPrototypeOf(Object.getPrototypeOf([][Symbol.iterator]()));
  const text = (value) => `${value}`.toWellFormed();
  const need = (given, count, call) => {
    if (given < count) throw new TypeError(`${call}: argument ${given + 1} is missing`);
  };
  const parse = (url, base) => native("url.parse", text(url), base === undefined ? undefined : text(base));
  const optional = (value) => (value === undefined ? undefined : text(value));

  const ParamsIteratorPrototype = Object.create(IteratorPrototype, {
    [Symbol.toStringTag]: { value: "URLSearchParams Iterator", configurable: true },
  });
  const iterate = (listNow, pick) => {
    let n = 0;
    const next = () => {
      const list = listNow();
      if (n >= list.length) return { value: undefined, done: true };
      n += 2;
      return { value: pick(list[n - 2], list[n - 1]), done: false };
    };
    return Object.create(ParamsIteratorPrototype, {
      next: { value: next, writable: true, enumerable: true, configurable: true },
    });
  };

  const pairs = (init) => {
    const list = [];
    for (const pair of init) {
      const items = typeof pair === "object" && pair !== null ? [...pair] : [];
      if (items.length !== 2) throw new TypeError("URLSearchParams: argument 1 has an item that is no pair of a name and a value");
      list.push(text(items[0]), text(items[1]));
    }
    return list;
  };
  const record = (init) => {
    const map = new Map();
    for (const key of Reflect.ownKeys(init)) {
      if (Object.getOwnPropertyDescriptor(init, key)?.enumerable) map.set(text(key), text(init[key]));
    }
    return [...map].flat();
  };

  let adopt;
  let load;

  class URLSearchParams {
    #list;
    #changed;
    static {
      adopt = (params, changed) => { params.#changed = changed; };
      load = (params, query) => { params.#list = native("query.parse", query); };
    }
    constructor(init = "") {
      if ((typeof init !== "object" && typeof init !== "function") || init === null) {
        this.#list = native("query.parse", text(init).replace(/^\?/, ""));
      } else {
        this.#list = init[Symbol.iterator] != null ? pairs(init) : record(init);
      }
    }
    #update() {
      this.#changed?.(native("query.write", this.#list));
    }
    get size() {
      return this.#list.length / 2;
    }
    append(name, value) {
      const list = this.#list;
      need(arguments.length, 2, "URLSearchParams.append");
      list.push(text(name), text(value));
      this.#update();
    }
    delete(name, value = undefined) {
      const list = this.#list;
      need(arguments.length, 1, "URLSearchParams.delete");
      [name, value] = [text(name), optional(value)];
      for (let n = list.length - 2; n >= 0; n -= 2) {
        if (list[n] === name && (value === undefined || list[n + 1] === value)) list.splice(n, 2);
      }
      this.#update();
    }
    get(name) {
      const list = this.#list;
      need(arguments.length, 1, "URLSearchParams.get");
      name = text(name);
      for (let n = 0; n < list.length; n += 2) if (list[n] === name) return list[n + 1];
      return null;
    }
    getAll(name) {
      const list = this.#list;
      need(arguments.length, 1, "URLSearchParams.getAll");
      name = text(name);
      return list.filter((_, n) => n % 2 === 1 && list[n - 1] === name);
    }
    has(name, value = undefined) {
      const list = this.#list;
      need(arguments.length, 1, "URLSearchParams.has");
      [name, value] = [text(name), optional(value)];
      for (let n = 0; n < list.length; n += 2) {
        if (list[n] === name && (value === undefined || list[n + 1] === value)) return true;
      }
      return false;
    }
    set(name, value) {
      const list = this.#list;
      need(arguments.length, 2, "URLSearchParams.set");
      [name, value] = [text(name), text(value)];
      let first = -1;
      for (let n = list.length - 2; n >= 0; n -= 2) {
        if (list[n] !== name) continue;
        if (first >= 0) list.splice(first, 2);
        first = n;
      }
      if (first >= 0) list[first + 1] = value;
      else list.push(name, value);
      this.#update();
    }
    sort() {
      const sorted = [...this.entries()];
      sorted.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
      this.#list = sorted.flat();
      this.#update();
    }
    forEach(callback, thisArg = undefined) {
      if (typeof callback !== "function") throw new TypeError("URLSearchParams.forEach: argument 1 must be a function");
      for (let n = 0; n < this.#list.length; n += 2) callback.call(thisArg, this.#list[n + 1], this.#list[n], this);
    }
    entries() {
      return iterate(() => this.#list, (name, value) => [name, value]);
    }
    keys() {
      return iterate(() => this.#list, (name) => name);
    }
    values() {
      return iterate(() => this.#list, (_, value) => value);
    }
    toString() {
      return native("query.write", this.#list);
    }
  }
  Object.defineProperties(URLSearchParams.prototype, {
    [Symbol.iterator]: { value: URLSearchParams.prototype.entries, writable: true, configurable: true },
    [Symbol.toStringTag]: { value: "URLSearchParams", configurable: true },
  });

  let partOf;
  let change;

  class URL {
    #parts;
    #params;
    static {
      partOf = (url, part) => url.#parts[PART[part]];
      change = (url, part, value) => {
        const parts = native("url.set", url.#parts[PART.href], part, value);
        if (parts === undefined) throw new TypeError(`URL.${part}: ${JSON.stringify(value)} is not a valid URL`);
        url.#parts = parts;
        if (url.#params && (part === "href" || part === "search")) load(url.#params, parts[PART.search].slice(1));
      };
    }
    constructor(url, base = undefined) {
      need(arguments.length, 1, "URL");
      this.#parts = parse(url, base);
      if (this.#parts === undefined) {
        const against = base === undefined ? "" : `, relative to ${JSON.stringify(text(base))}`;
        throw new TypeError(`URL: ${JSON.stringify(text(url))} is not a valid URL${against}`);
      }
    }
    static canParse(url, base = undefined) {
      need(arguments.length, 1, "URL.canParse");
      return parse(url, base) !== undefined;
    }
    static parse(url, base = undefined) {
      need(arguments.length, 1, "URL.parse");
      const parts = parse(url, base);
      return parts === undefined ? null : new URL(parts[PART.href]);
    }
    get searchParams() {
      if (this.#params === undefined) {
        this.#params = new URLSearchParams(this.#parts[PART.search]);
        adopt(this.#params, (query) => {
          this.#parts = native("url.set", this.#parts[PART.href], "search", query);
        });
      }
      return this.#params;
    }
    toString() {
      return this.#parts[PART.href];
    }
    toJSON() {
      return this.#parts[PART.href];
    }
  }
  for (const part of Object.keys(PART)) {
    const accessor = {
      get [part]() { return partOf(this, part); },
      set [part](value) { change(this, part, text(value)); },
    };
    const { get, set } = Object.getOwnPropertyDescriptor(accessor, part);
    Object.defineProperty(URL.prototype, part, { get, set: part === "origin" ? undefined : set, configurable: true });
  }
  Object.defineProperty(URL.prototype, Symbol.toStringTag, { value: "URL", configurable: true });

  return { URL, URLSearchParams };
}
