//! What host functions read and make without running JavaScript.
//!
//! A host function is a leaf: between it and the script's frames there is nothing of the script's that could run. Much of
//! the engine's interface does run it: to set a property calls a setter on a prototype, to get one calls a getter, a proxy's
//! trap or `toString`, and an error that is thrown from a function of the host asks `Error.prepareStackTrace`. What is here
//! does none of that, whatever the script has done to its prototypes.
#![expect(unsafe_code, reason = "the safe interface of the engine runs JavaScript, see the safety notes")]

use std::mem::MaybeUninit;
use std::{ptr, slice, str};

use rquickjs::{Array, Ctx, Error, IntoJs, Object, Value, qjs};

use crate::compiled::owned;
use crate::native::Switchboard;

/// The class of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// `Error`.
    Plain,
    /// `InternalError`.
    Internal,
    /// `RangeError`.
    Range,
    /// `ReferenceError`.
    Reference,
    /// `SyntaxError`.
    Syntax,
    /// `TypeError`.
    Type,
}

/// Prototypes of errors, and their class in the engine.
pub(crate) struct ErrorClasses {
    class: qjs::JSClassID,
    /// By [`ErrorKind`]. The context has a reference to each of them for as long as it lives.
    prototypes: [qjs::JSValue; 6],
}

impl ErrorClasses {
    /// Finds them in a context in which no script has run yet. None if there is no memory.
    ///
    /// # Safety
    /// The context is alive and nobody is inside.
    pub(crate) unsafe fn of(context: *mut qjs::JSContext) -> Option<Self> {
        // SAFETY: by the caller's word; the format says that one text follows, which does.
        let errors = unsafe {
            let (format, text) = (c"%s".as_ptr(), c"".as_ptr());
            [
                qjs::JS_NewPlainError(context, format, text),
                qjs::JS_NewInternalError(context, format, text),
                qjs::JS_NewRangeError(context, format, text),
                qjs::JS_NewReferenceError(context, format, text),
                qjs::JS_NewSyntaxError(context, format, text),
                qjs::JS_NewTypeError(context, format, text),
            ]
        };
        // SAFETY: looks at the tags.
        if errors.iter().any(|error| unsafe { qjs::JS_IsException(*error) }) {
            return None;
        }
        // SAFETY: they are objects, and each reference that the engine gave is given back once. What is kept are prototypes
        // that the context itself refers to: the intrinsic ones, which no script can exchange there.
        unsafe {
            let class = qjs::JS_GetClassID(errors[0]);
            let prototypes = errors.map(|error| {
                let prototype = qjs::JS_GetPrototype(context, error);
                qjs::JS_FreeValue(context, prototype);
                qjs::JS_FreeValue(context, error);
                prototype
            });
            Some(Self { class, prototypes })
        }
    }
}

/// The name of a property, as the engine keeps it.
pub struct Name<'js> {
    ctx: Ctx<'js>,
    // Invariant: an atom of this context, with a reference that is ours.
    atom: qjs::JSAtom,
}

impl<'js> Name<'js> {
    /// Makes it of a text.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(ctx: &Ctx<'js>, name: &str) -> rquickjs::Result<Self> {
        // SAFETY: context and text are alive; the engine copies the text.
        let atom =
            unsafe { qjs::JS_NewAtomLen(ctx.as_raw().as_ptr(), name.as_ptr().cast(), name.len() as _) };
        Self::of(ctx, atom)
    }

    fn index(ctx: &Ctx<'js>, n: usize) -> rquickjs::Result<Self> {
        let n = u32::try_from(n).map_err(|_| Error::Unknown)?;
        // SAFETY: the context is alive.
        Self::of(ctx, unsafe { qjs::JS_NewAtomUInt32(ctx.as_raw().as_ptr(), n) })
    }

    fn of(ctx: &Ctx<'js>, atom: qjs::JSAtom) -> rquickjs::Result<Self> {
        if atom == qjs::JS_ATOM_NULL as qjs::JSAtom {
            return Err(Error::Exception);
        }
        Ok(Self { ctx: ctx.clone(), atom })
    }
}

impl Drop for Name<'_> {
    fn drop(&mut self) {
        // SAFETY: the reference is ours, and is given back once.
        unsafe { qjs::JS_FreeAtom(self.ctx.as_raw().as_ptr(), self.atom) };
    }
}

/// Makes an error and throws it. Its stack begins with the function of the script that has called the host.
pub fn throw(ctx: &Ctx<'_>, kind: ErrorKind, message: &str) -> Error {
    match new_error(ctx, kind, message) {
        Ok(error) => ctx.throw(error.into_value()),
        Err(error) => error,
    }
}

/// Makes an error without a stack: the engine adds that when the error passes the first function of a script.
///
/// # Errors
/// When there is no memory.
pub fn new_error<'js>(ctx: &Ctx<'js>, kind: ErrorKind, message: &str) -> rquickjs::Result<Object<'js>> {
    let classes = Switchboard::of(ctx)?.errors.get().ok_or(Error::Unknown)?;
    let prototype = classes.prototypes[kind as usize];
    // SAFETY: context and prototype are alive, and the class is the engine's own for errors.
    let error = unsafe { qjs::JS_NewObjectProtoClass(ctx.as_raw().as_ptr(), prototype, classes.class) };
    let error = owned(ctx, error)?.into_object().ok_or(Error::Unknown)?;
    let flags = qjs::JS_PROP_WRITABLE | qjs::JS_PROP_CONFIGURABLE;
    define_with(&error, &Name::new(ctx, "message")?, message.into_js(ctx)?, flags)?;
    Ok(error)
}

/// As [`new_error`], with another prototype.
///
/// # Errors
/// When there is no memory.
pub fn new_error_of<'js>(prototype: &Object<'js>, message: &str) -> rquickjs::Result<Object<'js>> {
    let error = new_error(prototype.ctx(), ErrorKind::Plain, message)?;
    // A new object of the engine's: nothing of the script's sees it.
    error.set_prototype(Some(prototype))?;
    Ok(error)
}

/// The prototype of errors.
///
/// # Errors
/// When the context is of no [`crate::Interpreter`].
pub fn error_prototype<'js>(ctx: &Ctx<'js>) -> rquickjs::Result<Object<'js>> {
    let classes = Switchboard::of(ctx)?.errors.get().ok_or(Error::Unknown)?;
    // SAFETY: the prototype is alive; what is made is a reference more, which belongs to the value.
    let prototype =
        unsafe { qjs::JS_DupValue(ctx.as_raw().as_ptr(), classes.prototypes[ErrorKind::Plain as usize]) };
    owned(ctx, prototype)?.into_object().ok_or(Error::Unknown)
}

/// Defines a property of an object that is no proxy: writable, enumerable and configurable, whatever is on its prototypes.
///
/// # Errors
/// When there is no memory. An object that refuses, because it is frozen, is left as it is.
pub fn define<'js>(object: &Object<'js>, name: &str, value: impl IntoJs<'js>) -> rquickjs::Result<bool> {
    let ctx = object.ctx();
    define_name(object, &Name::new(ctx, name)?, value.into_js(ctx)?)
}

/// As [`define`], for a name that the engine knows already.
///
/// # Errors
/// As of [`define`].
pub fn define_name<'js>(object: &Object<'js>, name: &Name<'js>, value: Value<'js>) -> rquickjs::Result<bool> {
    define_with(object, name, value, qjs::JS_PROP_C_W_E)
}

/// As [`define`], but not enumerable.
///
/// # Errors
/// As of [`define`].
pub fn define_hidden<'js>(
    object: &Object<'js>,
    name: &str,
    value: impl IntoJs<'js>,
) -> rquickjs::Result<bool> {
    let ctx = object.ctx();
    let flags = qjs::JS_PROP_WRITABLE | qjs::JS_PROP_CONFIGURABLE;
    define_with(object, &Name::new(ctx, name)?, value.into_js(ctx)?, flags)
}

fn define_with<'js>(
    object: &Object<'js>,
    name: &Name<'js>,
    value: Value<'js>,
    flags: u32,
) -> rquickjs::Result<bool> {
    if object.is_proxy() {
        return Ok(false);
    }
    let context = object.ctx().as_raw().as_ptr();
    // SAFETY: object, name and value are alive. The engine takes over one reference to the value, which is why there is one
    // more; a property that is defined on what is no proxy calls nothing.
    let defined = unsafe {
        let value = qjs::JS_DupValue(context, value.as_raw());
        qjs::JS_DefinePropertyValue(context, object.as_raw(), name.atom, value, flags as _)
    };
    if defined < 0 { Err(Error::Exception) } else { Ok(defined > 0) }
}

/// Makes an array of what comes, each item defined as an element of its own.
///
/// # Errors
/// When there is no memory, or an item is an error.
pub fn array_of<'js, T: IntoJs<'js>>(
    ctx: &Ctx<'js>,
    items: impl IntoIterator<Item = rquickjs::Result<T>>,
) -> rquickjs::Result<Array<'js>> {
    let array = Array::new(ctx.clone())?;
    for (n, item) in items.into_iter().enumerate() {
        define_element(&array, n, item?)?;
    }
    Ok(array)
}

/// Defines an element of an array.
///
/// # Errors
/// When there is no memory.
pub fn define_element<'js>(array: &Array<'js>, n: usize, item: impl IntoJs<'js>) -> rquickjs::Result<()> {
    let ctx = array.ctx();
    let n = u32::try_from(n).map_err(|_| Error::Unknown)?;
    let item = item.into_js(ctx)?;
    let context = ctx.as_raw().as_ptr();
    // SAFETY: array and item are alive; the engine takes over one reference to the item, which is why there is one more.
    let defined = unsafe {
        let item = qjs::JS_DupValue(context, item.as_raw());
        qjs::JS_DefinePropertyValueUint32(context, array.as_raw(), n, item, qjs::JS_PROP_C_W_E as _)
    };
    if defined < 0 { Err(Error::Exception) } else { Ok(()) }
}

/// The value of a property that an object has itself, if that is neither behind a getter nor a proxy's to say.
pub fn own_data<'js>(object: &Object<'js>, name: &str) -> Option<Value<'js>> {
    own_data_of(object, &Name::new(object.ctx(), name).ok()?)
}

/// As [`own_data`], for the n-th element.
pub fn own_element<'js>(object: &Object<'js>, n: usize) -> Option<Value<'js>> {
    own_data_of(object, &Name::index(object.ctx(), n).ok()?)
}

fn own_data_of<'js>(object: &Object<'js>, name: &Name<'js>) -> Option<Value<'js>> {
    let ctx = object.ctx();
    if object.is_proxy() {
        return None;
    }
    let context = ctx.as_raw().as_ptr();
    let mut found = MaybeUninit::<qjs::JSPropertyDescriptor>::uninit();
    // SAFETY: object and name are alive; what the engine says of an own property of what is no proxy calls nothing.
    let is_found = unsafe { qjs::JS_GetOwnProperty(context, found.as_mut_ptr(), object.as_raw(), name.atom) };
    if is_found < 0 {
        ctx.catch();
    }
    if is_found <= 0 {
        return None;
    }
    // SAFETY: the engine has written all of it, with a reference to each of the three values.
    let (is_data, value, _get, _set) = unsafe {
        let found = found.assume_init();
        let is_data = found.flags & qjs::JS_PROP_GETSET as std::ffi::c_int == 0;
        let value = |raw| Value::from_raw(ctx.clone(), raw);
        (is_data, value(found.value), value(found.getter), value(found.setter))
    };
    is_data.then_some(value)
}

/// The value of a property of an object or of its prototypes; undefined if none has it. None: to find out would run
/// JavaScript.
pub fn data<'js>(object: &Object<'js>, name: &str) -> Option<Value<'js>> {
    /// A longer chain is somebody's trick.
    const PROTOTYPES_MAX: usize = 64;
    let ctx = object.ctx();
    let name = Name::new(ctx, name).ok()?;
    let mut holder = object.clone();
    for _ in 0..PROTOTYPES_MAX {
        if holder.is_proxy() {
            return None;
        }
        if has_own(&holder, &name) {
            return own_data_of(&holder, &name);
        }
        match holder.get_prototype() {
            Some(prototype) => holder = prototype,
            None => return Some(Value::new_undefined(ctx.clone())),
        }
    }
    None
}

/// Whether an object that is no proxy has a property itself.
fn has_own<'js>(object: &Object<'js>, name: &Name<'js>) -> bool {
    let context = object.ctx().as_raw().as_ptr();
    // SAFETY: object and name are alive, and there is no place to write a description to, which the engine allows.
    let is_found = unsafe { qjs::JS_GetOwnProperty(context, ptr::null_mut(), object.as_raw(), name.atom) };
    if is_found < 0 {
        object.ctx().catch();
    }
    is_found > 0
}

/// A string as UTF-8; a lone surrogate, which UTF-8 cannot say, becomes U+FFFD.
///
/// # Errors
/// When there is no memory.
pub fn string_of(text: &rquickjs::String<'_>) -> rquickjs::Result<String> {
    let context = text.ctx().as_raw().as_ptr();
    let mut length = MaybeUninit::uninit();
    // SAFETY: the value is alive and a string: what is made of one calls nothing.
    let start = unsafe { qjs::JS_ToCStringLen(context, length.as_mut_ptr(), text.as_raw()) };
    if start.is_null() {
        return Err(Error::Exception);
    }
    // SAFETY: the engine has written the length of what is there until it is freed, which is once, below.
    let bytes = unsafe { slice::from_raw_parts(start.cast::<u8>(), length.assume_init()) };
    let text = well_formed(bytes);
    // SAFETY: it is the engine's, and nobody looks at it any more.
    unsafe { qjs::JS_FreeCString(context, start) };
    Ok(text)
}

/// UTF-8 of what may have surrogates in it.
fn well_formed(bytes: &[u8]) -> String {
    let mut rest = match str::from_utf8(bytes) {
        Ok(text) => return text.to_owned(),
        Err(_) => bytes,
    };
    let mut text = String::with_capacity(bytes.len());
    loop {
        match str::from_utf8(rest) {
            Ok(last) => {
                text.push_str(last);
                return text;
            }
            Err(error) => {
                let (valid, after) = rest.split_at(error.valid_up_to());
                text.push_str(str::from_utf8(valid).unwrap_or_default());
                text.push(char::REPLACEMENT_CHARACTER);
                // A surrogate takes three bytes, of which UTF-8 calls each one an error.
                let is_surrogate = matches!(after, [0xed, 0xa0..=0xbf, 0x80..=0xbf, ..]);
                rest = &after[if is_surrogate { 3 } else { 1 }.min(after.len())..];
            }
        }
    }
}

/// What a symbol is described with. None if it is no symbol, or has no description.
#[must_use]
pub fn description_of(symbol: &Value<'_>) -> Option<String> {
    if !symbol.is_symbol() {
        return None;
    }
    let context = symbol.ctx().as_raw().as_ptr();
    let mut length = MaybeUninit::uninit();
    // SAFETY: the symbol is alive, and an atom of one is itself. The engine has written the length of what is there until it
    // is freed, which is once.
    unsafe {
        let atom = qjs::JS_ValueToAtom(context, symbol.as_raw());
        let start = qjs::JS_AtomToCStringLen(context, length.as_mut_ptr(), atom);
        qjs::JS_FreeAtom(context, atom);
        if start.is_null() {
            symbol.ctx().catch();
            return None;
        }
        let text = well_formed(slice::from_raw_parts(start.cast::<u8>(), length.assume_init() as usize));
        qjs::JS_FreeCString(context, start);
        Some(text)
    }
}

/// A copy of the bytes of a `Uint8Array`; none of them if its buffer has gone. None if the value is something else.
#[must_use]
pub fn bytes_of(value: &Value<'_>) -> Option<Vec<u8>> {
    let array = value.as_object()?;
    let context = value.ctx().as_raw().as_ptr();
    if !array.is_typed_array::<u8>() {
        return None;
    }
    if !has_element(array, 0) {
        // Of no length, or out of the bounds of its buffer: asked for its bytes, the engine would throw.
        return Some(Vec::new());
    }
    let (mut offset, mut length) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: the array is alive, and within the bounds of its buffer since it has an element: so the engine writes offset and
    // length, and returns the buffer.
    let buffer = unsafe {
        qjs::JS_GetTypedArrayBuffer(
            context,
            array.as_raw(),
            offset.as_mut_ptr(),
            length.as_mut_ptr(),
            ptr::null_mut(),
        )
    };
    let buffer = owned(value.ctx(), buffer).ok()?;
    let mut size = MaybeUninit::uninit();
    // SAFETY: the value is an `ArrayBuffer` that is alive.
    let start = unsafe { qjs::JS_GetArrayBuffer(context, size.as_mut_ptr(), buffer.as_raw()) };
    if start.is_null() {
        value.ctx().catch();
        return Some(Vec::new());
    }
    // SAFETY: the engine has written all three.
    let (offset, length, size) = unsafe {
        (offset.assume_init() as usize, length.assume_init() as usize, size.assume_init() as usize)
    };
    // The length that the engine gives is that of the beginning, for an array that grows and shrinks with its buffer.
    let length = length_of(array, length, size.checked_sub(offset)?);
    // SAFETY: `start` leads to `size` bytes, and the offset and the length have been compared with that. They are copied
    // before anything else of the engine is called, and no other OS thread runs scripts of this interpreter.
    let bytes = unsafe { slice::from_raw_parts(start.add(offset), length) };
    Some(bytes.to_vec())
}

/// How many elements a typed array of bytes has: most likely `likely`, and no more than `most`.
fn length_of(array: &Object<'_>, likely: usize, most: usize) -> usize {
    if likely > 0 && likely <= most && has_element(array, likely - 1) && !has_element(array, likely) {
        return likely;
    }
    let (mut below, mut from) = (0, most);
    while below < from {
        let middle = below + (from - below) / 2;
        if has_element(array, middle) {
            below = middle + 1;
        } else {
            from = middle;
        }
    }
    below
}

fn has_element(array: &Object<'_>, n: usize) -> bool {
    Name::index(array.ctx(), n).is_ok_and(|name| has_own(array, &name))
}

/// A new `Date`.
///
/// # Errors
/// When there is no memory.
pub fn new_date<'js>(ctx: &Ctx<'js>, unix_ms: f64) -> rquickjs::Result<Value<'js>> {
    // SAFETY: the context is alive; the engine makes it of its own prototype.
    owned(ctx, unsafe { qjs::JS_NewDate(ctx.as_raw().as_ptr(), unix_ms) })
}

/// The time of a `Date` in milliseconds from 1970, NaN if it is an invalid one. None if the value is something else.
#[must_use]
pub fn millis_of(value: &Value<'_>) -> Option<f64> {
    /// How the engine writes a date: a version, a checksum and an empty list of names, then these tags.
    const HEADER: usize = 6;
    const DATE: u8 = 18;
    const INT: u8 = 5;
    const FLOAT: u8 = 6;
    // SAFETY: looks at the class.
    if !unsafe { qjs::JS_IsDate(value.as_raw()) } {
        return None;
    }
    let context = value.ctx().as_raw().as_ptr();
    let mut length = MaybeUninit::uninit();
    // The value of a date is behind functions of the script's world. What the engine writes a date as has it as well.
    // SAFETY: the value is alive and a date, of which the engine writes nothing but its value; it calls nothing for that.
    let start = unsafe { qjs::JS_WriteObject(context, length.as_mut_ptr(), value.as_raw(), 0) };
    if start.is_null() {
        value.ctx().catch();
        return Some(f64::NAN);
    }
    // SAFETY: the engine has written the length of what is there until it is freed, which is once, below.
    let written = unsafe { slice::from_raw_parts(start, length.assume_init() as usize) }.to_vec();
    // SAFETY: it is the engine's, and nobody looks at it any more.
    unsafe { qjs::js_free(context, start.cast()) };
    Some(match written.get(HEADER..) {
        Some([DATE, FLOAT, a, b, c, d, e, f, g, h]) => f64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
        Some([DATE, INT, digits @ ..]) => small(digits),
        _ => f64::NAN,
    })
}

/// An integer in base 128, the sign in its lowest bit.
fn small(bytes: &[u8]) -> f64 {
    let unsigned = bytes.iter().take(5).rev().fold(0_u64, |all, byte| all << 7 | u64::from(byte & 0x7f));
    let magnitude = (unsigned >> 1) as i64;
    #[expect(clippy::cast_precision_loss, reason = "it has 32 bits")]
    let number = (magnitude ^ -((unsigned & 1) as i64)) as f64;
    number
}

#[cfg(test)]
mod tests;
