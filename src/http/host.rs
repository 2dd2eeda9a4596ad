//! Which host a request is for. A page that a person looks at can have a name of its own lead to 127.0.0.1 and read what
//! is there as if it were its own (DNS rebinding): so who listens for this host alone answers to no foreign name.

use std::net::{IpAddr, Ipv6Addr};

use hyper::{Request, Version, header::HOST, http::uri::Authority};

/// What a request says of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// It may be meant for us.
    Own,
    /// It says nothing, or what cannot be read.
    Missing,
    /// It is meant for another one.
    Foreign,
}

/// The host of a request; `loopback` when it came to an address of this host alone.
pub(super) fn of<B>(request: &Request<B>, loopback: bool) -> Host {
    let mut hosts = request.headers().get_all(HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (None, _) if request.version() == Version::HTTP_10 => None,
        (Some(host), None) => {
            let host = host.to_str().ok();
            let Some(host) = host.and_then(|host| host.parse::<Authority>().ok()) else {
                return Host::Missing;
            };
            Some(host)
        }
        _ => return Host::Missing,
    };
    let all = named.as_ref().into_iter().chain(request.uri().authority());
    let mut names = all.map(Authority::host);
    match !loopback || names.all(is_this_host) {
        true => Host::Own,
        false => Host::Foreign,
    }
}

/// Whether no DNS server has a say in where that leads.
fn is_this_host(name: &str) -> bool {
    let bracketed = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok()
        || bracketed.is_some_and(|name| name.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Host {
        let request = Request::get("/sessions").header(HOST, name).body(());
        of(&request.unwrap(), true)
    }

    #[test]
    fn a_name_of_another_is_foreign() {
        for name in [
            "localhost",
            "LocalHost:9187",
            "127.0.0.1:9187",
            "[::1]:9187",
            "10.0.0.1",
        ] {
            assert_eq!(host(name), Host::Own, "{name}");
        }
        for name in [
            "evil.example",
            "localhost.evil.example:9187",
            "127.0.0.1.evil.example",
        ] {
            assert_eq!(host(name), Host::Foreign, "{name}");
        }
        for name in ["a b", "", "/"] {
            assert_eq!(host(name), Host::Missing, "{name}");
        }
        let absolute = Request::get("http://evil.example/").header(HOST, "localhost");
        assert_eq!(of(&absolute.body(()).unwrap(), true), Host::Foreign);
        let anywhere = Request::get("/").header(HOST, "pgidle.example").body(());
        assert_eq!(of(&anywhere.unwrap(), false), Host::Own);
        let silent = Request::get("/").body(()).unwrap();
        assert_eq!(of(&silent, true), Host::Missing);
    }
}
