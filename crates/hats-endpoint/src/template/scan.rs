//! Where code of a template ends: in the open, in a comment, and with how many commas.
//!
//! What must hold: the text of a string, of a template literal and of a regular expression is no comment. Whether a slash
//! divides or begins a regular expression is told by what stands before it, as nothing short of a parser tells for sure: after
//! `)` and `}` it is taken for a division, and after a word such as `return` for a regular expression, unless the word names a
//! property.

/// Where a scan has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    /// It ends inside of a comment that another block may end.
    pub(super) in_comment: bool,
    /// A comma stands outside of all brackets.
    pub(super) has_comma: bool,
}

/// Words after which an expression begins.
const BEFORE_EXPRESSION: [&str; 12] =
    ["return", "typeof", "case", "in", "delete", "void", "instanceof", "new", "throw", "do", "else", "await"];

/// Looks at the code of a block, which may begin inside of a comment.
pub(super) fn scan(code: &str, in_comment: bool) -> Scanned {
    let mut scan = Scan {
        rest: code,
        before: Before::Operator,
        is_property: false,
        has_comma: false,
        brackets: Vec::new(),
    };
    let in_comment = (in_comment && !scan.skip_past("*/")) || scan.run();
    Scanned { in_comment, has_comma: scan.has_comma }
}

/// What stands before the place that is looked at, comments and spaces apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Something that wants an operand.
    Operator,
    /// Something that is one.
    Operand,
}

struct Scan<'a> {
    rest: &'a str,
    before: Before,
    /// A word that follows is the name of a property.
    is_property: bool,
    has_comma: bool,
    /// What is open: brackets, and `${` of template literals as `$`.
    brackets: Vec<char>,
}

impl Scan<'_> {
    /// True if the code ends inside of a comment.
    fn run(&mut self) -> bool {
        loop {
            self.rest = self.rest.trim_start();
            let Some(first) = self.rest.chars().next() else { return false };
            if self.rest.starts_with("/*") {
                self.rest = &self.rest[2..];
                if !self.skip_past("*/") {
                    return true;
                }
                continue;
            }
            if ["//", "<!--"].iter().any(|begin| self.rest.starts_with(begin)) {
                let end = self.rest.find(['\n', '\r', '\u{2028}', '\u{2029}']);
                self.rest = &self.rest[end.unwrap_or(self.rest.len())..];
                continue;
            }
            self.token(first);
        }
    }

    fn token(&mut self, first: char) {
        let is_property = std::mem::take(&mut self.is_property);
        if ["++", "--"].iter().any(|step| self.rest.starts_with(step)) {
            // Behind an operand it belongs to that.
            self.rest = &self.rest[2..];
            return;
        }
        match first {
            '"' | '\'' => self.quoted(&[first, '\n']),
            '`' => self.literal(),
            '/' if self.before == Before::Operator => self.regular_expression(),
            c if is_of_word(c) => self.word(is_property),
            '.' if self.rest.starts_with("...") => {
                self.rest = &self.rest[3..];
                self.before = Before::Operator;
            }
            // A number may end in it.
            '.' => {
                self.rest = &self.rest[1..];
                self.is_property = true;
            }
            _ => {
                self.rest = &self.rest[first.len_utf8()..];
                let closes = matches!(first, ')' | ']' | '}');
                self.before = if closes { Before::Operand } else { Before::Operator };
                if matches!(first, '(' | '[' | '{') {
                    self.brackets.push(first);
                } else if closes && self.brackets.pop() == Some('$') {
                    self.literal_goes_on();
                } else if first == ',' {
                    self.has_comma |= self.brackets.is_empty();
                }
            }
        }
    }

    fn word(&mut self, is_property: bool) {
        let end = self.rest.find(|c| !is_of_word(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        let begins = !is_property && BEFORE_EXPRESSION.contains(&word);
        self.before = if begins { Before::Operator } else { Before::Operand };
        self.rest = rest;
    }

    /// A string up to its quote, or to the end of its line.
    fn quoted(&mut self, ends: &[char]) {
        self.skip(1, |c, _| ends.contains(&c));
        self.before = Before::Operand;
    }

    fn literal(&mut self) {
        self.rest = &self.rest[1..];
        self.literal_goes_on();
    }

    /// Up to the end of a template literal, or to an expression in it.
    fn literal_goes_on(&mut self) {
        let found = self.skip(0, |c, after| c == '`' || (c == '$' && after.starts_with('{')));
        self.before = Before::Operand;
        if found == Some('$') {
            self.rest = &self.rest[1..];
            self.brackets.push('$');
            self.before = Before::Operator;
        }
    }

    fn regular_expression(&mut self) {
        let mut in_class = false;
        let end = self.skip(1, |c, _| {
            match c {
                '[' => in_class = true,
                ']' => in_class = false,
                _ => {}
            }
            c == '\n' || (c == '/' && !in_class)
        });
        self.before = if end == Some('/') { Before::Operand } else { Before::Operator };
    }

    /// Skips `begin` bytes, and then all up to a character that ends it and is not escaped, and that one.
    fn skip(&mut self, begin: usize, mut ends: impl FnMut(char, &str) -> bool) -> Option<char> {
        let mut chars = self.rest[begin..].chars();
        while let Some(c) = chars.next() {
            if c == '\\' {
                // The two characters of one newline are escaped together.
                if chars.next() == Some('\r') && chars.as_str().starts_with('\n') {
                    chars.next();
                }
            } else if ends(c, chars.as_str()) {
                self.rest = &self.rest[self.rest.len() - chars.as_str().len()..];
                return Some(c);
            }
        }
        self.rest = "";
        None
    }

    /// False if it is not there.
    fn skip_past(&mut self, end: &str) -> bool {
        let after = self.rest.split_once(end).map(|(_, after)| after);
        self.rest = after.unwrap_or_default();
        after.is_some()
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '\u{200c}' | '\u{200d}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_comment_is_told_from_what_looks_like_one() {
        for (code, ends_in_comment) in [
            ("", false),
            ("a /* b", true),
            ("a /* b */ c", false),
            ("a /* b */ c /*", true),
            ("'/*'", false),
            ("\"image/*\"", false),
            ("'it\\'s /*'", false),
            ("'\\\\' /*", true),
            ("`/*`", false),
            ("`${ '/*' }/*`", false),
            ("`${ {a: `/*`} }` /*", true),
            ("`${ a /*", true),
            ("// a /*", false),
            ("// a\n/*", true),
            ("<!-- /*", false),
            ("a = /[/*]/", false),
            ("a = /\\/*/", false),
            ("a(/x/*2)", false),
            ("a / 2 /* half", true),
            ("a / b /*", true),
            ("(a) / b /*", true),
            ("return /[/*]/.test(x)", false),
            ("i++ / (n /* half", true),
            ("t.in / 2 /* half", true),
            ("t?.new / 2 /* half", true),
            ("of / 2 /* half", true),
            ("1./2 /* half", true),
            ("[...x, .../[/*]/.source]", false),
            ("a = ++/[/*]/.lastIndex", false),
            ("'a\\\r\n/*'", false),
            ("'a\\\n/*'", false),
            ("'not closed /*\n/*", true),
            ("'not closed /*", false),
            ("#!$%&/* ä", true),
        ] {
            assert_eq!(scan(code, false).in_comment, ends_in_comment, "{code}");
        }
        assert!(scan("'*' /", true).in_comment);
        assert!(!scan("a */ 'b'", true).in_comment);
        assert!(scan("a */ '/*' /*", true).in_comment);
    }

    #[test]
    fn commas_count_outside_of_brackets() {
        for (code, has_comma) in [
            ("a, b", true),
            ("f(a, b)", false),
            ("[a, b]", false),
            ("{a, b}.a", false),
            ("(a, b)", false),
            ("'a, b'", false),
            ("`a, ${b, c}, d`", false),
            ("`a`, b", true),
            ("/,/.test(a)", false),
            ("Math.max(i++ / (n / 2), 1)", false),
            ("fmt(row.new / (row.all / 100), 1)", false),
            ("f(1./(x/2), 1)", false),
            ("'a\\\r\nb, c'", false),
            ("a /* , */", false),
            ("a // ,", false),
            ("f(a), b", true),
        ] {
            assert_eq!(scan(code, false).has_comma, has_comma, "{code}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_too_odd_to_be_scanned(code in "[a-z/*'\"`$\\{\\}\\[\\]()\\\\\n,ä ]{0,60}", inside: bool) {
            let _ = scan(&code, inside);
        }
    }
}
