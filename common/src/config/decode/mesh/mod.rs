//! The ConfigMap that holds Istio's MeshConfig, as YAML inside YAML.
//!
//! Fields that Ebb does not implement are named and passed over; those it does are read as strictly as any other kind, and
//! one bad provider refuses the whole, so that the last good MeshConfig stays. The surprising thing: a ConfigMap of any
//! other name is none of ours, whatever stands in it.

mod provider;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_saphyr::Spanned;

use self::provider::ProviderManifest;
use super::Fault;
use super::istio::scalar::{Double, Entries, percent};
use super::istio::{List, Reader, Texts};
use super::manifest::{Manifest, Metadata, NameRule};
use super::policy::list;
use super::text::Text;
use crate::config::Resource;
use crate::config::mesh::{
    DefaultProviders, LogEncoding, MAX_PROVIDERS, MESH_CONFIG_NAME, MeshConfig, StatedMeshConfig,
};
use crate::config::names::Names;
use crate::config::note::Caveat;

/// The key of the ConfigMap that holds it.
const MESH: &str = "mesh";
/// What Istio itself writes beside it where there are no networks.
const NO_NETWORKS: &str = "networks: {}";

/// Whether a document that was found to be a ConfigMap is the one.
pub(crate) fn is_mesh_config(name: Option<&str>) -> bool {
    name == Some(MESH_CONFIG_NAME)
}

/// A `v1` ConfigMap.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(crate) struct ConfigMapManifest<'a> {
    #[serde(default)]
    metadata: Metadata<'a>,
    data: Option<Entries<'a, Text<'a>>>,
}

impl Manifest for ConfigMapManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let object = self.metadata.named(NameRule::Name, names)?.object;
        let data = self.data.take().unwrap_or_default().0;
        let of = |key: &str| data.iter().find(|(it, _)| **it == *key).map(|(_, text)| &**text);
        let Some(text) = of(MESH) else { return Err(Fault::new("data.mesh", "not stated")) };
        let mut reader = Reader::new(object.namespace.clone(), names);
        if of("meshNetworks").is_some_and(|it| !matches!(it.trim(), "" | NO_NETWORKS)) {
            reader.note("data.meshNetworks", Caveat::NotImplemented);
        }
        let stated = if text.trim().is_empty() {
            MeshManifest::default()
        } else {
            super::yaml::inside(text).map_err(|(line, fault)| {
                let of = if fault.field.is_empty() { "" } else { "." };
                Fault::new(format!("{MESH}{of}{}", fault.field), fault.reason).on(line)
            })?
        };
        let config = Arc::new(stated.read(reader)?);
        Ok(Resource::MeshConfig(Arc::new(StatedMeshConfig { object, config })))
    }
}

/// What Ebb acts on of a MeshConfig, and the names of everything else that is stated.
#[derive(Debug, Default)]
struct MeshManifest<'a> {
    providers: List<Spanned<ProviderManifest<'a>>>,
    defaults: Option<DefaultsManifest<'a>>,
    access_log_file: Option<Text<'a>>,
    access_log_format: Option<Text<'a>>,
    access_log_encoding: Option<Text<'a>>,
    enable_tracing: Option<bool>,
    proxy: Option<ProxyManifest<'a>>,
    others: Vec<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct DefaultsManifest<'a> {
    tracing: Texts<'a>,
    metrics: Texts<'a>,
    access_logging: Texts<'a>,
}

/// `defaultConfig`.
#[derive(Debug, Default)]
struct ProxyManifest<'a> {
    tracing: Option<TracingManifest<'a>>,
    others: Vec<Text<'a>>,
}

/// `defaultConfig.tracing`.
#[derive(Debug, Default)]
struct TracingManifest<'a> {
    sampling: Option<Double>,
    others: Vec<Text<'a>>,
}

/// A mapping of which only some keys are read, and the others named.
trait Named<'de>: Default {
    /// Takes the value of `key` from `map`.
    fn take<A: MapAccess<'de>>(&mut self, key: Text<'de>, map: &mut A) -> Result<(), A::Error>;
}

fn named<'de, T: Named<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Visit<T>(std::marker::PhantomData<T>);
    impl<'de, T: Named<'de>> Visitor<'de> for Visit<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a mapping")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
            let mut found = T::default();
            while let Some(key) = map.next_key::<Text<'de>>()? {
                found.take(key, &mut map)?;
            }
            Ok(found)
        }
    }
    deserializer.deserialize_map(Visit(std::marker::PhantomData))
}

impl<'de> Named<'de> for MeshManifest<'de> {
    fn take<A: MapAccess<'de>>(&mut self, key: Text<'de>, map: &mut A) -> Result<(), A::Error> {
        match &*key {
            "extensionProviders" => self.providers = map.next_value()?,
            "defaultProviders" => self.defaults = map.next_value()?,
            "accessLogFile" => self.access_log_file = map.next_value()?,
            "accessLogFormat" => self.access_log_format = map.next_value()?,
            "accessLogEncoding" => self.access_log_encoding = map.next_value()?,
            "enableTracing" => self.enable_tracing = map.next_value()?,
            "defaultConfig" => self.proxy = map.next_value()?,
            _ => {
                map.next_value::<IgnoredAny>()?;
                self.others.push(key);
            }
        }
        Ok(())
    }
}

impl<'de> Named<'de> for ProxyManifest<'de> {
    fn take<A: MapAccess<'de>>(&mut self, key: Text<'de>, map: &mut A) -> Result<(), A::Error> {
        match &*key {
            "tracing" => self.tracing = map.next_value()?,
            _ => {
                map.next_value::<IgnoredAny>()?;
                self.others.push(key);
            }
        }
        Ok(())
    }
}

impl<'de> Named<'de> for TracingManifest<'de> {
    fn take<A: MapAccess<'de>>(&mut self, key: Text<'de>, map: &mut A) -> Result<(), A::Error> {
        match &*key {
            "sampling" => self.sampling = map.next_value()?,
            _ => {
                map.next_value::<IgnoredAny>()?;
                self.others.push(key);
            }
        }
        Ok(())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for MeshManifest<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        named::<MeshManifest<'de>, D>(deserializer)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for ProxyManifest<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        named::<ProxyManifest<'de>, D>(deserializer)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for TracingManifest<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        named::<TracingManifest<'de>, D>(deserializer)
    }
}

impl MeshManifest<'_> {
    fn read(self, mut reader: Reader<'_>) -> Result<MeshConfig, Fault> {
        for other in &self.others {
            reader.note(format!("mesh.{}", &**other), Caveat::NotImplemented);
        }
        let providers = providers(&mut reader, self.providers)?;
        let defaults = defaults(&mut reader, self.defaults.unwrap_or_default(), &providers)?;
        let proxy = self.proxy.unwrap_or_default();
        for other in &proxy.others {
            reader.note(format!("mesh.defaultConfig.{}", &**other), Caveat::NotImplemented);
        }
        let tracing = proxy.tracing.unwrap_or_default();
        for other in &tracing.others {
            reader.note(format!("mesh.defaultConfig.tracing.{}", &**other), Caveat::NotImplemented);
        }
        let access_log_encoding = match self.access_log_encoding.as_deref() {
            None | Some("" | "TEXT") => LogEncoding::Text,
            Some("JSON") => LogEncoding::Json,
            Some(other) => {
                return Err(Fault::new(
                    "mesh.accessLogEncoding",
                    format!("{other:?} is neither TEXT nor JSON"),
                ));
            }
        };
        Ok(MeshConfig {
            providers,
            defaults,
            access_log_file: reader.filled(self.access_log_file.as_ref()),
            access_log_format: reader.filled(self.access_log_format.as_ref()),
            access_log_encoding,
            enable_tracing: self.enable_tracing.unwrap_or_default(),
            tracing_sampling: percent(tracing.sampling, "mesh.defaultConfig.tracing.sampling")?,
            notes: reader.notes(),
        })
    }
}

type Providers = Box<[Arc<crate::config::mesh::Provider>]>;

fn providers(
    reader: &mut Reader<'_>,
    stated: List<Spanned<ProviderManifest<'_>>>,
) -> Result<Providers, Fault> {
    let field = "mesh.extensionProviders";
    if stated.as_ref().is_some_and(|it| it.len() > MAX_PROVIDERS) {
        return Err(Fault::new(field, format!("more than {MAX_PROVIDERS} providers")));
    }
    let mut taken: Vec<Arc<str>> = Vec::new();
    list(stated, field, |it, field| {
        let line = u32::try_from(it.referenced.line()).unwrap_or(1);
        let provider = provider::read(reader, it.value, field).map_err(|fault| fault.on(line))?;
        if taken.contains(&provider.name) {
            let reason = format!("{:?} is the name of another provider", &*provider.name);
            return Err(Fault::new(format!("{field}.name"), reason).on(line));
        }
        taken.push(provider.name.clone());
        Ok(Arc::new(provider))
    })
}

fn defaults(
    reader: &mut Reader<'_>,
    stated: DefaultsManifest<'_>,
    providers: &Providers,
) -> Result<DefaultProviders, Fault> {
    let mut names = |stated: Texts<'_>, name: &str| {
        list(stated, &format!("mesh.defaultProviders.{name}"), |text, field| {
            if !providers.iter().any(|it| *it.name == *text) {
                reader.note(field, Caveat::ProviderMissing);
            }
            Ok(reader.share(&text))
        })
    };
    Ok(DefaultProviders {
        tracing: names(stated.tracing, "tracing")?,
        metrics: names(stated.metrics, "metrics")?,
        access_logging: names(stated.access_logging, "accessLogging")?,
    })
}
