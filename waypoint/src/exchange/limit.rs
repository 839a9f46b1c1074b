//! Asks the limits of what was called whether a request may go on.

use super::called::Called;
use crate::flags::Flag;
use crate::limits::{self, Caller, Outcome, Told};
use crate::record::{Details, Record};
use crate::routes::{RequestFacts, Rule};
use crate::serve::Conversation;
use crate::stages::limit;
use crate::stages::respond::Answer as Made;

/// Asks all limits that a request falls under; what is left is for its answer.
///
/// # Errors
/// The answer to one that is refused.
pub(super) fn ask(
    called: &Called<'_>,
    conversation: &Conversation,
    (facts, rule): (&RequestFacts<'_>, Option<&Rule>),
    record: &mut Record,
) -> Result<Option<Told>, Made> {
    let Some((limits, meant)) = called.limits(rule) else { return Ok(None) };
    let caller = Caller {
        identity: conversation.proved.then_some(&conversation.peer.identity),
        address: conversation.client.ip().to_canonical(),
    };
    match limits.ask(&meant, facts, &caller, limits::now()) {
        Outcome::Admitted(told) => Ok(told),
        Outcome::Refused { limit, wait, told } => {
            tracing::debug!(limit, "a request is limited");
            record.flag(Flag::RateLimited);
            record.details(Details::RateLimited);
            Err(limit::refused(wait, told.as_ref(), facts.is_grpc()))
        }
    }
}
