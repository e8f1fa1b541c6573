//! Modules that scripts import, and libraries that come before them.

use super::*;

/// A bundle whose source stands beside the modules; the text before the first is the source's.
fn bundle(file: Option<&str>, main: &str, modules: &[(&str, &str)]) -> Bundle {
    let modules = modules.iter().map(|(path, text)| ((*path).to_owned(), (*text).into())).collect();
    Bundle { main: main.into(), file: file.map(Into::into), modules: std::sync::Arc::new(modules) }
}

/// Runs a bundle as the task `jobs/main.js` and evaluates an expression on top of it.
async fn outcome(bundle: &Bundle, expression: &'static str) -> String {
    outcome_as("jobs/main.js", bundle, expression).await
}

async fn outcome_as(task: &'static str, bundle: &Bundle, expression: &'static str) -> String {
    let (lanes, bundle) = (one_lane(), bundle.clone());
    let run = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
        vm.load_bundle(&bundle, task)?;
        vm.eval(expression)
    });
    run.1.await.unwrap_or_else(|error| error.to_string())
}

#[tokio::test]
async fn imports_of_every_form_work() {
    let bundle = bundle(
        Some("main.js"),
        "import twice, { add, counter as count } from './lib/math.js';
         import * as all from './lib/all.js';
         import './lib/effect.js';
         export const later = async () => (await import('./lib/late.js')).default;
         globalThis.shown = [twice(4), add(1, 2), count, all.add(2, 3), all.renamed, Object.keys(all.inner), effect];
         globalThis.later = later;
         add(0, 0); globalThis.live = count;",
        &[
            (
                "lib/math.js",
                "export let counter = 0; export function add(a, b) { counter += 1; return a + b }
                 export default (n) => 2 * n;",
            ),
            (
                "lib/all.js",
                "export * from './math.js'; export { counter as renamed } from './math.js';
                 export * as inner from '../other.js';",
            ),
            ("lib/effect.js", "globalThis.effect = typeof this;"),
            ("lib/late.js", "await null; import { add } from './math.js'; export default add(40, 2);"),
            ("other.js", "export const x = 1, y = 2;"),
        ],
    );
    assert_eq!(outcome(&bundle, "shown").await, "[8, 3, 1, 5, 2, [\"x\", \"y\"], \"undefined\"]");
    assert_eq!(outcome(&bundle, "live").await, "3");
    assert_eq!(outcome(&bundle, "later()").await, "42");
}

#[tokio::test]
async fn a_scripts_functions_are_its_exports_or_globals() {
    let bundle = bundle(
        Some("main.js"),
        "import { say } from './say.js';
         export function main() { say('main') }
         globalThis.init = () => say('init');",
        &[("say.js", "globalThis.said = []; export const say = (word) => said.push(word);")],
    );
    let lanes = one_lane();
    let run = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
        vm.load_bundle(&bundle, "main.js")?;
        assert!(vm.has("main") && vm.has("init") && !vm.has("cleanup"));
        vm.call("init")?;
        vm.call("main")?;
        vm.eval("said.join()")
    });
    assert_eq!(run.1.await, Ok("init,main".to_owned()));
}

#[tokio::test]
async fn modules_may_import_one_another_and_the_source_itself() {
    let bundle = bundle(
        Some("jobs/main.js"),
        "import { even } from '../lib/even.js';
         export const name = 'main';
         globalThis.runs = (globalThis.runs ?? 0) + 1;
         globalThis.answers = [even(10), even(7)];
         globalThis.who = () => import('../lib/even.js').then((module) => module.who());",
        &[
            (
                "lib/even.js",
                "import { odd } from './odd.js'; import { name } from '../jobs/main.js';
                 export const even = (n) => n === 0 || odd(n - 1); export const who = () => name;",
            ),
            (
                "lib/odd.js",
                "import { even } from './even.js'; export const odd = (n) => n !== 0 && even(n - 1);",
            ),
        ],
    );
    assert_eq!(
        outcome(&bundle, "who().then((who) => [answers, runs, who])").await,
        "[[true, false], 1, \"main\"]"
    );
}

#[tokio::test]
async fn stack_traces_name_the_module_and_the_line() {
    let modules = [
        ("lib/fail.js", "export function fail() {\n  null.x;\n}"),
        ("bad.js", "export const x = 1;\nlet = ;"),
    ];
    for (task, file, expected) in [
        // Named as its file is: so are the others.
        ("jobs/main.js", "main.js", "at fail (jobs/lib/fail.js:2:"),
        ("/srv/jobs/main.js", "jobs/main.js", "at fail (/srv/lib/fail.js:2:"),
        ("./main.js", "main.js", "at fail (./lib/fail.js:2:"),
        ("report", "main.js", "at fail (lib/fail.js:2:"),
        // The name that the module would have had.
        ("lib/fail.js", "main.js", "at fail (./lib/fail.js:2:"),
    ] {
        let path = if file == "main.js" { "./lib/fail.js" } else { "../lib/fail.js" };
        let source = format!("import {{ fail }} from '{path}';\nfail();");
        let shown = outcome_as(task, &bundle(Some(file), &source, &modules), "1").await;
        assert!(shown.contains(expected), "{task}: {shown}");
        assert!(shown.contains(&format!("({task}:2:")), "{task}: {shown}");
    }
    let shown = outcome(&bundle(Some("main.js"), "import './bad.js'", &modules), "1").await;
    assert!(shown.starts_with("SyntaxError: ") && shown.contains("at jobs/bad.js:2:"), "{shown}");
    let source = "import { nothing } from './lib/fail.js';";
    let shown = outcome(&bundle(Some("main.js"), source, &modules), "1").await;
    assert!(shown.starts_with("SyntaxError: ") && shown.contains("jobs/lib/fail.js"), "{shown}");
}

#[tokio::test]
async fn what_cannot_be_imported_is_named_with_the_place() {
    for (specifier, expected) in [
        ("./gone.js", "the task has no module gone.js, but x.js"),
        ("../x.js", "outside of the folder"),
        ("lodash", "packages cannot be imported by name"),
        ("/etc/passwd", "imports are paths relative to the importing file"),
        ("https://example.com/x.js", "imports are paths relative to the importing file"),
    ] {
        let source = format!("// a comment\nimport {{\n  a,\n}} from \"{specifier}\";");
        let shown = outcome(&bundle(Some("main.js"), &source, &[("x.js", "")]), "1").await;
        let place = format!("TypeError: jobs/main.js:4 cannot import \"{specifier}\": ");
        assert!(shown.starts_with(&place) && shown.contains(expected), "{shown}");

        // At run time it is an error that the script may catch.
        let source = format!(
            "globalThis.tried = (s) => import(s).catch((e) => e.name + ' ' + e.message); tried('{specifier}').then((m) => globalThis.m = m)"
        );
        let shown = outcome(&bundle(None, &source, &[("x.js", "")]), "m").await;
        assert!(shown.starts_with("TypeError jobs/main.js") && shown.contains(expected), "{shown}");
    }
    // From within a module, the module is named; and without any, that there is none.
    let modules = [("lib/x.js", "import './y.js'")];
    let shown = outcome(&bundle(Some("main.js"), "import './lib/x.js'", &modules), "1").await;
    assert!(shown.starts_with("TypeError: jobs/lib/x.js:1 cannot import \"./y.js\""), "{shown}");
    let shown = outcome(&Bundle::from("import './y.js'"), "1").await;
    assert!(shown.contains("the task has no module y.js, nor any other"), "{shown}");
    let shown = outcome(&bundle(None, "import './x.js' with { type: 'json' }", &[("x.js", "")]), "1").await;
    assert!(shown.starts_with("TypeError: import attributes are not supported"), "{shown}");
    // A script that is no module has no exports for others.
    let source = "globalThis.tried = import('./x.js').catch((e) => e.message)";
    let shown = outcome(&bundle(Some("main.js"), source, &[("x.js", "import './main.js'")]), "tried").await;
    assert_eq!(shown, "jobs/main.js cannot be imported: it was run as a script, not as a module");
}

#[tokio::test]
async fn what_a_failed_import_left_behind_is_not_touched_again() {
    // When `a` fails, `b` has been loaded for it and refers to it.
    let bundle = bundle(
        None,
        "globalThis.tried = async (paths) => {
           const said = [];
           for (const path of paths.split(' ')) {
             said.push(await import(path).then((m) => m.name, (e) => e.message.split(': ').at(-1)));
           }
           return said;
         };",
        &[
            ("a.js", "import './b.js'; import './gone.js'; export const name = 'a'"),
            ("b.js", "import './a.js'; import './fine.js'; export const name = 'b'"),
            ("fine.js", "export const name = 'fine'"),
            ("throws.js", "import './fine.js'; throw new Error('x: thrown')"),
            ("syntax.js", "import './other.js'; let = 1"),
            ("other.js", "export const name = 'other'"),
        ],
    );
    let tried = "tried('./fine.js ./a.js ./b.js ./a.js ./fine.js ./throws.js ./throws.js ./syntax.js ./syntax.js ./other.js')";
    let failed = "an import of it has failed before";
    let expected = [
        "fine",
        "the task has no module gone.js, but a.js, b.js, fine.js, other.js, syntax.js, throws.js",
        failed,
        failed,
        "fine",
        "thrown",
        "thrown",
    ];
    let shown = outcome(&bundle, tried).await;
    assert!(shown.starts_with(&format!("{expected:?}").replace(']', "")), "{shown}");
    assert!(shown.ends_with(&format!("\"variable name expected\", \"{failed}\", \"other\"]")), "{shown}");
}

#[tokio::test]
async fn modules_that_cannot_be_linked_are_not_linked_again() {
    // `x` is ambiguous in 0.js, which is found out when some of its circle has been linked.
    let bundle = bundle(
        Some("main.js"),
        "globalThis.tried = () => import('./0.js').catch((e) => e.name + ' ' + e.message.split(': ').at(-1));",
        &[
            ("0.js", "export * from './2.js'; export * from './4.js';"),
            ("2.js", "import { x as y } from './0.js'; import './5.js'; export const x = 1;"),
            ("4.js", "import './0.js'; export const x = 1;"),
            ("5.js", "import './4.js';"),
        ],
    );
    let shown = outcome(&bundle, "tried().then(async (first) => [first, await tried()])").await;
    assert!(shown.starts_with("[\"SyntaxError "), "{shown}");
    assert!(shown.ends_with("\"TypeError an import of it has failed before\"]"), "{shown}");
}

#[tokio::test]
async fn nothing_is_imported_once_the_source_itself_has_failed() {
    // `a` has been loaded and refers to the source, which is gone.
    let bundle = bundle(
        Some("main.js"),
        "import './a.js'; import './gone.js'; export const name = 'main';",
        &[("a.js", "import { name } from './main.js'; export const shown = () => name")],
    );
    let lanes = lane_with(&[(
        "later.js",
        "var later = () => import('./a.js').then((m) => m.shown(), (e) => e.message)",
    )]);
    let run = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
        assert!(vm.load_bundle(&bundle, "main.js").is_err());
        vm.eval("later()")
    });
    assert_eq!(run.1.await.unwrap(), "main.js:1 cannot import \"./a.js\": an import of it has failed before");
}

#[tokio::test]
async fn many_modules_and_deep_ones_end_in_an_error() {
    let chain = |length: usize, order: fn(usize, usize) -> String| -> Bundle {
        let modules = (0..length).map(|n| (format!("{n}.js"), order(n, length).into())).collect();
        let main = "import { x } from './0.js'; globalThis.x = x;";
        Bundle { main: main.into(), file: None, modules: std::sync::Arc::new(modules) }
    };
    fn next(n: usize, length: usize) -> String {
        if n + 1 == length {
            "export const x = 'end';".to_owned()
        } else {
            format!("export * from './{}.js';", n + 1)
        }
    }
    assert_eq!(outcome(&chain(90, next), "x").await, "end");
    let shown = outcome(&chain(1000, next), "x").await;
    assert!(
        shown.starts_with("RangeError: 100.js cannot be imported: more than 100 imports inside"),
        "{shown}"
    );
    let shown = outcome(&chain(1001, next), "x").await;
    assert_eq!(shown, "SourceError: the source has 1001 modules, more than the limit of 1000");

    // The same chain, but each link is loaded before the one that needs it.
    fn backwards(n: usize, length: usize) -> String {
        let all: String = (1..length).rev().map(|n| format!("import './{n}.js';")).collect();
        if n == 0 { format!("{all} export * from './1.js';") } else { next(n, length) }
    }
    assert_eq!(outcome(&chain(1000, backwards), "x").await, "end");
    let names = "import('./0.js').then((all) => Object.keys(all).join())";
    assert_eq!(outcome(&chain(1000, backwards), names).await, "x");

    // What is imported counts as source.
    let half = format!("//{}", "x".repeat(600 << 10));
    let two = bundle(None, "import './a.js'; import './b.js'", &[("a.js", &half), ("b.js", &half)]);
    let shown = outcome(&two, "1").await;
    assert!(shown.starts_with("SourceError: the source has 1228"), "{shown}");
    let nul = bundle(None, "import './a.js'", &[("a.js", "\0")]);
    assert!(outcome(&nul, "1").await.contains("a.js contains a NUL character"));
}

#[tokio::test]
async fn a_source_that_is_neither_is_told_off_for_what_it_was_meant_to_be() {
    for (source, expected) in [
        ("import { a } from './x.js';\nlet b = ;", "at test.js:2:"),
        ("function f() {}\nf(;\nexport { f }", "at test.js:2:"),
        ("var await = 1;\nlet b = ;", "at test.js:2:"),
        ("// import\nlet b = ;", "at test.js:2:"),
    ] {
        let error = load_error(source, Limits::default()).await;
        assert!(error.starts_with("SyntaxError: ") && error.contains(expected), "{source}: {error}");
    }
}

/// A lane with libraries.
fn lane_with(libraries: &[(&str, &str)]) -> Lanes {
    let libraries =
        libraries.iter().map(|(name, source)| Library { name: (*name).into(), source: (*source).into() });
    Lanes::start(&LanesConfig {
        preload: libraries.collect(),
        count: 1,
        worker: Fake::new(),
        env: EnvOverlay::default(),
        #[cfg(feature = "http")]
        http: None,
        #[cfg(feature = "redis")]
        redis: None,
        #[cfg(feature = "sql")]
        sql: None,
        warm_bytes: LanesConfig::WARM_BYTES,
        preemption: Default::default(),
        on_turn: std::sync::Arc::new(|_| {}),
    })
    .unwrap()
}

#[tokio::test]
async fn libraries_share_the_scripts_scope_and_keep_nothing_from_one_script_to_the_next() {
    let lanes = lane_with(&[
        ("umd.js", "(function (root, make) { root.lib = make(); })(this, function () { return { n: 0 } });"),
        ("lexical.js", "const limit = lib ? 3 : 0; function helper() { return ++lib.n; }"),
        ("later.js", "Promise.resolve().then(() => { globalThis.settled = true })"),
    ]);
    lanes.try_libraries(Limits::default()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            try_eval(&lanes, "let seen = [helper(), limit, settled]", "seen").await.unwrap(),
            "[1, 3, true]"
        );
        let module = "export const seen = [helper(), limit, settled]; globalThis.seen = seen";
        assert_eq!(try_eval(&lanes, module, "seen").await.unwrap(), "[1, 3, true]");
    }
}

/// The loader is called by the engine: what it throws may not run JavaScript above it.
#[tokio::test]
async fn an_import_that_fails_runs_nothing_of_the_script() {
    let source = "globalThis.traces = 0; Error.prepareStackTrace = () => { traces++; return 'trace' }; \
                  globalThis.failed = await import('./none.js').catch(error => error instanceof TypeError); export {}";
    assert_eq!(try_eval(&one_lane(), source, "[failed, traces]").await.as_deref(), Ok("[true, 0]"));
}

#[tokio::test]
async fn a_broken_library_is_named_with_its_error() {
    for (source, expected) in [
        ("let x = 1;\nlet y = ;", "SyntaxError: unexpected token in expression: ';'\n    at broken.js:2:"),
        ("\n\nnull.x", "TypeError: cannot read property 'x' of null\n    at <eval> (broken.js:3:"),
        ("Promise.reject(new Error('late'))", "unhandled rejection: Error: late"),
        ("export default 1;", "It seems to be an ES module."),
        ("env.Get()", "TypeError: env.Get: argument 1 must be a string"),
        ("let a = ['x'.repeat(1 << 20)]; for (;;) a.push(a[0] + a.length)", "67108864 bytes"),
        ("thread.Disable()", "a preloaded library reaches outside only from functions that a script calls"),
    ] {
        let lanes = lane_with(&[("fine.js", "var fine = 1"), ("broken.js", source)]);
        let error = lanes.try_libraries(Limits::default()).await.unwrap_err().to_string();
        assert!(error.starts_with("broken.js cannot be preloaded: ") && error.contains(expected), "{error}");
        // Nor does a script get past it.
        assert!(try_eval(&lanes, "var x = 1", "x").await.is_err());
    }
    let lanes = lane_with(&[("fine.js", "var fine = 1"), ("entry.js", "const init = () => {}")]);
    let error = lanes.try_libraries(Limits::default()).await.unwrap_err().to_string();
    assert!(error.starts_with("entry.js cannot be preloaded: TypeError: it defines init()"), "{error}");
}
