//! Values between JavaScript and databases, in a form that belongs to neither.

use hats_arena::leaf::{self, Name, array_of, define_element, define_name};
use rquickjs::{Array, BigInt, Ctx, IntoJs, Object, Value as JsValue};

use super::calendar;
use crate::modules::{Call, bytes_to_js, coerced, integer_to_js};
use crate::vm::Host;

/// Rows that are made before others have their turn.
const ROWS_PER_LOOK: usize = 64;
/// Bytes of text and blobs, likewise.
const BYTES_PER_LOOK: usize = 64 << 10;

/// What a database says of one field.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Value>),
}

/// What a script gives for one placeholder.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Argument {
    Null,
    Bool(bool),
    Number(f64),
    /// In decimal digits.
    BigInt(String),
    Text(String),
    Bytes(Vec<u8>),
    /// Milliseconds from 1970.
    Date(i64),
}

/// The rows of a result.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Table {
    pub(super) columns: Vec<String>,
    /// Row by row.
    pub(super) cells: Vec<Value>,
    pub(super) rows: usize,
}

/// A result while it comes in: it ends with an error before it is larger than the script could hold.
#[derive(Debug)]
pub(super) struct Collector {
    table: Table,
    size: usize,
    limit: usize,
}

/// A result is larger than its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge {
    pub(super) limit: usize,
}

impl Value {
    /// Text, or bytes if it is none.
    pub(super) fn text(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(bytes.to_vec()),
        }
    }

    /// About what it takes in a script's heap.
    fn size(&self) -> usize {
        const OBJECT: usize = 64;
        match self {
            Self::Null | Self::Bool(_) | Self::Float(_) => 0,
            Self::Integer(_) | Self::Unsigned(_) => 16,
            // One byte a character, or two if one of them is beyond Latin-1.
            Self::Text(text) if text.chars().all(|c| c <= 'ÿ') => 24 + text.len(),
            Self::Text(text) => 24 + 2 * text.len(),
            Self::Bytes(bytes) => 2 * OBJECT + bytes.len(),
            Self::List(items) => OBJECT + items.iter().map(|item| 16 + item.size()).sum::<usize>(),
        }
    }
}

impl Argument {
    /// The whole number that it is, if it is one that fits.
    pub(super) fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Bool(flag) => Some(i64::from(*flag)),
            Self::Number(number) => whole(*number),
            Self::BigInt(digits) => digits.parse().ok(),
            _ => None,
        }
    }
}

/// The whole number that a JavaScript number is. The sign of a negative zero would be lost, so it counts as none.
pub(super) fn whole(number: f64) -> Option<i64> {
    let is_whole = number.fract() == 0.0 && (-TWO_TO_63..TWO_TO_63).contains(&number);
    let is_minus_zero = number == 0.0 && number.is_sign_negative();
    #[expect(clippy::cast_possible_truncation, reason = "whole and in range")]
    (is_whole && !is_minus_zero).then_some(number as i64)
}

const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;

/// The number that a short one is written as: 0.1, and not the 0.10000000149011612 which is nearest to it.
pub(super) fn widened(number: f32) -> f64 {
    if number.is_finite() {
        number.to_string().parse().unwrap_or(f64::from(number))
    } else {
        f64::from(number)
    }
}

/// A number as JavaScript writes it, but for those that databases write otherwise: `1e21`, `NaN`, `-Infinity`.
pub(super) fn number_text(number: f64) -> String {
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity".to_owned() } else { "-Infinity".to_owned() }
    } else if number != 0.0 && !(1e-6..1e21).contains(&number.abs()) {
        format!("{number:e}")
    } else if number == 0.0 {
        "0".to_owned()
    } else {
        format!("{number}")
    }
}

impl Collector {
    pub(super) fn new(limit: usize) -> Self {
        Self { table: Table::default(), size: 0, limit }
    }

    pub(super) fn set_columns(&mut self, columns: impl Iterator<Item = String>) {
        self.table.columns = columns.collect();
    }

    pub(super) fn has_columns(&self) -> bool {
        !self.table.columns.is_empty()
    }

    /// Begins the next row.
    pub(super) fn begin_row(&mut self) -> Result<(), TooLarge> {
        self.table.rows += 1;
        self.grow(64)
    }

    /// Adds a field to the row in hand.
    pub(super) fn push(&mut self, value: Value) -> Result<(), TooLarge> {
        self.grow(size_of::<Value>().max(16) + value.size())?;
        self.table.cells.push(value);
        Ok(())
    }

    pub(super) fn too_large(&self) -> TooLarge {
        TooLarge { limit: self.limit }
    }

    pub(super) fn into_table(self) -> Table {
        self.table
    }

    fn grow(&mut self, bytes: usize) -> Result<(), TooLarge> {
        self.size = self.size.saturating_add(bytes);
        if self.size > self.limit { Err(self.too_large()) } else { Ok(()) }
    }
}

/// The arguments of a call from the n-th on. They are copies outside of the script's heap, and one string may be given
/// a thousand times: so all of them together may be as long as that heap.
pub(super) fn arguments(host: &Host, call: &Call<'_, '_>, from: usize) -> rquickjs::Result<Vec<Argument>> {
    let limit = host.limits.memory;
    let mut bytes = 0_usize;
    let mut arguments = Vec::new();
    for n in from..call.arguments.len() {
        let argument = argument(call, n)?;
        bytes += size_of::<Argument>();
        if let Argument::Text(text) | Argument::BigInt(text) = &argument {
            bytes += text.len();
        }
        if let Argument::Bytes(blob) = &argument {
            bytes += blob.len();
        }
        if bytes > limit {
            let message = format!(
                "{}: the arguments are longer than the script's heap limit of {limit} bytes",
                call.name
            );
            return Err(call.range_error(&message));
        }
        arguments.push(argument);
    }
    Ok(arguments)
}

fn argument(call: &Call<'_, '_>, n: usize) -> rquickjs::Result<Argument> {
    let value = call.argument(n);
    if value.is_null() || value.is_undefined() {
        return Ok(Argument::Null);
    }
    if let Some(text) = value.as_string() {
        return leaf::string_of(text).map(Argument::Text);
    }
    if let Some(flag) = value.as_bool() {
        return Ok(Argument::Bool(flag));
    }
    if let Some(number) = value.as_number() {
        return Ok(Argument::Number(number));
    }
    if value.is_big_int() {
        return coerced(call.ctx, value).map(Argument::BigInt);
    }
    if let Some(bytes) = leaf::bytes_of(&value) {
        return Ok(Argument::Bytes(bytes));
    }
    if let Some(millis) = leaf::millis_of(&value) {
        let within = whole(millis).filter(|m| m.unsigned_abs() <= calendar::DATE_MILLIS_MAX.unsigned_abs());
        return match within.or((millis == 0.0).then_some(0)) {
            Some(millis) => Ok(Argument::Date(millis)),
            None => Err(call.wrong(n, "a valid Date")),
        };
    }
    Err(call.wrong(n, "a string, number, bigint, boolean, null, undefined, Date or Uint8Array"))
}

/// The rows as objects. Of columns with the same name the last one counts. A long result takes its time, so the lane's
/// other scripts have their turn meanwhile.
pub(super) fn table_to_js<'js>(host: &Host, ctx: &Ctx<'js>, table: Table) -> rquickjs::Result<JsValue<'js>> {
    let names = table.columns.iter().map(|name| Name::new(ctx, name));
    let names = names.collect::<rquickjs::Result<Vec<_>>>()?;
    let rows = Array::new(ctx.clone())?;
    let mut cells = table.cells.into_iter();
    let mut bytes = 0;
    for n in 0..table.rows {
        let row = Object::new(ctx.clone())?;
        for name in &names {
            let Some(cell) = cells.next() else { break };
            bytes += cell.size();
            define_name(&row, name, to_js(ctx, cell)?)?;
        }
        define_element(&rows, n, row)?;
        if n % ROWS_PER_LOOK == ROWS_PER_LOOK - 1 || bytes >= BYTES_PER_LOOK {
            bytes = 0;
            host.look_up(ctx)?;
        }
    }
    Ok(rows.into_value())
}

fn to_js<'js>(ctx: &Ctx<'js>, value: Value) -> rquickjs::Result<JsValue<'js>> {
    match value {
        Value::Null => Ok(JsValue::new_null(ctx.clone())),
        Value::Bool(flag) => Ok(JsValue::new_bool(ctx.clone(), flag)),
        Value::Integer(integer) => integer_to_js(ctx, integer),
        Value::Unsigned(integer) => match i64::try_from(integer) {
            Ok(integer) => integer_to_js(ctx, integer),
            Err(_) => BigInt::from_u64(ctx.clone(), integer)?.into_js(ctx),
        },
        Value::Float(number) => Ok(JsValue::new_float(ctx.clone(), number)),
        Value::Text(text) => text.into_js(ctx),
        Value::Bytes(bytes) => bytes_to_js(ctx, &bytes),
        // As deep as the database can nest arrays.
        Value::List(items) => {
            array_of(ctx, items.into_iter().map(|item| to_js(ctx, item))).map(Array::into_value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_ends_before_it_is_too_large() {
        let mut collector = Collector::new(10_000);
        collector.set_columns(["a".to_owned()].into_iter());
        let mut rows = 0;
        let error = loop {
            if let Err(error) =
                collector.begin_row().and_then(|()| collector.push(Value::Text("x".repeat(100))))
            {
                break error;
            }
            rows += 1;
        };
        assert_eq!(error, TooLarge { limit: 10_000 });
        assert!((20..60).contains(&rows), "{rows}");
    }

    #[test]
    fn whole_numbers_are_exactly_those_that_fit() {
        for (number, expected) in [
            (0.0, Some(0)),
            (-0.0, None),
            (1.5, None),
            (-3.0, Some(-3)),
            (9_007_199_254_740_993.0, Some(9_007_199_254_740_992)),
            (-9_223_372_036_854_775_808.0, Some(i64::MIN)),
            (9_223_372_036_854_775_808.0, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
        ] {
            assert_eq!(whole(number), expected, "{number}");
        }
    }

    #[test]
    fn numbers_are_written_as_databases_read_them() {
        for (number, expected) in [
            (1.0, "1"),
            (-0.0, "0"),
            (0.1, "0.1"),
            (-1234.5, "-1234.5"),
            (1e21, "1e21"),
            (1.5e300, "1.5e300"),
            (1e-7, "1e-7"),
            (123_456_789_012_345_680_000.0, "123456789012345680000"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(number_text(number), expected);
        }
    }
}
