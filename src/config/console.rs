//! `[console]`: where operators look into pgidle, and who they are.

use std::{
    collections::HashSet,
    fmt, fs,
    path::{Path, PathBuf},
};

use super::{
    error::Fault,
    section::{Section, Table, name, parsed, path, text},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// `[console]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleSettings {
    /// The database name that leads to the console, on every listener; `None` where there is no console.
    pub database: Option<String>,
    /// Who may use it; empty for everyone on this host, to look and not to act.
    pub users: Vec<ConsoleUser>,
}

impl Default for ConsoleSettings {
    fn default() -> Self {
        Self {
            database: Some("pgidle".to_owned()),
            users: Vec::new(),
        }
    }
}

/// `[[console.user]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleUser {
    /// The user name to connect with.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// How the user proves to be who that is.
    pub secret: Secret,
}

/// What a user of the console may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Monitor,
    /// Look, end transactions and sessions, and steer the process.
    Admin,
}

impl Role {
    /// The word for it in settings and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::Admin => "admin",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        [Self::Monitor, Self::Admin]
            .into_iter()
            .find(|role| role.name() == word)
            .ok_or_else(|| "expected \"monitor\" or \"admin\"".to_owned())
    }
}

/// What a password is checked against. `Debug` shows none of it.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// What `pg_authid.rolpassword` holds: the password itself is not known.
    Verifier {
        /// How often it was hashed.
        iterations: usize,
        /// What it was hashed with.
        salt: Vec<u8>,
        /// What the client's proof is checked with.
        stored_key: Vec<u8>,
        /// What the server proves itself with.
        server_key: Vec<u8>,
    },
    /// A password, and the file whose first line it is; empty until that is read.
    Password {
        /// The file.
        file: PathBuf,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl std::str::FromStr for Secret {
    type Err = String;

    /// Reads a verifier.
    ///
    /// Source: `parse_scram_secret` in `src/backend/libpq/auth-scram.c`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        verifier(text).ok_or_else(|| {
            "expected a verifier as in pg_authid.rolpassword: \
             SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>"
                .to_owned()
        })
    }
}

fn verifier(text: &str) -> Option<Secret> {
    let (hashed, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
    let (iterations, salt) = hashed.split_once(':')?;
    let (stored, server) = keys.split_once(':')?;
    let key = |text| STANDARD.decode(text).ok().filter(|key| key.len() == 32);
    Some(Secret::Verifier {
        iterations: iterations.parse().ok().filter(|&count| count > 0)?,
        salt: STANDARD.decode(salt).ok()?,
        stored_key: key(stored)?,
        server_key: key(server)?,
    })
}

pub(super) const TABLE: Table = Table {
    name: "console",
    keys: &["database", "user"],
};

pub(super) const USER: Table = Table {
    name: "console.user",
    keys: &["name", "role", "secret", "password_file"],
};

impl ConsoleSettings {
    /// Reads the section over these settings.
    pub(super) fn read(&mut self, section: &Section<'_>) -> Result<(), Fault> {
        section.set("database", &mut self.database, |value| {
            Ok(Some(text(value)?.to_owned()).filter(|name| !name.is_empty()))
        })?;
        let mut names = HashSet::new();
        for section in section.sections("user", &USER)? {
            let user = user(&section)?;
            if !names.insert(user.name.clone()) {
                let problem = format!("another user is called {:?} too", user.name);
                return Err(section.fault_at("name", problem));
            }
            self.users.push(user);
        }
        Ok(())
    }

    /// Reads the files that the settings name.
    pub(super) fn load(&mut self) -> Result<(), (&'static str, String)> {
        for user in &mut self.users {
            if let Secret::Password { file, password } = &mut user.secret {
                let read = first_line(file).map_err(|problem| ("user.password_file", problem))?;
                *password = read;
            }
        }
        Ok(())
    }
}

fn first_line(file: &Path) -> Result<String, String> {
    let text = fs::read_to_string(file)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    match text.lines().next() {
        None | Some("") => Err(format!("there is no password in {}", file.display())),
        Some(password) => Ok(password.to_owned()),
    }
}

fn user(section: &Section<'_>) -> Result<ConsoleUser, Fault> {
    let missing = |key, what: &str| section.fault_at(key, format!("missing; expected {what}"));
    let user_name = section.get("name", |value| name(value).map(str::to_owned))?;
    let role = section.get("role", parsed::<Role>)?;
    let secret = section.get("secret", parsed::<Secret>)?;
    let file = section.get("password_file", path)?.flatten();
    let file = file.map(|file| Secret::Password {
        file,
        password: String::new(),
    });
    let secret = match (secret, file) {
        (Some(_), Some(_)) => {
            let problem = "there is a `secret` too; expected one of the two".to_owned();
            return Err(section.fault_at("password_file", problem));
        }
        (secret, file) => secret.or(file),
    };
    Ok(ConsoleUser {
        name: user_name.ok_or_else(|| missing("name", "the user's name"))?,
        role: role.ok_or_else(|| missing("role", "\"monitor\" or \"admin\""))?,
        secret: secret.ok_or_else(|| missing("secret", "a `secret` or a `password_file`"))?,
    })
}
