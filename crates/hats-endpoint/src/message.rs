//! From what came over the wire to what a page is given, and back.
//!
//! What must hold: a request is read whole and within its limits before anything is done about it, and whatever a page says,
//! what is sent is one well-formed answer.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::uri::Authority;
use axum::http::{Method, StatusCode, Version, request};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use hats_script::{PageRequest, PageResponse};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use percent_encoding::percent_decode_str;

use crate::admission::{Bodies, BodyShare};
use crate::routes::segments;

/// When to come again, where nobody can say more.
const RETRY_AFTER: &str = "1";
/// What may be done to a page.
pub(crate) const PAGE_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
/// What may be done to a file.
pub(crate) const FILE_METHODS: &str = "GET, HEAD, OPTIONS";

/// What is the connection's and not the message's: nothing that a page may set.
const OF_THE_CONNECTION: [HeaderName; 7] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// The path that is asked for, percent-decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    path: String,
    /// As it was sent, if that is another text.
    raw: Option<String>,
}

/// The path is no text in UTF-8, percent-encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadPath;

impl Target {
    /// Reads the path of a request line.
    pub(crate) fn parse(raw: &str) -> Result<Self, BadPath> {
        if !raw.starts_with('/') {
            return Err(BadPath);
        }
        if !raw.contains('%') {
            return Ok(Self { path: raw.to_owned(), raw: None });
        }
        let is_hex = |at: usize| raw.as_bytes().get(at).is_some_and(u8::is_ascii_hexdigit);
        if raw.match_indices('%').any(|(at, _)| !is_hex(at + 1) || !is_hex(at + 2)) {
            return Err(BadPath);
        }
        let path = percent_decode_str(raw).decode_utf8().map_err(|_| BadPath)?.into_owned();
        Ok(Self { path, raw: Some(raw.to_owned()) })
    }

    /// The whole path.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// What stands between its slashes, where an encoded one is none.
    pub(crate) fn segments(&self) -> Vec<String> {
        match &self.raw {
            None => segments(&self.path).map(str::to_owned).collect(),
            // Cut between characters, what is UTF-8 as a whole is so in its parts.
            Some(raw) => {
                segments(raw).map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned()).collect()
            }
        }
    }
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadBody {
    /// It is longer than it may be.
    TooLarge,
    /// It did not come in time.
    TooSlow,
    /// All bodies together are too large.
    TooMuch,
    /// It is not what its head says, or the client has gone.
    Broken,
}

/// Reads a body whole.
pub(crate) async fn read_body(
    body: Incoming,
    limit: usize,
    timeout: Duration,
    bodies: &Bodies,
) -> Result<(Bytes, BodyShare), BadBody> {
    let mut share = bodies.share();
    if body.is_end_stream() {
        return Ok((Bytes::new(), share));
    }
    let limit_u64 = u64::try_from(limit).unwrap_or(u64::MAX);
    if body.size_hint().lower() > limit_u64 {
        return Err(BadBody::TooLarge);
    }
    let read = read_within(body, limit, &mut share);
    let bytes = tokio::time::timeout(timeout, read).await.map_err(|_| BadBody::TooSlow)??;
    Ok((bytes, share))
}

async fn read_within(mut body: Incoming, limit: usize, share: &mut BodyShare) -> Result<Bytes, BadBody> {
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BadBody::Broken)?.into_data() else { continue };
        if first.len() + whole.len() + data.len() > limit {
            return Err(BadBody::TooLarge);
        }
        if !share.grow(data.len()) {
            return Err(BadBody::TooMuch);
        }
        if whole.is_empty() && first.is_empty() {
            first = data;
        } else {
            // A piece may stand in a buffer that is far larger: together they are copied.
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
    }
    Ok(if first.is_empty() { whole.freeze() } else { Bytes::copy_from_slice(&first) })
}

/// Who is asked: the authority of the request line, else the header `Host`. HTTP/1.1 wants one header, and no more.
///
/// # Errors
/// The request is malformed, in these words.
pub(crate) fn host(head: &request::Parts, own: SocketAddr) -> Result<String, &'static str> {
    let mut given = head.headers.get_all(header::HOST).iter();
    let host = given.next();
    if given.next().is_some() {
        return Err("more than one Host header");
    }
    if host.is_none() && head.version >= Version::HTTP_11 {
        return Err("the Host header is missing");
    }
    let host = match host.map(HeaderValue::as_bytes) {
        None | Some(b"") => None,
        Some(bytes) => Some(Authority::try_from(bytes).map_err(|_| "the Host header names no host")?),
    };
    let authority = head.uri.authority().cloned().or(host);
    if authority.as_ref().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("the host has a user in it");
    }
    Ok(authority.map_or_else(|| own.to_string(), |authority| authority.to_string()))
}

/// What a page is told of a request.
pub(crate) fn page_request(
    head: request::Parts,
    target: &Target,
    host: &str,
    params: Vec<(String, String)>,
    body: Bytes,
) -> PageRequest {
    let query = head.uri.query();
    let raw_path = target.raw.as_deref().unwrap_or(&target.path);
    let url = match query {
        Some(query) => format!("http://{host}{raw_path}?{query}"),
        None => format!("http://{host}{raw_path}"),
    };
    let query = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    PageRequest {
        method: head.method.as_str().to_owned(),
        path: target.path.clone(),
        url,
        query,
        headers,
        body,
        params,
    }
}

/// The answer of a page as it is sent, with this body. None: what it says is no answer.
pub(crate) fn page_response(answer: PageResponse, body: Bytes, method: &Method) -> Option<Response> {
    let PageResponse { status, headers, .. } = answer;
    let status = StatusCode::from_u16(status).ok().filter(|status| (200..600).contains(&status.as_u16()))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let sent = response.headers_mut();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        if !OF_THE_CONNECTION.contains(&name) {
            sent.append(name, HeaderValue::from_bytes(&value).ok()?);
        }
    }
    Some(with_body(response, body, method))
}

/// Puts a body into an answer, as far as it may have one.
pub(crate) fn with_body(mut response: Response, body: Bytes, method: &Method) -> Response {
    let status = response.status();
    if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        return response;
    }
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    if method != Method::HEAD {
        *response.body_mut() = Body::from(body);
    }
    response
}

/// An answer of the server's own: the status in words, and nothing of what is inside.
pub(crate) fn plain(status: StatusCode, method: &Method) -> Response {
    let text = format!("{}\n", status.canonical_reason().unwrap_or("Error"));
    plain_text(status, text, method)
}

/// The same, with a text about the request.
pub(crate) fn plain_text(status: StatusCode, text: impl Into<String>, method: &Method) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    }
    with_body(response, Bytes::from(text.into()), method)
}

/// The same answer, with another time after which the client may try again.
pub(crate) fn retry_after(mut response: Response, left: Duration) -> Response {
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    response
}

/// The answer to a method that is not for what is asked.
pub(crate) fn not_allowed(allowed: &'static str, method: &Method) -> Response {
    allow(plain(StatusCode::METHOD_NOT_ALLOWED, method), allowed)
}

/// The answer to `OPTIONS` where no page gives it.
pub(crate) fn options(allowed: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    allow(response, allowed)
}

fn allow(mut response: Response, allowed: &'static str) -> Response {
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// The connection ends with this answer.
pub(crate) fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Whether the client has what this tag stands for.
pub(crate) fn has_tag(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let strong = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    let Ok(etag) = etag.to_str().map(strong) else { return false };
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(tags)
        .any(|tag| tag == "*" || strong(tag) == etag)
}

/// The tags of a list. A comma may stand inside of one.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = list;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return None;
        }
        let quote = rest.find('"').filter(|at| matches!(&rest[..*at], "" | "W/"));
        let end = match quote {
            Some(open) => rest[open + 1..].find('"').map_or(rest.len(), |close| open + close + 2),
            None => rest.find(',').unwrap_or(rest.len()),
        };
        let (tag, left) = rest.split_at(end);
        rest = left;
        Some(tag.trim_end_matches([' ', '\t']))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_decoded_whole_or_refused() {
        for (raw, path, segments) in [
            ("/", "/", vec![""]),
            ("/a/b/", "/a/b/", vec!["a", "b", ""]),
            ("/a%2fb", "/a/b", vec!["a/b"]),
            ("/%C3%A4/50%25", "/ä/50%", vec!["ä", "50%"]),
            ("/a+b", "/a+b", vec!["a+b"]),
            ("//..", "//..", vec!["", ".."]),
        ] {
            let target = Target::parse(raw).unwrap();
            assert_eq!(
                (target.path(), target.segments()),
                (path, segments.into_iter().map(str::to_owned).collect())
            );
        }
        for raw in ["", "*", "a", "/%", "/%4", "/%zz", "/%+1", "/%ff", "/%C3", "/%C3/%A4", "/%ED%A0%80"] {
            assert_eq!(Target::parse(raw), Err(BadPath), "{raw}");
        }
    }

    #[test]
    fn tags_are_compared_one_by_one_whether_weak_or_not() {
        let etag = HeaderValue::from_static("\"a,b\"");
        for (sent, expected) in [
            ("\"a,b\"", true),
            ("W/\"a,b\"", true),
            ("\"x\", \"a,b\"", true),
            ("\"x\" ,W/\"a,b\" ", true),
            ("*", true),
            ("\"a\"", false),
            ("a,b", false),
            ("\"a,b", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(sent).unwrap());
            assert_eq!(has_tag(&headers, &etag), expected, "{sent}");
        }
    }

    proptest! {
        #[test]
        fn no_path_and_no_list_of_tags_is_too_odd_to_be_read(text in ".{0,40}", path in "/[a%/0-9A-F]{0,20}") {
            let _ = Target::parse(&text);
            if let Ok(target) = Target::parse(&path) {
                prop_assert_eq!(target.segments().join("/"), &target.path()[1..]);
            }
            prop_assert!(tags(&text).all(|tag| !tag.is_empty()));
        }
    }
}
