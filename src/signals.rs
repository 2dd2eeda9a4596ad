//! The signals that steer a running pgidle: SIGHUP reloads, SIGTERM and SIGINT let it finish, the second one at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals of the process: once this exists, they do not end it.
#[derive(Debug)]
pub struct Signals {
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals; called inside of a runtime.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Calls `reload` as often as asked; returns when asked to stop.
    pub async fn serve(&mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.reload.recv() => reload(),
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
            }
        }
    }

    /// Waits until asked to stop.
    pub async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
