// Values as text, for people: what `console` prints of objects, the result of a run, an error that is none.
//
// No `toString` of the script's is called if it can be helped, and whatever throws is shown as such: printing never fails. A
// leaf says what an object is and which properties it has; here they are looked at, since a getter may be behind each.
({ primitive, kind, prototype, keys, key, bytes, error }) => {
  const DEPTH_MAX = 4;
  const ITEMS_MAX = 100;
  // Beyond this an inspection stops; the log line is cut far earlier anyway.
  const LENGTH_MAX = 65536;
  const THROWS = "[throws]";

  let out = "";

  const string = (object, name) => {
    try {
      const value = object[name];
      return typeof value === "string" ? value : "";
    } catch {
      return "";
    }
  };
  const rest = (length) => {
    if (length > ITEMS_MAX) out += `, … ${length - ITEMS_MAX} more`;
  };
  const classOf = (object) => {
    try {
      const { constructor } = prototype(object);
      return typeof constructor === "function" || typeof constructor === "object" ? string(constructor, "name") : "";
    } catch {
      return "";
    }
  };
  const method = (object, name, otherwise) => {
    let text;
    try {
      text = object[name]();
    } catch {}
    out += typeof text === "string" ? text : otherwise;
  };

  // `path` are the objects that we are inside of, to find cycles.
  const show = (value, depth, path) => {
    if (out.length > LENGTH_MAX) return;
    if (typeof value === "object" ? value === null : typeof value !== "function") {
      out += primitive(value);
      return;
    }
    const what = kind(value);
    if (what === "proxy") {
      // Looking into it would run the script's traps.
      out += "[Proxy]";
      return;
    }
    for (let outer = path; outer !== null; outer = outer.path) {
      if (outer.value === value) {
        out += "[Circular]";
        return;
      }
    }
    if (what === "function") {
      const name = string(value, "name");
      out += name === "" ? "[Function]" : `[Function: ${name}]`;
      return;
    }
    if (what === "error") {
      out += error(string(value, "name"), string(value, "message"), string(value, "stack"));
      return;
    }
    if (depth >= DEPTH_MAX) {
      out += what === "array" ? "[Array]" : "[Object]";
      return;
    }
    const inner = { __proto__: null, value, path };
    if (what === "array") {
      items(value, depth, inner);
      return;
    }
    if (what === "bytes") {
      out += bytes(value);
      return;
    }
    const name = classOf(value);
    if (name === "Date") method(value, "toISOString", "Invalid Date");
    else if (name === "RegExp") method(value, "toString", "[RegExp]");
    else if (name === "Map" || name === "Set") entries(value, name, depth, inner);
    else if (name === "Promise") out += "[Promise]";
    else if (name === "URL" || name === "URLSearchParams") {
      out += `${name} `;
      method(value, "toString", "{}");
    } else properties(value, name, depth, inner);
  };

  // A property, whatever it is behind.
  const item = (object, name, depth, path) => {
    let value;
    try {
      value = object[name];
    } catch {
      out += THROWS;
      return;
    }
    show(value, depth + 1, path);
  };

  const items = (array, depth, path) => {
    const { length } = array;
    out += "[";
    for (let n = 0; n < length && n < ITEMS_MAX; n++) {
      if (n > 0) out += ", ";
      item(array, n, depth, path);
    }
    rest(length);
    out += "]";
  };

  const entries = (collection, name, depth, path) => {
    let all;
    try {
      all = [...collection];
    } catch {
      out += THROWS;
      return;
    }
    const { length } = all;
    out += `${name}(${length}) {`;
    for (let n = 0; n < length && n < ITEMS_MAX; n++) {
      out += n > 0 ? ", " : " ";
      const entry = all[n];
      if (name === "Map" && kind(entry) === "array") {
        item(entry, 0, depth, path);
        out += " => ";
        item(entry, 1, depth, path);
      } else show(entry, depth + 1, path);
    }
    rest(length);
    out += length > 0 ? " }" : "}";
  };

  const properties = (object, name, depth, path) => {
    if (name !== "" && name !== "Object") out += `${name} `;
    out += "{";
    // How many there are, and the first of them.
    const known = keys(object, ITEMS_MAX);
    const count = known[0];
    for (let n = 1; n < known.length; n++) {
      out += n > 1 ? ", " : " ";
      out += key(known[n]);
      item(object, known[n], depth, path);
    }
    rest(count);
    out += count > 0 ? " }" : "}";
  };

  // A getter may print something itself.
  const text = (value) => {
    if (typeof value === "string") return value;
    const before = out;
    out = "";
    try {
      show(value, 0, null);
      return out;
    } catch {
      return "[unreadable]";
    } finally {
      out = before;
    }
  };

  // Name, message and stack of an error, all three undefined if a thrown value is none; then the message says what it is.
  const parts = (thrown) => {
    if (kind(thrown) !== "error") return [undefined, text(thrown), undefined];
    const part = (name) => {
      try {
        const value = thrown[name];
        return value === undefined ? "" : text(value);
      } catch {
        return "";
      }
    };
    return [part("name"), part("message"), part("stack")];
  };

  return { __proto__: null, text, parts };
}
