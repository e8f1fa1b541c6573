// Objects as text, where a page writes them: what has nothing to say as text is JSON.
() => (value) => {
  const { toString } = value;
  const speaks =
    value[Symbol.toPrimitive] !== undefined ||
    (typeof toString === "function" && toString !== Object.prototype.toString && !Array.isArray(value));
  return speaks ? String(value) : JSON.stringify(value);
}
