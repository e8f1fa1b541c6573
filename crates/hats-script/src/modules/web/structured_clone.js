// structuredClone(value): the algorithm of the HTML standard for the types that this runtime has.
// Transfer lists are not supported.
(() => {
  const primitiveBoxes = [Boolean, Number, String, BigInt];
  const errors = { Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };

  function refuse(value) {
    const error = new Error(`${typeof value === "object" ? "this object" : String(value)} cannot be cloned`);
    error.name = "DataCloneError";
    throw error;
  }

  function clone(value, seen) {
    if (typeof value === "function" || typeof value === "symbol") refuse(value);
    if (typeof value !== "object" || value === null) return value;
    if (seen.has(value)) return seen.get(value);
    const keep = (copy) => (seen.set(value, copy), copy);

    if (value instanceof Date) return keep(new Date(value.getTime()));
    if (value instanceof RegExp) return keep(new RegExp(value.source, value.flags));
    if (value instanceof ArrayBuffer) return keep(value.slice(0));
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
    if (value instanceof Error) {
      const copy = keep(Object.create((errors[value.name] ?? Error).prototype));
      for (const name of ["message", "stack", "cause"]) {
        if (Object.hasOwn(value, name)) {
          Object.defineProperty(copy, name, {
            value: clone(value[name], seen), writable: true, configurable: true, enumerable: false,
          });
        }
      }
      return copy;
    }
    if (value instanceof WeakMap || value instanceof WeakSet || value instanceof WeakRef || value instanceof Promise) {
      refuse(value);
    }
    const copy = keep(Array.isArray(value) ? new Array(value.length) : {});
    for (const key of Object.keys(value)) copy[key] = clone(value[key], seen);
    return copy;
  }

  return function structuredClone(value) {
    if (arguments.length === 0) throw new TypeError("structuredClone: argument 1 is missing");
    return clone(value, new Map());
  };
})()
