//! Who may use the console: SCRAM-SHA-256 where users are configured, else everyone on this host, to look.

use std::{
    fmt::Debug,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use async_trait::async_trait;
use futures_util::{Sink, SinkExt as _};
use pgwire::{
    api::{
        ClientInfo, PgWireConnectionState,
        auth::{
            DefaultServerParameterProvider, StartupHandler, finish_authentication,
            sasl::scram::{
                SCRAM_ITERATIONS, ScramSecret, ScramServerAuth,
                ScramServerAuthWaitingForClientFinal, gen_salted_password,
            },
            save_startup_parameters_to_metadata,
        },
    },
    error::{PgWireError, PgWireResult},
    messages::{
        PgWireBackendMessage, PgWireFrontendMessage, ProtocolVersion,
        startup::{Authentication, NegotiateProtocolVersion, PasswordMessageFamily, Startup},
    },
};
use tokio::sync::Mutex;

use super::{Desk, fatal};
use crate::{
    config::{ConsoleSettings, Role, Secret},
    wire::cstr,
};

/// Who a client has proven to be.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) name: Arc<str>,
    pub(super) role: Role,
}

/// How far the proof has come.
#[derive(Debug, Default)]
pub(super) struct Login(Mutex<Option<Step>>);

#[derive(Debug)]
enum Step {
    /// The client is to begin.
    Asked(User, ScramSecret),
    /// The client is to prove that it knows the password.
    Challenged(User, Box<ScramServerAuthWaitingForClientFinal>),
}

const MECHANISM: &str = "SCRAM-SHA-256";

#[async_trait]
impl StartupHandler for Desk {
    async fn on_startup<C>(
        &self,
        client: &mut C,
        message: PgWireFrontendMessage,
    ) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if let PgWireFrontendMessage::Startup(startup) = message {
            negotiate(client, &startup).await?;
            save_startup_parameters_to_metadata(client, &startup);
            self.asked(client).await
        } else if let PgWireFrontendMessage::PasswordMessageFamily(message) = message {
            self.answered(client, message).await
        } else {
            Err(fatal("08P01", "expected a password message".to_owned()))
        }
    }
}

impl Desk {
    async fn asked<C>(&self, client: &mut C) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = client.metadata().get("user").cloned().unwrap_or_default();
        let settings = self.context.config.borrow().console.clone();
        if settings.users.is_empty() {
            if !self.is_local {
                tracing::warn!(user = name, client = %self.peer, "refused a user of the console from another host");
                return Err(fatal(
                    "28000",
                    "no user of the console is configured ([[console.user]]), and without one only this host may look"
                        .to_owned(),
                ));
            }
            let role = Role::Monitor;
            let name = name.into();
            return self.let_in(client, User { name, role }).await;
        }
        let (user, secret) = known(&settings, &name);
        *self.login.0.lock().await = Some(Step::Asked(user, secret));
        client.set_state(PgWireConnectionState::AuthenticationInProgress);
        let asked = Authentication::SASL(vec![MECHANISM.to_owned()]);
        client
            .send(PgWireBackendMessage::Authentication(asked))
            .await?;
        Ok(())
    }

    async fn answered<C>(&self, client: &mut C, message: PasswordMessageFamily) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let mut step = self.login.0.lock().await;
        match step.take() {
            Some(Step::Asked(user, secret)) => {
                let (mechanism, first) = initial_response(&message).ok_or_else(garbled)?;
                if mechanism != MECHANISM.as_bytes() {
                    return Err(fatal(
                        "28000",
                        format!("expected the mechanism {MECHANISM}"),
                    ));
                }
                let (challenge, waiting) = ScramServerAuth::new()
                    .on_client_first_message_with_secret(first, secret)
                    .map_err(|_| garbled())?;
                *step = Some(Step::Challenged(user, Box::new(waiting)));
                let challenge = Authentication::SASLContinue(challenge.into());
                client
                    .send(PgWireBackendMessage::Authentication(challenge))
                    .await?;
                Ok(())
            }
            Some(Step::Challenged(user, waiting)) => {
                let last = message.into_sasl_response().map_err(|_| garbled())?;
                let proof = waiting.on_client_final_message(&last.data).map_err(|why| {
                    tracing::warn!(user = &*user.name, client = %self.peer, "a user of the console has failed to log in");
                    if !matches!(why, PgWireError::InvalidPassword(_)) {
                        return garbled();
                    }
                    let why = format!("password authentication failed for user \"{}\"", user.name);
                    fatal("28P01", why)
                })?;
                let proof = Authentication::SASLFinal(proof.into());
                client
                    .feed(PgWireBackendMessage::Authentication(proof))
                    .await?;
                drop(step);
                self.let_in(client, user).await
            }
            None => Err(garbled()),
        }
    }

    async fn let_in<C>(&self, client: &mut C, user: User) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        tracing::info!(user = &*user.name, role = user.role.name(), client = %self.peer, "a user of the console has logged in");
        self.user.get_or_init(|| user);
        let mut parameters = DefaultServerParameterProvider::default();
        parameters.server_version = super::SERVER_VERSION.to_owned();
        parameters.is_superuser = false;
        finish_authentication(client, &parameters).await
    }
}

/// The mechanism and the data of a SASLInitialResponse, which pgwire reads past the end of.
fn initial_response(message: &PasswordMessageFamily) -> Option<(&[u8], &[u8])> {
    let PasswordMessageFamily::Raw(body) = message else {
        return None;
    };
    let (mechanism, rest) = cstr(body)?;
    let (length, data) = rest.split_first_chunk()?;
    let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
    (length == data.len()).then_some((mechanism, data))
}

fn garbled() -> PgWireError {
    fatal("08P01", "malformed SCRAM message".to_owned())
}

/// A user by name. One that there is not is asked for a password too, which no password is.
fn known(settings: &ConsoleSettings, name: &str) -> (User, ScramSecret) {
    let found = settings.users.iter().find(|user| user.name == name);
    let user = User {
        name: name.into(),
        role: found.map_or(Role::Monitor, |user| user.role),
    };
    let secret = match found.map(|user| user.secret.clone()) {
        Some(Secret::Verifier {
            iterations,
            salt,
            stored_key,
            server_key,
        }) => ScramSecret::Verifier {
            salt,
            iterations,
            stored_key,
            server_key,
        },
        Some(Secret::Password { password, .. }) => {
            let salt = salt(name);
            let salted = gen_salted_password(&password, &salt, SCRAM_ITERATIONS);
            ScramSecret::verifier_from_salted_password(salt, salted, SCRAM_ITERATIONS)
        }
        None => ScramSecret::Verifier {
            salt: salt(name),
            iterations: SCRAM_ITERATIONS,
            stored_key: [salt(name), salt("stored")].concat(),
            server_key: [salt(name), salt("server")].concat(),
        },
    };
    (user, secret)
}

/// 16 bytes that no other process has for this name, and that are the same each time, as those of a user are.
fn salt(name: &str) -> Vec<u8> {
    use std::sync::OnceLock;
    static KEYS: OnceLock<[RandomState; 2]> = OnceLock::new();
    let keys = KEYS.get_or_init(Default::default);
    let halves = keys.iter().flat_map(|key| key.hash_one(name).to_be_bytes());
    halves.collect()
}

/// Says what is spoken here, where the client asked for more.
///
/// Source: `SendNegotiateProtocolVersion` in `src/backend/tcop/backend_startup.c`.
async fn negotiate<C>(client: &mut C, startup: &Startup) -> PgWireResult<()>
where
    C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
    C::Error: Debug,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let (major, minor) = (startup.protocol_number_major, startup.protocol_number_minor);
    let options = startup.parameters.keys();
    let options: Vec<_> = options
        .filter(|name| name.starts_with("_pq_."))
        .cloned()
        .collect();
    let known = ProtocolVersion::from_version_number(major, minor);
    let spoken = known.unwrap_or_default();
    client.set_protocol_version(spoken);
    if known.is_none() || !options.is_empty() {
        let answer = NegotiateProtocolVersion::new(spoken.into(), options);
        client
            .send(PgWireBackendMessage::NegotiateProtocolVersion(answer))
            .await?;
    }
    Ok(())
}
