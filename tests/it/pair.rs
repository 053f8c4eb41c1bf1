//! DynamoDB and AWS KMS together, as a vault on AWS has them: what a retrieval asks of each, and when.

use std::{collections::BTreeSet, fs, time::Duration};

use crate::{
    aws_proxy::{self, Fate},
    dynamodb::{
        local,
        proxy::{self, Gate},
    },
    harness::{Caller, Home, KMS_SETTINGS, Place, Vault, within},
    localstack::{self, Keys, REGION},
    tamper::stock::{create, openai, retrieve},
};

/// How often a test looks for what it waits for.
const LOOK: Duration = Duration::from_millis(5);

/// More tries than a write has.
const TRIES: usize = 20;

/// A vault with a proxy before each of the two, and a key that was retrieved before.
struct Pair {
    vault: Vault,
    admin: Caller,
    table: String,
    store: proxy::Proxy,
    kms: aws_proxy::Proxy,
}

impl Pair {
    async fn make() -> Self {
        let (_, table) = local::table().await;
        let store = proxy::Proxy::start().await;
        let kms = aws_proxy::Proxy::before(localstack::endpoint().await).await;
        let primary = Keys::of(REGION).await.make().await;
        let home = Home::at(Place::Table { name: table.clone(), endpoint: store.endpoint() });
        let (key, endpoint) = (&primary.0, &kms.endpoint);
        let settings =
            format!("kms = {{ kind = 'aws', key_id = '{key}', region = '{REGION}', endpoint = '{endpoint}' }}");
        fs::write(home.path().join(KMS_SETTINGS), settings).unwrap();
        home.init().await.unwrap();
        let vault = home.serve("").await;
        let admin = vault.admin().await;
        create(&admin, "openai", &openai("pair")).await;
        let pair = Self { vault, admin, table, store, kms };
        pair.retrieve().await;
        pair.came();
        pair
    }

    async fn retrieve(&self) {
        assert_eq!(retrieve(&self.admin, "openai").await.unwrap().secret.unwrap().text, openai("pair"));
    }

    /// What came since the last look. What the server does by itself, beside its calls, is left out: its
    /// beats and the log's order, which are transactions and read other items, and its looks at the KMS key.
    fn came(&self) -> Came {
        let (mut reads, mut batches) = (Vec::new(), BTreeSet::new());
        let mut others = BTreeSet::new();
        for came in self.store.came() {
            let text = came.body.to_string();
            match came.operation.as_str() {
                "BatchGetItem" if text.contains("#K#openai") => {
                    reads.push(came.body["RequestItems"][&self.table]["Keys"].as_array().unwrap().len());
                }
                "PutItem" => drop(batches.insert(came.body["Item"]["sk"]["S"].as_str().unwrap().to_owned())),
                operation if text.contains("#K#openai") || text.contains("#T#") => {
                    others.insert(operation.to_owned());
                }
                _ => {}
            }
        }
        let mut calls = self.kms.take_calls();
        calls.remove("DescribeKey");
        let decrypts = calls.remove("Decrypt").unwrap_or_default();
        others.extend(calls.into_keys());
        Came { reads, batches, decrypts, others }
    }
}

#[derive(Debug)]
struct Came {
    /// The reads of the key, each with how many items it asked for.
    reads: Vec<usize>,
    /// The batches of the log that were written.
    batches: BTreeSet<String>,
    decrypts: usize,
    /// Whatever else had to do with the key, its caller or the KMS.
    others: BTreeSet<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retrieval_is_one_read_one_decrypt_and_one_record() {
    let pair = Pair::make().await;
    pair.retrieve().await;
    let came = pair.came();
    // Token, subject, epoch, key.
    assert_eq!((came.reads.as_slice(), came.batches.len(), came.decrypts), ([4].as_slice(), 1, 1), "{came:?}");
    assert!(came.others.is_empty(), "{came:?}");
    pair.vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_value_is_opened_while_its_record_is_written() {
    let pair = Pair::make().await;
    // The record is written though the KMS has not answered yet,
    pair.kms.set(Fate::Hold);
    let looking = async {
        within("a record beside a decryption", async {
            while !pair.store.operations().iter().any(|operation| operation == "PutItem") {
                tokio::time::sleep(LOOK).await;
            }
        })
        .await;
        pair.kms.set(Fate::Pass);
    };
    futures_util::join!(pair.retrieve(), looking);

    // and the KMS is asked though the record has not been written yet.
    pair.came();
    let gate = Gate::new();
    pair.store.next("PutItem", vec![proxy::Fate::HoldRequest(gate.clone()); TRIES]);
    let looking = async {
        within("a decryption beside a record", async {
            while !pair.kms.take_calls().contains_key("Decrypt") {
                tokio::time::sleep(LOOK).await;
            }
        })
        .await;
        gate.open();
    };
    futures_util::join!(pair.retrieve(), looking);
    pair.store.forget();
    pair.vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retrievals_at_once_share_their_records_writes_and_nothing_else() {
    const CALLS: usize = 24;
    let pair = Pair::make().await;
    // What comes while a batch is written goes into the next one.
    let gate = Gate::new();
    pair.store.next("PutItem", [proxy::Fate::HoldReply(gate.clone())]);
    let looking = async {
        gate.holds_one().await;
        pair.store.has_come(CALLS + 1).await;
        gate.open();
    };
    let calls = futures_util::future::join_all((0..CALLS).map(|_| pair.retrieve()));
    futures_util::join!(calls, looking);
    let came = pair.came();
    assert_eq!((came.reads.len(), came.decrypts), (CALLS, CALLS), "{came:?}");
    assert!(came.others.is_empty(), "{came:?}");
    assert!(came.batches.len() < CALLS / 2, "{came:?}");
    pair.vault.stop().await;
}
