//! A slow network: a way to a server on which every byte takes its time, in both directions.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::Endpoint;

/// Opens the way, for as long as the tests run.
pub(crate) fn slow(database: &Endpoint, delay: Duration) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let door = database.at("127.0.0.1", listener.local_addr().unwrap().port());
    let server = (database.host.clone(), database.port);
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(&server).unwrap();
            for stream in [&client, &server] {
                stream.set_nodelay(true).unwrap();
            }
            let answers = (server.try_clone().unwrap(), client.try_clone().unwrap());
            carry(client, server, delay);
            carry(answers.0, answers.1, delay);
        }
    });
    door
}

/// Carries bytes, and the end, from one side to the other; many may be on their way at once.
fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sent, arriving) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 65536];
        loop {
            let read = from.read(&mut buffer).unwrap_or(0);
            let due = Instant::now() + delay;
            if sent.send((due, buffer[..read].to_vec())).is_err() || read == 0 {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in arriving {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if bytes.is_empty() || to.write_all(&bytes).is_err() {
                break;
            }
        }
        // Whoever has gone is told nothing more.
        to.shutdown(Shutdown::Both).ok();
    });
}
