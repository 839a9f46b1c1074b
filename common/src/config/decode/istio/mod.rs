//! What the routing kinds of Istio have in common: names of hosts, gateways and namespaces, string conditions, notes.
//!
//! Knows no kind. A `Reader` goes through one document, shares its strings and gathers its notes; every fault it finds
//! names the path of the field.

pub(crate) mod scalar;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::Deserialize;

use self::scalar::{Whole, whole};
use super::policy::list;
use super::text::{Pairs, Text};
use super::{Fault, check, manifest};
use crate::config::names::Names;
use crate::config::note::{Caveat, Note};
use crate::config::routing::strings::{Pattern, StringMatch, Substitution};
use crate::config::routing::{Destination, Gateways, Visibility};
use crate::config::{Labels, ObjectName};

/// Most regexes in one resource: each may take `MAX_COMPILED_BYTES` of memory.
pub(crate) const MAX_PATTERNS: usize = 256;
/// Most notes kept of one resource.
pub(crate) const MAX_NOTES: usize = 64;

pub(crate) type List<T> = Option<Vec<T>>;
pub(crate) type Texts<'a> = List<Text<'a>>;

/// `exact`, `prefix` or `regex`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct StringManifest<'a> {
    exact: Option<Text<'a>>,
    prefix: Option<Text<'a>>,
    regex: Option<Text<'a>>,
}

impl StringManifest<'_> {
    /// `{}`, or the regex `*`, which is none of RE2: both ask whether anything is there.
    pub(crate) fn asks_presence(&self) -> bool {
        self.exact.is_none()
            && self.prefix.is_none()
            && self.regex.as_deref().is_none_or(|regex| regex == "*")
    }

    pub(crate) fn is_regex(&self) -> bool {
        self.regex.is_some()
    }
}

/// `host`, `subset`, `port`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct DestinationManifest<'a> {
    host: Option<Text<'a>>,
    subset: Option<Text<'a>>,
    port: Option<PortManifest>,
}

/// `number` of a port.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PortManifest {
    number: Option<Whole>,
}

impl PortManifest {
    pub(crate) fn read(stated: Option<&Self>, field: &str) -> Result<Option<u16>, Fault> {
        let Some(stated) = stated else { return Ok(None) };
        let number = format!("{field}.number");
        port(stated.number, &number)?.map_or_else(|| Err(Fault::new(number, "not stated")), |it| Ok(Some(it)))
    }
}

/// A port that may be left out.
pub(crate) fn port(stated: Option<Whole>, field: &str) -> Result<Option<u16>, Fault> {
    let number = whole(stated, 1..=u32::from(u16::MAX), field)?;
    Ok(number.and_then(|it| u16::try_from(it).ok()))
}

/// Goes through one document.
pub(crate) struct Reader<'n> {
    namespace: Arc<str>,
    names: &'n mut Names,
    notes: Vec<Note>,
    patterns: usize,
}

impl<'n> Reader<'n> {
    /// For a document of this namespace.
    pub(crate) fn new(namespace: Arc<str>, names: &'n mut Names) -> Self {
        Self { namespace, names, notes: Vec::new(), patterns: 0 }
    }

    pub(crate) fn share(&mut self, text: &str) -> Arc<str> {
        self.names.share(text)
    }

    /// The text, or none when it is empty or not stated.
    pub(crate) fn filled(&mut self, stated: Option<&Text<'_>>) -> Option<Arc<str>> {
        stated.filter(|it| !it.is_empty()).map(|it| self.names.share(it))
    }

    pub(crate) fn note(&mut self, field: impl Into<Arc<str>>, caveat: Caveat) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(Note { field: field.into(), caveat });
        }
    }

    /// What was noted.
    pub(crate) fn notes(self) -> Box<[Note]> {
        self.notes.into()
    }

    pub(crate) fn labels(&mut self, stated: Option<&Pairs<'_>>, field: &str) -> Result<Labels, Fault> {
        stated.map_or_else(|| Ok(Labels::default()), |pairs| manifest::labels(pairs, field, self.names))
    }

    /// Counts a regex.
    pub(crate) fn pattern(&mut self, field: &str) -> Result<(), Fault> {
        self.patterns += 1;
        if self.patterns > MAX_PATTERNS {
            return Err(Fault::new(field, format!("more than {MAX_PATTERNS} regexes in one resource")));
        }
        Ok(())
    }

    /// A string condition.
    pub(crate) fn string(
        &mut self,
        stated: &StringManifest<'_>,
        ignoring_case: bool,
        field: &str,
    ) -> Result<StringMatch, Fault> {
        let StringManifest { exact, prefix, regex } = stated;
        match (exact, prefix, regex) {
            (Some(text), None, None) if ignoring_case => Ok(StringMatch::ExactIgnoringCase(self.share(text))),
            (Some(text), None, None) => Ok(StringMatch::Exact(self.share(text))),
            (None, Some(text), None) if text.is_empty() => {
                Err(Fault::new(format!("{field}.prefix"), "an empty prefix"))
            }
            (None, Some(text), None) if ignoring_case => {
                Ok(StringMatch::PrefixIgnoringCase(self.share(text)))
            }
            (None, Some(text), None) => Ok(StringMatch::Prefix(self.share(text))),
            (None, None, Some(regex)) => {
                let field = format!("{field}.regex");
                self.pattern(&field)?;
                let pattern = Pattern::whole(self.share(regex));
                pattern.map(StringMatch::Regex).map_err(|reason| Fault::new(field, reason))
            }
            (None, None, None) => Err(Fault::new(field, "states none of exact, prefix and regex")),
            _ => Err(Fault::new(field, "states more than one of exact, prefix and regex")),
        }
    }

    /// A regex and what its matches become.
    pub(crate) fn substitution(
        &mut self,
        regex: &str,
        template: &str,
        field: &str,
    ) -> Result<Substitution, Fault> {
        self.pattern(field)?;
        let regex = self.share(regex);
        Substitution::new(regex, template).map_err(|reason| Fault::new(field, reason))
    }

    /// The name of a host, perhaps short, or of many (`*.x`, `*`), or an address.
    pub(crate) fn host(&mut self, text: &str, field: &str) -> Result<Arc<str>, Fault> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let fits = text == "*"
            || check::is_dns_name(name)
            || text.parse::<std::net::IpAddr>().is_ok_and(|it| it == it.to_canonical());
        if !fits {
            let reason = format!("{text:?} is no host: a name in lower case, *.name, * or an address");
            return Err(Fault::new(field, reason));
        }
        Ok(self.share(text))
    }

    /// Where traffic goes.
    pub(crate) fn destination(
        &mut self,
        stated: Option<&DestinationManifest<'_>>,
        field: &str,
    ) -> Result<Destination, Fault> {
        let Some(stated) = stated else { return Err(Fault::new(field, "not stated")) };
        let at = format!("{field}.host");
        let host = match stated.host.as_deref() {
            None | Some("") => return Err(Fault::new(at, "not stated")),
            Some("*") => return Err(Fault::new(at, "* is no destination")),
            Some(host) => self.host(host, &at)?,
        };
        let subset = match stated.subset.as_deref().filter(|it| !it.is_empty()) {
            Some(subset) => Some(self.label(subset, &format!("{field}.subset"))?),
            None => None,
        };
        let port = PortManifest::read(stated.port.as_ref(), &format!("{field}.port"))?;
        Ok(Destination { host, backend: None, subset, port })
    }

    /// A DNS label: a namespace, a subset.
    pub(crate) fn label(&mut self, text: &str, field: &str) -> Result<Arc<str>, Fault> {
        if !check::is_dns_label(text) {
            let reason = format!("{text:?} is not a name of lower-case letters, digits and hyphens");
            return Err(Fault::new(field, reason));
        }
        Ok(self.share(text))
    }

    /// `namespace/name`, or `name` in the document's own namespace.
    pub(crate) fn object(&mut self, text: &str, field: &str) -> Result<ObjectName, Fault> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (self.label(namespace, field)?, name),
            None => (self.namespace.clone(), text),
        };
        if !check::is_dns_name(name) {
            return Err(Fault::new(field, format!("{text:?} is neither name nor namespace/name")));
        }
        Ok(ObjectName { namespace, name: self.share(name) })
    }

    /// `gateways`; `None` when none is listed.
    pub(crate) fn gateways(&mut self, stated: Texts<'_>, field: &str) -> Result<Option<Gateways>, Fault> {
        let listed = list(stated, field, |text, field| match &*text {
            "mesh" => Ok(None),
            text => self.object(text, field).map(Some),
        })?;
        if listed.is_empty() {
            return Ok(None);
        }
        let mesh = listed.iter().any(Option::is_none);
        Ok(Some(Gateways { mesh, named: listed.into_iter().flatten().collect() }))
    }

    /// `exportTo`.
    pub(crate) fn visibility(&mut self, stated: Texts<'_>, field: &str) -> Result<Visibility, Fault> {
        let mut everywhere = false;
        let namespaces = list(stated, field, |text, field| match &*text {
            "*" => {
                everywhere = true;
                Ok(self.namespace.clone())
            }
            "." => Ok(self.namespace.clone()),
            "~" => Err(Fault::new(field, "~ is for Sidecar; nobody would see this resource")),
            text => self.label(text, field),
        })?;
        if everywhere && namespaces.len() > 1 {
            return Err(Fault::new(field, "* together with others; * alone is everywhere"));
        }
        if everywhere || namespaces.is_empty() {
            return Ok(Visibility::Everywhere);
        }
        Ok(Visibility::Namespaces(namespaces))
    }
}
