//! Reads one table of the file: every key of it must be one that its [`Table`] lists, and every value of the right type.

use std::{ops::Range, path::PathBuf, str::FromStr, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::error::Fault;
use crate::policy::parse_duration;

/// What a table is called in messages, and its keys; the root has no name.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) keys: &'static [&'static str],
}

/// A table of the file.
pub(super) struct Section<'a> {
    name: &'static str,
    keys: &'static [&'static str],
    table: &'a DeTable<'a>,
    pub(super) span: Range<usize>,
}

impl<'a> Section<'a> {
    /// Refuses a table with an unknown key.
    pub(super) fn new(
        &Table { name, keys }: &Table,
        table: &'a DeTable<'a>,
        span: Range<usize>,
    ) -> Result<Self, Fault> {
        let section = Self {
            name,
            keys,
            table,
            span,
        };
        for key in table.keys() {
            if !keys.contains(&key.get_ref().as_ref()) {
                return Err(section.unknown(key));
            }
        }
        Ok(section)
    }

    /// Reads a value, when the key is there.
    pub(super) fn get<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'a>) -> Result<T, String>,
    ) -> Result<Option<T>, Fault> {
        debug_assert!(
            self.keys.contains(&key),
            "{key} is missing from the table of {:?}",
            self.name
        );
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        read(value.get_ref())
            .map(Some)
            .map_err(|problem| self.fault(value.span(), key, problem))
    }

    /// Reads a value over a setting, when the key is there.
    pub(super) fn set<T>(
        &self,
        key: &'static str,
        setting: &mut T,
        read: impl FnOnce(&DeValue<'a>) -> Result<T, String>,
    ) -> Result<(), Fault> {
        if let Some(value) = self.get(key, read)? {
            *setting = value;
        }
        Ok(())
    }

    /// The table under a key, when the key is there.
    pub(super) fn section(&self, key: &'static str, table: &Table) -> Result<Option<Self>, Fault> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let Some(found) = value.get_ref().as_table() else {
            return Err(self.fault(value.span(), key, mismatch("a table", value.get_ref())));
        };
        Self::new(table, found, value.span()).map(Some)
    }

    /// The tables under a key, in the order of the file.
    pub(super) fn sections(&self, key: &'static str, table: &Table) -> Result<Vec<Self>, Fault> {
        let Some(value) = self.value(key) else {
            return Ok(Vec::new());
        };
        let expected = format!("an array of tables, each headed [[{key}]]");
        let DeValue::Array(items) = value.get_ref() else {
            return Err(self.fault(value.span(), key, mismatch(&expected, value.get_ref())));
        };
        let section = |item: &'a Spanned<DeValue<'a>>| match item.get_ref().as_table() {
            Some(found) => Self::new(table, found, item.span()),
            None => Err(self.fault(item.span(), key, mismatch(&expected, item.get_ref()))),
        };
        items.iter().map(section).collect()
    }

    /// A fault at the value of a key, or at the table when the key is not there.
    pub(super) fn fault_at(&self, key: &'static str, problem: String) -> Fault {
        let span = self
            .value(key)
            .map_or_else(|| self.span.clone(), Spanned::span);
        self.fault(span, key, problem)
    }

    fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        let mut entries = self.table.iter();
        entries.find_map(|(k, value)| (k.get_ref() == key).then_some(value))
    }

    fn unknown(&self, key: &Spanned<std::borrow::Cow<'_, str>>) -> Fault {
        let name = key.get_ref();
        let problem = format!("unknown key; {}", hint(name, self.keys));
        self.fault(key.span(), name, problem)
    }

    pub(super) fn fault(&self, span: Range<usize>, key: &str, problem: String) -> Fault {
        let dot = if self.name.is_empty() { "" } else { "." };
        Fault {
            span,
            key: Some(format!("{}{dot}{key}", self.name)),
            problem,
        }
    }
}

/// A text.
pub(super) fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| mismatch("a string", value))
}

/// A text that is not empty.
pub(super) fn name<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    match text(value)? {
        "" => Err("expected a string that is not empty".to_owned()),
        text => Ok(text),
    }
}

/// A text that a type reads itself.
pub(super) fn parsed<T: FromStr<Err: ToString>>(value: &DeValue<'_>) -> Result<T, String> {
    text(value)?
        .parse()
        .map_err(|error: T::Err| error.to_string())
}

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    value
        .as_bool()
        .ok_or_else(|| mismatch("true or false", value))
}

/// A whole number that is not negative.
pub(super) fn count(value: &DeValue<'_>) -> Result<usize, String> {
    let number = value
        .as_integer()
        .ok_or_else(|| mismatch("a whole number", value))?;
    usize::from_str_radix(number.as_str(), number.radix())
        .map_err(|_| format!("expected a whole number that is not negative, found {number}"))
}

/// A duration as PostgreSQL writes it; `None` when it is 0, which is off.
pub(super) fn duration(value: &DeValue<'_>) -> Result<Option<Duration>, String> {
    let text = value
        .as_str()
        .or_else(|| value.as_integer().map(|number| number.as_str()))
        .ok_or_else(|| mismatch("a duration such as \"30s\", or 0", value))?;
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    Ok((!duration.is_zero()).then_some(duration))
}

/// The path of a file.
pub(super) fn path(value: &DeValue<'_>) -> Result<Option<PathBuf>, String> {
    Ok(Some(PathBuf::from(name(value)?)))
}

/// One or more addresses.
pub(super) fn addresses<T: FromStr<Err: ToString>>(value: &DeValue<'_>) -> Result<Vec<T>, String> {
    let items = value.as_array().filter(|items| !items.is_empty());
    let items =
        items.ok_or("expected an array of one or more addresses, such as [\"127.0.0.1:6432\"]")?;
    items.iter().map(|item| parsed(item.get_ref())).collect()
}

/// A duration that cannot be off.
pub(super) fn positive(value: &DeValue<'_>) -> Result<Duration, String> {
    duration(value)?.ok_or_else(|| "expected a duration longer than 0".to_owned())
}

fn mismatch(expected: &str, found: &DeValue<'_>) -> String {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    format!("expected {expected}, found {found}")
}

/// What a word that is not known should have been.
pub(super) fn hint(word: &str, known: &[&str]) -> String {
    let near = known.iter().map(|k| (edit_distance(word, k), k)).min();
    match near {
        // A third of the letters wrong is still a slip.
        Some((distance, near)) if distance <= 1 + word.len() / 4 => {
            format!("did you mean `{near}`?")
        }
        _ => format!("expected one of {}", known.join(", ")),
    }
}

/// Levenshtein's: how many letters to add, drop or change.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "abc", 3),
            ("idle", "idle", 0),
            ("idel", "idle", 2),
            ("adress", "address", 1),
        ] {
            assert_eq!(edit_distance(a, b), expected);
            assert_eq!(edit_distance(b, a), expected);
        }
    }
}
