//! Whatever value a script gives: what comes of it on its way to Redis and back.

use encore_miniredis::Miniredis;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::redis::connected_to;
use super::*;

/// A value as a script writes it.
#[derive(Clone, Debug)]
enum Given {
    /// UTF-16, which may have lone surrogates.
    Text(Vec<u16>),
    Number(f64),
    BigInt(i128),
    Flag(bool),
    /// So many bytes, the first of them and what each has more than the one before.
    Bytes(usize, u8, u8),
}

impl Given {
    fn text() -> impl Strategy<Value = Self> {
        let unit = prop_oneof![4 => 0_u16..0x80, 2 => any::<u16>(), 1 => 0xd800_u16..0xe000];
        let string = any::<String>().prop_map(|text| text.encode_utf16().collect());
        prop_oneof![vec(unit, 0..40), string].prop_map(Self::Text)
    }

    fn any() -> impl Strategy<Value = Self> {
        let number = prop_oneof![
            any::<f64>(),
            any::<i32>().prop_map(f64::from),
            any::<u64>().prop_map(f64::from_bits)
        ];
        let length = prop_oneof![8 => 0_usize..40, 1 => 48_000_usize..150_000];
        let bytes = (length, any::<u8>(), any::<u8>());
        prop_oneof![
            2 => Self::text(),
            1 => number.prop_map(Self::Number),
            1 => any::<i128>().prop_map(Self::BigInt),
            1 => any::<bool>().prop_map(Self::Flag),
            1 => bytes.prop_map(|(length, first, step)| Self::Bytes(length, first, step)),
        ]
    }

    fn source(&self) -> String {
        match self {
            Self::Text(units) => {
                let units: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
                format!("'{units}'")
            }
            Self::Number(number) => {
                format!("new Float64Array(new BigUint64Array([{}n]).buffer)[0]", number.to_bits())
            }
            Self::BigInt(integer) => format!("({integer}n)"),
            Self::Flag(flag) => flag.to_string(),
            Self::Bytes(length, first, step) => {
                format!("new Uint8Array({length}).map((_, n) => {first} + n * {step})")
            }
        }
    }

    /// What Redis gives back for it, as a script writes that.
    fn given_back(&self) -> String {
        match self {
            Self::Text(units) => {
                Self::Text(String::from_utf16_lossy(units).encode_utf16().collect()).source()
            }
            Self::Number(_) => format!("String({})", self.source()),
            Self::BigInt(integer) => format!("'{integer}'"),
            Self::Flag(flag) => format!("'{}'", u8::from(*flag)),
            Self::Bytes(length, first, step) => {
                let bytes = (0..*length).scan(*first, |next, _| {
                    let byte = *next;
                    *next = next.wrapping_add(*step);
                    Some(byte)
                });
                match String::from_utf8(bytes.collect()) {
                    Ok(text) => Self::Text(text.encode_utf16().collect()).source(),
                    Err(_) => self.source(),
                }
            }
        }
    }
}

#[test]
fn any_argument_comes_back_as_text_or_as_its_bytes() {
    const SAME: &str = "const same = (a, b) => typeof b === 'string' ? a === b \
        : a instanceof Uint8Array && a.length === b.length && a.every((byte, n) => byte === b[n]);";
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (_server, lanes) = runtime.block_on(async {
        let server = Miniredis::run().await.unwrap();
        let lanes = connected_to(&server.redis_url(), 1).await;
        (server, lanes)
    });
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let values = (vec(Given::any(), 1..6), Given::text());
    let outcome = TestRunner::new(config).run(&values, |(values, name)| {
        let given: Vec<_> = values.iter().map(Given::source).collect();
        let expected: Vec<_> = values.iter().map(Given::given_back).collect();
        let source = format!(
            "{SAME} const given = [{}], expected = [{}];
             redis.Call('DEL', 'list', 'hash');
             redis.Call('RPUSH', 'list', ...given);
             const lists = redis.Call('LRANGE', 'list', 0, -1);
             const name = {}, names = given.map((_, n) => n + name);
             redis.HsetFenced('hash', Object.fromEntries(given.map((value, n) => [names[n], value])));
             const wrong = given.map((_, n) => n).filter(n => !(same(lists[n], expected[n])
                 && same(redis.Call('HGET', 'hash', names[n]), expected[n])
                 && same(redis.Do('ECHO', given[n])[0], expected[n])
                 && same(redis.Blpop(0, 'list'), expected[n])));",
            given.join(", "),
            expected.join(", "),
            name.source()
        );
        let run = spawn(&lanes, &Fake::new(), Limits::default(), move |vm| {
            vm.load(&source, "test.js")?;
            vm.eval("wrong")
        });
        prop_assert_eq!(runtime.block_on(run.1), Ok("[]".to_owned()));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
