//! Makes certificates: `dev` and the tests are their own authority. Nothing here verifies one.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use zeroize::Zeroizing;

use crate::domain::clock::{Clock, SystemClock, Timestamp};

/// A certificate can't be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A name in it is not valid, or a key can't be made.
    #[error("the certificate can't be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// What should be PEM is not.
    #[error("no certificate in PEM")]
    Pem,
}

/// From when until when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub from: Timestamp,
    /// The last moment.
    pub until: Timestamp,
}

impl Validity {
    /// From a minute ago, for clocks that differ a little, for `days`.
    #[must_use]
    pub fn days(days: u32) -> Self {
        let now = SystemClock.now();
        let span = Duration::from_secs(u64::from(days) * 86_400);
        Self { from: now.minus(Duration::from_secs(60)), until: now.plus(span) }
    }
    /// That ended a minute ago.
    #[must_use]
    pub fn past() -> Self {
        let now = SystemClock.now();
        Self { from: now.minus(Duration::from_secs(86_400)), until: now.minus(Duration::from_secs(60)) }
    }
}

/// A certificate and its private key, both PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS #8.
    pub key: Zeroizing<String>,
}

impl Issued {
    /// The certificate's DER.
    ///
    /// # Errors
    /// When it is not PEM.
    pub fn certificate_der(&self) -> Result<CertificateDer<'static>, PkiError> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(|_| PkiError::Pem)
    }
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issued(key redacted)")
    }
}

/// The names of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientNames {
    /// SPIFFE ids.
    pub spiffe: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
}

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(key redacted)")
    }
}

impl Authority {
    /// A new one, good for ten years.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(name: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = params(name, Validity::days(3_650));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }
    /// One that was made before.
    ///
    /// # Errors
    /// When either is not PEM.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, PkiError> {
        let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?;
        Ok(Self { issuer, certificate: certificate.to_owned() })
    }
    /// Its own certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }
    /// Its private key, PEM.
    #[must_use]
    pub fn key(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }
    /// What signs, for whoever makes other things than certificates: revocation lists.
    #[must_use]
    pub fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
    /// A server's certificate for localhost, 127.0.0.1 and ::1.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn server(&self, validity: Validity) -> Result<Issued, PkiError> {
        let mut params = params("ibyok server", validity);
        params.subject_alt_names = vec![
            SanType::DnsName("localhost".try_into()?),
            SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
            SanType::IpAddress(std::net::Ipv6Addr::LOCALHOST.into()),
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }
    /// A client's certificate with those names.
    ///
    /// # Errors
    /// When a name is not one, or no key can be made.
    pub fn client(&self, names: &ClientNames, validity: Validity) -> Result<Issued, PkiError> {
        let mut params = params("ibyok client", validity);
        for id in &names.spiffe {
            params.subject_alt_names.push(SanType::URI(id.as_str().try_into()?));
        }
        for name in &names.dns {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> Result<Issued, PkiError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, key: Zeroizing::new(key.serialize_pem()) })
    }
}

fn params(name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = date_time_ymd(1970, 1, 1);
    let at = |time: Timestamp| epoch + time.since(Timestamp::default());
    params.not_before = at(validity.from);
    params.not_after = at(validity.until);
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_that_was_kept_signs_again() {
        let first = Authority::new("test").unwrap();
        let again = Authority::from_pem(first.certificate(), &first.key()).unwrap();
        let issued = again.server(Validity::days(1)).unwrap();
        let der = issued.certificate_der().unwrap();
        let authority = CertificateDer::from_pem_slice(first.certificate().as_bytes()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority).unwrap();
        let now = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(
            u64::try_from(SystemClock.now().seconds()).unwrap(),
        ));
        let parsed = rustls::server::ParsedCertificate::try_from(&der).unwrap();
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, algorithms).unwrap();
        assert!(!format!("{issued:?}{first:?}").contains("PRIVATE"));
    }
}
