// structuredClone(value, { transfer }): the algorithm of the HTML standard for the types that this runtime has. What can
// be transferred are ArrayBuffers: the copy is a copy, and the original is detached, which looks the same.
() => {
  const primitiveBoxes = [Boolean, Number, String, BigInt];
  const errors = new Map([Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError].map((e) => [e.name, e]));
  const uncloneable = [WeakMap, WeakSet, WeakRef, Promise];

  function refuse(value) {
    const what = typeof value === "object" ? "this object" : String(value);
    throw new DOMException(`structuredClone: ${what} cannot be cloned`, "DataCloneError");
  }

  function put(copy, key, value, enumerable = true) {
    Object.defineProperty(copy, key, { value, enumerable, writable: true, configurable: true });
  }

  function clone(value, seen) {
    if (typeof value === "function" || typeof value === "symbol") refuse(value);
    if (typeof value !== "object" || value === null) return value;
    if (seen.has(value)) return seen.get(value);
    const keep = (copy) => (seen.set(value, copy), copy);

    if (value instanceof Date) return keep(new Date(value.getTime()));
    if (value instanceof RegExp) return keep(new RegExp(value.source, value.flags));
    if (value instanceof SharedArrayBuffer) return keep(value);
    if (value instanceof ArrayBuffer) {
      if (value.detached) refuse(value);
      return keep(value.slice(0));
    }
    if (ArrayBuffer.isView(value)) {
      const buffer = clone(value.buffer, seen);
      const length = value instanceof DataView ? value.byteLength : value.length;
      return keep(new value.constructor(buffer, value.byteOffset, length));
    }
    if (primitiveBoxes.some((box) => value instanceof box)) return keep(Object(value.valueOf()));
    if (value instanceof Map) {
      const copy = keep(new Map());
      for (const [key, item] of [...value]) copy.set(clone(key, seen), clone(item, seen));
      return copy;
    }
    if (value instanceof Set) {
      const copy = keep(new Set());
      for (const item of [...value]) copy.add(clone(item, seen));
      return copy;
    }
    if (value instanceof DOMException) {
      const copy = keep(new DOMException(value.message, value.name));
      put(copy, "stack", value.stack, false);
      return copy;
    }
    if (value instanceof Error) {
      const copy = keep(new (errors.get(value.name) ?? Error)());
      for (const name of ["message", "stack", "cause"]) {
        if (name in value && (name !== "cause" || Object.hasOwn(value, name))) put(copy, name, clone(value[name], seen), false);
      }
      return copy;
    }
    if (uncloneable.some((type) => value instanceof type)) refuse(value);
    const copy = keep(Array.isArray(value) ? new Array(value.length) : {});
    for (const key of Object.keys(value)) put(copy, key, clone(value[key], seen));
    return copy;
  }

  return function structuredClone(value, options = {}) {
    if (arguments.length === 0) throw new TypeError("structuredClone: argument 1 is missing");
    const transfer = [...new Set(options?.transfer ?? [])];
    if (!transfer.every((buffer) => buffer instanceof ArrayBuffer && !buffer.detached)) {
      throw new DOMException("structuredClone: only an ArrayBuffer that is not detached can be transferred", "DataCloneError");
    }
    const copy = clone(value, new Map());
    transfer.forEach((buffer) => buffer.transfer());
    return copy;
  };
}
