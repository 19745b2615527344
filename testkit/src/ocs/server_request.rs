//! Requests of the server: Re-Auth-Request (RFC 8506, 5.5) and Abort-Session-Request (RFC 6733, 8.5).

use imcharge::wire::diameter::base::{AbortSessionRequest, ReAuthRequest};
use imcharge::wire::diameter::codes::ReAuthRequestType;
use imcharge::wire::diameter::dictionary::APPLICATION_CREDIT_CONTROL;
use imcharge::wire::diameter::{Command, Writer};

/// Writes the AVPs of a RAR or, for any other command, of an ASR. `from` and `to` are host and realm.
pub fn write(command: Command, session_id: &str, from: [&str; 2], to: [&str; 2], out: &mut Writer<'_>) {
    let ([origin_host, origin_realm], [destination_host, destination_realm]) = (from, to);
    let auth_application_id = APPLICATION_CREDIT_CONTROL;
    match command {
        Command::RE_AUTH => ReAuthRequest {
            session_id,
            origin_host,
            origin_realm,
            destination_realm,
            destination_host,
            auth_application_id,
            re_auth_request_type: ReAuthRequestType::AUTHORIZE_ONLY,
            ..ReAuthRequest::default()
        }
        .write(out),
        _ => AbortSessionRequest {
            session_id,
            origin_host,
            origin_realm,
            destination_realm,
            destination_host,
            auth_application_id,
            origin_state_id: None,
        }
        .write(out),
    }
}
