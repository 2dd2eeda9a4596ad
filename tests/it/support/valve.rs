//! A way to a server that can be blocked for cancel requests.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
};

use super::Endpoint;

/// The code of a CancelRequest, in the place of a protocol version.
const CANCEL: [u8; 4] = 80_877_102_u32.to_be_bytes();

/// The way, open for as long as the tests run.
pub(crate) struct Valve {
    endpoint: Endpoint,
    blocked: Arc<(Mutex<bool>, Condvar)>,
}

impl Valve {
    /// Opens the way.
    pub(crate) fn open(database: &Endpoint) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = database.at("127.0.0.1", listener.local_addr().unwrap().port());
        let server = (database.host.clone(), database.port);
        let blocked = Arc::<(Mutex<bool>, Condvar)>::default();
        let valve = Self {
            endpoint,
            blocked: Arc::clone(&blocked),
        };
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), server.clone());
                let blocked = Arc::clone(&blocked);
                thread::spawn(move || pass(client, &server, &blocked));
            }
        });
        valve
    }

    /// Where it begins.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Keeps cancel requests from the server, or lets them through.
    pub(crate) fn block_cancels(&self, block: bool) {
        *self.blocked.0.lock().unwrap() = block;
        self.blocked.1.notify_all();
    }
}

fn pass(
    mut client: TcpStream,
    server: &(String, u16),
    (blocked, changed): &(Mutex<bool>, Condvar),
) -> io::Result<()> {
    let mut startup = [0; 8];
    client.read_exact(&mut startup)?;
    if startup[4..] == CANCEL {
        drop(
            changed
                .wait_while(blocked.lock().unwrap(), |blocked| *blocked)
                .unwrap(),
        );
    }
    let mut server = TcpStream::connect(server)?;
    server.set_nodelay(true)?;
    server.write_all(&startup)?;
    let mut answers = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        drop(io::copy(&mut answers.0, &mut answers.1));
        answers.1.shutdown(Shutdown::Both)
    });
    io::copy(&mut client, &mut server)?;
    server.shutdown(Shutdown::Write)
}
