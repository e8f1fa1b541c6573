// What the cases beside this file are evaluated on top of: `attempt` gives a value, or the error's name, as text that
// says its type. Nothing here is particular to this runtime.
const show = (value) => {
  if (typeof value === "string") return JSON.stringify(value).replaceAll("\ufeff", "\\ufeff");
  if (typeof value === "bigint") return `${value}n`;
  if (ArrayBuffer.isView(value)) return `${value.constructor.name}[${[...new Uint8Array(value.buffer, value.byteOffset, value.byteLength)]}]`;
  if (value instanceof ArrayBuffer) return `ArrayBuffer[${[...new Uint8Array(value)]}]`;
  if (Array.isArray(value)) return `[${value.map(show).join(", ")}]`;
  if (value instanceof Map) return `Map${show([...value])}`;
  if (value instanceof Set) return `Set${show([...value])}`;
  if (value instanceof Date) return `Date ${value.getTime()}`;
  if (value instanceof RegExp) return `${value}`;
  if (value instanceof DOMException) return `DOMException ${value.name} ${value.code}`;
  if (value instanceof Error) return `${value.name} ${show(value.message)}`;
  if (value !== null && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype) {
    return `{${Object.entries(value).map(([key, item]) => `${key}: ${show(item)}`).join(", ")}}`;
  }
  if (value !== null && typeof value === "object") return Object.prototype.toString.call(value);
  return String(value);
};
const attempt = async (f) => {
  try {
    return show(await f());
  } catch (error) {
    return error instanceof DOMException ? show(error) : error.name;
  }
};
// A function that calls another one for a caller that needs a value.
const effect = (value, ...functions) => (functions.forEach((f) => f(value)), value);
