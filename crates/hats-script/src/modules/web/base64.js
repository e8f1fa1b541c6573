// atob and btoa. What they are given is made text here.
(native) => {
  const text = (call, given) => {
    if (given.length === 0) throw new TypeError(`${call}: argument 1 must be a string, not undefined`);
    return `${given[0]}`;
  };
  const refuse = (message) => {
    throw new DOMException(message, "InvalidCharacterError");
  };
  return {
    atob: (...given) =>
      native("base64.decode", text("atob", given)) ?? refuse("atob: argument 1 is not correctly encoded base64"),
    btoa: (...given) =>
      native("base64.encode", text("btoa", given)) ??
      refuse("btoa: argument 1 has a character above U+00FF: encode it first, with TextEncoder for instance"),
  };
}
