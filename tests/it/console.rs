//! The console, as operators and what they use meet it.

use nix::sys::signal::Signal;

use crate::support::{
    Endpoint,
    certificates::offering,
    dba::Dba,
    frontend::{bind, execute, parse, query, startup, sync},
    in_repository, installed, let_pass,
    observed::dsn,
    program::{Libpq, ask, pgbench, psql, psql_as, python, run},
    proxy::Proxy,
    server::newest,
    wait_for,
    wire::Client,
};

/// An admin by a password in a file, and a monitor by what PostgreSQL keeps of the same password, `secret`.
const USERS: &str = "
    [[console.user]]
    name = 'ops'
    role = 'admin'
    password_file = 'FILE'
    [[console.user]]
    name = 'grafana'
    role = 'monitor'
    secret = 'VERIFIER'
    [[rule]]
    name = 'all'
    idle = { log = '200ms' }
";

/// A proxy with those users, the end of it that is the console, and the settings that it began with.
struct World {
    proxy: Proxy,
    console: Endpoint,
    settings: String,
    _file: tempfile::NamedTempFile,
}

impl World {
    fn new(database: &Endpoint) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret\n").unwrap();
        let verifier = "BEGIN; CREATE ROLE console_user PASSWORD 'secret'; \
                        SELECT rolpassword FROM pg_authid WHERE rolname = 'console_user'; ROLLBACK";
        let verifier = psql(database, &[verifier]);
        let settings = USERS
            .replace("FILE", file.path().to_str().unwrap())
            .replace("VERIFIER", &verifier);
        let proxy = Proxy::with_rules(database, &settings);
        let console = console(&proxy);
        Self {
            proxy,
            console,
            settings,
            _file: file,
        }
    }

    fn ops(&self, sql: &str) -> String {
        psql_as("ops", &self.console, sql)
    }
}

fn console(proxy: &Proxy) -> Endpoint {
    Endpoint {
        database: "pgidle".to_owned(),
        ..proxy.endpoint().clone()
    }
}

#[test]
fn an_operator_finds_a_stuck_session_and_rolls_it_back() {
    let world = World::new(&newest().database());
    let mut client = Client::connect(world.proxy.endpoint());
    client.begin("SELECT v, 'private' FROM t");
    let logged = "SHOW INCIDENTS session, kind, action, outcome, query";
    wait_for("an incident", || {
        (world.ops(logged) == "1|idle|log|logged|SELECT v, $1 FROM t").then_some(())
    });
    let shown = world.ops("SHOW SESSIONS id, user, state, query, rule, stuck, statement_count");
    assert_eq!(
        shown,
        "1|postgres|idle in transaction|SELECT v, $1 FROM t|all|idle|2"
    );
    assert_eq!(
        world.ops("SHOW TRANSACTIONS id, state"),
        "1|idle in transaction"
    );
    assert_eq!(world.ops("ROLLBACK 1"), "1|rolled_back");
    assert_eq!(client.query("SELECT 1"), "E 57014 / Z E");
    assert_eq!(client.query("ROLLBACK"), "C ROLLBACK / Z I");
    let by = "SHOW INCIDENTS cause, by, action, outcome";
    assert!(
        world
            .ops(by)
            .starts_with("console|ops|rollback|rolled_back\n")
    );
    let again = world.ops("ROLLBACK 1");
    assert!(
        again.contains("55000: nothing is done: no transaction is open"),
        "{again}"
    );
    assert_eq!(world.ops("TERMINATE 1"), "1|terminated");
    assert_eq!(client.until_closed(), "E FATAL 57P01 / closed");
    let gone = world.ops("TERMINATE 1");
    assert!(gone.contains("42704: there is no session 1"), "{gone}");
}

#[test]
fn each_command_is_for_its_role_alone() {
    let world = World::new(&newest().database());
    let monitor = |sql| psql_as("grafana", &world.console, sql);
    assert_eq!(
        monitor("SHOW VERSION"),
        concat!("pgidle ", env!("CARGO_PKG_VERSION"))
    );
    for command in ["ROLLBACK 1", "TERMINATE 1", "RELOAD", "DRAIN", "SHUTDOWN"] {
        let refused = monitor(command);
        assert!(
            refused.contains("ERROR:  42501: permission denied"),
            "{command}: {refused}"
        );
    }
    assert_eq!(
        monitor("SHOW RULES name, idle, exempt").lines().nth(1),
        Some("all|log 200ms|f")
    );
    let wrong = [("PGPASSWORD", "wrong"), ("PGUSER", "ops")];
    let stranger = [("PGPASSWORD", "secret"), ("PGUSER", "postgres")];
    for (set, user) in [(wrong, "ops"), (stranger, "postgres")] {
        let refused = ask(Libpq::Debian, &world.console, &set, "SHOW VERSION");
        let expected = format!("FATAL:  password authentication failed for user \"{user}\"");
        assert!(refused.contains(&expected), "{refused}");
    }
}

#[test]
fn without_users_this_host_may_look_and_others_may_not() {
    let database = newest().database();
    let proxy = Proxy::with_rules(&database, "[listen]\nproxy_protocol = true");
    let parameters = [("user", "anyone"), ("database", "pgidle")];
    for (address, expected) in [
        ("127.0.0.1", "Z I"),
        ("192.0.2.7", "E FATAL 28000 / closed"),
    ] {
        let header = format!("PROXY TCP4 {address} 127.0.0.1 51000 5432\r\n");
        let mut client = Client::silent(proxy.endpoint());
        client.send(&[header.into_bytes(), startup(&parameters)].concat());
        let greeting = match address {
            "127.0.0.1" => client.until_ready(),
            _ => client.until_closed(),
        };
        assert!(greeting.ends_with(expected), "{address}: {greeting}");
    }
    let proxy = Proxy::on_socket(&database, &[]);
    assert!(psql(&console(&proxy), &["SHOW VERSION"]).starts_with("pgidle "));
    let refused = psql(&console(&proxy), &["SHUTDOWN"]);
    assert!(refused.contains("42501"), "{refused}");
}

/// Before a migration is begun: who would be in its way?
#[test]
fn who_would_be_in_the_way_of_a_migration() {
    let server = newest();
    let database = server.database();
    let without = World::new(&database);
    let refused = without.ops("SHOW BLOCKERS t");
    assert!(
        refused.contains("55000: only an observer can tell"),
        "{refused}"
    );
    let rules = format!("[observer]\ndsn = '{}'", dsn(&database, "postgres"));
    let proxy = Proxy::with_rules(&database, &rules);
    let console = console(&proxy);
    let shown = |sql: &str| psql(&console, &[sql]);
    assert_eq!(shown("SHOW BLOCKERS t"), "");
    let mut reader = Client::connect(proxy.endpoint());
    reader.begin("SELECT v FROM t");
    let pid = reader.server_pid();
    let holder = shown("SHOW BLOCKERS t");
    let (holder, age) = holder.rsplit_once('|').unwrap();
    assert_eq!(
        holder,
        format!("1|{pid}||postgres||idle in transaction|AccessShareLock|t")
    );
    assert!(age.parse::<u64>().is_ok(), "{age}");
    assert_eq!(shown("SHOW BLOCKERS public.t SHARE ROW EXCLUSIVE"), "");
    let missing = shown("SHOW BLOCKERS nowhere");
    assert!(
        missing.contains("relation \"\"nowhere\"\" does not exist in database"),
        "{missing}"
    );
    assert_eq!(shown("SHOW PREPARED"), "");
}

#[test]
fn a_reload_says_what_has_changed_or_what_is_wrong() {
    let world = World::new(&newest().database());
    let file = world.proxy.settings_file();
    let changed = world.settings.replace("200ms", "300ms") + "[log]\nformat = 'json'\n";
    std::fs::write(&file, format!("drain_timeout = '5s'\n{changed}")).unwrap();
    let said = world.ops("RELOAD");
    for expected in ["drain_timeout|30s|5s", "rule \"all\"|…|changed"] {
        assert!(said.lines().any(|line| line == expected), "{said}");
    }
    std::fs::write(&file, "[listen]\nadresses = []").unwrap();
    let wrong = world.ops("RELOAD");
    let expected = "F0000: ";
    assert!(
        wrong.contains(expected)
            && wrong.contains(":2: listen.adresses: unknown key; did you mean"),
        "{wrong}"
    );
    assert_eq!(
        world
            .ops("SHOW CONFIG key, value")
            .lines()
            .find(|line| line.starts_with("drain")),
        Some("drain_timeout|5s")
    );
}

#[test]
fn a_drain_lets_a_transaction_finish_and_a_shutdown_does_not() {
    let database = newest().database();
    let mut world = World::new(&database);
    let mut client = Client::connect(world.proxy.endpoint());
    client.begin("INSERT INTO t VALUES (7)");
    assert_eq!(world.ops("DRAIN"), "");
    wait_for("the drain", || {
        world.proxy.log().contains("draining").then_some(())
    });
    assert_eq!(client.query("COMMIT"), "C COMMIT / Z I");
    assert_eq!(client.until_closed(), "E FATAL 57P01 / closed");
    assert!(world.proxy.exit_status().success());

    let mut world = World::new(&database);
    let mut client = Client::connect(world.proxy.endpoint());
    client.begin("INSERT INTO t VALUES (8)");
    assert_eq!(world.ops("SHUTDOWN"), "");
    assert!(client.until_closed().ends_with("closed"));
    assert!(world.proxy.exit_status().success());
    let mut dba = Dba::new(&database);
    assert_eq!(dba.value("SELECT count(*) FROM t WHERE id = 7"), "1");
    assert_eq!(dba.value("SELECT count(*) FROM t WHERE id = 8"), "0");
}

/// What drivers and programs say by themselves, in text and in binary.
#[test]
fn drivers_and_psql_find_their_way() {
    let world = World::new(&newest().database());
    let printed = python(&world.console, DRIVERS);
    assert_eq!(
        printed,
        "psycopg 1 text\npsycopg 1 binary\npsycopg2 1\nasyncpg 1\npg8000 1"
    );
    for (command, expected) in [
        ("\\d", ""),
        // In the words of this version of psql.
        ("\\conninfo", "pgidle"),
        ("\\l", ""),
        ("", ""),
    ] {
        let shown = world.ops(command);
        assert!(
            shown.contains(expected) && !shown.contains("ERROR"),
            "{command}: {shown}"
        );
    }
}

const DRIVERS: &str = "
import os, asyncio, psycopg, psycopg2, asyncpg, pg8000.native
os.environ.update(PGUSER='ops', PGPASSWORD='secret')
sessions = 'SHOW SESSIONS id, tls, state_change, user'
for binary in False, True:
    with psycopg.connect('') as connection:
        kinds = connection.cursor(binary=binary)
        topics = kinds.execute('SHOW HELP').fetchall()
        assert len(topics) > 10 and kinds.execute(sessions).fetchall() == []
        assert kinds.execute('SELECT version()').fetchone()[0].startswith('PostgreSQL 18')
    print('psycopg', 1, 'binary' if binary else 'text')
with psycopg2.connect('') as connection:
    cursor = connection.cursor()
    cursor.execute('SHOW LISTS items')
    print('psycopg2', int(len(cursor.fetchall()) > 5))

async def pool():
    async with asyncpg.create_pool(min_size=1, max_size=1) as pool:
        for _ in range(2):
            assert len(await pool.fetch('SHOW RULES')) == 3
            assert await pool.fetch(sessions) == []
    print('asyncpg', 1)
asyncio.run(pool())
connection = pg8000.native.Connection('ops', host=os.environ['PGHOST'], port=int(os.environ['PGPORT']), database='pgidle', password='secret')
print('pg8000', int(len(connection.run('SHOW CONFIG')) > 10))
";

/// The drivers of Node.js, alone and in pools.
#[test]
fn drivers_of_node_find_their_way() {
    let world = World::new(&newest().database());
    let folder = installed("node");
    let set = [
        ("PGUSER", "ops"),
        ("PGPASSWORD", "secret"),
        ("NODE_DRIVERS", folder.to_str().unwrap()),
    ];
    let script = in_repository("tests/node/console.mjs");
    let printed = run("node", &world.console, &set, &[script.to_str().unwrap()]);
    assert_eq!(
        printed,
        "pg false true true 2\n42704\npg true true true 2\n42704\n42704\npostgres true true"
    );
}

/// What a person types at psql: TAB completes the console's own words.
#[test]
fn psql_completes_what_is_typed() {
    let world = World::new(&newest().database());
    let set = [("PGUSER", "ops"), ("PGPASSWORD", "secret")];
    let script = in_repository("tests/python/tab.py");
    let printed = run("python3", &world.console, &set, &[script.to_str().unwrap()]);
    let version = concat!("pgidle ", env!("CARGO_PKG_VERSION"));
    assert_eq!(printed, format!("{version}\n0"));
}

/// pgjdbc, which also says what DBeaver says, pgx and lib/pq.
#[test]
#[ignore = "it needs what scripts/setup-drivers.sh makes: run `make drivers-all`"]
fn drivers_of_java_and_go_find_their_way() {
    let world = World::new(&newest().database());
    let set = [("PGUSER", "ops"), ("PGPASSWORD", "secret")];
    let made = in_repository(".cache/drivers/bin");
    let classes = format!("{}:/usr/share/java/postgresql.jar", made.display());
    let printed = run(
        "java",
        &world.console,
        &set,
        &["-cp", &classes, "PgjdbcConsole"],
    );
    assert_eq!(
        printed,
        "pgjdbc pgidle ops\n\
         pgjdbc pgidle ops&prepareThreshold=1&binaryTransfer=true\n\
         pgjdbc pgidle ops&preferQueryMode=simple"
    );
    let go = made.join("console");
    let printed = run(go.to_str().unwrap(), &world.console, &set, &[]);
    assert_eq!(
        printed,
        "pgx false sessions 0 true\npgx true sessions 0 true\nlib/pq sessions 0"
    );
}

/// With TLS on the clients' leg the console is reached by it, and where it is required not without.
#[test]
fn the_console_is_reached_by_tls() {
    let server = newest();
    let database = server.database();
    let proxy = Proxy::with_rules(&database, &offering(server, "pgidle", "require"));
    let door = console(&proxy);
    let door = door.at("localhost", door.port);
    let ca = server.pem("ca.crt");
    let verified = [("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", ca.as_str())];
    for libpq in [Libpq::Debian, Libpq::Psycopg] {
        let answer = ask(libpq, &door, &verified, "SHOW VERSION");
        assert!(answer.starts_with("pgidle "), "{libpq:?}: {answer}");
    }
    let refused = ask(
        Libpq::Debian,
        &door,
        &[("PGSSLMODE", "disable")],
        "SHOW VERSION",
    );
    assert!(
        refused.contains("connections without TLS are refused"),
        "{refused}"
    );
}

/// Totals are right though neither the audit nor HTTP wants transactions.
#[test]
fn totals_are_always_kept() {
    let database = newest().database();
    let proxy = Proxy::with_rules(&database, "[audit]\ntransactions = false");
    let totals = || {
        let shown = psql(&console(&proxy), &["SHOW STATS"]);
        let lines = shown.lines().map(|line| line.split('|'));
        let mut ours = lines.filter(|line| line.clone().next() == Some(&database.database));
        let ours = ours
            .next()
            .map(|line| line.skip(1).map(|value| value.parse().unwrap()));
        ours.map(Iterator::collect::<Vec<u64>>)
    };
    let mut client = Client::connect(proxy.endpoint());
    client.run("SELECT 1");
    let before = wait_for("the totals", totals);
    let began = std::time::Instant::now();
    let texts = ["BEGIN", "SELECT 1; SELECT 2", "COMMIT", "SELECT 3"];
    for text in texts {
        client.query(text);
    }
    assert!(client.query("SELECT 1/0").starts_with("E 22012"));
    let_pass(std::time::Duration::from_millis(50));
    client.run("BEGIN");
    let prepared = [
        parse("", "SELECT 4"),
        bind("", "", &[]),
        execute("", 0),
        sync(),
    ]
    .concat();
    client.send(&prepared);
    client.until_ready();
    let_pass(std::time::Duration::from_millis(50));
    client.run("ROLLBACK");
    let all = texts
        .iter()
        .chain(["SELECT 1/0", "BEGIN", "ROLLBACK"].iter());
    let sent: usize = all.map(|text| query(text).len()).sum::<usize>() + prepared.len();
    let after = totals().unwrap();
    let more: Vec<_> = after
        .iter()
        .zip(&before)
        .map(|(after, before)| after - before)
        .collect();
    let (transactions, queries) = (4, 8);
    assert_eq!(more[..3], [transactions, queries, sent as u64]);
    let (time, busy) = (more[4], more[5]);
    let most = u64::try_from(began.elapsed().as_micros()).unwrap();
    assert!(
        time > 50_000 && time + 50_000 <= most && busy < time,
        "{more:?} of {most}"
    );
    // Outside of a transaction there is nothing to count when a client leaves.
    drop(client);
    wait_for("the end of the session", || {
        let lists = psql(&console(&proxy), &["SHOW LISTS"]);
        lists.starts_with("sessions|0").then_some(())
    });
    assert_eq!(totals().unwrap()[4..], after[4..]);
}

/// A minor version that there is not, and an option that nobody knows, are answered as a server answers them.
#[test]
fn newer_protocols_are_negotiated() {
    let proxy = Proxy::start(&newest().database(), &[]);
    for (minor, expected) in [(0_u16, None), (2, None), (9999, Some(2_u32))] {
        let mut packet = startup(&[("user", "a"), ("database", "pgidle"), ("_pq_.test", "1")]);
        packet[6..8].copy_from_slice(&minor.to_be_bytes());
        let mut client = Client::silent(proxy.endpoint());
        client.send(&packet);
        let first = client.message().unwrap();
        assert_eq!(first.tag, b'v', "{minor}");
        let version = u32::from_be_bytes(first.body[..4].try_into().unwrap());
        assert_eq!(
            version,
            0x0003_0000 | expected.unwrap_or_else(|| minor.into()),
            "{minor}"
        );
        assert!(first.body.ends_with(b"_pq_.test\0"));
        assert!(client.until_ready().ends_with("Z I"));
        client.send(&query("SHOW VERSION; SHOW NOTHING; SHOW VERSION"));
        let answer = client.until_ready();
        assert!(answer.ends_with("C SHOW 1 / E 42704 / Z I"), "{answer}");
        client.send(
            &[
                parse("", "SHOW LISTS list"),
                bind("", "", &[]),
                execute("", 1),
                sync(),
            ]
            .concat(),
        );
        assert_eq!(client.until_ready(), "1 / 2 / D sessions / s / Z I");
    }
}

/// Garbage costs its own connection, before and after a login, and nothing else; `make garbage` goes on for longer.
#[test]
fn garbage_harms_nobody() {
    let database = newest().database();
    pgbench(&database, &["-i", "-q", "-s", "1"]);
    let proxy = Proxy::start(&database, &[]);
    let seconds = std::env::var("GARBAGE_SECONDS").unwrap_or_else(|_| "4".to_owned());
    let parameters = [("user", "a"), ("database", "pgidle")];
    let report = std::thread::scope(|scope| {
        let load = scope.spawn(|| pgbench(proxy.endpoint(), &["-n", "-c", "2", "-T", &seconds]));
        let mut state = 42_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            u8::try_from(state >> 56).unwrap()
        };
        let mut tries = 0;
        while !load.is_finished() {
            let mut client = Client::silent(proxy.endpoint());
            client.send(&startup(&parameters));
            if tries % 2 == 0 {
                client.until_ready();
            }
            let garbage: Vec<u8> = (0..200).map(|_| random()).collect();
            client.try_send(&garbage).ok();
            // A message that announces 2 GiB, and a MiB of it.
            if tries % 50 == 0 {
                client
                    .try_send(&[b"Q\x7f\xff\xff\xff".to_vec(), vec![b'x'; 2 << 20]].concat())
                    .ok();
            }
            tries += 1;
        }
        assert!(tries > 10);
        load.join().unwrap()
    });
    assert!(
        report.contains("number of failed transactions: 0"),
        "{report}"
    );
    assert!(proxy.memory_kib() < 200 << 10, "{} kB", proxy.memory_kib());
    assert_eq!(
        psql(&console(&proxy), &["SHOW LISTS list, items"])
            .lines()
            .next(),
        Some("sessions|0")
    );
    proxy.signal(Signal::SIGTERM);
}

/// A database may be called so: another name leads to the console then, or none.
#[test]
fn the_name_of_the_console_can_be_changed() {
    let database = newest().database();
    let proxy = Proxy::with_rules(&database, "[console]\ndatabase = 'ops console'");
    let another = Endpoint {
        database: "ops console".to_owned(),
        ..proxy.endpoint().clone()
    };
    assert!(psql(&another, &["SHOW VERSION"]).starts_with("pgidle"));
    let missing = psql(&console(&proxy), &["SHOW VERSION"]);
    assert!(
        missing.contains("database \"pgidle\" does not exist"),
        "{missing}"
    );
    proxy.change_rules("[console]\ndatabase = ''");
    let off = psql(&another, &["SHOW VERSION"]);
    assert!(
        off.contains("database \"ops console\" does not exist"),
        "{off}"
    );
}
