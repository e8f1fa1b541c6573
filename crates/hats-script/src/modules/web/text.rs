//! `TextEncoder` and `TextDecoder`: the Encoding standard, by `encoding_rs`.
//!
//! A decoder that is fed piece by piece keeps nothing here: what a piece ends with that is not yet a character is given
//! back, and comes again before the next piece.

use std::rc::Rc;

use encoding_rs::{DecoderResult, Encoding, ISO_2022_JP, REPLACEMENT};
use hats_arena::leaf::{array_of, bytes_of};
use rquickjs::{Array, IntoJs, Value};

use crate::modules::{Call, bytes_to_js};
use crate::vm::Host;

/// So much is decoded before others have their turn.
const BYTES_PER_LOOK: usize = 64 << 10;

/// `(text)` → its bytes.
pub(super) fn encode<'js>(call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    bytes_to_js(call.ctx, call.string(1)?.as_bytes())
}

/// `(text, length)` → the bytes of as many whole characters as take up no more than that, and how many units of UTF-16
/// those are.
pub(super) fn encode_up_to<'js>(call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let text = call.string(1)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the length of an array")]
    let length = call.number(2)? as usize;
    let text = &text[..text.floor_char_boundary(length)];
    let parts = [bytes_to_js(call.ctx, text.as_bytes()), text.encode_utf16().count().into_js(call.ctx)];
    array_of(call.ctx, parts).map(Array::into_value)
}

/// `(label)` → the name of the encoding, or undefined if no encoding is called so.
pub(super) fn encoding<'js>(call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    match named(&call.string(1)?) {
        Some(encoding) => encoding.name().to_ascii_lowercase().into_js(call.ctx),
        None => Ok(Value::new_undefined(call.ctx.clone())),
    }
}

/// `(encoding, bytes left over, bytes, fatal, more to come)` → the text, a byte order mark included, and what is left
/// over of the bytes. A `TypeError` where they are malformed and that is fatal.
pub(super) fn decode<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let Some(encoding) = named(&call.string(1)?) else { return Err(call.wrong(1, "an encoding")) };
    let mut bytes = Vec::new();
    for n in [2, 3] {
        bytes.extend(bytes_of(&call.argument(n)).into_iter().flatten());
    }
    let (fatal, more) = (call.argument(4).as_bool() == Some(true), call.argument(5).as_bool() == Some(true));
    let decoded = decoded(encoding, &bytes, fatal, more, || host.look_up(call.ctx))?;
    let Some((text, left)) = decoded else {
        let name = encoding.name().to_ascii_lowercase();
        let message = format!("TextDecoder.decode: the bytes are not valid {name}");
        return Err(call.type_error(&message));
    };
    let left = (left > 0).then(|| bytes_to_js(call.ctx, &bytes[bytes.len() - left..]));
    array_of(call.ctx, [text.into_js(call.ctx)].into_iter().chain(left)).map(Array::into_value)
}

fn named(label: &str) -> Option<&'static Encoding> {
    Encoding::for_label(label.as_bytes()).filter(|encoding| *encoding != REPLACEMENT)
}

/// The text, and how many of the last bytes are the beginning of something. None: malformed, and that is fatal.
fn decoded<E>(
    encoding: &'static Encoding,
    bytes: &[u8],
    fatal: bool,
    more: bool,
    look_up: impl Fn() -> Result<(), E>,
) -> Result<Option<(String, usize)>, E> {
    if more && encoding == ISO_2022_JP {
        // What a byte means there depends on all that came before it.
        return Ok(Some((String::new(), bytes.len())));
    }
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut text = String::new();
    let mut rest = bytes;
    loop {
        let (piece, after) = rest.split_at(rest.len().min(BYTES_PER_LOOK));
        let last = !more && after.is_empty();
        rest = piece;
        loop {
            // Room for one character at least, or nothing would ever come of it.
            text.reserve(
                decoder.max_utf8_buffer_length_without_replacement(rest.len()).unwrap_or(rest.len()).max(8),
            );
            let (result, read) = decoder.decode_to_string_without_replacement(rest, &mut text, last);
            rest = &rest[read..];
            match result {
                DecoderResult::InputEmpty => break,
                DecoderResult::OutputFull => {}
                DecoderResult::Malformed(..) if fatal => return Ok(None),
                DecoderResult::Malformed(..) => text.push(char::REPLACEMENT_CHARACTER),
            }
        }
        if after.is_empty() {
            break;
        }
        rest = after;
        look_up()?;
    }
    if !more {
        return Ok(Some((text, 0)));
    }
    // What is missing its end is malformed if the end is here.
    let mut none = String::with_capacity(8);
    let left = match decoder.decode_to_string_without_replacement(&[], &mut none, true).0 {
        DecoderResult::Malformed(length, _) => usize::from(length),
        DecoderResult::InputEmpty | DecoderResult::OutputFull => 0,
    };
    Ok(Some((text, left)))
}

#[cfg(test)]
mod tests {
    use encoding_rs::{
        BIG5, EUC_JP, EUC_KR, GB18030, GBK, SHIFT_JIS, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252,
    };
    use proptest::prelude::*;

    use super::*;

    fn whole(encoding: &'static Encoding, bytes: &[u8], fatal: bool) -> Option<String> {
        decoded::<()>(encoding, bytes, fatal, false, || Ok(())).unwrap().map(|(text, left)| {
            assert_eq!(left, 0);
            text
        })
    }

    fn in_pieces(encoding: &'static Encoding, pieces: &[&[u8]], fatal: bool) -> Option<String> {
        let mut all = String::new();
        let mut kept = Vec::new();
        for (n, piece) in pieces.iter().enumerate() {
            kept.extend_from_slice(piece);
            let more = n + 1 < pieces.len();
            let (text, left) = decoded::<()>(encoding, &kept, fatal, more, || Ok(())).unwrap()?;
            all.push_str(&text);
            kept.drain(..kept.len() - left);
        }
        Some(all)
    }

    #[test]
    fn a_truncated_character_is_one_replacement() {
        assert_eq!(whole(UTF_8, b"a\xf0\x9f\x98", false).unwrap(), "a\u{fffd}");
        assert_eq!(whole(UTF_8, b"\xf0\x9f\x98a", false).unwrap(), "\u{fffd}a");
        assert_eq!(whole(UTF_8, b"a\xf0\x9f\x98", true), None);
    }

    proptest! {
        #[test]
        fn utf_8_is_what_the_standard_library_makes_of_it(bytes: Vec<u8>) {
            prop_assert_eq!(whole(UTF_8, &bytes, false).unwrap(), String::from_utf8_lossy(&bytes));
            prop_assert_eq!(whole(UTF_8, &bytes, true), String::from_utf8(bytes).ok());
        }

        #[test]
        fn pieces_make_the_same_as_the_whole(
            bytes: Vec<u8>, cuts in proptest::collection::vec(0_usize..64, 0..6), fatal: bool, which in 0_usize..11
        ) {
            let encodings =
                [UTF_8, UTF_16LE, UTF_16BE, WINDOWS_1252, GBK, GB18030, BIG5, EUC_JP, EUC_KR, SHIFT_JIS, ISO_2022_JP];
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            let encoding = encodings[which];
            prop_assert_eq!(in_pieces(encoding, &pieces, fatal), whole(encoding, &bytes, fatal));
        }

        #[test]
        fn pieces_of_text_make_the_text(text: String, cut in 0_usize..200) {
            let bytes = text.as_bytes();
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(in_pieces(UTF_8, &[head, tail], true), Some(text.clone()));
        }
    }
}
