//! The login: SCRAM-SHA-256 (RFC 7677), a password in clear text over TLS, or none.

use super::password::Password;
use super::text::printable;
use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend::{password_message, sasl_initial_response, sasl_response};

/// Fewest iterations of SCRAM that are accepted (RFC 7677, 4). With fewer, a false server could guess the password from the
/// proof.
const ITERATIONS_MIN: u32 = 4096;

/// Most iterations that are accepted: some 25 ms of computing, during which the engine does nothing else.
const ITERATIONS_MAX: u32 = 65_536;

/// Progress of the login.
enum Step {
    Begun,
    /// The first message of SCRAM is sent.
    ScramBegun(ScramSha256),
    /// The proof is sent.
    ScramProved(ScramSha256),
    /// The server has proved that it knows the password.
    ScramVerified,
    PasswordSent,
    Ended,
}

/// The login of one connection.
pub struct Authentication {
    password: Option<Password>,
    /// Whether the connection is encrypted, and the server verified.
    is_private: bool,
    step: Step,
}

impl Authentication {
    /// Begins the login.
    pub fn new(password: Option<Password>, is_private: bool) -> Authentication {
        Authentication { password, is_private, step: Step::Begun }
    }

    /// Takes a message of the server, and appends the answer to `out`. `true`: the login has succeeded. An error ends the
    /// connection.
    pub fn message(&mut self, message: Message, out: &mut BytesMut) -> Result<bool, String> {
        let step = std::mem::replace(&mut self.step, Step::Ended);
        self.step = match (step, message) {
            (Step::Begun | Step::ScramVerified | Step::PasswordSent, Message::AuthenticationOk) => return Ok(true),
            (Step::Begun, Message::AuthenticationSasl(offer)) => self.begin_scram(&offer, out)?,
            (Step::ScramBegun(scram), Message::AuthenticationSaslContinue(body)) => prove(scram, body.data(), out)?,
            (Step::ScramProved(mut scram), Message::AuthenticationSaslFinal(body)) => {
                let unverified = |_| "it does not know the password of the role (SCRAM): is it the right server?";
                scram.finish(body.data()).map_err(unverified)?;
                Step::ScramVerified
            }
            (Step::Begun, Message::AuthenticationCleartextPassword) => self.send_password(out)?,
            (Step::Begun, Message::AuthenticationMd5Password(_)) => {
                return Err(
                    "it asks for the password as MD5, which is refused: set password_encryption=scram-sha-256, \
                            set the password again, and use scram-sha-256 in pg_hba.conf"
                        .into(),
                );
            }
            (
                Step::Begun,
                Message::AuthenticationGss
                | Message::AuthenticationSspi
                | Message::AuthenticationKerberosV5
                | Message::AuthenticationScmCredential,
            ) => return Err("it asks for a login that is not supported: use scram-sha-256 in pg_hba.conf".into()),
            (Step::ScramBegun(_) | Step::ScramProved(_), Message::AuthenticationOk) => {
                return Err("it accepts the login without a proof that it knows the password (SCRAM)".into());
            }
            _ => return Err("a message that does not belong to the login".into()),
        };
        Ok(false)
    }

    fn password(&self) -> Result<&Password, String> {
        self.password.as_ref().ok_or_else(|| "it asks for a password: set password_file".into())
    }

    fn begin_scram(&self, offer: &AuthenticationSaslBody, out: &mut BytesMut) -> Result<Step, String> {
        let mut mechanisms = offer.mechanisms();
        loop {
            match mechanisms.next().map_err(|error| format!("malformed message: {error}"))? {
                Some(SCRAM_SHA_256) => break,
                Some(_) => {}
                None => return Err("it offers no SCRAM-SHA-256".into()),
            }
        }
        let scram = ScramSha256::new(self.password()?.octets(), ChannelBinding::unsupported());
        sasl_initial_response(SCRAM_SHA_256, scram.message(), out).map_err(|error| error.to_string())?;
        Ok(Step::ScramBegun(scram))
    }

    fn send_password(&self, out: &mut BytesMut) -> Result<Step, String> {
        if !self.is_private {
            return Err("it asks for the password in clear text, which is refused without TLS: use scram-sha-256 in \
                        pg_hba.conf"
                .into());
        }
        password_message(self.password()?.octets(), out).map_err(|error| error.to_string())?;
        Ok(Step::PasswordSent)
    }
}

/// Answers the server's first message of SCRAM with the proof.
fn prove(mut scram: ScramSha256, message: &[u8], out: &mut BytesMut) -> Result<Step, String> {
    let iterations = iterations(message).ok_or("malformed message: SCRAM without a number of iterations")?;
    if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
        return Err(format!(
            "its password has {iterations} iterations of SCRAM, which are not {ITERATIONS_MIN} to {ITERATIONS_MAX}: \
             change scram_iterations and set the password again"
        ));
    }
    let malformed = |error: std::io::Error| format!("malformed message: {}", printable(error.to_string().as_bytes()));
    scram.update(message).map_err(malformed)?;
    sasl_response(scram.message(), out).map_err(malformed)?;
    Ok(Step::ScramProved(scram))
}

/// Returns the number of iterations in the server's first message: `r=NONCE,s=SALT,i=ITERATIONS`.
fn iterations(message: &[u8]) -> Option<u32> {
    let field = message.split(|octet| *octet == b',').nth(2)?.strip_prefix(b"i=")?;
    std::str::from_utf8(field).ok()?.parse().ok()
}
