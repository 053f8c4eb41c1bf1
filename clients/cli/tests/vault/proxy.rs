//! A connection that can be cut: what a network does to a long import.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// Passes connections on. Each of the first `cuts` is cut after `after_bytes` of the server's.
pub(crate) struct Proxy {
    pub(crate) address: String,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    /// What comes after the cuts goes through.
    pub(crate) fn cutting(cuts: usize, after_bytes: usize, to: &str) -> Self {
        Self::start(to, move |number| if number < cuts { after_bytes } else { usize::MAX })
    }

    /// What comes after the cuts gets no answer at all.
    pub(crate) fn dying(cuts: usize, after_bytes: usize, to: &str) -> Self {
        Self::start(to, move |number| if number < cuts { after_bytes } else { 0 })
    }

    fn start(to: &str, limit: impl Fn(usize) -> usize + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let (to, count) = (to.to_owned(), Arc::clone(&connections));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&to).unwrap());
                let limit = limit(count.fetch_add(1, Ordering::SeqCst));
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || pass(back.0, back.1, limit));
                thread::spawn(move || pass(client, server, usize::MAX));
            }
        });
        Self { address, connections }
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, limit: usize) {
    let mut buffer = [0; 1024];
    let mut passed = 0;
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        passed += length;
        if passed > limit || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
