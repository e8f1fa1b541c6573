// crypto of the Web Cryptography standard: getRandomValues and randomUUID. Left out: subtle.
(native) => {
  const { get: kind } = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(Uint8Array.prototype), Symbol.toStringTag);
  const BYTES_MAX = 65536;

  class Crypto {
    #self = true;
    getRandomValues(array) {
      if (!(this.#self && ArrayBuffer.isView(array))) {
        throw new TypeError("crypto.getRandomValues: argument 1 must be a typed array of integers");
      }
      if (!/^(Big)?(Int|Uint)/.test(kind.call(array))) {
        throw new DOMException("crypto.getRandomValues: argument 1 must be a typed array of integers", "TypeMismatchError");
      }
      if (array.byteLength > BYTES_MAX) {
        throw new DOMException(`crypto.getRandomValues: at most ${BYTES_MAX} bytes are given at once, not ${array.byteLength}`, "QuotaExceededError");
      }
      const random = native("crypto.random", array.byteLength);
      new Uint8Array(array.buffer, array.byteOffset, array.byteLength).set(random);
      return array;
    }
    randomUUID() {
      return this.#self && native("crypto.uuid");
    }
  }
  Object.defineProperty(Crypto.prototype, Symbol.toStringTag, { value: "Crypto", configurable: true });

  return { crypto: new Crypto() };
}
