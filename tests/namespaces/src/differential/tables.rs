//! A route table in words of its own: neither Istio's nor Envoy's, so that each of the two writers has to translate it.
//!
//! Holds only what has one outcome. Where chance would decide (weights, endpoints of a service that does not hash), a
//! table says it in a form of which every outcome is the same.

/// One service and the routes of requests to it.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its number, from 0; the service is called by it.
    pub number: usize,
    /// How the endpoints of its destinations are chosen; `None` where each has one endpoint at most.
    pub hash: Option<Hash>,
    /// Asked in this order.
    pub rules: Vec<Rule>,
    /// What is asked of both proxies.
    pub requests: Vec<Request>,
}

impl Table {
    /// The name of its service in the namespace `shop`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("t{:04}", self.number)
    }

    /// The authority that a client of it would use.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}.shop", self.name())
    }
}

/// Consistent hashing.
#[derive(Clone, Debug)]
pub struct Hash {
    /// What of a request.
    pub key: HashKey,
    /// Upon what.
    pub upon: HashTable,
}

/// What of a request is hashed.
#[derive(Clone, Debug)]
pub enum HashKey {
    /// The header of this name.
    Header(&'static str),
    /// The cookie of this name; with a time to live one is made where there is none.
    Cookie(&'static str, Option<u32>),
    /// The parameter of this name.
    Parameter(&'static str),
    /// The address of the client.
    Source,
}

/// How hashes become endpoints.
#[derive(Clone, Copy, Debug)]
pub enum HashTable {
    /// A ring of so many entries at least.
    Ring(u32),
    /// A Maglev table of so many slots.
    Maglev(u32),
}

/// An entry of a table.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Told in the header `x-rule`, to the endpoint or the client, so that it shows which rule was taken.
    pub tag: String,
    /// Any of these; none takes everything.
    pub matches: Vec<Match>,
    /// What becomes of the request.
    pub action: Action,
    /// Changes to headers.
    pub headers: Changes,
    /// Path and authority.
    pub rewrite: Option<Rewrite>,
    /// Milliseconds for the whole request.
    pub timeout: Option<u32>,
    /// When it is tried again.
    pub retries: Option<Retries>,
    /// Fault on purpose.
    pub fault: Option<Fault>,
    /// Cross-origin requests.
    pub cors: Option<Cors>,
}

/// What a request must be; everything stated holds.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// The path.
    pub path: Option<Text>,
    /// Whether the case of the path is ignored.
    pub ignoring_case: bool,
    /// The method.
    pub method: Option<Text>,
    /// The scheme.
    pub scheme: Option<Text>,
    /// The authority.
    pub authority: Option<Text>,
    /// Headers that are there.
    pub headers: Vec<(&'static str, Value)>,
    /// Headers that are not.
    pub without: Vec<(&'static str, Value)>,
    /// Parameters of the query.
    pub parameters: Vec<(&'static str, Value)>,
    /// The port of the service.
    pub port: Option<u16>,
    /// The label `app` of the workload that calls.
    pub source_app: Option<&'static str>,
    /// Only at a gateway of this name.
    pub gateway: Option<&'static str>,
}

/// A condition on a string.
#[derive(Clone, Debug)]
pub enum Text {
    /// Equal.
    Exact(String),
    /// Begins with.
    Prefix(String),
    /// Matches whole.
    Regex(&'static Pattern),
}

/// A regex, what it takes and what it just does not.
#[derive(Debug)]
pub struct Pattern {
    /// The regex, in RE2's syntax.
    pub regex: &'static str,
    /// Strings it takes.
    pub hits: &'static [&'static str],
    /// Strings it does not take.
    pub misses: &'static [&'static str],
}

/// A condition on a header or parameter.
#[derive(Clone, Debug)]
pub enum Value {
    /// It is there.
    Present,
    /// Its value is this.
    Is(Text),
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sent on to one of these.
    Forward(Vec<Destination>),
    /// Sent elsewhere.
    Redirect(Redirect),
    /// Answered by the proxy: status and body.
    Respond(u16, Option<String>),
}

/// Where a request is sent on.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The subset of the table's service; `None` for the whole of it.
    pub subset: Option<&'static str>,
    /// The port of the service; `None` for the one that was called.
    pub port: Option<u16>,
    /// Its part of the sum of all.
    pub weight: u32,
    /// Changes to headers.
    pub headers: Changes,
}

/// Where a client is sent.
#[derive(Clone, Debug, Default)]
pub struct Redirect {
    /// The whole path.
    pub path: Option<String>,
    /// Instead of the prefix that matched.
    pub prefix: Option<String>,
    /// Host, perhaps with a port.
    pub authority: Option<String>,
    /// `http` or `https`.
    pub scheme: Option<&'static str>,
    /// The port.
    pub port: Option<RedirectPort>,
    /// The status; `None` for 301.
    pub status: Option<u16>,
}

/// The port of a redirect.
#[derive(Clone, Copy, Debug)]
pub enum RedirectPort {
    /// This one.
    Number(u16),
    /// The scheme's own.
    OfScheme,
    /// The one that was called.
    OfRequest,
}

/// Changes to the headers of request and response.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Of the request.
    pub request: Operations,
    /// Of the response.
    pub response: Operations,
}

/// Changes to headers, in no order.
#[derive(Clone, Debug, Default)]
pub struct Operations {
    /// In place of what there is.
    pub set: Vec<(&'static str, String)>,
    /// Beside what there is.
    pub add: Vec<(&'static str, String)>,
    /// Taken out.
    pub remove: Vec<&'static str>,
}

/// Path and authority of a request that is sent on.
#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    /// In place of what matched.
    pub path: Option<String>,
    /// A regex and what its matches become.
    pub regex: Option<(&'static str, &'static str)>,
    /// The authority.
    pub authority: Option<String>,
}

/// When a request is tried again.
#[derive(Clone, Debug, Default)]
pub struct Retries {
    /// How often at most.
    pub attempts: Option<u32>,
    /// Upon what; `None` leaves the default.
    pub on: Option<String>,
    /// Milliseconds for each try.
    pub per_try: Option<u32>,
}

/// A fault on purpose, of all requests or of none.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Milliseconds of delay.
    pub delay: Option<u32>,
    /// What is answered.
    pub abort: Option<Abort>,
    /// 100 or 0.
    pub percent: u32,
}

/// What an aborted request is answered.
#[derive(Clone, Copy, Debug)]
pub enum Abort {
    /// A status.
    Http(u16),
    /// A status of gRPC: its name and number.
    Grpc(&'static str, u32),
}

/// Cross-origin requests.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    /// Who may ask.
    pub origins: Vec<Text>,
    /// What they may do.
    pub methods: Vec<&'static str>,
    /// What they may send.
    pub headers: Vec<&'static str>,
    /// What they may see.
    pub expose: Vec<&'static str>,
    /// Seconds that this holds.
    pub max_age: Option<u32>,
    /// Whether they may use cookies.
    pub credentials: Option<bool>,
    /// Whether a preflight of another origin is kept from the service.
    pub ignoring_unmatched: bool,
}

/// A request, as it is written on the wire.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    /// `Host`.
    pub authority: String,
    /// Further headers, in order.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Option<&'static str>,
    /// The port of the service.
    pub port: u16,
}

impl Request {
    /// The value of a header, of several the first.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| *it == name).map(|(_, value)| value.as_str())
    }

    /// The path, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}
