//! Whether pgidle would connect to itself: every session would open the next one, until descriptors run out.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::config::Address;

/// A server's address that is one of those that clients connect to.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server's address {upstream} is where pgidle itself listens ({listen}): expected PostgreSQL's"
)]
pub struct OwnAddress {
    listen: Address,
    upstream: Address,
}

/// Refuses a server's address that leads back to a listening socket, under whatever name.
///
/// # Errors
/// The first such address. A host name that cannot be resolved is none.
pub fn refuse_own_address(listen: &[Address], upstream: &[Address]) -> Result<(), OwnAddress> {
    for upstream in upstream {
        for listen in listen {
            if is_reached_by(listen, upstream) {
                return Err(OwnAddress {
                    listen: listen.clone(),
                    upstream: upstream.clone(),
                });
            }
        }
    }
    Ok(())
}

fn is_reached_by(listen: &Address, upstream: &Address) -> bool {
    match (listen, upstream) {
        (Address::Unix(listen), Address::Unix(upstream)) => is_same_file(listen, upstream),
        // Names are asked for only where it matters.
        (Address::Tcp { port, .. }, Address::Tcp { port: to, .. }) if port == to => {
            let listening = resolve(listen);
            let mut connecting = resolve(upstream).into_iter().map(destination);
            connecting.any(|to| listening.iter().any(|at| accepts(at.ip(), to)))
        }
        (Address::Tcp { .. } | Address::Unix(_), Address::Tcp { .. } | Address::Unix(_)) => false,
    }
}

fn resolve(address: &Address) -> Vec<SocketAddr> {
    match address {
        Address::Tcp { host, port } => (host.as_str(), *port)
            .to_socket_addrs()
            .map_or_else(|_| Vec::new(), Iterator::collect),
        Address::Unix(_) => Vec::new(),
    }
}

/// Where a connection to an address goes: one to "any address" goes to this machine.
fn destination(address: SocketAddr) -> IpAddr {
    let ip = address.ip().to_canonical();
    match ip {
        IpAddr::V4(_) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V4(_) | IpAddr::V6(_) => ip,
    }
}

/// Whether a socket that listens at an address gets what is sent to another one.
fn accepts(listening: IpAddr, to: IpAddr) -> bool {
    if listening.is_unspecified() {
        listening.is_ipv4() == to.is_ipv4() && is_of_this_machine(to)
    } else {
        listening.to_canonical() == to
    }
}

/// The kernel sends from the address itself to an address of this machine. Nothing is sent to find out.
fn is_of_this_machine(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, 9))?;
        socket.local_addr()
    };
    ip.is_loopback() || source().is_ok_and(|source| source.ip() == ip)
}

/// Whether two paths name one file, be it there or not.
fn is_same_file(a: &Path, b: &Path) -> bool {
    let found = |path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    match (found(a), found(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => real_path(a) == real_path(b),
    }
}

/// The path with a real folder, whether the file is there or not.
fn real_path(path: &Path) -> Option<PathBuf> {
    let folder = path.parent()?;
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    Some(folder.join(path.file_name()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn is_own(listen: &str, upstream: &str) -> bool {
        is_reached_by(&listen.parse().unwrap(), &upstream.parse().unwrap())
    }

    #[test]
    fn own_addresses_have_many_names() {
        for (listen, upstream) in [
            ("127.0.0.1:5432", "127.0.0.1:5432"),
            ("127.0.0.1:5432", "localhost:5432"),
            ("localhost:5432", "127.0.0.1:5432"),
            ("0.0.0.0:5432", "127.0.0.1:5432"),
            ("0.0.0.0:5432", "127.8.9.1:5432"),
            ("0.0.0.0:5432", "localhost:5432"),
            ("127.0.0.1:5432", "0.0.0.0:5432"),
            ("0.0.0.0:5432", "0.0.0.0:5432"),
            ("[::1]:5432", "[::]:5432"),
            ("[::]:5432", "[::1]:5432"),
            ("127.0.0.1:5432", "[::ffff:127.0.0.1]:5432"),
            ("unix:/run/pg/.s.PGSQL.5432", "unix:/run/pg/.s.PGSQL.5432"),
        ] {
            assert!(is_own(listen, upstream), "{listen} {upstream}");
        }
    }

    #[test]
    fn other_addresses_are_not_own() {
        for (listen, upstream) in [
            ("127.0.0.1:6432", "127.0.0.1:5432"),
            ("127.0.0.1:5432", "127.0.0.2:5432"),
            ("0.0.0.0:5432", "192.0.2.1:5432"),
            ("0.0.0.0:5432", "[::1]:5432"),
            ("[::]:5432", "127.0.0.1:5432"),
            ("0.0.0.0:5432", "no-such-host.invalid:5432"),
            ("127.0.0.1:5432", "unix:/run/pg/.s.PGSQL.5432"),
            (
                "unix:/run/pgidle/.s.PGSQL.5432",
                "unix:/run/pg/.s.PGSQL.5432",
            ),
        ] {
            assert!(!is_own(listen, upstream), "{listen} {upstream}");
        }
    }

    #[test]
    fn a_socket_is_known_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("real")).unwrap();
        symlink(path("real"), path("link")).unwrap();
        let (direct, linked) = (path("real/socket"), path("link/socket"));
        assert!(is_same_file(&direct, &linked), "also before it is there");
        fs::write(&direct, "").unwrap();
        assert!(is_same_file(&direct, &linked));
        symlink(&direct, path("other")).unwrap();
        assert!(is_same_file(&direct, &path("other")));
    }
}
