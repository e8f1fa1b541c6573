//! What the coordinator tells whoever answers requests, and what that asks it: which endpoints there are, what one of
//! them is, and how it fails.

mod failures;

use tokio::sync::{mpsc, watch};

use super::{Command, Handle};
use crate::error::Error;
use crate::name::EndpointPath;
use crate::records::{Endpoint, FieldError};

pub(super) use self::failures::Failures;

/// News for whoever answers requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointNews {
    /// After a sweep: these are all the endpoints that there are, and perhaps one that was removed meanwhile. Disabled
    /// and malformed ones are among them.
    Found(Vec<EndpointPath>),
    /// This one is new, was changed or removed.
    Changed(EndpointPath),
    /// After a gap in what is noticed anything may have changed. A sweep follows.
    Gap,
}

/// News, as [`Handle::endpoint_feed`] gives them.
#[derive(Debug)]
pub struct EndpointFeed {
    /// What happens. Before the first [`EndpointNews::Found`] it is not known which endpoints there are.
    pub news: mpsc::UnboundedReceiver<EndpointNews>,
    /// Whether changes are pushed. Else nothing is told but what sweeps find, about every 5 s, and what is served has to
    /// be read again before it is too old. When it turns true, [`EndpointNews::Gap`] is on its way.
    pub pushed: watch::Receiver<bool>,
}

impl Handle {
    /// Begins to tell about endpoints; who asks last is told.
    #[must_use]
    pub fn endpoint_feed(&self) -> EndpointFeed {
        let (tell, news) = mpsc::unbounded_channel();
        self.send(Command::FeedEndpoints(tell));
        EndpointFeed { news, pushed: self.shared.pushed.clone() }
    }

    /// This endpoint was written just now: whoever answers requests here is told so, without waiting for the watch or for the
    /// next sweep where nothing is pushed.
    pub fn look_at_endpoint(&self, path: EndpointPath) {
        self.send(Command::LookEndpoint(path));
    }

    /// Reads an endpoint: one request to Redis. None: there is none. What is in it may be disabled, and a malformed field
    /// is in the hash's `Error` after this.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn endpoint(&self, path: &EndpointPath) -> Result<Option<Result<Endpoint, FieldError>>, Error> {
        self.read_endpoint(path, None).await
    }

    /// As [`Handle::endpoint`]. A source that is known already does not come over the wire again.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn endpoint_again(
        &self,
        path: &EndpointPath,
        known: &Endpoint,
    ) -> Result<Option<Result<Endpoint, FieldError>>, Error> {
        self.read_endpoint(path, Some(known)).await
    }

    async fn read_endpoint(
        &self,
        path: &EndpointPath,
        known: Option<&Endpoint>,
    ) -> Result<Option<Result<Endpoint, FieldError>>, Error> {
        let read = self.shared.store.read_endpoint(path, known).await?;
        self.shared.failures.seen(&self.shared.store, path, read.as_ref());
        Ok(read.map(|read| read.definition))
    }

    /// An endpoint has failed at a request: writes `Error` and `ErrorTime` for people, if it still exists. Returns at once;
    /// of many errors in a short time the last one is written, once in 10 s.
    pub fn endpoint_failed(&self, path: &EndpointPath, error: impl Into<String>) {
        self.shared.failures.failed(&self.shared.store, path, error.into());
    }

    /// An endpoint has answered a request without failing. Removes an `Error` that is over: one of another source, or one
    /// that has not come again for a minute. Costs next to nothing where there is none.
    pub fn endpoint_ok(&self, path: &EndpointPath) {
        self.shared.failures.ok(&self.shared.store, path);
    }
}
