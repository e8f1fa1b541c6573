//! A page and its requests: what is made once for each interpreter, and what is done for each request.
//!
//! What must hold: nothing that a request makes in the interpreter owns memory of Rust's. The host functions of a page are
//! made once, with its scope, and look at the request in hand in the [`super::Host`].

use hats_arena::Kept;
use rquickjs::{Ctx, Exception, Function, Module, Value};

use super::failure::Failure;
use super::{Vm, source};
use crate::error::ScriptError;
#[cfg(feature = "http")]
use crate::modules::handler;
use crate::modules::response::{self, Exchange};
use crate::page::{Code, Page, PageRequest, PageResponse};

/// What a page has become in an interpreter.
pub(super) enum Opened {
    /// The page's function.
    Script(Kept<Function<'static>>),
    /// Compiled, not evaluated: each request does.
    Handler {
        /// By which the module may be imported.
        specifier: String,
    },
}

/// The path of a handler whose bundle does not say one: no module has it.
const NO_PATH: &str = "\u{1}";

impl Vm {
    /// Gets everything ready that all requests of the page have in common, unless that has been done. No code of the page
    /// runs.
    pub(crate) fn open(&mut self, page: &Page) -> Result<(), ScriptError> {
        if self.page.is_none() {
            self.page = Some(self.opened(page));
        }
        match &self.page {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn opened(&mut self, page: &Page) -> Result<Opened, ScriptError> {
        let mut bundle = page.bundle.clone();
        let path = bundle.file.get_or_insert_with(|| NO_PATH.into()).clone();
        let bytes = match &page.code {
            Code::Script(text) if !text.is_empty() => bundle.bytes() - bundle.main.len() + text.len(),
            _ => bundle.bytes(),
        };
        self.check_size(bytes, &bundle)?;
        self.preload()?;
        let (source, file) = (&*bundle.main, &*page.file);
        let modules = source::may_be_module(source).then(|| self.host.serve_modules(&bundle, file));
        let host = self.host.clone();
        let opened = self.enter(|ctx| {
            source::refuse_nul(source, file)?;
            match &page.code {
                Code::Script(text) => {
                    let make: Value<'_> = ctx.eval_with_options(source, source::sloppy(file))?;
                    let make = make.into_function();
                    let make = make.ok_or_else(|| Exception::throw_type(ctx, "the script is no page"))?;
                    let page: Function<'_> = make.call((response::writer(ctx, &host, text)?,))?;
                    Ok(Opened::Script(Kept::new(ctx, page)?))
                }
                Code::Handler => {
                    Module::declare(ctx.clone(), file, source)?;
                    #[cfg(feature = "http")]
                    handler::prepare(ctx, &host)?;
                    let name = path.rsplit('/').next().unwrap_or_default();
                    Ok(Opened::Handler { specifier: format!("./{name}") })
                }
            }
        });
        if let Some(modules) = modules {
            if opened.is_err() {
                modules.abandon();
            }
            modules.source_is_declared();
        }
        let opened = opened?;
        hats_fiber::trim_stack();
        Ok(opened)
    }

    /// Answers one request with a page that has been opened.
    pub(crate) fn answer(&mut self, page: &Page, request: PageRequest) -> Result<PageResponse, ScriptError> {
        let host = self.host.clone();
        let exchange = Exchange::new(request, page.content_type.clone(), host.limits.http_body);
        *host.exchange.borrow_mut() = Some(exchange);
        let answered = self.enter(|ctx| self.run_page(ctx));
        let exchange = host.exchange.take();
        // What the request has set in motion ends with it.
        host.operations.clear();
        host.events.clear();
        answered?;
        exchange.map(Exchange::finish).ok_or(ScriptError::Interrupted)
    }

    fn run_page(&self, ctx: &Ctx<'_>) -> Result<(), Failure> {
        match &self.page {
            None | Some(Err(_)) => Err(Exception::throw_internal(ctx, "the page has not been opened").into()),
            Some(Ok(Opened::Script(page))) => {
                let value: Value<'_> = page.get(ctx)?.call(())?;
                self.host.settle(ctx, value.into_promise())
            }
            Some(Ok(Opened::Handler { specifier })) => self.run_handler(ctx, specifier),
        }
    }

    #[cfg(feature = "http")]
    fn run_handler(&self, ctx: &Ctx<'_>, specifier: &str) -> Result<(), Failure> {
        let module = self.awaited(ctx, Module::import(ctx, specifier)?.into_value())?;
        let called = handler::call(ctx, &self.host, &module)?;
        let returned = self.awaited(ctx, called)?;
        Ok(handler::answer(ctx, &self.host, &returned)?)
    }

    #[cfg(not(feature = "http"))]
    fn run_handler(&self, ctx: &Ctx<'_>, _: &str) -> Result<(), Failure> {
        let message = "this worker was built without HTTP for scripts, which handlers need: write a template";
        Err(Exception::throw_message(ctx, message).into())
    }

    /// What a value comes to, if it is a promise, when everything that follows at once has been done.
    #[cfg(feature = "http")]
    fn awaited<'js>(&self, ctx: &Ctx<'js>, value: Value<'js>) -> Result<Value<'js>, Failure> {
        let promise = value.as_promise().cloned();
        self.host.settle(ctx, promise.clone())?;
        match promise.and_then(|promise| promise.result()) {
            Some(result) => Ok(result?),
            None => Ok(value),
        }
    }
}
