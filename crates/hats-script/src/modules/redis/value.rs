//! Values between JavaScript and Redis: shapes as in RESP2.

use fred::types::{Resp3Frame, Value as RedisValue};
use hats_arena::leaf::{self, ErrorKind, array_of, throw};
use rquickjs::{Ctx, IntoJs, Value};

use super::Reply;
use crate::modules::{Call, bytes_to_js, coerced, integer_to_js};
use crate::vm::Host;

/// Replies nest no deeper; beyond it somebody is after the stack.
const DEPTH_MAX: usize = 64;

/// The arguments of one command. They are copies outside of the script's heap, and one string may be given a thousand
/// times: so all of them together may be as long as that heap.
pub(super) struct Arguments<'a> {
    host: &'a Host,
    values: Vec<RedisValue>,
    bytes: usize,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(host: &'a Host) -> Self {
        Self { host, values: Vec::new(), bytes: 0 }
    }

    /// Adds what does not come from the script.
    pub(super) fn push(&mut self, value: impl Into<RedisValue>) {
        self.values.push(value.into());
    }

    /// Adds the n-th argument of a call.
    pub(super) fn push_argument(&mut self, call: &Call<'_, '_>, n: usize) -> rquickjs::Result<()> {
        if self.push_value(call, &call.argument(n))? {
            return Ok(());
        }
        Err(call.wrong(n, "a string, number, bigint, boolean or Uint8Array"))
    }

    /// Adds a value. False if it is of a type that no argument can be.
    pub(super) fn push_value<'js>(
        &mut self,
        call: &Call<'_, 'js>,
        value: &Value<'js>,
    ) -> rquickjs::Result<bool> {
        let Some(value) = from_js(call.ctx, value)? else { return Ok(false) };
        let length = match &value {
            RedisValue::String(text) => text.len(),
            RedisValue::Bytes(bytes) => bytes.len(),
            _ => 0,
        };
        self.bytes += length + size_of::<RedisValue>();
        if self.bytes > self.host.limits.memory {
            let limit = self.host.limits.memory;
            let message = format!(
                "{}: the arguments are longer than the script's heap limit of {limit} bytes",
                call.name
            );
            return Err(call.range_error(&message));
        }
        self.values.push(value);
        Ok(true)
    }

    pub(super) fn into_values(self) -> Vec<RedisValue> {
        self.values
    }
}

/// A value as an argument of a command, or None if it is of a type that none can be.
fn from_js<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> rquickjs::Result<Option<RedisValue>> {
    if let Some(text) = value.as_string() {
        return leaf::string_of(text).map(|text| Some(RedisValue::from(text)));
    }
    if let Some(number) = value.as_int() {
        return Ok(Some(RedisValue::from(i64::from(number))));
    }
    if let Some(flag) = value.as_bool() {
        return Ok(Some(RedisValue::from(i64::from(flag))));
    }
    if value.is_number() || value.is_big_int() {
        return coerced(ctx, value.clone()).map(|text| Some(RedisValue::from(text)));
    }
    Ok(leaf::bytes_of(value).map(|bytes| RedisValue::Bytes(bytes.into())))
}

/// Whether a frame is an error as a whole.
pub(super) fn is_error(frame: &Resp3Frame) -> bool {
    matches!(frame, Resp3Frame::SimpleError { .. } | Resp3Frame::BlobError { .. })
}

/// What a frame says. The client's own conversion goes as deep as the server has nested its reply, and this is run on
/// a fiber's small stack.
pub(super) fn of_frame(frame: Resp3Frame) -> Reply {
    match frame {
        Resp3Frame::SimpleError { data, .. } => Err(data.to_string()),
        Resp3Frame::BlobError { data, .. } => Err(String::from_utf8_lossy(&data).into_owned()),
        frame => of_nested(frame, 0),
    }
}

fn of_nested(frame: Resp3Frame, depth: usize) -> Reply {
    if depth > DEPTH_MAX {
        discard(frame);
        return Err("ERR the reply is nested too deeply".to_owned());
    }
    Ok(match frame {
        Resp3Frame::BlobString { data, .. }
        | Resp3Frame::SimpleString { data, .. }
        | Resp3Frame::BigNumber { data, .. }
        | Resp3Frame::VerbatimString { data, .. }
        | Resp3Frame::BlobError { data, .. }
        | Resp3Frame::ChunkedString(data) => RedisValue::Bytes(data),
        // An error inside an array, as of one command of several in a Lua script.
        Resp3Frame::SimpleError { data, .. } => RedisValue::from(data.to_string()),
        Resp3Frame::Number { data, .. } => RedisValue::from(data),
        Resp3Frame::Double { data, .. } => RedisValue::from(data.to_string()),
        Resp3Frame::Boolean { data, .. } => RedisValue::from(i64::from(data)),
        Resp3Frame::Null | Resp3Frame::Hello { .. } => RedisValue::Null,
        Resp3Frame::Array { data, .. } | Resp3Frame::Push { data, .. } => of_items(data, depth)?,
        Resp3Frame::Set { data, .. } => of_items(data, depth)?,
        Resp3Frame::Map { data, .. } => {
            of_items(data.into_iter().flat_map(|(key, value)| [key, value]), depth)?
        }
    })
}

fn of_items(items: impl IntoIterator<Item = Resp3Frame>, depth: usize) -> Reply {
    let mut values = Vec::new();
    let mut items = items.into_iter();
    while let Some(item) = items.next() {
        match of_nested(item, depth + 1) {
            Ok(value) => values.push(value),
            Err(error) => {
                items.for_each(discard);
                return Err(error);
            }
        }
    }
    Ok(RedisValue::Array(values))
}

/// Drops a frame level by level: dropped as a whole it would go as deep as it is nested.
fn discard(frame: Resp3Frame) {
    let mut left = vec![frame];
    while let Some(frame) = left.pop() {
        match frame {
            Resp3Frame::Array { data, .. } | Resp3Frame::Push { data, .. } => left.extend(data),
            Resp3Frame::Set { data, .. } => left.extend(data),
            Resp3Frame::Map { data, .. } => {
                left.extend(data.into_iter().flat_map(|(key, value)| [key, value]))
            }
            _ => {}
        }
    }
}

/// A reply as a JavaScript value.
pub(super) fn to_js<'js>(ctx: &Ctx<'js>, reply: RedisValue) -> rquickjs::Result<Value<'js>> {
    match reply {
        RedisValue::Null => Ok(Value::new_null(ctx.clone())),
        RedisValue::String(text) => text.to_string().into_js(ctx),
        RedisValue::Bytes(bytes) => text_or_bytes(ctx, &bytes),
        RedisValue::Integer(integer) => integer_to_js(ctx, integer),
        RedisValue::Queued => "QUEUED".into_js(ctx),
        RedisValue::Array(items) => {
            array_of(ctx, items.into_iter().map(|item| to_js(ctx, item))).map(rquickjs::Array::into_value)
        }
        // Never made by `of_frame`, nor by the client of a RESP2 reply.
        RedisValue::Double(double) => double.to_string().into_js(ctx),
        RedisValue::Boolean(flag) => i32::from(flag).into_js(ctx),
        RedisValue::Map(_) => {
            Err(throw(ctx, ErrorKind::Type, "redis: the reply is a map, which RESP2 does not have"))
        }
    }
}

fn text_or_bytes<'js>(ctx: &Ctx<'js>, bytes: &[u8]) -> rquickjs::Result<Value<'js>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into_js(ctx),
        Err(_) => bytes_to_js(ctx, bytes),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_assert, prop_oneof, proptest};
    use rquickjs::{Context, Runtime};

    use super::*;

    fn nested(levels: usize) -> Resp3Frame {
        (0..levels).fold(Resp3Frame::Null, |inner, _| Resp3Frame::Array {
            data: vec![inner, Resp3Frame::Null],
            attributes: None,
        })
    }

    #[test]
    fn a_reply_that_is_nested_too_deeply_is_an_error_on_any_stack() {
        assert!(of_frame(nested(DEPTH_MAX)).is_ok());
        let small = std::thread::Builder::new().stack_size(256 << 10);
        let reply = small.spawn(|| of_frame(nested(100_000))).unwrap().join().unwrap();
        assert_eq!(reply, Err("ERR the reply is nested too deeply".to_owned()));
    }

    #[test]
    fn an_error_is_an_error_at_the_top_and_a_text_inside() {
        let error = || Resp3Frame::SimpleError { data: "ERR no".into(), attributes: None };
        assert_eq!(of_frame(error()), Err("ERR no".to_owned()));
        let inside = Resp3Frame::Array { data: vec![error()], attributes: None };
        assert_eq!(of_frame(inside), Ok(RedisValue::Array(vec!["ERR no".into()])));
    }

    fn blob(data: Vec<u8>) -> Resp3Frame {
        Resp3Frame::BlobString { data: data.into(), attributes: None }
    }

    /// What a server may reply, nested a few levels.
    fn frame() -> impl Strategy<Value = Resp3Frame> {
        let attributes = None;
        let near = |n: i64| (-3..4_i64).prop_map(move |more| n.saturating_add(more));
        let integer = prop_oneof![
            any::<i64>(),
            near(0),
            near(1 << 53),
            near(-(1 << 53)),
            near(i64::MAX),
            near(1 << 31)
        ];
        let bytes = prop_oneof![vec(any::<u8>(), 0..20), any::<String>().prop_map(String::into_bytes)];
        let single = prop_oneof![
            Just(Resp3Frame::Null),
            bytes.prop_map(blob),
            any::<String>().prop_map(|text| Resp3Frame::SimpleString { data: text.into(), attributes: None }),
            any::<String>().prop_map(|text| Resp3Frame::SimpleError { data: text.into(), attributes: None }),
            integer.prop_map(|data| Resp3Frame::Number { data, attributes: None }),
            any::<bool>().prop_map(move |data| Resp3Frame::Boolean { data, attributes: None }),
            any::<f64>().prop_map(|data| Resp3Frame::Double { data, attributes: None }),
        ];
        single.prop_recursive(4, 40, 6, move |inner| {
            let attributes = attributes.clone();
            prop_oneof![
                vec(inner.clone(), 0..6)
                    .prop_map(move |data| Resp3Frame::Array { data, attributes: attributes.clone() }),
                // One pair: the order of more is the map's affair.
                (vec(any::<u8>(), 0..5), inner).prop_map(|(key, value)| {
                    Resp3Frame::Map { data: [(blob(key), value)].into_iter().collect(), attributes: None }
                }),
            ]
        })
    }

    /// Whether a value is what the documentation says of a reply.
    fn stands_for(value: &Value<'_>, frame: &Resp3Frame) -> bool {
        let is_text = |text: &str| {
            value.as_string().is_some_and(|string| string.to_string().is_ok_and(|shown| shown == text))
        };
        let is_items = |items: &[&Resp3Frame]| {
            value.as_array().is_some_and(|array| {
                array.len() == items.len()
                    && items.iter().enumerate().all(|(n, item)| stands_for(&array.get(n).unwrap(), item))
            })
        };
        match frame {
            Resp3Frame::Null => value.is_null(),
            Resp3Frame::BlobString { data, .. } | Resp3Frame::SimpleString { data, .. } => {
                match std::str::from_utf8(data) {
                    Ok(text) => is_text(text),
                    Err(_) => value.as_object().and_then(|object| object.as_typed_array::<u8>()).is_some_and(
                        |array| {
                            array.len() == data.len()
                                && (0_u32..)
                                    .zip(data.iter())
                                    .all(|(n, byte)| array.get::<_, u8>(n).unwrap() == *byte)
                        },
                    ),
                }
            }
            Resp3Frame::SimpleError { data, .. } => is_text(data),
            Resp3Frame::Number { data, .. } if data.unsigned_abs() < 1 << 53 => {
                // Each integer up to there is a number of its own.
                #[expect(clippy::cast_possible_truncation, reason = "they have no fraction")]
                value.as_number().is_some_and(|number| number as i64 == *data && number.fract() == 0.0)
            }
            Resp3Frame::Number { data, .. } => {
                value.clone().into_big_int().is_some_and(|integer| integer.to_i64().is_ok_and(|i| i == *data))
            }
            Resp3Frame::Boolean { data, .. } => value.as_int() == Some(i32::from(*data)),
            Resp3Frame::Double { data, .. } => is_text(&data.to_string()),
            Resp3Frame::Array { data, .. } => is_items(&data.iter().collect::<Vec<_>>()),
            Resp3Frame::Map { data, .. } => {
                is_items(&data.iter().flat_map(|(key, value)| [key, value]).collect::<Vec<_>>())
            }
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_reply_has_the_shape_of_resp2(frame in frame()) {
            let runtime = Runtime::new().unwrap();
            let context = Context::full(&runtime).unwrap();
            match of_frame(frame.clone()) {
                Ok(reply) => context.with(|ctx| {
                    let value = to_js(&ctx, reply).unwrap();
                    prop_assert!(stands_for(&value, &frame), "{:?}", frame);
                    Ok(())
                })?,
                Err(error) => {
                    let is_same = matches!(&frame, Resp3Frame::SimpleError { data, .. } if **data == *error);
                    prop_assert!(is_same, "{:?}", frame);
                }
            }
        }
    }
}
