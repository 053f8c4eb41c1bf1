//! Bytes that nobody thought of: whatever comes as a message, the answer is one of the contract's,
//! and the connection serves the next call.

use std::collections::BTreeSet;

use ibyok::{authz::methods::METHODS, domain::error::Reason, grpc::pb};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tonic::{Code, Status};

use crate::{
    harness::{Caller, ORG, Vault, reason},
    wire::{self, Target},
};

/// Messages for each method.
const CASES: u32 = 24;

/// How one message goes wrong.
#[derive(Clone, Debug)]
enum Garbage {
    /// Any bytes.
    Any(Vec<u8>),
    /// Fields of any number, kind and value: more of these are read to their end.
    Fields(Vec<(u32, u8, Vec<u8>)>),
    /// A good request with some bytes changed.
    Spoiled(Vec<(prop::sample::Index, u8)>),
    /// A good request without its end.
    Cut(prop::sample::Index),
}

fn garbage() -> impl Strategy<Value = Garbage> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        bytes().prop_map(Garbage::Any),
        prop::collection::vec((1..24_u32, 0..6_u8, bytes()), 0..8).prop_map(Garbage::Fields),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8).prop_map(Garbage::Spoiled),
        any::<prop::sample::Index>().prop_map(Garbage::Cut),
    ]
}

impl Garbage {
    fn body(&self, mut good: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Any(bytes) => bytes.clone(),
            Self::Fields(fields) => {
                fields.iter().flat_map(|(number, kind, bytes)| field(*number, *kind, bytes)).collect()
            }
            Self::Spoiled(changes) => {
                for (at, byte) in changes.iter().filter(|_| !good.is_empty()).collect::<Vec<_>>() {
                    let at = at.index(good.len());
                    good[at] = *byte;
                }
                good
            }
            Self::Cut(at) => {
                let end = at.index(good.len() + 1);
                good.truncate(end);
                good
            }
        }
    }
}

/// A field of the protobuf wire format, or nearly.
fn field(number: u32, kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | u32::from(kind)), &mut out);
    if kind == 2 {
        prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    }
    out.extend_from_slice(bytes);
    out
}

#[test]
fn no_bytes_make_a_method_fail_or_end_the_connection() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (vault, admin, operator) = runtime.block_on(async {
        let vault =
            Vault::start_with("[limits]\ntoken_rate = 1000000\norg_rate = 1000000\ncertificate_rate = 1000000").await;
        let (admin, operator) = (vault.admin().await, vault.operator().await);
        (vault, admin, operator)
    });
    let target = Target {
        org: ORG.into(),
        key: "absent".into(),
        token: "0".repeat(32),
        binding: "absent".into(),
        event: "absent.1".into(),
    };
    let known: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    for method in METHODS {
        let good = wire::request(method.path, &target);
        let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
        let outcome = runner.run(&garbage(), |garbage| {
            let body = garbage.body(good.clone());
            for caller in [&admin, &operator] {
                let answer = runtime.block_on(send(caller, method.path, body.clone()));
                let Err(status) = answer else { continue };
                prop_assert!(known.contains(reason(&status).as_str()), "no reason of ours: {:?}", status);
                let is_own = !matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss);
                prop_assert!(is_own, "{:?}", status);
            }
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{}: {error}", method.path));
    }
    runtime.block_on(async {
        // On the connections that all of it went over.
        admin.keys().list_providers(pb::ListProvidersRequest {}).await.unwrap();
        operator.admin().get_server_status(pb::GetServerStatusRequest {}).await.unwrap();
        vault.stop().await;
    });
}

async fn send(caller: &Caller, path: &'static str, body: Vec<u8>) -> Result<(), Status> {
    wire::call(&caller.channel, path, caller.token.as_deref(), body, 1).await.map(drop)
}
