//! A way to a server on which its key for cancelling is lost, as behind a pooler that does not pass one on.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use super::Endpoint;

/// Opens the way, for as long as the tests run.
pub(crate) fn keyless(database: &Endpoint) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let door = database.at("127.0.0.1", listener.local_addr().unwrap().port());
    let server = (database.host.clone(), database.port);
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(&server).unwrap();
            let mut requests = (client.try_clone().unwrap(), server.try_clone().unwrap());
            // Both ends are closed when either is.
            thread::spawn(move || io::copy(&mut requests.0, &mut requests.1));
            thread::spawn(move || pass_answers(server, client));
        }
    });
    door
}

fn pass_answers(mut server: TcpStream, mut client: TcpStream) -> io::Result<()> {
    loop {
        let mut header = [0; 5];
        if server.read_exact(&mut header).is_err() {
            return client.shutdown(std::net::Shutdown::Both);
        }
        let [tag, length @ ..] = header;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        server.read_exact(&mut body)?;
        if tag != b'K' {
            client.write_all(&[&header, body.as_slice()].concat())?;
        }
    }
}
