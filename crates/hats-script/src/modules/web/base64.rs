//! `atob` and `btoa`: the forgiving base64 of the Infra standard.

use std::rc::Rc;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rquickjs::{IntoJs, Value};

use super::throw_dom_exception;
use crate::modules::{Call, coerced};
use crate::vm::Host;

/// Takes what has its padding and what has none, and bits that mean nothing; writes padding.
const FORGIVING: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) fn atob<'js>(_: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let text = text_argument(call)?;
    match decode(&text) {
        Some(bytes) => bytes.into_iter().map(char::from).collect::<String>().into_js(call.ctx),
        None => Err(throw_dom_exception(
            call.ctx,
            "InvalidCharacterError",
            "atob: argument 1 is not correctly encoded base64",
        )),
    }
}

pub(super) fn btoa<'js>(_: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let text = text_argument(call)?;
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
    match bytes {
        Some(bytes) => FORGIVING.encode(bytes).into_js(call.ctx),
        None => Err(throw_dom_exception(
            call.ctx,
            "InvalidCharacterError",
            "btoa: argument 1 has a character above U+00FF: encode it first, with TextEncoder for instance",
        )),
    }
}

fn text_argument(call: &Call<'_, '_>) -> rquickjs::Result<String> {
    if call.arguments.is_empty() {
        return Err(call.wrong(0, "a string"));
    }
    coerced(call.ctx, call.argument(0))
}

/// None if it is no base64. White space does not count; padding is either right or left out.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut text: String =
        text.chars().filter(|c| !matches!(c, ' ' | '\t' | '\n' | '\u{c}' | '\r')).collect();
    if !text.len().is_multiple_of(4) && text.contains('=') {
        return None;
    }
    text.truncate(text.trim_end_matches('=').len().max(text.len().saturating_sub(2)));
    FORGIVING.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The algorithm as the standard words it, step by step.
    fn by_the_letter(text: &str) -> Option<Vec<u8>> {
        let mut data: Vec<char> =
            text.chars().filter(|c| !['\t', '\n', '\u{c}', '\r', ' '].contains(c)).collect();
        if data.len().is_multiple_of(4) {
            for _ in 0..2 {
                if data.last() == Some(&'=') {
                    data.pop();
                }
            }
        }
        if data.len() % 4 == 1 {
            return None;
        }
        let mut bits = Vec::new();
        for c in data {
            let value = STANDARD.as_str().find(c)?;
            bits.extend((0..6).rev().map(|bit| value >> bit & 1));
        }
        Some(bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |all, bit| all << 1 | *bit as u8)).collect())
    }

    proptest! {
        #[test]
        fn decodes_as_the_standard_says(text in "[A-Za-z0-9+/= \n\t=é-]{0,12}") {
            prop_assert_eq!(decode(&text), by_the_letter(&text));
        }

        #[test]
        fn what_was_encoded_is_decoded(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&FORGIVING.encode(&bytes)), Some(bytes));
        }
    }
}
