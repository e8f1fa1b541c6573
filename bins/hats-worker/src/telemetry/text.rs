//! Log lines as text: one line per event, whatever the values in it are.
//!
//! Scripts, and through them requests, decide what stands in a line. A newline in it would begin a line that nobody logged,
//! and control characters could change what a terminal shows, so [`OneLine`] writes them as escapes: `\n`, `\t`,
//! `\u{1b}`, `\u{202e}`. A backslash stays as it is: paths and stacks stay readable, and it cannot begin a line.

use std::fmt::{self, Debug, Write};

use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

/// How the fields of events and spans are written, the message among them.
pub(super) fn fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    debug_fn(field).delimited(" ")
}

fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    if field.name() != "message" {
        if writer.has_ansi_escapes() {
            write!(writer, "\x1b[3m{}\x1b[0m\x1b[2m=\x1b[0m", field.name())?;
        } else {
            write!(writer, "{}=", field.name())?;
        }
    }
    write!(OneLine(writer), "{value:?}")
}

/// Passes text on with everything escaped that could end the line or change how it is shown.
struct OneLine<'a>(&'a mut dyn Write);

impl Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_unsafe(*c)) {
            self.0.write_str(&rest[..at])?;
            match c {
                '\n' => self.0.write_str("\\n")?,
                '\r' => self.0.write_str("\\r")?,
                '\t' => self.0.write_str("\\t")?,
                c => write!(self.0, "{}", c.escape_unicode())?,
            }
            rest = &rest[at + c.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

/// Control characters (C0, DEL and C1), line and paragraph separators, and those that change the direction of text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}')
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_line(text: &str) -> String {
        let mut line = String::new();
        OneLine(&mut line).write_str(text).unwrap();
        line
    }

    #[test]
    fn a_value_cannot_end_its_line_or_hide_in_it() {
        for (text, expected) in [
            ("plain, äöü 漢字 🎩 C:\\dir", "plain, äöü 漢字 🎩 C:\\dir"),
            ("a\nb\r\nc\td", "a\\nb\\r\\nc\\td"),
            ("\x1b[2J\x07\0\x7f", "\\u{1b}[2J\\u{7}\\u{0}\\u{7f}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{85}\u{2028}\u{2029}", "\\u{85}\\u{2028}\\u{2029}"),
            ("\u{202e}cod.exe\u{2066}\u{200f}", "\\u{202e}cod.exe\\u{2066}\\u{200f}"),
            ("", ""),
        ] {
            assert_eq!(one_line(text), expected);
            assert!(!one_line(text).contains(char::is_control));
        }
    }
}
