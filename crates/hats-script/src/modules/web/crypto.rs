//! `crypto`: random bytes of the operating system.

use std::fmt::Write as _;

use hats_arena::leaf::{ErrorKind, throw};
use rquickjs::{IntoJs, Value};

use crate::modules::{Call, bytes_to_js};

/// The most that is given at once, as on the web.
const BYTES_MAX: usize = 65_536;

/// `(length)` → so many random bytes.
pub(super) fn random<'js>(call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a length that fits is checked"
    )]
    let length = call.number(1)? as usize;
    let mut bytes = vec![0; length.min(BYTES_MAX)];
    fill(call, &mut bytes)?;
    bytes_to_js(call.ctx, &bytes)
}

/// `()` → a random UUID, version 4.
pub(super) fn uuid<'js>(call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let mut bytes = [0; 16];
    fill(call, &mut bytes)?;
    uuid_of(bytes).into_js(call.ctx)
}

fn fill(call: &Call<'_, '_>, bytes: &mut [u8]) -> rquickjs::Result<()> {
    getrandom::fill(bytes).map_err(|error| {
        let message = format!("crypto: the system has no random bytes: {error}");
        throw(call.ctx, ErrorKind::Plain, &message)
    })
}

/// Bytes as a UUID, with version and variant put in (RFC 9562).
fn uuid_of(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (n, byte) in bytes.iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::uuid_of;

    #[test]
    fn a_uuid_says_that_it_is_random() {
        assert_eq!(uuid_of([0; 16]), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid_of([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
