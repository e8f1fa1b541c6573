//! Templates: pages of text with blocks of code, each compiled to one script.
//!
//! ```text
//! <ul><? for (const row of rows) { ?>      →  ($=>()=>{$(0,4); for (const row of rows) { …
//!   <li><?= row.name ?></li>               →  $(39,47);{$.e= row.name }…
//! ```
//!
//! Text is sent as it is, a newline after `?>` included; `<? … ?>` is JavaScript; `<?= … ?>` writes what an expression comes to,
//! escaped for HTML; `<??` writes `<?`; and `<?xml` is text. All blocks of a page are one function, so that its variables are
//! seen in the blocks to come and in no other page, `return` ends the page, and `await` may be used everywhere in it.
//!
//! What must hold:
//! - The lines of the script are the lines of the source, so that an error says where the author finds it. So are the columns,
//!   wherever the text before a block leaves the room for what stands in its place.
//! - No text of the source is in the script. The script says by their bounds which pieces are to be written, so that no text can
//!   be taken for code.
//! - What writes the text has a name that stands in no block: a page can neither hide nor replace it by accident.
//! - A piece of text is one statement, whatever the block before it ends with: a comment, a statement without its semicolon, or
//!   `if (x)`, whose body it then is.
//!
//! Two oddities of the language's scanner, as this engine has it, are used where a line cannot be ended: a line separator
//! (U+2028) ends a comment that runs to the end of a line, and in a comment it counts as a newline where a semicolon is left
//! out; in neither case does it begin a new line in what errors say.

mod scan;

use std::collections::HashSet;
use std::ops::Range;

use hats_script::{Limits, Page};

use self::scan::scan;

/// Ends a comment that would run to the end of the line, should the code end in one.
const END_COMMENT: &str = "//\u{2028}";
/// Stands for a newline between two statements.
const NEWLINE: &str = "/*\u{2028}*/";

/// Why a source is no template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A block has no end.
    #[error("line {line}: the block that begins here with <? is not closed: ?> is missing")]
    Unclosed {
        /// Where it begins, counted from 1.
        line: usize,
    },
    /// Nothing stands in a block whose value is to be written.
    #[error("line {line}: <?= ?> has no expression whose value could be written")]
    Empty {
        /// Where it begins, counted from 1.
        line: usize,
    },
    /// Two expressions stand where one is written.
    #[error(
        "line {line}: <?= ?> writes one expression, and a comma stands in it: write two blocks, or put it into parentheses"
    )]
    Comma {
        /// Where it begins, counted from 1.
        line: usize,
    },
    /// A block is meant for another language.
    #[error("line {line}: <?php begins no block: pages are written in JavaScript, between <? and ?>")]
    Php {
        /// Where it begins, counted from 1.
        line: usize,
    },
}

/// Makes a page of a template. `file` stands in stack traces.
///
/// # Errors
/// When the source is no template. Whether its code is JavaScript is found at the first request.
pub fn page(file: &str, source: &str, limits: Limits) -> Result<Page, TemplateError> {
    Ok(Page::script(file, compile(source)?.into(), limits).text(source))
}

/// Compiles a page of text and `<? code ?>` to one script, in the form that [`Page::script`] wants. Lines of the script are lines
/// of the source, so that errors name them.
///
/// # Errors
/// When a block is not closed, or is none.
pub fn compile(source: &str) -> Result<String, TemplateError> {
    let pieces = pieces(source)?;
    let code = || pieces.iter().filter_map(|piece| piece.code(source));
    let write = unused_name(code());
    let is_async = code().any(|code| code.contains("await"));
    let mut script = Script::new(source, write, is_async);
    for piece in &pieces {
        match piece {
            Piece::Text(bounds) => script.text(bounds),
            Piece::Code(block) => script.code(block),
            Piece::Value(block) => script.value(block),
        }
    }
    Ok(script.finish())
}

/// A part of a page, with where it stands in the source.
enum Piece {
    /// What is to be written: several parts where something between them is not.
    Text(Vec<Range<usize>>),
    Code(Block),
    Value(Block),
}

/// The code of a block.
struct Block {
    bounds: Range<usize>,
    /// It ends inside of a comment, which may end in a block to come.
    in_comment: bool,
}

impl Piece {
    fn code<'a>(&self, source: &'a str) -> Option<&'a str> {
        match self {
            Self::Text(_) => None,
            Self::Code(block) | Self::Value(block) => Some(&source[block.bounds.clone()]),
        }
    }
}

/// Text and blocks in turn; between two blocks there is always a text, if only an empty one.
fn pieces(source: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut text = Vec::new();
    // Where the text begins that has not been taken yet, and where to look for a block.
    let (mut begin, mut look) = (0, 0);
    let mut in_comment = false;
    while let Some(at) = source[look..].find("<?").map(|found| look + found) {
        let inner = at + 2;
        let rest = &source[inner..];
        if rest.starts_with("xml") {
            look = inner;
        } else if rest.starts_with('?') {
            text.push(begin..inner);
            (begin, look) = (inner + 1, inner + 1);
        } else {
            let line = || source[..at].matches('\n').count() + 1;
            if is_php(rest) {
                return Err(TemplateError::Php { line: line() });
            }
            let end = inner + rest.find("?>").ok_or_else(|| TemplateError::Unclosed { line: line() })?;
            text.push(begin..at);
            pieces.push(Piece::Text(std::mem::take(&mut text)));
            let is_value = rest.starts_with('=');
            let bounds = inner + usize::from(is_value)..end;
            let code = &source[bounds.clone()];
            let scanned = scan(code, in_comment);
            if is_value && !in_comment {
                if code.trim().is_empty() {
                    return Err(TemplateError::Empty { line: line() });
                }
                if scanned.has_comma {
                    return Err(TemplateError::Comma { line: line() });
                }
            }
            in_comment = scanned.in_comment;
            let block = Block { bounds, in_comment };
            pieces.push(if is_value { Piece::Value(block) } else { Piece::Code(block) });
            (begin, look) = (end + 2, end + 2);
        }
    }
    text.push(begin..source.len());
    pieces.push(Piece::Text(text));
    Ok(pieces)
}

fn is_php(block: &str) -> bool {
    let (word, rest) = block.split_at_checked(3).unwrap_or_default();
    word.eq_ignore_ascii_case("php") && rest.chars().next().is_none_or(char::is_whitespace)
}

/// A short name that stands nowhere in the code, be it in a string that the code may yet evaluate. The code is read once,
/// however many of the names it uses.
fn unused_name<'a>(code: impl Iterator<Item = &'a str>) -> String {
    let mut is_short_used = false;
    let mut numbers = HashSet::new();
    for code in code {
        for (at, dollar) in code.match_indices('$') {
            let rest = &code[at + dollar.len()..];
            if code[..at].chars().next_back().is_some_and(is_of_name) {
                continue;
            }
            if !rest.chars().next().is_some_and(is_of_name) {
                is_short_used = true;
            } else if let Some(number) = rest.strip_prefix('w').and_then(leading_number) {
                numbers.insert(number);
            }
        }
    }
    if !is_short_used {
        return "$".to_owned();
    }
    // One of as many names as there are numbers, and one more, is unused.
    let unused = (0..=numbers.len()).find(|number| !numbers.contains(number)).unwrap_or_default();
    format!("$w{unused}")
}

/// The number that a name ends in, if its rest is one as [`unused_name`] writes it.
fn leading_number(rest: &str) -> Option<usize> {
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, rest) = rest.split_at(end);
    let is_written_so = digits == "0" || !digits.starts_with('0');
    if !is_written_so || rest.chars().next().is_some_and(is_of_name) {
        return None;
    }
    // None of more digits than a number has is ever needed.
    digits.parse().ok()
}

/// Whether a character can be part of a name.
fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '\u{200c}' | '\u{200d}')
}

struct Script<'a> {
    source: &'a str,
    /// The name of what writes.
    write: String,
    script: String,
    /// Where the line begins that is being written.
    line_start: usize,
    /// The code to which nothing has been appended yet.
    last: &'a str,
    /// The code so far ends inside of a comment, which may end in a block to come.
    in_comment: bool,
    /// Where the line of the source begins on which the last block stands, and where that was looked for last.
    source_line: (usize, usize),
}

impl<'a> Script<'a> {
    fn new(source: &'a str, write: String, is_async: bool) -> Self {
        let keyword = if is_async { "async" } else { "" };
        let script = format!("({write}=>{keyword}()=>{{");
        Self { source, write, script, line_start: 0, last: "", in_comment: false, source_line: (0, 0) }
    }

    /// Writes what a piece of text becomes. The next block begins at its end, behind `<?` or `<?=`.
    fn text(&mut self, bounds: &[Range<usize>]) {
        let (Some(first), Some(last)) = (bounds.first(), bounds.last()) else { return };
        let newlines = self.source[first.start..last.end].matches('\n').count();
        let mut arguments = bounds.iter().filter(|bounds| !bounds.is_empty()).peekable();
        if arguments.peek().is_none() {
            self.end_code();
            return;
        }
        let arguments: Vec<String> =
            arguments.map(|bounds| format!("{},{}", bounds.start, bounds.end)).collect();
        // A newline ends the code as well as anything. But what follows it on its line moves the code to come.
        let ends_line = newlines >= 2 || (newlines == 1 && self.in_comment);
        if ends_line {
            self.last = "";
            self.newlines(1);
        } else {
            self.end_code();
        }
        self.script.push_str(&format!("{}({});", self.write, arguments.join(",")));
        self.newlines(newlines - usize::from(ends_line));
    }

    fn code(&mut self, block: &Block) {
        self.align(block.bounds.start, 0);
        self.take(block);
    }

    fn value(&mut self, block: &Block) {
        let assignment = format!("{{{}.e=", self.write);
        self.align(block.bounds.start, assignment.len());
        self.script.push_str(&assignment);
        self.take(block);
        if may_end_in_line_comment(self.last) {
            self.script.push_str(END_COMMENT);
        }
        self.script.push('}');
        self.last = "";
    }

    /// Writes a part of the source as it is.
    fn take(&mut self, block: &Block) {
        let code = &self.source[block.bounds.clone()];
        if let Some(newline) = code.rfind('\n') {
            self.line_start = self.script.len() + newline + 1;
        }
        self.script.push_str(code);
        self.in_comment = block.in_comment;
        self.last = code;
    }

    /// Sees to it that a statement can follow the code.
    fn end_code(&mut self) {
        let last = std::mem::take(&mut self.last);
        if last.trim().is_empty() && !self.in_comment {
            return;
        }
        if self.in_comment {
            return;
        }
        let in_line_comment = may_end_in_line_comment(last);
        if in_line_comment {
            self.script.push_str(END_COMMENT);
        }
        if in_line_comment || !last.trim_end().ends_with(['{', ';']) {
            self.script.push_str(NEWLINE);
        }
    }

    fn newlines(&mut self, count: usize) {
        if count > 0 {
            self.script.extend(std::iter::repeat_n('\n', count));
            self.line_start = self.script.len();
        }
    }

    /// Spaces up to the column of the source at `at`, less what comes before it, if that is not passed yet.
    fn align(&mut self, at: usize, less: usize) {
        let (before, looked) = self.source_line;
        let line_start = self.source[looked..at].rfind('\n').map_or(before, |newline| looked + newline + 1);
        self.source_line = (line_start, at);
        let spaces = (at - line_start).saturating_sub(self.script.len() - self.line_start + less);
        self.script.extend(std::iter::repeat_n(' ', spaces));
    }

    fn finish(mut self) -> String {
        self.end_code();
        self.script.push_str("})");
        self.script
    }
}

/// Whether the last line has what begins a comment that runs to its end. In a string it begins none.
fn may_end_in_line_comment(code: &str) -> bool {
    let line = code.rsplit('\n').next().unwrap_or_default();
    ["//", "<!--", "-->"].iter().any(|begin| line.contains(begin))
}

#[cfg(test)]
mod tests;
