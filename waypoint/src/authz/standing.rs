//! One request or connection before policy: judged when it comes, and again whenever policies change while it lasts.
//!
//! The surprising thing: it keeps the head of its request to its end, because a policy that comes later asks for it; but
//! where there is no policy at all it keeps none, so that requests cost nothing there. One that is under way when the very
//! first policy comes is judged like a connection: whatever only HTTP could tell counts against it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use common::snapshot::Snapshot;
use tracing::Level;

use super::called::Called;
use super::live::Place;
use super::{Denial, Effective, Facts, HttpFacts, Policies};
use crate::authn::Authenticated;
use crate::exchange::head::Head;
use crate::serve::Conversation;

/// A request or a connection that is under way.
pub struct Standing {
    conversation: Arc<Conversation>,
    place: Place,
    /// The turn of the policies it was judged by.
    turn: AtomicU64,
    /// What its client asks for; `None` of a connection that is not HTTP, and where there was no policy.
    head: Option<Box<Head>>,
    /// Whose request it is, by its tokens.
    authenticated: Authenticated,
    /// The providers of CUSTOM policies that let it through.
    agreed: Vec<Arc<str>>,
    /// The server that the TLS of a connection names.
    server_name: Option<Box<str>>,
}

impl Standing {
    /// A request; `None` when too many are under way on its connection.
    pub(crate) fn request(conversation: &Arc<Conversation>, head: &Head) -> Option<Self> {
        let standing = Self::new(conversation)?;
        let followed = conversation.worker.shared.routes.load();
        let kept = (!is_quiet(followed.mesh(), followed.policies())).then(|| Box::new(head.clone()));
        Some(Self { head: kept, authenticated: head.authenticated.clone(), ..standing })
    }

    /// A connection that is not HTTP, with the server that its TLS names; `None` when too many are under way.
    pub(crate) fn connection(conversation: &Arc<Conversation>, server_name: Option<&str>) -> Option<Self> {
        Some(Self { server_name: server_name.map(Into::into), ..Self::new(conversation)? })
    }

    fn new(conversation: &Arc<Conversation>) -> Option<Self> {
        let place = conversation.live.place()?;
        // Before policies are looked at: what changes from here on is seen by the next look.
        let turn = AtomicU64::new(conversation.live.registry().turn());
        Some(Self {
            conversation: conversation.clone(),
            place,
            turn,
            head: None,
            authenticated: Authenticated::default(),
            agreed: Vec::new(),
            server_name: None,
        })
    }

    /// The providers of CUSTOM policies that have to agree to a request before it is admitted, each once.
    ///
    /// # Errors
    /// The [`Denial`], where nobody needs to be asked.
    pub(crate) fn providers(&self, head: &Head) -> Result<Vec<Arc<str>>, Denial> {
        let mut all = Vec::new();
        if !self.conversation.worker.shared.routes.load().policies().has_custom() {
            return Ok(all);
        }
        self.each(Some(head), |effective, facts| {
            for provider in effective.providers(facts)? {
                if !all.contains(&provider) {
                    all.push(provider);
                }
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// A provider has agreed to the request, and has perhaps changed its head.
    pub(crate) fn agreed(&mut self, provider: Arc<str>, head: &Head) {
        self.agreed.push(provider);
        if let Some(kept) = &mut self.head {
            **kept = head.clone();
        }
    }

    /// Judges it as it comes, with the head of its request if it is one, and tells what policies say that is not enforced.
    ///
    /// # Errors
    /// The [`Denial`].
    pub(crate) fn admit(&self, head: Option<&Head>) -> Result<(), Denial> {
        self.judge(head, |effective, facts| {
            if let Some(policy) = effective.audited(facts) {
                let (method, path) = line(facts);
                tracing::info!(target: "audit", %policy, method, path, source = %facts.source, "matched");
            }
            if tracing::enabled!(Level::INFO)
                && let Some(policy) = effective.would_refuse(facts)
            {
                let (method, path) = line(facts);
                tracing::info!(%policy, method, path, source = %facts.source, "dry-run: would refuse");
            }
        })
    }

    /// Ready when policies that have changed no longer let it go on.
    pub(crate) fn poll_revoked(&self, cx: &mut Context<'_>) -> Poll<Denial> {
        self.place.register(cx.waker());
        let turn = self.conversation.live.registry().turn();
        if self.turn.swap(turn, Ordering::Relaxed) == turn {
            return Poll::Pending;
        }
        match self.judge(self.head.as_deref(), |_, _| {}) {
            Ok(()) => Poll::Pending,
            Err(denial) => Poll::Ready(denial),
        }
    }

    /// Waits until it is revoked.
    pub(crate) async fn revoked(&self) -> Denial {
        poll_fn(|cx| self.poll_revoked(cx)).await
    }

    /// Carries on for as long as policy allows it.
    ///
    /// # Errors
    /// The [`Denial`] that ended it.
    pub(crate) async fn unless_revoked<F: Future>(&self, future: F) -> Result<F::Output, Denial> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_revoked(cx).map(Err),
        })
        .await
    }

    fn judge(&self, head: Option<&Head>, tell: impl Fn(&Effective<'_>, &Facts<'_>)) -> Result<(), Denial> {
        self.each(head, |effective, facts| {
            effective.judge(facts, &self.agreed)?;
            tell(effective, facts);
            Ok(())
        })
    }

    /// Asks everything that is in force for what was called, until something refuses.
    fn each(
        &self,
        head: Option<&Head>,
        mut one: impl FnMut(&Effective<'_>, &Facts<'_>) -> Result<(), Denial>,
    ) -> Result<(), Denial> {
        let followed = self.conversation.worker.shared.routes.load();
        let (mesh, policies) = (followed.mesh(), followed.policies());
        if is_quiet(mesh, policies) {
            return Ok(());
        }
        let facts = self.facts(head);
        let called = Called {
            mesh,
            policies,
            gateway: &self.conversation.worker.gateway,
            destination: &self.conversation.destination,
            original: self.conversation.original,
        };
        called.each(&mut |effective, port| one(effective, &Facts { port, ..facts }))
    }

    fn facts<'a>(&'a self, head: Option<&'a Head>) -> Facts<'a> {
        let conversation = &*self.conversation;
        let http = head.map(|head| HttpFacts {
            request: head.facts(conversation),
            reads_twice: head.reads_twice,
            claims: self.authenticated.claims(),
        });
        Facts {
            identity: conversation.proved.then_some(&conversation.peer.identity),
            caller: conversation.caller.as_deref(),
            source: conversation.client.ip().to_canonical(),
            destination: conversation.original.ip().to_canonical(),
            port: conversation.destination.port(),
            server_name: self.server_name.as_deref(),
            http,
        }
    }
}

/// Whether there is no policy at all.
fn is_quiet(mesh: &Snapshot, policies: &Policies) -> bool {
    policies.is_empty() && mesh.unknown_policies().is_empty()
}

fn line<'a>(facts: &Facts<'a>) -> (&'a str, &'a str) {
    facts.http.as_ref().map_or(("-", "-"), |http| (http.request.method, http.request.path))
}
