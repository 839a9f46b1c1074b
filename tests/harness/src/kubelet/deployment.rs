//! What a Deployment asks for, as far as a kubelet made of namespaces can give it. Pure.
//!
//! Images are names for programs of `ebb-app`, or for the shipped waypoint; nothing is pulled. What cannot be honoured is
//! refused rather than ignored.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::manifest::Object;

/// Replicas a Deployment may have, so that a typing error does not fill the machine.
const REPLICAS_MAX: u32 = 500;

/// The label that says of which Gateway a waypoint is.
pub(super) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// A Deployment with its template read.
#[derive(Clone, Debug)]
pub(super) struct Deployment {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) replicas: u32,
    pub(super) template: Template,
    /// Differs when the template does, as `pod-template-hash`.
    pub(super) hash: String,
}

/// `spec.template` of a Deployment.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Template {
    #[serde(default)]
    pub(super) metadata: TemplateMetadata,
    pub(super) spec: PodSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct TemplateMetadata {
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

/// The fields of a pod's `spec` that mean something here.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    #[serde(default = "default_account")]
    pub(super) service_account_name: String,
    pub(super) node_name: Option<String>,
    pub(super) containers: Vec<Container>,
}

/// One container: a program by its image.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) image: String,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    #[serde(default)]
    pub(super) ports: Vec<Value>,
    #[serde(default)]
    lifecycle: Lifecycle,
    liveness_probe: Option<Value>,
    readiness_probe: Option<Value>,
}

/// `lifecycle` of a container.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Lifecycle {
    pre_stop: Option<PreStop>,
}

/// What is done before a program is asked to end: of Kubernetes' ways, the one that waits.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PreStop {
    sleep: Sleep,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Sleep {
    seconds: u64,
}

/// What a container runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// `ebb-app`, with these arguments.
    App(Vec<String>),
    /// The waypoint, with these arguments beyond those that say which one it is.
    Waypoint(Vec<String>),
}

#[derive(Clone, Debug, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

fn default_account() -> String {
    "default".into()
}

impl Deployment {
    pub(super) fn read(object: &Object) -> Result<Self> {
        let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
        let what = || format!("Deployment {namespace}/{name}");
        let raw =
            object.0.pointer("/spec/template").with_context(|| format!("{} has no template", what()))?;
        let template: Template = serde_json::from_value(raw.clone()).with_context(what)?;
        for container in &template.spec.containers {
            if let Program::Waypoint(_) = container.program().with_context(what)? {
                let alone = template.spec.containers.len() == 1;
                ensure!(alone, "{} has a container beside its waypoint", what());
                let gateway = template.metadata.labels.get(GATEWAY_NAME);
                gateway.with_context(|| format!("{} has a waypoint without {GATEWAY_NAME}", what()))?;
            }
        }
        let replicas = match object.0.pointer("/spec/replicas") {
            None => 1,
            Some(count) => count.as_u64().and_then(|count| u32::try_from(count).ok()).with_context(what)?,
        };
        ensure!(replicas <= REPLICAS_MAX, "{} wants {replicas} replicas of at most {REPLICAS_MAX}", what());
        Ok(Self { hash: letters(fnv(&raw.to_string()), 10), namespace, name, replicas, template })
    }
}

impl Container {
    /// What to run.
    pub(super) fn program(&self) -> Result<Program> {
        ensure!(
            self.command.is_empty(),
            "container {} has a command; only images and args are known",
            self.name
        );
        let image = self.image.split(':').next().unwrap_or_default();
        let program = match image {
            "ebb.dev/waypoint" => return Ok(Program::Waypoint(self.args.clone())),
            "ebb.dev/http-echo" => "http",
            "ebb.dev/tcp-echo" => "tcp-echo",
            "ebb.dev/tcp-sink" => "tcp-sink",
            "ebb.dev/tcp-source" => "tcp-source",
            "ebb.dev/collector" => "collector",
            "ebb.dev/sleep" => "sleep",
            _ => bail!(
                "image {image} is none of ebb.dev/{{collector,http-echo,tcp-echo,tcp-sink,tcp-source,sleep,waypoint}}"
            ),
        };
        let port = self.ports.first().and_then(|port| port.get("containerPort")).map(ToString::to_string);
        let listens = port.filter(|_| program != "sleep").map(|port| ["--port".to_owned(), port]);
        let words = [program.to_owned()].into_iter().chain(listens.into_iter().flatten());
        Ok(Program::App(words.chain(self.args.iter().cloned()).collect()))
    }

    /// The container as its Pod shows it. Probes are shown and not made.
    pub(super) fn shown(&self) -> Value {
        let mut shown = json!({"name": self.name, "image": self.image, "ports": self.ports});
        let probes = [("livenessProbe", &self.liveness_probe), ("readinessProbe", &self.readiness_probe)];
        for (name, probe) in probes {
            if let Some(probe) = probe {
                shown[name] = probe.clone();
            }
        }
        shown
    }

    /// How long its pod is known to be ending before the program does (`lifecycle.preStop.sleep`).
    pub(super) fn stops_after(&self) -> Option<Duration> {
        self.lifecycle.pre_stop.map(|hook| Duration::from_secs(hook.sleep.seconds))
    }

    pub(super) fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().map(|variable| (variable.name.as_str(), variable.value.as_str()))
    }
}

/// What Kubernetes makes generated names of: nothing that spells words.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The end of a pod's name. Different for different numbers (below 14 million), and not alike for neighbours: the factor
/// has no divisor in common with the size of the alphabet.
pub(super) fn suffix(number: u64) -> String {
    letters(number.wrapping_mul(7_368_787), 5)
}

fn letters(mut number: u64, count: usize) -> String {
    let base = ALPHABET.len() as u64;
    let mut next = || {
        let letter = ALPHABET[(number % base) as usize];
        number /= base;
        char::from(letter)
    };
    (0..count).map(|_| next()).collect()
}

/// FNV-1a: short, stable between runs, and good enough to tell templates apart.
fn fnv(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::manifest;

    fn read(spec: &str) -> Result<Deployment> {
        let yaml = format!(
            "kind: Deployment\nmetadata: {{name: web, namespace: shop}}\nspec: {{template: {{spec: {spec}}}}}\n"
        );
        Deployment::read(&manifest::parse("web.yaml", &yaml)?[0])
    }

    #[test]
    fn an_image_is_a_program_and_its_port_an_argument() {
        let spec = "{containers: [{name: a, image: 'ebb.dev/http-echo:v2', args: [--name, x], ports: [{containerPort: 81}]}]}";
        let web = read(spec).unwrap();
        assert_eq!((web.replicas, web.template.spec.service_account_name.as_str()), (1, "default"));
        let program = web.template.spec.containers[0].program().unwrap();
        let words = ["http", "--port", "81", "--name", "x"].map(str::to_owned).to_vec();
        assert_eq!(program, Program::App(words));
    }

    #[test]
    fn a_pod_may_be_known_to_end_before_it_does() {
        let spec =
            "{containers: [{name: a, image: ebb.dev/sleep, lifecycle: {preStop: {sleep: {seconds: 2}}}}]}";
        let stops_after = |spec| read(spec).unwrap().template.spec.containers[0].stops_after();
        assert_eq!(stops_after(spec), Some(Duration::from_secs(2)));
        assert_eq!(stops_after("{containers: [{name: a, image: ebb.dev/sleep}]}"), None);
    }

    #[test]
    fn a_waypoint_says_of_which_gateway_it_is_and_is_alone() {
        let labelled = |spec: &str| {
            let yaml = format!(
                "kind: Deployment\nmetadata: {{name: wp, namespace: shop}}\nspec: {{template: {{metadata: {{labels: \
                 {{{GATEWAY_NAME}: wp}}}}, spec: {spec}}}}}\n"
            );
            Deployment::read(&manifest::parse("wp.yaml", &yaml)?[0])
        };
        let spec = "{containers: [{name: a, image: ebb.dev/waypoint, args: [--workers, '1']}]}";
        let program = labelled(spec).unwrap().template.spec.containers[0].program().unwrap();
        assert_eq!(program, Program::Waypoint(vec!["--workers".into(), "1".into()]));
        assert!(read(spec).is_err(), "no label");
        let two = "{containers: [{name: a, image: ebb.dev/waypoint}, {name: b, image: ebb.dev/sleep}]}";
        assert!(labelled(two).is_err(), "two containers");
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        for spec in [
            "{containers: [{name: a, image: nginx}]}",
            "{containers: [{name: a, image: ebb.dev/sleep, command: [sh]}]}",
            "{containers: [{name: a, image: ebb.dev/sleep, lifecycle: {preStop: {exec: {command: [sh]}}}}]}",
            "{}",
        ] {
            assert!(read(spec).is_err(), "{spec}");
        }
    }

    #[test]
    fn pods_of_one_run_have_different_names() {
        let names: std::collections::BTreeSet<_> = (0..20_000).map(suffix).collect();
        assert_eq!(names.len(), 20_000);
    }

    #[test]
    fn another_template_has_another_hash() {
        let one = read("{containers: [{name: a, image: ebb.dev/sleep}]}").unwrap();
        let two = read("{containers: [{name: b, image: ebb.dev/sleep}]}").unwrap();
        assert_ne!(one.hash, two.hash);
        assert_eq!(one.hash.len(), 10);
    }
}
