//! What the service manager is told (`sd_notify(3)`, for systemd's `Type=notify` and `notify-reload`): that pgidle is ready,
//! reads its settings again, or ends. Where no manager asks, nothing is said.

use std::time::Duration;

use sd_notify::NotifyState;

/// How long the end takes beside the transactions that are waited for: for sessions that are told to end at once, and for
/// the last lines of audit and log.
const AFTER_DRAIN: Duration = Duration::from_secs(15);

/// Sessions are served; `status` says where.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The settings are being read again; [`ready`] follows, whatever comes of it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "could not read the clock for the service manager"),
    }
}

/// Transactions are waited for, for this long at most (`None` is for ever), and then the process ends.
pub fn stopping(drain_timeout: Option<Duration>) {
    let patience = drain_timeout.map(|limit| limit + AFTER_DRAIN);
    let micros = patience.and_then(|patience| u32::try_from(patience.as_micros()).ok());
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("waits for open transactions"),
        // More than an hour cannot be said in this way.
        NotifyState::ExtendTimeoutUsec(micros.unwrap_or(u32::MAX)),
    ]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "could not tell the service manager");
    }
}
