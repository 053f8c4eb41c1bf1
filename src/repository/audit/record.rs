//! One record of the log: the serialized `ibyok.v1.AuditRecord`, salted and bounded. The exact
//! bytes made here are what is hashed, kept and answered.

use std::collections::BTreeMap;

use prost::Message as _;

use super::tree::{Hash, leaf_hash};
use crate::domain::{
    audit::{AuditDraft, Outcome},
    clock::{Entropy, EntropyError, Timestamp, random},
};

/// The most bytes of a record.
pub const RECORD_BYTES_MAX: usize = 4 << 10;

/// The detail that says that texts of this record were cut to fit.
pub const TRUNCATED: &str = "truncated";

/// `ibyok.v1.AuditRecord`, tag for tag; the generated one never leaves the wire's room.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AuditRecord {
    /// 16 random bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub salt: Vec<u8>,
    /// Whose log it stands in.
    #[prost(string, tag = "2")]
    pub org: String,
    /// When the call came in.
    #[prost(message, optional, tag = "3")]
    pub time: Option<RecordTime>,
    /// What was done or tried.
    #[prost(string, tag = "4")]
    pub action: String,
    /// `ibyok.v1.AuditOutcome`.
    #[prost(int32, tag = "5")]
    pub outcome: i32,
    /// Why, when denied or failed.
    #[prost(string, tag = "6")]
    pub reason: String,
    /// Full resource name.
    #[prost(string, tag = "7")]
    pub resource: String,
    /// The token's subject.
    #[prost(string, tag = "8")]
    pub subject: String,
    /// The token's id.
    #[prost(string, tag = "9")]
    pub token_id: String,
    /// SPIFFE id or DNS name of the client's certificate.
    #[prost(string, tag = "10")]
    pub client_identity: String,
    /// The address that the server saw.
    #[prost(string, tag = "11")]
    pub client_address: String,
    /// The client's user agent.
    #[prost(string, tag = "12")]
    pub user_agent: String,
    /// What the caller said it was for.
    #[prost(string, tag = "13")]
    pub purpose: String,
    /// W3C trace id.
    #[prost(string, tag = "14")]
    pub trace_id: String,
    /// Allow-listed extras.
    #[prost(btree_map = "string, string", tag = "15")]
    pub details: BTreeMap<String, String>,
    /// The resource's revision after a mutation.
    #[prost(int64, tag = "16")]
    pub revision: i64,
}

/// Whose a record is, and when: for who reads no more of it. The other fields are passed over.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Whose {
    /// Whose log it stands in.
    #[prost(string, tag = "2")]
    pub(super) org: String,
    #[prost(message, optional, tag = "3")]
    time: Option<RecordTime>,
}

impl Whose {
    /// That of the record of these bytes; None when they are not one.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        Self::decode(bytes).ok()
    }
    /// When the call came in.
    pub(super) fn timestamp(&self) -> Timestamp {
        self.time.map(RecordTime::timestamp).unwrap_or_default()
    }
}

/// `google.protobuf.Timestamp`, tag for tag.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RecordTime {
    /// Whole seconds since the Unix epoch.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// The rest.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// A record as it goes into a batch.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    /// The bytes.
    pub(super) bytes: Vec<u8>,
    /// Their leaf hash.
    pub(super) leaf: Hash,
}

/// Salts and serializes `draft`; never longer than [`RECORD_BYTES_MAX`].
pub(super) fn encode(draft: AuditDraft, entropy: &dyn Entropy) -> Result<Encoded, EntropyError> {
    let mut record = AuditRecord::new(draft, random::<16>(entropy)?);
    record.bound();
    let bytes = record.encode_to_vec();
    let leaf = leaf_hash(&bytes);
    Ok(Encoded { bytes, leaf })
}

impl AuditRecord {
    fn new(draft: AuditDraft, salt: [u8; 16]) -> Self {
        Self {
            salt: salt.to_vec(),
            org: draft.org.to_string(),
            time: Some(RecordTime::new(draft.time)),
            action: draft.action.as_str().to_owned(),
            outcome: outcome_number(draft.outcome),
            reason: draft.reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
            resource: draft.resource,
            subject: draft.subject,
            token_id: draft.token_id,
            client_identity: draft.client_identity,
            client_address: draft.client_address,
            user_agent: draft.user_agent,
            purpose: draft.purpose,
            trace_id: draft.trace_id,
            details: draft.details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            revision: i64::try_from(draft.revision).unwrap_or(i64::MAX),
        }
    }

    /// The record of these bytes; None when they are not one.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Self::decode(bytes).ok()
    }

    /// When the call came in.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.time.map(RecordTime::timestamp).unwrap_or_default()
    }

    /// How it ended; None for a number that is none.
    #[must_use]
    pub fn ended(&self) -> Option<Outcome> {
        [Outcome::Allowed, Outcome::Denied, Outcome::Failed]
            .into_iter()
            .find(|outcome| outcome_number(*outcome) == self.outcome)
    }

    /// Cuts free texts, all to the same length, until the record fits: a record is never dropped.
    fn bound(&mut self) {
        for longest in [1_024, 256, 64, 16] {
            if self.encoded_len() <= RECORD_BYTES_MAX {
                return;
            }
            let texts = [
                &mut self.resource,
                &mut self.subject,
                &mut self.token_id,
                &mut self.client_identity,
                &mut self.client_address,
                &mut self.user_agent,
                &mut self.purpose,
                &mut self.trace_id,
            ];
            texts.into_iter().chain(self.details.values_mut()).for_each(|text| cut(text, longest));
            self.details.insert(TRUNCATED.to_owned(), "true".to_owned());
        }
        if self.encoded_len() > RECORD_BYTES_MAX {
            self.details.retain(|name, _| name == TRUNCATED);
        }
    }
}

impl RecordTime {
    fn new(time: Timestamp) -> Self {
        let nanos = time.micros().rem_euclid(1_000_000) * 1_000;
        Self { seconds: time.seconds(), nanos: i32::try_from(nanos).unwrap_or(0) }
    }
    fn timestamp(self) -> Timestamp {
        let micros = i64::from(self.nanos) / 1_000;
        Timestamp::from_micros(Timestamp::from_seconds(self.seconds).micros().saturating_add(micros))
    }
}

/// The number of `outcome` in `ibyok.v1.AuditOutcome`.
#[must_use]
pub const fn outcome_number(outcome: Outcome) -> i32 {
    match outcome {
        Outcome::Allowed => 1,
        Outcome::Denied => 2,
        Outcome::Failed => 3,
    }
}

fn cut(text: &mut String, longest: usize) {
    text.truncate(text.floor_char_boundary(longest));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{audit::Action, clock::SystemEntropy, error::Reason, ids::OrgId};

    fn draft() -> AuditDraft {
        AuditDraft {
            org: OrgId::parse("org", "acme").unwrap(),
            time: Timestamp::from_micros(1_700_000_000_123_456),
            action: Action::KeyRetrieve,
            outcome: Outcome::Denied,
            reason: Some(Reason::KeyDisabled),
            resource: "orgs/acme/keys/openai-prod".into(),
            subject: "svc".into(),
            token_id: "t".repeat(32),
            client_identity: "spiffe://acme/svc".into(),
            client_address: "127.0.0.1".into(),
            user_agent: "agent/1".into(),
            purpose: "chat".into(),
            trace_id: "a".repeat(32),
            details: BTreeMap::from([("version", "7".to_owned()), ("provider", "openai".to_owned())]),
            revision: 42,
        }
    }

    #[test]
    fn what_is_encoded_reads_back() {
        let encoded = encode(draft(), &SystemEntropy).unwrap();
        let record = AuditRecord::read(&encoded.bytes).unwrap();
        assert_eq!(record.salt.len(), 16);
        assert_eq!(record.timestamp(), draft().time);
        assert_eq!(record.ended(), Some(Outcome::Denied));
        assert_eq!(record.encode_to_vec(), encoded.bytes);
        assert_eq!(encoded.leaf, leaf_hash(&encoded.bytes));
        let whose = Whose::read(&encoded.bytes).unwrap();
        assert_eq!((whose.org.as_str(), whose.timestamp()), ("acme", draft().time));
    }

    #[test]
    fn two_records_of_the_same_call_hash_apart() {
        let hash = || encode(draft(), &SystemEntropy).unwrap().leaf;
        assert_ne!(hash(), hash());
    }

    #[test]
    fn what_is_too_long_is_cut_on_a_character_and_marked() {
        let long = AuditDraft { client_identity: "é".repeat(5_000), ..draft() };
        let encoded = encode(long, &SystemEntropy).unwrap();
        assert!(encoded.bytes.len() <= RECORD_BYTES_MAX);
        let record = AuditRecord::read(&encoded.bytes).unwrap();
        assert_eq!(record.client_identity, "é".repeat(512));
        assert_eq!(record.details.get(TRUNCATED).map(String::as_str), Some("true"));
        assert_eq!((record.resource.as_str(), record.revision), ("orgs/acme/keys/openai-prod", 42));

        let worst = AuditDraft {
            resource: "r".repeat(9_000),
            subject: "s".repeat(9_000),
            user_agent: "u".repeat(9_000),
            purpose: "p".repeat(9_000),
            client_identity: "i".repeat(9_000),
            details: BTreeMap::from([("version", "v".repeat(9_000))]),
            ..draft()
        };
        assert!(encode(worst, &SystemEntropy).unwrap().bytes.len() <= RECORD_BYTES_MAX);
    }

    /// Extras go only when cut texts are not enough, and then all of them.
    #[test]
    fn extras_that_do_not_fit_even_when_they_are_cut_are_left_out() {
        let names: Vec<&'static str> = (0..125).map(|n| &*format!("extra-{n:03}").leak()).collect();
        let (mut longest, mut is_cut) = (0, false);
        for pad in 0..100 {
            // As many as almost fit, and one whose name is a byte longer each time.
            let last: &'static str = format!("x{}", "x".repeat(pad)).leak();
            let of = |name: &&'static str| (*name, "v".repeat(65));
            let details = names.iter().chain([&last]).map(of).collect();
            let encoded = encode(AuditDraft { details, ..draft() }, &SystemEntropy).unwrap();
            let record = AuditRecord::read(&encoded.bytes).unwrap();
            assert_eq!(record.details[TRUNCATED], "true");
            if record.details.len() == 1 {
                is_cut = true;
            } else {
                assert!(!is_cut && record.details.len() == 127);
                longest = encoded.bytes.len();
            }
        }
        assert!(is_cut);
        assert_eq!(longest, RECORD_BYTES_MAX, "to the last byte");
    }

    #[test]
    fn what_fits_is_not_touched() {
        let record = AuditRecord::read(&encode(draft(), &SystemEntropy).unwrap().bytes).unwrap();
        assert!(!record.details.contains_key(TRUNCATED));
    }
}
