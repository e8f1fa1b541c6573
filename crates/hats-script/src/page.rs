//! What an endpoint runs, a request for it, and the answer.
//!
//! A [`Page`] is the source of an endpoint, ready to be compiled: a template that has become one script, or a module that
//! exports a handler. [`crate::Lanes::answer`] runs it for one request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::bundle::{self, Bundle};
use crate::limits::Limits;

/// The type of what a page writes, unless it or its definition says otherwise.
pub(crate) const DEFAULT_TYPE: &str = "text/html; charset=utf-8";

/// What an endpoint runs. Cheap to clone behind an `Arc`.
#[derive(Clone, Debug)]
pub struct Page {
    pub(crate) file: Arc<str>,
    pub(crate) code: Code,
    pub(crate) bundle: Bundle,
    pub(crate) content_type: Option<Arc<str>>,
    limits: Limits,
}

#[derive(Clone, Debug)]
pub(crate) enum Code {
    /// A script whose value makes the page's function, and the text of which that writes pieces.
    Script(Arc<str>),
    /// A module.
    Handler,
}

impl Page {
    /// The time that a request may take unless its limits say otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(30);

    /// A template that has become one script (see `hats_endpoint::template`). `file` stands in stack traces.
    ///
    /// The script's value must be a function `(write) => page`. It is called once for each interpreter; `page`, a function,
    /// is called for each request, and what it returns is awaited. `write(from, to, …)` writes pieces of [`Page::text`],
    /// given by their bounds in bytes, and to assign to `write.e` writes a value as escaped HTML.
    ///
    /// Without a time limit in `limits` the requests have [`Page::TIMEOUT`].
    #[must_use]
    pub fn script(file: impl Into<Arc<str>>, script: Bundle, limits: Limits) -> Self {
        Self::new(file.into(), Code::Script("".into()), script, limits)
    }

    /// A module with a default export: `{ fetch }` or a function.
    ///
    /// Without a time limit in `limits` the requests have [`Page::TIMEOUT`].
    #[must_use]
    pub fn handler(file: impl Into<Arc<str>>, module: Bundle, limits: Limits) -> Self {
        Self::new(file.into(), Code::Handler, module, limits)
    }

    fn new(file: Arc<str>, code: Code, bundle: Bundle, mut limits: Limits) -> Self {
        limits.call_timeout.get_or_insert(Self::TIMEOUT);
        Self { file, code, bundle, content_type: None, limits }
    }

    /// The text of which the script writes pieces: the source of the template. It is also what the limit of a source's
    /// length is about, instead of the script.
    #[must_use]
    pub fn text(mut self, text: impl Into<Arc<str>>) -> Self {
        if let Code::Script(own) = &mut self.code {
            *own = text.into();
        }
        self
    }

    /// The type of the answer, unless the script says otherwise. Without it that is HTML, but for bytes that a handler
    /// returns.
    #[must_use]
    pub fn content_type(mut self, content_type: &str) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// What stands in stack traces.
    #[must_use]
    pub fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// What a request may use.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

/// One request, read whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// `GET` and so on.
    pub method: String,
    /// Percent-decoded.
    pub path: String,
    /// Absolute, as handlers see it in `Request.url`: `http://host/path?query`.
    pub url: String,
    /// Decoded, in order; names may repeat.
    pub query: Vec<(String, String)>,
    /// Names as sent (in lower case from HTTP), in order; they may repeat.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Bytes,
    /// Parameters of the path.
    pub params: Vec<(String, String)>,
}

/// The answer of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageResponse {
    /// From 200 to 599.
    pub status: u16,
    /// Each is a token and a value without CR, LF, NUL and other control characters but tabs. Names may repeat, as
    /// `Set-Cookie` does. `Content-Type` is among them; `Content-Length` and those of the connection are not.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Empty where a status has no body. To `HEAD` it is what `GET` would get: whoever sends it sends its length alone.
    pub body: Vec<u8>,
}

/// True if this source is a handler: it parses as a module, and has a default export.
///
/// A source that does not parse and was meant to be one counts as well, so that what is wrong with it is told, and its text
/// is not served: it has no block `<? … ?>`, and a line of it begins with `export default`.
#[must_use]
pub fn is_handler(source: &str) -> bool {
    if !source.contains("export") || !source.contains("default") || source.contains('\0') {
        return false;
    }
    let parses = |source: &str| bundle::imports(source, "handler").no_module.is_none();
    if !parses(source) {
        let begins = |line: &str| {
            let rest = line.strip_prefix("export")?.trim_start().strip_prefix("default")?;
            rest.starts_with(|c: char| !c.is_alphanumeric() && c != '_' && c != '$').then_some(())
        };
        return !source.contains("<?") && source.lines().any(|line| begins(line).is_some());
    }
    // No module can have two: the parser itself says whether there is one.
    !parses(&format!("{source}\n;export default 0;"))
}
