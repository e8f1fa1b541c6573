//! `env`: environment variables, with an overlay that the scripts of a worker share.
//!
//! The process environment is only ever read. Names that begin with `HATS_` are the worker's own (they may hold
//! its password) and do not exist for scripts.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, PoisonError, RwLock};

use rquickjs::{Ctx, IntoJs, Object, Value};

use super::{Call, coerced, define};
use crate::vm::Host;

const OWN_PREFIX: &str = "HATS_";
/// Length of all names and values that scripts may have set: the overlay is not part of any script's heap.
const BYTES_MAX: usize = 4 << 20;
/// What a variable takes beside its name and value.
const ENTRY_BYTES: usize = 64;

/// What scripts have set and unset, on top of the process environment. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct EnvOverlay {
    overlay: Arc<RwLock<Overlay>>,
}

#[derive(Debug, Default)]
struct Overlay {
    // None: unset by a script.
    variables: HashMap<String, Option<String>>,
    // Of all that is in the map.
    bytes: usize,
}

impl EnvOverlay {
    /// The value that a script sees.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<String> {
        if is_own(key) {
            return None;
        }
        let overlay = self.overlay.read().unwrap_or_else(PoisonError::into_inner);
        match overlay.variables.get(key) {
            Some(value) => value.clone(),
            None => std::env::var_os(key).map(|value| value.to_string_lossy().into_owned()),
        }
    }

    /// Sets (or, with None, unsets) a variable for all scripts of the worker.
    ///
    /// # Errors
    /// When the name or the value cannot be one of an environment variable, or there is too much of them.
    pub fn set(&self, key: &str, value: Option<String>) -> Result<(), String> {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(format!("{key:?} is no name of an environment variable"));
        }
        if is_own(key) {
            return Err(format!(
                "{key} belongs to the worker: names that begin with {OWN_PREFIX} cannot be set"
            ));
        }
        if value.as_ref().is_some_and(|value| value.contains('\0')) {
            return Err(format!("the value for {key} contains a NUL character"));
        }
        let mut overlay = self.overlay.write().unwrap_or_else(PoisonError::into_inner);
        let before = overlay.variables.get(key).map_or(0, |known| entry_bytes(key, known.as_deref()));
        let bytes = overlay.bytes - before + entry_bytes(key, value.as_deref());
        if bytes > BYTES_MAX && bytes > overlay.bytes {
            return Err(format!(
                "{key}: the variables set by scripts would take more than {BYTES_MAX} bytes"
            ));
        }
        overlay.bytes = bytes;
        overlay.variables.insert(key.to_owned(), value);
        Ok(())
    }
}

fn entry_bytes(key: &str, value: Option<&str>) -> usize {
    ENTRY_BYTES + key.len() + value.map_or(0, str::len)
}

fn is_own(key: &str) -> bool {
    key.get(..OWN_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWN_PREFIX))
}

pub(super) fn install(ctx: &Ctx<'_>, host: &Rc<Host>) -> rquickjs::Result<()> {
    let env = Object::new(ctx.clone())?;
    define(&env, "env.Get", host, get)?;
    define(&env, "env.Set", host, set)?;
    define(&env, "env.Unset", host, unset)?;
    ctx.globals().set("env", env)
}

fn get<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let value = host.lane.env.get(&call.string(0)?);
    match value {
        Some(value) => value.into_js(call.ctx),
        None => Ok(Value::new_undefined(call.ctx.clone())),
    }
}

fn set<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let key = call.string(0)?;
    let value = call.argument(1);
    if !(value.is_string() || value.is_number() || value.is_bool() || value.is_big_int()) {
        return Err(call.wrong(1, "a string, number, bigint or boolean"));
    }
    let value = coerced(call.ctx, value)?;
    null_or_error(call, host.lane.env.set(&key, Some(value)))
}

fn unset<'js>(host: &Rc<Host>, call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    null_or_error(call, host.lane.env.set(&call.string(0)?, None))
}

fn null_or_error<'js>(call: &Call<'_, 'js>, result: Result<(), String>) -> rquickjs::Result<Value<'js>> {
    match result {
        Ok(()) => Ok(Value::new_null(call.ctx.clone())),
        Err(error) => error.into_js(call.ctx),
    }
}
