//! Values of the engine that Rust keeps from one entry to the next.

#![expect(clippy::disallowed_types, reason = "this is what is used in its place")]

use std::fmt;
use std::mem::ManuallyDrop;
use std::rc::Rc;

use hats_fiber::engine;
use rquickjs::{Ctx, JsLifetime, Persistent};

use crate::interpreter::{Engine, State};
use crate::native::Switchboard;

/// A value that is kept. Its engine lives for as long as it does.
pub struct Kept<T> {
    // Invariant: taken out by `drop` alone.
    value: ManuallyDrop<Persistent<T>>,
    state: Rc<State>,
    engine: Rc<Engine>,
    /// Kept before the seal: it is there again after each reset.
    is_old: bool,
}

impl<T> Kept<T> {
    /// Keeps a value.
    ///
    /// # Errors
    /// When the value is of no [`crate::Interpreter`].
    pub fn new<'js, V>(ctx: &Ctx<'js>, value: V) -> rquickjs::Result<Self>
    where
        V: JsLifetime<'js, Changed<'static> = T>,
    {
        let state = Switchboard::of(ctx)?.state.clone();
        let engine = state.engine().ok_or(rquickjs::Error::Unknown)?;
        let is_old = !state.is_sealed();
        if !is_old {
            state.kept.set(state.kept.get() + 1);
        }
        Ok(Self { value: ManuallyDrop::new(Persistent::save(ctx, value)), state, engine, is_old })
    }

    /// True if it is kept since after the seal: it has to be dropped before a reset.
    #[must_use]
    pub fn is_new(&self) -> bool {
        !self.is_old
    }

    /// The value, inside its interpreter.
    ///
    /// # Errors
    /// When it is of another one.
    pub fn get<'js>(&self, ctx: &Ctx<'js>) -> rquickjs::Result<T::Changed<'js>>
    where
        T: JsLifetime<'static> + Clone,
    {
        Persistent::clone(&self.value).restore(ctx)
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        if !self.is_old {
            self.state.kept.set(self.state.kept.get() - 1);
        } else if self.state.is_sealed() {
            // After a reset the engine would count a reference that nobody has.
            self.state.released.set(true);
        }
        // Of an engine that is over it is forgotten: it goes with the engine's memory.
        if !self.engine.is_over() {
            // To free what the value led to may take long: so it is a part of the engine's work, where that may be.
            let value = &mut self.value;
            let mut give_back = || {
                // SAFETY: nobody uses the value after this.
                #[expect(unsafe_code, reason = "see the safety note")]
                let value = unsafe { ManuallyDrop::take(value) };
                drop(value);
            };
            if hats_fiber::may_enter_engine() {
                engine(give_back);
            } else {
                give_back();
            }
        }
    }
}

impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("is_old", &self.is_old).finish_non_exhaustive()
    }
}
