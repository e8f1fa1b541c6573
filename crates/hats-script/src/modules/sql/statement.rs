//! What a statement's text says before it is sent: where its placeholders are, and what it does to the connection.
//!
//! What must hold:
//! - Nothing inside strings, quoted names, dollar quotes and comments is taken for a placeholder or a keyword.
//! - Reading hardly ever fails: what the database would not understand is for the database to refuse.

use std::ops::Range;

/// Whose rules of quoting a text follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    MySql,
    Postgres,
    Sqlite,
}

/// A statement, read once.
#[derive(Debug)]
pub(super) struct Statement {
    /// As it is sent.
    pub(super) text: String,
    /// Where in `text` a `$n` stands, and its n. Only for Postgres.
    pub(super) placeholders: Vec<(Range<usize>, usize)>,
    /// What it does to the connection.
    pub(super) effect: Effect,
    /// True if it gives rows and changes nothing, as far as its first word tells.
    pub(super) reads: bool,
    /// True if its number of affected rows says something, as far as its first word tells.
    pub(super) changes_rows: bool,
    /// True if there are semicolons in it that are not at its end.
    pub(super) has_parts: bool,
}

/// What a statement does to the connection that it is sent over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing that the next statement would notice.
    None,
    /// Only the server knows: a procedure, or a block of statements.
    Calls,
    /// Begins a transaction; true if it takes the lock for writing at once.
    Begin { writes: bool },
    /// Ends the transaction, and keeps what was done in it or not. `spoils`: the connection is not to be used again.
    End { commits: bool, spoils: bool },
    /// Makes sense only inside a transaction, and ends with it. `recovers`: goes back to before what has failed.
    InTransaction { recovers: bool },
    /// Outlasts the transaction: nobody else may have the connection after that. Says what to do instead.
    Session(&'static str),
    /// Works over no connection that we have. Says why.
    Refused(&'static str),
}

/// Why a text was not even read.
pub(super) const MIXED: &str =
    "the statement has both ? and $1: use one of them, and write ?? for an operator that is a question mark";

/// Postgres and SQLite take what is before it for the whole text.
pub(super) const ZERO: &str = "the statement has a zero character in it";

impl Statement {
    /// Reads a text.
    ///
    /// # Errors
    /// [`MIXED`] and [`ZERO`].
    pub(super) fn read(dialect: Dialect, text: &str) -> Result<Self, &'static str> {
        if dialect != Dialect::MySql && text.contains('\0') {
            return Err(ZERO);
        }
        let mut first = FirstWords::default();
        let mut marks = Vec::new();
        let mut numbered = Vec::new();
        for (token, place) in Lexer::new(dialect, text) {
            first.see(dialect, token);
            match token {
                Token::Mark | Token::DoubleMark => marks.push((token, place)),
                Token::Numbered(n) => numbered.push((place, n)),
                _ => {}
            }
        }
        let effect = first.effect(dialect);
        let reads = first.reads();
        let changes_rows = matches!(first.word(0), "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "WITH");
        let has_parts = first.more || first.begins_empty;
        if dialect != Dialect::Postgres {
            return Ok(Self {
                text: text.to_owned(),
                placeholders: Vec::new(),
                effect,
                reads,
                changes_rows,
                has_parts,
            });
        }
        if marks.is_empty() {
            return Ok(Self {
                text: text.to_owned(),
                placeholders: numbered,
                effect,
                reads,
                changes_rows,
                has_parts,
            });
        }
        if !numbered.is_empty() && marks.iter().any(|(token, _)| *token == Token::Mark) {
            return Err(MIXED);
        }
        let mut sent = String::with_capacity(text.len() + 2 * marks.len());
        let mut placeholders = Vec::new();
        let mut marks = marks.into_iter().peekable();
        let mut numbered = numbered.into_iter().peekable();
        let mut copied = 0;
        loop {
            // Those with a number keep it; they only move if a `??` before them has become shorter.
            let next_mark = marks.peek().map(|(_, place)| place.start);
            let next_numbered = numbered.peek().map(|(place, _)| place.start);
            let takes_mark = match (next_mark, next_numbered) {
                (None, None) => break,
                (Some(mark), Some(number)) => mark < number,
                (Some(_), None) => true,
                (None, Some(_)) => false,
            };
            let (place, piece, n) = if takes_mark {
                match marks.next() {
                    Some((Token::DoubleMark, place)) => (place, "?".to_owned(), None),
                    Some((_, place)) => {
                        let n = placeholders.len() + 1;
                        (place, format!("${n}"), Some(n))
                    }
                    None => break,
                }
            } else {
                match numbered.next() {
                    Some((place, n)) => (place.clone(), text[place].to_owned(), Some(n)),
                    None => break,
                }
            };
            sent.push_str(&text[copied..place.start]);
            copied = place.end;
            let is_new = takes_mark && n.is_some();
            // A blank on either side, or it would be the end of a name, or the beginning of a longer number.
            if is_new && sent.ends_with(is_of_name) {
                sent.push(' ');
            }
            let begin = sent.len();
            sent.push_str(&piece);
            if let Some(n) = n {
                placeholders.push((begin..sent.len(), n));
            }
            if is_new && text[copied..].starts_with(is_of_name) {
                sent.push(' ');
            }
        }
        sent.push_str(&text[copied..]);
        Ok(Self { text: sent, placeholders, effect, reads, changes_rows, has_parts })
    }

    /// The text with other expressions in the place of some placeholders: `replace` is asked for each n.
    pub(super) fn with_placeholders(&self, replace: impl Fn(usize) -> Option<String>) -> String {
        let mut text = String::with_capacity(self.text.len() + 32 * self.placeholders.len());
        let mut copied = 0;
        for (place, n) in &self.placeholders {
            if let Some(expression) = replace(*n) {
                text.push_str(&self.text[copied..place.start]);
                text.push_str(&expression);
                copied = place.end;
            }
        }
        text.push_str(&self.text[copied..]);
        text
    }
}

/// Characters that a name may go on with.
fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// Blanks, as databases see them: others belong to names.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// The words that decide what a statement does to its connection.
#[derive(Default)]
struct FirstWords<'a> {
    // In upper case; at most four.
    words: Vec<String>,
    first_seen: bool,
    is_temporary: bool,
    is_chained: bool,
    unchained: bool,
    goes_back: bool,
    locks: bool,
    copies_here: bool,
    takes_session_lock: bool,
    sets: bool,
    over: bool,
    more: bool,
    begins_empty: bool,
    last: &'a str,
}

/// No word that is looked for is longer.
const KEYWORD_MAX: usize = 32;

impl<'a> FirstWords<'a> {
    fn see(&mut self, dialect: Dialect, token: Token<'a>) {
        if self.over {
            self.more = true;
            return;
        }
        let word = match token {
            Token::Word(word) => word,
            Token::Semicolon => {
                // Empty statements in front are nothing.
                self.over = self.first_seen;
                self.begins_empty |= !self.first_seen;
                return;
            }
            Token::Symbol('(') if !self.first_seen => return,
            _ => {
                self.first_seen = true;
                self.last = "";
                // What follows a symbol is no keyword that we look for.
                if self.words.len() < 4 {
                    self.words.push(String::new());
                }
                return;
            }
        };
        self.first_seen = true;
        // A statement may have a million words: none of them is copied but the first ones.
        let mut buffer = [0; KEYWORD_MAX];
        let upper = upper(word, &mut buffer);
        let last = std::mem::replace(&mut self.last, word);
        let follows = |words: &[&str]| words.iter().any(|word| last.eq_ignore_ascii_case(word));
        match upper {
            "TEMP" | "TEMPORARY" => {
                self.is_temporary |= match self.word(0) {
                    "CREATE" => self.words.len() < 4 && follows(&["CREATE", "REPLACE", "GLOBAL", "LOCAL"]),
                    "SELECT" => dialect == Dialect::Postgres && follows(&["INTO"]),
                    _ => false,
                };
            }
            "CHAIN" => {
                self.is_chained = true;
                self.unchained = follows(&["NO"]);
            }
            "TO" => self.goes_back = true,
            "LOCK" => self.locks = true,
            "STDIN" | "STDOUT" => self.copies_here = true,
            "GET_LOCK" => self.takes_session_lock |= dialect == Dialect::MySql,
            "PG_ADVISORY_LOCK"
            | "PG_ADVISORY_LOCK_SHARED"
            | "PG_TRY_ADVISORY_LOCK"
            | "PG_TRY_ADVISORY_LOCK_SHARED" => self.takes_session_lock |= dialect == Dialect::Postgres,
            "SET_CONFIG" => self.sets |= dialect == Dialect::Postgres,
            _ => {}
        }
        if self.words.len() < 4 {
            self.words.push(upper.to_owned());
        }
    }

    fn word(&self, n: usize) -> &str {
        self.words.get(n).map_or("", String::as_str)
    }

    fn reads(&self) -> bool {
        matches!(
            self.word(0),
            "SELECT" | "VALUES" | "TABLE" | "SHOW" | "EXPLAIN" | "DESCRIBE" | "DESC" | "FETCH" | "PRAGMA"
        )
    }

    fn effect(&self, dialect: Dialect) -> Effect {
        use Dialect::{MySql, Postgres, Sqlite};
        const IN_TRANSACTION: &str =
            "do it between BEGIN and COMMIT, where all statements go over one connection";
        const SETTINGS: &str =
            "connections are shared; put it into the DSN, or do it between BEGIN and COMMIT";
        let second = self.word(1);
        let effect = match (self.word(0), dialect) {
            // A block of statements, in MariaDB.
            ("BEGIN", MySql) if second == "NOT" => Effect::Calls,
            ("CALL", MySql | Postgres) | ("DO", Postgres) => Effect::Calls,
            ("EXECUTE", MySql) if second == "IMMEDIATE" => Effect::Calls,
            ("BEGIN", _) => Effect::Begin { writes: matches!(second, "IMMEDIATE" | "EXCLUSIVE") },
            ("START", MySql | Postgres) if second == "TRANSACTION" => Effect::Begin { writes: false },
            ("COMMIT" | "ROLLBACK", Postgres) if second == "PREPARED" => Effect::None,
            ("ROLLBACK", _) if self.goes_back => Effect::InTransaction { recovers: true },
            ("COMMIT" | "ROLLBACK" | "END" | "ABORT", _) if self.is_chained && !self.unchained => {
                Effect::Refused("AND CHAIN is not available: end the transaction and begin the next one")
            }
            ("COMMIT" | "ROLLBACK", _) | ("END", Postgres | Sqlite) | ("ABORT", Postgres) => {
                let commits = matches!(self.word(0), "COMMIT" | "END");
                Effect::End { commits, spoils: self.words.iter().any(|word| word == "RELEASE") }
            }
            ("PREPARE", Postgres) if second == "TRANSACTION" => Effect::End { commits: true, spoils: true },
            ("SAVEPOINT" | "RELEASE", _) => Effect::InTransaction { recovers: false },
            ("DECLARE" | "FETCH" | "MOVE" | "CLOSE", Postgres) => Effect::Session(IN_TRANSACTION),
            ("SET", Postgres) if matches!(second, "LOCAL" | "CONSTRAINTS" | "TRANSACTION") => {
                Effect::InTransaction { recovers: false }
            }
            ("SET", MySql) if matches!(second, "GLOBAL" | "PERSIST" | "PERSIST_ONLY" | "PASSWORD") => {
                Effect::None
            }
            ("SET", MySql | Postgres) | ("RESET", Postgres) => Effect::Session(SETTINGS),
            // Of the server's logs and the like.
            ("RESET", MySql) => Effect::None,
            ("USE", MySql) => {
                Effect::Session("connections are shared; name the database in the DSN, or before the table")
            }
            ("LOCK" | "UNLOCK" | "HANDLER" | "XA", MySql) => Effect::Session(IN_TRANSACTION),
            ("FLUSH", MySql) if self.locks => Effect::Session(IN_TRANSACTION),
            ("PREPARE" | "EXECUTE" | "DEALLOCATE", MySql | Postgres) => {
                Effect::Session("statements are prepared anyway; give db.Query the text and the arguments")
            }
            ("DISCARD" | "LOAD", Postgres) => Effect::Session(SETTINGS),
            ("LISTEN" | "UNLISTEN", Postgres) => {
                Effect::Refused("notifications are not available to scripts; NOTIFY is")
            }
            ("COPY", Postgres) if self.copies_here => {
                Effect::Refused("COPY from and to the client is not available; use INSERT and SELECT")
            }
            ("ATTACH" | "DETACH", Sqlite) => {
                Effect::Refused("a database is one file; open the other one with sql.New")
            }
            _ if self.is_temporary => Effect::Session(IN_TRANSACTION),
            _ if self.sets => Effect::Session(SETTINGS),
            _ if self.takes_session_lock => Effect::Session(
                "the lock would belong to a connection that is shared; take it between BEGIN and COMMIT",
            ),
            _ => Effect::None,
        };
        // Where that is missing the database itself says so, or the body of a trigger or procedure follows.
        let goes_alone = match effect {
            Effect::Begin { .. } | Effect::End { .. } | Effect::InTransaction { .. } => true,
            Effect::Session(_) => dialect == MySql,
            Effect::None | Effect::Calls | Effect::Refused(_) => false,
        };
        if self.more && goes_alone { Effect::Refused("one statement at a time") } else { effect }
    }
}

/// A word in upper case; nothing if it is longer than any that is looked for.
fn upper<'b>(word: &str, buffer: &'b mut [u8; KEYWORD_MAX]) -> &'b str {
    let Some(space) = buffer.get_mut(..word.len()) else { return "" };
    space.copy_from_slice(word.as_bytes());
    space.make_ascii_uppercase();
    std::str::from_utf8(space).unwrap_or_default()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A bare name or keyword.
    Word(&'a str),
    /// `?`
    Mark,
    /// `??`
    DoubleMark,
    /// `$n`
    Numbered(usize),
    Semicolon,
    /// A string, a quoted name, a number.
    Literal,
    Symbol(char),
}

struct Lexer<'a> {
    dialect: Dialect,
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn new(dialect: Dialect, text: &'a str) -> Self {
        Self { dialect, text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// Moves behind the next `end`, or to the end of the text.
    fn skip_past(&mut self, end: &str) {
        let rest = self.rest();
        self.skip(rest.find(end).map_or(rest.len(), |place| place + end.len()));
    }

    fn skip_line(&mut self) {
        self.skip_past("\n");
    }

    /// Skips a comment. False if there is none here.
    fn skip_comment(&mut self) -> bool {
        let rest = self.rest();
        let (mysql, postgres) = (self.dialect == Dialect::MySql, self.dialect == Dialect::Postgres);
        // MySQL wants a blank behind it: `5--1` is six.
        let is_line = rest.strip_prefix("--").is_some_and(|after| {
            !mysql
                || after.is_empty()
                || after.starts_with(|c: char| c.is_ascii_whitespace() || c.is_ascii_control())
        });
        if is_line || (mysql && rest.starts_with('#')) {
            self.skip_line();
            return true;
        }
        // The inside of these is code. Its end is skipped when it comes.
        if mysql && (rest.starts_with("/*!") || rest.starts_with("/*M!")) {
            let bang = if rest.starts_with("/*!") { 3 } else { 4 };
            let digits = rest[bang..].bytes().take_while(u8::is_ascii_digit).count();
            self.skip(bang + digits);
            return true;
        }
        if mysql && rest.starts_with("*/") {
            self.skip(2);
            return true;
        }
        if !rest.starts_with("/*") {
            return false;
        }
        self.skip(2);
        if !postgres {
            self.skip_past("*/");
            return true;
        }
        let mut depth = 1_usize;
        while depth > 0 {
            let rest = self.rest();
            let Some(place) = rest.find(['*', '/']) else {
                self.skip(rest.len());
                return true;
            };
            self.skip(place);
            if self.rest().starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest().starts_with("*/") {
                depth -= 1;
                self.skip(2);
            } else {
                self.skip(1);
            }
        }
        true
    }

    /// Skips what stands between two `quote`s, the first of which is here. Two in a row are one inside.
    fn skip_quoted(&mut self, quote: char, backslash: bool) {
        self.skip(quote.len_utf8());
        loop {
            let rest = self.rest();
            let Some(place) = rest.find(|c| c == quote || (backslash && c == '\\')) else {
                self.skip(rest.len());
                return;
            };
            self.skip(place);
            let rest = self.rest();
            if let Some(escaped) = rest.strip_prefix('\\') {
                let escaped = escaped.chars().next().map_or(0, char::len_utf8);
                self.skip(1 + escaped);
            } else if rest[quote.len_utf8()..].starts_with(quote) {
                self.skip(2 * quote.len_utf8());
            } else {
                self.skip(quote.len_utf8());
                return;
            }
        }
    }

    /// Skips `$tag$ … $tag$`. False if that is not what is here.
    fn skip_dollar_quoted(&mut self) -> bool {
        let rest = self.rest();
        let Some(end) = rest[1..].find('$').map(|place| place + 1) else { return false };
        let tag = &rest[1..end];
        let is_tag = tag.chars().enumerate().all(|(n, c)| {
            c == '_' || !c.is_ascii() || c.is_ascii_alphabetic() || (n > 0 && c.is_ascii_digit())
        });
        if !is_tag {
            return false;
        }
        let delimiter = &rest[..=end];
        self.skip(delimiter.len());
        self.skip_past(delimiter);
        true
    }

    fn word(&mut self) -> Token<'a> {
        let rest = self.rest();
        let word = &rest[..rest.find(|c| !is_of_name(c)).unwrap_or(rest.len())];
        self.skip(word.len());
        // The letter in front says how the string behind is read.
        let escapes = match self.dialect {
            Dialect::Postgres => word.eq_ignore_ascii_case("e"),
            Dialect::MySql => {
                // `_utf8mb4'…'` and `N'…'`.
                word.starts_with('_') || word.eq_ignore_ascii_case("n")
            }
            Dialect::Sqlite => false,
        };
        if escapes && self.rest().starts_with('\'') {
            self.skip_quoted('\'', true);
            while self.dialect == Dialect::Postgres && self.string_goes_on() {
                self.skip_quoted('\'', true);
            }
            return Token::Literal;
        }
        Token::Word(word)
    }

    /// Postgres: a string that begins on another line, with nothing but blanks between, is part of the one before, and
    /// is read by the same rules. Moves to it if there is one.
    fn string_goes_on(&mut self) -> bool {
        let begin = self.at;
        let mut is_on_another_line = false;
        loop {
            let rest = self.rest();
            let blanks = rest.len() - rest.trim_start_matches(is_blank).len();
            is_on_another_line |= rest[..blanks].contains(['\n', '\r']);
            self.skip(blanks);
            if self.rest().starts_with("--") {
                // Its line ends with it.
                self.skip_line();
                is_on_another_line = true;
            } else if blanks == 0 {
                break;
            }
        }
        let goes_on = is_on_another_line && self.rest().starts_with('\'');
        if !goes_on {
            self.at = begin;
        }
        goes_on
    }

    fn number(&mut self) -> Token<'a> {
        let rest = self.rest();
        let end =
            rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_').unwrap_or(rest.len());
        self.skip(end);
        Token::Literal
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = (Token<'a>, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = self.rest();
            let blanks = rest.len() - rest.trim_start_matches(is_blank).len();
            self.skip(blanks);
            if !self.skip_comment() && blanks == 0 {
                break;
            }
        }
        let begin = self.at;
        let rest = self.rest();
        let first = rest.chars().next()?;
        let (mysql, postgres, sqlite) = (
            self.dialect == Dialect::MySql,
            self.dialect == Dialect::Postgres,
            self.dialect == Dialect::Sqlite,
        );
        let token = match first {
            '\'' => {
                self.skip_quoted('\'', mysql);
                Token::Literal
            }
            '"' => {
                self.skip_quoted('"', mysql);
                Token::Literal
            }
            '`' if !postgres => {
                self.skip_quoted('`', false);
                Token::Literal
            }
            '[' if sqlite => {
                self.skip_past("]");
                Token::Literal
            }
            '?' if rest.starts_with("??") => {
                self.skip(2);
                Token::DoubleMark
            }
            '?' => {
                self.skip(1);
                Token::Mark
            }
            '$' if postgres => {
                let digits = rest[1..].bytes().take_while(u8::is_ascii_digit).count();
                if digits > 0 {
                    self.skip(1 + digits);
                    // More than any statement can have: the server will say so.
                    Token::Numbered(rest[1..=digits].parse().unwrap_or(usize::MAX))
                } else if self.skip_dollar_quoted() {
                    Token::Literal
                } else {
                    self.skip(1);
                    Token::Symbol('$')
                }
            }
            ';' => {
                self.skip(1);
                Token::Semicolon
            }
            c if c.is_ascii_digit() => self.number(),
            c if c == '_' || c == '$' || c.is_alphabetic() || !c.is_ascii() => self.word(),
            c => {
                self.skip(c.len_utf8());
                Token::Symbol(c)
            }
        };
        Some((token, begin..self.at))
    }
}

#[cfg(test)]
mod tests;
