// TextEncoder and TextDecoder of the Encoding standard. Left out: the stream classes.
//
// A TextDecoder that is fed piece by piece keeps the bytes of a character that is not complete yet (#left), and whether
// anything has been decoded since its stream began (#begun), since a byte order mark counts only there.
(native) => {
  const bytes = (call, input) => {
    if (input === undefined) return new Uint8Array();
    const view = ArrayBuffer.isView(input);
    const buffer = view ? input.buffer : input;
    if (!(buffer instanceof ArrayBuffer) && !(buffer instanceof SharedArrayBuffer)) {
      throw new TypeError(`${call}: argument 1 must be an ArrayBuffer or a view of one`);
    }
    if (buffer.detached) return new Uint8Array();
    return view ? new Uint8Array(buffer, input.byteOffset, input.byteLength) : new Uint8Array(buffer);
  };
  const options = (call, given) => {
    if (given === undefined || given === null) return {};
    if (typeof given !== "object" && typeof given !== "function") throw new TypeError(`${call}: argument 2 must be an object`);
    return given;
  };

  class TextEncoder {
    #self = true;
    get encoding() {
      return this.#self && "utf-8";
    }
    encode(input = "") {
      return this.#self && native("text.encode", `${input}`);
    }
    encodeInto(source, destination) {
      if (!(this.#self && destination instanceof Uint8Array)) {
        throw new TypeError("TextEncoder.encodeInto: argument 2 must be a Uint8Array");
      }
      const room = destination.length;
      const [encoded, read] = native("text.encodeUpTo", `${source}`.slice(0, room), room);
      destination.set(encoded);
      return { read, written: encoded.length };
    }
  }
  Object.defineProperty(TextEncoder.prototype, Symbol.toStringTag, { value: "TextEncoder", configurable: true });

  class TextDecoder {
    #encoding;
    #fatal;
    #ignoreBOM;
    #left;
    #begun = false;
    constructor(label = "utf-8", given = {}) {
      const { fatal, ignoreBOM } = options("TextDecoder", given);
      this.#encoding = native("text.encoding", `${label}`);
      if (this.#encoding === undefined) throw new RangeError(`TextDecoder: ${JSON.stringify(`${label}`)} is not a known encoding`);
      this.#fatal = Boolean(fatal);
      this.#ignoreBOM = Boolean(ignoreBOM);
    }
    get encoding() {
      return this.#encoding;
    }
    get fatal() {
      return this.#fatal;
    }
    get ignoreBOM() {
      return this.#ignoreBOM;
    }
    decode(input = undefined, given = {}) {
      const [encoding, left, begun] = [this.#encoding, this.#left, this.#begun];
      const stream = Boolean(options("TextDecoder.decode", given).stream);
      const piece = bytes("TextDecoder.decode", input);
      this.#left = undefined;
      this.#begun = false;
      const [decoded, rest] = native("text.decode", encoding, left, piece, this.#fatal, stream);
      if (stream) {
        this.#left = rest;
        this.#begun = begun || decoded !== "";
      }
      const marked = !begun && !this.#ignoreBOM && encoding.startsWith("utf-") && decoded.charCodeAt(0) === 0xfeff;
      return marked ? decoded.slice(1) : decoded;
    }
  }
  Object.defineProperty(TextDecoder.prototype, Symbol.toStringTag, { value: "TextDecoder", configurable: true });

  return { TextEncoder, TextDecoder };
}
