//! Attributes of a record, written and read by name and type. What is absent or of another type
//! is RECORD_REJECTED: a record whose MAC held and that still can't be read is not one of ours.

use std::collections::BTreeMap;

use crate::{
    domain::{
        clock::Timestamp,
        error::{Failure, Reason},
    },
    store::{Attributes, Value},
};

/// Reads attributes: of a [`Verified`](super::records::Verified) item, or of a map within one.
pub trait Fields {
    /// All of them.
    fn attributes(&self) -> &Attributes;

    /// The attribute, if it is there.
    fn opt_value(&self, name: &'static str) -> Option<&Value> {
        self.attributes().get(name)
    }
    /// Text.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn text(&self, name: &'static str) -> Result<&str, Failure> {
        required(name, self.opt_text(name))
    }
    /// Text, or None when absent.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn opt_text(&self, name: &'static str) -> Result<Option<&str>, Failure> {
        optional(name, self.opt_value(name), as_text)
    }
    /// A whole number.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn int(&self, name: &'static str) -> Result<i64, Failure> {
        required(name, self.opt_int(name))
    }
    /// A whole number, or None when absent.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn opt_int(&self, name: &'static str) -> Result<Option<i64>, Failure> {
        optional(name, self.opt_value(name), |value| if let Value::Int(int) = value { Some(*int) } else { None })
    }
    /// A whole number that fits `T`: `record.number::<u32>("version")`.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn number<T: TryFrom<i64>>(&self, name: &'static str) -> Result<T, Failure> {
        T::try_from(self.int(name)?).map_err(|_| rejected(name))
    }
    /// A whole number that fits `T`, or None when absent.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn opt_number<T: TryFrom<i64>>(&self, name: &'static str) -> Result<Option<T>, Failure> {
        self.opt_int(name)?.map(|int| T::try_from(int).map_err(|_| rejected(name))).transpose()
    }
    /// A time.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn time(&self, name: &'static str) -> Result<Timestamp, Failure> {
        self.int(name).map(Timestamp::from_micros)
    }
    /// A time, or None when absent.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn opt_time(&self, name: &'static str) -> Result<Option<Timestamp>, Failure> {
        Ok(self.opt_int(name)?.map(Timestamp::from_micros))
    }
    /// True or false.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn bool(&self, name: &'static str) -> Result<bool, Failure> {
        let found =
            optional(
                name,
                self.opt_value(name),
                |value| if let Value::Bool(bool) = value { Some(*bool) } else { None },
            );
        required(name, found)
    }
    /// Bytes.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn bytes(&self, name: &'static str) -> Result<&[u8], Failure> {
        required(name, self.opt_bytes(name))
    }
    /// Bytes, or None when absent.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn opt_bytes(&self, name: &'static str) -> Result<Option<&[u8]>, Failure> {
        optional(
            name,
            self.opt_value(name),
            |value| if let Value::Bytes(bytes) = value { Some(&**bytes) } else { None },
        )
    }
    /// A hash or a key: exactly `N` bytes.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn array<const N: usize>(&self, name: &'static str) -> Result<[u8; N], Failure> {
        self.bytes(name)?.try_into().map_err(|_| rejected(name))
    }
    /// Values in order.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn list(&self, name: &'static str) -> Result<&[Value], Failure> {
        let found =
            optional(
                name,
                self.opt_value(name),
                |value| if let Value::List(list) = value { Some(&**list) } else { None },
            );
        required(name, found)
    }
    /// A list of texts.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn texts(&self, name: &'static str) -> Result<Vec<String>, Failure> {
        let texts = self.list(name)?.iter().map(|value| as_text(value).map(str::to_owned));
        texts.collect::<Option<_>>().ok_or_else(|| rejected(name))
    }
    /// A list of maps, each a record of its own.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn maps(&self, name: &'static str) -> Result<Vec<&Attributes>, Failure> {
        let maps = self.list(name)?.iter().map(as_map);
        maps.collect::<Option<_>>().ok_or_else(|| rejected(name))
    }
    /// Values by name: a record within the record.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn map(&self, name: &'static str) -> Result<&Attributes, Failure> {
        required(name, self.opt_map(name))
    }
    /// Values by name, or None when absent.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn opt_map(&self, name: &'static str) -> Result<Option<&Attributes>, Failure> {
        optional(name, self.opt_value(name), as_map)
    }
    /// Texts by name: labels.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn map_of_text(&self, name: &'static str) -> Result<BTreeMap<String, String>, Failure> {
        let entries = self.map(name)?.iter().map(|(key, value)| Some((key.clone(), as_text(value)?.to_owned())));
        entries.collect::<Option<_>>().ok_or_else(|| rejected(name))
    }
    /// Whole numbers by name.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    fn map_of_int(&self, name: &'static str) -> Result<BTreeMap<String, i64>, Failure> {
        let entries = self.map(name)?.iter().map(|(key, value)| match value {
            Value::Int(int) => Some((key.clone(), *int)),
            _ => None,
        });
        entries.collect::<Option<_>>().ok_or_else(|| rejected(name))
    }
}

impl Fields for Attributes {
    fn attributes(&self) -> &Attributes {
        self
    }
}

/// The failure of a record in which `name` is absent or of another type, or says what can't be.
#[must_use]
pub fn rejected(name: &'static str) -> Failure {
    Failure::new(Reason::RecordRejected).caused_by(format!("the attribute {name} is absent or not what it must be"))
}

fn required<T>(name: &'static str, found: Result<Option<T>, Failure>) -> Result<T, Failure> {
    found?.ok_or_else(|| rejected(name))
}
fn optional<'a, T>(
    name: &'static str,
    value: Option<&'a Value>,
    read: impl Fn(&'a Value) -> Option<T>,
) -> Result<Option<T>, Failure> {
    value.map(|value| read(value).ok_or_else(|| rejected(name))).transpose()
}
fn as_text(value: &Value) -> Option<&str> {
    if let Value::Text(text) = value { Some(text) } else { None }
}
fn as_map(value: &Value) -> Option<&Attributes> {
    if let Value::Map(map) = value { Some(map) } else { None }
}

/// Builds attributes: `Builder::new().text("state", "active").opt_time("purge_time", None).build()`.
#[derive(Clone, Debug, Default)]
pub struct Builder(Attributes);

impl Builder {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// Any value.
    #[must_use]
    pub fn value(mut self, name: &'static str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }
    /// Text.
    #[must_use]
    pub fn text(self, name: &'static str, text: impl Into<String>) -> Self {
        self.value(name, Value::Text(text.into()))
    }
    /// Text, if there is any.
    #[must_use]
    pub fn opt_text(self, name: &'static str, text: Option<impl Into<String>>) -> Self {
        if let Some(text) = text { self.text(name, text) } else { self }
    }
    /// A whole number.
    #[must_use]
    pub fn int(self, name: &'static str, int: impl Into<i64>) -> Self {
        self.value(name, Value::Int(int.into()))
    }
    /// A whole number, if there is one.
    #[must_use]
    pub fn opt_int(self, name: &'static str, int: Option<impl Into<i64>>) -> Self {
        if let Some(int) = int { self.int(name, int) } else { self }
    }
    /// A count or a revision; what no i64 holds is kept as the largest.
    #[must_use]
    pub fn count(self, name: &'static str, count: u64) -> Self {
        self.int(name, i64::try_from(count).unwrap_or(i64::MAX))
    }
    /// A time, in microseconds.
    #[must_use]
    pub fn time(self, name: &'static str, time: Timestamp) -> Self {
        self.int(name, time.micros())
    }
    /// A time, if there is one.
    #[must_use]
    pub fn opt_time(self, name: &'static str, time: Option<Timestamp>) -> Self {
        self.opt_int(name, time.map(Timestamp::micros))
    }
    /// True or false.
    #[must_use]
    pub fn bool(self, name: &'static str, bool: bool) -> Self {
        self.value(name, Value::Bool(bool))
    }
    /// Bytes.
    #[must_use]
    pub fn bytes(self, name: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        self.value(name, Value::Bytes(bytes.into()))
    }
    /// Bytes, if there are any.
    #[must_use]
    pub fn opt_bytes(self, name: &'static str, bytes: Option<impl Into<Vec<u8>>>) -> Self {
        if let Some(bytes) = bytes { self.bytes(name, bytes) } else { self }
    }
    /// A list of texts.
    #[must_use]
    pub fn texts<T: Into<String>>(self, name: &'static str, texts: impl IntoIterator<Item = T>) -> Self {
        self.value(name, Value::List(texts.into_iter().map(|text| Value::Text(text.into())).collect()))
    }
    /// A list of maps.
    #[must_use]
    pub fn maps(self, name: &'static str, maps: impl IntoIterator<Item = Attributes>) -> Self {
        self.value(name, Value::List(maps.into_iter().map(Value::Map).collect()))
    }
    /// Values by name.
    #[must_use]
    pub fn map(self, name: &'static str, map: Attributes) -> Self {
        self.value(name, Value::Map(map))
    }
    /// Texts by name.
    #[must_use]
    pub fn map_of_text(self, name: &'static str, map: &BTreeMap<String, String>) -> Self {
        self.map(name, map.iter().map(|(key, text)| (key.clone(), Value::Text(text.clone()))).collect())
    }
    /// Whole numbers by name.
    #[must_use]
    pub fn map_of_int(self, name: &'static str, map: &BTreeMap<String, i64>) -> Self {
        self.map(name, map.iter().map(|(key, int)| (key.clone(), Value::Int(*int))).collect())
    }
    /// The attributes.
    #[must_use]
    pub fn build(self) -> Attributes {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn all() -> Attributes {
        Builder::new()
            .text("text", "t")
            .int("int", -1)
            .count("count", 7)
            .count("huge", u64::MAX)
            .time("time", Timestamp::from_micros(5))
            .bool("bool", true)
            .bytes("bytes", [1, 2])
            .texts("texts", ["a", "b"])
            .maps("maps", [Builder::new().text("x", "y").build()])
            .map_of_text("labels", &[("k".to_owned(), "v".to_owned())].into())
            .map_of_int("numbers", &[("n".to_owned(), 3)].into())
            .opt_text("none", None::<String>)
            .opt_time("none", None)
            .opt_bytes("none", None::<Vec<u8>>)
            .build()
    }

    #[test]
    fn what_is_built_is_read() {
        let all = all();
        assert_eq!(all.text("text").unwrap(), "t");
        assert_eq!(all.int("int").unwrap(), -1);
        assert_eq!(all.number::<u64>("count").unwrap(), 7);
        assert_eq!(all.int("huge").unwrap(), i64::MAX);
        assert_eq!(all.time("time").unwrap().micros(), 5);
        assert!(all.bool("bool").unwrap());
        assert_eq!(all.array::<2>("bytes").unwrap(), [1, 2]);
        assert_eq!(all.texts("texts").unwrap(), ["a", "b"]);
        assert_eq!(all.maps("maps").unwrap()[0].text("x").unwrap(), "y");
        assert_eq!(all.map_of_text("labels").unwrap()["k"], "v");
        assert_eq!(all.map_of_int("numbers").unwrap()["n"], 3);
        assert!(!all.contains_key("none"));
        assert_eq!(all.opt_text("none").unwrap(), None);
        assert_eq!(all.opt_number::<u8>("none").unwrap(), None);
    }

    #[test]
    fn absent_and_of_another_type_are_rejected() {
        let all = all();
        let refusals = [
            all.text("none").err(),
            all.text("int").err(),
            all.opt_text("int").err(),
            all.int("text").err(),
            all.number::<u64>("int").err(),
            all.opt_number::<u8>("huge").err(),
            all.time("text").err(),
            all.opt_time("text").err(),
            all.bool("int").err(),
            all.bytes("text").err(),
            all.array::<3>("bytes").err(),
            all.list("labels").err(),
            all.texts("maps").err(),
            all.maps("texts").err(),
            all.map("texts").err(),
            all.map_of_text("numbers").err(),
            all.map_of_int("labels").err(),
        ];
        for (i, refusal) in refusals.into_iter().enumerate() {
            let failure = refusal.unwrap_or_else(|| panic!("read {i} went through"));
            assert_eq!(failure.reason, Reason::RecordRejected);
            assert!(failure.source().unwrap().to_string().contains("the attribute "));
        }
    }
}
