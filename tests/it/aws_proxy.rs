//! A proxy between the SDK of AWS and a server: it counts the calls by name, and loses, delays or
//! makes up what comes back. Speaks HTTP/1.1 with lengths, as those two do.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::watch,
};

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is passed on, and so is the answer.
    Pass,
    /// It is passed on; the answer is lost, and the connection with it.
    LoseReply,
    /// It is passed on; the answer waits until the fate changes.
    Hold,
    /// It goes no further: this status and error code are the answer.
    Answer(u16, &'static str),
    /// The same for calls of that name; others are passed on.
    AnswerTo(&'static str, u16, &'static str),
    /// It goes no further: the connection ends.
    Cut,
}

/// A running proxy; it ends with the runtime of its test.
#[derive(Clone)]
pub struct Proxy {
    /// Where it listens.
    pub endpoint: String,
    fate: Arc<watch::Sender<Fate>>,
    calls: Arc<Mutex<BTreeMap<String, usize>>>,
    replies: Arc<Mutex<Vec<Vec<u8>>>>,
    upstream: String,
}

impl Proxy {
    /// In front of `endpoint`, which is `http://HOST:PORT`.
    pub async fn before(endpoint: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            fate: Arc::new(watch::Sender::new(Fate::Pass)),
            calls: Arc::default(),
            replies: Arc::default(),
            upstream: endpoint.trim_start_matches("http://").to_owned(),
        };
        let accepting = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let proxy = accepting.clone();
                // A connection that ends is an end of one, not of the test.
                tokio::spawn(async move { proxy.carry(client).await.unwrap_or_default() });
            }
        });
        proxy
    }
    /// What becomes of the calls that come from here on, and of the answers that are held.
    pub fn set(&self, fate: Fate) {
        self.fate.send_replace(fate);
    }
    /// How often each call came since the last look.
    pub fn take_calls(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
    /// The bodies of all answers, in the order in which they came.
    pub fn replies(&self) -> Vec<Vec<u8>> {
        self.replies.lock().unwrap().clone()
    }

    async fn carry(&self, client: TcpStream) -> io::Result<()> {
        let (from_client, mut to_client) = client.into_split();
        let (from_server, mut to_server) = TcpStream::connect(&self.upstream).await?.into_split();
        let (mut from_client, mut from_server) = (BufReader::new(from_client), BufReader::new(from_server));
        while let Some(request) = Message::read(&mut from_client).await? {
            let target = request.header("x-amz-target").unwrap_or_default();
            let name = target.rsplit('.').next().unwrap_or_default().to_owned();
            *self.calls.lock().unwrap().entry(name.clone()).or_default() += 1;
            let fate = match self.fate.borrow().clone() {
                Fate::AnswerTo(of, status, code) if of == name => Fate::Answer(status, code),
                Fate::AnswerTo(..) => Fate::Pass,
                fate => fate,
            };
            match fate {
                Fate::Cut => return Ok(()),
                Fate::Answer(status, code) => {
                    let body = format!("{{\"__type\":\"{code}\"}}");
                    let head = format!("HTTP/1.1 {status} .\r\ncontent-length: {}\r\n\r\n", body.len());
                    to_client.write_all([head, body].concat().as_bytes()).await?;
                    continue;
                }
                Fate::Pass | Fate::LoseReply | Fate::Hold | Fate::AnswerTo(..) => {}
            }
            to_server.write_all(&request.bytes).await?;
            let Some(reply) = Message::read(&mut from_server).await? else { return Ok(()) };
            self.replies.lock().unwrap().push(reply.bytes[reply.head.len()..].to_vec());
            let mut now = self.fate.subscribe();
            if now.wait_for(|now| *now != Fate::Hold).await.is_err() || fate == Fate::LoseReply {
                return Ok(());
            }
            to_client.write_all(&reply.bytes).await?;
        }
        Ok(())
    }
}

/// A request or an answer, as it came.
struct Message {
    bytes: Vec<u8>,
    head: String,
}

impl Message {
    /// None: the connection ended before it.
    async fn read(from: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            if from.read_until(b'\n', &mut bytes).await? == 0 {
                return Ok(None);
            }
        }
        let head = String::from_utf8_lossy(&bytes).into_owned();
        let mut message = Self { bytes, head };
        assert!(message.header("transfer-encoding").is_none(), "{}", message.head);
        let length = message.header("content-length").map_or(0, |length| length.parse().unwrap());
        let start = message.bytes.len();
        message.bytes.resize(start + length, 0);
        from.read_exact(&mut message.bytes[start..]).await?;
        Ok(Some(message))
    }
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }
}
