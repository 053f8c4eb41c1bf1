//! What a hostile client can send before TLS, within TLS and within HTTP/2: after each of it, and
//! mostly while it goes on, an ordinary client is served.

mod calls;
mod frames;
pub mod raw;
mod streams;

use std::sync::Arc;

use ibyok::grpc::pb;
use rustls::{ClientConnection, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    dice::Dice,
    harness::{Caller, Vault},
};

const SECRET: &str = "sk-proj-0123456789-hostile";

/// A vault with the key `good`, and its administrator.
async fn start(settings: &str) -> (Vault, Caller) {
    let vault = Vault::start_with(settings).await;
    let admin = vault.admin().await;
    let request = pb::CreateKeyRequest {
        key_id: "good".into(),
        provider: "openai".into(),
        secret: Some(pb::SecretValue { text: SECRET.into() }),
        ..Default::default()
    };
    admin.keys().create_key(request).await.unwrap();
    (vault, admin)
}

/// Wants that a client that comes now, and one that came before, get what they ask for.
async fn serves(vault: &Vault, before: &Caller) {
    let newcomer = vault.admin().await;
    for caller in [&newcomer, before] {
        let request = pb::RetrieveKeyRequest { name: "good".into(), ..Default::default() };
        let answer = caller.keys().retrieve_key(request).await.unwrap().into_inner();
        assert_eq!(answer.secret.unwrap().text, SECRET);
    }
}

async fn socket(vault: &Vault) -> TcpStream {
    TcpStream::connect(vault.address).await.unwrap()
}

/// What a TLS client says first.
fn client_hello(vault: &Vault) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::new(raw::tls(vault)), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn garbage_before_tls_is_dropped() {
    let (vault, admin) = start("").await;
    let mut dice = Dice::new();
    let hello = client_hello(&vault);
    let mut openings = vec![
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
        // TLS records: too long, empty, of no kind, an alert, data before any handshake.
        [&[0x16, 3, 1, 0xff, 0xff][..], &vec![1; 0xffff]].concat(),
        [0x16, 3, 1, 0, 0].repeat(1_000),
        [&[0xff, 3, 3, 0, 16][..], &[0; 16]].concat(),
        vec![0x15, 3, 3, 0, 2, 2, 40],
        [&[0x17, 3, 3, 1, 0][..], &[7; 256]].concat(),
        [&hello[..], &hello[..]].concat(),
        vec![0; 1 << 20],
    ];
    for _ in 0..40 {
        let count = 1 + dice.below(4_096);
        openings.push(dice.bytes(count));
        let mut spoiled = hello.clone();
        for _ in 0..4 {
            let at = dice.below(spoiled.len());
            spoiled[at] = dice.bytes(1)[0];
        }
        openings.push(spoiled);
    }
    for opening in openings {
        let mut socket = socket(&vault).await;
        // The server may have hung up already.
        let _ = socket.write_all(&opening).await;
        let _ = socket.shutdown().await;
        let _ = socket.read_to_end(&mut Vec::new()).await;
    }
    serves(&vault, &admin).await;
    vault.stop().await;
}

#[tokio::test]
async fn half_open_handshakes_hinder_nobody() {
    let (vault, admin) = start("").await;
    let hello = client_hello(&vault);
    let mut open = Vec::new();
    for n in 0..600 {
        let mut socket = socket(&vault).await;
        // None of it, a part, or all of it and then silence.
        let sent = match n % 3 {
            0 => &[][..],
            1 => &hello[..hello.len() / 2],
            _ => &hello[..],
        };
        socket.write_all(sent).await.unwrap();
        open.push(socket);
    }
    serves(&vault, &admin).await;
    // They are ended by the server, who waits a few seconds for each.
    for mut socket in open {
        let _ = socket.read_to_end(&mut Vec::new()).await;
    }
    serves(&vault, &admin).await;
    vault.stop().await;
}

#[tokio::test]
async fn connections_that_say_nothing_after_tls_hinder_nobody() {
    let (vault, admin) = start("").await;
    let mut open = Vec::new();
    for _ in 0..100 {
        open.push(raw::connect(&vault).await);
    }
    serves(&vault, &admin).await;
    drop(open);
    serves(&vault, &admin).await;
    vault.stop().await;
}

#[tokio::test]
async fn what_is_not_http2_within_tls_ends_its_connection_alone() {
    let (vault, admin) = start("").await;
    let mut dice = Dice::new();
    let mut openings =
        vec![b"GET / HTTP/1.1\r\n\r\n".to_vec(), b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(), vec![0; 100_000]];
    openings.extend((0..20).map(|_| dice.bytes(2_000)));
    for opening in openings {
        let mut stream = raw::connect(&vault).await;
        let _ = stream.write_all(&opening).await;
        let _ = stream.flush().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    serves(&vault, &admin).await;
    vault.stop().await;
}
