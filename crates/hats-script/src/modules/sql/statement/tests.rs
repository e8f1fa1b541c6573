use proptest::prelude::*;

use super::Dialect::{MySql, Postgres, Sqlite};
use super::*;

fn sent(text: &str) -> String {
    Statement::read(Postgres, text).map_or_else(str::to_owned, |statement| statement.text)
}

fn effect(dialect: Dialect, text: &str) -> Effect {
    Statement::read(dialect, text).unwrap().effect
}

#[test]
fn placeholders_become_numbers_outside_of_quotes_and_comments() {
    for (text, expected) in [
        ("SELECT ?", "SELECT $1"),
        ("SELECT ?, ?,?", "SELECT $1, $2,$3"),
        ("SELECT '?' , ?", "SELECT '?' , $1"),
        ("SELECT 'it''s ?', ?", "SELECT 'it''s ?', $1"),
        // Standard strings know no escapes, E'' strings do.
        (r"SELECT '\', ?, '\'", r"SELECT '\', $1, '\'"),
        (r"SELECT E'\'?', ?", r"SELECT E'\'?', $1"),
        (r"SELECT e'\\', ?", r"SELECT e'\\', $1"),
        ("SELECT E'a'\n 'b\\'?', ?", "SELECT E'a'\n 'b\\'?', $1"),
        ("SELECT E'a' -- more\n'b\\'?', ?", "SELECT E'a' -- more\n'b\\'?', $1"),
        ("SELECT typeE'\\', ?", "SELECT typeE'\\', $1"),
        ("SELECT U&'\\', ?", "SELECT U&'\\', $1"),
        (r#"SELECT "a?""b?" , ?"#, r#"SELECT "a?""b?" , $1"#),
        ("SELECT $$ ? $ ? $$, ?", "SELECT $$ ? $ ? $$, $1"),
        ("SELECT $q$ ? $$ ? $Q$ $q$, ?", "SELECT $q$ ? $$ ? $Q$ $q$, $1"),
        ("SELECT $ä1$ ? $ä1$, ?", "SELECT $ä1$ ? $ä1$, $1"),
        ("SELECT a$b$ ?, c$b$", "SELECT a$b$ $1, c$b$"),
        ("SELECT 1 -- ?\n, ?", "SELECT 1 -- ?\n, $1"),
        ("SELECT /* ? */ ?", "SELECT /* ? */ $1"),
        ("SELECT /* /* ? */ ? */ ?", "SELECT /* /* ? */ ? */ $1"),
        ("SELECT /*/ ? */ ?", "SELECT /*/ ? */ $1"),
        ("SELECT 1 -- ?", "SELECT 1 -- ?"),
        ("SELECT '?", "SELECT '?"),
        ("SELECT $a$ ?", "SELECT $a$ ?"),
        ("SELECT /* ?", "SELECT /* ?"),
        ("SELECT a ?? 'b' AND c = ?", "SELECT a ? 'b' AND c = $1"),
        ("SELECT a ??| b, ???", "SELECT a ?| b, ?$1"),
        ("LIMIT?and", "LIMIT $1 and"),
        ("SELECT ?1", "SELECT $1 1"),
        ("SELECT $1, '?' -- ?", "SELECT $1, '?' -- ?"),
        ("SELECT a ?? $1, $2", "SELECT a ? $1, $2"),
        ("SELECT $2 ?? $1 ?? $3", "SELECT $2 ? $1 ? $3"),
        ("SELECT a$1, ?", "SELECT a$1, $1"),
        ("SELECT ?, $1", MIXED),
        ("SELECT 'a\0'", ZERO),
        ("", ""),
        ("ä?ö", "ä $1 ö"),
    ] {
        assert_eq!(sent(text), expected, "{text}");
    }
}

#[test]
fn other_databases_get_the_text_as_it_is() {
    for dialect in [MySql, Sqlite] {
        let statement = Statement::read(dialect, "SELECT ?, '??' ?? $1").unwrap();
        assert_eq!(statement.text, "SELECT ?, '??' ?? $1");
        assert!(statement.placeholders.is_empty());
    }
}

#[test]
fn placeholders_can_be_replaced() {
    let statement = Statement::read(Postgres, "SELECT ?, a ?? b, ?, '$1'").unwrap();
    let replaced = statement.with_placeholders(|n| (n == 2).then(|| "(f($2))".to_owned()));
    assert_eq!(replaced, "SELECT $1, a ? b, (f($2)), '$1'");
    let statement = Statement::read(Postgres, "SELECT $2 ?? $1, $2").unwrap();
    assert_eq!(statement.with_placeholders(|n| Some(format!("<{n}>"))), "SELECT <2> ? <1>, <2>");
}

#[test]
fn what_begins_and_ends_a_transaction_is_known() {
    let begin = Effect::Begin { writes: false };
    let end = Effect::End { commits: true, spoils: false };
    let back = Effect::End { commits: false, spoils: false };
    for (dialect, text, expected) in [
        (Postgres, "begin", begin),
        (Postgres, " /* x */ -- y\n BEGIN ISOLATION LEVEL SERIALIZABLE;", begin),
        (MySql, "/*!50000 START */ TRANSACTION READ ONLY", begin),
        (MySql, "# a comment\nBEGIN", begin),
        (MySql, "BEGIN NOT ATOMIC SELECT 1; END", Effect::Calls),
        (MySql, "CALL p()", Effect::Calls),
        (Postgres, "CALL p()", Effect::Calls),
        (Postgres, "DO $$ BEGIN END $$", Effect::Calls),
        (MySql, "DO SLEEP(1)", Effect::None),
        (MySql, "SELECT set_config(1)", Effect::None),
        (MySql, "START SLAVE", Effect::None),
        (Sqlite, "BEGIN IMMEDIATE", Effect::Begin { writes: true }),
        (Sqlite, ";; BEGIN;", begin),
        (Postgres, "COMMIT", end),
        (Postgres, "COMMIT AND NO CHAIN", end),
        (MySql, "COMMIT RELEASE", Effect::End { commits: true, spoils: true }),
        (Postgres, "END", end),
        (Sqlite, "end transaction", end),
        (MySql, "END", Effect::None),
        (Postgres, "ABORT", back),
        (Postgres, "ROLLBACK", back),
        (Postgres, "ROLLBACK TO SAVEPOINT a", Effect::InTransaction { recovers: true }),
        (Sqlite, "ROLLBACK TRANSACTION TO a", Effect::InTransaction { recovers: true }),
        (Postgres, "COMMIT PREPARED 'a'", Effect::None),
        (Postgres, "PREPARE TRANSACTION 'a'", Effect::End { commits: true, spoils: true }),
        (Postgres, "SET LOCAL search_path = a", Effect::InTransaction { recovers: false }),
        (Postgres, "SAVEPOINT a", Effect::InTransaction { recovers: false }),
        (MySql, "SET GLOBAL max_connections = 5", Effect::None),
        (Postgres, "SELECT 'BEGIN'", Effect::None),
        (Postgres, "\"begin\"", Effect::None),
        (Postgres, "UPDATE t SET a = 1", Effect::None),
        (Postgres, "CREATE TABLE temp (temp int)", Effect::None),
        (Postgres, "INSERT INTO temp SELECT 1", Effect::None),
        (Postgres, "SELECT get_lock('a', 1)", Effect::None),
        (Postgres, "SELECT pg_advisory_xact_lock(1)", Effect::None),
        (Sqlite, "CREATE TRIGGER a AFTER INSERT ON t BEGIN DELETE FROM u; END", Effect::None),
        (Postgres, "", Effect::None),
        (MySql, "SELECT 5--1", Effect::None),
    ] {
        assert_eq!(effect(dialect, text), expected, "{dialect:?} {text}");
    }
}

#[test]
fn what_outlasts_a_statement_is_known() {
    for (dialect, text) in [
        (Postgres, "SET search_path = a"),
        (Postgres, "set session characteristics as transaction read only"),
        (Postgres, "RESET ALL"),
        (Postgres, "DISCARD ALL"),
        (Postgres, "CREATE TEMP TABLE a (b int)"),
        (Postgres, "CREATE OR REPLACE TEMPORARY VIEW a AS SELECT 1"),
        (Postgres, "SELECT 1 INTO TEMP a"),
        (Postgres, "SELECT pg_advisory_lock(1)"),
        (Postgres, "SELECT pg_catalog.Pg_Try_Advisory_Lock(1)"),
        (Postgres, "SELECT set_config('a.b', 'c', false)"),
        (Postgres, "PREPARE a AS SELECT 1"),
        (Postgres, "DECLARE a CURSOR FOR SELECT 1"),
        (MySql, "SET @a = 1"),
        (MySql, "SET autocommit = 0"),
        (MySql, "USE other"),
        (MySql, "LOCK TABLES a WRITE"),
        (MySql, "FLUSH TABLES WITH READ LOCK"),
        (MySql, "CREATE TEMPORARY TABLE a (b int)"),
        (MySql, "SELECT GET_LOCK('a', 10)"),
        (Sqlite, "CREATE TEMP TABLE a (b)"),
    ] {
        assert!(matches!(effect(dialect, text), Effect::Session(_)), "{dialect:?} {text}");
    }
    for (dialect, text) in [
        (Postgres, "LISTEN a"),
        (Postgres, "COPY a FROM STDIN"),
        (Postgres, "COMMIT AND CHAIN"),
        (Postgres, "BEGIN; INSERT INTO a VALUES (1); COMMIT"),
        (MySql, "SET @a = 1; SELECT 1"),
        (Sqlite, "ATTACH 'x' AS y"),
    ] {
        assert!(matches!(effect(dialect, text), Effect::Refused(_)), "{dialect:?} {text}");
    }
    assert!(matches!(effect(Postgres, "COPY a FROM '/file'"), Effect::None));
}

/// Pieces of which statements are made: how each is written, and how many placeholders it has.
fn piece() -> impl Strategy<Value = (String, usize)> {
    prop_oneof![
        Just((" ? ".to_owned(), 1)),
        Just((" ?? ".to_owned(), 0)),
        "[a-z_ ,()=+]{0,8}".prop_map(|text| (format!(" {text} "), 0)),
        "[^'\\\\\0]{0,8}".prop_map(|text| (format!("'{text}'"), 0)),
        "[?'\\\\ a]{0,8}"
            .prop_map(|text| (format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")), 0)),
        "[^\"\0]{0,8}".prop_map(|text| (format!(" \"{text}\" "), 0)),
        "[?'\" $a-]{0,8}".prop_map(|text| (format!(" $tag${text}$tag$ "), 0)),
        "[?'\"$a ]{0,8}".prop_map(|text| (format!(" --{text}\n"), 0)),
        "[?'\"$a ]{0,8}".prop_map(|text| (format!(" /*{text}/*{text}*/{text}*/ "), 0)),
    ]
}

proptest! {
    /// Whatever stands around them, each `?` becomes the next number and nothing else changes.
    #[test]
    fn every_placeholder_and_nothing_else_is_rewritten(pieces in prop::collection::vec(piece(), 0..12)) {
        // A string right behind a string is one string with a quote inside.
        let text: String = pieces.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join(" ");
        let expected: usize = pieces.iter().map(|(_, marks)| marks).sum();
        let statement = Statement::read(Postgres, &text).unwrap();
        let numbers: Vec<usize> = statement.placeholders.iter().map(|(_, n)| *n).collect();
        prop_assert_eq!(numbers, (1..=expected).collect::<Vec<_>>());
        let back = statement.with_placeholders(|_| Some("?".to_owned()));
        let literal = pieces.iter().map(|(text, _)| if text == " ?? " { " ? " } else { text.as_str() });
        prop_assert_eq!(back, literal.collect::<Vec<_>>().join(" "));
    }

    #[test]
    fn any_text_can_be_read(text in any::<String>()) {
        for dialect in [MySql, Postgres, Sqlite] {
            if let Ok(statement) = Statement::read(dialect, &text) {
                for (place, n) in &statement.placeholders {
                    prop_assert_eq!(&statement.text[place.clone()], format!("${n}"));
                }
            }
        }
    }

    #[test]
    fn hardly_any_text_can_be_read(text in "[?$'\"/*\\-eE1a\\\\ \n;#`\\[\\]ä]{0,40}") {
        for dialect in [MySql, Postgres, Sqlite] {
            if let Ok(statement) = Statement::read(dialect, &text) {
                let _ = statement.with_placeholders(|n| Some(n.to_string()));
            }
        }
    }
}
