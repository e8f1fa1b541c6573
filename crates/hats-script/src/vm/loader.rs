//! Finds the modules that a script imports among those of its bundle, and nowhere else.
//!
//! The engine knows modules by a name, which is also what stack traces show: the task's own name for the source itself,
//! and for the others their path, below the folder that the task's name says if it ends like the source's path does.
//!
//! What must hold: each file has one name, and no two share one. And a module that could not be loaded or linked is never
//! handed out again, nor is any that was loaded along with it: the engine frees the one and leaves the others pointing
//! at it, and it loses count of the variables of modules that it links a second time, which in the end aborts the process.

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::rc::Rc;

use hats_arena::leaf::{self, ErrorKind, throw};
use hats_arena::{ModuleSource, ModuleText};
use rquickjs::{Ctx, Object};

use super::Host;
use crate::bundle::{self, Bundle, line_of_import};

/// Static imports that may be inside one another. The engine follows them by calling itself, and looks at no stack limit
/// on its way.
const DEPTH_MAX: usize = 100;
/// Of the modules that there are, so many are named in an error.
const NAMES_SHOWN: usize = 8;

/// Finds the modules of whatever bundle the script has at present: the engine is told of this once and for all.
pub(super) struct HostModules(pub(super) Rc<Host>);

impl Host {
    /// Lets the script import the modules of a bundle.
    pub(super) fn serve_modules(&self, bundle: &Bundle, task: &str) -> Modules {
        let modules = Modules::new(bundle, task);
        *self.modules.borrow_mut() = Some(modules.clone());
        modules
    }
}

impl HostModules {
    fn current(&self, ctx: &Ctx<'_>, name: &str) -> rquickjs::Result<Modules> {
        let modules = self.0.modules.borrow().clone();
        modules.ok_or_else(|| {
            throw(ctx, ErrorKind::Reference, &format!("could not load module '{name}': the task has none"))
        })
    }
}

impl ModuleSource for HostModules {
    fn resolve<'js>(
        &self,
        ctx: &Ctx<'js>,
        importer: &str,
        specifier: &str,
        attributes: Option<Object<'js>>,
    ) -> rquickjs::Result<String> {
        self.current(ctx, specifier)?.resolve(ctx, importer, specifier, attributes)
    }

    fn find(&self, ctx: &Ctx<'_>, name: &str) -> rquickjs::Result<ModuleText> {
        self.current(ctx, name)?.find(ctx, name)
    }

    fn loaded(&self, _name: &str, is_ok: bool) {
        if let Some(modules) = &*self.0.modules.borrow() {
            modules.loaded(is_ok);
        }
    }
}

impl Modules {
    fn new(bundle: &Bundle, task: &str) -> Self {
        Self {
            shared: Rc::new(Shared {
                prefix: bundle
                    .file
                    .as_deref()
                    .and_then(|file| prefix(task, file))
                    .unwrap_or_default()
                    .to_owned(),
                bundle: bundle.clone(),
                task: task.to_owned(),
                depth: Cell::new(0),
                loading: RefCell::default(),
                broken: RefCell::default(),
                is_declaring: Cell::new(true),
                is_abandoned: Cell::new(false),
            }),
        }
    }
}

/// The first name among the attributes of an import.
fn first_key<'js>(attributes: Option<Object<'js>>) -> rquickjs::Result<Option<String>> {
    #[expect(clippy::disallowed_methods, reason = "the name is taken as a JavaScript string")]
    let first = attributes.and_then(|attributes| attributes.keys::<rquickjs::String<'js>>().next());
    first.map(|key| leaf::string_of(&key?)).transpose()
}

/// What the task's name says before the path of its source.
fn prefix<'a>(task: &'a str, file: &str) -> Option<&'a str> {
    let prefix = task.strip_suffix(file)?;
    (prefix.is_empty() || prefix.ends_with('/')).then_some(prefix)
}

/// The modules that a runtime's scripts can import.
#[derive(Clone)]
pub(super) struct Modules {
    shared: Rc<Shared>,
}

struct Shared {
    task: String,
    prefix: String,
    bundle: Bundle,
    /// How many modules are being loaded, each for another.
    depth: Cell<usize>,
    /// Their paths, and those of all that were loaded for them.
    loading: RefCell<Vec<String>>,
    broken: RefCell<Vec<String>>,
    /// The source itself is being declared, if it is a module, with all that it imports.
    is_declaring: Cell<bool>,
    is_abandoned: Cell<bool>,
}

impl Modules {
    /// What is loaded from now on is loaded by a call of `import()`.
    pub(super) fn source_is_declared(&self) {
        self.shared.is_declaring.set(false);
    }

    /// The engine has forgotten whatever was loaded since the source was declared.
    pub(super) fn renew(&self) {
        self.shared.depth.set(0);
        self.shared.loading.borrow_mut().clear();
        self.shared.broken.borrow_mut().clear();
    }

    /// The source itself has failed. It may have been freed, and any of its modules may refer to it.
    pub(super) fn abandon(&self) {
        self.shared.is_abandoned.set(true);
    }
}

impl Shared {
    /// What the engine calls the file at this path.
    fn name(&self, path: &str) -> String {
        if self.is_main(path) {
            return self.task.clone();
        }
        let name = format!("{}{path}", self.prefix);
        // A task may have the name that a module would have had.
        if name == self.task { format!("./{name}") } else { name }
    }

    /// Whether this is the path of the source, which may have none.
    fn is_main(&self, path: &str) -> bool {
        path == self.bundle.file.as_deref().unwrap_or_default()
    }

    /// The path of the file that the engine knows by this name. Code that is no file's imports as the source does.
    fn path(&self, name: &str) -> &str {
        let find = |name: &str| {
            let path = name.strip_prefix(&self.prefix)?;
            self.bundle.modules.get_key_value(path).map(|(path, _)| path.as_str())
        };
        let module = if name == self.task { None } else { find(name) };
        let renamed = || name.strip_prefix("./").filter(|rest| *rest == self.task).and_then(find);
        module.or_else(renamed).or(self.bundle.file.as_deref()).unwrap_or_default()
    }

    fn text(&self, path: &str) -> Option<&str> {
        if self.is_main(path) {
            return Some(&self.bundle.main);
        }
        self.bundle.modules.get(path).map(|text| &**text)
    }

    /// The path that an import means, or why there is none.
    fn resolve(&self, importer: &str, specifier: &str) -> Result<String, String> {
        let path = bundle::resolve(importer, specifier).map_err(|error| error.to_string())?;
        let is_main = self.bundle.file.is_some() && self.is_main(&path);
        if is_main || self.bundle.modules.contains_key(&path) {
            return Ok(path);
        }
        let mut names: Vec<&str> = self.bundle.modules.keys().take(NAMES_SHOWN).map(String::as_str).collect();
        if self.bundle.modules.len() > NAMES_SHOWN {
            names.push("…");
        }
        Err(if names.is_empty() {
            format!("the task has no module {path}, nor any other")
        } else {
            format!("the task has no module {path}, but {}", names.join(", "))
        })
    }

    /// Why this import did not work.
    fn refusal(&self, importer: &str, specifier: &str, why: &str) -> String {
        let line = self.text(importer).and_then(|text| line_of_import(text, specifier));
        let line = line.map(|line| format!(":{line}")).unwrap_or_default();
        format!("{}{line} cannot import {specifier:?}: {why}", self.name(importer))
    }

    /// From now on, nothing that is being loaded is handed out.
    fn give_up(&self) {
        self.broken.borrow_mut().append(&mut self.loading.borrow_mut());
    }
}

impl Modules {
    fn resolve<'js>(
        &self,
        ctx: &Ctx<'js>,
        base: &str,
        name: &str,
        attributes: Option<Object<'js>>,
    ) -> rquickjs::Result<String> {
        let shared = &*self.shared;
        let importer = shared.path(base);
        let resolved = first_key(attributes).and_then(|key| {
            if let Some(key) = key {
                return Err(throw(ctx, ErrorKind::Type, &bundle::no_attributes(&key)));
            }
            let resolved = shared.resolve(importer, name).and_then(|path| {
                let is_broken = shared.is_abandoned.get() || shared.broken.borrow().contains(&path);
                if is_broken { Err("an import of it has failed before".to_owned()) } else { Ok(path) }
            });
            resolved.map_err(|why| throw(ctx, ErrorKind::Type, &shared.refusal(importer, name, &why)))
        });
        if resolved.is_err() {
            shared.give_up();
        }
        resolved.map(|path| shared.name(&path))
    }

    fn find(&self, ctx: &Ctx<'_>, name: &str) -> rquickjs::Result<ModuleText> {
        let shared = &*self.shared;
        let path = shared.path(name);
        let depth = shared.depth.get();
        shared.loading.borrow_mut().push(path.to_owned());
        let text = match shared.bundle.modules.get(path).filter(|_| name != shared.task) {
            // Had it been run as one, the engine would know it.
            None => Err(throw(
                ctx,
                ErrorKind::Type,
                &format!("{name} cannot be imported: it was run as a script, not as a module"),
            )),
            Some(_) if depth >= DEPTH_MAX => Err(throw(
                ctx,
                ErrorKind::Range,
                &format!("{name} cannot be imported: more than {DEPTH_MAX} imports inside one another"),
            )),
            Some(text) => CString::new(&**text)
                .map_err(|_| throw(ctx, ErrorKind::Syntax, &format!("{name} contains a NUL character"))),
        };
        match text {
            Ok(source) => {
                shared.depth.set(depth + 1);
                // The engine would run it right after this. Here it is learnt whether it can be linked.
                Ok(ModuleText { source, is_run: depth == 0 && !shared.is_declaring.get() })
            }
            Err(error) => {
                shared.give_up();
                Err(error)
            }
        }
    }

    fn loaded(&self, is_ok: bool) {
        let shared = &*self.shared;
        let depth = shared.depth.get().saturating_sub(1);
        shared.depth.set(depth);
        if !is_ok {
            shared.give_up();
        } else if depth == 0 {
            shared.loading.borrow_mut().clear();
        }
    }
}
