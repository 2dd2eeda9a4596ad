//! A way to a server that can be blocked: for what is asked of the server, or for cancel requests alone.

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
    blocked: Arc<(Mutex<Blocked>, Condvar)>,
}

/// What does not get to the server.
#[derive(Default)]
struct Blocked {
    requests: bool,
    cancels: bool,
}

impl Valve {
    /// Opens the way.
    pub(crate) fn open(database: &Endpoint) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = database.at("127.0.0.1", listener.local_addr().unwrap().port());
        let server = (database.host.clone(), database.port);
        let blocked = Arc::<(Mutex<Blocked>, Condvar)>::default();
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
        self.blocked.0.lock().unwrap().cancels = block;
        self.blocked.1.notify_all();
    }

    /// Keeps all that sessions ask for from the server, or lets it through.
    pub(crate) fn block_requests(&self, block: bool) {
        self.blocked.0.lock().unwrap().requests = block;
        self.blocked.1.notify_all();
    }
}

fn pass(
    mut client: TcpStream,
    server: &(String, u16),
    (blocked, changed): &(Mutex<Blocked>, Condvar),
) -> io::Result<()> {
    let mut startup = [0; 8];
    client.read_exact(&mut startup)?;
    let cancels = startup[4..] == CANCEL;
    let wait = || {
        let blocked = blocked.lock().unwrap();
        let is_blocked = |blocked: &mut Blocked| match cancels {
            true => blocked.cancels,
            false => blocked.requests,
        };
        drop(changed.wait_while(blocked, is_blocked).unwrap());
    };
    wait();
    let mut server = TcpStream::connect(server)?;
    server.set_nodelay(true)?;
    server.write_all(&startup)?;
    let mut answers = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        drop(io::copy(&mut answers.0, &mut answers.1));
        answers.1.shutdown(Shutdown::Both)
    });
    let mut bytes = [0; 8192];
    loop {
        let len = client.read(&mut bytes)?;
        wait();
        if len == 0 {
            return server.shutdown(Shutdown::Write);
        }
        server.write_all(&bytes[..len])?;
    }
}
