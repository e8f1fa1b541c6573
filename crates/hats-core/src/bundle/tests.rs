use std::fs;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tempfile::TempDir;

use super::*;

/// Files in a folder of their own, which is what errors are relative to in the expectations.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self { folder }
    }

    fn read(&self, main: &str) -> Result<Source, String> {
        let source = Source::from_file(&self.folder.path().join(main), 1000);
        source.map_err(|error| self.short(&error.to_string()))
    }

    fn short(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

/// Reads a script and shows its path and those of its modules.
fn paths(files: &[(&str, &str)], main: &str) -> String {
    let bundle = Files::new(files).read(main).unwrap().bundle;
    let modules: Vec<_> = bundle.modules.keys().map(String::as_str).collect();
    format!("{}: {}", bundle.file.as_deref().unwrap_or("-"), modules.join(" "))
}

fn error(files: &[(&str, &str)]) -> String {
    Files::new(files).read("jobs/main.js").unwrap_err()
}

#[test]
fn a_script_comes_with_all_that_it_imports() {
    let files = [
        ("jobs/main.js", "import './lib/a.js'; import '../shared/c.ts'; import './lib/a.js'"),
        ("jobs/lib/a.js", "export * from './b.mjs'; export * from '../main.js'"),
        ("jobs/lib/b.mjs", "export const b = () => import('../late.js')"),
        ("jobs/late.js", "import './lib/a.js'"),
        ("shared/c.ts", "import type { T } from './gone.ts'; export let c: T;"),
        ("shared/unused.js", ""),
    ];
    assert_eq!(
        paths(&files, "jobs/main.js"),
        "jobs/main.js: jobs/late.js jobs/lib/a.js jobs/lib/b.mjs shared/c.ts"
    );
    let source = Files::new(&files).read("jobs/main.js").unwrap();
    assert_eq!(
        &*source.bundle.modules["shared/c.ts"],
        "                                    export let c   ;"
    );
    assert_eq!(source.left_out, [""; 0]);
}

#[test]
fn paths_are_below_the_highest_folder_that_is_passed_through() {
    let empty = ("x/y/b.js", "");
    assert_eq!(paths(&[("x/y/main.js", "")], "x/y/main.js"), "-: ");
    assert_eq!(paths(&[("x/y/main.js", "import './main.js'")], "x/y/main.js"), "main.js: ");
    assert_eq!(paths(&[("x/y/main.js", "import './b.js'"), empty], "x/y/main.js"), "main.js: b.js");
    assert_eq!(paths(&[("x/y/main.js", "import '../y/b.js'"), empty], "x/y/main.js"), "y/main.js: y/b.js");
    assert_eq!(paths(&[("x/main.js", "import './y/b.js'"), empty], "x/main.js"), "main.js: y/b.js");
    assert_eq!(
        paths(&[("x/main.js", "import './y/../y/b.js'"), empty], "x/../x/./main.js"),
        "main.js: y/b.js"
    );
    assert_eq!(
        paths(
            &[("x/main.js", "import './y/a.js'"), ("x/y/a.js", "import '../../x/y/b.js'"), empty],
            "x/main.js"
        ),
        "x/main.js: x/y/a.js x/y/b.js"
    );
}

#[test]
fn what_cannot_be_imported_is_named_with_its_importer() {
    let main = "// first\nimport {\n  x,\n} from './lib/a.js';";
    let a = ("jobs/lib/a.js", "\nexport { x } from '../b.js'");
    assert_eq!(
        error(&[("jobs/main.js", main)]),
        "jobs/main.js:4: cannot import `./lib/a.js`: cannot read `jobs/lib/a.js`: No such file or directory (os error 2)"
    );
    assert_eq!(
        error(&[("jobs/main.js", main), a]),
        "jobs/lib/a.js:2: cannot import `../b.js`: cannot read `jobs/b.js`: No such file or directory (os error 2)"
    );
    for (import, file, expected) in [
        ("./b.js", ("jobs/b.ts", ""), "; there is a file `b.ts`: write its whole name"),
        (
            "./b.js",
            ("jobs/b.js", "with (x) {}"),
            "jobs/b.js, imported by jobs/main.js:1, is no module: SyntaxError",
        ),
        ("./b.js", ("jobs/b.js", "export let = 1"), "at jobs/b.js:1:"),
        ("./b.ts", ("jobs/b.ts", "export enum E { A }"), "jobs/b.ts:1:1: cannot strip an enum"),
        ("./b.js", ("jobs/b.js/x", ""), "cannot import `./b.js`: cannot read `jobs/b.js`: it is a directory"),
        (
            "./b",
            ("jobs/b.js", ""),
            "only files that end in .js, .mjs, .ts or .mts can be imported; there is a file `b.js`",
        ),
        ("./b.json", ("jobs/b.json", "{}"), "only files that end in .js, .mjs, .ts or .mts can be imported"),
        (
            "lodash",
            ("b.js", ""),
            "jobs/main.js:1: cannot import `lodash`: packages cannot be imported by name",
        ),
        ("/b.js", ("b.js", ""), "imports are paths relative to the importing file"),
        ("https://h/b.js", ("b.js", ""), "imports are paths relative to the importing file"),
    ] {
        let shown = error(&[("jobs/main.js", &format!("import '{import}'")), file]);
        assert!(shown.contains(expected), "{import}: {shown}");
        assert_eq!(shown.lines().count(), 1, "{shown}");
    }
    let up = "../".repeat(100);
    assert!(error(&[("jobs/main.js", &format!("import '{up}b.js'"))]).contains("climbs above"));
}

#[test]
fn limits_are_for_all_files_together() {
    let half = format!("//{}", "x".repeat(600));
    let shown = error(&[("jobs/main.js", &format!("import './b.js';{half}")), ("jobs/b.js", &half)]);
    assert_eq!(shown, "jobs/main.js is larger than 1000 bytes with what it imports (source-limit)");
    assert_eq!(
        error(&[("jobs/main.js", &half.repeat(2))]),
        "`jobs/main.js` is larger than 1000 bytes (source-limit)"
    );
}

#[test]
fn what_a_call_of_import_does_not_find_is_left_out() {
    let files =
        Files::new(&[("jobs/main.js", "// import('./old.js')\nimport(name);\nawait import('./gone.js');")]);
    let source = files.read("jobs/main.js").unwrap();
    let left_out: Vec<_> = source.left_out.iter().map(|text| files.short(text)).collect();
    assert_eq!(
        left_out,
        [
            "jobs/main.js:1: cannot import `./old.js`: cannot read `jobs/old.js`: No such file or directory (os error 2)",
            "jobs/main.js:3: cannot import `./gone.js`: cannot read `jobs/gone.js`: No such file or directory (os error 2)",
        ]
    );
    assert_eq!(source.bundle.modules.len(), 0);
}

#[test]
fn a_source_that_does_not_parse_is_registered_and_says_so_when_it_runs() {
    for text in ["let = 1", "import './b.js'; let = 1", "with (x) {}"] {
        let files = Files::new(&[("main.js", text)]);
        assert_eq!(files.read("main.js").unwrap().bundle, Bundle::from(text));
    }
}

#[test]
fn a_text_without_a_file_imports_nothing() {
    assert_eq!(Source::from_text("function main() {}", "-").unwrap().bundle, "function main() {}".into());
    let error = Source::from_text("\nimport './a.js'", "-").unwrap_err().to_string();
    assert_eq!(error, "-:2 imports `./a.js`, which only a script in a file can do");
}

fn path() -> impl Strategy<Value = String> {
    vec(select(vec!["a", "b", "ä"]), 1..4).prop_map(|parts| format!("{}.js", parts.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_import_leads_to_the_file_that_was_read(
        paths in btree_set(path(), 1..8),
        edges in vec((any::<Index>(), any::<Index>(), 0..3_usize), 0..24),
        main in any::<Index>(),
    ) {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let texts = paths.iter().enumerate().map(|(nth, from)| {
            let mut text = format!("// {from}\n");
            for (_, to, climb) in edges.iter().filter(|(from, ..)| from.index(paths.len()) == nth) {
                // Sometimes by way of a folder further up, which has some name in the file system.
                let depth = from.matches('/').count();
                text += &format!("import \"./{}x/../{}\";\n", "../".repeat(depth), paths[to.index(paths.len())]);
                if *climb > 0 && depth > 0 {
                    let folder = from.split('/').next().unwrap_or_default();
                    let back = "../".repeat(depth);
                    text += &format!("import \"{back}{folder}/../{}\";\n", paths[to.index(paths.len())]);
                }
            }
            (*from, text)
        });
        let texts: Vec<(&str, String)> = texts.collect();
        let files: Vec<(&str, &str)> = texts.iter().map(|(path, text)| (*path, text.as_str())).collect();
        let main = paths[main.index(paths.len())];
        let files = Files::new(&files);
        let source = Source::from_file(&files.folder.path().join(main), 1 << 20).unwrap();

        let bundle = source.bundle;
        let all = bundle.modules.iter().map(|(path, text)| (path.as_str(), &**text));
        let all: Vec<(&str, &str)> = all.chain([(bundle.file.as_deref().unwrap_or("alone.js"), &*bundle.main)]).collect();
        for (path, text) in &all {
            for import in hats_script::imports(text, path).found {
                let target = hats_script::resolve(path, &import.specifier).unwrap();
                let (_, found) = all.iter().find(|(path, _)| *path == target).unwrap();
                // The first line of each file says which it is.
                let named = import.specifier.rsplit("../").next().unwrap();
                prop_assert_eq!(found.lines().next().unwrap(), format!("// {named}"));
            }
        }
    }
}
