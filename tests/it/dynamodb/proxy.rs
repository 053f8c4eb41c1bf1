//! A proxy in front of DynamoDB Local. It passes requests on until it is told to do something else with
//! the next of a kind, and keeps count of them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::local;
use crate::dice::Dice;

/// What is done with one request.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// It arrives, and is answered.
    Pass,
    /// It never arrives, and the connection ends.
    LoseRequest,
    /// It arrives, and the connection ends in the place of the answer.
    LoseReply,
    /// It arrives when the gate opens, whoever still waits for its answer.
    HoldRequest(Gate),
    /// It arrives, and its answer goes on when the gate opens.
    HoldReply(Gate),
    /// It never arrives; this is answered.
    Answer(u16, Json),
    /// It never arrives; what this makes of it is answered.
    AnswerBy(fn(&Json) -> Json),
}

impl Fate {
    /// DynamoDB's error of that name.
    pub(crate) fn error(status: u16, name: &str) -> Self {
        let kind = format!("com.amazonaws.dynamodb.v20120810#{name}");
        Self::Answer(status, serde_json::json!({ "__type": kind, "message": "the proxy says so" }))
    }
}

/// Holds requests or answers until it is opened.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<watch::Sender<(bool, usize)>>);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new((false, 0))))
    }
    pub(crate) fn open(&self) {
        self.0.send_modify(|state| state.0 = true);
    }
    /// Waits until one is held.
    pub(crate) async fn holds_one(&self) {
        self.0.subscribe().wait_for(|(_, held)| *held > 0).await.unwrap();
    }
    async fn pass(&self) {
        self.0.send_modify(|state| state.1 += 1);
        self.0.subscribe().wait_for(|(is_open, _)| *is_open).await.unwrap();
    }
}

/// One request that came: the operation, and its body.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub(crate) operation: String,
    pub(crate) body: Json,
    /// The body as it was sent.
    pub(crate) bytes: Bytes,
}

/// What befalls requests by chance, each in so many of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) lost_requests: usize,
    pub(crate) lost_replies: usize,
    /// They and their answers take up to 40 ms longer each.
    pub(crate) slow: usize,
}

#[derive(Default)]
struct State {
    script: VecDeque<(&'static str, Fate)>,
    weather: Option<(Weather, Dice)>,
    /// What befalls everything that the script says nothing of.
    always: Option<Fate>,
    under_way: watch::Sender<usize>,
    came: Vec<Came>,
    /// How many requests that were held have been decided.
    landed: watch::Sender<usize>,
}

/// The proxy; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Proxy {
    state: Arc<Mutex<State>>,
    /// Whether connections are accepted.
    is_open: Arc<watch::Sender<bool>>,
    port: u16,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        let socket = bound(0).listen(1_024).unwrap();
        let port = socket.local_addr().unwrap().port();
        let proxy = Self { state: Arc::default(), is_open: Arc::new(watch::Sender::new(true)), port };
        tokio::spawn(proxy.clone().serve(socket));
        proxy
    }

    async fn serve(self, mut socket: TcpListener) {
        let mut doors = self.is_open.subscribe();
        loop {
            let mut connections = JoinSet::new();
            loop {
                let accepted = tokio::select! {
                    accepted = socket.accept() => accepted,
                    shut = doors.wait_for(|is_open| !is_open) => match shut {
                        Ok(_) => break,
                        Err(_) => return,
                    },
                };
                let Ok((connection, _)) = accepted else { return };
                connections.spawn(self.clone().talk(connection));
            }
            // Whoever comes now is refused, and nobody else can have the port.
            drop((connections, socket));
            let taken = bound(self.port);
            if doors.wait_for(|is_open| *is_open).await.is_err() {
                return;
            }
            socket = taken.listen(1_024).unwrap();
        }
    }

    async fn talk(self, connection: TcpStream) {
        let service = service_fn(move |request| {
            // In a task of its own: what arrives is decided, whoever has gone away.
            let decided = tokio::spawn(self.clone().decide(request));
            async move { decided.await.unwrap().ok_or("the connection ends") }
        });
        let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), service);
        // Who talks to a proxy that ends connections finds that they end.
        let _ = served.await;
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What happens to the next requests of that operation, one after the other.
    pub(crate) fn next(&self, operation: &'static str, fates: impl IntoIterator<Item = Fate>) {
        self.state.lock().unwrap().script.extend(fates.into_iter().map(|fate| (operation, fate)));
    }

    /// Passes everything on again.
    pub(crate) fn forget(&self) {
        self.state.lock().unwrap().script.clear();
    }

    /// Ends all connections, and refuses new ones.
    pub(crate) fn shut(&self) {
        self.is_open.send_replace(false);
    }

    /// Accepts connections again.
    pub(crate) fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// From now on this befalls everything; None: everything passes.
    pub(crate) fn always(&self, fate: Option<Fate>) {
        self.state.lock().unwrap().always = fate;
    }

    /// From now on chance has a part in it.
    pub(crate) fn weather(&self, weather: Weather, dice: Dice) {
        self.state.lock().unwrap().weather = Some((weather, dice));
    }

    /// Chance has no part in it any more.
    pub(crate) fn calm(&self) {
        self.state.lock().unwrap().weather = None;
    }

    /// Waits until nothing is under way.
    pub(crate) async fn is_quiet(&self) {
        let mut under_way = self.state.lock().unwrap().under_way.subscribe();
        under_way.wait_for(|under_way| *under_way == 0).await.unwrap();
    }

    /// Forgets what came, and gives it.
    pub(crate) fn came(&self) -> Vec<Came> {
        std::mem::take(&mut self.state.lock().unwrap().came)
    }

    /// The operations of what came, which is forgotten.
    pub(crate) fn operations(&self) -> Vec<String> {
        self.came().into_iter().map(|came| came.operation).collect()
    }

    /// Waits until so many have come.
    pub(crate) async fn has_come(&self, count: usize) {
        while self.state.lock().unwrap().came.len() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until `count` requests that were held have been decided.
    pub(crate) async fn landed(&self, count: usize) {
        let mut landed = self.state.lock().unwrap().landed.subscribe();
        landed.wait_for(|landed| *landed >= count).await.unwrap();
    }

    async fn decide(self, request: Request<Incoming>) -> Option<Response<Full<Bytes>>> {
        self.state.lock().unwrap().under_way.send_modify(|under_way| *under_way += 1);
        let answer = self.answer(request).await;
        self.state.lock().unwrap().under_way.send_modify(|under_way| *under_way -= 1);
        answer
    }

    /// What chance does with a request: how long it and its answer take, and whether they arrive.
    fn chance(&self) -> ([Duration; 2], Fate) {
        let mut state = self.state.lock().unwrap();
        let Some((weather, dice)) = &mut state.weather else { return (Default::default(), Fate::Pass) };
        let mut happens = |of_thousand: usize| dice.below(1_000) < of_thousand;
        let [is_lost, is_unanswered, is_slow] =
            [weather.lost_requests, weather.lost_replies, weather.slow].map(&mut happens);
        let fate = match (is_lost, is_unanswered) {
            (true, _) => Fate::LoseRequest,
            (_, true) => Fate::LoseReply,
            _ => Fate::Pass,
        };
        let mut delay = || Duration::from_millis(if is_slow { dice.below(40) as u64 } else { 0 });
        ([delay(), delay()], fate)
    }

    async fn answer(&self, request: Request<Incoming>) -> Option<Response<Full<Bytes>>> {
        let ([there, back], chance) = self.chance();
        tokio::time::sleep(there).await;
        let answer = self.of_script(request, chance).await;
        tokio::time::sleep(back).await;
        answer
    }

    async fn of_script(&self, request: Request<Incoming>, chance: Fate) -> Option<Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        let target = head.headers.get("x-amz-target").unwrap().to_str().unwrap();
        let operation = target.rsplit('.').next().unwrap().to_owned();
        let json: Json = serde_json::from_slice(&body).unwrap();
        let fate = {
            let mut state = self.state.lock().unwrap();
            state.came.push(Came { operation: operation.clone(), body: json.clone(), bytes: body.clone() });
            let at = state.script.iter().position(|(of, _)| *of == operation);
            let scripted = at.and_then(|at| state.script.remove(at)).map(|(_, fate)| fate);
            scripted.or_else(|| state.always.clone()).unwrap_or(chance)
        };
        let forward = || forward(Request::from_parts(head, Full::new(body)));
        match fate {
            Fate::Pass => Some(forward().await),
            Fate::LoseRequest => None,
            Fate::LoseReply => {
                forward().await;
                None
            }
            Fate::HoldRequest(gate) => {
                gate.pass().await;
                let answer = forward().await;
                self.state.lock().unwrap().landed.send_modify(|landed| *landed += 1);
                Some(answer)
            }
            Fate::HoldReply(gate) => {
                let answer = forward().await;
                gate.pass().await;
                Some(answer)
            }
            Fate::Answer(status, json) => Some(answer(status, &json)),
            Fate::AnswerBy(make) => Some(answer(200, &make(&json))),
        }
    }
}

fn bound(port: u16) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], port).into()).unwrap();
    socket
}

async fn forward(request: Request<Full<Bytes>>) -> Response<Full<Bytes>> {
    let connection = TcpStream::connect(("127.0.0.1", local::port())).await.unwrap();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.unwrap();
    tokio::spawn(driver);
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    Response::from_parts(head, Full::new(body.collect().await.unwrap().to_bytes()))
}

fn answer(status: u16, json: &Json) -> Response<Full<Bytes>> {
    let answer = Response::builder().status(status).header("content-type", "application/x-amz-json-1.0");
    answer.body(Full::new(Bytes::from(json.to_string()))).unwrap()
}
