//! Values as text, for people: logs and errors.
//!
//! Nothing here runs code of the script if it can be helped (no `toString`, no getters of plain objects'
//! prototypes), and whatever throws is shown as such: printing never fails.

use std::fmt::Write as _;

use rquickjs::{Array, Coerced, Ctx, Filter, FromJs, Function, Object, TypedArray, Value};

use super::string_of;

const DEPTH_MAX: usize = 4;
const ITEMS_MAX: usize = 100;
/// Beyond this an inspection stops; the log line is cut far earlier anyway.
const LENGTH_MAX: usize = 64 << 10;

/// A value as `console.log` shows it: a string as it is, everything else as one would write it.
pub(crate) fn text_of<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> String {
    if let Some(text) = value.as_string() {
        return string_of(ctx, text.clone()).unwrap_or_else(|_| unreadable(ctx));
    }
    let mut inspector = Inspector { ctx, out: String::new(), path: Vec::new() };
    inspector.value(value, 0);
    inspector.out
}

/// A value in a few words, for error messages.
pub(super) fn brief<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> String {
    let text = match value.type_of() {
        rquickjs::Type::String => format!("{:?}", text_of(ctx, value)),
        rquickjs::Type::Object => "an object".to_owned(),
        rquickjs::Type::Array => "an array".to_owned(),
        rquickjs::Type::Function | rquickjs::Type::Constructor => "a function".to_owned(),
        _ => text_of(ctx, value),
    };
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Whether a value is an error: an `Error` or a `DOMException`, which to the engine is an object of another class that has
/// an error for its prototype.
pub(crate) fn is_error(value: &Value<'_>) -> bool {
    let prototype = || value.as_object().filter(|_| !value.is_proxy()).and_then(Object::get_prototype);
    value.is_error() || prototype().is_some_and(|prototype| prototype.is_error())
}

struct Inspector<'a, 'js> {
    ctx: &'a Ctx<'js>,
    out: String,
    // The objects that we are inside of, to find cycles.
    path: Vec<Value<'js>>,
}

impl<'js> Inspector<'_, 'js> {
    fn value(&mut self, value: &Value<'js>, depth: usize) {
        if self.out.len() > LENGTH_MAX {
            return;
        }
        if let Some(text) = value.as_string() {
            let text = string_of(self.ctx, text.clone()).unwrap_or_else(|_| unreadable(self.ctx));
            let shown = &text[..text.floor_char_boundary(LENGTH_MAX)];
            let _ = write!(self.out, "{shown:?}");
        } else if value.is_big_int() {
            let text = self.primitive(value);
            let _ = write!(self.out, "{text}n");
        } else if let Some(symbol) = value.as_symbol() {
            let description = symbol.description().ok().and_then(|d| d.into_string());
            let description = description.and_then(|d| string_of(self.ctx, d).ok()).unwrap_or_default();
            let _ = write!(self.out, "Symbol({description})");
        } else if let Some(object) = value.as_object() {
            self.object(value, object, depth);
        } else {
            let text = self.primitive(value);
            self.out.push_str(&text);
        }
    }

    fn primitive(&self, value: &Value<'js>) -> String {
        match Coerced::<String>::from_js(self.ctx, value.clone()) {
            Ok(Coerced(text)) => text,
            Err(_) => unreadable(self.ctx),
        }
    }

    fn object(&mut self, value: &Value<'js>, object: &Object<'js>, depth: usize) {
        if value.is_proxy() {
            // Looking into it would run the script's traps.
            self.out.push_str("[Proxy]");
            return;
        }
        if self.path.contains(value) {
            self.out.push_str("[Circular]");
            return;
        }
        if let Some(function) = value.as_function() {
            self.function(function);
            return;
        }
        if is_error(value) {
            self.error(object);
            return;
        }
        if depth >= DEPTH_MAX {
            self.out.push_str(if value.is_array() { "[Array]" } else { "[Object]" });
            return;
        }
        self.path.push(value.clone());
        if let Some(array) = value.as_array() {
            self.array(array, depth);
        } else if let Some(bytes) = object.as_typed_array::<u8>() {
            self.bytes(bytes);
        } else {
            match self.class(object).as_str() {
                "Date" => self.method(object, "toISOString", "Invalid Date"),
                "RegExp" => self.method(object, "toString", "[RegExp]"),
                "Map" => self.entries(object, "Map", depth),
                "Set" => self.entries(object, "Set", depth),
                "Promise" => self.out.push_str("[Promise]"),
                class @ ("URL" | "URLSearchParams") => {
                    let _ = write!(self.out, "{class} ");
                    self.method(object, "toString", "{}");
                }
                class => self.properties(object, class, depth),
            }
        }
        self.path.pop();
    }

    fn function(&mut self, function: &Function<'js>) {
        let name = function.get::<_, Value<'_>>("name").ok().and_then(Value::into_string);
        match name.and_then(|name| string_of(self.ctx, name).ok()).filter(|name| !name.is_empty()) {
            Some(name) => {
                let _ = write!(self.out, "[Function: {name}]");
            }
            None => self.out.push_str("[Function]"),
        }
        self.ctx.catch();
    }

    fn error(&mut self, error: &Object<'js>) {
        let part = |name: &str| {
            let part = error.get::<_, Value<'_>>(name).ok().and_then(Value::into_string);
            let part = part.and_then(|part| string_of(self.ctx, part).ok());
            self.ctx.catch();
            part.unwrap_or_default()
        };
        let (name, message, stack) = (part("name"), part("message"), part("stack"));
        let separator = if name.is_empty() || message.is_empty() { "" } else { ": " };
        let _ = write!(self.out, "{name}{separator}{message}");
        let stack = stack.trim_end();
        if !stack.is_empty() {
            let _ = write!(self.out, "\n{stack}");
        }
    }

    fn array(&mut self, array: &Array<'js>, depth: usize) {
        self.out.push('[');
        let length = array.len();
        for n in 0..length.min(ITEMS_MAX) {
            if n > 0 {
                self.out.push_str(", ");
            }
            match array.get::<Value<'_>>(n) {
                Ok(item) => self.value(&item, depth + 1),
                Err(_) => self.thrown(),
            }
        }
        self.rest(length);
        self.out.push(']');
    }

    fn bytes(&mut self, bytes: &TypedArray<'js, u8>) {
        let length = bytes.len();
        let _ = write!(self.out, "Uint8Array({length}) [");
        for n in 0..length.min(ITEMS_MAX) {
            let separator = if n > 0 { ", " } else { "" };
            let byte = bytes.get::<_, u8>(n as u32).unwrap_or_default();
            let _ = write!(self.out, "{separator}{byte}");
        }
        self.rest(length);
        self.out.push(']');
    }

    fn entries(&mut self, object: &Object<'js>, class: &str, depth: usize) {
        let spread: rquickjs::Result<Array<'js>> = self
            .ctx
            .eval::<Function<'js>, _>("(collection) => [...collection]")
            .and_then(|f| f.call((object.clone(),)));
        let Ok(items) = spread else {
            self.thrown();
            return;
        };
        let length = items.len();
        let _ = write!(self.out, "{class}({length}) {{");
        for n in 0..length.min(ITEMS_MAX) {
            self.out.push_str(if n > 0 { ", " } else { " " });
            let Ok(item) = items.get::<Value<'_>>(n) else { break };
            match item.as_array().filter(|_| class == "Map") {
                Some(pair) => {
                    let (key, value) = (pair.get::<Value<'_>>(0), pair.get::<Value<'_>>(1));
                    if let (Ok(key), Ok(value)) = (key, value) {
                        self.value(&key, depth + 1);
                        self.out.push_str(" => ");
                        self.value(&value, depth + 1);
                    }
                }
                None => self.value(&item, depth + 1),
            }
        }
        self.rest(length);
        self.out.push_str(if length > 0 { " }" } else { "}" });
    }

    fn properties(&mut self, object: &Object<'js>, class: &str, depth: usize) {
        if !class.is_empty() && class != "Object" {
            let _ = write!(self.out, "{class} ");
        }
        self.out.push('{');
        let mut count = 0;
        #[expect(clippy::disallowed_methods, reason = "the names are taken as JavaScript strings")]
        let keys = object.own_keys::<rquickjs::String<'js>>(Filter::new().string().enum_only());
        for key in keys {
            let key = key.and_then(|key| Ok((string_of(self.ctx, key.clone())?, key)));
            let Ok((shown, key)) = key else {
                self.ctx.catch();
                continue;
            };
            count += 1;
            if count > ITEMS_MAX {
                continue;
            }
            self.out.push_str(if count > 1 { ", " } else { " " });
            let plain =
                !shown.is_empty() && shown.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '$');
            let _ = if plain { write!(self.out, "{shown}: ") } else { write!(self.out, "{shown:?}: ") };
            match object.get::<_, Value<'_>>(key) {
                Ok(item) => self.value(&item, depth + 1),
                Err(_) => self.thrown(),
            }
        }
        self.rest(count);
        self.out.push_str(if count > 0 { " }" } else { "}" });
    }

    /// The name of an object's constructor, as far as it has one.
    fn class(&self, object: &Object<'js>) -> String {
        let constructor = object.get_prototype().and_then(|p| p.get::<_, Object<'_>>("constructor").ok());
        let name = constructor.and_then(|c| c.get::<_, Value<'_>>("name").ok()).and_then(Value::into_string);
        self.ctx.catch();
        name.and_then(|name| string_of(self.ctx, name).ok()).unwrap_or_default()
    }

    fn method(&mut self, object: &Object<'js>, name: &str, otherwise: &str) {
        let function = object.get::<_, Function<'_>>(name);
        let text = function.and_then(|f| f.call::<_, String>((rquickjs::function::This(object.clone()),)));
        match text {
            Ok(text) => self.out.push_str(&text),
            Err(_) => {
                self.ctx.catch();
                self.out.push_str(otherwise);
            }
        }
    }

    fn rest(&mut self, length: usize) {
        if length > ITEMS_MAX {
            let _ = write!(self.out, ", … {} more", length - ITEMS_MAX);
        }
    }

    fn thrown(&mut self) {
        self.ctx.catch();
        self.out.push_str("[throws]");
    }
}

fn unreadable(ctx: &Ctx<'_>) -> String {
    ctx.catch();
    "[unreadable]".to_owned()
}
