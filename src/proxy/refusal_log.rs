//! The log lines about connections that become no session. A port scan must not fill the disk: of each cause the first is
//! logged at once, and the others are counted and logged together.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{policy::format_duration, session::event::ClientAddress};

/// How much time lies between two lines of one cause.
const INTERVAL: Duration = Duration::from_secs(10);

/// What is yet to be logged. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct RefusalLog(Arc<Mutex<Vec<Counted>>>);

/// What came of one cause since its last line.
#[derive(Debug)]
struct Counted {
    cause: &'static str,
    count: u64,
    /// Who came last, and why that was refused.
    last: Option<(ClientAddress, String)>,
}

impl RefusalLog {
    /// Logs that a client was refused, now or together with others; called inside of a runtime.
    pub(super) fn refused(&self, cause: &'static str, client: Option<SocketAddr>, reason: &str) {
        let client = ClientAddress(client);
        if !self.is_first(cause, client, reason) {
            return;
        }
        tracing::warn!(%client, reason, "refused a connection");
        let log = self.clone();
        tokio::spawn(async move {
            let interval = format_duration(INTERVAL);
            loop {
                tokio::time::sleep(INTERVAL).await;
                let Some((count, client, reason)) = log.take(cause) else {
                    break;
                };
                tracing::warn!(
                    count,
                    last_client = %client,
                    last_reason = reason,
                    "refused more connections for the same cause within {interval}"
                );
            }
        });
    }

    /// Whether a refusal is to be logged at once; else it is counted.
    fn is_first(&self, cause: &'static str, client: ClientAddress, reason: &str) -> bool {
        let mut counted = self.lock();
        let Some(known) = counted.iter_mut().find(|known| known.cause == cause) else {
            counted.push(Counted {
                cause,
                count: 0,
                last: None,
            });
            return true;
        };
        known.count += 1;
        known.last = Some((client, reason.to_owned()));
        false
    }

    /// What was counted of a cause since the last call: how many, and the last of them. When there was none, the next one is
    /// a first one again.
    fn take(&self, cause: &'static str) -> Option<(u64, ClientAddress, String)> {
        let mut counted = self.lock();
        let index = counted.iter().position(|known| known.cause == cause)?;
        let known = &mut counted[index];
        let (count, last) = (std::mem::take(&mut known.count), known.last.take());
        let Some((client, reason)) = last else {
            counted.swap_remove(index);
            return None;
        };
        Some((count, client, reason))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Counted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_scan_leaves_a_line_each_interval() {
        let log = RefusalLog::default();
        let client = |port| ClientAddress(Some(SocketAddr::from(([192, 0, 2, 1], port))));
        let scan = "no PostgreSQL";
        assert!(log.is_first("startup", client(1), scan));
        for _ in 0..2 {
            for port in 2..1000 {
                assert!(!log.is_first("startup", client(port), scan));
            }
            assert!(log.take("tls").is_none());
            let (count, last, reason) = log.take("startup").unwrap();
            assert_eq!(
                (count, last.to_string(), &*reason),
                (998, "192.0.2.1:999".to_owned(), scan)
            );
        }
        assert!(log.is_first("tls", ClientAddress(None), "TLS is not offered here"));
        assert!(log.take("startup").is_none());
        assert!(
            log.is_first("startup", client(1), scan),
            "the interval before was quiet"
        );
    }
}
