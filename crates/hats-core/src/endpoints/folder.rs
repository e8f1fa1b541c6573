//! The setting `endpoints`: a folder whose files are endpoints.
//!
//! ```text
//!  index.html          /             a/index.html      /a/
//!  a/b.html            /a/b          api/users.js      /api/users     (a handler)
//!  users/[id].html     /users/:id    css/style.css     /css/style.css (sent as it is)
//! ```
//!
//! What must hold: nothing is served that was not meant to be. Left out are names that begin with a dot or an underscore
//! or end with `~`, whatever a handler of the folder imports (it is a part of that handler), links that lead out of the
//! folder, and all that is no file.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use hats_cluster::name::EndpointPath;
use hats_cluster::records::EndpointKind;

use super::file::{self, ReadFile, is_script};
use crate::bundle::{Bundle, normal};
use crate::config::{Endpoint, quoted};

/// A folder with more files is a mistake.
const FILES_MAX: usize = 10_000;
/// Folders are not nested deeper.
const DEPTH_MAX: usize = 64;
/// All of them are kept in memory, by Redis and by the worker that registers them.
const BYTES_MAX: usize = 256 << 20;

/// Reads all endpoints of a folder, by path. Each file may have so many bytes.
pub(crate) fn read(folder: &str, bytes_max: usize) -> Result<Vec<Endpoint>, String> {
    let files = Walk::files(folder)?;
    let mut read = Vec::new();
    let mut bytes = 0;
    for found in files {
        let name = found.names.last().map(String::as_str).unwrap_or_default();
        if name.ends_with(".d.ts") || name.ends_with(".d.mts") {
            continue;
        }
        let ReadFile { file, left_out } = match file::read(&found.path, None, bytes_max) {
            // It may be a module that handlers import. If it is none, it is of no use.
            Err(why) if name.ends_with(".ts") || name.ends_with(".mts") => {
                read.push((found, Err(why)));
                continue;
            }
            read => read?,
        };
        for left_out in left_out {
            tracing::warn!("{left_out}; it is left out");
        }
        bytes += file.bytes();
        if bytes > BYTES_MAX {
            let most = BYTES_MAX >> 20;
            return Err(format!("{}: its files have more than {most} MiB together", quoted(folder)));
        }
        read.push((found, Ok(file)));
    }
    let imported: HashSet<PathBuf> = read
        .iter()
        .filter_map(|(found, file)| Some((found, file.as_ref().ok()?.bundle()?)))
        .flat_map(|(found, bundle)| imported(&found.path, bundle))
        .collect();
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let mut from: HashMap<String, PathBuf> = HashMap::new();
    for (found, file) in read {
        let shown = found.path.to_string_lossy().into_owned();
        if is_script(&shown) && absolute(&found.path).is_some_and(|path| imported.contains(&path)) {
            tracing::debug!("{shown} is imported by a handler: it is a part of that, and no endpoint");
            continue;
        }
        let file = file?;
        let path = path_of(&found.names, file.kind()).map_err(|why| format!("{}: {why}", quoted(&shown)))?;
        if let Some(other) = from.insert(meaning(&path), found.path) {
            let other = other.to_string_lossy();
            return Err(format!("{} and {} are both {path}", quoted(&other), quoted(&shown)));
        }
        endpoints.push(Endpoint { path, file });
    }
    if endpoints.is_empty() {
        tracing::warn!("{folder}: a folder of endpoints, and there are none in it");
    }
    endpoints.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(endpoints)
}

/// A file of the folder.
struct Found {
    path: PathBuf,
    /// The names on the way to it, its own among them.
    names: Vec<String>,
}

struct Walk {
    /// Without links.
    root: PathBuf,
    files: Vec<Found>,
}

impl Walk {
    fn files(folder: &str) -> Result<Vec<Found>, String> {
        let path = Path::new(folder);
        if !path.is_dir() {
            return Err(format!("{} is no folder", quoted(folder)));
        }
        let cannot_read = |error: std::io::Error| format!("cannot read {}: {error}", quoted(folder));
        let root = fs::canonicalize(path).map_err(cannot_read)?;
        let mut walk = Self { root: root.clone(), files: Vec::new() };
        walk.folder(path, &mut Vec::new(), &mut vec![root])?;
        Ok(walk.files)
    }

    /// `above`: the folders on the way, without links.
    fn folder(
        &mut self,
        folder: &Path,
        names: &mut Vec<String>,
        above: &mut Vec<PathBuf>,
    ) -> Result<(), String> {
        let shown = quoted(&folder.to_string_lossy());
        let cannot_read = |error: std::io::Error| format!("cannot read {shown}: {error}");
        if names.len() > DEPTH_MAX {
            return Err(format!("{shown} is nested deeper than {DEPTH_MAX} folders"));
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).map_err(cannot_read)? {
            entries.push(entry.map_err(cannot_read)?.path());
        }
        entries.sort();
        for path in entries {
            let shown = path.to_string_lossy().into_owned();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| format!("{} is not valid UTF-8", quoted(&shown)))?;
            if name.starts_with(['.', '_']) || name.ends_with('~') {
                continue;
            }
            let real = match fs::canonicalize(&path) {
                Ok(real) if real.starts_with(&self.root) => real,
                Ok(_) => {
                    tracing::warn!(
                        "{shown} is a link that leads out of the folder of endpoints: it is left out"
                    );
                    continue;
                }
                Err(error) => {
                    tracing::warn!("cannot read {shown}: {error}: it is left out");
                    continue;
                }
            };
            names.push(name.to_owned());
            if real.is_file() {
                if self.files.len() == FILES_MAX {
                    return Err(format!("there are more than {FILES_MAX} files in it"));
                }
                self.files.push(Found { path: path.clone(), names: names.clone() });
            } else if real.is_dir() && !above.contains(&real) {
                above.push(real);
                self.folder(&path, names, above)?;
                above.pop();
            }
            names.pop();
        }
        Ok(())
    }
}

/// The files that a handler imports.
fn imported(handler: &Path, bundle: &Bundle) -> Vec<PathBuf> {
    let Some((main, file)) = absolute(handler).zip(bundle.file.as_deref()) else { return Vec::new() };
    let top = main.ancestors().nth(Path::new(file).components().count());
    bundle.modules.keys().filter_map(|module| Some(top?.join(module))).collect()
}

fn absolute(path: &Path) -> Option<PathBuf> {
    normal(&std::path::absolute(path).ok()?)
}

/// The path that a file answers.
fn path_of(names: &[String], kind: EndpointKind) -> Result<EndpointPath, String> {
    let Some((name, folders)) = names.split_last() else { return Err("it has no name".to_owned()) };
    let mut path = String::new();
    for folder in folders {
        path.push('/');
        path.push_str(&segment(folder)?);
    }
    path.push('/');
    if kind == EndpointKind::Static {
        path.push_str(name);
    } else {
        let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
        if stem != "index" {
            path.push_str(&segment(stem)?);
        }
    }
    EndpointPath::new(path).map_err(|error| error.to_string())
}

/// A part of a path; `[id]` is the parameter `:id`.
fn segment(name: &str) -> Result<String, String> {
    let Some(parameter) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) else {
        return Ok(name.to_owned());
    };
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let begins = parameter.chars().next().is_some_and(|c| !c.is_ascii_digit());
    match begins && parameter.chars().all(is_word) {
        true => Ok(format!(":{parameter}")),
        false => Err(format!(
            "{} is no parameter: in brackets stands a name of letters, digits and underscores that begins with no digit",
            quoted(name)
        )),
    }
}

/// What tells paths apart that are answered by different files: the names of parameters do not.
fn meaning(path: &EndpointPath) -> String {
    let parts = path.as_str().split('/');
    parts.map(|part| if part.starts_with(':') { ":" } else { part }).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests;
