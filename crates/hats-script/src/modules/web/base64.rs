//! `atob` and `btoa`: the forgiving base64 of the Infra standard.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rquickjs::{IntoJs, Value};

use crate::modules::Call;

/// Takes what has its padding and what has none, and bits that mean nothing; writes padding.
const FORGIVING: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `(text)` → what it encodes, each byte a character; undefined if it is no base64.
pub(super) fn decode<'js>(call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    match decoded(&call.string(1)?) {
        Some(bytes) => bytes.into_iter().map(char::from).collect::<String>().into_js(call.ctx),
        None => Ok(Value::new_undefined(call.ctx.clone())),
    }
}

/// `(text)` → base64 of it, each character a byte; undefined if one of them is none.
pub(super) fn encode<'js>(call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let bytes: Option<Vec<u8>> = call.string(1)?.chars().map(|c| u8::try_from(c).ok()).collect();
    match bytes {
        Some(bytes) => FORGIVING.encode(bytes).into_js(call.ctx),
        None => Ok(Value::new_undefined(call.ctx.clone())),
    }
}

/// None if it is no base64. White space does not count; padding is either right or left out.
fn decoded(text: &str) -> Option<Vec<u8>> {
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
            prop_assert_eq!(decoded(&text), by_the_letter(&text));
        }

        #[test]
        fn what_was_encoded_is_decoded(bytes: Vec<u8>) {
            prop_assert_eq!(decoded(&FORGIVING.encode(&bytes)), Some(bytes));
        }
    }
}
