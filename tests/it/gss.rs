//! GSSAPI authentication passes through, with a KDC of its own. SSPI's messages are the same ones.

use crate::support::{
    frontend::{message, startup},
    program::{Libpq, ask},
    proxy::Proxy,
    realm::{REALM, Realm},
    wire::Client,
};

const HOW: &str = "SELECT current_user, gss_authenticated, encrypted, principal \
                   FROM pg_stat_gssapi WHERE pid = pg_backend_pid()";

#[test]
fn a_ticket_proves_who_one_is() {
    let realm = Realm::start();
    let database = realm.database();
    let proxy = Proxy::start(&database, &[]);
    let through = proxy.endpoint();
    let environment = realm.environment();
    let enters = |door, encryption, ticket: Option<&str>| {
        let mut set: Vec<_> = environment
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        set.push(("PGGSSENCMODE", encryption));
        set.extend(ticket.map(|ticket| ("KRB5CCNAME", ticket)));
        ask(Libpq::Debian, door, &set, HOW)
    };
    let entered = |encrypted| format!("gss_user|t|{encrypted}|gss_user@{REALM}");
    assert_eq!(enters(&database, "prefer", None), entered("t"));
    assert_eq!(enters(through, "disable", None), entered("f"));
    assert_eq!(enters(through, "prefer", None), entered("f"));
    let refused = enters(through, "require", None);
    assert!(refused.contains("GSSAPI encryption"), "{refused}");
    let refused = enters(through, "disable", Some("FILE:/nonexistent"));
    assert!(refused.contains("No Kerberos credentials"), "{refused}");
}

/// Tokens are this large where a user is in many groups. The server refuses this one, in its own words.
#[test]
fn a_token_of_60_kilobytes_passes_whole() {
    let realm = Realm::start();
    let database = realm.database();
    let proxy = Proxy::start(&database, &[]);
    let token = message(b'p', &[b'x'; 60_000]);
    let [direct, through] = [&database, proxy.endpoint()].map(|door| {
        let mut client = Client::silent(door);
        client.send(&startup(&[("user", "gss_user"), ("database", "postgres")]));
        assert_eq!(client.until(b'R'), "R");
        client.send(&token);
        (client.until_closed(), client.error_text())
    });
    assert!(
        direct.1.contains("GSSAPI authentication failed"),
        "{direct:?}"
    );
    assert_eq!(direct, through);
}
