//! From TypeScript to JavaScript, by taking the types out.
//!
//! What must hold: whatever is left stands where it stood, line and column, so that an error of a script is found in the
//! file that its author has. So nothing is compiled: what is more than a type (`enum`, `namespace` and the like) is
//! refused.

/// Takes the types out of a text. `shown` is the file, for errors.
///
/// # Errors
/// A text that says what is in the way, with its place.
#[cfg(feature = "typescript")]
pub(crate) fn strip(text: &str, shown: &str) -> Result<String, String> {
    use tsv_ts::{StripError, UnsupportedConstruct};

    // It calls itself for each level of nesting, and has a limit that fits the stack it is given here.
    let stripped = std::thread::scope(|scope| {
        let parser = std::thread::Builder::new().name("typescript".to_owned()).stack_size(tsv_ts::STACK_SIZE);
        let running = parser.spawn_scoped(scope, || tsv_ts::strip(text));
        running.map(|running| running.join())
    });
    let error = match stripped {
        Ok(Ok(Ok(stripped))) => return Ok(stripped.code),
        Ok(Ok(Err(error))) => error,
        Ok(Err(_)) => return Err(format!("{shown}: the TypeScript parser has failed on it")),
        Err(error) => return Err(format!("{shown}: no OS thread to read TypeScript on: {error}")),
    };
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    let StripError::Unsupported { construct, .. } = &error else {
        return Err(format!("{shown}:{line}:{column}: {}", error.message()));
    };
    let instead = match construct {
        UnsupportedConstruct::Enum => "; use an object: const E = { A: 1 } as const",
        UnsupportedConstruct::ValueNamespace => "; use a module or an object",
        UnsupportedConstruct::ParameterProperty => "; declare the field and assign it",
        UnsupportedConstruct::ImportEquals => "; use import … from",
        UnsupportedConstruct::ExportEquals => "; use export default",
        UnsupportedConstruct::TypeAssertion => "; use as",
        UnsupportedConstruct::AssertionGrouping => "; put it into parentheses",
        _ => "",
    };
    let message = error.message();
    Err(format!(
        "{shown}:{line}:{column}: {message}: types are only taken out here, nothing is compiled{instead}"
    ))
}

/// As above, in a build that has no parser for it.
///
/// # Errors
/// Always.
#[cfg(not(feature = "typescript"))]
pub(crate) fn strip(_text: &str, shown: &str) -> Result<String, String> {
    Err(format!(
        "{shown} is TypeScript, which this build does not read (cargo feature `typescript` of hats-core)"
    ))
}

#[cfg(all(test, feature = "typescript"))]
mod tests {
    use super::*;

    #[test]
    fn types_become_blanks_and_lines_stay() {
        let text =
            "import { type A, b } from './x.ts';\ninterface I {\n  a: string\n}\nlet c: I = b as I; // ä\n";
        let stripped = strip(text, "a.ts").unwrap();
        assert_eq!(
            stripped,
            "import {         b } from './x.ts';\n             \n           \n \nlet c    = b     ; // ä\n"
        );
    }

    #[test]
    fn what_is_more_than_a_type_is_refused_with_its_place() {
        for (text, expected) in [
            (
                "\nenum E { A }",
                "a.ts:2:1: cannot strip an enum: types are only taken out here, nothing is compiled; use",
            ),
            ("let ä; namespace N { export const x = 1 }", "a.ts:1:8: cannot strip a namespace"),
            ("class C { constructor(private x: number) {} }", "a.ts:1:23: cannot strip a parameter property"),
            ("import x = require('x')", "a.ts:1:1: cannot strip an 'import =' declaration"),
            ("export = 1", "a.ts:1:1: cannot strip an 'export =' assignment"),
            ("let x = <number>y", "a.ts:1:9: cannot strip an angle-bracket type assertion"),
            ("let x: = 1", "a.ts:1:8: Expected type"),
        ] {
            let error = strip(text, "a.ts").unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert_eq!(error.lines().count(), 1);
        }
    }

    #[test]
    fn depth_ends_in_an_error() {
        let deep = format!("let x = {}1{}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(strip(&deep, "a.ts").is_err());
    }
}
