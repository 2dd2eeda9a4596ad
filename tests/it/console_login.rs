//! What a client of the console may say in place of a login: each costs its own connection, with a word about why.

use nix::sys::signal::Signal;

use crate::support::{
    Endpoint,
    program::{psql, python},
    proxy::Proxy,
    server::newest,
    wire::Client,
};

/// Each way to log in, and what is heard: the types of the messages, of an AuthenticationRequest its number, of an error
/// its severity and SQLSTATE.
const LOGINS: &str = r##"
import base64, hashlib, hmac, os, socket, struct

def whole(tag, body):
    return tag + struct.pack("!i", len(body) + 4) + body

def sha(key, text):
    return hmac.new(key, text, hashlib.sha256).digest()

def startup(user):
    body = struct.pack("!i", 196608) + b"user\0" + user + b"\0database\0pgidle\0\0"
    return struct.pack("!i", len(body) + 4) + body

class Login:
    def __init__(self, user=b"ops"):
        self.socket = socket.create_connection((os.environ["PGHOST"], os.environ["PGPORT"]), 60)
        self.heard, self.data = [], b""
        self.send(startup(user))
        self.until("R10")

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            pass

    def message(self):
        header = self.some(5)
        if len(header) < 5:
            return self.heard.append("closed")
        tag, length = struct.unpack("!ci", header)
        self.data = self.some(length - 4)
        said = tag.decode()
        if tag == b"R":
            said += str(struct.unpack("!i", self.data[:4])[0])
        if tag == b"E":
            fields = {field[:1]: field[1:] for field in self.data.split(b"\0") if field}
            said += b" ".join([b"", fields[b"V"], fields[b"C"]]).decode()
            self.text = fields[b"M"].decode()
        if said[0] not in "SKvN":
            self.heard.append(said)

    def some(self, length):
        data = b""
        while len(data) < length:
            try:
                more = self.socket.recv(length - len(data))
            except ConnectionResetError:
                break
            if not more:
                break
            data += more
        return data

    def until(self, last):
        while not self.heard or self.heard[-1] not in (last, "closed"):
            self.message()

    def first(self, data, mechanism=b"SCRAM-SHA-256", length=None):
        length = len(data) if length is None else length
        self.send(whole(b"p", mechanism + b"\0" + struct.pack("!I", length & 0xffffffff) + data))

    def challenged(self, bare=b"n=,r=abc", gs2=b"n,,"):
        self.bare = bare
        self.first(gs2 + bare)
        self.until("R11")
        self.challenge = self.data[4:]
        parts = dict(part.split(b"=", 1) for part in self.challenge.split(b","))
        self.nonce, self.salt, self.count = parts[b"r"], base64.b64decode(parts[b"s"]), int(parts[b"i"])

    def proof(self, without, password=b"secret"):
        key = sha(hashlib.pbkdf2_hmac("sha256", password, self.salt, self.count), b"Client Key")
        stored = hashlib.sha256(key).digest()
        signature = sha(stored, b",".join([self.bare, self.challenge, without]))
        return bytes(a ^ b for a, b in zip(key, signature))

    def last(self, without=None, proof=None, password=b"secret", end=b""):
        without = b"c=biws,r=" + self.nonce if without is None else without
        proof = self.proof(without, password) if proof is None else proof
        self.send(whole(b"p", without + b",p=" + base64.b64encode(proof) + end))

    def told(self, name):
        self.until("Z")
        print(name, *self.heard[1:], getattr(self, "text", ""), sep=" | ")
        self.socket.close()

# The answer to the request for a login.
for name, answer in {
    "a password": whole(b"p", b"secret\0"),
    "nothing": whole(b"p", b""),
    "a mechanism alone": whole(b"p", b"SCRAM-SHA-256"),
    "a mechanism, no length": whole(b"p", b"SCRAM-SHA-256\0\0\0"),
    "no length of its own": b"p\0\0\0\3",
    "2 GiB": b"p\x7f\xff\xff\xffSCRAM",
    "100 kB": b"p" + struct.pack("!i", 100018) + b"SCRAM-SHA-256\0" + struct.pack("!i", 100000) + b"n,,n=,r=",
    "half a message": b"p\0\0\0\x20SCRAM",
    "a query": whole(b"Q", b"SHUTDOWN\0"),
    "a batch": whole(b"P", b"\0SHUTDOWN\0\0\0") + whole(b"B", bytes(8)) + whole(b"E", bytes(5)) + whole(b"S", b""),
    "another first packet": startup(b"grafana"),
    "a request for TLS": struct.pack("!ii", 8, 80877103),
    "a CancelRequest": struct.pack("!iiii", 16, 80877102, 1, 1),
}.items():
    login = Login()
    login.send(answer)
    login.told(name)

for name, (data, *more) in {
    "no data": (b"", b"SCRAM-SHA-256", -1),
    "data of no bytes": (b"",),
    "a length of 2 GiB": (b"n,,n=,r=abc", b"SCRAM-SHA-256", 0x7fffffff),
    "a length too short": (b"n,,n=,r=abc", b"SCRAM-SHA-256", 3),
    "no mechanism": (b"n,,n=,r=abc", b""),
    "another mechanism": (b"n,,n=,r=abc", b"PLAIN"),
    "the mechanism with binding": (b"p=tls-server-end-point,,n=,r=abc", b"SCRAM-SHA-256-PLUS"),
    "binding without it": (b"p=tls-server-end-point,,n=,r=abc",),
    "an unknown flag": (b"x,,n=,r=abc",),
    "another's identity": (b"n,a=grafana,n=,r=abc",),
    "an extension that must be known": (b"n,,m=x,n=,r=abc",),
    "no nonce": (b"n,,n=",),
    "no name": (b"n,,r=abc",),
    "the header alone": (b"n,,",),
    "a flag alone": (b"n",),
    "what is not UTF-8": (b"n,,n=\xff\xfe,r=abc",),
}.items():
    login = Login()
    login.first(data, *more)
    login.told("first: " + name)

def last(name, *arguments, **named):
    login = Login()
    login.challenged()
    parts = [part.replace(b"#", login.nonce) if isinstance(part, bytes) else part for part in arguments]
    login.last(*parts, **named)
    login.told("last: " + name)

last("another password", password=b"Secret")
last("no password", password=b"")
last("the client's nonce alone", b"c=biws,r=abc")
last("another's nonce", b"c=biws,r=#x")
last("no nonce", b"c=biws")
last("no binding", b"r=#")
last("another flag than at first", b"c=eSws,r=#")
last("the header of binding", b"c=cD10bHMtc2VydmVyLWVuZC1wb2ludCws,r=#")
last("the fields in another order", b"r=#,c=biws")
last("a proof of nothing", None, b"")
last("a proof too short", None, bytes(31))
last("a proof too long", None, bytes(33))
last("a proof of zeros", None, bytes(32))
last("a field after the proof", end=b",x=y")
last("another proof after the proof", end=b",p=" + base64.b64encode(bytes(32)))
for name, answer in {
    "no proof": b"c=biws,r=#",
    "an empty proof": b"c=biws,r=#,p=",
    "what is not base64": b"c=biws,r=#,p=****",
    "what is not UTF-8": b"c=biws,r=#,p=\xff\xfe",
    "nothing": b"",
    "a password": b"secret\0",
    "the first message again": b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc",
}.items():
    login = Login()
    login.challenged()
    login.send(whole(b"p", answer.replace(b"#", login.nonce)))
    login.told("last: " + name)

# A proof that another connection has given.
other = Login()
other.challenged()
without = b"c=biws,r=" + other.nonce
heard = other.proof(without)
login = Login()
login.challenged()
login.last(without, heard)
login.told("last: another's proof")
other.last()
other.told("its own")

# Whom there is not, and who may not what.
login = Login(b"nobody")
login.challenged()
login.last()
login.told("a user that there is not")

login = Login()
login.challenged()
login.last(password=b"wrong")
login.last()
login.told("a second try")

# What is right.
login = Login()
login.challenged()
login.last()
login.told("the password")
login = Login()
login.challenged(gs2=b"y,,")
login.last(b"c=eSws,r=" + login.nonce)
login.told("a client that knows binding")
login = Login()
login.challenged(b"n=whoever,r=" + b"~" * 2000)
login.last()
login.told("a long nonce, and a name that counts for nothing")
login = Login()
login.challenged()
login.last(b"c=biws,r=" + login.nonce + b",x=y")
login.told("a field that may be unknown")
login = Login()
login.challenged()
login.last()
login.until("Z")
login.heard.pop()
login.send(whole(b"p", b"secret\0") + whole(b"Q", b"SHOW VERSION\0"))
login.told("a password after it")
"##;

/// What is heard, but for the request for SCRAM, and from whom.
const HEARD: &[(&str, &[&str])] = &[
    (
        "E FATAL 08P01 | closed | malformed SCRAM message",
        &[
            "a password",
            "nothing",
            "a mechanism alone",
            "a mechanism, no length",
            "first: no data",
            "first: data of no bytes",
            "first: a length of 2 GiB",
            "first: a length too short",
            "first: binding without it",
            "first: an unknown flag",
            "first: another's identity",
            "first: an extension that must be known",
            "first: no nonce",
            "first: no name",
            "first: the header alone",
            "first: a flag alone",
            "first: what is not UTF-8",
        ],
    ),
    (
        "E FATAL 08P01 | closed | invalid message length",
        &["no length of its own"],
    ),
    (
        "E FATAL 08P01 | closed | a message of more than 64 KiB",
        &["2 GiB", "100 kB"],
    ),
    (
        "E FATAL 57014 | closed | canceling authentication due to timeout",
        &["half a message"],
    ),
    (
        "E FATAL 08P01 | closed | expected a password message",
        &["a query", "a batch"],
    ),
    (
        "E FATAL 08P01 | closed | invalid frontend message type",
        &[
            "another first packet",
            "a request for TLS",
            "a CancelRequest",
        ],
    ),
    (
        "E FATAL 28000 | closed | expected the mechanism SCRAM-SHA-256",
        &[
            "first: no mechanism",
            "first: another mechanism",
            "first: the mechanism with binding",
        ],
    ),
    (
        "R11 | E FATAL 28P01 | closed | password authentication failed for user \"ops\"",
        &[
            "last: another proof after the proof",
            "last: another password",
            "last: no password",
            "last: a proof of zeros",
            "a second try",
        ],
    ),
    (
        "R11 | E FATAL 08P01 | closed | malformed SCRAM message",
        &[
            "last: the client's nonce alone",
            "last: another's nonce",
            "last: no nonce",
            "last: no binding",
            "last: another flag than at first",
            "last: the header of binding",
            "last: the fields in another order",
            "last: a proof of nothing",
            "last: a proof too short",
            "last: a proof too long",
            "last: a field after the proof",
            "last: no proof",
            "last: an empty proof",
            "last: what is not base64",
            "last: what is not UTF-8",
            "last: nothing",
            "last: a password",
            "last: the first message again",
            "last: another's proof",
        ],
    ),
    (
        "R11 | R12 | R0 | Z |",
        &[
            "its own",
            "the password",
            "a client that knows binding",
            "a long nonce, and a name that counts for nothing",
            "a field that may be unknown",
        ],
    ),
    (
        "R11 | E FATAL 28P01 | closed | password authentication failed for user \"nobody\"",
        &["a user that there is not"],
    ),
    ("R11 | R12 | R0 | T | D | C | Z |", &["a password after it"]),
];

#[test]
fn a_login_to_the_console_is_right_or_costs_its_connection() {
    let database = newest().database();
    let verifier = "BEGIN; CREATE ROLE console_login PASSWORD 'secret'; \
                    SELECT rolpassword FROM pg_authid WHERE rolname = 'console_login'; ROLLBACK";
    let verifier = psql(&database, &[verifier]);
    let users = format!(
        "startup_timeout = '3s'\n[[console.user]]\nname = 'ops'\nrole = 'admin'\nsecret = '{verifier}'\n\
         [[rule]]\nname = 'all'\nidle = {{ log = '1h' }}"
    );
    let mut proxy = Proxy::with_rules(&database, &users);
    let mut other = Client::connect(proxy.endpoint());
    other.begin("INSERT INTO t VALUES (2, 'two')");
    let before = proxy.memory_kib();
    let heard = python(proxy.endpoint(), LOGINS);
    let mut heard: Vec<_> = heard
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    let from = |&(heard, names): &(&str, &[&str])| -> Vec<String> {
        names
            .iter()
            .map(|name| format!("{name} | {heard}"))
            .collect()
    };
    let mut expected: Vec<_> = HEARD.iter().flat_map(from).collect();
    heard.sort();
    expected.sort();
    assert_eq!(heard, expected);
    let log = proxy.log();
    assert!(!log.contains("panicked"), "{log}");
    assert!(!log.contains("secret"), "{log}");
    let grown = proxy.memory_kib().saturating_sub(before);
    assert!(grown < 20_000, "grown by {grown} KiB");
    assert_eq!(other.query("COMMIT"), "C COMMIT / Z I");
    proxy.signal(Signal::SIGTERM);
    assert!(proxy.exit_status().success());
}

/// Whoever may look may not take memory without end: an answer is as long as a question is allowed to make it.
#[test]
fn what_is_asked_of_the_console_is_bounded() {
    let database = newest().database();
    let proxy = Proxy::start(&database, &[]);
    let console = Endpoint {
        database: "pgidle".to_owned(),
        ..proxy.endpoint().clone()
    };
    let before = proxy.memory_kib();
    let many = |text: &str, times: usize| psql(&console, &[&format!("{text};").repeat(times)]);
    assert!(many("SHOW VERSION", 16).starts_with("pgidle "));
    let refused = many("SHOW CONFIG", 17);
    assert!(
        refused.contains("54000: more than 16 statements at once"),
        "{refused}"
    );
    let columns = format!("SHOW CONFIG key{}", ", value".repeat(5000));
    let refused = psql(&console, &[&columns]);
    assert!(
        refused.contains("42703: 5001 columns are asked for, and there are 4"),
        "{refused}"
    );
    let refused = python(&console, PREPARE);
    assert_eq!(
        refused,
        "257 FATAL 08P01 too many prepared statements or portals\n\
         17 FATAL 08P01 too many prepared statements or portals\n\
         1 FATAL 08P01 a message of more than 64 KiB"
    );
    let grown = proxy.memory_kib().saturating_sub(before);
    assert!(grown < 50_000, "grown by {grown} KiB");
    assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
    assert!(psql(&console, &["SHOW VERSION"]).starts_with("pgidle "));
}

/// Prepares statements, binds portals, and sends a long text, until it is refused; and what is said then.
const PREPARE: &str = r#"
import os, socket, struct
def whole(tag, body):
    return tag + struct.pack("!i", len(body) + 4) + body
def refused(prepare):
    server = socket.create_connection((os.environ["PGHOST"], os.environ["PGPORT"]), 60)
    body = struct.pack("!i", 196608) + b"user\0a\0database\0pgidle\0\0"
    server.sendall(struct.pack("!i", len(body) + 4) + body + whole(b"P", b"s\0SHOW HELP\0\0\0") + whole(b"S", b""))
    heard = server.makefile("rb")
    count, ready = 0, 0
    while True:
        tag, length = struct.unpack("!ci", heard.read(5))
        body = heard.read(length - 4)
        if tag == b"E":
            fields = {field[:1]: field[1:].decode() for field in body.split(b"\0") if field}
            return print(count, fields[b"V"], fields[b"C"], fields[b"M"])
        ready += tag == b"Z"
        if tag == b"Z" and ready > 1:
            count += 1
            server.sendall(prepare(count) + whole(b"S", b""))
name = lambda count: str(count).encode()
refused(lambda count: whole(b"P", (b"s" if count == 1 else name(count)) + b"\0SHOW HELP\0\0\0"))
refused(lambda count: whole(b"B", name(count) + b"\0s\0" + bytes(6)))
refused(lambda count: b"Q" + struct.pack("!i", 65537) + b"SHOW HELP")
"#;
