//! Reading and writing manifest files: YAML documents as plain values, told apart by kind, namespace and name.
//!
//! Writes are atomic (a temporary file, then a rename), as a ConfigMap mount or a careful tool does it; a reader of the
//! directory never sees half a file.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// One object of a manifest file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Object(pub(super) Value);

impl Object {
    pub(super) fn kind(&self) -> &str {
        self.text("/kind").unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        self.text("/metadata/name").unwrap_or_default()
    }

    /// The namespace it is in, `default` when it does not say.
    pub(super) fn namespace(&self) -> &str {
        self.text("/metadata/namespace").unwrap_or("default")
    }

    pub(super) fn text(&self, pointer: &str) -> Option<&str> {
        self.0.pointer(pointer).and_then(Value::as_str)
    }
}

/// Every object of a YAML text. Each must have a kind and a name.
pub(super) fn parse(file: &str, yaml: &str) -> Result<Vec<Object>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).with_context(|| format!("parse {file}"))?;
    let objects = documents.into_iter().filter(|document| !document.is_null()).map(Object);
    let named = |object: Object| {
        let whole = !object.kind().is_empty() && !object.name().is_empty();
        ensure!(whole, "{file} holds an object without kind or metadata.name: {}", object.0);
        Ok(object)
    };
    objects.map(named).collect()
}

/// Writes objects as one YAML file of several documents.
pub(super) fn write(directory: &Path, file: &str, objects: &[Value]) -> Result<()> {
    let documents: Result<Vec<String>, _> = objects.iter().map(serde_saphyr::to_string).collect();
    write_text(directory, file, &documents.with_context(|| format!("encode {file}"))?.join("---\n"))
}

/// Replaces a file in one step.
pub(super) fn write_text(directory: &Path, file: &str, text: &str) -> Result<()> {
    let temporary = directory.join(format!(".{file}.new"));
    fs::write(&temporary, text).with_context(|| format!("write {}", temporary.display()))?;
    fs::rename(&temporary, directory.join(file)).with_context(|| format!("put {file} in place"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_reads_back_the_same_whatever_it_looks_like() {
        let tricky = [
            "yes",
            "null",
            "1.0",
            "0x10",
            "10.96.0.10",
            "fd00::1",
            "a: b",
            "",
            "- x",
            "2026-01-02T03:04:05Z",
        ];
        let object = json!({"kind": "Pod", "metadata": {"name": "p", "annotations": {"x": tricky}}, "n": [1, true, null]});
        let directory = std::env::temp_dir().join(format!("ebb-manifest-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        write(&directory, "a.yaml", &[object.clone(), object.clone()]).unwrap();
        let text = fs::read_to_string(directory.join("a.yaml")).unwrap();
        let left: Vec<_> = fs::read_dir(&directory).unwrap().flatten().collect();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(parse("a.yaml", &text).unwrap(), [Object(object.clone()), Object(object)], "{text}");
    }

    #[test]
    fn an_object_without_a_name_is_refused_by_file() {
        let error = parse("bad.yaml", "kind: Service\n").unwrap_err();
        assert!(format!("{error:#}").contains("bad.yaml"));
    }
}
