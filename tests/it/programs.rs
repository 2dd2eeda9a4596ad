//! PostgreSQL's own programs through every door: TCP, a Unix socket, and TLS on both legs, with a limit that never fires.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{
    Endpoint,
    dba::Dba,
    frontend::{message, startup},
    program::{path_of, python, run, start_psql},
    proxy::Proxy,
    server::{Server, of_programs, on_every_server},
    wait_for,
    wire::Client,
};

/// A way to a database through a proxy, and what libpq must be told to take it.
struct Door {
    name: &'static str,
    proxy: Proxy,
    sslmode: &'static str,
}

impl Door {
    fn endpoint(&self) -> &Endpoint {
        self.proxy.endpoint()
    }

    fn set(&self) -> [(&str, &str); 1] {
        [("PGSSLMODE", self.sslmode)]
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        run(program, self.endpoint(), &self.set(), arguments)
    }
}

fn doors(server: &Server, database: &Endpoint) -> [Door; 3] {
    let limit = ["--idle-limit", "1min", "--action", "rollback"];
    let file = tempfile::NamedTempFile::new().unwrap();
    let (cert, key) = (server.pem("pgidle.crt"), server.pem("pgidle.key"));
    let settings = format!(
        "[upstream]\nsslmode = 'require'\n[tls]\nsslmode = 'require'\ncert = '{cert}'\nkey = '{key}'\n"
    );
    fs::write(file.path(), settings).unwrap();
    let path = file.path().to_str().unwrap();
    let by_socket = server.by_socket(database);
    [
        Door {
            name: "TCP",
            proxy: Proxy::start(database, &limit),
            sslmode: "disable",
        },
        Door {
            name: "socket",
            proxy: Proxy::on_socket(&by_socket, &limit),
            sslmode: "disable",
        },
        Door {
            name: "TLS",
            proxy: Proxy::start(database, &[&limit[..], &["--config", path]].concat()),
            sslmode: "require",
        },
    ]
}

/// Does something through each door of each server.
fn through_every_door(test: impl Fn(&Server, &Endpoint, &Door) + Sync) {
    on_every_server(|server| {
        let database = server.database();
        for door in doors(server, &database) {
            test(server, &database, &door);
        }
    });
}

#[test]
fn copy_large_objects_and_notifications_in_psql() {
    through_every_door(|_, _, door| {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let rows: String = (10..20_010)
            .map(|n| format!("{n}\t{}\n", "v".repeat(50)))
            .collect();
        fs::write(file("rows"), &rows).unwrap();
        let object: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        fs::write(file("object"), &object).unwrap();
        let script = [
            "LISTEN news",
            &format!("\\copy t FROM '{}'", file("rows")),
            &format!(
                "\\copy (SELECT * FROM t WHERE id >= 10 ORDER BY id) TO '{}'",
                file("copy")
            ),
            "DELETE FROM t WHERE id >= 10",
            &format!("\\lo_import '{}'", file("object")),
            &format!("\\lo_export :LASTOID '{}'", file("export")),
            "\\lo_unlink :LASTOID",
            "NOTIFY news, 'heard'",
        ];
        fs::write(
            file("script"),
            script
                .map(|line| {
                    if line.starts_with('\\') {
                        format!("{line}\n")
                    } else {
                        format!("{line};\n")
                    }
                })
                .concat(),
        )
        .unwrap();
        let said = door.run(
            "psql",
            &["-XAtq", "-v", "ON_ERROR_STOP=1", "-f", &file("script")],
        );
        assert!(
            said.contains("\"news\" with payload \"heard\""),
            "{}: {said}",
            door.name
        );
        assert_eq!(
            fs::read_to_string(file("copy")).unwrap(),
            rows,
            "{}",
            door.name
        );
        assert_eq!(fs::read(file("export")).unwrap(), object, "{}", door.name);
    });
}

#[test]
fn ctrl_c_in_psql() {
    through_every_door(|_, database, door| {
        let psql = start_psql(door.endpoint(), &door.set(), "SELECT pg_sleep(60)");
        let mut dba = Dba::new(database);
        let running = "SELECT count(*) FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event = 'PgSleep'";
        wait_for("psql's statement", || {
            (dba.value(running) == "1").then_some(())
        });
        kill(
            Pid::from_raw(i32::try_from(psql.id()).unwrap()),
            Signal::SIGINT,
        )
        .unwrap();
        let output = psql.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            errors.contains("canceling statement due to user request"),
            "{}: {errors}",
            door.name
        );
    });
}

/// libpq 18 asks for protocol 3.2: PostgreSQL 18 gives cancel keys of 32 bytes, older ones negotiate 3.0.
#[test]
fn protocol_3_2_and_its_long_cancel_keys() {
    let script = "
import meanwhile, psycopg
with psycopg.connect('max_protocol_version=latest') as c:
    server = c.info.server_version // 10000
    print(c.pgconn.full_protocol_version == (30002 if server >= 18 else 30000))
    meanwhile.when(meanwhile.SLEEPS, c.cancel_safe)
    try:
        c.execute('SELECT pg_sleep(30)')
    except psycopg.Error as e:
        print(e.sqlstate)
";
    through_every_door(|_, _, door| {
        let endpoint = door.endpoint();
        let script = format!(
            "import os; os.environ['PGSSLMODE'] = '{}'{script}",
            door.sslmode
        );
        assert_eq!(python(endpoint, &script), "True\n57014", "{}", door.name);
    });
}

#[test]
fn logical_replication_with_pg_recvlogical() {
    through_every_door(|_, database, door| {
        let mut dba = Dba::new(database);
        let slot = format!("{}_{}", database.database, door.name.to_lowercase());
        let arguments = ["--slot", &slot, "--dbname", &database.database];
        door.run(
            "pg_recvlogical",
            &[&arguments[..], &["--create-slot"]].concat(),
        );
        dba.value("INSERT INTO t VALUES (7, 'streamed') RETURNING id");
        let end = dba.value("SELECT pg_current_wal_lsn()");
        let start = ["--start", "--no-loop", "-f", "-", "--endpos", &end];
        let seen = door.run("pg_recvlogical", &[&arguments[..], &start].concat());
        assert!(
            seen.contains("id[integer]:7 v[text]:'streamed'"),
            "{}: {seen}",
            door.name
        );
        door.run(
            "pg_recvlogical",
            &[&arguments[..], &["--drop-slot"]].concat(),
        );
        dba.value("DELETE FROM t WHERE id = 7 RETURNING id");
    });
}

#[test]
fn pg_dump_and_pg_restore() {
    let server = of_programs();
    let database = server.database();
    let contents = "SELECT count(*), md5(string_agg(big::text, ',' ORDER BY id)) FROM big";
    let fill = "CREATE TABLE big AS SELECT id, repeat(md5(id::text), 30) FROM generate_series(1, 20000) id; \
                ALTER TABLE big ADD PRIMARY KEY (id)";
    let mut direct = Client::connect(&database);
    direct.run(fill);
    for door in doors(server, &database) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dump").to_str().unwrap().to_owned();
        door.run("pg_dump", &["-Fc", "-f", &file]);
        let copy = format!("{}_{}", database.database, door.name.to_lowercase());
        door.run("psql", &["-XAtqc", &format!("CREATE DATABASE {copy}")]);
        door.run("pg_restore", &["--exit-on-error", "-d", &copy, &file]);
        let [original, restored] = [&database.database, &copy]
            .map(|name| door.run("psql", &["-XAtqc", contents, "-d", name]));
        assert!(original.starts_with("20000|"), "{original}");
        assert_eq!(original, restored, "{}", door.name);
    }
}

#[test]
fn pg_basebackup_and_pg_receivewal() {
    let server = Server::alone();
    let database = server.database();
    let mut dba = Dba::new(&database);
    for door in doors(&server, &database) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let backup = path("backup");
        door.run(
            "pg_basebackup",
            &["-D", &backup, "-X", "stream", "-c", "fast", "--no-sync"],
        );
        let said = door.run(&path_of("pg_verifybackup"), &["--no-parse-wal", &backup]);
        assert!(
            said.contains("successfully verified"),
            "{}: {said}",
            door.name
        );

        fs::create_dir(path("wal")).unwrap();
        dba.value("SELECT pg_switch_wal()");
        let end = dba.value("SELECT pg_current_wal_lsn()");
        dba.value("INSERT INTO t VALUES (8, 'more') RETURNING id");
        dba.value("DELETE FROM t WHERE id = 8 RETURNING id");
        door.run(
            "pg_receivewal",
            &[
                "-D",
                &path("wal"),
                "--no-loop",
                "--no-sync",
                "--endpos",
                &end,
            ],
        );
        let received = fs::read_dir(path("wal")).unwrap().count();
        assert!(received > 0, "{}", door.name);
    }
}

/// A server of the future.
#[test]
fn a_message_that_nobody_knows_passes_from_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let unknown = message(b'~', &[b'x'; 100_000]);
    let greeting = [message(b'R', &[0; 4]), message(b'Z', b"I"), unknown].concat();
    let server = thread::spawn(move || {
        let mut startup = [0; 8];
        let mut streams = listener.incoming().map(Result::unwrap);
        // pgidle looks first whether the server is there.
        let mut says_something = |stream: &mut TcpStream| stream.read_exact(&mut startup).is_ok();
        let mut stream = streams
            .find_map(|mut stream| says_something(&mut stream).then_some(stream))
            .unwrap();
        stream.write_all(&greeting).unwrap();
    });
    let proxy = Proxy::start(
        &Endpoint {
            host: "127.0.0.1".to_owned(),
            port,
            database: "any".to_owned(),
        },
        &[],
    );
    let mut client = Client::silent(proxy.endpoint());
    client.send(&startup(&[("user", "any")]));
    assert_eq!(client.until_ready(), "R / Z I");
    let unknown = client.message().unwrap();
    assert_eq!((unknown.tag, unknown.body.len()), (b'~', 100_000));
    assert_eq!(client.until_closed(), "closed");
    server.join().unwrap();
    wait_for("the count in the log", || {
        proxy.log().contains("\"unknown\":1").then_some(())
    });
}
