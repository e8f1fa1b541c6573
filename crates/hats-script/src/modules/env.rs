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

/// What scripts have set and unset, on top of the process environment. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct EnvOverlay {
    // None: unset by a script.
    variables: Arc<RwLock<HashMap<String, Option<String>>>>,
}

impl EnvOverlay {
    /// The value that a script sees.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<String> {
        if is_own(key) {
            return None;
        }
        let overlay = self.variables.read().unwrap_or_else(PoisonError::into_inner);
        match overlay.get(key) {
            Some(value) => value.clone(),
            None => std::env::var_os(key).map(|value| value.to_string_lossy().into_owned()),
        }
    }

    /// Sets (or, with None, unsets) a variable for all scripts of the worker.
    ///
    /// # Errors
    /// When the name or the value cannot be one of an environment variable.
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
        self.variables.write().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), value);
        Ok(())
    }
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
