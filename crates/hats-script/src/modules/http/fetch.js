// fetch and what belongs to it, to the extent that common code uses. Evaluated at the first use of any of its names,
// with the host's part as argument. Left out: streams (`body`), Blob, FormData, caches, credentials and modes. The
// promise of fetch is resolved when the whole body is there.
(native) => {
  const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
  const nullStatuses = [101, 103, 204, 205, 304];
  const inner = Symbol("inner");
  const hidden = (object, name, value) => Object.defineProperty(object, name, { value });

  // Names in lower case, each with its list of values.
  class Headers {
    constructor(init) {
      hidden(this, inner, new Map());
      if (init === undefined || init === null) return;
      if (typeof init !== "object") throw new TypeError("Headers: argument 1 must be an object or an array of pairs");
      if (init instanceof Headers) {
        for (const [name, values] of init[inner]) this[inner].set(name, [...values]);
      } else if (typeof init[Symbol.iterator] === "function") {
        for (const pair of init) {
          const parts = [...pair];
          if (parts.length !== 2) throw new TypeError("Headers: each header must be a pair of name and value");
          this.append(parts[0], parts[1]);
        }
      } else {
        for (const name of Object.keys(init)) this.append(name, init[name]);
      }
    }
    append(name, value) {
      const key = nameOf("append", name), text = valueOf("append", value);
      const values = this[inner].get(key);
      if (values) values.push(text);
      else this[inner].set(key, [text]);
    }
    set(name, value) {
      this[inner].set(nameOf("set", name), [valueOf("set", value)]);
    }
    get(name) {
      return this[inner].get(nameOf("get", name))?.join(", ") ?? null;
    }
    has(name) {
      return this[inner].has(nameOf("has", name));
    }
    delete(name) {
      this[inner].delete(nameOf("delete", name));
    }
    getSetCookie() {
      return [...(this[inner].get("set-cookie") ?? [])];
    }
    forEach(callback, self) {
      if (typeof callback !== "function") throw new TypeError("Headers.forEach: argument 1 must be a function");
      for (const [name, value] of this) callback.call(self, value, name, this);
    }
    *entries() {
      for (const name of [...this[inner].keys()].sort()) {
        const values = this[inner].get(name) ?? [];
        if (name !== "set-cookie") yield [name, values.join(", ")];
        else for (const value of values) yield [name, value];
      }
    }
    *keys() {
      for (const [name] of this) yield name;
    }
    *values() {
      for (const [, value] of this) yield value;
    }
    get [Symbol.toStringTag]() {
      return "Headers";
    }
  }
  Object.defineProperty(Headers.prototype, Symbol.iterator, {
    value: Headers.prototype.entries, writable: true, configurable: true,
  });

  function nameOf(method, name) {
    const text = String(name);
    if (!token.test(text)) throw new TypeError(`Headers.${method}: ${JSON.stringify(text)} is no name of a header`);
    return text.toLowerCase();
  }

  function valueOf(method, value) {
    const text = String(value).replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, "");
    if (/[\0\n\r]/.test(text)) {
      throw new TypeError(`Headers.${method}: the value has a character that no header can have`);
    }
    return text;
  }

  // A body is a string or a Uint8Array, or null if there is none. What the caller may still change is copied.
  function bodyOf(body) {
    if (body === undefined || body === null) return [null, null];
    if (typeof body === "object") {
      if (body instanceof ArrayBuffer) return [new Uint8Array(body.slice(0)), null];
      if (ArrayBuffer.isView(body)) {
        const bytes = new Uint8Array(body.buffer, body.byteOffset, body.byteLength);
        return [new Uint8Array(bytes), null];
      }
      if (typeof URLSearchParams === "function" && body instanceof URLSearchParams) {
        return [String(body), "application/x-www-form-urlencoded;charset=UTF-8"];
      }
    }
    return [String(body), "text/plain;charset=UTF-8"];
  }

  // What Request and Response have in common.
  class Body {
    get bodyUsed() {
      return this[inner].used;
    }
    async text() {
      const body = take(this, "text");
      const text = typeof body === "string" ? body : native.text(body);
      return text.startsWith("\ufeff") ? text.slice(1) : text;
    }
    async json() {
      return JSON.parse(await this.text());
    }
    async bytes() {
      const body = take(this, "bytes");
      return typeof body === "string" ? native.utf8(body) : body;
    }
    async arrayBuffer() {
      return (await this.bytes()).buffer;
    }
  }

  function take(owner, method) {
    const state = owner[inner];
    if (state.body === null) return "";
    if (state.used) throw new TypeError(`${owner.constructor.name}.${method}: the body has been used already`);
    state.used = true;
    const body = state.body;
    state.body = "";
    return body;
  }

  function copyOf(owner, method) {
    if (owner[inner].used) throw new TypeError(`${method}: the body has been used already`);
    const body = owner[inner].body;
    return typeof body === "object" && body !== null ? new Uint8Array(body) : body;
  }

  // Whoever made it: what matters is that it tells.
  function isSignal(signal) {
    if (typeof signal !== "object" || typeof signal.aborted !== "boolean") return false;
    return typeof signal.addEventListener === "function";
  }

  class Request extends Body {
    constructor(input, init) {
      super();
      const from = input instanceof Request ? input : null;
      const options = init ?? {};
      if (typeof options !== "object") throw new TypeError("Request: argument 2 must be an object");
      const method = String(options.method ?? from?.method ?? "GET");
      if (!token.test(method)) throw new TypeError(`Request: ${JSON.stringify(method)} is no method`);
      const upper = method.toUpperCase();
      if (["CONNECT", "TRACE", "TRACK"].includes(upper)) throw new TypeError(`Request: ${upper} is not available`);
      const common = ["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"].includes(upper);
      const redirect = options.redirect ?? from?.redirect ?? "follow";
      if (!["follow", "manual", "error"].includes(redirect)) {
        throw new TypeError(`Request: redirect must be "follow", "manual" or "error", not ${JSON.stringify(redirect)}`);
      }
      const signal = options.signal === undefined ? from?.signal ?? null : options.signal;
      if (signal !== null && !isSignal(signal)) throw new TypeError("Request: signal must be an AbortSignal");
      const headers = new Headers(options.headers ?? from?.headers);
      let [body, type] = bodyOf(options.body);
      if (body === null && from && options.body === undefined && from[inner].body !== null) {
        body = take(from, "body");
      }
      if (body !== null && (upper === "GET" || upper === "HEAD")) {
        throw new TypeError(`Request: a ${upper} request has no body`);
      }
      if (type !== null && !headers.has("content-type")) headers.set("content-type", type);
      const timeoutMs = options.timeoutMs ?? from?.[inner].timeoutMs;
      if (timeoutMs !== undefined && !(typeof timeoutMs === "number" && timeoutMs > 0 && timeoutMs <= 86400000)) {
        throw new TypeError("Request: timeoutMs must be a number of milliseconds up to a day");
      }
      const url = from ? from.url : native.url(String(input));
      hidden(this, inner, {
        url, method: common ? upper : method, headers, redirect, signal, timeoutMs, body, used: false,
      });
    }
    get url() { return this[inner].url; }
    get method() { return this[inner].method; }
    get headers() { return this[inner].headers; }
    get redirect() { return this[inner].redirect; }
    get signal() { return this[inner].signal ??= new AbortController().signal; }
    clone() {
      const body = copyOf(this, "Request.clone");
      const copy = new Request(this.url, {
        method: this.method, headers: this.headers, redirect: this.redirect, signal: this[inner].signal,
        timeoutMs: this[inner].timeoutMs,
      });
      copy[inner].body = body;
      if (this[inner] instanceof Incoming) Object.assign(copy, { params: this.params, Params: this.Params });
      return copy;
    }
    get [Symbol.toStringTag]() {
      return "Request";
    }
  }

  class Response extends Body {
    constructor(body, init) {
      super();
      const options = init ?? {};
      if (typeof options !== "object") throw new TypeError("Response: argument 2 must be an object");
      const status = options.status === undefined ? 200 : Number(options.status);
      if (!(Number.isInteger(status) && status >= 200 && status <= 599)) {
        throw new RangeError(`Response: status must be from 200 to 599, not ${String(options.status)}`);
      }
      const statusText = options.statusText === undefined ? "" : String(options.statusText);
      const headers = new Headers(options.headers);
      const [content, type] = bodyOf(body);
      if (content !== null && nullStatuses.includes(status)) {
        throw new TypeError(`Response: one with status ${status} has no body`);
      }
      if (type !== null && !headers.has("content-type")) headers.set("content-type", type);
      hidden(this, inner, {
        status, statusText, headers, body: content, used: false, url: "", redirected: false, type: "default",
      });
    }
    static json(data, init) {
      const text = JSON.stringify(data);
      if (text === undefined) throw new TypeError("Response.json: argument 1 cannot be written as JSON");
      const headers = new Headers(init?.headers);
      if (!headers.has("content-type")) headers.set("content-type", "application/json");
      return new Response(text, { ...init, headers });
    }
    static error() {
      const response = new Response();
      Object.assign(response[inner], { status: 0, type: "error" });
      return response;
    }
    static redirect(url, status = 302) {
      if (![301, 302, 303, 307, 308].includes(status)) {
        throw new RangeError(`Response.redirect: status must be that of a redirect, not ${String(status)}`);
      }
      return new Response(null, { status, headers: { location: native.location(String(url)) } });
    }
    get ok() { return this.status >= 200 && this.status <= 299; }
    get status() { return this[inner].status; }
    get statusText() { return this[inner].statusText; }
    get headers() { return this[inner].headers; }
    get url() { return this[inner].url; }
    get redirected() { return this[inner].redirected; }
    get type() { return this[inner].type; }
    clone() {
      const body = copyOf(this, "Response.clone");
      const copy = new Response();
      Object.assign(copy[inner], this[inner], { headers: new Headers(this.headers), body });
      return copy;
    }
    get [Symbol.toStringTag]() {
      return "Response";
    }
  }

  // What is behind a request to an endpoint. Headers and body are asked for at their first use.
  class Incoming {
    constructor(method, url) {
      Object.assign(this, { method, url, redirect: "follow", signal: null, timeoutMs: undefined, used: false });
    }
    get headers() {
      const headers = new Headers();
      const flat = native.incomingHeaders();
      for (let n = 0; n < flat.length; n += 2) {
        const values = headers[inner].get(flat[n]);
        if (values) values.push(flat[n + 1]);
        else headers[inner].set(flat[n], [flat[n + 1]]);
      }
      hidden(this, "headers", headers);
      return headers;
    }
    get body() {
      const body = native.incomingBody();
      this.body = body;
      return body;
    }
    set body(value) {
      Object.defineProperty(this, "body", { value, writable: true });
    }
  }

  // What a handler is given.
  function incoming() {
    const [method, url, params] = native.incoming();
    const request = Object.create(Request.prototype);
    hidden(request, inner, new Incoming(method, url));
    request.params = request.Params = params;
    return request;
  }

  // The parts of what a handler has returned; nothing if that is no Response.
  function outgoing(response) {
    if (!(response instanceof Response) || !response[inner]) return undefined;
    const { status, headers, body, used, type } = response[inner];
    if (type === "error") throw new TypeError("the handler returned Response.error(), which is no answer");
    if (used) throw new TypeError("the handler returned a Response whose body has been used already");
    const flat = [];
    for (const [name, values] of headers[inner]) {
      for (const value of values) flat.push(name, value);
    }
    return [status, flat, body];
  }

  function fetch(input, init) {
    // Whatever is wrong with the arguments is told by the promise, as on the web.
    return new Promise((resolve, reject) => {
      const request = new Request(input, init);
      const { url, method, redirect, signal, timeoutMs } = request[inner];
      if (signal?.aborted) throw signal.reason;
      const headers = [];
      for (const [name, values] of request[inner].headers[inner]) {
        for (const value of values) headers.push(name, value);
      }
      const body = request[inner].body === null ? undefined : take(request, "body");
      let done, broken;
      const answer = new Promise((resolve, reject) => { done = resolve; broken = reject; });
      const number = native.send(method, url, headers, body, redirect, timeoutMs, done, broken);
      const aborted = () => {
        native.abort(number);
        reject(signal.reason);
      };
      signal?.addEventListener("abort", aborted);
      answer.then(([status, statusText, flat, content, finalUrl, redirected]) => {
        signal?.removeEventListener("abort", aborted);
        const response = new Response();
        const list = response.headers;
        for (let n = 0; n < flat.length; n += 2) {
          const values = list[inner].get(flat[n]);
          if (values) values.push(flat[n + 1]);
          else list[inner].set(flat[n], [flat[n + 1]]);
        }
        const empty = method === "HEAD" || nullStatuses.includes(status);
        Object.assign(response[inner], {
          status, statusText, body: empty ? null : content, url: finalUrl, redirected, type: "basic",
        });
        resolve(response);
      }, (error) => {
        signal?.removeEventListener("abort", aborted);
        reject(error);
      });
    });
  }

  return { fetch, Headers, Request, Response, incoming, outgoing };
}
