// RedisError, around the prototype of those that a leaf has thrown already.
(prototype) => {
  const { construct, setPrototypeOf } = Reflect;
  function RedisError(message, options) {
    return construct(Error, [message, options], new.target ?? RedisError);
  }
  RedisError.prototype = prototype;
  Object.defineProperty(RedisError, "prototype", { writable: false, enumerable: false });
  Object.defineProperty(prototype, "constructor", { value: RedisError, writable: true, configurable: true });
  setPrototypeOf(RedisError, Error);
  return RedisError;
}
