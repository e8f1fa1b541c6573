//! The comment that a job's script begins with, which says when it runs.
//!
//! ```js
//! // Sends the report of the day before.
//! //
//! // cron: 30 4 * * 1-5
//! // tz: Europe/Berlin
//! // overlap: buffer
//! ```
//!
//! What must hold: a field that was meant is not passed over in silence. So a word with a colon right below a field has to
//! be one as well; elsewhere in the comment what is no field is prose.

use super::JobOptions;
use super::options::nearest_field;
use crate::config::quoted;

/// Reads the fields. `shown` is the file, for errors.
///
/// # Errors
/// A text that names file, line and field.
pub(super) fn read(text: &str, shown: &str) -> Result<JobOptions, String> {
    let mut options = JobOptions::default();
    let mut in_block = false;
    let mut below_field = false;
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if in_block || line.starts_with("/*") {
            below_field = false;
            match line.split_once("*/") {
                None => in_block = true,
                Some((_, after)) if after.trim().is_empty() => in_block = false,
                Some(_) => break,
            }
            continue;
        }
        if line.is_empty() || (number == 0 && line.starts_with("#!")) {
            below_field = false;
            continue;
        }
        let Some(comment) = line.strip_prefix("//") else { break };
        let Some((name, value)) = field(comment.trim_start_matches('/').trim()) else {
            below_field = false;
            continue;
        };
        let place = number + 1;
        match options.field_mut(name) {
            Some(Some(_)) => return Err(format!("{shown}:{place}: field {} is there twice", quoted(name))),
            Some(slot) => {
                *slot = Some(value.to_owned());
                below_field = true;
            }
            None if below_field => {
                let nearest = nearest_field(name);
                return Err(format!(
                    "{shown}:{place}: there is no field {}; the nearest known one is {nearest}. A comment that is none \
                     stands apart, below an empty line",
                    quoted(name)
                ));
            }
            None => {}
        }
    }
    Ok(options)
}

/// A word, a colon, and a value behind a space or none at all.
fn field(comment: &str) -> Option<(&str, &str)> {
    let (name, value) = comment.split_once(':')?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, '-' | '_'));
    let is_value = value.is_empty() || value.starts_with(char::is_whitespace);
    (is_name && is_value).then(|| (name, value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, &str)]) {
        let mut options = JobOptions::default();
        for (field, value) in expected {
            *options.field_mut(field).unwrap() = Some((*value).to_owned());
        }
        assert_eq!(read(text, "a.js"), Ok(options), "{text}");
    }

    #[test]
    fn fields_stand_in_the_comment_at_the_beginning() {
        check("// cron: */5 * * * *\nmain();", &[("Cron", "*/5 * * * *")]);
        check(
            "\u{feff}#!/usr/bin/env hats\n/* Licence:\n * cron: @daily */\n\n// Note: all of it.\n//\n//cron: @hourly\n\
             //   TZ:   Asia/Tokyo  \n///  misfire-seconds: 60\n\nfunction main() {}\n// jitter: 5\n",
            &[("Cron", "@hourly"), ("TZ", "Asia/Tokyo"), ("MisfireSeconds", "60")],
        );
        check("// cron: @every 1h30m\n// tz:", &[("Cron", "@every 1h30m"), ("TZ", "")]);
        check("// cron: @daily\n// See https://example.com, or: nothing\n", &[("Cron", "@daily")]);
        for none in ["", "main(); // cron: @daily", "/* cron: @daily */ main()\n// cron: @daily", "/* open"] {
            check(none, &[]);
        }
    }

    #[test]
    fn a_field_that_was_meant_is_not_passed_over() {
        let error = read("// cron: @daily\n// overlaps: buffer\n", "a.js").unwrap_err();
        assert!(error.starts_with("a.js:2: there is no field `overlaps`; the nearest known one is Overlap"));
        let error = read("// cron: @daily\n\n// CRON: @hourly\n", "a.js").unwrap_err();
        assert_eq!(error, "a.js:3: field `CRON` is there twice");
    }
}
