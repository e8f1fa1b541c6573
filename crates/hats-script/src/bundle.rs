//! What a task runs: its source, the files that it imports, and the libraries that come before it.
//!
//! What must hold: nothing here, and nothing that runs a bundle, reads a disk. Whoever registers a script reads the files
//! that [`imports`] names and puts them into its [`Bundle`]; what is not in there does not exist for the script.
//!
//! The paths in a bundle are relative to one folder above all of its files, with `/` between their parts and no `.` and
//! `..` in them, so that each file has one name.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use rquickjs::context::EvalOptions;
use rquickjs::loader::{ImportAttributes, Loader, Resolver};
use rquickjs::module::Declared;
use rquickjs::{CatchResultExt, CaughtError, Context, Ctx, Exception, Module, Runtime, Value};

use crate::error::{ScriptError, Thrown};

/// A source and the files that it imports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// The text that is run.
    pub main: Arc<str>,
    /// The path of that text, by which modules may import it. None: it has no name, and stands in the topmost folder.
    pub file: Option<Arc<str>>,
    /// The texts of the modules, by their paths.
    pub modules: Arc<BTreeMap<String, Arc<str>>>,
}

/// A script that is evaluated before every task's own source, in the same scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// What it is called in stack traces.
    pub name: Arc<str>,
    /// JavaScript; no module.
    pub source: Arc<str>,
}

/// What a source imports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imports {
    /// Each import, static ones first.
    pub found: Vec<Import>,
    /// Why the source is no module; its static imports are unknown then, if it has any.
    pub no_module: Option<ScriptError>,
}

/// One import of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// As it stands there.
    pub specifier: String,
    /// The line it stands in, unless it is written with escapes.
    pub line: Option<usize>,
    /// An `import()` whose argument is written out. It is found by looking at the text, so it may stand in a comment.
    pub dynamic: bool,
}

/// Why an import means no file of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unresolvable {
    /// It is the name of a package.
    Bare,
    /// It is a URL or an absolute path.
    Absolute,
    /// It climbs out of the topmost folder.
    Outside,
}

impl Bundle {
    /// The engine walks over modules by calling itself, in places without a look at its stack.
    pub const MODULES_MAX: usize = 1000;

    /// Its length in bytes, the modules included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.main.len() + self.modules.values().map(|text| text.len()).sum::<usize>()
    }
}

impl<T: Into<Arc<str>>> From<T> for Bundle {
    fn from(main: T) -> Self {
        Self { main: main.into(), file: None, modules: Arc::default() }
    }
}

impl fmt::Display for Unresolvable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bare => {
                "packages cannot be imported by name: import a file by a path that begins with ./ or ../, give a library \
                 to --preload, or bundle it into the script"
            }
            Self::Absolute => "imports are paths relative to the importing file, and begin with ./ or ../",
            Self::Outside => "this is outside of the folder that holds the script and its modules",
        })
    }
}

/// The path that `specifier` means in the file at the path `importer`.
///
/// # Errors
/// When it means no file of a bundle.
pub fn resolve(importer: &str, specifier: &str) -> Result<String, Unresolvable> {
    if !specifier.starts_with("./") && !specifier.starts_with("../") {
        let is_absolute = specifier.starts_with('/') || specifier.contains(':');
        return Err(if is_absolute { Unresolvable::Absolute } else { Unresolvable::Bare });
    }
    let mut parts: Vec<&str> = importer.split('/').collect();
    // The importer's own name.
    parts.pop();
    for part in specifier.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or(Unresolvable::Outside)?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Finds what a source imports, without running it. The interpreter itself says which static imports there are.
#[must_use]
pub fn imports(source: &str, file: &str) -> Imports {
    let (specifiers, no_module) = static_imports(source, file);
    let statics = specifiers.into_iter().map(|specifier| Import {
        line: line_of_import(source, &specifier),
        specifier,
        dynamic: false,
    });
    let mut found: Vec<Import> = statics.collect();
    for (at, specifier) in dynamic_imports(source) {
        if !found.iter().any(|import| import.specifier == specifier) {
            let line = Some(line_at(source, at));
            found.push(Import { specifier: specifier.to_owned(), line, dynamic: true });
        }
    }
    Imports { found, no_module }
}

/// The line in which a source imports `specifier`.
pub(crate) fn line_of_import(source: &str, specifier: &str) -> Option<usize> {
    let imports = |(at, _): &(usize, &str)| {
        let (before, after) = (&source[..*at], &source[at + specifier.len()..]);
        let Some(quote @ ('"' | '\'' | '`')) = before.chars().next_back() else { return false };
        let before = before[..before.len() - 1].trim_end();
        let calls = before.strip_suffix('(').map(str::trim_end);
        after.starts_with(quote)
            && (before.ends_with("from") || before.ends_with("import") || calls.is_some_and(ends_with_import))
    };
    let found = source.match_indices(specifier).find(imports);
    found.map(|(at, _)| line_at(source, at))
}

fn ends_with_import(text: &str) -> bool {
    text.ends_with("import")
}

fn line_at(source: &str, at: usize) -> usize {
    source[..at].bytes().filter(|byte| *byte == b'\n').count() + 1
}

/// Where a source calls `import()` with a relative path that is written out, and the path.
fn dynamic_imports(source: &str) -> impl Iterator<Item = (usize, &str)> {
    source.match_indices("import").filter_map(|(at, word)| {
        let continues = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '.' | '#');
        if source[..at].chars().next_back().is_some_and(continues) {
            return None;
        }
        let argument = source[at + word.len()..].trim_start().strip_prefix('(')?.trim_start();
        let quote = argument.chars().next().filter(|quote| matches!(quote, '"' | '\'' | '`'))?;
        let (specifier, after) = argument[1..].split_once(quote)?;
        let is_plain = !specifier.contains(['\\', '\n', '$']);
        let is_relative = specifier.starts_with("./") || specifier.starts_with("../");
        let is_whole = after.trim_start().starts_with([')', ',']);
        (is_plain && is_relative && is_whole).then_some((at, specifier))
    })
}

/// What is wrong with a script, as a parser sees it; none: it is JavaScript. It must be one expression, such as a function,
/// and nothing of it is run.
#[must_use]
pub fn syntax_error(expression: &str, file: &str) -> Option<ScriptError> {
    let parsed = || -> Result<Option<ScriptError>, rquickjs::Error> {
        let runtime = Runtime::new()?;
        runtime.set_memory_limit(PARSER_MEMORY_BYTES);
        runtime.set_max_stack_size(PARSER_STACK_BYTES);
        // A text that is more than an expression may run; it can reach nothing, and it does not run long.
        let mut turns = PARSER_TURNS;
        runtime.set_interrupt_handler(Some(Box::new(move || {
            turns = turns.saturating_sub(1);
            turns == 0
        })));
        let context = Context::full(&runtime)?;
        let mut options = EvalOptions::default();
        options.strict = false;
        options.filename = Some(file.to_owned());
        Ok(context.with(|ctx| {
            let parsed = ctx.eval_with_options::<Value<'_>, _>(format!("0&&({expression}\n)"), options);
            parsed.catch(&ctx).err().map(thrown)
        }))
    };
    let error = parsed().unwrap_or_else(|error| Some(other_error(&error)))?;
    let is_syntax = matches!(&error, ScriptError::Thrown(thrown) if thrown.name == "SyntaxError");
    is_syntax.then_some(error)
}

/// Memory for looking at one source. Far more than any source within its limit needs.
const PARSER_MEMORY_BYTES: usize = 256 << 20;
/// How often the interpreter may ask whether to go on, which it does while it runs something.
const PARSER_TURNS: u32 = 100;
/// Stack for it; every OS thread has more.
const PARSER_STACK_BYTES: usize = 256 << 10;

fn static_imports(source: &str, file: &str) -> (Vec<String>, Option<ScriptError>) {
    let seen = Seen::default();
    let declared = || -> Result<Option<ScriptError>, rquickjs::Error> {
        let runtime = Runtime::new()?;
        runtime.set_memory_limit(PARSER_MEMORY_BYTES);
        runtime.set_max_stack_size(PARSER_STACK_BYTES);
        runtime.set_loader(seen.clone(), seen.clone());
        let context = Context::full(&runtime)?;
        Ok(context.with(|ctx| Module::declare(ctx.clone(), file, source).catch(&ctx).err().map(thrown)))
    };
    let no_module = declared().unwrap_or_else(|error| Some(other_error(&error)));
    let specifiers = seen.specifiers.take();
    (specifiers, no_module)
}

fn thrown(error: CaughtError<'_>) -> ScriptError {
    match error {
        CaughtError::Exception(exception) => ScriptError::Thrown(Thrown {
            name: exception.as_object().get("name").unwrap_or_default(),
            message: exception.message().unwrap_or_default(),
            stack: exception.stack().unwrap_or_default(),
            rejected: false,
        }),
        CaughtError::Error(error) => other_error(&error),
        CaughtError::Value(_) => other_error(&rquickjs::Error::Unknown),
    }
}

fn other_error(error: &rquickjs::Error) -> ScriptError {
    ScriptError::Thrown(Thrown {
        name: "Error".to_owned(),
        message: error.to_string(),
        stack: String::new(),
        rejected: false,
    })
}

/// Resolves every import to an empty module, and remembers them.
#[derive(Clone, Default)]
struct Seen {
    specifiers: Rc<RefCell<Vec<String>>>,
}

impl Resolver for Seen {
    fn resolve<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        _base: &str,
        name: &str,
        attributes: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<String> {
        if let Some(key) = attributes.and_then(|attributes| attributes.keys().next()) {
            return Err(Exception::throw_type(ctx, &no_attributes(&key?)));
        }
        let mut specifiers = self.specifiers.borrow_mut();
        if !specifiers.iter().any(|known| known == name) {
            specifiers.push(name.to_owned());
        }
        // No file has such a name, the one whose imports these are included.
        Ok(format!("\u{1}{name}"))
    }
}

impl Loader for Seen {
    fn load<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        name: &str,
        _attributes: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<Module<'js, Declared>> {
        Module::declare(ctx.clone(), name, "")
    }
}

/// Why `import … with { key: … }` is refused: there is only one type of module.
pub(crate) fn no_attributes(key: &str) -> String {
    format!("import attributes are not supported (`with {{ {key}: … }}`): only JavaScript is imported")
}

#[cfg(test)]
mod tests;
