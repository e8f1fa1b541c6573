// Event, CustomEvent, EventTarget, AbortSignal and AbortController of the DOM standard, as far as there are no trees:
// an event goes to its target and nowhere else. Left out: capturing and bubbling beyond what the flags say, the legacy
// names (initEvent, returnValue, srcElement), and every event but those that scripts and AbortSignal send.
//
// A listener that throws does not stop the others; its error is an uncaught one of the script.
//
// A signal that AbortSignal.any has made (a follower) is kept by what it follows only while somebody listens to it, or
// a signal that lives as long as a thread would collect those of all its calls.
() => {
  const need = (given, count, call) => {
    if (given < count) throw new TypeError(`${call}: argument ${given + 1} is missing`);
  };
  const tag = (constructor) => {
    Object.defineProperty(constructor.prototype, Symbol.toStringTag, { value: constructor.name, configurable: true });
  };
  const report = (error) => queueMicrotask(() => { throw error; });
  const abortError = () => new DOMException("The operation was aborted", "AbortError");
  const timeoutError = () => new DOMException("The operation took longer than its limit", "TimeoutError");

  let send;
  let trust;

  class Event {
    #type;
    #bubbles;
    #cancelable;
    #composed;
    #time = performance.now();
    #target = null;
    #phase = 0;
    #sending = false;
    #canceled = false;
    #stopped = false;
    #passive = false;
    #trusted = false;
    static {
      trust = (event) => { event.#trusted = true; return event; };
      send = (event, target, listeners, call) => {
        if (event.#sending) throw new DOMException("the event is being dispatched already", "InvalidStateError");
        event.#sending = true;
        event.#target = target;
        event.#phase = 2;
        for (const listener of listeners) {
          if (event.#stopped) break;
          event.#passive = listener.passive;
          try {
            call(listener);
          } catch (error) {
            report(error);
          }
        }
        event.#passive = event.#stopped = event.#sending = false;
        event.#phase = 0;
        return !event.#canceled;
      };
    }
    constructor(type, init = {}) {
      need(arguments.length, 1, "Event");
      this.#type = `${type}`;
      this.#bubbles = Boolean(init?.bubbles);
      this.#cancelable = Boolean(init?.cancelable);
      this.#composed = Boolean(init?.composed);
    }
    get type() { return this.#type; }
    get target() { return this.#target; }
    get currentTarget() { return this.#phase ? this.#target : null; }
    get eventPhase() { return this.#phase; }
    get bubbles() { return this.#bubbles; }
    get cancelable() { return this.#cancelable; }
    get composed() { return this.#composed; }
    get defaultPrevented() { return this.#canceled; }
    get isTrusted() { return this.#trusted; }
    get timeStamp() { return this.#time; }
    composedPath() { return this.#phase ? [this.#target] : []; }
    preventDefault() { if (this.#cancelable && !this.#passive) this.#canceled = true; }
    stopPropagation() {}
    stopImmediatePropagation() { this.#stopped = true; }
  }
  tag(Event);
  ["NONE", "CAPTURING_PHASE", "AT_TARGET", "BUBBLING_PHASE"].forEach((name, value) => {
    for (const place of [Event, Event.prototype]) Object.defineProperty(place, name, { value, enumerable: true });
  });

  class CustomEvent extends Event {
    #detail;
    constructor(type, init = {}) {
      need(arguments.length, 1, "CustomEvent");
      super(type, init);
      this.#detail = init?.detail ?? null;
    }
    get detail() { return this.#detail; }
  }
  tag(CustomEvent);

  let listensTo;

  class EventTarget {
    #listeners = [];
    static {
      listensTo = (target, type) => target.#listeners.some((listener) => listener.type === type);
    }
    addEventListener(type, callback, options = {}) {
      const listeners = this.#listeners;
      need(arguments.length, 2, "EventTarget.addEventListener");
      const { once, passive, signal } = Object(options);
      const capture = Boolean(typeof options === "object" ? options?.capture : options);
      type = `${type}`;
      if (signal !== undefined && !(signal instanceof AbortSignal)) {
        throw new TypeError("EventTarget.addEventListener: signal must be an AbortSignal");
      }
      if (callback === null || callback === undefined) return;
      if (typeof callback !== "function" && typeof callback !== "object") {
        throw new TypeError("EventTarget.addEventListener: argument 2 must be a function or an object");
      }
      if (signal?.aborted) return;
      if (listeners.some((known) => known.type === type && known.callback === callback && known.capture === capture)) return;
      listeners.push({ type, callback, capture, once: Boolean(once), passive: Boolean(passive), removed: false });
      signal?.addEventListener("abort", () => this.removeEventListener(type, callback, capture), { once: true });
    }
    removeEventListener(type, callback, options = {}) {
      const listeners = this.#listeners;
      need(arguments.length, 2, "EventTarget.removeEventListener");
      const capture = Boolean(typeof options === "object" ? options?.capture : options);
      const place = listeners.findIndex(
        (known) => known.type === `${type}` && known.callback === callback && known.capture === capture,
      );
      if (place >= 0) listeners.splice(place, 1)[0].removed = true;
    }
    dispatchEvent(event) {
      const listeners = this.#listeners;
      need(arguments.length, 1, "EventTarget.dispatchEvent");
      if (!(event instanceof Event)) throw new TypeError("EventTarget.dispatchEvent: argument 1 must be an Event");
      const concerned = listeners.filter((listener) => listener.type === event.type);
      concerned.sort((a, b) => b.capture - a.capture);
      return send(event, this, concerned, (listener) => {
        if (listener.removed) return;
        if (listener.once) this.removeEventListener(listener.type, listener.callback, listener.capture);
        if (typeof listener.callback === "function") listener.callback.call(this, event);
        else listener.callback.handleEvent(event);
      });
    }
  }
  tag(EventTarget);

  const key = {};
  let abort;
  let callHandler;

  class AbortSignal extends EventTarget {
    #aborted = false;
    #reason;
    #handler = null;
    #sources = [];
    #followers = [];
    #heard = new Set();
    static {
      callHandler = function (event) { this.#handler(event); };
      abort = (signal, reason) => {
        const all = [];
        const add = (one) => {
          if (one === undefined || one.#aborted) return;
          one.#aborted = true;
          one.#reason = reason;
          all.push(one);
          one.#followers.forEach((follower) => add(follower.deref()));
        };
        add(signal);
        for (const one of all) {
          one.dispatchEvent(trust(new Event("abort")));
          one.#sources = [];
          one.#followers = [];
          one.#heard.clear();
        }
      };
    }
    constructor(secret) {
      if (secret !== key) throw new TypeError("AbortSignal: use AbortController, or AbortSignal.abort, timeout or any");
      super();
    }
    #follow(source) {
      source.#followers = source.#followers.filter((follower) => follower.deref());
      source.#followers.push(new WeakRef(this));
      this.#sources.push(source);
    }
    #keep() {
      const listening = listensTo(this, "abort");
      for (const source of this.#sources) listening ? source.#heard.add(this) : source.#heard.delete(this);
    }
    addEventListener(...given) {
      super.addEventListener(...given);
      this.#keep();
    }
    removeEventListener(...given) {
      super.removeEventListener(...given);
      this.#keep();
    }
    get aborted() { return this.#aborted; }
    get reason() { return this.#reason; }
    get onabort() { return this.#handler; }
    set onabort(handler) {
      this.#handler = typeof handler === "function" ? handler : null;
      if (this.#handler) this.addEventListener("abort", callHandler);
      else this.removeEventListener("abort", callHandler);
    }
    throwIfAborted() { if (this.#aborted) throw this.#reason; }
    static abort(reason = abortError()) {
      const signal = new AbortSignal(key);
      abort(signal, reason);
      return signal;
    }
    static timeout(milliseconds) {
      need(arguments.length, 1, "AbortSignal.timeout");
      if (!(milliseconds >= 0 && milliseconds <= Number.MAX_SAFE_INTEGER)) {
        throw new TypeError("AbortSignal.timeout: argument 1 must be a number of milliseconds");
      }
      const signal = new AbortSignal(key);
      setTimeout(() => abort(signal, timeoutError()), milliseconds);
      return signal;
    }
    static any(signals) {
      need(arguments.length, 1, "AbortSignal.any");
      const sources = [...signals];
      if (!sources.every((source) => source instanceof AbortSignal)) {
        throw new TypeError("AbortSignal.any: argument 1 must be a list of AbortSignals");
      }
      const signal = new AbortSignal(key);
      const first = sources.find((source) => source.#aborted);
      if (first) abort(signal, first.#reason);
      else for (const source of new Set(sources)) signal.#follow(source);
      return signal;
    }
  }
  tag(AbortSignal);

  class AbortController {
    #signal = new AbortSignal(key);
    get signal() { return this.#signal; }
    abort(reason = abortError()) { abort(this.#signal, reason); }
  }
  tag(AbortController);

  return { Event, CustomEvent, EventTarget, AbortSignal, AbortController };
}
