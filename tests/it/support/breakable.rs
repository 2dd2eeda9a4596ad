//! A way to a server that breaks: its connections are reset, or stand while nothing gets through any more.

use std::{io, thread, time::Duration};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime,
    sync::watch,
};

use super::Endpoint;

/// The way, open for as long as the tests run.
pub(crate) struct Breakable {
    endpoint: Endpoint,
    resets: watch::Sender<Reset>,
    silent: watch::Sender<bool>,
}

/// Which connections are reset: of those that there are, numbered as they came, one in so many.
#[derive(Clone, Copy, Default)]
struct Reset {
    turn: u64,
    one_in: u64,
}

impl Reset {
    fn hits(self, number: u64) -> bool {
        (number + self.turn).is_multiple_of(self.one_in)
    }
}

impl Breakable {
    /// Opens the way.
    pub(crate) fn open(database: &Endpoint) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = database.at("127.0.0.1", listener.local_addr().unwrap().port());
        let server = (database.host.clone(), database.port);
        let (resets, reset) = watch::channel(Reset::default());
        let (silent, silence) = watch::channel(false);
        thread::spawn(move || {
            let mut builder = runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap().block_on(async {
                listener.set_nonblocking(true).unwrap();
                let listener = TcpListener::from_std(listener).unwrap();
                for number in 0.. {
                    let (client, _) = listener.accept().await.unwrap();
                    let (server, silence) = (server.clone(), silence.clone());
                    tokio::spawn(carry(client, server, number, reset.clone(), silence));
                }
            });
        });
        Self {
            endpoint,
            resets,
            silent,
        }
    }

    /// Where it begins.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Resets every connection on both of its sides.
    pub(crate) fn reset(&self) {
        self.reset_one_in(1);
    }

    /// Resets one connection in so many, others each time.
    pub(crate) fn reset_one_in(&self, one_in: u64) {
        self.resets.send_modify(|reset| {
            reset.turn += 1;
            reset.one_in = one_in;
        });
    }

    /// Lets nothing through in either direction, not even the end of a connection, or everything.
    pub(crate) fn be_silent(&self, silent: bool) {
        self.silent.send_replace(silent);
    }
}

async fn carry(
    mut client: TcpStream,
    server: (String, u16),
    number: u64,
    mut resets: watch::Receiver<Reset>,
    silence: watch::Receiver<bool>,
) -> io::Result<()> {
    resets.mark_unchanged();
    let mut server = TcpStream::connect(server).await?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        // Closing resets, until both sides have said that they have ended.
        SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
    }
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let both = async {
        tokio::try_join!(
            copy(&mut from_client, &mut to_server, silence.clone()),
            copy(&mut from_server, &mut to_client, silence.clone()),
        )
    };
    let hit = async {
        while resets.changed().await.is_ok() && !resets.borrow_and_update().hits(number) {}
    };
    tokio::select! {
        _ = hit => return Ok(()),
        ended = both => ended?,
    };
    for stream in [&client, &server] {
        SockRef::from(stream).set_linger(None)?;
    }
    Ok(())
}

/// Carries bytes, and the end, unless there is silence.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut silence: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut bytes = vec![0; 16_384];
    loop {
        let len = from.read(&mut bytes).await?;
        // Where the tests are over, so is the silence.
        drop(silence.wait_for(|silent| !silent).await);
        if len == 0 {
            return to.shutdown().await;
        }
        to.write_all(&bytes[..len]).await?;
    }
}
