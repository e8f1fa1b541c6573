//! A page and its requests: what is made once for each interpreter, and what is done for each request.
//!
//! What must hold: nothing that a request makes in the interpreter owns memory of Rust's. The host functions of a page are
//! made once, with its scope, and look at the request in hand in the [`super::Host`].

#[cfg(feature = "http")]
use std::ffi::CString;

use hats_arena::{Kept, entry};
#[cfg(feature = "http")]
use rquickjs::{Ctx, Value};
use rquickjs::{Exception, Function, IntoJs};

#[cfg(feature = "http")]
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
    pub(crate) async fn open(&mut self, page: &Page) -> Result<(), ScriptError> {
        if self.page.is_none() {
            self.page = Some(self.opened(page).await);
        }
        match &self.page {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    async fn opened(&mut self, page: &Page) -> Result<Opened, ScriptError> {
        let mut bundle = page.bundle.clone();
        let path = bundle.file.get_or_insert_with(|| NO_PATH.into()).clone();
        let bytes = match &page.code {
            Code::Script(text) if !text.is_empty() => bundle.bytes() - bundle.main.len() + text.len(),
            _ => bundle.bytes(),
        };
        self.check_size(bytes, &bundle)?;
        self.preload().await?;
        let (source, file) = (&*bundle.main, &*page.file);
        let modules = source::may_be_module(source).then(|| self.host.serve_modules(&bundle, file));
        let host = self.host.clone();
        let text = source::Text::new(source, file)?;
        self.host.begin_call()?;
        let opened = self.step(|ctx| match &page.code {
            Code::Script(literals) => {
                let make = text.evaluate(ctx)?.into_function();
                let make = make.ok_or_else(|| Exception::throw_type(ctx, "the script is no page"))?;
                let writer = response::writer(ctx, &host, literals)?;
                let page = entry::call(ctx, &make, &[writer.into_js(ctx)?])?;
                let page = page.into_function().ok_or(rquickjs::Error::Unknown)?;
                Ok(Opened::Script(Kept::new(ctx, page)?))
            }
            Code::Handler => {
                text.declare(ctx)?;
                #[cfg(feature = "http")]
                handler::prepare(ctx, &host)?;
                let name = path.rsplit('/').next().unwrap_or_default();
                Ok(Opened::Handler { specifier: format!("./{name}") })
            }
        });
        let opened = opened.await;
        let opened = self.ended(opened);
        if let Some(modules) = modules {
            if opened.is_err() {
                modules.abandon();
            }
            modules.source_is_declared();
        }
        let opened = opened?;
        self.interpreter.trim_stack(super::STACK_KEPT_BYTES);
        Ok(opened)
    }

    /// Answers one request with a page that has been opened.
    pub(crate) async fn answer(
        &mut self,
        page: &Page,
        request: PageRequest,
    ) -> Result<PageResponse, ScriptError> {
        let host = self.host.clone();
        let exchange = Exchange::new(request, page.content_type.clone(), host.limits.http_body);
        *host.exchange.borrow_mut() = Some(exchange);
        let answered = self.run_page().await;
        let exchange = host.exchange.take();
        // What the request has set in motion ends with it.
        host.operations.clear();
        host.events.clear();
        answered?;
        exchange.map(Exchange::finish).ok_or(ScriptError::Interrupted)
    }

    async fn run_page(&self) -> Result<(), ScriptError> {
        match &self.page {
            None | Some(Err(_)) => Err(ScriptError::Engine("the page has not been opened".to_owned())),
            Some(Ok(Opened::Script(page))) => {
                self.call_through(|ctx| Ok(entry::call(ctx, &page.get(ctx)?, &[])?), super::nothing).await
            }
            Some(Ok(Opened::Handler { specifier })) => self.run_handler(specifier).await,
        }
    }

    #[cfg(feature = "http")]
    async fn run_handler(&self, specifier: &str) -> Result<(), ScriptError> {
        let host = &self.host;
        let specifier = CString::new(specifier).unwrap_or_default();
        let run = async {
            let module =
                self.settled(|ctx| Ok(entry::import(ctx, c"", &specifier)?.into_value()), keep).await?;
            let returned = self.settled(|ctx| Ok(handler::call(ctx, host, &module.get(ctx)?)?), keep).await?;
            self.step(|ctx| Ok(handler::answer(ctx, host, &returned.get(ctx)?)?)).await
        };
        self.host.begin_call()?;
        let run = run.await;
        self.ended(run)
    }

    #[cfg(not(feature = "http"))]
    async fn run_handler(&self, _: &str) -> Result<(), ScriptError> {
        let message = "this worker was built without HTTP for scripts, which handlers need: write a template";
        Err(ScriptError::Engine(message.to_owned()))
    }
}

#[cfg(feature = "http")]
fn keep<'js>(ctx: &Ctx<'js>, value: Value<'js>) -> Result<Kept<Value<'static>>, Failure> {
    Ok(Kept::new(ctx, value)?)
}
