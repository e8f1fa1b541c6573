// AbortController and AbortSignal, as far as fetch needs them: events are plain objects, and there is no EventTarget.
() => {
  const inner = Symbol("inner");
  const hidden = (object, name, value) => Object.defineProperty(object, name, { value });

  let mayConstruct = false;

  function makeSignal() {
    mayConstruct = true;
    try {
      return new AbortSignal();
    } finally {
      mayConstruct = false;
    }
  }

  function abort(signal, reason) {
    const state = signal[inner];
    if (state.aborted) return;
    state.aborted = true;
    state.reason = reason === undefined ? new DOMException("the operation was aborted", "AbortError") : reason;
    const event = { type: "abort", target: signal, currentTarget: signal };
    const listeners = [...state.listeners];
    state.listeners.length = 0;
    const all = typeof state.onabort === "function" ? [state.onabort, ...listeners] : listeners;
    for (const listener of all) {
      // One that throws keeps no other from hearing of it; its error is that of the script all the same.
      try {
        if (typeof listener === "function") listener.call(signal, event);
        else listener.handleEvent(event);
      } catch (error) {
        Promise.reject(error);
      }
    }
  }

  class AbortSignal {
    constructor() {
      if (!mayConstruct) throw new TypeError("AbortSignal: use AbortController, or AbortSignal.timeout");
      hidden(this, inner, { aborted: false, reason: undefined, onabort: null, listeners: [] });
    }
    static abort(reason) {
      const signal = makeSignal();
      abort(signal, reason);
      return signal;
    }
    static timeout(ms) {
      if (!(typeof ms === "number" && ms >= 0)) {
        throw new TypeError("AbortSignal.timeout: argument 1 must be a number of milliseconds");
      }
      const signal = makeSignal();
      setTimeout(() => abort(signal, new DOMException("the time is over", "TimeoutError")), ms);
      return signal;
    }
    static any(signals) {
      const signal = makeSignal();
      const all = [...signals];
      const first = all.find((source) => source.aborted);
      if (first) abort(signal, first.reason);
      else for (const source of all) source.addEventListener("abort", () => abort(signal, source.reason));
      return signal;
    }
    get aborted() { return this[inner].aborted; }
    get reason() { return this[inner].reason; }
    get onabort() { return this[inner].onabort; }
    set onabort(listener) { this[inner].onabort = typeof listener === "function" ? listener : null; }
    throwIfAborted() {
      if (this.aborted) throw this.reason;
    }
    addEventListener(type, listener) {
      const { listeners } = this[inner];
      const callable = typeof listener === "function" || typeof listener?.handleEvent === "function";
      if (type === "abort" && callable && !listeners.includes(listener)) listeners.push(listener);
    }
    removeEventListener(type, listener) {
      const { listeners } = this[inner];
      const place = listeners.indexOf(listener);
      if (type === "abort" && place >= 0) listeners.splice(place, 1);
    }
    get [Symbol.toStringTag]() {
      return "AbortSignal";
    }
  }

  class AbortController {
    constructor() {
      hidden(this, inner, makeSignal());
    }
    get signal() { return this[inner]; }
    abort(reason) { abort(this[inner], reason); }
    get [Symbol.toStringTag]() {
      return "AbortController";
    }
  }

  return { AbortController, AbortSignal };
}
