//! Secrets in statements, values, passwords and settings: none of them is in the log at its most verbose, in the audit, in
//! a recording, or in an error of pgidle's own. Each is a word of its own, looked for in everything that a run has written.

use std::{
    cell::{Cell, RefCell},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use nix::sys::signal::Signal;

use crate::support::{
    Endpoint,
    frontend::{
        bind, copy_data, copy_fail, execute, flush, function_call, message, parse, query, startup,
        sync, unnamed,
    },
    observed::dsn,
    program::pgidle,
    proxy::Proxy,
    server::newest,
    wait_for,
    wire::Client,
};

/// What stands for a secret in the texts below.
const HERE: &str = "§";

/// How each secret begins; a number follows, and an end that makes it one word.
const SECRET: &str = "zqsecret";

/// Statements that the server carries out, in a transaction of their own each.
const CARRIED_OUT: &[&str] = &[
    "CREATE ROLE made_1 PASSWORD '§'",
    "CREATE USER made_1 WITH ENCRYPTED PASSWORD '§' VALID UNTIL 'infinity'",
    "ALTER ROLE made PASSWORD E'§\\n'",
    "ALTER ROLE made PASSWORD U&'§\\0061'",
    "ALTER USER made PASSWORD $$§$$",
    "ALTER USER made PASSWORD $tag$§$tag$",
    "ALTER USER made PASSWORD\n  '§'\n  'and §'",
    "ALTER ROLE made SET app.key = §",
    "ALTER ROLE made IN DATABASE postgres SET app.key TO '§'",
    "CREATE FOREIGN DATA WRAPPER made_1 OPTIONS (key '§')",
    "CREATE SERVER made_1 FOREIGN DATA WRAPPER made OPTIONS (password '§')",
    "ALTER SERVER made OPTIONS (ADD password '§')",
    "CREATE USER MAPPING FOR postgres SERVER made OPTIONS (user 'u', password '§')",
    "ALTER USER MAPPING FOR made SERVER made OPTIONS (SET password '§')",
    "CREATE FOREIGN TABLE made_1 (a int OPTIONS (key '§')) SERVER made OPTIONS (key '§')",
    "CREATE SUBSCRIPTION made_1 CONNECTION 'host=h password=§' PUBLICATION p WITH (connect = false)",
    "ALTER SUBSCRIPTION made CONNECTION 'host=h password=§'",
    "SELECT dblink('host=h password=§', 'SELECT 1')",
    "COPY t TO PROGRAM 'cat >/dev/null; : §'",
    "COPY (SELECT '§') TO PROGRAM 'cat >/dev/null; : §'",
    "DO $$ BEGIN PERFORM '§'; END $$",
    "DO LANGUAGE plpgsql 'BEGIN RAISE NOTICE ''§''; END'",
    "SET app.key = '§'",
    "SET app.key = §",
    "SET TIME ZONE §",
    "SET LOCAL search_path TO \"§\", §",
    "SELECT set_config('app.key', '§', true)",
    "CREATE FUNCTION made_1() RETURNS text LANGUAGE sql SET app.key = § AS 'SELECT ''§'''",
    "CREATE FUNCTION made_2() RETURNS text RETURN '§'",
    "CREATE FUNCTION made_3() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT '§'; END",
    "CREATE TRIGGER made AFTER INSERT ON t EXECUTE FUNCTION suppress_redundant_updates_trigger(§, '§')",
    "COMMENT ON TABLE t IS '§'",
    "NOTIFY channel, '§'",
    "SELECT pg_notify('channel', '§')",
    "SELECT 1 -- §",
    "SELECT /* § /* § */ § */ 1",
    "/*+ § */ SELECT 1 /*key=§*/",
    "SELECT 1; ALTER ROLE made PASSWORD '§'; SELECT 2",
    "SELECT '{\"password\": \"§\"}'::json ->> 'password' AS shown",
    "DECLARE made CURSOR FOR SELECT '§'",
    "PREPARE made AS SELECT '§'; EXECUTE made",
    "PREPARE made (text) AS SELECT $1; EXECUTE made('§')",
    "EXPLAIN SELECT '§'",
    "CREATE TABLE made_1 (a text DEFAULT '§' CHECK (a <> '§'))",
    "CREATE VIEW made_1 AS SELECT '§' AS shown",
    "CREATE POLICY made ON t USING (v = '§')",
    "INSERT INTO t VALUES (2, '§')",
    "UPDATE t SET v = U&'§' WHERE v = E'§' OR v = N'§' OR v = '§'::text",
    "SELECT 1 AS \"ninety-nine letters of a name, of which the server keeps sixty-three, and here they end: §\"",
];

/// Statements that the server refuses: at their text, their names or their values.
const REFUSED: &[&str] = &[
    "ALTER USER postgres PASSWORD §",
    "ALTER ROLE postgres PASSWORD \"§\"",
    "ALTER ROLE postgres PASSWORD = §",
    "ALTER ROLE no_such_role PASSWORD '§'",
    "ALTER SYSTEM SET app.key = §",
    "ALTER SYSTEM SET app.key = '§'",
    "CREATE SUBSCRIPTION made_1 CONNECTION 'host=h password=§' PUBLICATION p",
    "CREATE SUBSCRIPTION made_1 CONNECTION § PUBLICATION p",
    "IMPORT FOREIGN SCHEMA x FROM SERVER made INTO public OPTIONS (key '§')",
    "SELECT no_such_dblink('host=h password=§', 'SELECT 1')",
    "DO $$ BEGIN RAISE EXCEPTION '§'; END $$",
    "DO $$ § $$",
    "SECURITY LABEL ON TABLE t IS '§'",
    "SET ROLE '§'",
    "SET SESSION AUTHORIZATION '§'",
    "LOAD '§'",
    "INSERT INTO t VALUES (1, '§')",
    "INSERT INTO t VALUES ('§', 'x')",
    "SELECT '{\"password\": §}'::json",
    "SELECT interval '§'",
    "COPY t FROM PROGRAM 'exit 1; : §'",
    "COPY t FROM STDIN (NULL §, FORMAT §)",
    "ALTER TABLE t SET (autovacuum_enabled = §)",
    "CREATE TABLE made_1 WITH (fillfactor = §) AS SELECT 1",
    // No other locks this table: of a statement that waits, names are shown.
    "SELECT \"§\" FROM free",
    "SELECT v FROM free WHERE v = §",
    "§",
    "\\§",
    "SELEC '§'",
    "SELEC § FORM \"§\"",
    "INSERT INTO t VALUES (1, §",
    "INSERT INTO t VALUES (1, '§",
    "SELECT '§",
    "SELECT '§''",
    "SELECT \"§",
    "SELECT $$§",
    "SELECT $§$ x",
    "SELECT $x$ § $y$",
    "SELECT E'\\'§",
    "SELECT U&'\\00§'",
    "SELECT U&\"§\" FROM free",
    "SELECT B'§', X'§'",
    "SELECT /* §",
    "SELECT 1§, 0x§, $1§",
    "SELECT @§, :§, #§, ?§",
    "SELECT 'x' '§'",
    "SELECT 'x\\'§', 'y'",
    "SELECT 1; SELEC '§'; ALTER ROLE postgres PASSWORD §",
];

/// Everything that one run may have written secrets to, and the secrets.
struct Run<'a> {
    database: &'a Endpoint,
    proxy: &'a Proxy,
    secrets: Cell<usize>,
    /// What clients were told by pgidle itself.
    told: RefCell<String>,
    clients: RefCell<Vec<Client>>,
}

impl Run<'_> {
    /// A text with a secret of its own in each place for one.
    fn secret(&self, text: &str) -> String {
        let mut parts = text.split(HERE);
        let mut whole = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            self.secrets.set(self.secrets.get() + 1);
            whole += &format!("{SECRET}{}x{part}", self.secrets.get());
        }
        whole
    }

    fn all(&self) {
        self.by_query();
        self.by_batch();
        self.by_copy();
        self.by_time();
        self.by_login();
        self.by_waiting();
        self.is_told();
    }

    fn connect(&self) -> Client {
        Client::connect(self.proxy.endpoint())
    }

    /// Keeps a client as it is, until its transaction has been ended.
    fn leave(&self, client: Client) {
        self.clients.borrow_mut().push(client);
    }

    /// Leaves transactions open, idle or failed, after each of these statements.
    fn by_query(&self) {
        let mut unexpected = Vec::new();
        for (statements, fails) in [(CARRIED_OUT, false), (REFUSED, true)] {
            for text in statements {
                let mut client = self.connect();
                let statement = query(&self.secret(text));
                let answer = client.ask(&[[query("SELECT 1"), query("BEGIN")].concat()]);
                assert!(answer.ends_with("Z I"));
                assert!(client.until_ready().ends_with("Z T"));
                let answer = client.ask(&[statement]);
                if answer.ends_with("Z E") != fails {
                    unexpected.push(format!("{text}: {answer}"));
                }
                self.leave(client);
            }
        }
        assert_eq!(unexpected, Vec::<String>::new());
    }

    /// The same statements by Parse, in batches that stay without their Sync; and values in each form.
    fn by_batch(&self) {
        for text in CARRIED_OUT.iter().chain(REFUSED) {
            let mut client = self.connect();
            client.run("BEGIN");
            client.send(&[unnamed(&self.secret(text)), flush()].concat());
            self.leave(client);
        }
        for value in ["§", "é§\\x00§"] {
            let mut client = self.connect();
            client.run("BEGIN");
            let value = self.secret(value);
            client.ask(&[
                parse("", "SELECT $1::text"),
                bind("", "", &[&value]),
                execute("", 0),
                sync(),
            ]);
            // In binary format, and one that is no number.
            let binary = [
                b"\0\0\0\x01\0\x01\0\x01\0\0\0",
                &[u8::try_from(value.len()).unwrap()][..],
                value.as_bytes(),
                b"\0\0",
            ];
            client.ask(&[
                parse("", "SELECT $1::text"),
                message(b'B', &binary.concat()),
                sync(),
            ]);
            client.send(
                &[
                    parse("", "SELECT $1::int"),
                    bind("", "", &[&value]),
                    flush(),
                ]
                .concat(),
            );
            self.leave(client);
        }
        let function =
            Client::connect(self.database).value("SELECT 'md5(text)'::regprocedure::oid");
        let mut client = self.connect();
        client.run("BEGIN");
        client.ask(&[function_call(
            function.parse().unwrap(),
            &[&self.secret("§")],
        )]);
        self.leave(client);
    }

    fn by_copy(&self) {
        let mut client = self.connect();
        client.begin("INSERT INTO t VALUES (7, 'seven')");
        client.send(&query("COPY t FROM STDIN"));
        client.until(b'G');
        client.send(&copy_data(&self.secret("3\t§\n4\t§")));
        self.leave(client);
        for end in [
            copy_fail(&self.secret("§")),
            copy_data(&self.secret("§\t§\n")),
        ] {
            let mut client = self.connect();
            client.begin("INSERT INTO t VALUES (7, 'seven')");
            client.send(&query("COPY t FROM STDIN"));
            client.until(b'G');
            client.send(&[end, message(b'c', b"")].concat());
            client.until_ready();
            self.leave(client);
        }
    }

    /// Statements that still run when the age of their transaction is too great, and an answer that is not read.
    fn by_time(&self) {
        for text in [
            "SELECT pg_sleep(600), '§'",
            "DO $$ BEGIN PERFORM pg_sleep(600), '§'; END $$",
        ] {
            let mut client = self.connect();
            client.send(&[query("BEGIN"), query(&self.secret(text))].concat());
            client.until_ready();
            self.leave(client);
        }
        let mut client = self.connect();
        client.run("BEGIN");
        let text = "SELECT repeat('§', 1000) FROM generate_series(1, 30000)";
        client.send(&query(&self.secret(text)));
        self.leave(client);
    }

    /// Passwords, in each way to give one, that are refused; and settings in the first packet.
    fn by_login(&self) {
        let door = self.proxy.endpoint();
        for user in ["password_user", "md5_user", "scram_user"] {
            let mut client = Client::silent(door);
            client.say_who(door, &[("user", user)]);
            client.until(b'R');
            client.send(&message(b'p', self.secret("§\0").as_bytes()));
            client.until_closed();
        }
        let options = self.secret("-c app.key=§");
        let value = self.secret("§");
        let mut client = Client::connect_with(door, &[("options", &options), ("app.key", &value)]);
        client.run("BEGIN");
        self.leave(client);
        for parameters in [
            ("options", "-c no_such=§"),
            ("no_such", "§"),
            ("_pq_.x", "§"),
        ] {
            let value = self.secret(parameters.1);
            let mut client = Client::silent(door);
            client.say_who(door, &[(parameters.0, &value)]);
            client.send(&message(b'X', b""));
            client.until_closed();
        }
        // No first packet at all, and one with a message after it that is none.
        let mut client = Client::silent(door);
        client.send(self.secret("§ and more than four bytes").as_bytes());
        client.until_closed();
        let mut client = Client::silent(door);
        let who = startup(&[("user", "postgres"), ("database", &door.database)]);
        client.send(&[who, self.secret("Q\0\0\0\0§").into_bytes()].concat());
        client.until_closed();
    }

    /// Sessions that wait for another, as the observer sees them.
    fn by_waiting(&self) {
        let mut holder =
            Client::connect_with(self.proxy.endpoint(), &[("application_name", "holder")]);
        holder.begin("LOCK TABLE held; ALTER ROLE waited_for CONNECTION LIMIT 7");
        let waiting: Vec<_> = [
            "INSERT INTO held VALUES (1, '§') -- §",
            "ALTER ROLE waited_for PASSWORD '§'",
            "DO $$ BEGIN INSERT INTO held VALUES (1, '§'); END $$",
            "SET app.key = §; SELECT v FROM held WHERE v = '§'",
        ]
        .iter()
        .map(|text| {
            let mut client = Client::connect(self.database);
            client.send(&query(&self.secret(text)));
            client
        })
        .collect();
        let seen = || {
            let mut incidents = self.proxy.incidents();
            incidents.retain(|line| line["application_name"] == "holder");
            incidents
        };
        wait_for("those who wait", || {
            let before = seen().len();
            holder.run("SELECT 1");
            let incident = wait_for("an incident", || seen().into_iter().nth(before));
            let blocked = incident["blocked"].as_array();
            blocked
                .is_some_and(|blocked| blocked.len() == waiting.len())
                .then_some(())
        });
        holder.run("ROLLBACK");
    }

    /// Waits until every transaction that was left was ended, and takes down what its client is told about it.
    fn is_told(&self) {
        for mut client in self.clients.take() {
            let pid = client.server_pid();
            wait_for("the end of a transaction", || {
                let ended = |line: &serde_json::Value| {
                    line["server_pid"] == pid
                        && ["rolled_back", "terminated"]
                            .contains(&line["outcome"].as_str().unwrap())
                };
                self.proxy.incidents().iter().any(ended).then_some(())
            });
            client.send(&[sync(), query("COMMIT"), message(b'X', b"")].concat());
            while let Some(message) = client.message() {
                if "EN".contains(char::from(message.tag)) && message.field('M').contains("pgidle") {
                    *self.told.borrow_mut() += &String::from_utf8_lossy(&message.body);
                }
            }
        }
    }
}

/// All files below a folder, as text.
fn read_all(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).unwrap();
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files.extend(read_all(&path));
        } else {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            files.push((path.display().to_string(), text));
        }
    }
    files
}

fn has_none(what: &str, text: &str) {
    let shown = text
        .lines()
        .filter(|line| line.to_lowercase().contains(SECRET));
    let shown: Vec<_> = shown.take(20).collect();
    assert!(
        shown.is_empty(),
        "{what} shows a secret:\n{}",
        shown.join("\n")
    );
}

/// What the statements need: they are all rolled back.
fn prepare(database: &Endpoint) {
    let mut dba = Client::connect(database);
    for statement in [
        "CREATE TABLE held (id int, v text)",
        "CREATE ROLE made",
        "CREATE TABLE free (v text)",
        "CREATE ROLE waited_for",
        "CREATE FOREIGN DATA WRAPPER made",
        "CREATE SERVER made FOREIGN DATA WRAPPER made",
        "CREATE USER MAPPING FOR made SERVER made OPTIONS (password 'x')",
        "CREATE SUBSCRIPTION made CONNECTION 'host=h' PUBLICATION p WITH (connect = false)",
        "CREATE FUNCTION dblink(text, text) RETURNS int RETURN 1",
    ] {
        dba.run(statement);
    }
}

const LIMITS: &str = "\
[[rule]]
name = 'holder'
match = { application_name = 'holder' }
idle = { log = '200ms' }
[[rule]]
name = 'all'
idle = { log = '100ms', notice = '200ms', release = '300ms', rollback = '400ms' }
failed = { rollback = '400ms' }
stalled = { log = '100ms', rollback = '400ms' }
age = { rollback = '5s' }
";

#[test]
fn no_secret_is_written_anywhere() {
    let server = newest();
    let database = server.database();
    prepare(&database);
    let folder = tempfile::tempdir().unwrap();
    let (file, records) = (
        folder.path().join("pgidle.toml"),
        folder.path().join("records"),
    );
    let observer = |more: &str| {
        let dsn = dsn(&database, "postgres");
        format!("[observer]\ninterval = '100ms'\ndsn = \"{dsn} {more}\"\n{LIMITS}")
    };
    fs::write(&file, observer(&format!("password={SECRET}"))).unwrap();
    let mut proxy = Proxy::in_folder(
        &database,
        tempfile::tempdir().unwrap(),
        &["env", "PGIDLE_LOG=trace"],
        &[
            "--config",
            file.to_str().unwrap(),
            "--record",
            records.to_str().unwrap(),
        ],
    );
    let run = Run {
        database: &database,
        proxy: &proxy,
        secrets: Cell::new(0),
        told: RefCell::default(),
        clients: RefCell::default(),
    };
    run.all();
    for wrong in ["password", "pasword", "port", "sslmode"] {
        fs::write(&file, observer(&format!("{wrong}={SECRET} {SECRET}"))).unwrap();
        assert!(!proxy.reload(), "{wrong}");
    }
    let (told, secrets) = (run.told.take(), run.secrets.get());
    Client::connect(&database)
        .run("ALTER SUBSCRIPTION made SET (slot_name = NONE); DROP SUBSCRIPTION made");
    proxy.signal(Signal::SIGTERM);
    proxy.exit_status();

    let audit = fs::read_to_string(proxy.audit_file()).unwrap();
    let written = read_all(&records);
    // It has been at work on all of them.
    assert!(secrets > 250, "{secrets} secrets");
    assert!(audit.matches("\"outcome\":\"rolled_back\"").count() > 180);
    assert!(audit.contains("ALTER USER MAPPING FOR made SERVER made OPTIONS (SET password $1)"));
    assert!(written.len() > 180 && written.iter().any(|(_, text)| text.contains("PASSWORD $1")));
    assert!(told.contains("pgidle rolled back the transaction"));
    assert!(proxy.log().contains("\"TRACE\""));
    has_none("an error of pgidle's", &told);
    has_none("the log", &proxy.log());
    has_none("the audit", &audit);
    for (path, text) in written {
        has_none(&path, &text);
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&proxy.audit_file()), mode(&records)), (0o640, 0o700));
}

#[test]
fn no_secret_is_repeated_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgidle.toml");
    let path = file.to_str().unwrap();
    let refused = |arguments: &[&str]| {
        let said = pgidle(arguments);
        let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert_eq!(said.status.code(), Some(2), "{arguments:?}: {text}");
        has_none(&format!("{arguments:?}"), &text);
    };
    // Wrong in a file alone, which needs quotes, and knows other escapes.
    let right = format!("host=h password={SECRET}");
    for dsn in [
        "\"password=§ host=h port=x\"",
        "\"password=my § port=1\"",
        "\"password=my §=x\"",
        "\"postgresql://u:§@h:x/d\"",
        "\"postgresql://u:my?§=x@h/d\"",
        "\"host=h password='§",
        "\"host=h password=§",
        "host=h password=§",
        "[\"§\"]",
        "\"§",
        "\"host=h password=§\\q\"",
        "'host=h' §",
        "§",
    ] {
        let dsn = dsn.replace(HERE, SECRET);
        let inner = dsn.trim_matches(['"', '[', ']']);
        fs::write(&file, format!("[observer]\ndsn = {dsn}\n")).unwrap();
        refused(&["check", "--config", path]);
        refused(&["serve", "--config", path]);
        if !inner.starts_with(&right) {
            refused(&["check", "--config", "/dev/null", "--observer-dsn", inner]);
            refused(&["serve", "--observer-dsn", inner]);
        }
        fs::write(&file, format!("[upstream]\naddress = {dsn}\n")).unwrap();
        if inner.contains(['@', '=']) {
            refused(&["check", "--config", path]);
            refused(&["serve", "--upstream", inner]);
            refused(&["serve", "--listen", inner]);
        }
    }
}
