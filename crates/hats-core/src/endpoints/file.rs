//! What a file is as an endpoint: a page, a handler with what it imports, or a file that is sent as it is.
//!
//! ```text
//!  .html .htm                    a page: text, and code in <? … ?>
//!  .js .mjs  with a default export, .ts .mts  a handler; types are taken out, what it imports comes with it
//!  .js .mjs  without one         sent as it is, for browsers
//!  anything else                 sent as it is, with the type that its name says
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use hats_cluster::records::{EndpointKind, SourceDigest};
use hats_endpoint::template;
use hats_script::{imports, is_handler, syntax_error};

use crate::Error;
use crate::bundle::{Bundle, EXTENSIONS, SOURCE_LIMIT, Source, one_line};
use crate::config::quoted;
use crate::registration::modules;

/// Sent where nothing says what a file is.
const ANY_TYPE: &str = "application/octet-stream";

/// A file as it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointFile {
    kind: EndpointKind,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Page(Bytes),
    Handler(Bundle),
    Static { bytes: Bytes, content_type: String },
}

/// A file that was read.
#[derive(Debug)]
pub(crate) struct ReadFile {
    pub(crate) file: EndpointFile,
    /// Files that an `import()` names and that are not there.
    pub(crate) left_out: Vec<String>,
}

impl EndpointFile {
    /// Reads a file of at most so many bytes, with what it imports. Without a `kind` it is what its name says, and what it
    /// looks like. What an `import()` names and is not there, is logged and left out.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] names the file and says why it cannot be used.
    pub fn read(path: &Path, kind: Option<EndpointKind>, bytes_max: usize) -> Result<Self, Error> {
        let ReadFile { file, left_out } = read(path, kind, bytes_max).map_err(Error::Config)?;
        for left_out in left_out {
            tracing::warn!("{left_out}; it is left out");
        }
        Ok(file)
    }

    /// Takes what is in no file. Without a `kind`, text with a default export is a handler, other text a page, and what is
    /// no text is sent as it is. `shown` names it in errors.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a handler that imports something or does not parse, and for a page that is no text.
    pub fn from_bytes(bytes: Bytes, kind: Option<EndpointKind>, shown: &str) -> Result<Self, Error> {
        let text = std::str::from_utf8(&bytes);
        let looks = || match text {
            Ok(text) if is_handler(text) => EndpointKind::Handler,
            Ok(_) => EndpointKind::Template,
            Err(_) => EndpointKind::Static,
        };
        let not_text = || Error::Config(format!("{shown} is not valid UTF-8"));
        match kind.unwrap_or_else(looks) {
            EndpointKind::Static => Ok(Self::of_static(bytes, ANY_TYPE.to_owned())),
            EndpointKind::Template => {
                let text = text.map_err(|_| not_text())?;
                check_page(text, shown).map_err(Error::Config)?;
                Ok(Self::of_page(bytes))
            }
            EndpointKind::Handler => {
                let text = text.map_err(|_| not_text())?;
                check_handler(text, shown).map_err(Error::Config)?;
                Ok(Self::of_handler(Source::from_text(text, shown)?.bundle))
            }
        }
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> EndpointKind {
        self.kind
    }

    /// The type that its name says, of a file that is sent as it is.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        match &self.content {
            Content::Static { content_type, .. } => Some(content_type),
            Content::Page(_) | Content::Handler(_) => None,
        }
    }

    /// Its length, with what it imports.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.content {
            Content::Page(bytes) | Content::Static { bytes, .. } => bytes.len(),
            Content::Handler(bundle) => bundle.bytes(),
        }
    }

    pub(super) fn source(&self) -> Bytes {
        match &self.content {
            Content::Page(bytes) | Content::Static { bytes, .. } => bytes.clone(),
            Content::Handler(bundle) => Bytes::copy_from_slice(bundle.main.as_bytes()),
        }
    }

    /// The script and what it imports, of a handler.
    pub(super) fn bundle(&self) -> Option<&Bundle> {
        match &self.content {
            Content::Handler(bundle) => Some(bundle),
            Content::Page(_) | Content::Static { .. } => None,
        }
    }

    /// The fields to write beside the source.
    pub(super) fn fields(&self) -> Vec<(String, String)> {
        let mut fields = match &self.content {
            Content::Static { bytes, content_type } => vec![
                ("ContentType".to_owned(), content_type.clone()),
                ("ETag".to_owned(), SourceDigest::of(bytes).to_string()),
            ],
            Content::Page(_) => vec![("ETag".to_owned(), String::new())],
            Content::Handler(bundle) => {
                let mut fields = modules(bundle).fields();
                fields.push(("ETag".to_owned(), String::new()));
                fields
            }
        };
        fields.push(("Kind".to_owned(), self.kind.as_str().to_owned()));
        fields
    }

    fn of_static(bytes: Bytes, content_type: String) -> Self {
        Self { kind: EndpointKind::Static, content: Content::Static { bytes, content_type } }
    }

    fn of_page(bytes: Bytes) -> Self {
        Self { kind: EndpointKind::Template, content: Content::Page(bytes) }
    }

    fn of_handler(bundle: Bundle) -> Self {
        Self { kind: EndpointKind::Handler, content: Content::Handler(bundle) }
    }
}

/// Whether a name is that of a script.
pub(super) fn is_script(name: &str) -> bool {
    extension(Path::new(name)).is_some_and(|extension| EXTENSIONS.contains(&&*extension))
}

/// As [`EndpointFile::read`].
pub(super) fn read(path: &Path, kind: Option<EndpointKind>, bytes_max: usize) -> Result<ReadFile, String> {
    let shown = path.to_string_lossy();
    let whole = |file| Ok(ReadFile { file, left_out: Vec::new() });
    let bytes = read_bytes(path, bytes_max)?;
    let text = || std::str::from_utf8(&bytes).map_err(|_| format!("{} is not valid UTF-8", quoted(&shown)));
    let extension = extension(path);
    let kind = match (kind, extension.as_deref()) {
        (Some(kind), _) => kind,
        (None, Some("html" | "htm")) => EndpointKind::Template,
        (None, Some("ts" | "mts")) => EndpointKind::Handler,
        (None, Some("js" | "mjs")) if text().is_ok_and(is_handler) => EndpointKind::Handler,
        (None, _) => EndpointKind::Static,
    };
    match kind {
        EndpointKind::Template => {
            check_page(text()?, &shown)?;
            whole(EndpointFile::of_page(bytes))
        }
        EndpointKind::Static => {
            let content_type = content_type(path, &bytes);
            whole(EndpointFile::of_static(bytes, content_type))
        }
        EndpointKind::Handler => {
            let Source { bundle, left_out } =
                Source::from_file(path, bytes_max).map_err(|error| error.to_string())?;
            check_handler(&bundle.main, &shown)?;
            Ok(ReadFile { file: EndpointFile::of_handler(bundle), left_out })
        }
    }
}

fn check_page(text: &str, shown: &str) -> Result<(), String> {
    let script = template::compile(text).map_err(|error| format!("{shown}: {error}"))?;
    match syntax_error(&script, shown) {
        Some(error) => Err(format!("{shown} is no page: {}", one_line(&error.to_string()))),
        None => Ok(()),
    }
}

fn check_handler(text: &str, shown: &str) -> Result<(), String> {
    if let Some(error) = imports(text, shown).no_module {
        return Err(format!("{shown} is no module, as a handler is: {}", one_line(&error.to_string())));
    }
    match is_handler(text) {
        true => Ok(()),
        false => Err(format!("{shown} has no default export, which would answer requests")),
    }
}

/// What a browser is told that a file is.
fn content_type(path: &Path, bytes: &[u8]) -> String {
    let guessed = mime_guess::from_path(path).first_raw().unwrap_or(ANY_TYPE);
    let is_text = guessed.starts_with("text/") || guessed == "application/javascript";
    match is_text && std::str::from_utf8(bytes).is_ok() {
        true => format!("{guessed}; charset=utf-8"),
        false => guessed.to_owned(),
    }
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

fn read_bytes(path: &Path, bytes_max: usize) -> Result<Bytes, String> {
    let shown = quoted(&path.to_string_lossy());
    let cannot_read = |error: io::Error| format!("cannot read {shown}: {error}");
    // Asked before it is opened: to open a pipe would wait for somebody who writes into it.
    if !std::fs::metadata(path).map_err(cannot_read)?.is_file() {
        return Err(format!("cannot read {shown}: it is no file"));
    }
    let mut content = Vec::new();
    let file = File::open(path).map_err(cannot_read)?;
    file.take(bytes_max as u64 + 1).read_to_end(&mut content).map_err(cannot_read)?;
    if content.len() > bytes_max {
        return Err(format!("{shown} is larger than {bytes_max} bytes{SOURCE_LIMIT}"));
    }
    Ok(content.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(bytes: &'static [u8]) -> EndpointKind {
        EndpointFile::from_bytes(Bytes::from_static(bytes), None, "-").unwrap().kind()
    }

    fn refusal(text: &'static [u8], kind: EndpointKind) -> String {
        EndpointFile::from_bytes(Bytes::from_static(text), Some(kind), "-").unwrap_err().to_string()
    }

    #[test]
    fn what_has_no_name_is_what_it_looks_like() {
        assert_eq!(kind_of(b"<p><?= 1 ?>"), EndpointKind::Template);
        assert_eq!(kind_of(b"the export by default is none"), EndpointKind::Template);
        assert_eq!(kind_of(b""), EndpointKind::Template);
        assert_eq!(kind_of(b"export default () => 1"), EndpointKind::Handler);
        assert_eq!(kind_of(b"const a = { fetch() {} }; export { a as default }"), EndpointKind::Handler);
        assert_eq!(kind_of(b"\x89PNG\xff"), EndpointKind::Static);
    }

    #[test]
    fn a_kind_that_does_not_fit_is_refused() {
        let error = refusal(b"a b", EndpointKind::Handler);
        assert!(error.contains("- is no module"), "{error}");
        let error = refusal(b"export const a = 1", EndpointKind::Handler);
        assert!(error.contains("no default export"), "{error}");
        for (page, parts) in [
            ("a\n<? let b = ; ?>", ["- is no page: SyntaxError", "-:2"]),
            ("a\n\n<? for (;;) {", ["-: line 3", "not closed"]),
            ("<? if (true) { ?>a", ["- is no page: SyntaxError", "-:1"]),
        ] {
            let error = refusal(page.as_bytes(), EndpointKind::Template);
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        // Said by the parser, and not by running it.
        for page in ["<? throw 1; ?>", "<? for (;;); ?>", "<? with ({}) { await 0 } ?>", "<? return; ?>", "}"]
        {
            let page = Bytes::from_static(page.as_bytes());
            EndpointFile::from_bytes(page, Some(EndpointKind::Template), "-").unwrap();
        }
        let error = refusal(b"import './a.js'; export default 1", EndpointKind::Handler);
        assert!(error.contains("./a.js"), "{error}");
        for kind in [EndpointKind::Handler, EndpointKind::Template] {
            assert!(refusal(b"\xff", kind).contains("not valid UTF-8"));
        }
        let sent = EndpointFile::from_bytes(Bytes::from_static(b"a b"), Some(EndpointKind::Static), "-");
        assert_eq!(sent.unwrap().content_type(), Some(ANY_TYPE));
    }
}
