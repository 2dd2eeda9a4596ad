//! The bank while servers crash and stand still and connections break: its books balance, no row is lost, none is kept
//! that was refused. Of a COMMIT whose connection is lost nobody knows, as without pgidle.

use std::{ops::RangeInclusive, time::Duration};

use crate::{
    bank::{Bank, rules},
    support::{
        breakable::Breakable, fragile::Fragile, let_pass, proxy::Proxy, server::newest_version,
    },
};

use super::works;

const LIMITS: &str = "idle = { rollback = \"300ms\" }\nstalled = { rollback = \"300ms\" }";

/// Does one kind of harm again and again, with pauses of so many milliseconds between, until the bank has closed.
fn run_bank(pause: RangeInclusive<u64>, mut harm: impl FnMut(&mut Fragile, &Breakable, &Proxy)) {
    let mut server = Fragile::start(newest_version(), &[("max_connections", "100")]);
    let endpoint = server.endpoint();
    let way = Breakable::open(&endpoint);
    let proxy = Proxy::with_rules(way.endpoint(), &rules(&endpoint, LIMITS));
    let mut bank = Bank::open("rollback", &endpoint, proxy.endpoint(), &["--faults"]);
    let (mut count, mut wait) = (0, *pause.start());
    while !bank.is_closed() {
        let_pass(Duration::from_millis(wait));
        wait = if wait + 150 > *pause.end() {
            *pause.start()
        } else {
            wait + 150
        };
        harm(&mut server, &way, &proxy);
        count += 1;
    }
    let report = bank.report();
    assert!(count > 1, "{count} times");
    assert!(report["told"]["refused"].as_u64() > Some(0), "{report:#}");
    works(&proxy, 10);
}

#[test]
fn a_bank_whose_server_crashes_again_and_again_balances() {
    run_bank(700..=1500, |server, _, _| server.crash());
}

#[test]
fn a_bank_whose_server_is_killed_and_started_again_balances() {
    run_bank(1500..=2500, |server, _, _| {
        server.kill();
        server.start_again();
    });
}

#[test]
fn a_bank_whose_server_stands_still_again_and_again_balances() {
    run_bank(100..=900, |server, _, _| {
        server.pause();
        let_pass(Duration::from_millis(450));
        server.go_on();
    });
}

#[test]
fn a_bank_whose_connections_are_reset_balances() {
    run_bank(50..=400, |_, way, _| way.reset_one_in(4));
}
