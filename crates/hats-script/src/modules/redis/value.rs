//! Values between JavaScript and Redis: shapes as in RESP2.

use fred::types::Value as RedisValue;
use rquickjs::{BigInt, Ctx, Exception, IntoJs, TypedArray, Value};

use crate::modules::{Call, bytes_of, coerced, string_of};
use crate::vm::Host;

/// Replies nest no deeper; beyond it somebody is after the stack.
const DEPTH_MAX: usize = 128;
/// Largest integer that a JavaScript number holds exactly, and all below it.
const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

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
        let Some(value) = from_js(self.host, call.ctx, value)? else { return Ok(false) };
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
            return Err(Exception::throw_range(call.ctx, &message));
        }
        self.values.push(value);
        Ok(true)
    }

    pub(super) fn into_values(self) -> Vec<RedisValue> {
        self.values
    }
}

/// A value as an argument of a command, or None if it is of a type that none can be.
fn from_js<'js>(host: &Host, ctx: &Ctx<'js>, value: &Value<'js>) -> rquickjs::Result<Option<RedisValue>> {
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
        Some(array) => bytes_of(host, ctx, array).map(|bytes| Some(RedisValue::Bytes(bytes.into()))),
        None => Ok(None),
    }
}

/// A reply as a JavaScript value.
pub(super) fn to_js<'js>(ctx: &Ctx<'js>, reply: RedisValue) -> rquickjs::Result<Value<'js>> {
    nested_to_js(ctx, reply, 0)
}

fn nested_to_js<'js>(ctx: &Ctx<'js>, reply: RedisValue, depth: usize) -> rquickjs::Result<Value<'js>> {
    if depth > DEPTH_MAX {
        return Err(Exception::throw_range(ctx, "redis: the reply is nested too deeply"));
    }
    match reply {
        RedisValue::Null => Ok(Value::new_null(ctx.clone())),
        RedisValue::String(text) => text.to_string().into_js(ctx),
        RedisValue::Bytes(bytes) => bytes_to_js(ctx, &bytes),
        RedisValue::Integer(integer) => integer_to_js(ctx, integer),
        RedisValue::Queued => "QUEUED".into_js(ctx),
        RedisValue::Array(items) => {
            let array = rquickjs::Array::new(ctx.clone())?;
            for (n, item) in items.into_iter().enumerate() {
                array.set(n, nested_to_js(ctx, item, depth + 1)?)?;
            }
            Ok(array.into_value())
        }
        // Not in RESP2, which scripts' connections speak.
        RedisValue::Double(double) => double.to_string().into_js(ctx),
        RedisValue::Boolean(flag) => i32::from(flag).into_js(ctx),
        RedisValue::Map(_) => {
            Err(Exception::throw_type(ctx, "redis: the reply is a map, which RESP2 does not have"))
        }
    }
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
