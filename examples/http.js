// HTTP requests. A call looks synchronous and blocks no other script; a failure is a result and no exception.
// EXAMPLE_URL names the server: GET /greeting gives JSON, and what is posted anywhere comes back.

const base = env.Get("EXAMPLE_URL") ?? "http://127.0.0.1:8080";

function init() {
  const page = http.Get(`${base}/greeting`, { timeoutMs: 5000, headers: { Accept: "application/json" } });
  if (page.error) {
    console.error("no greeting:", page.error);
    return thread.Disable();
  }
  console.log(page.status, page.headers["Content-Type"][0], JSON.parse(page.body).greeting);

  // Bodies are strings or Uint8Arrays. `bytes` is the body of the answer as it came.
  const echo = http.Post(`${base}/echo`, new Uint8Array([104, 105, 255]));
  console.log(echo.body, echo.bytes);

  // A form; an array repeats the name.
  console.log(http.PostForm(`${base}/form`, { name: "Ada Lovelace", tag: ["a", "b"] }).body);

  // Whatever goes wrong, status is 0 and error says why. Metadata services of clouds are out of reach for all scripts.
  for (const url of ["http://169.254.169.254/latest/meta-data/", "not a url"]) {
    const { status, error } = http.Get(url);
    console.log(status, error);
  }
}

// fetch is there too. While its promises are pending the rest of the script goes on.
async function main() {
  const answers = await Promise.all(
    ["one", "two", "three"].map((body) => fetch(`${base}/echo`, { method: "POST", body })),
  );
  console.log(await Promise.all(answers.map((answer) => answer.text())));
  console.log("http is done");
  thread.Disable();
}
