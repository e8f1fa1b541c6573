// Databases. Calls look synchronous: rows are the return value, and while this script waits the worker runs its others.
// This one is in memory and goes with its script. sql.New("user:password@tcp(host:3306)/app", "mysql") and
// sql.New("postgres://user:password@host/app", "postgres") are used in the same way, and so are files:
// sql.New("app.db", "sqlite") is one below --sqlite-dir.

let db;

function init() {
  db = sql.New(":memory:", "sqlite");
  db.Exec("CREATE TABLE words (word TEXT PRIMARY KEY, length INTEGER, since TEXT, data BLOB)");

  // Every ? stands for an argument. Exec returns how many rows were affected.
  const noon = new Date(Date.UTC(2024, 1, 29, 12));
  console.log("inserted:", db.Exec("INSERT INTO words VALUES (?, ?, ?, ?)", "naïve", 5, noon, new Uint8Array([1, 2])));
  console.log("inserted:", db.Exec("INSERT INTO words VALUES (?, ?, ?, ?), (?, ?, ?, ?)", "a", 1, null, null, "be", 2, null, null));

  // Query returns an array of objects.
  for (const row of db.Query("SELECT * FROM words WHERE length > ? ORDER BY length", 1)) console.log(row);

  // Integers beyond 2^53 are BigInts, whichever way they go.
  console.log(db.Query("SELECT ? + 1 AS big, 9007199254740991 AS safe", 9007199254740992n)[0]);

  // A failure is logged and kept in db.Error: Query returns null then, and Exec undefined.
  if (db.Exec("INSERT INTO words (word) VALUES (?)", "a") === undefined) console.log("refused:", db.Error);

  // Between BEGIN and its end all statements go over one connection, which is nobody else's.
  db.Exec("BEGIN");
  db.Exec("DELETE FROM words");
  console.log("in the transaction:", db.Query("SELECT count(*) AS n FROM words")[0].n);
  db.Exec("ROLLBACK");
  console.log("after it:", db.Query("SELECT count(*) AS n FROM words")[0].n);
  console.log("sql is done");
}

function cleanup() {
  // It would be closed with the script anyway.
  db.Close();
}
