use super::*;

fn check(source: &str, expected: &[(&str, Option<usize>, bool)]) {
    let imports = imports(source, "test.js");
    let found: Vec<_> =
        imports.found.iter().map(|import| (import.specifier.as_str(), import.line, import.dynamic)).collect();
    assert_eq!(found, expected, "{source} {:?}", imports.no_module);
}

#[test]
fn static_imports_are_those_that_the_engine_sees() {
    check("", &[]);
    check("import './a.js'", &[("./a.js", Some(1), false)]);
    check(
        "import a, * as b from \"./a.js\";\nexport * from './b.js'; export {\n  x as default,\n} from './c.js';\nimport { x } from './a.js'",
        &[("./a.js", Some(1), false), ("./b.js", Some(2), false), ("./c.js", Some(4), false)],
    );
    check(
        "// import './no.js'\nconst s = \"import './no.js'\"; import './a.js'",
        &[("./a.js", Some(2), false)],
    );
    check("import '\\x2e/a.js'", &[("./a.js", None, false)]);
    check("import lodash from 'lodash'", &[("lodash", Some(1), false)]);
    // It may import the file that it is.
    check("import './test.js'", &[("./test.js", Some(1), false)]);
}

#[test]
fn calls_of_import_are_found_where_the_path_is_written_out() {
    check("await import('./a.js')", &[("./a.js", Some(1), true)]);
    check("\nimport(\n  `../b/a.js`, {})", &[("../b/a.js", Some(2), true)]);
    check("import('./a.js'); import './a.js'", &[("./a.js", Some(1), false)]);
    for source in
        ["import(name)", "import('a')", "import('./' + x)", "x.import('./a.js')", "import(`./${x}`)"]
    {
        check(source, &[]);
    }
}

#[test]
fn what_is_no_module_says_why() {
    let imports = imports("with (x) {}", "test.js");
    assert!(imports.no_module.unwrap().to_string().starts_with("SyntaxError"));
    assert!(super::imports("import x from './x.js'; x(", "test.js").no_module.is_some());
    assert!(super::imports("import './x.js' with { type: 'json' }", "test.js").no_module.is_some());
    assert!(super::imports("\0", "test.js").no_module.is_some());
}

#[test]
fn paths_are_resolved_as_urls_are() {
    for (importer, specifier, expected) in [
        ("main.js", "./a.js", Ok("a.js")),
        ("", "./a.js", Ok("a.js")),
        ("lib/x/y.js", "./a.js", Ok("lib/x/a.js")),
        ("lib/x/y.js", "../../a.js", Ok("a.js")),
        ("lib/x.js", ".././b/../a.js", Ok("a.js")),
        ("lib/x.js", "../../a.js", Err(Unresolvable::Outside)),
        ("main.js", "a.js", Err(Unresolvable::Bare)),
        ("main.js", "@org/a", Err(Unresolvable::Bare)),
        ("main.js", "", Err(Unresolvable::Bare)),
        ("main.js", "/a.js", Err(Unresolvable::Absolute)),
        ("main.js", "file:///a.js", Err(Unresolvable::Absolute)),
        ("main.js", "node:fs", Err(Unresolvable::Absolute)),
    ] {
        assert_eq!(resolve(importer, specifier).as_deref(), expected.as_deref(), "{importer} {specifier}");
    }
}
