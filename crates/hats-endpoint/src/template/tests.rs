//! Templates by what they come to: each is run.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hats_script::{
    BoxFuture, EnvOverlay, Kind, Lanes, LanesConfig, PageRequest, ScriptError, TaskControl, WorkerInfo,
};
use proptest::prelude::*;

use super::*;

struct Fake;

impl TaskControl for Fake {
    fn name(&self) -> &str {
        "/page"
    }
    fn kind(&self) -> Kind {
        Kind::Endpoint
    }
    fn key(&self) -> &str {
        "default:Endpoints:/page"
    }
    fn epoch(&self) -> u64 {
        0
    }
    fn trusted_for(&self) -> Duration {
        Duration::MAX
    }
    fn stopped(&self) -> bool {
        false
    }
    fn disable(&self) -> BoxFuture<Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
    fn state(&self) -> BoxFuture<Result<String, String>> {
        Box::pin(async { Ok(String::new()) })
    }
    fn status(&self) -> BoxFuture<Result<String, String>> {
        self.state()
    }
}

impl WorkerInfo for Fake {
    fn name(&self) -> &str {
        "w1"
    }
    fn cluster(&self) -> &str {
        "default"
    }
    fn shutting_down(&self) -> bool {
        false
    }
    fn healthy(&self) -> bool {
        true
    }
}

/// What the page sends, or with what it fails.
fn try_render(source: &str) -> Result<String, ScriptError> {
    static WORKER: OnceLock<(tokio::runtime::Runtime, Lanes)> = OnceLock::new();
    let (runtime, lanes) = WORKER.get_or_init(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let lanes = runtime.block_on(async {
            Lanes::start(&LanesConfig {
                warm_bytes: LanesConfig::WARM_BYTES,
                preemption: Default::default(),
                count: 1,
                worker: Arc::new(Fake),
                env: EnvOverlay::default(),
                http: None,
                redis: None,
                sql: None,
                preload: Arc::default(),
                on_turn: Arc::new(|_| {}),
            })
            .unwrap()
        });
        (runtime, lanes)
    });
    let page = Arc::new(page("/page", source, Limits::default()).unwrap());
    let (_, answered) = lanes.answer(&page, Arc::new(Fake), PageRequest::default());
    let response = runtime.block_on(answered).unwrap()?;
    Ok(String::from_utf8(response.body).unwrap())
}

#[track_caller]
fn check(source: &str, expected: &str) {
    match try_render(source) {
        Ok(sent) => assert_eq!(sent, expected, "{source}\n{}", compile(source).unwrap()),
        Err(error) => panic!("{source}\n{}\n{error}", compile(source).unwrap()),
    }
}

/// The error of a page, up to its first frame.
#[track_caller]
fn check_error(source: &str, expected: &str) {
    let error = try_render(source).unwrap_err().to_string();
    let error: Vec<&str> = error.lines().map(str::trim).take(2).collect();
    assert_eq!(error.join(" "), expected, "{}", compile(source).unwrap());
}

#[test]
fn text_is_sent_as_it_is() {
    for text in [
        "",
        "plain",
        "100 % {} %s %d \\n ${x} `",
        "a\r\nb\nc\rd\r\n",
        "a\0b",
        "ünï 🦀 \u{2028}\u{feff}",
        "</script> ?> <? x".split("<?").next().unwrap(),
        "\"quotes\" 'and' \\ backslashes */ // /*",
        "<",
        "?>",
        "< ?",
    ] {
        check(text, text);
        check(&format!("{text}<? ?>{text}"), &format!("{text}{text}"));
    }
}

#[test]
fn a_newline_after_a_block_stays() {
    check("a<? ?>\nb", "a\nb");
    check("a<? ?>\r\n<? ?>\n\n", "a\r\n\n\n");
}

#[test]
fn blocks_run_in_order_in_one_scope() {
    check("<? var a = 1; let b = 2; const c = 3 ?>x<? function f() { return a + b + c } ?><?= f() ?>", "x6");
    check("<?= f() ?><? function f() { return 'hoisted' } ?>", "hoisted");
    check("<? response.Write('<b>') ?>x<? response.Write('</b>') ?>", "<b>x</b>");
    check("<?= typeof globalThis ?><?= this === globalThis ?>", "objecttrue");
}

#[test]
fn control_flow_spans_blocks() {
    check("<? for (let i = 0; i < 3; i++) { ?>row<? } ?>", "rowrowrow");
    check("<? for (const x of [1, 2]) { ?>\n<li><?= x ?></li><? } ?>\n", "\n<li>1</li>\n<li>2</li>\n");
    check("<? if (true) { ?>yes<? } else { ?>no<? } ?>", "yes");
    check("<? if (false) { ?>\nyes\n<? } else { ?>\nno\n<? } ?>", "\nno\n");
    check("<? [1, 2].forEach(function (x) { ?>(<?= x ?>)<? }) ?>", "(1)(2)");
    check("<? try { ?>a<? throw 1 } catch { ?>b<? } finally { ?>c<? } ?>", "abc");
    check("<? switch (2) { case 1: ?>one<? break; case 2: ?>two<? } ?>", "two");
    check("<? do { ?>once<? } while (false) ?>", "once");
}

#[test]
fn a_piece_of_text_is_one_statement() {
    check("<? if (true) ?>yes<? else ?>no", "yes");
    check("<? if (false) ?>yes<?? sir<? else ?>no", "no");
    check("<? if (false) ?>\nyes\n<? else ?>\nno", "\nno");
    check("<? if (false) ?>\nyes<? else ?>no", "no");
    check("<? if (false) ?><?= 'yes' ?><? else ?><?= 'no' ?>", "no");
    check("<? for (let i = 0; i < 2; i++) ?>x<? for (const y of '12') ?><?= y ?>.", "xx12.");
    check("<? let n = 2; while (n--) ?>\nx", "\nx\nx");
    check("<? let n = 0; do ?>x<? while (++n < 3) ?>", "xxx");
    // A comment that ends with the block hides none of what follows.
    check("<? if (true) // so ?>yes<? else // not ?>no<? // end ?>", "yes");
}

#[test]
fn semicolons_may_be_left_out() {
    check("<? let a = 1 ?>x<? a = a + 1 ?><? a++ ?>y<?= a ?>", "xy3");
    check("<? let a = 1 ?><? a++ ?><? a++ ?><?= a ?>", "3");
    check("<? let f = () => 5 ?>(<?= f() ?>)", "(5)");
    check("<? let o = {a: 1} ?>x<?= o.a ?>", "x1");
    check("<? let o = {a: 1} ?><?= o.a ?>", "1");
    check("<? let r = /x/g ?>y<?= r ?>", "y/x/g");
}

#[test]
fn a_comment_ends_with_its_block() {
    check("a<? // comment ?>b<? /* comment */ ?>c<? //?>d", "abcd");
    check(
        "<? let x = 1 // one ?>a<?= x // the value ?>b<?= x /* it */ ?>c<?= 'http://x' ?>",
        "a1b1chttp://x",
    );
    check("<? <!-- old ?>a<? let x = 1 <!-- old ?>b<?= x <!-- old ?>", "ab1");
    check("<?\n// comment\n?>a<?\nlet x = 1 // comment ?>\nb<?= x\n// comment\n?>", "a\nb1");
}

#[test]
fn a_comment_may_span_blocks() {
    check("a<? /* ?>b<?= nothing ?>c */ d<? nothing( */ ?>e", "ae");
    check("a<? /*\n?>\nb\n<? x ?>\n<? */ ?>e<? let x = 1 ?>f", "aef");
    // What only looks like it, and is no statement of its own.
    check("<? const t = 'image/*' ?><? if (false) ?>secret<? else ?>none", "none");
    check("<? const t = \"/api/*\" ?><? if (false) ?><?= 'secret' ?><? for (const x of [1, 2]) ?>x", "xx");
    check("<? const t = /[/*]/ ?><? while (false) ?>secret", "");
    // What only looks like it, and would hide what follows.
    check("<? let type = '*/*' ?>a<? let x = 1 ?>b<?= x ?>\nc\n<? x++ ?><?= x ?>", "ab1\nc\n2");
    check("a<? /* ?><?= x, y ?><?= ?><? */ ?>b", "ab");
    check_error("a\n<? /* ?>b\n", "SyntaxError: unexpected end of comment at /page:2:4");
}

#[test]
fn values_are_written_as_html_that_shows_them() {
    check("<?= '<b title=\"x\">&\\'</b>' ?>", "&lt;b title=&quot;x&quot;&gt;&amp;&#39;&lt;/b&gt;");
    check("<?= 1 ?>,<?= 1.5 ?>,<?= -0 ?>,<?= 10n ?>,<?= true ?>,<?= NaN ?>", "1,1.5,0,10,true,NaN");
    check("[<?= null ?><?= undefined ?><?= '' ?>]", "[]");
    check("<?= [1, 'a'] ?> <?= {a: [null]} ?>", "[1,&quot;a&quot;] {&quot;a&quot;:[null]}");
    check(
        "<?= new URL('http://x/?a&b') ?> <?= new Date(0).toISOString() ?>",
        "http://x/?a&amp;b 1970-01-01T00:00:00.000Z",
    );
    check("<?= 'ü🦀\\ud800' ?>", "ü🦀\u{fffd}");
    let error = try_render("<?= Symbol('x') ?>").unwrap_err().to_string();
    let begins = "TypeError: <?= ?>: a symbol cannot be written\n    at <?= ?> (worker:";
    assert!(error.starts_with(begins), "{error}");
    assert!(error.trim_end().ends_with("\n    at <anonymous> (/page:1:15)"), "{error}");
}

#[test]
fn a_value_is_one_expression_however_it_ends() {
    check("<?=1?>", "1");
    check("<?= 1; ?><?= 2 ; // two ?><?=3;;?>", "123");
    check("<?= (1, 2) ?><?= [1, 2].length ?><?= ((a, b) => a + b)(1, 2) ?>", "223");
    check("<?= {a: 1}.a ?>", "1");
    check("<?= function () {} ? 'f' : '' ?>", "f");
    check("<?= true\n  ? 'a'\n  : 'b'\n?>", "a");
    check("<?= `a${1}b` ?>", "a1b");
    check("<?= x = 5 ?><?= x ?>", "55");
}

#[test]
fn the_first_end_ends_a_block_even_inside_a_string() {
    assert!(try_render("<? const a = '?>'; ?>").is_err());
    check("<? const a = '?' + '>' ?><?= a ?>", "?&gt;");
}

#[test]
fn what_begins_no_block() {
    check("<?xml version=\"1.0\"?>\n<a/>", "<?xml version=\"1.0\"?>\n<a/>");
    check("<?xml-stylesheet ?><?= 1 ?>", "<?xml-stylesheet ?>1");
    check("a<??b", "a<?b");
    check("<??", "<?");
    check("<???>", "<??>");
    check("<??= 1 ?>", "<?= 1 ?>");
    check("<??<??php<?= 1 ?><??", "<?<?php1<?");
}

#[test]
fn a_page_ends_with_return_and_waits_with_await() {
    check("a<? return ?>b", "a");
    check("a<? if (true) { response.Write('x'); return } ?>b", "ax");
    check("a<? await null ?>b<?= await Promise.resolve('c') ?>", "abc");
    check("a<? await new Promise(done => setTimeout(done, 5)) ?>b", "ab");
}

#[test]
fn a_page_cannot_lose_what_writes_its_text() {
    check("<? var $ = 1, $w0 = 2; response.Write = null ?>a<?= $ ?>b<?= $w0 ?>", "a1b2");
    check("<? response = null ?>a<?= 1 ?>", "a1");
    check("<? globalThis.$ = null; eval('var $w0') ?>a<?= 1 ?>", "a1");
    check("<? const $$ = 5 ?>a<?= `${$$}` ?>", "a5");
    check("<? Object.prototype.e = 1; Function.prototype.call = null ?>a<?= 1 ?>", "a1");
}

#[test]
fn a_block_that_is_wrong_is_told_with_its_line() {
    for (source, expected) in [
        ("a\nb <? x", TemplateError::Unclosed { line: 2 }),
        ("<? a ?>\r\n\r\n<?= b", TemplateError::Unclosed { line: 3 }),
        ("<?", TemplateError::Unclosed { line: 1 }),
        ("a\n<?", TemplateError::Unclosed { line: 2 }),
        ("<?=", TemplateError::Unclosed { line: 1 }),
        ("\n<?= ?>", TemplateError::Empty { line: 2 }),
        ("<?=?>", TemplateError::Empty { line: 1 }),
        ("\n<?= a, b ?>", TemplateError::Comma { line: 2 }),
        ("\n\n<?php echo 1; ?>", TemplateError::Php { line: 3 }),
        ("<?PHP\necho 1", TemplateError::Php { line: 1 }),
        ("<?php", TemplateError::Php { line: 1 }),
    ] {
        assert_eq!(compile(source).map(drop), Err(expected), "{source}");
    }
    assert_eq!(
        compile("\n<?").unwrap_err().to_string(),
        "line 2: the block that begins here with <? is not closed: ?> is missing"
    );
    // Names that only begin like it.
    check("<? var php = 1, phpx = 2 ?><?php?><?phpx ?>", "");
}

#[test]
fn errors_say_where_the_author_finds_them() {
    let at = |line, column| format!("Error: here at <anonymous> (/page:{line}:{column})");
    for (source, line, column) in [
        ("<p>\n<? throw new Error('here') ?>", 2, 14),
        ("<p>some text before <? throw new Error('here') ?>", 1, 34),
        ("a\r\nb\r\n  <?\r\n  throw new Error('here')\r\n?>", 4, 13),
        ("<? if (true) { ?>\n\n  x\n<? } ?>\n<? throw new Error('here') ?>", 5, 14),
        ("<? if (true) { ?>\n<? } throw new Error('here') ?>", 2, 16),
        ("<?\n\n\n?><? let a = 1 // x ?>abc defg hijk lmno pqrs tuvw<? throw new Error('here') ?>", 4, 64),
        ("ünïcödé <i>\n🦀🦀🦀🦀 <? throw new Error('here') ?>", 2, 31),
        ("<?\n/* ?>\ntext\n<? */ ?>\n<?= 1 ?>\n<? throw new Error('here') ?>", 6, 14),
    ] {
        check_error(source, &at(line, column));
    }
    check_error("a\n\n<? let x = ; ?>", "SyntaxError: unexpected token in expression: ';' at /page:3:12");
    check_error("a\n\n  <?= y.z ?>", "ReferenceError: y is not defined at <anonymous> (/page:3:7)");
    check_error(
        "\n<? function f() {\n throw 1.5.x.y } ?>\n<? f() ?>",
        "TypeError: cannot read property 'y' of undefined at f (/page:3:8)",
    );
    // What is not closed is found at the end.
    check_error(
        "a\n<? if (true) { ?>\nb\n\n",
        "SyntaxError: unexpected token in expression: ')' at /page:5:2",
    );
    check_error("a\n<? } ?>b", "SyntaxError: Unexpected identifier '$' at /page:2:13");
    check_error("a\n<? a\0 ?>", "SyntaxError: the source contains a NUL character at /page");
}

#[test]
fn an_unhandled_rejection_is_an_error_of_the_page() {
    let error = try_render("a\n<? Promise.reject(new Error('left')) ?>").unwrap_err().to_string();
    assert!(error.starts_with("unhandled rejection: Error: left\n    at <anonymous> (/page:2:"), "{error}");
}

/// Text in which nothing begins a block.
fn text() -> impl Strategy<Value = String> {
    let odd = prop::sample::select(vec![
        "<", "?", ">", "?>", "\n", "\r\n", "\r", "\0", "*/", "/*", "//", "%", "\\", "`", "${", "\u{2028}",
        "é", "🦀",
    ]);
    let part = prop_oneof![3 => odd.prop_map(str::to_owned), 1 => any::<String>()];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat().replace("<?", "< ?"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn text_without_blocks_comes_through_byte_for_byte(text in text()) {
        prop_assert_eq!(try_render(&text).unwrap(), text);
    }

    #[test]
    fn text_comes_through_between_any_blocks(
        texts in prop::collection::vec(text(), 1..6),
        blocks in prop::collection::vec(prop::sample::select(vec![
            (" ", ""), ("\n", ""), (" x = 1 ", ""), (" var y = 1 // y", ""), (" { } /* c */", ""), ("= 'v' ", "v"),
            ("= 5; // five", "5"), (" if (true) ", ""), (" for (var i = 0; i < 1; i++) ", ""), (" '*/*' ", ""), ("?", "<?"),
        ]), 5),
    ) {
        let (mut source, mut expected) = (String::new(), String::new());
        for (n, text) in texts.iter().enumerate() {
            let (code, written) = blocks[n % blocks.len()];
            // A piece may not become a block with what precedes it.
            let text = text.trim_start_matches(['x', 'm', 'l', '?', '>']);
            source += text.trim_end_matches('<');
            expected += text.trim_end_matches('<');
            source += &if code == "?" { "<??".to_owned() } else { format!("<?{code}?>") };
            expected += written;
        }
        source += ".";
        expected += ".";
        prop_assert_eq!(try_render(&source).unwrap(), expected);
    }

    #[test]
    fn lines_of_the_script_are_lines_of_the_source(
        texts in prop::collection::vec(text(), 1..6),
        code in prop::sample::select(vec![" let a = 1 ", "\n", "= 1 ", " // x ", " '*/*' ", " if (1) "]),
    ) {
        let mut source = String::new();
        for (n, text) in texts.iter().enumerate() {
            source += &text.replace('<', "");
            source += &format!("<?{}?>", code.replace("let a", &format!("let a{n}")));
        }
        let line = source.matches('\n').count() + 1;
        source += "x<? throw new Error('here') ?>\n";
        let error = try_render(&source).unwrap_err().to_string();
        prop_assert!(error.contains(&format!("(/page:{line}:")), "{source:?}\n{error}");
    }
}

#[test]
fn a_page_with_a_hundred_thousand_names_like_ours_compiles() {
    // To look for each name in the whole page takes minutes.
    let names: String = (0..112_000).map(|n| format!("$w{n} ")).collect();
    let source = format!("a<? /* $ {names}*/ ?>b");
    assert!(source.len() > 879_000, "{}", source.len());
    assert!(compile(&source).unwrap().starts_with("($w112000=>"));
}

#[test]
fn a_name_is_used_where_it_stands_alone() {
    for (code, expected) in [
        ("", "$"),
        ("$x a$ $$ $1 $\u{e4} \u{e4}$ $\u{200c} b.$w0 '$w1'", "$"),
        ("$", "$w0"),
        ("'$'", "$w0"),
        ("$;$w0", "$w1"),
        ("$;$w1;$w0;$w3", "$w2"),
        ("$;$w00 $w0x x$w0 $$w0 $w0$ $w $w\u{e4}", "$w0"),
        ("$;$w99999999999999999999999 $w0", "$w1"),
        ("$.a=$w0+$w1", "$w2"),
    ] {
        assert_eq!(unused_name([code].into_iter()), expected, "{code}");
        let split = code.split_inclusive(' ');
        assert_eq!(unused_name(split), expected, "{code}");
    }
}
