//! Gives a mutation that has no request id a random one, in the encoded request: then it is safe to
//! send again, and happens once.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::encoding::{DecodeContext, WireType, decode_key, encode_key, encode_varint, skip_field};
use tonic::{Code, Status};

use super::failure::with_reason;
use crate::reason;

/// Flag and length before each message of a gRPC body.
const PREFIX_LENGTH: usize = 5;

/// `body` with a request id in `field`; as it is where the method has none, or it is set, or the
/// body is not one plain message.
pub(super) fn filled(field: Option<u32>, body: Bytes) -> Result<Bytes, Status> {
    let Some(field) = field else { return Ok(body) };
    let Some(message) = plain_message(&body) else { return Ok(body) };
    if has_field(field, message) {
        return Ok(body);
    }
    let id = random_uuid()?;
    let mut addition = BytesMut::with_capacity(40);
    encode_key(field, WireType::LengthDelimited, &mut addition);
    encode_varint(id.len() as u64, &mut addition);
    addition.put_slice(id.as_bytes());

    let length = message.len() + addition.len();
    let Ok(prefix) = u32::try_from(length) else { return Ok(body) };
    let mut filled = BytesMut::with_capacity(PREFIX_LENGTH + length);
    filled.put_u8(0);
    filled.put_u32(prefix);
    filled.put_slice(message);
    filled.put_slice(&addition);
    Ok(filled.freeze())
}

/// The one uncompressed message that `body` is.
fn plain_message(body: &[u8]) -> Option<&[u8]> {
    let (mut prefix, message) = body.split_at_checked(PREFIX_LENGTH)?;
    let is_plain = prefix.get_u8() == 0;
    let length = usize::try_from(prefix.get_u32()).ok()?;
    (is_plain && length == message.len()).then_some(message)
}

/// Whether a field of that number stands in `message`: an empty text is never encoded. A message
/// that does not parse is left for the server to refuse.
fn has_field(field: u32, mut message: &[u8]) -> bool {
    while message.has_remaining() {
        let Ok((number, wire_type)) = decode_key(&mut message) else { return true };
        if number == field || skip_field(wire_type, number, &mut message, DecodeContext::default()).is_err() {
            return true;
        }
    }
    false
}

/// RFC 9562, version 4.
fn random_uuid() -> Result<String, Status> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|_| with_reason(Code::Internal, "no randomness for a request id", reason::NO_RANDOMNESS))?;
    let number = u128::from_be_bytes(bytes);
    let number = number & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let digits = format!("{number:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
    Ok(parts.into_iter().filter_map(|range| digits.get(range)).collect::<Vec<_>>().join("-"))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::{pb, transport::METHODS};

    fn framed(message: &impl prost::Message) -> Bytes {
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(u32::try_from(message.encoded_len()).unwrap());
        message.encode(&mut body).unwrap();
        body.freeze()
    }

    fn create_key(request_id: &str) -> pb::CreateKeyRequest {
        pb::CreateKeyRequest { key_id: "a".into(), request_id: request_id.into(), ..Default::default() }
    }

    #[test]
    fn an_empty_request_id_is_filled_with_a_random_uuid() {
        let once = filled(Some(12), framed(&create_key(""))).unwrap();
        let again = filled(Some(12), framed(&create_key(""))).unwrap();
        assert_ne!(once, again);

        let decoded = pb::CreateKeyRequest::decode(plain_message(&once).unwrap()).unwrap();
        assert_eq!(decoded.key_id, "a");
        let id = decoded.request_id.as_bytes();
        assert_eq!(id.len(), 36);
        assert_eq!([id[8], id[13], id[14], id[18], id[23]], [b'-', b'-', b'4', b'-', b'-']);
        assert!(b"89ab".contains(&id[19]));
    }

    #[test]
    fn a_request_id_of_the_callers_is_kept() {
        let body = framed(&create_key("mine"));
        assert_eq!(filled(Some(12), body.clone()).unwrap(), body);
    }

    #[test]
    fn what_is_not_one_plain_message_is_left_alone() {
        for body in [&b""[..], &[0, 0, 0, 0, 9, 1], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 1, 0xff]] {
            assert_eq!(filled(Some(12), Bytes::copy_from_slice(body)).unwrap(), body);
        }
    }

    #[test]
    fn the_table_knows_where_request_ids_stand() {
        let field = |path: &str| METHODS.iter().find(|method| method.path == path).unwrap().request_id_field;
        assert_eq!(field("/ibyok.v1.KeyVault/CreateKey"), Some(12));
        assert_eq!(field("/ibyok.v1.Tokens/RenewToken"), Some(2));
        assert_eq!(field("/ibyok.v1.KeyVault/RetrieveKey"), None);
    }
}
