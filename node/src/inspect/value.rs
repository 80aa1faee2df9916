//! What is shown: names and values, for people as lines and tables, for programs as JSON.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// A value, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Words.
    Text(String),
    /// A count, an offset, a number of bytes.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// Values of one kind.
    List(Vec<Value>),
    /// Named values, in the order in which they are to be read.
    Fields(Vec<(&'static str, Value)>),
}

impl Value {
    /// Shows something in its own words.
    pub(crate) fn text(shown: impl std::fmt::Display) -> Value {
        Value::Text(shown.to_string())
    }

    /// Whether anything in it is said to be damaged.
    #[must_use]
    pub fn tells_of_damage(&self) -> bool {
        match self {
            Value::Text(_) | Value::Number(_) | Value::Flag(_) => false,
            Value::List(values) => values.iter().any(Value::tells_of_damage),
            Value::Fields(fields) => fields.iter().any(|(name, value)| *name == DAMAGE || value.tells_of_damage()),
        }
    }
}

/// Name of the field that says why a structure was refused.
pub(crate) const DAMAGE: &str = "damage";

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Number(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Value {
        Value::Number(number.into())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Value {
        Value::Number(number as u64)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Text(text) => serializer.serialize_str(text),
            Value::Number(number) => serializer.serialize_u64(*number),
            Value::Flag(flag) => serializer.serialize_bool(*flag),
            Value::List(values) => serializer.collect_seq(values),
            Value::Fields(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}
