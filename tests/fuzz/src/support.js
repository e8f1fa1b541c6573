// What generated programs call beside the engine's own functions.
var recurse = (n, f) => n > 0 && depth++ < 20000 ? [recurse(n - 1, f), n] : f(n);
var structure = (n, x) => { let z = x; for (let m = 0; m < n % 2000; m++) z = m % 2 ? [z] : { z }; return z };
var gather = x => { const all = []; for (const y of x) { all.push(y); if (all.length > 50000) break } return all };
var arguments_ = function () { arguments[0] = 7; return arguments };
