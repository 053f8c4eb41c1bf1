//! Attributes as bytes: a stable format on disk. Knows nothing of tables.
//!
//! ```text
//! attributes = version:u8 (1)  map
//! map        = count:u32  count x ( name:text  value )     names strictly ascending, bytewise
//! list       = count:u32  count x value
//! text       = length:u32  UTF-8 bytes
//! bytes      = length:u32  bytes
//! value      = 1 text | 2 i64 | 3 (false) | 4 (true) | 5 bytes | 6 list | 7 map
//! ```
//!
//! Every number is big-endian. Lists and maps nest at most [`DEPTH_MAX`] deep below the outermost
//! map, and nothing follows it. Equal attributes have equal bytes, and every byte sequence that
//! decodes is the one that its attributes encode to.

use crate::store::{Attributes, DEPTH_MAX, Value};

const VERSION: u8 = 1;
const TEXT: u8 = 1;
const INT: u8 = 2;
const FALSE: u8 = 3;
const TRUE: u8 = 4;
const BYTES: u8 = 5;
const LIST: u8 = 6;
const MAP: u8 = 7;

/// Why bytes are not attributes, or attributes have no bytes. Says nothing of what is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    #[error("the attributes are of version {0}, known is 1")]
    Version(u8),
    #[error("the attributes end early")]
    Short,
    #[error("bytes follow the attributes")]
    Trailing,
    #[error("a value has the unknown tag {0}")]
    Tag(u8),
    #[error("a text is not UTF-8")]
    Utf8,
    #[error("names are not strictly ascending")]
    Order,
    #[error("values nest too deep")]
    Depth,
    #[error("a value is longer than 4 GB")]
    Long,
}

/// The bytes of `attributes`.
pub(super) fn encode(attributes: &Attributes) -> Result<Vec<u8>, CodecError> {
    let mut out = vec![VERSION];
    put_map(&mut out, attributes, 0)?;
    Ok(out)
}

/// The attributes that `bytes` say.
pub(super) fn decode(bytes: &[u8]) -> Result<Attributes, CodecError> {
    let mut rest = Rest(bytes);
    let version = rest.byte()?;
    if version != VERSION {
        return Err(CodecError::Version(version));
    }
    let attributes = rest.map(0)?;
    if rest.0.is_empty() { Ok(attributes) } else { Err(CodecError::Trailing) }
}

fn put_length(out: &mut Vec<u8>, length: usize) -> Result<(), CodecError> {
    out.extend_from_slice(&u32::try_from(length).map_err(|_| CodecError::Long)?.to_be_bytes());
    Ok(())
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), CodecError> {
    put_length(out, bytes.len())?;
    out.extend_from_slice(bytes);
    Ok(())
}

fn put_map(out: &mut Vec<u8>, values: &Attributes, depth: usize) -> Result<(), CodecError> {
    put_length(out, values.len())?;
    values.iter().try_for_each(|(name, value)| {
        put_bytes(out, name.as_bytes())?;
        put_value(out, value, depth)
    })
}

fn put_value(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), CodecError> {
    match value {
        Value::Text(text) => {
            out.push(TEXT);
            put_bytes(out, text.as_bytes())
        }
        Value::Int(int) => {
            out.push(INT);
            out.extend_from_slice(&int.to_be_bytes());
            Ok(())
        }
        Value::Bool(bool) => {
            out.push(if *bool { TRUE } else { FALSE });
            Ok(())
        }
        Value::Bytes(bytes) => {
            out.push(BYTES);
            put_bytes(out, bytes)
        }
        Value::List(values) => {
            let deeper = deeper(depth)?;
            out.push(LIST);
            put_length(out, values.len())?;
            values.iter().try_for_each(|value| put_value(out, value, deeper))
        }
        Value::Map(values) => {
            let deeper = deeper(depth)?;
            out.push(MAP);
            put_map(out, values, deeper)
        }
    }
}

fn deeper(depth: usize) -> Result<usize, CodecError> {
    if depth < DEPTH_MAX { Ok(depth.saturating_add(1)) } else { Err(CodecError::Depth) }
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(CodecError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(CodecError::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, CodecError> {
        self.array::<1>().map(u8::from_be_bytes)
    }

    fn length(&mut self) -> Result<usize, CodecError> {
        usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| CodecError::Long)
    }

    fn bytes(&mut self) -> Result<&'a [u8], CodecError> {
        let length = self.length()?;
        self.take(length)
    }

    fn text(&mut self) -> Result<&'a str, CodecError> {
        str::from_utf8(self.bytes()?).map_err(|_| CodecError::Utf8)
    }

    fn value(&mut self, depth: usize) -> Result<Value, CodecError> {
        match self.byte()? {
            TEXT => self.text().map(|text| Value::Text(text.to_owned())),
            INT => self.array().map(|int| Value::Int(i64::from_be_bytes(int))),
            FALSE => Ok(Value::Bool(false)),
            TRUE => Ok(Value::Bool(true)),
            BYTES => self.bytes().map(|bytes| Value::Bytes(bytes.to_vec())),
            LIST => self.list(deeper(depth)?).map(Value::List),
            MAP => self.map(deeper(depth)?).map(Value::Map),
            tag => Err(CodecError::Tag(tag)),
        }
    }

    /// Room grows with what is really there, whatever the count says.
    fn list(&mut self, depth: usize) -> Result<Vec<Value>, CodecError> {
        (0..self.length()?).map(|_| self.value(depth)).collect()
    }

    fn map(&mut self, depth: usize) -> Result<Attributes, CodecError> {
        let mut values = Attributes::new();
        for _ in 0..self.length()? {
            let name = self.text()?;
            if values.last_key_value().is_some_and(|(last, _)| last.as_str() >= name) {
                return Err(CodecError::Order);
            }
            let value = self.value(depth)?;
            values.insert(name.to_owned(), value);
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<String>().prop_map(Value::Text),
            any::<i64>().prop_map(Value::Int),
            any::<bool>().prop_map(Value::Bool),
            any::<Vec<u8>>().prop_map(Value::Bytes),
        ];
        leaf.prop_recursive(6, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::List),
                prop::collection::btree_map(any::<String>(), inner, 0..5).prop_map(Value::Map),
            ]
        })
    }

    fn attributes() -> impl Strategy<Value = Attributes> {
        prop::collection::btree_map(any::<String>(), value(), 0..6)
    }

    #[test]
    fn the_format_is_what_the_head_says() {
        let attributes = Attributes::from([
            ("b".into(), Value::Bytes(vec![0xff])),
            ("i".into(), Value::Int(-2)),
            ("l".into(), Value::List(vec![Value::Bool(false), Value::Bool(true)])),
            ("m".into(), Value::Map(Attributes::from([("t".into(), Value::Text("é".into()))]))),
        ]);
        let bytes = [
            &[1, 0, 0, 0, 4][..],
            &[0, 0, 0, 1, b'b', 5, 0, 0, 0, 1, 0xff],
            &[0, 0, 0, 1, b'i', 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe],
            &[0, 0, 0, 1, b'l', 6, 0, 0, 0, 2, 3, 4],
            &[0, 0, 0, 1, b'm', 7, 0, 0, 0, 1, 0, 0, 0, 1, b't', 1, 0, 0, 0, 2, 0xc3, 0xa9],
        ]
        .concat();
        assert_eq!(encode(&attributes).unwrap(), bytes);
        assert_eq!(decode(&bytes).unwrap(), attributes);
    }

    #[test]
    fn each_defect_has_its_error() {
        for (bytes, error) in [
            (&[][..], CodecError::Short),
            (&[2, 0, 0, 0, 0], CodecError::Version(2)),
            (&[1, 0, 0, 0], CodecError::Short),
            (&[1, 0, 0, 0, 0, 0], CodecError::Trailing),
            (&[1, 0xff, 0xff, 0xff, 0xff], CodecError::Short),
            (&[1, 0, 0, 0, 1, 0, 0, 0, 1, b'a', 9], CodecError::Tag(9)),
            (&[1, 0, 0, 0, 1, 0, 0, 0, 1, 0xff, 3], CodecError::Utf8),
            (&[1, 0, 0, 0, 2, 0, 0, 0, 1, b'a', 3, 0, 0, 0, 1, b'a', 3], CodecError::Order),
            (&[1, 0, 0, 0, 1, 0, 0, 0, 1, b'a', 6, 0xff, 0xff, 0xff, 0xff], CodecError::Short),
        ] {
            assert_eq!(decode(bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn depth_is_bounded_both_ways() {
        let nested = |depth| {
            let value = (0..depth).fold(Value::Int(1), |inner, _| Value::List(vec![inner]));
            Attributes::from([("a".into(), value)])
        };
        let deepest = encode(&nested(DEPTH_MAX)).unwrap();
        assert_eq!(decode(&deepest).unwrap(), nested(DEPTH_MAX));
        assert_eq!(encode(&nested(DEPTH_MAX + 1)), Err(CodecError::Depth));
        let mut deeper = vec![1, 0, 0, 0, 1, 0, 0, 0, 1, b'a'];
        deeper.extend([6, 0, 0, 0, 1].repeat(100_000));
        assert_eq!(decode(&deeper), Err(CodecError::Depth));
    }

    proptest! {
        #[test]
        fn attributes_survive(attributes in attributes()) {
            prop_assert_eq!(decode(&encode(&attributes).unwrap()).unwrap(), attributes);
        }

        #[test]
        fn any_bytes_decode_to_what_they_are_or_not_at_all(bytes in any::<Vec<u8>>()) {
            for bytes in [bytes.clone(), [&[1][..], &bytes].concat()] {
                if let Ok(attributes) = decode(&bytes) {
                    prop_assert_eq!(encode(&attributes).unwrap(), bytes);
                }
            }
        }

        #[test]
        fn damaged_bytes_decode_to_what_they_are_or_not_at_all(
            attributes in attributes(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            keep in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encode(&attributes).unwrap();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let cut = &bytes[..=keep.index(bytes.len())];
            for bytes in [&bytes[..], cut] {
                if let Ok(attributes) = decode(bytes) {
                    prop_assert_eq!(encode(&attributes).unwrap(), bytes);
                }
            }
        }
    }
}
