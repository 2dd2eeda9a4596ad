//! From a request to its answer.

use std::{net::SocketAddr, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS},
};
use tokio::time::timeout;

use super::{
    Context,
    host::{self, Host},
    sessions,
};
use crate::session::Snapshot;

/// How long sessions may take to say how they stand; one whose thread is busy holds up the others.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

type Answer = Response<Full<Bytes>>;

/// Answers a request that came to this address.
pub(super) async fn to<B>(request: &Request<B>, local: SocketAddr, context: &Context) -> Answer {
    match host::of(request, local.ip().to_canonical().is_loopback()) {
        Host::Own => {}
        Host::Missing => return text(StatusCode::BAD_REQUEST, "a request names its host\n"),
        Host::Foreign => {
            let why = "this address answers to localhost and to IP addresses alone\n";
            return text(StatusCode::MISDIRECTED_REQUEST, why);
        }
    }
    let path = request.uri().path();
    if !PATHS.contains(&path) {
        return text(
            StatusCode::NOT_FOUND,
            &format!("there are {}\n", PATHS.join(", ")),
        );
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        let allow = HeaderValue::from_static("GET, HEAD");
        answer.headers_mut().insert(ALLOW, allow);
        return answer;
    }
    match path {
        "/metrics" => metrics(context).await,
        "/readyz" => match context.readiness.lock().await.of(context).await {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(why) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!("not ready: {why}\n"),
            ),
        },
        "/sessions" => match snapshots(context).await {
            Some(all) => json(&sessions::rows(&all, &context.texts)),
            None => late(),
        },
        "/incidents" => json(&context.audit.recent()),
        _ => text(StatusCode::OK, "ok\n"),
    }
}

const PATHS: [&str; 5] = ["/metrics", "/healthz", "/readyz", "/sessions", "/incidents"];

async fn metrics(context: &Context) -> Answer {
    let Some(sessions) = snapshots(context).await else {
        return late();
    };
    match context.metrics.render(&sessions, &context.readings()) {
        Ok(series) => answer(StatusCode::OK, PROMETHEUS, series.into_bytes()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

async fn snapshots(context: &Context) -> Option<Vec<Snapshot>> {
    timeout(SNAPSHOT_TIMEOUT, context.registry.snapshots())
        .await
        .ok()
}

fn late() -> Answer {
    let why = "sessions did not say in time how they stand\n";
    text(StatusCode::SERVICE_UNAVAILABLE, why)
}

fn json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => answer(StatusCode::OK, JSON, body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: &str) -> Answer {
    answer(status, TEXT, body.to_owned().into_bytes())
}

fn answer(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
