// Environment variables. env is an overlay that the scripts of one worker share: what a script sets, the other
// scripts of that worker see, and the environment of the process stays as it was.

function show(name) {
  const value = env.Get(name); // a string, or undefined if there is none
  console.log(name, "is", value === undefined ? "not set" : value);
}

function init() {
  show("EXAMPLE_GREETING");

  // Set and Unset return null, or a text that says what went wrong.
  const error = env.Set("EXAMPLE_GREETING", "good morning");
  if (error !== null) console.error("cannot set EXAMPLE_GREETING:", error);
  show("EXAMPLE_GREETING");

  env.Unset("EXAMPLE_GREETING");
  show("EXAMPLE_GREETING");

  // The worker's own settings may hold a password. Scripts never see a name that begins with HATS_.
  show("HATS_REDIS_PASSWORD");
  console.log("env is done");
}

// There is no main(): the thread stays with its owner and has nothing more to do.
