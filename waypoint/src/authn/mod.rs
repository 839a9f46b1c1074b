//! Whose request it is, by its token: RequestAuthentications of what was called, applied before routes and policies see it.
//!
//! [`authenticate`] is pure: rules and the head of a request in, claims out, or why the request is refused. A request
//! without a token passes and has no claims; whether that is enough is for an AuthorizationPolicy. A token that is there and
//! is not good is refused whoever else vouches for the request.
//!
//! # Where it differs from Istio and Envoy
//!
//! - `all-tokens`: every token that stands where a rule looks has to be good. Envoy as Istio sets it up takes a request
//!   with one good token among several rules, whatever else is in it.
//! - `several-tokens`: two tokens in one place, or two different ones for one rule, are refused. Envoy looks at the first.
//! - `prefix-case`: the prefix of a header (`Bearer `) has no case, and stands at the start of its value.
//! - `token-in-query`: a token that is not forwarded is taken out of the query and of cookies too. Envoy takes it out of
//!   headers alone.
//! - `strict-token`: no padding, no key twice in one object, no `crit`; a token of more than 16 KiB is none.
//! - `claim-names`: a claim is looked up by its whole name first, and then as a path with dots.
//! - `realm`: `WWW-Authenticate` names the URL without its query.
//! - `outputs-always-ours`: a client can neither write the headers of `outputClaimToHeaders` and `outputPayloadToHeader`,
//!   nor have them dropped by naming them in `Connection`.

pub mod fetch;
pub mod json;
pub mod keys;
pub mod outputs;
pub mod places;
pub mod reach;
pub mod refusal;
pub mod remote;
pub mod rules;
pub mod tables;
#[cfg(test)]
pub(crate) mod tests;
pub mod token;
pub mod verified;

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use self::places::{Carrier, Place};
use self::refusal::Refusal;
use self::remote::RemoteKeys;
use self::rules::{NoKeys, Rule, Rules};
use self::token::Token;
use self::verified::{Cache, Verified};

/// Who sent a request, by the tokens in it.
#[derive(Debug, Clone, Default)]
pub struct Authenticated {
    /// In the order of their rules.
    tokens: Vec<Arc<Verified>>,
}

impl Authenticated {
    /// The claims of the token that counts: the one of the first rule that has one.
    pub fn claims(&self) -> Option<&Map<String, Value>> {
        self.tokens.first().map(|it| &it.claims)
    }

    /// `<iss>/<sub>` of that token (Istio's `request.auth.principal`).
    pub fn principal(&self) -> Option<&str> {
        self.tokens.first()?.principal.as_deref()
    }
}

/// Why a request does not go on.
#[derive(Debug, Clone)]
pub enum Stopped {
    /// It is refused.
    Refused(Refusal),
    /// Keys are being fetched for the first time. Nothing of the request has been changed: it can be looked at again when
    /// they are [there or not](RemoteKeys::tried).
    Pending(Arc<RemoteKeys>),
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A token that is good, where it stands and which rule says so.
struct Good<'r> {
    at: usize,
    rule: &'r Arc<Rule>,
    place: &'r Place,
    verified: Arc<Verified>,
}

/// Looks for tokens, verifies them, and changes the head as rules say: forged headers and tokens out, claims in. `now` is in
/// seconds since 1970.
///
/// # Errors
/// [`Stopped`]: the request is as it was.
pub fn authenticate(
    rules: &Rules,
    carrier: &mut Carrier<'_>,
    cache: &Mutex<Cache>,
    now: u64,
) -> Result<Authenticated, Stopped> {
    let mut good: Vec<Good<'_>> = Vec::new();
    for (place, of) in rules.places() {
        let Some(token) = place.find(carrier.headers, carrier.query.as_deref())? else { continue };
        let of = of.iter().filter_map(|at| Some((*at, rules.rule(*at)?)));
        let (at, rule, verified) = verify(&token, of, cache, now)?;
        if good.iter().any(|it| it.at == at && it.verified.payload != verified.payload) {
            return Err(Refusal::SeveralTokens.into());
        }
        good.push(Good { at, rule, place, verified });
    }
    outputs::forget(rules.outputs(), carrier.headers);
    good.sort_by_key(|it| it.at);
    good.iter().filter(|it| !it.rule.forwards()).for_each(|it| it.place.clear(carrier));
    good.iter().for_each(|it| outputs::tell(it.rule, &it.verified, carrier.headers));
    Ok(Authenticated { tokens: good.into_iter().map(|it| it.verified).collect() })
}

/// The rule that takes a token, and what the token says.
fn verify<'r>(
    text: &[u8],
    of: impl Iterator<Item = (usize, &'r Arc<Rule>)> + Clone,
    cache: &Mutex<Cache>,
    now: u64,
) -> Result<(usize, &'r Arc<Rule>, Arc<Verified>), Stopped> {
    // Whole between any two uses.
    let lock = || cache.lock().unwrap_or_else(PoisonError::into_inner);
    for (at, rule) in of.clone() {
        if let Ok(keys) = rule.keys()
            && let Some(known) = lock().get(text, rule, &keys, now)?
        {
            return Ok((at, rule, known));
        }
    }
    let token = Token::read(text)?;
    let mut refused = None;
    for (at, rule) in of.filter(|(_, rule)| rule.issuer() == token.claims.issuer) {
        match check(rule, &token, now) {
            Ok(keys) => {
                let verified = Arc::new(Verified::of(token, rule));
                lock().insert(text, rule, &keys, &verified);
                return Ok((at, rule, verified));
            }
            Err(Stopped::Refused(why)) => drop(refused.get_or_insert(why)),
            Err(pending) => return Err(pending),
        }
    }
    Err(refused.unwrap_or(Refusal::UnknownIssuer).into())
}

/// Whether a rule takes a token, in the order in which Envoy asks.
fn check(rule: &Rule, token: &Token<'_>, now: u64) -> Result<Arc<keys::KeySet>, Stopped> {
    token.claims.times.check(now)?;
    rule.check_audience(&token.claims)?;
    let keys = rule.keys().map_err(|none| match none {
        NoKeys::Refused(refusal) => Stopped::Refused(refusal),
        NoKeys::Pending(remote) => Stopped::Pending(remote),
    })?;
    match keys.verify(token) {
        Ok(()) => Ok(keys),
        Err(refusal) => {
            if refusal == Refusal::NoMatchingKey {
                rule.may_have_new_keys();
            }
            Err(refusal.into())
        }
    }
}
