//! The rules that bind what was called, compiled: which token is looked for where, and what becomes of it.
//!
//! Knows no mesh. Keys that have to be fetched are asked for when a token needs them, and may not be there yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::config::authentication::{JwtRule, KeySource};
use http::HeaderName;
use serde_json::{Value, json};

use super::keys::KeySet;
use super::places::Place;
use super::refusal::Refusal;
use super::remote::{Keyring, RemoteKeys};
use super::token::Claims;

/// One rule.
#[derive(Debug)]
pub struct Rule {
    stated: JwtRule,
    places: Box<[Place]>,
    keys: Keys,
}

#[derive(Debug)]
enum Keys {
    /// Stated, and `None` where they are good for nothing.
    Inline(Option<Arc<KeySet>>),
    Remote(Arc<RemoteKeys>),
}

/// Why keys are not there.
#[derive(Debug, Clone)]
pub enum NoKeys {
    /// They will not be.
    Refused(Refusal),
    /// They are being fetched for the first time.
    Pending(Arc<RemoteKeys>),
}

impl Rule {
    /// Compiles a rule.
    pub fn new(stated: &JwtRule, keyring: &dyn Keyring) -> Self {
        let keys = match &stated.keys {
            KeySource::Inline(text) => Keys::Inline(match KeySet::read(text.as_bytes()) {
                Ok(keys) => Some(Arc::new(keys)),
                Err(error) => {
                    tracing::warn!(issuer = %stated.issuer, %error, "every token of this issuer is refused");
                    None
                }
            }),
            source => Keys::Remote(keyring.fetched(source, stated.timeout)),
        };
        let places = stated.locations.iter().filter_map(Place::of).collect();
        Self { stated: stated.clone(), places, keys }
    }

    /// Whose tokens it is about.
    pub fn issuer(&self) -> &str {
        &self.stated.issuer
    }

    /// Where its keys are fetched from; `None` where they are stated.
    pub fn fetched_from(&self) -> Option<&KeySource> {
        match &self.keys {
            Keys::Inline(_) => None,
            Keys::Remote(remote) => Some(remote.source()),
        }
    }

    /// Whether tokens stay in the requests they came in.
    pub fn forwards(&self) -> bool {
        self.stated.forward
    }

    /// Claims that are lists of words, besides Istio's own.
    pub fn space_delimited(&self) -> &[Arc<str>] {
        &self.stated.space_delimited
    }

    /// The header that the payload is written into.
    pub fn payload_header(&self) -> Option<&HeaderName> {
        self.stated.payload_header.as_ref()
    }

    /// Headers that claims are written into.
    pub fn claim_headers(&self) -> &[(HeaderName, Arc<str>)] {
        &self.stated.claim_headers
    }

    /// Every header that it writes.
    fn written(&self) -> impl Iterator<Item = &HeaderName> {
        self.payload_header().into_iter().chain(self.claim_headers().iter().map(|(header, _)| header))
    }

    /// The keys, as they are now.
    ///
    /// # Errors
    /// [`NoKeys`].
    pub fn keys(&self) -> Result<Arc<KeySet>, NoKeys> {
        match &self.keys {
            Keys::Inline(Some(keys)) => Ok(keys.clone()),
            Keys::Inline(None) => Err(NoKeys::Refused(Refusal::NoValidKeys)),
            Keys::Remote(remote) => match remote.now() {
                Some(keys) => Ok(keys),
                None if remote.was_tried() => Err(NoKeys::Refused(Refusal::FetchFailed)),
                None => Err(NoKeys::Pending(remote.clone())),
            },
        }
    }

    /// Whose tokens it takes and how many keys there are, for operators.
    pub(super) fn dump(&self) -> Value {
        let keys = match self.keys() {
            Ok(keys) => json!(keys.len()),
            Err(NoKeys::Refused(refusal)) => json!(refusal.words()),
            Err(NoKeys::Pending(_)) => json!("being fetched"),
        };
        json!({ "issuer": self.issuer(), "audiences": *self.stated.audiences, "keys": keys })
    }

    /// A token was signed by a key that is not known: the issuer may have a new one.
    pub fn may_have_new_keys(&self) {
        if let Keys::Remote(remote) = &self.keys {
            remote.ask_again();
        }
    }

    /// Whether a token is meant for those this rule speaks of.
    ///
    /// # Errors
    /// [`Refusal::AudienceNotAllowed`].
    pub fn check_audience(&self, claims: &Claims) -> Result<(), Refusal> {
        let allowed = |asked: &String| {
            self.stated.audiences.iter().any(|allowed| bare_audience(allowed) == bare_audience(asked))
        };
        if self.stated.audiences.is_empty() || claims.audiences.iter().any(allowed) {
            return Ok(());
        }
        Err(Refusal::AudienceNotAllowed)
    }
}

/// Each header once, in order.
fn outputs<'h>(written: impl Iterator<Item = &'h HeaderName>) -> Box<[HeaderName]> {
    let outputs: BTreeMap<&str, &HeaderName> = written.map(|it| (it.as_str(), it)).collect();
    outputs.into_values().cloned().collect()
}

/// Envoy compares audiences without scheme and without a slash at the end.
fn bare_audience(audience: &str) -> &str {
    let bare = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://"));
    let bare = bare.unwrap_or(audience);
    bare.strip_suffix('/').unwrap_or(bare)
}

/// All rules that bind what was called.
#[derive(Debug, Default)]
pub struct Rules {
    all: Box<[Arc<Rule>]>,
    /// Each place once, with the rules whose tokens stand there.
    places: Box<[(Place, Box<[usize]>)]>,
    /// Headers that are written here and nowhere else.
    outputs: Box<[HeaderName]>,
}

impl Rules {
    /// Puts rules together, in the order in which they are asked.
    pub fn new(all: Vec<Arc<Rule>>) -> Self {
        let mut places: Vec<(Place, Vec<usize>)> = Vec::new();
        for (at, rule) in all.iter().enumerate() {
            for place in &rule.places {
                match places.iter_mut().find(|(known, _)| known == place) {
                    Some((_, rules)) => rules.push(at),
                    None => places.push((place.clone(), vec![at])),
                }
            }
        }
        let outputs = outputs(all.iter().flat_map(|rule| rule.written()));
        let places = places.into_iter().map(|(place, rules)| (place, rules.into())).collect();
        Self { places, outputs, all: all.into() }
    }

    /// What holds under each of several: only the rules that are in all of them, because a token that one of them does not
    /// take proves nothing there. What any of them writes into headers is written here and nowhere else.
    pub(super) fn common(several: &[&Self]) -> Self {
        let [first, others @ ..] = several else { return Self::default() };
        let is_common = |rule: &&Arc<Rule>| {
            others.iter().all(|rules| rules.all.iter().any(|other| other.stated == rule.stated))
        };
        let common = Self::new(first.all.iter().filter(is_common).cloned().collect());
        Self { outputs: outputs(several.iter().flat_map(|it| it.outputs.iter())), ..common }
    }

    /// Whether there is nothing to look at in a request: no rule, and no header that is written here alone.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.outputs.is_empty()
    }

    /// Every rule, in the order in which they are asked.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.all.iter()
    }

    /// Each place where a token may stand, with the rules it may be of, by their position.
    pub(super) fn places(&self) -> impl Iterator<Item = (&Place, &[usize])> {
        self.places.iter().map(|(place, rules)| (place, &**rules))
    }

    /// A rule by its position.
    pub(super) fn rule(&self, at: usize) -> Option<&Arc<Rule>> {
        self.all.get(at)
    }

    /// Headers whose values only we may write.
    pub(crate) fn outputs(&self) -> &[HeaderName] {
        &self.outputs
    }
}
