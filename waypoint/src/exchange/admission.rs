//! Whether a request may go on at all, asked before anything else is: whose it is, by the tokens in it.

use std::sync::Arc;
use std::time::SystemTime;

use super::head::Head;
use crate::authn::refusal::Refusal;
use crate::authn::tables::Bound;
use crate::authn::{self, Stopped};
use crate::record::{Details, Record};
use crate::serve::Conversation;
use crate::stages::respond::Answer;

/// Has the tokens of a request verified and notes in its head whose it is.
///
/// # Errors
/// The answer to a request that is refused.
pub(super) async fn authenticate(
    conversation: &Arc<Conversation>,
    head: &mut Head,
    record: &mut Record,
) -> Result<(), Answer> {
    let followed = conversation.worker.shared.followed();
    let tables = followed.authentication();
    let refusal = match tables.of(followed.mesh(), &conversation.destination, conversation.original) {
        Bound::Rules(rules) if rules.is_empty() => return Ok(()),
        Bound::Unknown => Refusal::Unreadable,
        Bound::Rules(rules) => loop {
            // By a clock that is before 1970 nothing can be told to be valid still.
            let now = SystemTime::UNIX_EPOCH.elapsed().map_or(u64::MAX, |it| it.as_secs());
            match authn::authenticate(&rules, &mut head.carrier(), &conversation.worker.tokens, now) {
                Ok(authenticated) => {
                    head.authenticated = authenticated;
                    return Ok(());
                }
                Err(Stopped::Refused(refusal)) => break refusal,
                // Once tried, keys are there or refused, so that this ends with the last rule.
                Err(Stopped::Pending(keys)) => keys.tried().await,
            }
        },
    };
    tracing::debug!(why = refusal.words(), "a request is refused");
    record.details(Details::TokenRefused(refusal.words()));
    let facts = head.facts(conversation);
    Err(refusal.answer(facts.authority, facts.path, facts.is_grpc()))
}
