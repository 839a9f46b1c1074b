//! HTTP load: closed loop, each connection asking again as soon as it is answered, or open loop at a fixed rate.
//!
//! At a fixed rate each connection has its own exact schedule, evenly between those of the others, and times count from when
//! a request was due: a stall is charged to every request it held up.

use std::{
    net::SocketAddr,
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use harness::report::Failure;
use hyper::Uri;
use tokio::time::timeout;

use crate::{
    get::target,
    net::{connect, late},
    raw_http::{HttpConnection, request},
    tally::{self, Amount, Tally},
    ticker::Ticker,
};

#[derive(Args)]
pub(crate) struct Flags {
    /// `http://ADDRESS[:PORT]/PATH`
    url: Uri,
    /// Connect here whatever the URL says
    #[arg(long)]
    connect: Option<SocketAddr>,
    /// Connections at a time
    #[arg(long, short, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    connections: u32,
    /// Requests per second over all connections; as many as possible when not given
    #[arg(long)]
    rate: Option<f64>,
    /// A further header, `NAME: VALUE`; may be given several times
    #[arg(long, value_parser = field)]
    header: Vec<String>,
    #[command(flatten)]
    amount: Amount,
}

/// A header that does not end the head early.
fn field(text: &str) -> Result<String, String> {
    let is_field = text.split_once(": ").is_some_and(|(name, _)| !name.is_empty() && !name.contains(' '));
    if is_field && !text.contains(['\r', '\n']) { Ok(text.into()) } else { Err("write NAME: VALUE".into()) }
}

pub(crate) async fn run(flags: Flags) -> Result<ExitCode> {
    let to = flags.connect.map_or_else(|| target(&flags.url), Ok)?;
    let request: Rc<[u8]> = request(&flags.url, to, &flags.header, false).into();
    let within = flags.amount.timeout();
    tally::run(flags.amount, flags.connections, |tally, number| {
        let client = Client { to, request: Rc::clone(&request), within, connection: None };
        let schedule = flags.rate.map(|rate| (rate, f64::from(number), f64::from(flags.connections)));
        async move {
            match schedule {
                None => closed_loop(client, &tally).await,
                Some((rate, number, of)) => {
                    let delay = Duration::from_secs_f64((number + 1.0) / rate);
                    open_loop(client, &tally, Ticker::new(delay, Duration::from_secs_f64(of / rate))?).await
                }
            }
        }
    })
    .await
}

async fn closed_loop(mut client: Client, tally: &Tally) -> Result<()> {
    while tally.take() {
        client.ask(tally, Instant::now()).await;
    }
    Ok(())
}

async fn open_loop(mut client: Client, tally: &Tally, mut ticker: Ticker) -> Result<()> {
    loop {
        let due = ticker.tick().await?;
        if !tally.take() {
            return Ok(());
        }
        client.ask(tally, due).await;
    }
}

struct Client {
    to: SocketAddr,
    request: Rc<[u8]>,
    within: Duration,
    connection: Option<HttpConnection>,
}

impl Client {
    /// One request on the connection there is, or a new one after a failure.
    async fn ask(&mut self, tally: &Tally, since: Instant) {
        match self.exchange(tally, since).await {
            Ok(keep) if keep => {}
            Ok(_) => self.connection = None,
            Err(failure) => {
                self.connection = None;
                tally.failed(&failure).await;
            }
        }
    }

    async fn exchange(&mut self, tally: &Tally, since: Instant) -> Result<bool, Failure> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(HttpConnection::new(connect(self.to, self.within).await?)),
        };
        let answer = timeout(self.within, connection.exchange(&self.request)).await;
        let answered = answer.unwrap_or_else(|_| Err(late(self.within)))?;
        tally.done(since, answered.body);
        tally.status(answered.status);
        Ok(!answered.last)
    }
}
