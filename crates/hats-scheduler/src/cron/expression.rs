//! The outer form of `Cron`: a zone in front, a word with `@`, five or six fields.

use super::error::{CRON_BYTES_MAX, CronError, short};
use super::fields::Fields;

/// A `Cron` taken apart, nothing inside of it looked at yet.
pub(super) struct Expression<'a> {
    /// The zone in front.
    pub(super) zone: Option<&'a str>,
    pub(super) what: What<'a>,
}

pub(super) enum What<'a> {
    /// What stands behind `@every`.
    Every(&'a str),
    Fields(Texts<'a>),
}

/// The six fields as text, the second first.
pub(super) struct Texts<'a> {
    pub(super) texts: [&'a str; 6],
    /// Whether they were five, so that the second is ours.
    pub(super) five: bool,
    /// Whether they were written as fields, and not as a word.
    written: bool,
}

impl<'a> Expression<'a> {
    pub(super) fn split(cron: &'a str) -> Result<Self, CronError> {
        if cron.len() > CRON_BYTES_MAX {
            return Err(CronError::TooLong { bytes: cron.len() });
        }
        let cron = cron.trim();
        let (first, rest) = first_word(cron);
        let zone = first.strip_prefix("CRON_TZ=").or_else(|| first.strip_prefix("TZ="));
        let cron = if zone.is_some() { rest } else { cron };
        let what = if cron.starts_with('@') { nickname(cron)? } else { What::Fields(Texts::split(cron)?) };
        Ok(Self { zone, what })
    }
}

impl<'a> Texts<'a> {
    fn split(cron: &'a str) -> Result<Self, CronError> {
        let mut words = cron.split_whitespace();
        let mut next = || words.next();
        let [a, b, c, d, e, f, g] = std::array::from_fn(|_| next());
        match (a, b, c, d, e, f, g) {
            (Some(a), Some(b), Some(c), Some(d), Some(e), Some(f), None) => {
                Ok(Self { texts: [a, b, c, d, e, f], five: false, written: true })
            }
            (Some(a), Some(b), Some(c), Some(d), Some(e), None, _) => {
                Ok(Self { texts: ["0", a, b, c, d, e], five: true, written: true })
            }
            _ => {
                let count = cron.split_whitespace().count();
                let hint = match count {
                    0 => "; such as 30 4 * * * for half past four every day",
                    7 => "; a year cannot be given, leave the last field out",
                    _ => "",
                };
                Err(CronError::FieldCount { value: short(cron), count, hint })
            }
        }
    }

    const fn word(texts: [&'a str; 6]) -> Self {
        Self { texts, five: true, written: false }
    }

    /// What a worker of 2020 made of five fields; none if it could not read them. They never mean the same: the day of
    /// month of one reading is the hour of the other.
    pub(super) fn as_in_2020(&self) -> Option<Fields> {
        let [_, second, minute, hour, day, month] = self.texts;
        let texts = Texts { texts: [second, minute, hour, day, month, "*"], five: false, written: true };
        (self.five && self.written).then(|| Fields::parse(&texts).ok())?
    }
}

fn nickname(cron: &str) -> Result<What<'_>, CronError> {
    let (word, rest) = first_word(cron);
    let lower = word.to_ascii_lowercase();
    if lower == "@every" {
        return Ok(What::Every(rest));
    }
    let texts = match lower.as_str() {
        "@yearly" | "@annually" => ["0", "0", "0", "1", "1", "*"],
        "@monthly" => ["0", "0", "0", "1", "*", "*"],
        "@weekly" => ["0", "0", "0", "*", "*", "0"],
        "@daily" | "@midnight" => ["0", "0", "0", "*", "*", "*"],
        "@hourly" => ["0", "0", "*", "*", "*", "*"],
        "@reboot" => {
            let hint = "; for work that starts with a worker register a thread";
            return Err(CronError::Nickname { value: short(cron), hint });
        }
        _ => return Err(CronError::Nickname { value: short(cron), hint: "" }),
    };
    if !rest.is_empty() {
        return Err(CronError::Nickname { value: short(cron), hint: ", and nothing behind it" });
    }
    Ok(What::Fields(Texts::word(texts)))
}

/// The first word and what follows it.
fn first_word(text: &str) -> (&str, &str) {
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest.trim_start()),
        None => (text, ""),
    }
}
