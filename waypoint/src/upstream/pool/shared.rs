//! Connections that several requests may share, while one of them makes it.
//!
//! A burst of requests towards an endpoint without a connection would make one each. Knows nothing of how connections are
//! made, nor what they are. The surprising thing: a request that is withdrawn while it makes one leaves that to whoever
//! waited for it.

use std::sync::Arc;

use common::refusal::Refusal;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::{Connections, MAX_IDLE_CONNECTIONS, PoolKey, Pooled};
use crate::upstream::Stated;
use crate::upstream::dispatch::Failed;

/// How it went to make a connection; nothing as yet.
type Told = Option<Result<(), Refusal>>;

/// A connection that is being made.
#[derive(Debug)]
pub(super) struct Expected {
    told: watch::Receiver<Told>,
    /// Requests that count on it, its maker among them.
    requests: u32,
    /// How many may.
    most: u32,
}

/// What a request does that finds no connection.
enum Turn<'p> {
    /// It makes one.
    Make(Maker<'p>),
    /// It waits for one.
    Wait(watch::Receiver<Told>),
}

/// Whoever makes a connection that others may wait for.
struct Maker<'p> {
    pool: &'p Connections,
    key: &'p PoolKey,
    tells: watch::Sender<Told>,
}

impl Connections {
    /// A connection that can take a request now: by `make`, which keeps it here, or one that another request makes
    /// meanwhile and at `most` so many share. No wait for one that another makes goes on beyond `late`; then it makes one of
    /// its own, which may wait for a place, or hears why not.
    ///
    /// # Errors
    /// [`Failed`] when it cannot be made, by whomever.
    pub(in crate::upstream) async fn share<R>(
        &self,
        (key, stated): (&PoolKey, &Arc<Stated>),
        (most, late): (u32, Instant),
        make: impl Fn() -> R,
    ) -> Result<Pooled, Failed>
    where
        R: Future<Output = Result<Pooled, Failed>>,
    {
        loop {
            let mut told = match self.turn(key, most) {
                Turn::Make(maker) => {
                    let made = make().await;
                    maker.tell(&made);
                    return made;
                }
                Turn::Wait(told) => told,
            };
            let told = timeout_at(late, told.wait_for(Option::is_some)).await.map(|it| it.ok()?.clone());
            match told {
                Ok(Some(Err(refusal))) => return Err(Failed::Connect(refusal)),
                Ok(Some(Ok(())) | None) => {}
                // What it met itself is true of it; the other may wait for a place that no endpoint can give.
                Err(_) => return make().await,
            }
            // Another may have been quicker, or the maker was withdrawn.
            if let Some(pooled) = self.take(key, stated) {
                return Ok(pooled);
            }
        }
    }

    fn turn<'p>(&'p self, key: &'p PoolKey, most: u32) -> Turn<'p> {
        let mut kept = self.lock();
        if let Some(expected) = kept.expected.get_mut(key)
            && expected.requests < expected.most
        {
            expected.requests += 1;
            return Turn::Wait(expected.told.clone());
        }
        let (tells, told) = watch::channel(None);
        // One that cannot be kept is there for its maker alone. One that is full is expected by those who wait for it.
        if kept.count < MAX_IDLE_CONNECTIONS {
            kept.expected.insert(key.clone(), Expected { told, requests: 1, most });
        }
        Turn::Make(Maker { pool: self, key, tells })
    }
}

impl Maker<'_> {
    /// Tells those who wait. A limit of ours that the maker met is not theirs: they look for themselves.
    fn tell(self, made: &Result<Pooled, Failed>) {
        match made {
            Ok(_) => drop(self.tells.send_replace(Some(Ok(())))),
            Err(Failed::Connect(refusal)) => drop(self.tells.send_replace(Some(Err(refusal.clone())))),
            Err(Failed::Overflow(_) | Failed::Reset(_) | Failed::Protocol) => {}
        }
    }
}

impl Drop for Maker<'_> {
    fn drop(&mut self) {
        let mut kept = self.pool.lock();
        let own = self.tells.subscribe();
        if kept.expected.get(self.key).is_some_and(|expected| expected.told.same_channel(&own)) {
            kept.expected.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests;
