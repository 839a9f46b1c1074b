//! A token that is believed, and those that a worker has verified already.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use serde_json::{Map, Value};

use super::keys::KeySet;
use super::refusal::Refusal;
use super::rules::Rule;
use super::token::{Times, Token};

/// Tokens that a worker knows to be good, at most.
pub const MAX_CACHED_TOKENS: usize = 1024;
/// Longest token among them, in bytes; longer ones are verified each time.
pub const MAX_CACHED_TOKEN_BYTES: usize = 4096;

/// Strings that Istio reads as lists of words.
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// A token whose signature, issuer and audience are what a rule asks for.
#[derive(Debug)]
pub struct Verified {
    /// Its claims, strings that are lists of words as lists (Istio's `spaceDelimitedClaims`).
    pub claims: Map<String, Value>,
    /// `<iss>/<sub>`; `None` where the token lacks either.
    pub principal: Option<Box<str>>,
    /// The payload in Base64url, as it stands in the token.
    pub payload: Box<str>,
    times: Times,
    /// Claims that became lists, as they were.
    strings: Vec<(String, String)>,
}

impl Verified {
    pub(super) fn of(token: Token<'_>, rule: &Rule) -> Self {
        let payload = token.payload.into();
        let claims = token.claims;
        let principal = claims.subject.as_ref().filter(|it| !it.is_empty() && !claims.issuer.is_empty());
        let principal = principal.map(|subject| format!("{}/{subject}", claims.issuer).into());
        let (mut all, times, mut strings) = (claims.all, claims.times, Vec::new());
        let lists = SPACE_DELIMITED.into_iter().chain(rule.space_delimited().iter().map(|it| &**it));
        for name in lists {
            if let Some(value) = all.get_mut(name)
                && let Value::String(words) = value
            {
                let list = words.split(' ').filter(|it| !it.is_empty()).map(Value::from).collect();
                strings.push((name.to_owned(), std::mem::take(words)));
                *value = list;
            }
        }
        Self { claims: all, principal, payload, times, strings }
    }

    /// A claim that is a list here, as the string that it is in the token.
    pub fn string(&self, name: &str) -> Option<&str> {
        self.strings.iter().find(|(it, _)| it == name).map(|(_, text)| &**text)
    }
}

/// Tokens that were verified. One that is used stays; of those that are not, the older half goes when there are too many.
#[derive(Debug, Default)]
pub struct Cache {
    /// By the signature's text. Which token a signature is of is compared in full.
    young: HashMap<Box<[u8]>, Entry>,
    old: HashMap<Box<[u8]>, Entry>,
}

#[derive(Debug)]
struct Entry {
    token: Box<[u8]>,
    /// The very rule and the very keys it was verified by: others would have to verify it anew. They are not kept for that,
    /// or keys would be fetched for rules that are gone; nothing else can have their place while they are remembered.
    rule: Weak<Rule>,
    keys: Weak<KeySet>,
    verified: Arc<Verified>,
}

impl Cache {
    /// What is known of a token, if that was verified by this rule and these keys.
    ///
    /// # Errors
    /// When it is known, and is not valid any more.
    pub fn get(
        &mut self,
        token: &[u8],
        rule: &Arc<Rule>,
        keys: &Arc<KeySet>,
        now: u64,
    ) -> Result<Option<Arc<Verified>>, Refusal> {
        let signature = signature(token);
        if !self.young.contains_key(signature) {
            let Some((signature, entry)) = self.old.remove_entry(signature) else { return Ok(None) };
            self.keep(signature, entry);
        }
        let known = self.young.get(signature);
        let same = |it: &&Entry| {
            it.rule.as_ptr() == Arc::as_ptr(rule)
                && it.keys.as_ptr() == Arc::as_ptr(keys)
                && *it.token == *token
        };
        let Some(known) = known.filter(same) else { return Ok(None) };
        let verified = known.verified.clone();
        if let Err(refusal) = verified.times.check(now) {
            self.young.remove(signature);
            return Err(refusal);
        }
        Ok(Some(verified))
    }

    /// Remembers a token that was verified.
    pub fn insert(&mut self, token: &[u8], rule: &Arc<Rule>, keys: &Arc<KeySet>, verified: &Arc<Verified>) {
        if token.len() > MAX_CACHED_TOKEN_BYTES {
            return;
        }
        let entry = Entry {
            token: token.into(),
            rule: Arc::downgrade(rule),
            keys: Arc::downgrade(keys),
            verified: verified.clone(),
        };
        self.keep(signature(token).into(), entry);
    }

    fn keep(&mut self, signature: Box<[u8]>, entry: Entry) {
        if self.young.len() >= MAX_CACHED_TOKENS / 2 && !self.young.contains_key(&signature) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(signature, entry);
    }

    /// How many tokens are known.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The last of a token's parts.
fn signature(token: &[u8]) -> &[u8] {
    token.rsplit(|it| *it == b'.').next().unwrap_or_default()
}
