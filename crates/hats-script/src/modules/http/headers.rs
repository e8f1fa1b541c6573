//! Headers between JavaScript and HTTP.

use reqwest::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use crate::host::TaskControl;

/// Says which owner of a task a request comes from, so that a server can refuse those of an older one.
pub(super) const FENCE: HeaderName = HeaderName::from_static("hats-fence");

/// The value of [`FENCE`]; None for what has no epoch.
pub(super) fn fence(control: &dyn TaskControl) -> Option<HeaderValue> {
    use std::fmt::Write as _;

    if control.epoch() == 0 {
        return None;
    }
    let mut value = String::new();
    for byte in control.name().bytes() {
        match byte {
            b'%' | b';' | b',' | b'"' => write!(value, "%{byte:02X}").ok()?,
            b'!'..=b'~' => value.push(byte.into()),
            _ => write!(value, "%{byte:02X}").ok()?,
        }
    }
    HeaderValue::from_str(&format!("{value};epoch={}", control.epoch())).ok()
}

/// A header that a script wants to send, or what is wrong with it. None: it is left to the client.
pub(super) fn checked(name: &str, value: &str) -> Result<Option<(HeaderName, HeaderValue)>, String> {
    let shown: String = name.chars().take(60).collect();
    let header: HeaderName = name.parse().map_err(|_| format!("{shown:?} is no name of a header"))?;
    if header == CONTENT_LENGTH {
        // It is known better here.
        return Ok(None);
    }
    let own = [CONNECTION, EXPECT, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, FENCE];
    if own.contains(&header) || ["keep-alive", "proxy-connection"].contains(&header.as_str()) {
        return Err(format!("header {shown:?} belongs to the worker"));
    }
    let value = value.trim_matches([' ', '\t', '\r', '\n']);
    let value = HeaderValue::from_bytes(value.as_bytes())
        .map_err(|_| format!("the value of header {shown:?} has a character that no header can have"))?;
    Ok(Some((header, value)))
}

/// The name of a header as people write it: `Content-Type`.
pub(super) fn canonical(name: &HeaderName) -> String {
    let mut at_start = true;
    let capitalised = |c: char| {
        let c = if at_start { c.to_ascii_uppercase() } else { c };
        at_start = c == '-';
        c
    };
    name.as_str().chars().map(capitalised).collect()
}

/// The value of a header as a script sees it.
pub(super) fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::host::BoxFuture;

    struct Named(String, u64);

    impl TaskControl for Named {
        fn name(&self) -> &str {
            &self.0
        }
        fn key(&self) -> &str {
            ""
        }
        fn epoch(&self) -> u64 {
            self.1
        }
        fn hang(&self) -> Duration {
            Duration::ZERO
        }
        fn trusted_for(&self) -> Duration {
            Duration::ZERO
        }
        fn stopped(&self) -> bool {
            false
        }
        fn stop(&self) {}
        fn disable(&self) -> BoxFuture<Result<(), String>> {
            Box::pin(async { Ok(()) })
        }
        fn state(&self) -> BoxFuture<Result<String, String>> {
            Box::pin(async { Ok(String::new()) })
        }
        fn status(&self) -> BoxFuture<Result<String, String>> {
            Box::pin(async { Ok(String::new()) })
        }
    }

    fn fence_of(name: &str, epoch: u64) -> Option<String> {
        fence(&Named(name.to_owned(), epoch)).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn names_are_written_as_people_do() {
        for (name, written) in [
            ("content-type", "Content-Type"),
            ("etag", "Etag"),
            ("www-authenticate", "Www-Authenticate"),
            ("x--y", "X--Y"),
            ("-x", "-X"),
            ("__proto__", "__proto__"),
            ("1st", "1st"),
        ] {
            assert_eq!(canonical(&HeaderName::from_static(name)), written);
        }
    }

    #[test]
    fn the_fence_names_the_task_whatever_it_is_called() {
        assert_eq!(fence_of("a/b.js", 7).as_deref(), Some("a/b.js;epoch=7"));
        assert_eq!(fence_of("a;epoch=9\r\nX: ü", 7).as_deref(), Some("a%3Bepoch=9%0D%0AX:%20%C3%BC;epoch=7"));
        assert_eq!(fence_of("endpoint", 0), None);
    }

    fn odd_name() -> impl Strategy<Value = String> {
        prop_oneof!["[a-zA-Z0-9_-]{1,20}", "[!#$%&'*+.^`|~a-z:; \\r\\n]{0,20}", any::<String>()]
    }

    proptest! {
        #[test]
        fn a_header_of_a_script_is_sent_as_it_is_or_refused(name in odd_name(), value in any::<String>()) {
            if let Ok(Some((header, sent))) = checked(&name, &value) {
                prop_assert!(header.as_str().eq_ignore_ascii_case(&name));
                prop_assert_eq!(sent.as_bytes(), value.trim_matches([' ', '\t', '\r', '\n']).as_bytes());
                prop_assert!(!sent.as_bytes().iter().any(|byte| b"\r\n\0".contains(byte)));
                prop_assert_eq!(text(&sent).into_bytes(), sent.as_bytes());
            }
        }

        #[test]
        fn a_written_name_means_the_same_header(name in "[!#$%&'*+.^_`|~a-zA-Z0-9-]{1,30}") {
            let header: HeaderName = name.parse().unwrap();
            let written = canonical(&header);
            prop_assert_eq!(written.parse::<HeaderName>().unwrap(), header.clone());
            prop_assert_eq!(canonical(&written.parse().unwrap()), written);
        }

        #[test]
        fn a_fence_is_one_header_that_gives_the_name_back(name in any::<String>(), epoch in 1..u64::MAX) {
            let value = fence_of(&name, epoch).unwrap();
            let (task, rest) = value.split_once(';').unwrap();
            prop_assert_eq!(rest, format!("epoch={epoch}"));
            // Decoded as form values are, but for the plus sign.
            let plain = format!("x={}", task.replace('+', "%2B").replace('&', "%26").replace('=', "%3D"));
            let decoded: Vec<_> = url::form_urlencoded::parse(plain.as_bytes()).collect();
            prop_assert_eq!(decoded[0].1.as_ref(), name);
        }
    }
}
