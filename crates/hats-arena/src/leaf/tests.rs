//! Values of scripts that do what they can to be asked.

use proptest::prelude::*;

use super::*;
use crate::{Interpreter, Limits};

const LIMITS: Limits =
    Limits { memory: 16 << 20, stack: 256 << 10, native_stack: 256 << 10, gc_threshold: 256 << 10 };

/// Evaluates a source and looks at its value, while a host function would run.
fn with<R>(source: &str, look: impl FnOnce(&Ctx<'_>, Value<'_>) -> R) -> R {
    let interpreter = Interpreter::new(LIMITS).unwrap();
    interpreter.with(|ctx| {
        ctx.globals().set("ran", 0).unwrap();
        let value: Value<'_> = ctx.eval(source).unwrap();
        let result = look(ctx, value);
        assert_eq!(ctx.globals().get::<_, u32>("ran").unwrap(), 0, "{source}");
        result
    })
}

#[test]
fn bytes_are_those_of_the_array_whatever_has_become_of_its_buffer() {
    for (source, expected) in [
        ("new Uint8Array([1, 2, 3])", Some(vec![1, 2, 3])),
        ("new Uint8Array()", Some(vec![])),
        ("new Uint8Array(new Uint8Array([1, 2, 3, 4]).buffer, 1, 2)", Some(vec![2, 3])),
        (
            "Object.defineProperty(new Uint8Array([7]), 'length', { get() { ran++; return 1e9 } })",
            Some(vec![7]),
        ),
        ("Object.setPrototypeOf(new Uint8Array([7]), new Proxy({}, { get() { ran++ } }))", Some(vec![7])),
        ("{ const a = new Uint8Array([1, 2]); a.buffer.transfer(); a }", Some(vec![])),
        // Of a buffer that has shrunk or grown: with a length of its own, and without one.
        (
            "{ const b = new ArrayBuffer(8, { maxByteLength: 16 }); const a = new Uint8Array(b, 2, 4); b.resize(3); a }",
            Some(vec![]),
        ),
        (
            "{ const b = new ArrayBuffer(8, { maxByteLength: 16 }); const a = new Uint8Array(b, 2); b.resize(3); a }",
            Some(vec![0]),
        ),
        (
            "{ const b = new ArrayBuffer(2, { maxByteLength: 9000 }); const a = new Uint8Array(b); b.resize(9000); a }",
            Some(vec![0; 9000]),
        ),
        (
            "{ const b = new ArrayBuffer(9000, { maxByteLength: 9000 }); const a = new Uint8Array(b); b.resize(1); a }",
            Some(vec![0]),
        ),
        (
            "{ const b = new ArrayBuffer(9, { maxByteLength: 9 }); const a = new Uint8Array(b); b.resize(0); a }",
            Some(vec![]),
        ),
        ("new Uint8ClampedArray([1])", None),
        ("new Uint16Array([1])", None),
        ("new Proxy(new Uint8Array([1]), { get() { ran++ } })", None),
        ("[1]", None),
        ("'text'", None),
    ] {
        assert_eq!(with(source, |_, value| bytes_of(&value)), expected, "{source}");
    }
}

#[test]
fn the_time_of_a_date_is_its_own() {
    for (source, expected) in [
        ("new Date(0)", Some(0.0)),
        ("new Date(1)", Some(1.0)),
        ("new Date(-1)", Some(-1.0)),
        ("new Date(63)", Some(63.0)),
        ("new Date(-64)", Some(-64.0)),
        ("new Date(2147483647)", Some(2_147_483_647.0)),
        ("new Date(-2147483648)", Some(-2_147_483_648.0)),
        ("new Date(1700000000500)", Some(1_700_000_000_500.0)),
        ("new Date(-8640000000000000)", Some(-8_640_000_000_000_000.0)),
        (
            "(class extends Date { getTime() { ran++ } valueOf() { ran++ } }, new (class extends Date {})(5))",
            Some(5.0),
        ),
        ("Date.prototype.getTime = Date.prototype.valueOf = () => { ran++ }; new Date(5)", Some(5.0)),
        ("({ __proto__: Date.prototype })", None),
        ("5", None),
    ] {
        assert_eq!(with(source, |_, value| millis_of(&value)), expected, "{source}");
    }
    assert!(with("new Date(NaN)", |_, value| millis_of(&value)).unwrap().is_nan());
    let made = with("0", |ctx, _| new_date(ctx, 1234.0).map(|date| millis_of(&date)).unwrap());
    assert_eq!(made, Some(1234.0));
}

#[test]
fn what_is_read_is_data_and_nothing_else() {
    let shown = |value: Option<Value<'_>>| value.map(|value| format!("{:?}", value.as_int()));
    for (source, own, inherited) in [
        ("({ x: 1 })", Some("Some(1)"), Some("Some(1)")),
        ("({ __proto__: { x: 1 } })", None, Some("Some(1)")),
        ("({})", None, Some("None")),
        ("({ get x() { ran++; return 1 } })", None, None),
        ("({ __proto__: { get x() { ran++; return 1 } } })", None, None),
        ("new Proxy({ x: 1 }, { get() { ran++ }, getOwnPropertyDescriptor() { ran++ } })", None, None),
        ("({ __proto__: new Proxy({}, { get() { ran++ }, getPrototypeOf() { ran++ } }) })", None, None),
    ] {
        with(source, |_, value| {
            let object = value.into_object().unwrap();
            assert_eq!(shown(own_data(&object, "x")).as_deref(), own, "{source}");
            assert_eq!(shown(data(&object, "x")).as_deref(), inherited, "{source}");
        });
    }
    with("Object.defineProperty(Array.prototype, '1', { get() { ran++ } }); [5, , 7]", |_, value| {
        let array = value.into_object().unwrap();
        let items = [0, 1, 2, 3].map(|n| own_element(&array, n).and_then(|item| item.as_int()));
        assert_eq!(items, [Some(5), None, Some(7), None]);
    });
}

#[test]
fn what_is_made_asks_no_prototype() {
    const SETTERS: &str =
        "for (const prototype of [Object.prototype, Array.prototype, Error.prototype, TypeError.prototype]) {
         for (const name of ['0', '1', 'x', 'message', 'stack', 'constructor']) {
           Object.defineProperty(prototype, name, { get() { ran++ }, set() { ran++ }, configurable: true });
         }
       }
       Error.prepareStackTrace = () => { ran++; return 'prepared' }; Error.stackTraceLimit = 5; 0";
    with(SETTERS, |ctx, _| {
        let array = array_of(ctx, ["a", "b"].map(Ok)).unwrap();
        let object = Object::new(ctx.clone()).unwrap();
        assert!(define(&object, "x", 1).unwrap() && define_hidden(&object, "0", 2).unwrap());
        assert_eq!(own_element(array.as_object(), 1).unwrap().as_string().unwrap().to_string().unwrap(), "b");
        assert_eq!(own_data(&object, "x").unwrap().as_int(), Some(1));
        let message = "ä".repeat(200);
        throw(ctx, ErrorKind::Type, &message);
        let error = ctx.catch().into_object().unwrap();
        assert!(error.is_error());
        let text = own_data(&error, "message").unwrap().into_string().unwrap().to_string().unwrap();
        assert_eq!(text, message);
        let own = new_error_of(&object, "own").unwrap();
        assert!(own.is_error() && own.get_prototype() == Some(object));
    });
    with("Object.freeze({})", |_, value| {
        assert!(!define(&value.into_object().unwrap(), "x", 1).unwrap());
    });
    with("new Proxy({}, { defineProperty() { ran++; return true } })", |_, value| {
        assert!(!define(&value.into_object().unwrap(), "x", 1).unwrap());
    });
}

#[test]
fn errors_have_the_class_that_was_asked_for() {
    for (kind, name) in [
        (ErrorKind::Plain, "Error"),
        (ErrorKind::Internal, "InternalError"),
        (ErrorKind::Range, "RangeError"),
        (ErrorKind::Reference, "ReferenceError"),
        (ErrorKind::Type, "TypeError"),
    ] {
        with("0", |ctx, _| {
            throw(ctx, kind, "no");
            let error = ctx.catch().into_object().unwrap();
            assert_eq!(error.get::<_, String>("name").unwrap(), name);
            assert!(error.get_prototype().and_then(|p| p.get_prototype()).is_some());
        });
    }
}

#[test]
fn symbols_are_described_without_asking_them() {
    const PATCH: &str = "Object.defineProperty(Symbol.prototype, 'description', { get() { ran++ } });";
    let described = |symbol: &str| with(&format!("{PATCH} {symbol}"), |_, value| description_of(&value));
    assert_eq!(described("Symbol('what')").as_deref(), Some("what"));
    assert_eq!(described("Symbol.iterator").as_deref(), Some("Symbol.iterator"));
    assert_eq!(described("Symbol()").unwrap_or_default(), "");
    assert_eq!(described("'text'"), None);
}

proptest! {
    #[test]
    fn strings_are_what_utf_16_says(units in proptest::collection::vec(
        prop_oneof![3 => 0_u16..0x80, 2 => any::<u16>(), 2 => 0xd800_u16..0xe000], 0..30
    )) {
        let source: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
        let text = with(&format!("'{source}'"), |_, value| string_of(value.as_string().unwrap()).unwrap());
        prop_assert_eq!(text, String::from_utf16_lossy(&units));
    }
}
