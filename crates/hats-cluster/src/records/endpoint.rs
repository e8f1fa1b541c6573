//! Endpoints: what people write about one.

use std::sync::Arc;

use bytes::Bytes;

use super::{FieldError, LIMIT_FIELDS, Limits, Modules, SourceDigest, parse_field, parse_status};

/// A media type is no longer.
const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// An `ETag` is no longer.
const ETAG_BYTES_MAX: usize = 128;
/// The length of a digest in hex.
const DIGEST_CHARS: usize = 40;

/// The fields of an endpoint's definition that people write, but for `Source` and its modules.
pub const ENDPOINT_FIELDS: [&str; 10] = {
    let [memory, stack, call_timeout, source, http_body, log_line] = LIMIT_FIELDS;
    ["Status", "ContentType", "Kind", "ETag", memory, stack, call_timeout, source, http_body, log_line]
};

/// What an endpoint's source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndpointKind {
    /// Text with code in it, `<? … ?>`.
    Template,
    /// A module with a default export.
    Handler,
    /// A file that is sent as it is.
    Static,
}

/// What people wrote about an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The page, the handler or the file. Text in UTF-8 unless the kind is [`EndpointKind::Static`].
    pub source: Bytes,
    /// The files that a handler imports.
    pub modules: Modules,
    /// The digest of both.
    pub digest: SourceDigest,
    /// False when `Status` says `disabled`.
    pub enabled: bool,
    /// `ContentType`, fit for a header.
    pub content_type: Option<Arc<str>>,
    /// `Kind`. None: as the source looks.
    pub kind: Option<EndpointKind>,
    /// The entity tag, quotes included, fit for a header. Files always have one, nothing else has.
    pub etag: Option<Arc<str>>,
    /// Limits of its own.
    pub limits: Limits,
}

/// One reading of an endpoint's definition. What is malformed in it is beside what can be used even then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRead {
    /// The digest of the source and its modules (of the empty text, where there is none).
    pub digest: SourceDigest,
    /// False only when `Status` says `disabled`.
    pub enabled: bool,
    /// The mirrored `Error`.
    pub error: Option<String>,
    /// The mirrored `ErrorTime`.
    pub error_time: Option<String>,
    /// The definition, or the field that is malformed.
    pub definition: Result<Endpoint, FieldError>,
}

impl EndpointKind {
    /// The word in a definition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Handler => "handler",
            Self::Static => "static",
        }
    }

    /// The kind that a word in a definition stands for.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Template, Self::Handler, Self::Static].into_iter().find(|kind| kind.as_str() == word)
    }
}

impl Endpoint {
    /// The length of the source, its modules included.
    #[must_use]
    pub fn source_bytes(&self) -> usize {
        self.source.len() + self.modules.bytes()
    }

    /// The source as text; none for a file that is none.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.source).ok()
    }

    /// Makes a definition of its fields: `get` gives the text of each of [`ENDPOINT_FIELDS`]. What is absent or empty has
    /// its default.
    ///
    /// # Errors
    /// Names the first field that is malformed.
    pub fn parse<'a>(
        source: Bytes,
        digest: SourceDigest,
        get: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Self, FieldError> {
        const MEDIA_TYPE: &str =
            "a media type such as text/plain; charset=utf-8, in ASCII, of 255 characters at most";
        const TAG: &str = "an entity tag such as v1, \"v1\" or W/\"v1\", in ASCII, of 128 characters at most";
        let kind = parse_field("Kind", get("Kind"), "template, handler or static", EndpointKind::parse)?;
        let content_type = parse_field("ContentType", get("ContentType"), MEDIA_TYPE, |text| {
            is_media_type(text).then(|| Arc::from(text))
        })?;
        let etag = parse_field("ETag", get("ETag"), TAG, tag)?;
        let is_file = kind == Some(EndpointKind::Static);
        if !is_file && std::str::from_utf8(&source).is_err() {
            return Err(FieldError {
                field: "Source",
                value: String::from_utf8_lossy(&source).chars().take(super::VALUE_CHARS_SHOWN).collect(),
                expected: "a page or a handler in UTF-8; any other file needs Kind=static",
            });
        }
        let etag = is_file.then(|| match etag {
            // One that was made of the source is worth nothing once somebody has changed that by hand.
            Some(given) if !is_digest(&given) => given,
            _ => Arc::from(format!("\"{digest}\"")),
        });
        Ok(Self {
            source,
            modules: Modules::default(),
            digest,
            enabled: parse_status(get("Status"))?,
            content_type,
            kind,
            etag,
            limits: Limits::parse(LIMIT_FIELDS.map(&get))?,
        })
    }
}

impl EndpointRead {
    /// Puts together what one reading gave. `source`: none = the definition has no source, or one that is far too long.
    pub(crate) fn new<'a>(
        source: Option<Bytes>,
        modules: Result<Modules, FieldError>,
        digest: SourceDigest,
        get: impl Fn(&str) -> Option<&'a str>,
    ) -> Self {
        let definition = source.ok_or_else(FieldError::no_page).and_then(|source| {
            let modules = modules?;
            Ok(Endpoint { modules, ..Endpoint::parse(source, digest.clone(), &get)? })
        });
        Self {
            digest,
            enabled: parse_status(get("Status")).unwrap_or(true),
            error: get("Error").map(str::to_owned),
            error_time: get("ErrorTime").map(str::to_owned),
            definition,
        }
    }
}

impl FieldError {
    fn no_page() -> Self {
        Self {
            field: "Source",
            value: String::new(),
            expected: "a page, a handler or a file, of 16 MiB at most with all its modules",
        }
    }
}

/// Whether it can stand in a `Content-Type` header: a type and a subtype, and after them whatever a line may hold.
fn is_media_type(text: &str) -> bool {
    let token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let in_a_line = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    text.len() <= CONTENT_TYPE_BYTES_MAX
        && in_a_line
        && essence.split_once('/').is_some_and(|(main, sub)| token(main) && token(sub))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// An entity tag as it stands in a header. Without quotes it gets them.
fn tag(text: &str) -> Option<Arc<str>> {
    let (weak, rest) = match text.strip_prefix("W/") {
        Some(rest) => ("W/", rest),
        None => ("", text),
    };
    let inner = match rest.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => inner,
        None if weak.is_empty() => rest,
        None => return None,
    };
    let fits = text.len() <= ETAG_BYTES_MAX
        && inner.bytes().all(|byte| matches!(byte, b'!' | b'#'..=b'~'))
        && !(inner.is_empty() && rest.is_empty());
    fits.then(|| Arc::from(format!("{weak}\"{inner}\"")))
}

/// Whether a tag is of the form that digests have.
fn is_digest(tag: &str) -> bool {
    let inner = tag.trim_matches('"');
    inner.len() == DIGEST_CHARS && inner.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn parse_source(source: &'static [u8], fields: &[(&str, &str)]) -> Result<Endpoint, FieldError> {
        let get = |field: &str| fields.iter().find(|(name, _)| *name == field).map(|(_, value)| *value);
        Endpoint::parse(Bytes::from_static(source), SourceDigest::from_hex("d1"), get)
    }

    fn parse(fields: &[(&str, &str)]) -> Result<Endpoint, FieldError> {
        parse_source(b"hello", fields)
    }

    #[test]
    fn what_is_absent_or_empty_has_its_default() {
        let page = parse(&[]).unwrap();
        assert!(page.enabled);
        assert_eq!((page.kind, &page.content_type, &page.etag), (None, &None, &None));
        assert_eq!(page.limits, Limits::default());
        assert_eq!(parse(&[("Kind", " "), ("Status", ""), ("ContentType", ""), ("ETag", "")]).unwrap(), page);
    }

    #[test]
    fn fields_are_read_in_all_their_forms() {
        let page = parse(&[
            ("Status", "disabled"),
            ("ContentType", " text/css; charset=utf-8 "),
            ("Kind", "static"),
            ("ETag", "v1"),
            ("MemoryLimit", "8MiB"),
            ("CallTimeout", "5s"),
            ("LogLineLimit", "80"),
        ])
        .unwrap();
        assert!(!page.enabled);
        assert_eq!(page.content_type.as_deref(), Some("text/css; charset=utf-8"));
        assert_eq!(page.kind, Some(EndpointKind::Static));
        assert_eq!(page.etag.as_deref(), Some("\"v1\""));
        assert_eq!(page.limits.memory, Some(8 << 20));
        assert_eq!(page.limits.call_timeout, Some(Duration::from_secs(5)));
        assert_eq!(page.limits.log_line, Some(80));
        for kind in ["template", "handler", "static"] {
            assert_eq!(parse(&[("Kind", kind)]).unwrap().kind.map(EndpointKind::as_str), Some(kind));
        }
    }

    #[test]
    fn a_malformed_field_is_named_with_its_value() {
        for (field, value) in [
            ("Status", "on"),
            ("Kind", "page"),
            ("ContentType", "html"),
            ("ContentType", "text/"),
            ("ContentType", "text/html\r\nX: y"),
            ("ContentType", "text/hätml"),
            ("ETag", "a\"b"),
            ("ETag", "W/a"),
            ("ETag", "a b"),
            ("MemoryLimit", "much"),
            ("StackLimit", "1"),
            ("CallTimeout", "0"),
            ("SourceLimit", "17MiB"),
            ("HttpBodyLimit", "-1"),
            ("LogLineLimit", "0"),
        ] {
            let error = parse(&[(field, value)]).unwrap_err();
            assert_eq!((error.field, error.value.as_str()), (field, value));
        }
        assert_eq!(
            parse(&[("Kind", "page")]).unwrap_err().to_string(),
            "field Kind: \"page\" is not valid: expected template, handler or static"
        );
    }

    #[test]
    fn only_files_may_be_no_text() {
        assert_eq!(parse_source(b"\xff\xd8", &[]).unwrap_err().field, "Source");
        assert_eq!(parse_source(b"\xff\xd8", &[("Kind", "handler")]).unwrap_err().field, "Source");
        let file = parse_source(b"\xff\xd8", &[("Kind", "static")]).unwrap();
        assert_eq!((&*file.source, file.text()), (&b"\xff\xd8"[..], None));
    }

    #[test]
    fn a_file_has_a_tag_that_fits_what_it_is_now() {
        let tag_of = |fields: &[(&str, &str)]| parse(fields).unwrap().etag;
        let stale = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
        assert_eq!(tag_of(&[("Kind", "static")]).as_deref(), Some("\"d1\""));
        assert_eq!(tag_of(&[("Kind", "static"), ("ETag", stale)]).as_deref(), Some("\"d1\""));
        assert_eq!(tag_of(&[("Kind", "static"), ("ETag", "W/\"x\"")]).as_deref(), Some("W/\"x\""));
        assert_eq!(tag_of(&[("Kind", "static"), ("ETag", "\"\"")]).as_deref(), Some("\"\""));
        assert_eq!(tag_of(&[("ETag", "\"x\"")]), None, "what a page says changes with every request");
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_fail_in_another_way_or_pass_as_two_headers(text in ".{0,40}") {
            for field in ENDPOINT_FIELDS {
                if let Ok(page) = parse(&[(field, &text), ("Kind", "static")]) {
                    let sent = page.content_type.iter().chain(&page.etag);
                    prop_assert!(sent.flat_map(|text| text.bytes()).all(|byte| (b' '..=b'~').contains(&byte)));
                }
            }
        }
    }
}
