//! The way to a provider's service, as those who send need it. Each proxy has its own.

use std::pin::Pin;

use http::Version;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::destination::pool::Http2Keepalive;
use crate::config::mesh::ProviderService;

/// What HTTP can be spoken on.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A connection to a provider.
pub struct Way {
    /// The connection.
    pub io: Box<dyn ByteStream>,
    /// How signs of life are asked for on it, where it is of HTTP/2.
    pub keepalive: Option<Http2Keepalive>,
}

/// A connection that is being made. What there is not is said in words.
pub type Connecting<'c> = Pin<Box<dyn Future<Output = Result<Way, String>> + Send + 'c>>;

/// What a connection is wanted for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'c> {
    /// Where to.
    pub service: &'c ProviderService,
    /// Which HTTP will be spoken on it.
    pub version: Version,
    /// Whether headers that an operator states will be sent on it, which are keys more often than not.
    pub has_headers: bool,
}

/// Makes connections to the services of providers.
pub trait Dial: Send + Sync {
    /// A connection.
    fn connect<'c>(&'c self, wanted: Wanted<'c>) -> Connecting<'c>;
}
