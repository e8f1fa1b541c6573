//! From files to what is registered: a script with all that it imports, types taken out.
//!
//! This is the only place that reads scripts from a disk, and it is asked only by whoever registers them. What must hold:
//! a bundle resolves at run time, by [`hats_script::resolve`] alone, to the very files that were read here. So its topmost
//! folder is the highest that any import passes through, and every path in it is below that.
//!
//! Paths are taken as they are written, as URLs are: `a/../b.js` is `b.js`, whatever links there may be.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use hats_script::{Import, imports};

use crate::Error;
use crate::config::quoted;
use crate::typescript;

pub use hats_script::Bundle;

/// What can be imported, by the ends of the names.
pub(crate) const EXTENSIONS: [&str; 4] = ["js", "mjs", "ts", "mts"];
/// What allows no longer ones.
pub(crate) const SOURCE_LIMIT: &str = " (source-limit)";

/// A script as it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The script and what it imports.
    pub bundle: Bundle,
    /// Files that an `import()` names and that are not there, which is no error: it may stand in a comment, or expect to
    /// fail.
    pub left_out: Vec<String>,
}

impl Source {
    /// Reads a script and all the files that it imports, which may have so many bytes together.
    ///
    /// # Errors
    /// [`Error::Config`] says which file cannot be used and where it is imported.
    pub fn from_file(path: &Path, bytes_max: usize) -> Result<Self, Error> {
        read(path, bytes_max).map_err(Error::Config)
    }

    /// Takes a script that is in no file. It has no folder from which it could import anything.
    ///
    /// # Errors
    /// [`Error::Config`] if it imports something.
    pub fn from_text(text: &str, shown: &str) -> Result<Self, Error> {
        let imports = imports(text, shown);
        match imports.found.iter().find(|import| !import.dynamic && imports.no_module.is_none()) {
            None => Ok(Self { bundle: Bundle::from(text), left_out: Vec::new() }),
            Some(import) => Err(Error::Config(format!(
                "{} imports {}, which only a script in a file can do",
                at(shown, import),
                quoted(&import.specifier)
            ))),
        }
    }
}

/// Reads a script that imports nothing, such as a library.
///
/// # Errors
/// A text that says why not.
pub(crate) fn read_alone(path: &Path, bytes_max: usize) -> Result<String, String> {
    let text = read_text(path, bytes_max, SOURCE_LIMIT)?;
    without_types(path, &path.to_string_lossy(), text)
}

/// The files that have been read and are to be read.
struct Reader {
    bytes_max: usize,
    /// As the script's author sees them: relative to the folder in which the program was started.
    home: PathBuf,
    main: PathBuf,
    texts: BTreeMap<PathBuf, String>,
    /// Who imports them, and where.
    left: VecDeque<(PathBuf, Option<Importer>)>,
    /// The highest folder that an import has passed through.
    top: PathBuf,
    imports_main: bool,
    left_out: Vec<String>,
}

#[derive(Clone)]
struct Importer {
    place: String,
    specifier: String,
    dynamic: bool,
}

fn read(path: &Path, bytes_max: usize) -> Result<Source, String> {
    let shown = path.to_string_lossy();
    let absolute =
        std::path::absolute(path).map_err(|error| format!("cannot read {}: {error}", quoted(&shown)))?;
    let main =
        normal(&absolute).ok_or_else(|| format!("cannot read {}: it is a directory", quoted(&shown)))?;
    let mut reader = Reader {
        bytes_max,
        home: std::env::current_dir().unwrap_or_default(),
        top: main.parent().unwrap_or(&main).to_owned(),
        left: VecDeque::from([(main.clone(), None)]),
        main,
        texts: BTreeMap::new(),
        imports_main: false,
        left_out: Vec::new(),
    };
    while let Some((file, importer)) = reader.left.pop_front() {
        if !reader.texts.contains_key(&file) {
            reader.take(file, importer.as_ref())?;
        }
    }
    reader.bundle()
}

impl Reader {
    fn take(&mut self, file: PathBuf, importer: Option<&Importer>) -> Result<(), String> {
        let is_main = file == self.main;
        let shown = self.shown(&file);
        let text = match read_text(&file, self.bytes_max, SOURCE_LIMIT) {
            Ok(text) => text,
            Err(why) => {
                let Some(importer) = importer else { return Err(self.as_given(&why, &file)) };
                let message = importer.refusal(&format!("{}{}", self.as_given(&why, &file), hint(&file)));
                if importer.dynamic {
                    self.left_out.push(message);
                    return Ok(());
                }
                return Err(message);
            }
        };
        let text = without_types(&file, &shown, text)?;
        let imports = imports(&text, &shown);
        match imports.no_module {
            // It may be a script. If it is neither, running it says so.
            Some(_) if is_main => {}
            Some(error) => {
                let error = error.to_string();
                let by =
                    importer.map(|importer| format!(", imported by {}", importer.place)).unwrap_or_default();
                return Err(format!("{shown}{by}, is no module: {}", one_line(&error)));
            }
            None => self.follow(&file, &shown, imports.found.iter().filter(|import| !import.dynamic))?,
        }
        self.follow(&file, &shown, imports.found.iter().filter(|import| import.dynamic))?;
        self.texts.insert(file, text);
        let bytes: usize = self.texts.values().map(String::len).sum();
        if bytes > self.bytes_max {
            let main = self.shown(&self.main);
            return Err(format!(
                "{main} is larger than {} bytes with what it imports{SOURCE_LIMIT}",
                self.bytes_max
            ));
        }
        if self.texts.len() > Bundle::MODULES_MAX {
            let main = self.shown(&self.main);
            return Err(format!("{main} imports more than {} files", Bundle::MODULES_MAX));
        }
        Ok(())
    }

    fn follow<'a>(
        &mut self,
        file: &Path,
        shown: &str,
        imports: impl Iterator<Item = &'a Import>,
    ) -> Result<(), String> {
        for import in imports {
            let importer = Importer {
                place: at(shown, import),
                specifier: import.specifier.clone(),
                dynamic: import.dynamic,
            };
            let target = self.resolve(file, &import.specifier).and_then(|target| {
                let extension = target.extension().unwrap_or_default().to_string_lossy().into_owned();
                if EXTENSIONS.contains(&&*extension) {
                    return Ok(target);
                }
                let [names @ .., last] = EXTENSIONS.map(|extension| format!(".{extension}"));
                let names = names.join(", ");
                Err(format!("only files that end in {names} or {last} can be imported{}", hint(&target)))
            });
            match target {
                Ok(target) => {
                    self.imports_main |= target == self.main;
                    self.left.push_back((target, Some(importer)));
                }
                Err(why) if import.dynamic => self.left_out.push(importer.refusal(&why)),
                Err(why) => return Err(importer.refusal(&why)),
            }
        }
        Ok(())
    }

    /// The file that an import means, and the highest folder on the way to it.
    fn resolve(&mut self, importer: &Path, specifier: &str) -> Result<PathBuf, String> {
        // What has a name of its own is refused there; how high it climbs is to be seen here.
        if let Err(error @ (hats_script::Unresolvable::Bare | hats_script::Unresolvable::Absolute)) =
            hats_script::resolve("", specifier)
        {
            return Err(error.to_string());
        }
        let mut path = importer.parent().unwrap_or(importer).to_owned();
        let mut top = path.clone();
        for part in specifier.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    if !path.pop() {
                        return Err("it climbs above the topmost folder".to_owned());
                    }
                    if top.starts_with(&path) {
                        top.clone_from(&path);
                    }
                }
                part => path.push(part),
            }
        }
        self.top = common(&self.top, &top);
        Ok(path)
    }

    fn bundle(self) -> Result<Source, String> {
        let mut texts = self.texts;
        let main_text = texts.remove(&self.main).unwrap_or_default();
        let path = |file: &Path| {
            let inside = file.strip_prefix(&self.top).unwrap_or(file);
            let parts: Option<Vec<&str>> =
                inside.components().map(|part| part.as_os_str().to_str()).collect();
            parts.map(|parts| parts.join("/")).ok_or_else(|| {
                format!("{} cannot be bundled: its name is not valid UTF-8", quoted(&file.to_string_lossy()))
            })
        };
        let modules = texts.iter().map(|(file, text)| Ok((path(file)?, Arc::from(text.as_str()))));
        let modules = modules.collect::<Result<BTreeMap<String, Arc<str>>, String>>()?;
        let is_named = self.imports_main || !modules.is_empty();
        let bundle = Bundle {
            main: main_text.into(),
            file: if is_named { Some(path(&self.main)?.into()) } else { None },
            modules: Arc::new(modules),
        };
        Ok(Source { bundle, left_out: self.left_out })
    }

    fn shown(&self, file: &Path) -> String {
        file.strip_prefix(&self.home).unwrap_or(file).to_string_lossy().into_owned()
    }

    /// An error of a file that names it by its absolute path.
    fn as_given(&self, why: &str, file: &Path) -> String {
        why.replace(&quoted(&file.to_string_lossy()), &quoted(&self.shown(file)))
    }
}

impl Importer {
    fn refusal(&self, why: &str) -> String {
        format!("{}: cannot import {}: {why}", self.place, quoted(&self.specifier))
    }
}

fn at(shown: &str, import: &Import) -> String {
    match import.line {
        Some(line) => format!("{shown}:{line}"),
        None => shown.to_owned(),
    }
}

/// What may have been meant by a name that is not there.
fn hint(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let beside = |name: String| file.with_file_name(&name).is_file().then_some(name);
    let with_extension = EXTENSIONS.iter().find_map(|extension| beside(format!("{name}.{extension}")));
    let typed = || match file.extension()?.to_str()? {
        "js" => beside(file.with_extension("ts").file_name()?.to_string_lossy().into_owned()),
        "mjs" => beside(file.with_extension("mts").file_name()?.to_string_lossy().into_owned()),
        _ => None,
    };
    match with_extension.or_else(typed) {
        Some(meant) => format!("; there is a file {}: write its whole name", quoted(&meant)),
        None => String::new(),
    }
}

/// The folder above both.
fn common(one: &Path, other: &Path) -> PathBuf {
    let both = one.components().zip(other.components()).take_while(|(one, other)| one == other);
    both.map(|(part, _)| part).collect()
}

/// An absolute path without `.` and `..`.
pub(crate) fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            part => normal.push(part),
        }
    }
    normal.file_name()?;
    Some(normal)
}

fn without_types(file: &Path, shown: &str, text: String) -> Result<String, String> {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("ts" | "mts") => typescript::strip(&text, shown),
        _ => Ok(text),
    }
}

/// An error and where it was, without further lines of a stack.
pub(crate) fn one_line(error: &str) -> String {
    let mut lines = error.lines();
    let first = lines.next().unwrap_or_default();
    match lines.next() {
        Some(place) => format!("{first} {}", place.trim()),
        None => first.to_owned(),
    }
}

/// The whole of a text file. `limit` says what allows no more.
///
/// # Errors
/// A text that names the file.
pub(crate) fn read_text(path: &Path, bytes_max: usize, limit: &str) -> Result<String, String> {
    let shown = quoted(&path.to_string_lossy());
    let cannot_read = |error: io::Error| format!("cannot read {shown}: {error}");
    let file = File::open(path).map_err(cannot_read)?;
    if file.metadata().map_err(cannot_read)?.is_dir() {
        return Err(format!("cannot read {shown}: it is a directory"));
    }
    let mut content = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut content).map_err(cannot_read)?;
    if content.len() > bytes_max {
        return Err(format!("{shown} is larger than {bytes_max} bytes{limit}"));
    }
    String::from_utf8(content).map_err(|_| format!("{shown} is not valid UTF-8"))
}

#[cfg(test)]
mod tests;
