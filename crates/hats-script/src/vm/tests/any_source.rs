//! Whatever text is to be loaded, and whatever imports whatever: properties of the way from a source to a scope.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::bundle;

/// What a source may be made of.
const TOKENS: &[&str] = &[
    "import ",
    "export ",
    "default ",
    "from ",
    "await ",
    "import(",
    "'./a.js'",
    "\"./b/c.js\"",
    "'lodash'",
    "`",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "*",
    " as ",
    "x",
    " y ",
    "=",
    ";",
    ",",
    ".",
    "\n",
    "\r\n",
    "\u{2028}",
    "//",
    "/*",
    "*/",
    "function ",
    "main",
    "class ",
    "async ",
    "=> ",
    "with ",
    "\0",
    "\\u0061",
    "/x/",
    "...",
    "null",
    "#",
    "?",
    "\u{feff}",
    "<!--",
    "'use strict'",
];

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Loads a bundle and evaluates an expression, within a time.
fn run(bundle: &Bundle, task: &'static str, expression: &'static str) -> Result<String, ScriptError> {
    runtime().block_on(async {
        let (lanes, bundle) = (one_lane(), bundle.clone());
        let limits = Limits { call_timeout: Some(Duration::from_secs(2)), ..Limits::default() };
        let run = spawn(&lanes, &Fake::new(), limits, move |vm| {
            vm.load_bundle(&bundle, task)?;
            vm.eval(expression)
        });
        run.1.await
    })
}

/// A path below the topmost folder.
fn path() -> impl Strategy<Value = String> {
    vec(select(vec!["a", "b", "ä", "c.d", "a b"]), 1..4).prop_map(|parts| format!("{}.js", parts.join("/")))
}

/// How the file at `from` names the one at `to`.
fn specifier(from: &str, to: &str, detour: bool) -> String {
    let ups = "../".repeat(from.matches('/').count());
    format!("./{}{ups}{to}", if detour { "x/.././" } else { "" })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_ends_well_or_in_an_error_of_the_script(parts in vec(select(TOKENS), 0..40)) {
        let source = parts.concat();
        let modules = [("a.js", "export default 1; export const x = 2, y = 3;"), ("b/c.js", "export * from '../a.js'")];
        let modules = modules.map(|(path, text)| (path.to_owned(), text.into()));
        let bundle = Bundle { modules: std::sync::Arc::new(modules.into()), ..Bundle::from(&*source) };
        match run(&bundle, "test.js", "1 + 1") {
            Ok(two) => prop_assert_eq!(two, "2"),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        // What is seen at registration is what happens at run time.
        let imports = bundle::imports(&source, "test.js");
        for import in imports.found {
            prop_assert!(import.line.is_none_or(|line| line <= source.matches('\n').count() + 1));
            prop_assert!(import.line.is_none() || source.contains(&import.specifier));
        }
    }

    #[test]
    fn any_path_is_found_from_any_other(from in path(), to in path(), detour: bool) {
        prop_assert_eq!(bundle::resolve(&from, &specifier(&from, &to, detour)), Ok(to));
    }

    #[test]
    fn no_specifier_leads_out(from in path(), parts in vec(select(vec!["..", ".", "a", "", "b.js"]), 0..8)) {
        if let Ok(path) = bundle::resolve(&from, &format!("./{}", parts.join("/"))) {
            prop_assert!(!path.split('/').any(|part| part == ".." || part == "."), "{}", path);
            prop_assert!(!path.starts_with('/'), "{}", path);
        }
    }

    #[test]
    fn every_import_means_one_file_and_each_file_runs_once(
        paths in proptest::collection::btree_set(path(), 1..8),
        edges in vec((any::<proptest::sample::Index>(), any::<proptest::sample::Index>(), any::<bool>()), 0..24),
        main in any::<proptest::sample::Index>(),
        task in select(vec!["a.js", "x", "jobs/a.js", "./a.js", "a/b.js", "ä.js"]),
    ) {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let main = main.index(paths.len());
        let text = |nth: usize| {
            let mut imports = String::new();
            let mut seen = String::new();
            for (n, (from, to, detour)) in edges.iter().enumerate() {
                if from.index(paths.len()) == nth {
                    let to = paths[to.index(paths.len())];
                    imports += &format!("import {{ path as p{n} }} from \"{}\";\n", specifier(paths[nth], to, *detour));
                    seen += &format!("if (p{n}() !== \"{to}\") throw new Error(\"{to}\" + p{n}());\n");
                }
            }
            format!(
                "{imports} export function path() {{ return \"{}\" }}
                 if ((globalThis.ran ??= new Set()).has({nth})) throw new Error('twice');
                 ran.add({nth});
                 queueMicrotask(() => {{ {seen} }});",
                paths[nth]
            )
        };
        let modules = (0..paths.len()).filter(|nth| *nth != main).map(|nth| (paths[nth].to_owned(), text(nth).into()));
        let bundle = Bundle {
            main: text(main).into(),
            file: Some(paths[main].into()),
            modules: std::sync::Arc::new(modules.collect()),
        };
        let mut reached = std::collections::BTreeSet::from([main]);
        for _ in 0..paths.len() {
            for (from, to, _) in &edges {
                if reached.contains(&from.index(paths.len())) {
                    reached.insert(to.index(paths.len()));
                }
            }
        }
        let ran = run(&bundle, task, "ran.size");
        prop_assert_eq!(ran, Ok(reached.len().to_string()));
    }

    #[test]
    fn broken_modules_in_any_order_end_in_errors_of_the_script(
        edges in vec((0..6_usize, 0..8_usize, 0..4_usize), 0..24),
        kinds in vec(0..8_usize, 6),
        order in vec(0..8_usize, 1..16),
        is_module: bool,
    ) {
        // Modules 6 and 7 do not exist.
        let text = |nth: usize| {
            let mut text = String::new();
            for (n, (_, to, form)) in edges.iter().enumerate().filter(|(_, (from, ..))| *from == nth) {
                text += &match form {
                    0 => format!("import './{to}.js';\n"),
                    1 => format!("import * as m{n} from './{to}.js'; globalThis.kept = m{n};\n"),
                    2 => format!("import {{ x as x{n} }} from './{to}.js';\nexport const f{n} = () => x{n};"),
                    _ => format!("export * from './{to}.js';\n"),
                };
            }
            text += match kinds[nth] {
                0 => "throw new Error('at once');",
                1 => "export let = 1",
                2 => "await null; export const x = 1;",
                3 => "await null; throw new Error('later');",
                4 => "export const nothing = 1;",
                _ => "export const x = 1;",
            };
            text
        };
        let calls: String = order.iter().map(|nth| format!("await look('./{nth}.js');\n")).collect();
        let own = if is_module { "import './0.js'; export const x = 0;" } else { "" };
        let main = format!(
            "{own} globalThis.looks = 0;
             async function look(path) {{
               const all = import(path).then((m) => [Object.keys(m).map((k) => {{ try {{ return m[k] }} catch (e) {{ return e }} }})]);
               await Promise.race([all.catch(() => 0), new Promise((r) => setTimeout(r, 1))]);
               looks += 1;
             }}
             globalThis.all = async () => {{ {calls} return looks }};"
        );
        let modules = (0..6).map(|nth| (format!("{nth}.js"), text(nth).into()));
        let bundle = Bundle {
            main: main.into(),
            file: Some("main.js".into()),
            modules: std::sync::Arc::new(modules.collect()),
        };
        match run(&bundle, "main.js", "all()") {
            Ok(looks) => prop_assert_eq!(looks, order.len().to_string()),
            Err(error) => prop_assert!(is_module, "{}", error),
        }
    }
}
