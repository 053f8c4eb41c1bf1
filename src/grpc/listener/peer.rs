//! What a client certificate says of its holder. The handshake has verified it before this reads.

use aws_lc_rs::digest;
use x509_parser::{extensions::GeneralName, prelude::FromDer as _, prelude::X509Certificate};

use crate::domain::{clock::Timestamp, principal::ClientCertificate};

/// The certificate is none that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client certificate can't be read")]
pub struct UnreadableCertificate;

/// Reads SPIFFE ids, DNS names, hash and expiry of the certificate in `der`.
///
/// # Errors
/// When it is no X.509 certificate.
pub fn certificate(der: &[u8]) -> Result<ClientCertificate, UnreadableCertificate> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|_| UnreadableCertificate)?;
    let names = parsed.subject_alternative_name().map_err(|_| UnreadableCertificate)?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let hash = digest::digest(&digest::SHA256, der);
    Ok(ClientCertificate {
        identities: names.iter().filter_map(identity).collect(),
        sha256: hash.as_ref().try_into().map_err(|_| UnreadableCertificate)?,
        not_after: Timestamp::from_seconds(parsed.validity().not_after.timestamp()),
    })
}

/// Names that are long or hold anything but printable ASCII are none: they would reach the log.
fn identity(name: &GeneralName<'_>) -> Option<String> {
    let text = match name {
        GeneralName::URI(uri) if uri.starts_with("spiffe://") => (*uri).to_owned(),
        GeneralName::DNSName(name) if is_dns_name(name) => name.to_ascii_lowercase(),
        _ => return None,
    };
    let is_plain = text.len() <= 2_048 && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_plain.then_some(text)
}

/// X.509 lets anything stand there, a text that looks like a SPIFFE id too.
fn is_dns_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, ClientNames};

    #[test]
    fn spiffe_ids_and_dns_names_are_read_and_nothing_else() {
        let authority = Authority::new("test").unwrap();
        let names = ClientNames { spiffe: vec!["spiffe://a.test/svc".into()], dns: vec!["SVC.a.test".into()] };
        let issued = authority.client(&names, crate::pki::Validity::days(30)).unwrap();
        let read = certificate(&issued.certificate_der().unwrap()).unwrap();
        let mut identities = read.identities.clone();
        identities.sort();
        assert_eq!(identities, ["spiffe://a.test/svc", "svc.a.test"]);
        assert_eq!(read.primary_identity(), Some("spiffe://a.test/svc"));
        assert!(certificate(b"garbage").is_err());
    }

    #[test]
    fn a_dns_name_that_is_none_is_no_identity() {
        let authority = Authority::new("test").unwrap();
        let dns = ["spiffe://a.test/admin", "a.test/admin", "a:b", "svc.a.test"].map(String::from).to_vec();
        let names = ClientNames { dns, ..ClientNames::default() };
        let issued = authority.client(&names, crate::pki::Validity::days(30)).unwrap();
        assert_eq!(certificate(&issued.certificate_der().unwrap()).unwrap().identities, ["svc.a.test"]);
    }
}
