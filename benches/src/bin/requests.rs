//! `ibyok-bench-requests`: the floor on AWS. Before each answer it makes the requests of a retrieval
//! with the SDK, as the server's own clients are set: BatchGetItem, then Decrypt and, at the same time,
//! the PutItem that it shares with whoever waited while the last one was in flight. No token, no key,
//! no record is looked at.

use std::{fs, io::Write as _, path::PathBuf, process::ExitCode, sync::Arc};

use aws_sdk_dynamodb::{
    config::timeout::TimeoutConfig,
    types::{AttributeValue, KeysAndAttributes, ReturnValuesOnConditionCheckFailure},
};
use aws_sdk_kms::config::retry::RetryConfig;
use clap::{Parser, ValueEnum};
use data_encoding::BASE64;
use ibyok::aws::{CONNECT_TIMEOUT, Settings, sdk_config};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use zeroizing_alloc::ZeroAlloc;

#[path = "../floor.rs"]
mod floor;

/// As the server's: what a call costs there, freeing memory costs here.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<std::alloc::System> = ZeroAlloc(std::alloc::System);

type Failed = Box<dyn std::error::Error + Send + Sync>;
type Attributes = std::collections::HashMap<String, AttributeValue>;

/// A bare server that makes the requests of a retrieval; started by `ibyok-bench run --engines aws`
#[derive(Parser)]
#[command(name = "ibyok-bench-requests", version)]
struct Arguments {
    #[command(flatten)]
    floor: floor::Floor,
    /// DynamoDB's endpoint
    #[arg(long)]
    dynamodb: String,
    /// The KMS's endpoint
    #[arg(long)]
    kms: String,
    /// A request of each kind, as a server made it: JSON
    #[arg(long)]
    requests: PathBuf,
    /// Which it makes
    #[arg(long, value_enum, default_value_t)]
    make: Make,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Make {
    #[default]
    All,
    BatchGetItem,
    Decrypt,
    PutItem,
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            let _ = writeln!(std::io::stderr(), "ibyok-bench-requests: {failed}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: Arguments) -> Result<(), Failed> {
    let Arguments { floor, dynamodb, kms, requests, make } = arguments;
    let requests: Value = serde_json::from_slice(&fs::read(requests)?)?;
    let at = |endpoint| Settings { endpoint: Some(endpoint), ..Settings::default() };
    let sdk = sdk_config(&at(dynamodb)).await;
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build();
    let dynamodb = aws_sdk_dynamodb::config::Builder::from(&sdk).timeout_config(timeouts).build();
    let dynamodb = aws_sdk_dynamodb::Client::from_conf(dynamodb);
    let sdk = sdk_config(&at(kms)).await.into_builder().retry_config(RetryConfig::standard()).build();
    let (puts, queue) = mpsc::channel(4_096);
    let put = Put::new(dynamodb.clone(), requests.get("PutItem")).ok_or("the sample of PutItem")?;
    tokio::spawn(put.run(queue));
    let read = Read::new(dynamodb, requests.get("BatchGetItem")).ok_or("the sample of BatchGetItem")?;
    let decrypt = Decrypt::new(aws_sdk_kms::Client::new(&sdk), requests.get("Decrypt"));
    let decrypt = decrypt.ok_or("the sample of Decrypt")?;
    floor.serve(Requests(Arc::new(Inner { make, read, decrypt, puts }))).await
}

/// What is done before each answer.
#[derive(Clone)]
struct Requests(Arc<Inner>);

struct Inner {
    make: Make,
    read: Read,
    decrypt: Decrypt,
    puts: mpsc::Sender<oneshot::Sender<()>>,
}

impl floor::Work for Requests {
    async fn once(&self) -> Result<(), Status> {
        let Inner { make, read, decrypt, .. } = &*self.0;
        match make {
            Make::BatchGetItem => read.once().await,
            Make::Decrypt => decrypt.once().await,
            Make::PutItem => self.put().await,
            Make::All => {
                read.once().await?;
                tokio::try_join!(decrypt.once(), self.put()).map(|_| ())
            }
        }
    }
}

impl Requests {
    /// Is part of the next PutItem.
    async fn put(&self) -> Result<(), Status> {
        let (done, wait) = oneshot::channel();
        self.0.puts.send(done).await.map_err(failed)?;
        wait.await.map_err(failed)
    }
}

fn failed(error: impl std::error::Error) -> Status {
    Status::unavailable(format!("{error:?}"))
}

/// BatchGetItem.
struct Read {
    client: aws_sdk_dynamodb::Client,
    table: String,
    keys: Vec<Attributes>,
}

impl Read {
    fn new(client: aws_sdk_dynamodb::Client, sample: Option<&Value>) -> Option<Self> {
        let (table, wanted) = sample?.get("RequestItems")?.as_object()?.iter().next()?;
        let keys = wanted.get("Keys")?.as_array()?.iter().map(attributes).collect::<Option<_>>()?;
        Some(Self { client, table: table.clone(), keys })
    }
    async fn once(&self) -> Result<(), Status> {
        let wanted = KeysAndAttributes::builder().set_keys(Some(self.keys.clone())).consistent_read(true).build();
        let call = self.client.batch_get_item().request_items(&self.table, wanted.map_err(failed)?);
        call.send().await.map(|_| ()).map_err(failed)
    }
}

/// Decrypt.
struct Decrypt {
    client: aws_sdk_kms::Client,
    key: String,
    ciphertext: Vec<u8>,
    context: std::collections::HashMap<String, String>,
}

impl Decrypt {
    fn new(client: aws_sdk_kms::Client, sample: Option<&Value>) -> Option<Self> {
        let text = |name| sample?.get(name)?.as_str();
        let pair = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
        let context = sample?.get("EncryptionContext")?.as_object()?.iter().map(pair).collect::<Option<_>>()?;
        let ciphertext = BASE64.decode(text("CiphertextBlob")?.as_bytes()).ok()?;
        Some(Self { client, key: text("KeyId")?.to_owned(), ciphertext, context })
    }
    async fn once(&self) -> Result<(), Status> {
        let ciphertext = aws_sdk_kms::primitives::Blob::new(&*self.ciphertext);
        let call = self.client.decrypt().key_id(&self.key).ciphertext_blob(ciphertext);
        call.set_encryption_context(Some(self.context.clone())).send().await.map(|_| ()).map_err(failed)
    }
}

/// PutItem, one in flight: what queued meanwhile is one.
struct Put {
    client: aws_sdk_dynamodb::Client,
    table: String,
    item: Attributes,
    record: AttributeValue,
}

impl Put {
    fn new(client: aws_sdk_dynamodb::Client, sample: Option<&Value>) -> Option<Self> {
        let table = sample?.get("TableName")?.as_str()?.to_owned();
        let record = attribute(sample?.pointer("/Item/attrs/M/records/L/0")?)?;
        let mut item = attributes(sample?.get("Item")?)?;
        // Not in the vault's log, but in a partition of this process's own.
        item.insert("pk".to_owned(), AttributeValue::S(format!("BENCH#{}", std::process::id())));
        Some(Self { client, table, item, record })
    }
    async fn run(mut self, mut queue: mpsc::Receiver<oneshot::Sender<()>>) {
        let (mut waiting, mut number) = (Vec::new(), 0_u64);
        while queue.recv_many(&mut waiting, 4_096).await > 0 {
            number += 1;
            if let Some(AttributeValue::M(attributes)) = self.item.get_mut("attrs") {
                let records = vec![self.record.clone(); waiting.len()];
                attributes.insert("records".to_owned(), AttributeValue::L(records));
            }
            self.item.insert("sk".to_owned(), AttributeValue::S(format!("B#{number:016}")));
            let call = self.client.put_item().table_name(&self.table).set_item(Some(self.item.clone()));
            let call = call
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
                .condition_expression("attribute_not_exists(pk)");
            // Who is not told knows that it failed.
            let is_done = call.send().await.is_ok();
            for waiting in waiting.drain(..).filter(|_| is_done) {
                let _ = waiting.send(());
            }
        }
    }
}

fn attributes(value: &Value) -> Option<Attributes> {
    value.as_object()?.iter().map(|(name, value)| Some((name.clone(), attribute(value)?))).collect()
}

/// An attribute of a request's JSON; the types that the vault has.
fn attribute(value: &Value) -> Option<AttributeValue> {
    let (kind, value) = value.as_object()?.iter().next()?;
    let text = || value.as_str().map(str::to_owned);
    Some(match kind.as_str() {
        "S" => AttributeValue::S(text()?),
        "N" => AttributeValue::N(text()?),
        "B" => {
            AttributeValue::B(aws_sdk_dynamodb::primitives::Blob::new(BASE64.decode(value.as_str()?.as_bytes()).ok()?))
        }
        "BOOL" => AttributeValue::Bool(value.as_bool()?),
        "L" => AttributeValue::L(value.as_array()?.iter().map(attribute).collect::<Option<_>>()?),
        "M" => AttributeValue::M(attributes(value)?),
        _ => return None,
    })
}
