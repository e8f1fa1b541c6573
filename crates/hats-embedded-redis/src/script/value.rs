//! Between values of Lua and replies of Redis, and the library `cjson`.

use encore_miniredis::frame::Frame;
use mlua::{Lua, Table, Value};
use serde_json::{Map, Number};

/// Tables inside one another that a script may return. Each takes one of the 8,000 places that mlua has for values.
const REPLY_DEPTH_MAX: usize = 3_000;
/// Tables inside one another that `cjson.encode` takes, as in Redis.
const JSON_DEPTH_MAX: usize = 1_000;
/// Values that a script may return, those inside of tables included: a table may be in many places.
const VALUES_MAX: usize = 1_000_000;

/// What a script returns, as the reply.
pub(super) fn reply_of(value: &Value) -> Result<Frame, String> {
    let mut left = VALUES_MAX;
    reply_at(value, 0, &mut left)
}

fn reply_at(value: &Value, depth: usize, left: &mut usize) -> Result<Frame, String> {
    if depth > REPLY_DEPTH_MAX {
        return Err("ERR reached lua stack limit: the reply is nested too deeply".to_owned());
    }
    *left = left.checked_sub(1).ok_or("ERR the reply of the script has too many values")?;
    Ok(match value {
        Value::Boolean(true) => Frame::Integer(1),
        Value::Integer(number) => Frame::Integer(*number),
        #[expect(clippy::cast_possible_truncation, reason = "as in Redis, which cuts off the fraction")]
        Value::Number(number) => Frame::Integer(*number as i64),
        Value::String(text) => Frame::Bulk(text.as_bytes().to_vec().into()),
        Value::Table(table) => return reply_of_table(table, depth, left),
        _ => Frame::Null,
    })
}

fn reply_of_table(table: &Table, depth: usize, left: &mut usize) -> Result<Frame, String> {
    let field = |name: &str| match table.raw_get::<Value>(name) {
        Ok(Value::String(text)) => Some(text.to_string_lossy().replace(['\r', '\n'], " ")),
        _ => None,
    };
    if let Some(error) = field("err") {
        return Ok(Frame::Error(error));
    }
    if let Some(status) = field("ok") {
        return Ok(Frame::Simple(status));
    }
    let mut parts = Vec::new();
    for index in 1_i64.. {
        match table.raw_get::<Value>(index) {
            Ok(Value::Nil) | Err(_) => break,
            Ok(value) => parts.push(reply_at(&value, depth + 1, left)?),
        }
    }
    Ok(Frame::Array(parts))
}

/// A reply, as scripts have it.
pub(super) fn value_of(lua: &Lua, reply: &Frame) -> mlua::Result<Value> {
    let with_field = |name: &str, text: &str| -> mlua::Result<Value> {
        let table = lua.create_table()?;
        table.raw_set(name, text)?;
        Ok(Value::Table(table))
    };
    let sequence = |parts: &mut dyn Iterator<Item = &Frame>| -> mlua::Result<Value> {
        let table = lua.create_table()?;
        for (index, part) in parts.enumerate() {
            table.raw_set(index + 1, value_of(lua, part)?)?;
        }
        Ok(Value::Table(table))
    };
    match reply {
        Frame::Null | Frame::NullArray => Ok(Value::Boolean(false)),
        Frame::Integer(number) => Ok(Value::Integer(*number)),
        Frame::Simple(text) => with_field("ok", text),
        Frame::Error(text) => with_field("err", text),
        Frame::Bulk(bytes) => Ok(Value::String(lua.create_string(bytes)?)),
        Frame::Array(parts) | Frame::Set(parts) | Frame::Push(parts) => sequence(&mut parts.iter()),
        // Flat, as RESP2 has it.
        Frame::Map(pairs) => sequence(&mut pairs.iter().flat_map(|(key, value)| [key, value])),
        Frame::Double(number) => Ok(Value::String(lua.create_string(number_text(*number))?)),
    }
}

/// A number as an argument of a command.
pub(super) fn number_text(number: f64) -> String {
    // Without `.0`, and never with an exponent; whole numbers up to here are exact.
    if number.fract() == 0.0 && number.abs() < 1e17 { format!("{number:.0}") } else { number.to_string() }
}

/// The library `cjson`.
pub(super) fn cjson(lua: &Lua) -> mlua::Result<Table> {
    let cjson = lua.create_table()?;
    cjson.raw_set("null", Value::NULL)?;
    let encode = |_: &Lua, value: Value| {
        let mut left = VALUES_MAX;
        let json = json_of(&value, 0, &mut left).map_err(mlua::Error::runtime)?;
        Ok(json.to_string())
    };
    cjson.raw_set("encode", lua.create_function(encode)?)?;
    let decode = |lua: &Lua, text: mlua::String| {
        let json = serde_json::from_slice(&text.as_bytes()).map_err(mlua::Error::runtime)?;
        value_of_json(lua, &json)
    };
    cjson.raw_set("decode", lua.create_function(decode)?)?;
    Ok(cjson)
}

fn json_of(value: &Value, depth: usize, left: &mut usize) -> Result<serde_json::Value, String> {
    if depth > JSON_DEPTH_MAX {
        return Err("Cannot serialise, excessive depth".to_owned());
    }
    *left = left.checked_sub(1).ok_or("Cannot serialise, too many values")?;
    Ok(match value {
        Value::Nil => serde_json::Value::Null,
        Value::LightUserData(null) if null.0.is_null() => serde_json::Value::Null,
        Value::Boolean(is_true) => (*is_true).into(),
        Value::Integer(number) => (*number).into(),
        Value::Number(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and small")]
            let whole = *number as i64;
            whole.into()
        }
        Value::Number(number) => Number::from_f64(*number)
            .map(Into::into)
            .ok_or("Cannot serialise number: must not be NaN or Inf")?,
        Value::String(text) => text.to_string_lossy().into(),
        Value::Table(table) => {
            let length = table.raw_len();
            if length > 0 {
                let mut items = Vec::new();
                for index in 1..=length {
                    let item: Value = table.raw_get(index).map_err(|error| error.to_string())?;
                    items.push(json_of(&item, depth + 1, left)?);
                }
                return Ok(items.into());
            }
            let mut fields = Map::new();
            for pair in table.pairs::<Value, Value>() {
                let (name, value) = pair.map_err(|error| error.to_string())?;
                let name = match name {
                    Value::String(name) => name.to_string_lossy(),
                    Value::Integer(number) => number.to_string(),
                    Value::Number(number) => number_text(number),
                    _ => {
                        return Err("Cannot serialise table: table key must be a number or string".to_owned());
                    }
                };
                fields.insert(name, json_of(&value, depth + 1, left)?);
            }
            fields.into()
        }
        _ => return Err(format!("Cannot serialise {}: type not supported", value.type_name())),
    })
}

fn value_of_json(lua: &Lua, json: &serde_json::Value) -> mlua::Result<Value> {
    Ok(match json {
        serde_json::Value::Null => Value::NULL,
        serde_json::Value::Bool(is_true) => Value::Boolean(*is_true),
        serde_json::Value::Number(number) => Value::Number(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Value::String(lua.create_string(text)?),
        serde_json::Value::Array(items) => {
            let table = lua.create_table()?;
            for (index, item) in items.iter().enumerate() {
                table.raw_set(index + 1, value_of_json(lua, item)?)?;
            }
            Value::Table(table)
        }
        serde_json::Value::Object(fields) => {
            let table = lua.create_table()?;
            for (name, value) in fields {
                table.raw_set(name.as_str(), value_of_json(lua, value)?)?;
            }
            Value::Table(table)
        }
    })
}
