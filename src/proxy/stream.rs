//! A socket of either family, encrypted or not.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsStream, rustls::pki_types::CertificateDer};

/// When a silent connection is first probed.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long a connection that is closed waits for its client to take what was sent and to leave.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// In a box, so that a connection without TLS is not larger for it.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The process at the other end, where it is on this host. One that another PID namespace hides has the number 0.
    pub(super) fn peer_pid(&self) -> Option<i32> {
        match self {
            Self::Tcp(_) | Self::Tls(_) => None,
            Self::Unix(stream) => stream.peer_cred().ok()?.pid().filter(|&pid| pid > 0),
        }
    }

    /// Whether it is encrypted.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// The certificate that the other side has shown.
    pub(super) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates()?.first(),
        }
    }

    /// Whether the other side has closed its end, as far as the runtime has been told, whatever it sent before.
    pub(super) fn is_read_closed(&self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        let ready = match self {
            Self::Tcp(stream) => pin!(stream.ready(Interest::READABLE)).poll(cx),
            Self::Tls(stream) => pin!(stream.get_ref().0.ready(Interest::READABLE)).poll(cx),
            Self::Unix(stream) => pin!(stream.ready(Interest::READABLE)).poll(cx),
        };
        match ready {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }

    /// Sends what TLS has taken and not yet sent; it wakes the task when more can be sent.
    pub(super) fn send_taken(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self {
            Self::Tls(stream) if stream.get_ref().1.wants_write() => {
                match Pin::new(stream).poll_flush(cx) {
                    Poll::Ready(result) => result,
                    Poll::Pending => Ok(()),
                }
            }
            Self::Tls(_) | Self::Tcp(_) | Self::Unix(_) => Ok(()),
        }
    }

    /// Lets the other side read what was sent: a close with unread input would reset the connection and discard it.
    pub(super) async fn linger(mut self) {
        let wait = async {
            self.shutdown().await?;
            let mut sink = [0; 512];
            while self.read(&mut sink).await? > 0 {}
            io::Result::Ok(())
        };
        // Whatever came of it, the socket is closed now.
        drop(tokio::time::timeout(LINGER, wait).await);
    }
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Tcp($stream) => $call,
            Self::Unix($stream) => $call,
            Self::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match delegate!(self, stream => Pin::new(stream).poll_read(cx, buf)) {
            // TLS that was not closed properly: PostgreSQL's messages say themselves where they end.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(()))
            }
            result @ (Poll::Ready(_) | Poll::Pending) => result,
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
