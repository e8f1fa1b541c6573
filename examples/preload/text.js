// A library for --preload: a script (no module) that leaves its names in the global scope, as libraries for browsers do.
// Every script of the worker has them. It is evaluated anew for each, so nothing in it is shared between scripts.

var text = (function () {
  /** @param {string} line */
  function words(line) {
    return line.split(/\s+/).filter((word) => word !== "");
  }

  /** @param {string} line */
  function title(line) {
    return words(line).map((word) => word[0].toUpperCase() + word.slice(1)).join(" ");
  }

  return { words, title };
})();
