//! A raw protocol client: sends bytes, and reads the answers as a transcript such as `C ROLLBACK / Z I`.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    time::Duration,
};

use super::{Endpoint, PATIENCE, frontend};

/// A connection's socket, of either kind.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(endpoint: &Endpoint) -> io::Result<Self> {
        let Some(path) = endpoint.socket() else {
            let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port))?;
            stream.set_nodelay(true)?;
            return Ok(Self::Tcp(stream));
        };
        UnixStream::connect(path).map(Self::Unix)
    }

    fn another(&self) -> Self {
        match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone().unwrap()),
            Self::Unix(stream) => Self::Unix(stream.try_clone().unwrap()),
        }
    }

    fn set_read_timeout(&self, timeout: Duration) {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(timeout)).unwrap(),
            Self::Unix(stream) => stream.set_read_timeout(Some(timeout)).unwrap(),
        }
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.read_exact(buffer),
            Self::Unix(stream) => stream.read_exact(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }
}

/// A message from the server.
pub(crate) struct Message {
    pub(crate) tag: u8,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// A field of an ErrorResponse or NoticeResponse; empty where there is none.
    pub(crate) fn field(&self, code: char) -> String {
        self.body
            .split(|&byte| byte == 0)
            .map(String::from_utf8_lossy)
            .find_map(|field| field.strip_prefix(code).map(str::to_owned))
            .unwrap_or_default()
    }

    /// Zero-terminated strings from a place in the body.
    fn strings(&self, from: usize) -> Vec<String> {
        let body = &self.body[from..];
        let body = body.strip_suffix(b"\0").unwrap_or(body);
        body.split(|&byte| byte == 0)
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .collect()
    }

    fn columns(&self) -> Vec<String> {
        let mut rest = &self.body[2..];
        let mut columns = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk() {
            let length = usize::try_from(i32::from_be_bytes(*length)).ok();
            let (value, after) = after.split_at(length.unwrap_or(0));
            columns.push(length.map_or_else(
                || "null".to_owned(),
                |_| String::from_utf8_lossy(value).into_owned(),
            ));
            rest = after;
        }
        columns
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = char::from(self.tag);
        write!(f, "{tag}")?;
        match self.tag {
            b'C' => write!(f, " {}", self.strings(0).concat()),
            b'Z' => write!(f, " {}", char::from(self.body[0])),
            b'S' => write!(f, " {}", self.strings(0).join("=")),
            b'A' => write!(f, " {}", self.strings(4).join("=")),
            b'D' => write!(f, " {}", self.columns().join("|")),
            b'd' | b'V' => write!(
                f,
                " {}",
                String::from_utf8_lossy(&self.body)
                    .trim_end()
                    .escape_debug()
            ),
            b'E' | b'N' if self.field('V') == "ERROR" => write!(f, " {}", self.field('C')),
            b'E' | b'N' => write!(f, " {} {}", self.field('V'), self.field('C')),
            _ => Ok(()),
        }
    }
}

/// A client of a server, or of the proxy before it.
pub(crate) struct Client {
    stream: Stream,
    /// The body of BackendKeyData: the server's process id, and the key for cancelling.
    pub(crate) backend_key: Vec<u8>,
    /// The latest ErrorResponse.
    pub(crate) error: Option<Message>,
}

impl Client {
    /// Opens a connection and says nothing.
    pub(crate) fn silent(endpoint: &Endpoint) -> Self {
        let stream = Stream::connect(endpoint)
            .unwrap_or_else(|error| panic!("cannot connect to {endpoint:?}: {error}"));
        Self::over(stream)
    }

    fn over(stream: Stream) -> Self {
        stream.set_read_timeout(PATIENCE);
        Self {
            stream,
            backend_key: Vec::new(),
            error: None,
        }
    }

    /// Opens a connection that pgidle has let in, and whose client has not said who it is.
    pub(crate) fn anonymous(endpoint: &Endpoint) -> Self {
        let mut client = Self::silent(endpoint);
        client.send(&frontend::ssl_request());
        assert_eq!(client.byte(), b'N', "TLS is not offered");
        client
    }

    /// Opens a session as the user `postgres`.
    pub(crate) fn connect(endpoint: &Endpoint) -> Self {
        Self::connect_with(endpoint, &[])
    }

    /// Opens a session with more startup parameters.
    pub(crate) fn connect_with(endpoint: &Endpoint, parameters: &[(&str, &str)]) -> Self {
        let mut client = Self::silent(endpoint);
        client.say_who(endpoint, parameters);
        let greeting = client.until_ready();
        assert!(
            greeting.ends_with("Z I"),
            "no session: {greeting}: {}",
            client.error_text()
        );
        client
    }

    /// Tries to open a session with more startup parameters; else what has come instead.
    pub(crate) fn try_connect(
        endpoint: &Endpoint,
        parameters: &[(&str, &str)],
    ) -> Result<Self, String> {
        let stream = Stream::connect(endpoint).map_err(|error| error.to_string())?;
        let mut client = Self::over(stream);
        client.say_who(endpoint, parameters);
        let greeting = client.until_ready();
        match greeting.ends_with("Z I") {
            true => Ok(client),
            false => Err(format!("{greeting}: {}", client.error_text())),
        }
    }

    /// Sends the startup packet of the user `postgres`, with more parameters.
    pub(crate) fn say_who(&mut self, endpoint: &Endpoint, parameters: &[(&str, &str)]) {
        let always = [
            ("user", "postgres"),
            ("database", endpoint.database.as_str()),
        ];
        // Whoever refuses at once may have closed already: what it said is read all the same.
        self.try_send(&frontend::startup(&[&always, parameters].concat()))
            .ok();
    }

    /// Whether the door is closed: a connection is refused, and not merely left waiting.
    pub(crate) fn is_refused(endpoint: &Endpoint) -> bool {
        let address = SocketAddr::new(endpoint.host.parse().unwrap(), endpoint.port);
        TcpStream::connect_timeout(&address, PATIENCE)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// The server's process id as BackendKeyData told it.
    pub(crate) fn server_pid(&self) -> i32 {
        let pid = self.backend_key.first_chunk().expect("a session");
        i32::from_be_bytes(*pid)
    }

    /// Sends bytes in one write.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the other side reads");
    }

    /// Sends bytes that may meet a closed connection.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next byte, outside any message: the answer to an SSLRequest.
    pub(crate) fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).expect("a byte in time");
        byte[0]
    }

    /// The next message; `None` at the end of the connection.
    pub(crate) fn message(&mut self) -> Option<Message> {
        let mut header = [0; 5];
        self.read_or_end(&mut header)?;
        let [tag, length @ ..] = header;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        self.read_or_end(&mut body)?;
        let message = Message { tag, body };
        match tag {
            b'K' => self.backend_key.clone_from(&message.body),
            b'E' => {
                self.error = Some(Message {
                    tag,
                    body: message.body.clone(),
                })
            }
            _ => {}
        }
        Some(message)
    }

    /// Fills the buffer; `None` when the connection ends before.
    fn read_or_end(&mut self, buffer: &mut [u8]) -> Option<()> {
        let error = match self.stream.read_exact(buffer) {
            Ok(()) => return Some(()),
            Err(error) => error,
        };
        let closed = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset];
        assert!(
            closed.contains(&error.kind()),
            "no message in time: {error}"
        );
        None
    }

    /// The same connection again, for whoever sends while another reads.
    pub(crate) fn another(&self) -> Self {
        Self {
            stream: self.stream.another(),
            backend_key: self.backend_key.clone(),
            error: None,
        }
    }

    /// Waits longer for answers than is usual.
    pub(crate) fn be_patient(&self) {
        self.stream.set_read_timeout(10 * PATIENCE);
    }

    /// Reads past the next message, however large: its tag, and the length of its body.
    pub(crate) fn skip(&mut self) -> (u8, usize) {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header).expect("a message");
        let [tag, length @ ..] = header;
        let len = u32::from_be_bytes(length) as usize - 4;
        let (mut left, mut sink) = (len, vec![0; 1 << 20]);
        while left > 0 {
            let chunk = left.min(sink.len());
            self.stream
                .read_exact(&mut sink[..chunk])
                .expect("a whole message");
            left -= chunk;
        }
        (tag, len)
    }

    /// The transcript up to the message with this tag.
    pub(crate) fn until(&mut self, tag: u8) -> String {
        let mut lines = Vec::new();
        loop {
            let Some(message) = self.message() else {
                lines.push("closed".to_owned());
                return lines.join(" / ");
            };
            lines.push(message.to_string());
            if message.tag == tag {
                return lines.join(" / ");
            }
        }
    }

    /// The transcript up to ReadyForQuery.
    pub(crate) fn until_ready(&mut self) -> String {
        self.until(b'Z')
    }

    /// The transcript up to the end of the connection.
    pub(crate) fn until_closed(&mut self) -> String {
        self.until(0)
    }

    /// Sends messages in one packet and returns the transcript up to ReadyForQuery.
    pub(crate) fn ask(&mut self, messages: &[Vec<u8>]) -> String {
        self.send(&messages.concat());
        self.until_ready()
    }

    /// Sends a simple Query and returns the transcript of its answer.
    pub(crate) fn query(&mut self, sql: &str) -> String {
        self.ask(&[frontend::query(sql)])
    }

    /// Runs statements that must succeed.
    pub(crate) fn run(&mut self, sql: &str) {
        self.error = None;
        self.query(sql);
        assert!(self.error.is_none(), "{sql}: {}", self.error_text());
    }

    /// Sends statements in one packet and returns the transcript of the last one's answer; those before it must succeed.
    /// To the proxy no time passes between them, however busy the machine is.
    pub(crate) fn at_once(&mut self, statements: &[&str]) -> String {
        let queries = statements.iter().map(|sql| frontend::query(sql));
        self.send(&queries.collect::<Vec<_>>().concat());
        let mut answer = String::new();
        for sql in statements {
            let failed = answer.split(" / ").any(|line| line.starts_with("E "));
            assert!(!failed, "before {sql}: {answer}");
            answer = self.until_ready();
        }
        answer
    }

    /// Whether the server has such a setting: from 19 on `standard_conforming_strings` cannot be off.
    pub(crate) fn takes(&mut self, setting: &str) -> bool {
        let answer = self.query(setting);
        assert!(answer.starts_with("C SET") || answer == "E 0A000 / Z I");
        answer.starts_with("C SET")
    }

    /// Opens a transaction with a statement that must succeed, in one packet.
    pub(crate) fn begin(&mut self, sql: &str) {
        self.error = None;
        self.at_once(&["BEGIN", sql]);
        assert!(self.error.is_none(), "{sql}: {}", self.error_text());
    }

    /// The only value of a query's only row.
    pub(crate) fn value(&mut self, sql: &str) -> String {
        self.send(&frontend::query(sql));
        let mut value = None;
        loop {
            let message = self.message().expect("an open connection");
            match message.tag {
                b'D' => value = message.columns().into_iter().next(),
                b'E' => panic!("{sql}: {}", message.field('M')),
                b'Z' => return value.unwrap_or_else(|| panic!("{sql}: no row")),
                _ => {}
            }
        }
    }

    /// Fails when anything arrives within the time.
    pub(crate) fn hears_nothing_for(&mut self, time: Duration) {
        self.stream.set_read_timeout(time);
        let heard = self.stream.read_exact(&mut [0]);
        self.stream.set_read_timeout(PATIENCE);
        let error = heard.expect_err("a byte arrived that nobody asked for");
        let timed_out = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
        assert!(timed_out.contains(&error.kind()), "{error}");
    }

    /// SQLSTATE and text of the latest error.
    pub(crate) fn error_text(&self) -> String {
        let error = self.error.as_ref();
        error.map_or_else(String::new, |error| {
            format!("{} {}", error.field('C'), error.field('M'))
        })
    }
}
