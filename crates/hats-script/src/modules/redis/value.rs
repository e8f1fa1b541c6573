//! Values between JavaScript and Redis: shapes as in RESP2.

use fred::types::{Resp3Frame, Value as RedisValue};
use rquickjs::{BigInt, Ctx, Exception, IntoJs, TypedArray, Value};

use crate::modules::{Call, bytes_of, coerced, string_of};

/// Replies nest no deeper; beyond it somebody is after the stack.
const DEPTH_MAX: usize = 128;
/// Largest integer that a JavaScript number holds exactly, and all below it.
const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

/// The n-th argument of a call as an argument of a command.
pub(super) fn argument(call: &Call<'_, '_>, n: usize) -> rquickjs::Result<RedisValue> {
    let value = from_js(call.ctx, &call.argument(n))?;
    value.ok_or_else(|| call.wrong(n, "a string, number, bigint, boolean or Uint8Array"))
}

/// A value as an argument of a command, or None if it is of a type that none can be.
pub(super) fn from_js<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> rquickjs::Result<Option<RedisValue>> {
    if let Some(text) = value.as_string() {
        return string_of(ctx, text.clone()).map(|text| Some(RedisValue::from(text)));
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
    match value.as_object().and_then(|object| object.as_typed_array::<u8>()) {
        Some(array) => bytes_of(array).map(|bytes| Some(RedisValue::Bytes(bytes.into()))),
        None => Ok(None),
    }
}

/// A reply, or the error that it is.
pub(super) fn checked(frame: Resp3Frame) -> Result<Resp3Frame, String> {
    match frame {
        Resp3Frame::SimpleError { data, .. } => Err(data.to_string()),
        Resp3Frame::BlobError { data, .. } => Err(String::from_utf8_lossy(&data).into_owned()),
        frame => Ok(frame),
    }
}

/// A reply as a JavaScript value.
pub(super) fn to_js<'js>(ctx: &Ctx<'js>, frame: Resp3Frame) -> rquickjs::Result<Value<'js>> {
    frame_to_js(ctx, frame, 0)
}

fn frame_to_js<'js>(ctx: &Ctx<'js>, frame: Resp3Frame, depth: usize) -> rquickjs::Result<Value<'js>> {
    if depth > DEPTH_MAX {
        return Err(Exception::throw_range(ctx, "redis: the reply is nested too deeply"));
    }
    match frame {
        Resp3Frame::BlobString { data, .. }
        | Resp3Frame::SimpleString { data, .. }
        | Resp3Frame::BigNumber { data, .. }
        | Resp3Frame::VerbatimString { data, .. }
        | Resp3Frame::ChunkedString(data) => bytes_to_js(ctx, &data),
        Resp3Frame::Number { data, .. } => integer_to_js(ctx, data),
        Resp3Frame::Double { data, .. } => data.to_string().into_js(ctx),
        Resp3Frame::Boolean { data, .. } => i32::from(data).into_js(ctx),
        Resp3Frame::Null | Resp3Frame::Hello { .. } => Ok(Value::new_null(ctx.clone())),
        // An error inside an array, as of EXEC inside a Lua script.
        Resp3Frame::SimpleError { data, .. } => data.to_string().into_js(ctx),
        Resp3Frame::BlobError { data, .. } => bytes_to_js(ctx, &data),
        Resp3Frame::Array { data, .. } | Resp3Frame::Push { data, .. } => array(ctx, data, depth),
        Resp3Frame::Set { data, .. } => array(ctx, data, depth),
        Resp3Frame::Map { data, .. } => {
            array(ctx, data.into_iter().flat_map(|(key, value)| [key, value]), depth)
        }
    }
}

fn array<'js>(
    ctx: &Ctx<'js>,
    items: impl IntoIterator<Item = Resp3Frame>,
    depth: usize,
) -> rquickjs::Result<Value<'js>> {
    let array = rquickjs::Array::new(ctx.clone())?;
    for (n, item) in items.into_iter().enumerate() {
        array.set(n, frame_to_js(ctx, item, depth + 1)?)?;
    }
    Ok(array.into_value())
}

fn bytes_to_js<'js>(ctx: &Ctx<'js>, bytes: &[u8]) -> rquickjs::Result<Value<'js>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into_js(ctx),
        Err(_) => TypedArray::<u8>::new_copy(ctx.clone(), bytes).map(TypedArray::into_value),
    }
}

fn integer_to_js<'js>(ctx: &Ctx<'js>, integer: i64) -> rquickjs::Result<Value<'js>> {
    if let Ok(small) = i32::try_from(integer) {
        return Ok(Value::new_int(ctx.clone(), small));
    }
    if integer.unsigned_abs() <= SAFE_INTEGER_MAX {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
        return Ok(Value::new_float(ctx.clone(), integer as f64));
    }
    BigInt::from_i64(ctx.clone(), integer)?.into_js(ctx)
}
