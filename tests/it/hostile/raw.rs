//! A client that minds no rule: HTTP/2 frames (RFC 9113) as a test writes them, over a good TLS
//! connection.

use std::sync::Arc;

use bytes::BufMut as _;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::harness::{ADMIN, Vault};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame that the server sent.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
}

/// A connection; what the server sends is read all the time, or it could not be sent to.
pub struct Raw {
    writer: WriteHalf<TlsStream<TcpStream>>,
    frames: mpsc::UnboundedReceiver<Frame>,
}

/// TLS as the vault wants it, with a certificate of the administrator's identity.
pub fn tls(vault: &Vault) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(vault.authority.certificate().as_bytes()).unwrap()).unwrap();
    let client = vault.certificate(ADMIN);
    let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = builder.with_client_auth_cert(vec![client.certificate_der().unwrap()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// A connection of which only TLS is done.
pub async fn connect(vault: &Vault) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(vault.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(tls(vault))).connect(name, socket).await.unwrap()
}

impl Raw {
    /// With the preface and these settings sent.
    pub async fn open(vault: &Vault, settings: &[(u16, u32)]) -> Self {
        let (reader, writer) = tokio::io::split(connect(vault).await);
        let (sender, frames) = mpsc::unbounded_channel();
        tokio::spawn(read(reader, sender));
        let mut raw = Self { writer, frames };
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.put_u16(*id);
            payload.put_u32(*value);
        }
        raw.write(&[PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()).await;
        raw
    }

    /// Sends bytes; whether the server still takes them.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.writer.write_all(bytes).await.is_ok() && self.writer.flush().await.is_ok()
    }

    /// The next frame of that kind; None when the server has ended the connection.
    pub async fn next(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.frames.recv().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Until the server ends the connection.
    pub async fn ended(&mut self) {
        while self.frames.recv().await.is_some() {}
    }
}

async fn read(mut reader: ReadHalf<TlsStream<TcpStream>>, frames: mpsc::UnboundedSender<Frame>) {
    let mut head = [0; 9];
    while reader.read_exact(&mut head).await.is_ok() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if reader.read_exact(&mut vec![0; length]).await.is_err() {
            return;
        }
        if frames.send(Frame { kind: head[3] }).is_err() {
            return;
        }
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.put_u32(stream);
    frame.extend_from_slice(payload);
    frame
}

/// The headers of a gRPC call, and `more`.
pub fn call(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let own = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    own.iter().chain(more).flat_map(|(name, value)| literal(name, value)).collect()
}

/// HPACK (RFC 7541): a literal header field without indexing, new name.
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        integer(text.len(), &mut out);
        out.extend_from_slice(text.as_bytes());
    }
    out
}

/// HPACK: an integer with a prefix of 7 bits.
fn integer(mut number: usize, out: &mut Vec<u8>) {
    let byte = |number: usize| u8::try_from(number).unwrap();
    if number < 127 {
        return out.push(byte(number));
    }
    out.push(127);
    number -= 127;
    while number >= 128 {
        out.push(byte(number % 128 + 128));
        number /= 128;
    }
    out.push(byte(number));
}
