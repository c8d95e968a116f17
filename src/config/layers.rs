//! Merging the layers of a configuration while remembering where each value came from.

use std::{collections::BTreeMap, fmt, path::Path};

use musaic_core::{
    Error, Result,
    files::{MAX_CONFIG, read_text},
};
use toml::{Table, Value};

use super::RunConfig;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// The model's own generation_config.json (under `reference`).
    Model,
    /// A named preset.
    Preset(String),
    /// A file given with `--config`.
    File(String),
    /// An environment variable.
    Environment(String),
    /// A flag on the command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Model => f.write_str("model"),
            Self::Preset(name) => write!(f, "preset {name}"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// A configuration in the making: dotted key -> value and origin.
#[derive(Debug, Clone)]
pub struct Layers {
    values: BTreeMap<String, (Value, Origin)>,
}

impl Layers {
    /// The built-in defaults.
    ///
    /// # Errors
    /// The default tree cannot be written as TOML (a bug).
    pub fn defaults() -> Result<Self> {
        let table = Table::try_from(RunConfig::default()).map_err(|e| Error::config("defaults", e.to_string()))?;
        let mut values = BTreeMap::new();
        flatten("", &table, &mut |key, value| {
            values.insert(key, (value.clone(), Origin::Default));
        });
        Ok(Self { values })
    }

    /// A preset or a file, as TOML text. It is read into the real types first, so that a typo is told with its line.
    ///
    /// # Errors
    /// Not TOML, an unknown key, or a value of the wrong type.
    pub fn text(&mut self, label: &str, text: &str, origin: &Origin) -> Result<()> {
        toml::from_str::<RunConfig>(text).map_err(|e| Error::config(label, e.to_string().trim_end().to_owned()))?;
        let table: Table = toml::from_str(text).map_err(|e| Error::config(label, e.to_string()))?;
        flatten("", &table, &mut |key, value| {
            self.values.insert(key, (value.clone(), origin.clone()));
        });
        Ok(())
    }

    /// A file on disk.
    ///
    /// # Errors
    /// The file cannot be read or does not fit.
    pub fn file(&mut self, path: &Path) -> Result<()> {
        let text = read_text(path, MAX_CONFIG)?;
        let label = path.display().to_string();
        self.text(&label, &text, &Origin::File(label.clone()))
    }

    /// Every `MUSAIC_*` variable that names a value: `MUSAIC_DEVICE`, `MUSAIC_GENERATE_SECONDS`.
    ///
    /// # Errors
    /// A value of the wrong type.
    pub fn environment(&mut self, variable: impl Fn(&str) -> Option<String>) -> Result<()> {
        let keys: Vec<_> = self.values.keys().cloned().collect();
        for key in keys {
            let name = format!("MUSAIC_{}", key.replace('.', "_").to_uppercase());
            if let Some(text) = variable(&name) {
                let value = self.parse_like(&key, &text).ok_or_else(|| {
                    Error::argument(name.clone(), format!("`{text}`"), format!("a value for `{key}`"))
                })?;
                self.values.insert(key, (value, Origin::Environment(name)));
            }
        }
        Ok(())
    }

    /// A value that the model recommends: it takes the place of a built-in default, and of nothing else.
    pub fn model(&mut self, key: &str, value: impl Into<Value>) {
        if self.origin(key) == Some(&Origin::Default) {
            self.values.insert(key.to_owned(), (value.into(), Origin::Model));
        }
    }

    /// A flag's value.
    pub fn flag(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.values.insert(key.to_owned(), (value.into(), Origin::Flag));
        }
    }

    /// Text as a value of the type that `key` has now.
    fn parse_like(&self, key: &str, text: &str) -> Option<Value> {
        Some(match self.values.get(key)?.0 {
            Value::String(_) => Value::String(text.to_owned()),
            Value::Integer(_) => Value::Integer(text.parse().ok()?),
            Value::Float(_) => Value::Float(text.parse().ok()?),
            Value::Boolean(_) => Value::Boolean(text.parse().ok()?),
            _ => return None,
        })
    }

    /// Where a value came from.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.values.get(key).map(|(_, origin)| origin)
    }

    /// The merged tree, checked.
    ///
    /// # Errors
    /// A value of the wrong type or out of range.
    pub fn finish(&self) -> Result<RunConfig> {
        let config: RunConfig = Value::Table(self.table())
            .try_into()
            .map_err(|e: toml::de::Error| Error::config("configuration", e.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    fn table(&self) -> Table {
        let mut root = Table::new();
        for (key, (value, _)) in &self.values {
            match key.split_once('.') {
                None => {
                    root.insert(key.clone(), value.clone());
                }
                Some((section, field)) => {
                    if let Value::Table(table) =
                        root.entry(section.to_owned()).or_insert_with(|| Value::Table(Table::new()))
                    {
                        table.insert(field.to_owned(), value.clone());
                    }
                }
            }
        }
        root
    }

    /// The tree as a TOML file, each value with its origin.
    pub fn print(&self) -> String {
        let line =
            |key: &str, value: &Value, origin: &Origin| format!("{:<31} # {origin}\n", format!("{key} = {value}"));
        let (top, nested): (Vec<_>, Vec<_>) = self.values.iter().partition(|(key, _)| !key.contains('.'));
        let mut text = String::new();
        for (key, (value, origin)) in top {
            text.push_str(&line(key, value, origin));
        }
        let mut current = "";
        for (key, (value, origin)) in nested {
            if let Some((section, field)) = key.split_once('.') {
                if section != current {
                    text.push_str(&format!("\n[{section}]\n"));
                    current = section;
                }
                text.push_str(&line(field, value, origin));
            }
        }
        text
    }
}

/// Visits every leaf under its dotted key.
fn flatten(prefix: &str, table: &Table, visit: &mut dyn FnMut(String, &Value)) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => flatten(&key, inner, visit),
            leaf => visit(key, leaf),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_layers_win_and_say_so() {
        let mut layers = Layers::defaults().unwrap();
        let file = Origin::File("a.toml".into());
        layers.text("a.toml", "device = \"cpu\"\n[generate]\nseconds = 20.0\ntop_k = 50\n", &file).unwrap();
        layers.environment(|name| (name == "MUSAIC_GENERATE_TOP_K").then(|| "40".to_owned())).unwrap();
        layers.flag("generate.seconds", Some(5.0));
        let config = layers.finish().unwrap();
        assert_eq!((config.generate.seconds, config.generate.top_k), (5.0, 40));
        assert_eq!(layers.origin("generate.seconds"), Some(&Origin::Flag));
        assert_eq!(layers.origin("device"), Some(&file));
    }

    #[test]
    fn a_model_recommends_and_does_not_overrule() {
        let mut layers = Layers::defaults().unwrap();
        layers.flag("generate.guidance", Some(2.0));
        layers.model("generate.guidance", 5.0);
        layers.model("generate.top_k", 50);
        let config = layers.finish().unwrap();
        assert_eq!((config.generate.guidance, config.generate.top_k), (2.0, 50));
    }

    #[test]
    fn what_is_printed_can_be_fed_back() {
        let mut layers = Layers::defaults().unwrap();
        layers.flag("generate.guidance", Some(4.5));
        let mut again = Layers::defaults().unwrap();
        again.text("printed", &layers.print(), &Origin::Flag).unwrap();
        assert_eq!(layers.finish().unwrap(), again.finish().unwrap());
    }

    #[test]
    fn a_typo_is_told_with_its_line() {
        let mut layers = Layers::defaults().unwrap();
        let error = layers.text("a.toml", "[generate]\nsecnods = 3.0\n", &Origin::Flag).unwrap_err().to_string();
        assert!(error.contains("secnods") && error.contains("line 2"), "{error}");
    }
}
