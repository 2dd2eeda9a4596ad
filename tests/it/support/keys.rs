//! A way to a server on which sessions have keys for cancelling of the test's choice, of any length. Who asks by another
//! key gets no further than here.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::{
    Endpoint,
    frontend::{cancel_request, message},
};

/// The code of a CancelRequest, in the place of a protocol version.
const CANCEL: [u8; 4] = 80_877_102_u32.to_be_bytes();

/// The way, open for as long as the tests run.
pub(crate) struct Keys {
    endpoint: Endpoint,
    given: Arc<Mutex<Given>>,
}

#[derive(Default)]
struct Given {
    /// The secrets of the sessions to come.
    secrets: Vec<Vec<u8>>,
    /// What each session was given in place of what the server has said.
    keys: HashMap<Vec<u8>, Vec<u8>>,
    hits: usize,
}

impl Keys {
    /// Opens the way for sessions that have these secrets, in the order in which they log in.
    pub(crate) fn open(database: &Endpoint, mut secrets: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = database.at("127.0.0.1", listener.local_addr().unwrap().port());
        let server = (database.host.clone(), database.port);
        secrets.reverse();
        let given = Arc::new(Mutex::new(Given {
            secrets,
            ..Given::default()
        }));
        let keys = Self {
            endpoint,
            given: Arc::clone(&given),
        };
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), server.clone());
                let given = Arc::clone(&given);
                thread::spawn(move || serve(client, &server, &given));
            }
        });
        keys
    }

    /// Where it begins.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How many requests had the key of a session.
    pub(crate) fn hits(&self) -> usize {
        self.given.lock().unwrap().hits
    }
}

fn serve(mut client: TcpStream, server: &(String, u16), given: &Mutex<Given>) -> io::Result<()> {
    let mut startup = [0; 8];
    client.read_exact(&mut startup)?;
    let [a, b, c, d, code @ ..] = startup;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if code == CANCEL {
        let mut key = vec![0; length - 8];
        client.read_exact(&mut key)?;
        if let Some(own) = asked_by(&key, given) {
            let mut server = TcpStream::connect(server)?;
            server.write_all(&cancel_request(&own))?;
            server.read_to_end(&mut Vec::new())?;
        }
        return Ok(());
    }
    let mut server = TcpStream::connect(server)?;
    server.set_nodelay(true)?;
    server.write_all(&startup)?;
    let mut requests = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        drop(io::copy(&mut requests.0, &mut requests.1));
        requests.1.shutdown(Shutdown::Write)
    });
    loop {
        let mut header = [0; 5];
        if server.read_exact(&mut header).is_err() {
            return client.shutdown(Shutdown::Both);
        }
        let [tag, length @ ..] = header;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        server.read_exact(&mut body)?;
        if tag == b'K' {
            body = give(body, given);
        }
        client.write_all(&message(tag, &body))?;
    }
}

/// What the server has said in place of this key.
fn asked_by(key: &[u8], given: &Mutex<Given>) -> Option<Vec<u8>> {
    let mut given = given.lock().unwrap();
    let own = given.keys.get(key).cloned()?;
    given.hits += 1;
    Some(own)
}

/// What the next session is given in place of what the server has said.
fn give(own: Vec<u8>, given: &Mutex<Given>) -> Vec<u8> {
    let mut given = given.lock().unwrap();
    let secret = given.secrets.pop().expect("a secret for each session");
    let key = [&own[..4], &secret].concat();
    given.keys.insert(key.clone(), own);
    key
}
