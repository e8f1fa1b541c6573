/**
 * What scripts of hats-worker can call beside the language itself (ES2023), for editors and type checkers.
 *
 * Put a copy beside your scripts and name it in their `tsconfig.json` or `jsconfig.json`:
 *
 * ```json
 * {
 *   "compilerOptions": {
 *     "lib": ["es2023"], "types": [], "module": "esnext", "moduleResolution": "bundler",
 *     "allowJs": true, "checkJs": true, "noEmit": true, "allowImportingTsExtensions": true,
 *     "erasableSyntaxOnly": true, "verbatimModuleSyntax": true
 *   },
 *   "include": ["hats.d.ts", "*.js", "*.ts"]
 * }
 * ```
 *
 * Calls look synchronous and never block other scripts. Wrong arguments throw a `TypeError` that names the call and the
 * argument. Names are there in every kind of task unless they say otherwise. *Live* properties are read anew at each use.
 */

/** Environment variables, with an overlay that the scripts of a worker share. */
declare const env: Hats.Env;

/** The worker that runs this script. */
declare const worker: Hats.Worker;

/** The thread that this script is the body of. In threads only; in jobs it is another name of {@link job}. */
declare const thread: Hats.Thread;

/** The job that this script is the body of. In jobs only. */
declare const job: Hats.Job;

/** Commands to the Redis of the cluster. */
declare const redis: Hats.Redis;

/** HTTP requests. A failure is a value and never thrown. */
declare const http: Hats.Http;

/** Databases: MySQL and MariaDB, PostgreSQL, SQLite. */
declare const sql: Hats.Sql;

/** The request that this script answers. In endpoints only, where there is neither {@link thread} nor {@link job}. */
declare const request: Hats.EndpointRequest;

/** The answer to it. In endpoints only. */
declare const response: Hats.EndpointResponse;

/** The log of the worker, with the name of the task. */
declare const console: Hats.Console;

/** Thrown by `redis.Call` and `redis.Blpop` for an error of Redis or of the connection to it. */
declare class RedisError extends Error {}

/**
 * Waits. Only this script stands still meanwhile, its timers included.
 *
 * @param ms Milliseconds.
 * @returns true, or false at once when the task is to stop.
 */
declare function sleep(ms: number): boolean;

declare namespace Hats {
  interface Env {
    /** The value of a variable, or undefined if there is none. `HATS_*` is never visible. */
    Get(key: string): string | undefined;
    /**
     * Sets a variable for all scripts of this worker. The environment of the process is not changed.
     *
     * @returns null, or what is wrong.
     */
    Set(key: string, value: string | number | bigint | boolean): string | null;
    /**
     * Makes a variable absent for all scripts of this worker.
     *
     * @returns null, or what is wrong.
     */
    Unset(key: string): string | null;
  }

  interface Worker {
    /** The worker's name, for people: two workers may share one. */
    readonly Name: string;
    /** The name of the cluster. */
    readonly Cluster: string;
    /** *Live:* the worker takes nothing new and is about to end. */
    readonly ShuttingDown: boolean;
    /** *Live:* CPU and memory are below their thresholds. */
    readonly Healthy: boolean;
  }

  /** What threads and jobs have in common. */
  interface Task {
    /** The full key of the definition in Redis. */
    readonly Key: string;
    /** A number that rises with every new owner: the fence for effects elsewhere. */
    readonly Epoch: number;
    /** *Live:* a stop, disable or drain has been asked for. */
    readonly Stopped: boolean;
    /** The `State` in the definition: `stopped`, `running` or `crashed`. */
    State(): string;
    /** The `Status` in the definition: `enabled` or `disabled`. */
    Status(): string;
    /** Sets `Status=disabled` for the whole cluster. The script runs on to the end of its call. */
    Disable(): void;
  }

  interface Thread extends Task {
    /** Milliseconds between two calls of `main()`. */
    readonly Hang: number;
    /**
     * This worker gives the thread up and takes it again only after five seconds; another may take it at once. The script
     * runs on to the end of its call.
     */
    Stop(): void;
  }

  interface Job extends Task {
    /** The instant for which this run was scheduled. */
    readonly Tick: Date;
    /** 1 at the first try, 2 at the first retry, and so on. */
    readonly Attempt: number;
  }

  /** What a command to Redis takes. */
  type RedisArgument = string | number | bigint | boolean | Uint8Array;

  /**
   * `[reply]`, or `[null, error]`. In text, in arithmetic and in `==` the array stands for its reply.
   */
  type RedisResult<T> = [reply: T, error?: undefined] | [reply: null, error: string];

  interface Redis {
    /**
     * Sends a command. Replies have the shapes of RESP2: `HGETALL` is a flat array; text is a string, bytes that are no
     * UTF-8 are a Uint8Array, integers beyond 2^53 are a BigInt, nil is null.
     *
     * @example
     * const [value, error] = redis.Do("GET", "k");
     */
    Do<T = any>(command: string, ...args: RedisArgument[]): RedisResult<T>;
    /**
     * Sends a command and returns the reply itself.
     *
     * @throws RedisError
     */
    Call<T = any>(command: string, ...args: RedisArgument[]): T;
    /**
     * Waits for an element at the head of a list and takes it.
     *
     * @param seconds How long to wait; 0 waits without end.
     * @returns The element, or "" if none came in time or the task is to stop.
     * @throws RedisError
     */
    Blpop(seconds: number, key: string): string | Uint8Array;
    /**
     * Sets fields of a hash, unless a newer owner of this task has written it. Endpoints have no owner: a TypeError there.
     *
     * @returns `[how many fields are new]`, or `[null, "STALE …"]`.
     */
    HsetFenced(key: string, object: { [field: string]: RedisArgument }): RedisResult<number>;
  }

  interface HttpOptions {
    /** Headers to send; an array sends the header several times. */
    headers?: { [name: string]: string | string[] };
    /** Milliseconds until the request is given up. Default 30,000. */
    timeoutMs?: number;
  }

  /** Values by their names in canonical case, such as `Content-Type`. */
  type HttpHeaders = { [name: string]: string[] };

  /** The answer to a request, whatever its status. */
  interface HttpAnswer {
    readonly status: number;
    readonly headers: HttpHeaders;
    /** The body as text; invalid UTF-8 becomes U+FFFD. */
    readonly body: string;
    /** The body as it came. */
    readonly bytes: Uint8Array;
    readonly error?: undefined;
  }

  /** There is no answer. */
  interface HttpFailure {
    /** Why. */
    readonly error: string;
    readonly status: 0;
    readonly headers: HttpHeaders;
    readonly body: "";
    readonly bytes?: undefined;
  }

  /** The answer to a request for the headers alone. */
  interface HttpHead {
    readonly status: number;
    readonly headers: HttpHeaders;
    readonly error?: undefined;
  }

  type HttpBody = string | Uint8Array;

  interface Http {
    Get(url: string, options?: HttpOptions): HttpAnswer | HttpFailure;
    Delete(url: string, options?: HttpOptions): HttpAnswer | HttpFailure;
    /** No `Content-Type` is added. */
    Post(url: string, body: HttpBody, options?: HttpOptions): HttpAnswer | HttpFailure;
    /** No `Content-Type` is added. */
    Put(url: string, body: HttpBody, options?: HttpOptions): HttpAnswer | HttpFailure;
    /** No `Content-Type` is added. */
    Patch(url: string, body: HttpBody, options?: HttpOptions): HttpAnswer | HttpFailure;
    /** Sends a form, `application/x-www-form-urlencoded`; an array repeats its name. */
    PostForm(
      url: string,
      form: { [name: string]: string | number | bigint | boolean | (string | number | bigint | boolean)[] },
      options?: HttpOptions,
    ): HttpAnswer | HttpFailure;
    Head(url: string, options?: HttpOptions): HttpHead | HttpFailure;
  }

  /** What a parameter of a statement may be. */
  type SqlArgument = string | number | bigint | boolean | Uint8Array | Date | null | undefined;

  interface Sql {
    /**
     * Opens a database. Connections are shared by the scripts of the worker and closed when nobody needs them.
     *
     * @param dsn For mysql `user:pw@tcp(host:3306)/db?x=y` or `mysql://…`; for postgres `postgres://…`; for sqlite
     * `:memory:` or a file below the worker's folder for them.
     * @throws TypeError for a driver that is not known or a DSN that is malformed.
     */
    New(dsn: string, driver: "mysql" | "postgres" | "sqlite"): Database;
  }

  interface Database {
    /** undefined, or an error. */
    Ping(): string | undefined;
    /** undefined, or an error. */
    Close(): string | undefined;
    /**
     * Reads rows. `?` stands for a parameter, whatever the database.
     *
     * Integers beyond 2^53 are a BigInt, decimals and dates strings, blobs a Uint8Array, NULL null.
     *
     * @returns The rows as objects, or null on an error, which is logged and in {@link Database.Error}.
     */
    Query<Row = { [column: string]: any }>(statement: string, ...args: SqlArgument[]): Row[] | null;
    /**
     * Changes something. `?` stands for a parameter, whatever the database.
     *
     * @returns How many rows were affected, or undefined on an error, which is logged and in {@link Database.Error}.
     */
    Exec(statement: string, ...args: SqlArgument[]): number | undefined;
    /** Why the last call failed, if it did. */
    readonly Error: string | undefined;
  }

  interface EndpointRequest {
    /** `GET`, `POST` and so on. */
    readonly Method: string;
    /** The path, decoded. */
    readonly Path: string;
    /** The body as text; invalid UTF-8 becomes U+FFFD. */
    readonly Body: string;
    /** The parameters of the query, decoded, each with its values in order. */
    readonly Query: { [name: string]: string[] };
    /** The parameters of the path: of the endpoint `/users/:id` it has `id`. */
    readonly Params: { [name: string]: string };
    /**
     * The value of a header, or undefined. Upper and lower case do not matter; several values are joined by `, `, those of
     * `Cookie` by `; `.
     */
    GetHeader(name: string): string | undefined;
    /** The body as it came. */
    Bytes(): Uint8Array;
  }

  interface EndpointResponse {
    /**
     * Writes a piece of the body: a Uint8Array as it is, everything else as text. null and undefined are no text, plain objects
     * and arrays are JSON.
     *
     * @throws RangeError if the answer becomes longer than its limit.
     */
    Write(value: any): void;
    /**
     * Fixes the answer: this text as `text/plain`, this status (400 to 599, default 500), the headers so far. The script runs on;
     * what it says of the answer from then on is dropped.
     */
    Error(text: any, status?: number): void;
    /** Default `text/html; charset=utf-8`, or the `ContentType` of the endpoint. */
    SetContentType(type: string): void;
    /**
     * Sets a header in place of the value that it has; `Set-Cookie` is added each time.
     *
     * @throws TypeError for what no header can have, and for headers that belong to the worker, such as `Content-Length`.
     */
    SetHeader(name: string, value: string | number | bigint | boolean): void;
    /** From 200 to 599, default 200. */
    SetStatus(status: number): void;
  }

  /** What a handler is given. */
  interface HandlerRequest extends Request {
    /** The parameters of the path: of the endpoint `/users/:id` it has `id`. */
    readonly params: { [name: string]: string };
    /** The same as {@link params}. */
    readonly Params: { [name: string]: string };
  }

  /** What a handler returns: text is HTML unless the endpoint has a `ContentType`. Nothing, if it has used {@link response}. */
  type HandlerAnswer = Response | string | Uint8Array | void;

  /** The default export of an endpoint that is a module, if it is a function. */
  type Handler = (request: HandlerRequest) => HandlerAnswer | Promise<HandlerAnswer>;

  /** The default export of an endpoint that is a module, if it is an object. */
  interface HandlerObject {
    fetch: Handler;
  }

  interface Console {
    log(...values: any[]): void;
    info(...values: any[]): void;
    debug(...values: any[]): void;
    warn(...values: any[]): void;
    error(...values: any[]): void;
  }
}

// As on the web. What is not declared here is not there.

declare function setTimeout<A extends any[]>(callback: (...args: A) => void, ms?: number, ...args: A): number;
declare function setInterval<A extends any[]>(callback: (...args: A) => void, ms?: number, ...args: A): number;
declare function clearTimeout(timer?: number): void;
declare function clearInterval(timer?: number): void;
declare function queueMicrotask(callback: () => void): void;
declare function structuredClone<T = any>(value: T, options?: { transfer?: ArrayBuffer[] }): T;

/** Base64 to text of characters below U+0100. */
declare function atob(text: string): string;
/** Text of characters below U+0100 to base64. */
declare function btoa(text: string): string;

declare const performance: {
  /** Milliseconds since {@link timeOrigin}, with fractions; never falls. */
  now(): number;
  readonly timeOrigin: number;
};

declare const crypto: {
  /** Fills a typed array of integers with random values and returns it. */
  getRandomValues<
    T extends
      | Int8Array | Uint8Array | Uint8ClampedArray | Int16Array | Uint16Array | Int32Array | Uint32Array | BigInt64Array
      | BigUint64Array,
  >(array: T): T;
  randomUUID(): `${string}-${string}-${string}-${string}-${string}`;
};

declare class DOMException extends Error {
  constructor(message?: string, name?: string);
  readonly code: number;
}

declare class URL {
  constructor(url: string | URL, base?: string | URL);
  static canParse(url: string | URL, base?: string | URL): boolean;
  static parse(url: string | URL, base?: string | URL): URL | null;
  href: string;
  readonly origin: string;
  protocol: string;
  username: string;
  password: string;
  host: string;
  hostname: string;
  port: string;
  pathname: string;
  search: string;
  readonly searchParams: URLSearchParams;
  hash: string;
  toString(): string;
  toJSON(): string;
}

declare class URLSearchParams {
  constructor(init?: string | URLSearchParams | { [name: string]: string } | Iterable<[name: string, value: string]>);
  readonly size: number;
  append(name: string, value: string): void;
  delete(name: string, value?: string): void;
  get(name: string): string | null;
  getAll(name: string): string[];
  has(name: string, value?: string): boolean;
  set(name: string, value: string): void;
  sort(): void;
  forEach(callback: (value: string, name: string, params: URLSearchParams) => void, thisArg?: any): void;
  entries(): IterableIterator<[name: string, value: string]>;
  keys(): IterableIterator<string>;
  values(): IterableIterator<string>;
  toString(): string;
  [Symbol.iterator](): IterableIterator<[name: string, value: string]>;
}

declare class TextEncoder {
  readonly encoding: "utf-8";
  encode(text?: string): Uint8Array;
  encodeInto(text: string, destination: Uint8Array): { read: number; written: number };
}

declare class TextDecoder {
  constructor(label?: string, options?: { fatal?: boolean; ignoreBOM?: boolean });
  readonly encoding: string;
  readonly fatal: boolean;
  readonly ignoreBOM: boolean;
  decode(bytes?: ArrayBuffer | ArrayBufferView, options?: { stream?: boolean }): string;
}

interface EventInit {
  bubbles?: boolean;
  cancelable?: boolean;
  composed?: boolean;
}

declare class Event {
  constructor(type: string, init?: EventInit);
  static readonly NONE: 0;
  static readonly CAPTURING_PHASE: 1;
  static readonly AT_TARGET: 2;
  static readonly BUBBLING_PHASE: 3;
  readonly NONE: 0;
  readonly CAPTURING_PHASE: 1;
  readonly AT_TARGET: 2;
  readonly BUBBLING_PHASE: 3;
  readonly type: string;
  readonly target: EventTarget | null;
  readonly currentTarget: EventTarget | null;
  readonly eventPhase: number;
  readonly bubbles: boolean;
  readonly cancelable: boolean;
  readonly composed: boolean;
  readonly defaultPrevented: boolean;
  readonly isTrusted: boolean;
  readonly timeStamp: number;
  composedPath(): EventTarget[];
  preventDefault(): void;
  stopPropagation(): void;
  stopImmediatePropagation(): void;
}

declare class CustomEvent<T = any> extends Event {
  constructor(type: string, init?: EventInit & { detail?: T });
  readonly detail: T;
}

type EventListener = ((event: Event) => void) | { handleEvent(event: Event): void };

declare class EventTarget {
  addEventListener(
    type: string,
    listener: EventListener | null,
    options?: boolean | { capture?: boolean; once?: boolean; passive?: boolean; signal?: AbortSignal },
  ): void;
  removeEventListener(type: string, listener: EventListener | null, options?: boolean | { capture?: boolean }): void;
  dispatchEvent(event: Event): boolean;
}

declare class AbortSignal extends EventTarget {
  private constructor();
  static abort(reason?: any): AbortSignal;
  static timeout(ms: number): AbortSignal;
  static any(signals: Iterable<AbortSignal>): AbortSignal;
  readonly aborted: boolean;
  readonly reason: any;
  onabort: ((event: Event) => void) | null;
  throwIfAborted(): void;
}

declare class AbortController {
  readonly signal: AbortSignal;
  abort(reason?: any): void;
}

type HeadersInit = Headers | { [name: string]: string } | Iterable<[name: string, value: string]>;

declare class Headers {
  constructor(init?: HeadersInit);
  append(name: string, value: string): void;
  delete(name: string): void;
  get(name: string): string | null;
  getSetCookie(): string[];
  has(name: string): boolean;
  set(name: string, value: string): void;
  forEach(callback: (value: string, name: string, headers: Headers) => void, thisArg?: any): void;
  entries(): IterableIterator<[name: string, value: string]>;
  keys(): IterableIterator<string>;
  values(): IterableIterator<string>;
  [Symbol.iterator](): IterableIterator<[name: string, value: string]>;
}

type BodyInit = string | ArrayBuffer | ArrayBufferView | URLSearchParams;

interface RequestInit {
  method?: string;
  headers?: HeadersInit;
  body?: BodyInit | null;
  redirect?: "follow" | "manual" | "error";
  signal?: AbortSignal | null;
  /** Milliseconds until the request is given up. Default 30,000. Not on the web. */
  timeoutMs?: number;
}

declare class Request {
  constructor(input: string | URL | Request, init?: RequestInit);
  readonly method: string;
  readonly url: string;
  readonly headers: Headers;
  readonly redirect: "follow" | "manual" | "error";
  readonly signal: AbortSignal;
  readonly bodyUsed: boolean;
  clone(): Request;
  text(): Promise<string>;
  json(): Promise<any>;
  bytes(): Promise<Uint8Array>;
  arrayBuffer(): Promise<ArrayBuffer>;
}

interface ResponseInit {
  status?: number;
  statusText?: string;
  headers?: HeadersInit;
}

declare class Response {
  constructor(body?: BodyInit | null, init?: ResponseInit);
  static error(): Response;
  static json(data: any, init?: ResponseInit): Response;
  static redirect(url: string | URL, status?: 301 | 302 | 303 | 307 | 308): Response;
  readonly status: number;
  readonly statusText: string;
  readonly ok: boolean;
  readonly headers: Headers;
  readonly url: string;
  readonly redirected: boolean;
  readonly type: "basic" | "default" | "error";
  readonly bodyUsed: boolean;
  clone(): Response;
  text(): Promise<string>;
  json(): Promise<any>;
  bytes(): Promise<Uint8Array>;
  arrayBuffer(): Promise<ArrayBuffer>;
}

/** A request under the same rules as {@link http}: its promise is resolved when the whole body is there. */
declare function fetch(input: string | URL | Request, init?: RequestInit): Promise<Response>;
