// http, around leaves that send. Options and forms are read here, since a getter may be behind each part of them, and given to
// the leaf as a list of parts: what it is (a form's field, an option, a header), a name, a value.
(leaf, pairs, isPlain) => {
  const { isArray } = Array;
  const { defineProperty } = Object;

  // A value, or each item of an array. What is no text ends it: the leaf will say so.
  const addEach = (list, what, name, value) => {
    if (!isArray(value)) {
      add(list, what, name, value);
      return;
    }
    const { length } = value;
    for (let n = 0; n < length; n++) {
      const item = value[n];
      const type = typeof item;
      if (type !== "string" && type !== "number" && type !== "bigint" && type !== "boolean") {
        add(list, what, name, value);
        return;
      }
      add(list, what, name, item);
    }
  };
  const add = (list, what, name, value) => {
    let { length } = list;
    list[length++] = what;
    list[length++] = name;
    list[length++] = value;
    list.length = length;
  };

  const call = (send, hasBody, isForm) => (...given) => {
    const list = { __proto__: null, length: 0 };
    const body = hasBody ? given[1] : undefined;
    const options = given[hasBody ? 2 : 1];
    if (isForm && isPlain(body)) {
      const fields = pairs(body);
      for (let n = 0; n < fields.length; n += 2) addEach(list, "field", fields[n], fields[n + 1]);
    }
    if (isPlain(options)) {
      const parts = pairs(options);
      for (let n = 0; n < parts.length; n += 2) {
        const name = parts[n], value = parts[n + 1];
        add(list, "option", name, value);
        if (name === "headers" && isPlain(value)) {
          const headers = pairs(value);
          for (let i = 0; i < headers.length; i += 2) addEach(list, "header", headers[i], headers[i + 1]);
        }
      }
    }
    const result = send(given[0], body, options, list);
    // A body that is text says all: its bytes are made when they are asked for, so that nothing is kept twice. They are not
    // enumerable, so that a result as JSON, or in the log, is no longer than it was without them.
    const text = list.text;
    if (text !== undefined) {
      const fix = (value) => {
        defineProperty(result, "bytes", { __proto__: null, value, writable: true, configurable: true });
        return value;
      };
      defineProperty(result, "bytes", { __proto__: null, get: () => fix(leaf.utf8(text)), set: fix, configurable: true });
    }
    return result;
  };

  const { Get, Head, Delete, Post, Put, Patch, PostForm } = leaf;
  return {
    Get: call(Get), Head: call(Head), Delete: call(Delete), Post: call(Post, true), Put: call(Put, true),
    Patch: call(Patch, true), PostForm: call(PostForm, true, true),
  };
}
