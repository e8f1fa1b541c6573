//! What goes wrong inside the interpreter, and what it means to those outside.

use hats_arena::entry;
use rquickjs::{CaughtError, Ctx, Error, Value};

use super::Host;
use crate::error::{ScriptError, Thrown};
use crate::modules::{is_error, text_of};

/// What the engine says when the stack is full. A script that throws the same is taken at its word.
const STACK_OVERFLOW: &str = "Maximum call stack size exceeded";

/// Either is possible inside a call: the interpreter's error, whose value is still pending in it, or one of ours.
pub(crate) enum Failure {
    /// From the interpreter.
    Js(Error),
    /// Already understood.
    Script(ScriptError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Js(error)
    }
}

impl From<ScriptError> for Failure {
    fn from(error: ScriptError) -> Self {
        Self::Script(error)
    }
}

impl Host {
    /// Finds out what a failure means. An error that followed from ending the call is that end's error.
    pub(crate) fn explain(&self, ctx: &Ctx<'_>, failure: Failure) -> ScriptError {
        let error = match failure {
            Failure::Script(error) => {
                self.events.forget_failures();
                return error;
            }
            Failure::Js(error) => error,
        };
        let caught = CaughtError::from_error(ctx, error);
        if let Some(end) = self.ended() {
            self.events.forget_failures();
            return end;
        }
        match caught {
            CaughtError::Exception(exception) => {
                self.thrown(ctx, exception.into_object().into_value(), false)
            }
            CaughtError::Value(value) => self.thrown(ctx, value, false),
            CaughtError::Error(Error::Allocation) => ScriptError::Memory(self.limits.memory),
            CaughtError::Error(error) => ScriptError::Thrown(Thrown {
                name: "InternalError".to_owned(),
                message: error.to_string(),
                stack: String::new(),
                rejected: false,
            }),
        }
    }

    /// What a thrown value says, whatever it is.
    pub(crate) fn thrown<'js>(&self, ctx: &Ctx<'js>, value: Value<'js>, rejected: bool) -> ScriptError {
        self.events.forget_failures();
        let Some(error) = value.as_object().filter(|_| is_error(&value)) else {
            return self.thrown_value(&value, text_of(self, ctx, &value), rejected);
        };
        // Each may be a getter of the script's that throws in turn.
        let [name, message, stack] = ["name", "message", "stack"].map(|name| {
            let part: rquickjs::Result<Value<'_>> = entry::run(|| error.get(name));
            part.unwrap_or_else(|_| {
                ctx.catch();
                Value::new_undefined(ctx.clone())
            })
        });
        let text =
            |part: &Value<'js>| if part.is_undefined() { String::new() } else { text_of(self, ctx, part) };
        let (name, message, stack) = (text(&name), text(&message), text(&stack));
        self.understood(Thrown { name, message, stack, rejected })
    }

    /// A thrown value that is no error, and its text.
    pub(crate) fn thrown_value(&self, value: &Value<'_>, mut message: String, rejected: bool) -> ScriptError {
        if value.is_null() {
            // The engine throws a bare null when there is no memory left for an error.
            let limit = self.limits.memory;
            message.push_str(&format!(
                " (by the script, or for want of memory: its heap limit, MemoryLimit, is {limit} bytes)"
            ));
        }
        ScriptError::Thrown(Thrown { name: String::new(), message, stack: String::new(), rejected })
    }

    /// What an error means that says this.
    pub(crate) fn understood(&self, thrown: Thrown) -> ScriptError {
        if thrown.name == "InternalError" && thrown.message == "out of memory" {
            return ScriptError::Memory(self.limits.memory);
        }
        if thrown.name == "RangeError" && thrown.message == STACK_OVERFLOW {
            return ScriptError::Stack(self.limits.stack, thrown);
        }
        ScriptError::Thrown(thrown)
    }
}
