//! The ARN of a KMS key: which region it is in, and which of its replicas is here.
//!
//! Format: <https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html#key-id-key-ARN>,
//! `arn:PARTITION:kms:REGION:ACCOUNT:key/ID`; the ids of multi-Region keys begin with `mrk-`.

/// An ARN of a key or of an alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyArn<'a> {
    partition: &'a str,
    pub(super) region: &'a str,
    account: &'a str,
    resource: &'a str,
}

impl<'a> KeyArn<'a> {
    /// None: `text` is a key's id, an alias, or nothing that names a key.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(6, ':');
        let mut next = || parts.next().filter(|part| !part.is_empty());
        let (scheme, partition, service) = (next()?, next()?, next()?);
        let (region, account, resource) = (next()?, next()?, next()?);
        let is_named =
            ["key/", "alias/"].iter().any(|kind| resource.strip_prefix(kind).is_some_and(|id| !id.is_empty()));
        (scheme == "arn" && service == "kms" && is_named).then_some(Self { partition, region, account, resource })
    }
    /// Whether it names a key, and not an alias, which may name another one tomorrow.
    pub(super) fn is_of_key(&self) -> bool {
        self.resource.starts_with("key/")
    }
    /// Whether the key can have replicas in other regions, with the same key material.
    pub(super) fn is_multi_region(&self) -> bool {
        self.resource.starts_with("key/mrk-")
    }
    /// The ARN of its replica in `region`.
    pub(super) fn replica(&self, region: &str) -> String {
        let Self { partition, account, resource, .. } = self;
        format!("arn:{partition}:kms:{region}:{account}:{resource}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_says_its_region() {
        let arn = KeyArn::parse("arn:aws-cn:kms:cn-north-1:111122223333:key/1234abcd").unwrap();
        assert_eq!((arn.region, arn.is_of_key(), arn.is_multi_region()), ("cn-north-1", true, false));
        let alias = KeyArn::parse("arn:aws:kms:eu-west-1:111122223333:alias/mrk-a").unwrap();
        assert_eq!((alias.region, alias.is_of_key(), alias.is_multi_region()), ("eu-west-1", false, false));
    }

    #[test]
    fn a_multi_region_key_has_replicas() {
        let arn = KeyArn::parse("arn:aws:kms:us-east-1:111122223333:key/mrk-12").unwrap();
        assert!(arn.is_multi_region());
        assert_eq!(arn.replica("eu-west-1"), "arn:aws:kms:eu-west-1:111122223333:key/mrk-12");
        assert_eq!(arn.replica("us-east-1"), "arn:aws:kms:us-east-1:111122223333:key/mrk-12");
    }

    #[test]
    fn what_is_no_arn_of_a_key_is_none() {
        for text in [
            "",
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "alias/vault",
            "local:0123456789abcdef",
            "arn:aws:s3:::bucket",
            "arn:aws:kms:us-east-1:1:grant/1",
            "arn:aws:kms:us-east-1:1:key/",
            "arn:aws:kms::1:key/1",
            "ARN:aws:kms:us-east-1:1:key/1",
            "arn:aws:kms:us-east-1:1",
        ] {
            assert_eq!(KeyArn::parse(text), None, "{text}");
        }
    }
}
