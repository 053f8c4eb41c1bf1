//! Settings of what runs on AWS.

use std::{collections::BTreeMap, net::IpAddr};

use http::Uri;
use toml::Value;

use super::{reader::Reader, value};

/// Where an AWS service is: settings of the section whose `kind` needs it. Credentials are never a
/// setting: they are where AWS tools look for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsConfig {
    /// `region`; None: what the environment, the profile or the instance says.
    pub region: Option<String>,
    /// `endpoint`: a URL that goes before the region's own.
    pub endpoint: Option<String>,
    /// `fips`: whether only FIPS 140 endpoints are called.
    pub fips: bool,
    /// `dual_stack`: whether endpoints with IPv6 addresses are called.
    pub dual_stack: bool,
}

/// `kind = "aws"`: AWS KMS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsKmsConfig {
    /// `key_id`: the primary: a key's id, its ARN, or an alias.
    pub key_id: String,
    /// Where it is; the region may be that of the key's ARN.
    pub aws: AwsConfig,
    /// `recovery_regions`: others whose keys may be called, each with the endpoint that goes before its own.
    pub recovery_regions: BTreeMap<String, Option<String>>,
}

/// The settings of `kms.kind = "aws"`.
pub(super) const KMS: [&str; 6] =
    ["kms.key_id", "kms.region", "kms.endpoint", "kms.fips", "kms.dual_stack", "kms.recovery_regions"];

/// Those settings one by one, before it is known whether they are wanted.
pub(super) struct Kms {
    key_id: Option<String>,
    aws: Option<AwsConfig>,
    recovery_regions: BTreeMap<String, Option<String>>,
}

pub(super) fn kms(from: &mut Reader) -> Kms {
    Kms {
        key_id: from.opt("kms.key_id", KEY_ID, |value| value::text(value).filter(|text| key_id(text))),
        aws: place(from, ["kms.region", "kms.endpoint", "kms.fips", "kms.dual_stack"]),
        recovery_regions: from.opt("kms.recovery_regions", RECOVERY, recovery).unwrap_or_default(),
    }
}

impl Kms {
    pub(super) fn complete(self, from: &mut Reader) -> Option<AwsKmsConfig> {
        from.need("kms.key_id", KEY_ID);
        let Self { key_id, aws, recovery_regions } = self;
        let (key_id, mut aws) = (key_id?, aws?);
        let of_arn = key_id.strip_prefix("arn:").and_then(|rest| rest.split(':').nth(2)).map(str::to_owned);
        if aws.region.is_some() && of_arn.is_some() && aws.region != of_arn {
            return from.refuse("kms.region", "must be the region in the ARN of kms.key_id, or be left out");
        }
        if (aws.fips || aws.dual_stack) && recovery_regions.values().any(Option::is_some) {
            let problem =
                "an entry is either a region with its endpoint or, with kms.fips or kms.dual_stack, one without";
            return from.refuse("kms.recovery_regions", problem);
        }
        aws.region = aws.region.or(of_arn);
        if aws.region.as_ref().is_some_and(|home| recovery_regions.contains_key(home)) {
            return from.refuse("kms.recovery_regions", "must be other regions than that of the primary");
        }
        Some(AwsKmsConfig { key_id, aws, recovery_regions })
    }
}

/// What a section says of where its service is, by these names of its settings: region, endpoint, FIPS,
/// dual stack.
pub(super) fn place(from: &mut Reader, names: [&'static str; 4]) -> Option<AwsConfig> {
    let [of_region, of_endpoint, of_fips, of_dual_stack] = names;
    let region = from.opt(of_region, REGION, value::region);
    let endpoint = from.opt(of_endpoint, ENDPOINT, |value| value::text(value).filter(|text| endpoint(text)));
    let (fips, dual_stack) = (from.flag(of_fips), from.flag(of_dual_stack));
    let aws = AwsConfig { region, endpoint, fips: fips?, dual_stack: dual_stack? };
    if aws.endpoint.is_some() && (aws.fips || aws.dual_stack) {
        return from.refuse(of_endpoint, format!("either this or {of_fips} and {of_dual_stack}, not both"));
    }
    Some(aws)
}

const KEY_ID: &str = "the id, ARN or alias of a KMS key";
const REGION: &str = "a region such as eu-central-1";
const ENDPOINT: &str = "an https URL without a path; http on this machine alone";
const RECOVERY: &str = "a list of regions such as eu-west-1, or eu-west-1=https://its.endpoint";

/// The longest name of a key that AWS takes.
const KEY_ID_MAX: usize = 2_048;

fn key_id(text: &str) -> bool {
    text.len() <= KEY_ID_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Plain data keys and ciphertext come from there: in the clear they don't leave the machine.
fn endpoint(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let Some(authority) = uri.authority() else { return false };
    let is_bare = uri.path() == "/" && uri.query().is_none() && !authority.as_str().contains('@');
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    is_bare && !host.is_empty() && (uri.scheme_str() == Some("https") || uri.scheme_str() == Some("http") && is_here)
}

fn recovery(value: &Value) -> Option<BTreeMap<String, Option<String>>> {
    let region = |name: &str| value::region(&Value::String(name.to_owned()));
    let entry = |text: String| match text.split_once('=') {
        None => Some((region(&text)?, None)),
        Some((name, url)) if endpoint(url) => Some((region(name)?, Some(url.to_owned()))),
        Some(_) => None,
    };
    value::texts(value)?.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_https_or_here() {
        for good in [
            "https://kms.example",
            "https://kms.example:8443/",
            "http://localhost:4566",
            "http://[::1]:1",
            "http://127.0.0.1",
        ] {
            assert!(endpoint(good), "{good}");
        }
        for bad in [
            "",
            "kms.example",
            "http://kms.example",
            "ftp://localhost",
            "https://a@kms.example",
            "https://kms.example/path",
            "https://kms.example?x",
            "http://10.0.0.1",
            "https://",
        ] {
            assert!(!endpoint(bad), "{bad}");
        }
    }
}
