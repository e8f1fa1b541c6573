//! Where the definitions of endpoints come from.

use std::future::Future;
use std::pin::Pin;

use hats_cluster::name::EndpointPath;
use hats_cluster::records::{Endpoint, FieldError};
use hats_cluster::{Error, Handle};

/// One reading of a definition. None: there is none.
pub(crate) type Read = Result<Option<Result<Endpoint, FieldError>>, Error>;

/// What the routes ask the cluster, which is [`Handle`] but in their tests.
pub(crate) trait Definitions: Send + Sync + 'static {
    /// The Redis key of a definition.
    fn key(&self, path: &EndpointPath) -> String;

    /// Reads a definition; what is known of it need not be fetched again.
    fn read(&self, path: EndpointPath, known: Option<Endpoint>)
    -> Pin<Box<dyn Future<Output = Read> + Send>>;
}

impl Definitions for Handle {
    fn key(&self, path: &EndpointPath) -> String {
        self.store().keys().endpoint(path)
    }

    fn read(
        &self,
        path: EndpointPath,
        known: Option<Endpoint>,
    ) -> Pin<Box<dyn Future<Output = Read> + Send>> {
        let cluster = self.clone();
        Box::pin(async move {
            match known {
                Some(known) => cluster.endpoint_again(&path, &known).await,
                None => cluster.endpoint(&path).await,
            }
        })
    }
}
