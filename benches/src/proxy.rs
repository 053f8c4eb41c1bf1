//! A proxy before an emulator, that counts what passes and keeps a sample of each request that a
//! retrieval makes. It is there only while counting: nothing is timed through it.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use data_encoding::BASE64;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
};

use crate::{Failed, report::Counted};

/// The records of a batch of the audit log, in its PutItem.
const RECORDS: &str = "/Item/attrs/M/records/L";

/// What passed, by the name of the operation.
#[derive(Clone, Debug, Default)]
struct Seen {
    counts: BTreeMap<String, u64>,
    samples: BTreeMap<String, Value>,
    /// Records in batches of the audit log, which are PutItems.
    records: u64,
}

/// Both proxies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies(Arc<Mutex<Seen>>);

impl Proxies {
    /// Another one, before `endpoint`, which is `http://HOST:PORT`; its own endpoint.
    pub(crate) async fn before(&self, endpoint: &str) -> Result<String, Failed> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own = format!("http://{}", listener.local_addr()?);
        let upstream = endpoint.trim_start_matches("http://").to_owned();
        let proxies = self.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (proxies, upstream) = (proxies.clone(), upstream.clone());
                *proxies.seen().counts.entry("connections made".to_owned()).or_default() += 1;
                // A connection that ends is an end of one.
                tokio::spawn(async move { proxies.carry(client, &upstream).await.unwrap_or_default() });
            }
        });
        Ok(own)
    }

    /// What passed since the last look, when there were so many retrievals of so many callers.
    pub(crate) fn take(&self, callers: usize, retrievals: usize) -> Counted {
        let mut seen = self.seen();
        let counts = std::mem::take(&mut seen.counts);
        let batches = counts.get("PutItem").copied().unwrap_or_default();
        let each = |(name, count): (String, u64)| (name, count as f64 / retrievals.max(1) as f64);
        let requests = counts.into_iter().map(each).collect();
        let records_per_put = std::mem::take(&mut seen.records) as f64 / batches.max(1) as f64;
        Counted { callers, requests, records_per_put }
    }

    /// One request of each kind that a retrieval makes.
    pub(crate) fn samples(&self) -> BTreeMap<String, Value> {
        self.seen().samples.clone()
    }

    /// The bytes of the sample's record, if there is one.
    pub(crate) fn record_bytes(&self) -> Option<usize> {
        let seen = self.seen();
        let record = seen.samples.get("PutItem")?.pointer(RECORDS)?.pointer("/0/B")?;
        BASE64.decode(record.as_str()?.as_bytes()).ok().map(|bytes| bytes.len())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn carry(&self, client: TcpStream, upstream: &str) -> io::Result<()> {
        let server = TcpStream::connect(upstream).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let answers = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        let mut from_client = BufReader::new(from_client);
        while let Some((operation, request, body)) = read(&mut from_client).await? {
            self.note(operation, &body);
            to_server.write_all(&request).await?;
        }
        to_server.shutdown().await?;
        answers.await??;
        Ok(())
    }

    fn note(&self, operation: String, body: &[u8]) {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let records = body.pointer(RECORDS).and_then(Value::as_array).map_or(0, Vec::len);
        let is_of_retrieval = match operation.as_str() {
            "BatchGetItem" => body.to_string().contains("#K#bench-"),
            "Decrypt" => body.pointer("/EncryptionContext/purpose").is_some_and(|it| it == "provider-key"),
            _ => records == 1,
        };
        let mut seen = self.seen();
        let name =
            if operation == "PutItem" && records == 0 { "PutItem, not of the log".to_owned() } else { operation };
        seen.records += records as u64;
        *seen.counts.entry(name.clone()).or_default() += 1;
        if is_of_retrieval {
            seen.samples.entry(name).or_insert(body);
        }
    }
}

/// The next request of a connection: its operation, all of its bytes, and its body.
async fn read(from: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<(String, Vec<u8>, Vec<u8>)>> {
    let (mut head, mut length, mut operation) = (Vec::new(), 0, String::new());
    loop {
        let start = head.len();
        if from.read_until(b'\n', &mut head).await? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(head.get(start..).unwrap_or_default()).into_owned();
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().unwrap_or(0),
            Some((name, value)) if name.eq_ignore_ascii_case("x-amz-target") => {
                operation = value.rsplit('.').next().unwrap_or_default().to_owned();
            }
            _ if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    head.extend_from_slice(&body);
    Ok(Some((operation, head, body)))
}
