//! Messages of the base protocol (RFC 6733): between peers, and those by which a server reaches into a session.

use super::avp::{Address, Avps};
use super::dictionary::{self, Avp};
use super::fault::Fault;
use super::grammar::{Body, FailedAvp, Reading, Value, grammar};
use super::write::Writer;
use crate::wire::diameter::codes::{DisconnectCause, ReAuthRequestType, ResultCode};

/// What any message may carry, and nobody here has a use for.
pub(super) const ROUTING: &[Avp] = &[
    dictionary::PROXY_INFO,
    dictionary::ROUTE_RECORD,
    dictionary::REDIRECT_HOST,
    dictionary::REDIRECT_HOST_USAGE,
    dictionary::REDIRECT_MAX_CACHE_TIME,
    dictionary::CLASS,
    dictionary::PROXY_STATE,
];

/// Vendor-Specific-Application-Id (RFC 6733, 6.11; RFC 3588 has several Vendor-Ids in one). Read as far as it can be read:
/// peers advertise applications that are of no use here, and such a group must not cost the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VendorSpecificApplication {
    /// Whose application.
    pub vendor_id: Vec<u32>,
    /// Applications of authorization: credit control is one.
    pub auth_application_id: Vec<u32>,
    /// Applications of accounting.
    pub acct_application_id: Vec<u32>,
}

impl<'a> Body<'a> for VendorSpecificApplication {
    fn read_avps(avps: Avps<'a>, _: &mut Reading) -> Result<Self, Fault<'a>> {
        let mut read = VendorSpecificApplication::default();
        for avp in avps.map_while(Result::ok) {
            let ids = match () {
                () if avp.is(dictionary::VENDOR_ID) => &mut read.vendor_id,
                () if avp.is(dictionary::AUTH_APPLICATION_ID) => &mut read.auth_application_id,
                () if avp.is(dictionary::ACCT_APPLICATION_ID) => &mut read.acct_application_id,
                () => continue,
            };
            ids.extend(avp.u32().ok());
        }
        Ok(read)
    }

    fn write_avps(&self, out: &mut Writer<'_>) {
        self.vendor_id.iter().for_each(|id| out.u32(dictionary::VENDOR_ID, *id));
        self.auth_application_id.iter().for_each(|id| out.u32(dictionary::AUTH_APPLICATION_ID, *id));
        self.acct_application_id.iter().for_each(|id| out.u32(dictionary::ACCT_APPLICATION_ID, *id));
    }
}

grammar! {
    /// Any answer, as far as all are alike: the grammar of answers with the E flag (RFC 6733, 7.2), of RAA and of ASA.
    Answer<'a> {
        /// Missing in an error answer to a request that had none, or could not be read.
        session_id: optional &'a str = SESSION_ID;
        /// Either this or `experimental_result` is there.
        result_code: optional ResultCode = RESULT_CODE;
        /// A result of a vendor's own.
        experimental_result: optional ExperimentalResult = EXPERIMENTAL_RESULT;
        /// Who answers.
        origin_host: one &'a str = ORIGIN_HOST;
        /// And in which realm.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Rises with each start of the peer that loses its state.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
        /// For people; often no UTF-8.
        error_message: optional &'a [u8] = ERROR_MESSAGE;
        /// Who found the error, if not the origin.
        error_reporting_host: optional &'a str = ERROR_REPORTING_HOST;
        /// What was wrong with the request.
        failed_avp: many FailedAvp<'a> = FAILED_AVP;
    } known &[ROUTING, &[dictionary::AUTH_APPLICATION_ID, dictionary::CC_REQUEST_TYPE, dictionary::CC_REQUEST_NUMBER,
        dictionary::USER_NAME]];

    /// Experimental-Result (RFC 6733, 7.6).
    ExperimentalResult {
        /// Whose list it is of.
        vendor_id: one u32 = VENDOR_ID;
        /// The result; classes are those of Result-Code.
        code: one ResultCode = EXPERIMENTAL_RESULT_CODE;
    } known &[];

    /// Capabilities-Exchange-Request (RFC 6733, 5.3.1).
    CapabilitiesExchangeRequest<'a> {
        /// Who opens the connection.
        origin_host: one &'a str = ORIGIN_HOST;
        /// And of which realm.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Its addresses.
        host_ip_address: some Address = HOST_IP_ADDRESS;
        /// Who made it.
        vendor_id: one u32 = VENDOR_ID;
        /// And what it is called.
        product_name: one &'a str = PRODUCT_NAME;
        /// Rises with each start that loses its state.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
        /// Vendors whose AVPs it knows.
        supported_vendor_id: many u32 = SUPPORTED_VENDOR_ID;
        /// Applications of authorization.
        auth_application_id: many u32 = AUTH_APPLICATION_ID;
        /// 0: none; 1: TLS after the exchange.
        inband_security_id: many u32 = INBAND_SECURITY_ID;
        /// Applications of accounting.
        acct_application_id: many u32 = ACCT_APPLICATION_ID;
        /// Applications of vendors.
        vendor_specific_application_id: many VendorSpecificApplication = VENDOR_SPECIFIC_APPLICATION_ID;
        /// Its version.
        firmware_revision: optional u32 = FIRMWARE_REVISION;
    } known &[];

    /// Capabilities-Exchange-Answer (RFC 6733, 5.3.2).
    CapabilitiesExchangeAnswer<'a> {
        /// Whether the connection may be used.
        result_code: one ResultCode = RESULT_CODE;
        /// Who answers.
        origin_host: one &'a str = ORIGIN_HOST;
        /// And in which realm.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Its addresses. The RFC wants one at least; a refusal often has none.
        host_ip_address: many Address = HOST_IP_ADDRESS;
        /// Who made it.
        vendor_id: optional u32 = VENDOR_ID;
        /// And what it is called.
        product_name: optional &'a [u8] = PRODUCT_NAME;
        /// Rises with each start that loses its state.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
        /// For people.
        error_message: optional &'a [u8] = ERROR_MESSAGE;
        /// What was wrong with the request.
        failed_avp: many FailedAvp<'a> = FAILED_AVP;
        /// Vendors whose AVPs it knows.
        supported_vendor_id: many u32 = SUPPORTED_VENDOR_ID;
        /// Applications of authorization.
        auth_application_id: many u32 = AUTH_APPLICATION_ID;
        /// 0: none; 1: TLS after the exchange.
        inband_security_id: many u32 = INBAND_SECURITY_ID;
        /// Applications of accounting.
        acct_application_id: many u32 = ACCT_APPLICATION_ID;
        /// Applications of vendors.
        vendor_specific_application_id: many VendorSpecificApplication = VENDOR_SPECIFIC_APPLICATION_ID;
        /// Its version.
        firmware_revision: optional u32 = FIRMWARE_REVISION;
    } known &[];

    /// Device-Watchdog-Request (RFC 6733, 5.5.1).
    DeviceWatchdogRequest<'a> {
        /// Who asks.
        origin_host: one &'a str = ORIGIN_HOST;
        /// And of which realm.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Rises with each start that loses its state.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
    } known &[];

    /// Device-Watchdog-Answer (5.5.2) and Disconnect-Peer-Answer (5.4.2).
    PeerAnswer<'a> {
        /// Success, hardly ever anything else.
        result_code: one ResultCode = RESULT_CODE;
        /// Who answers.
        origin_host: one &'a str = ORIGIN_HOST;
        /// And of which realm.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Rises with each start that loses its state.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
        /// For people.
        error_message: optional &'a [u8] = ERROR_MESSAGE;
        /// What was wrong with the request.
        failed_avp: many FailedAvp<'a> = FAILED_AVP;
    } known &[];

    /// Disconnect-Peer-Request (RFC 6733, 5.4.1).
    DisconnectPeerRequest<'a> {
        /// Who leaves.
        origin_host: one &'a str = ORIGIN_HOST;
        /// And of which realm.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Why.
        disconnect_cause: one DisconnectCause = DISCONNECT_CAUSE;
    } known &[];

    /// Re-Auth-Request (RFC 6733, 8.3.1; RFC 8506, 5.5): the server wants the usage reported now.
    ReAuthRequest<'a> {
        /// Which session.
        session_id: one &'a str = SESSION_ID;
        /// Who asks.
        origin_host: one &'a str = ORIGIN_HOST;
        /// And of which realm.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// The realm of the client.
        destination_realm: one &'a str = DESTINATION_REALM;
        /// The client.
        destination_host: one &'a str = DESTINATION_HOST;
        /// Credit control.
        auth_application_id: one u32 = AUTH_APPLICATION_ID;
        /// AUTHORIZE_ONLY.
        re_auth_request_type: one ReAuthRequestType = RE_AUTH_REQUEST_TYPE;
        /// Part of the session.
        cc_sub_session_id: optional u64 = CC_SUB_SESSION_ID;
        /// Only this service.
        service_identifier: optional u32 = SERVICE_IDENTIFIER;
        /// Only this group of services.
        rating_group: optional u32 = RATING_GROUP;
        /// Rises with each start that loses its state.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
    } known &[ROUTING, &[dictionary::USER_NAME, dictionary::G_S_U_POOL_IDENTIFIER]];

    /// Abort-Session-Request (RFC 6733, 8.5.1): the server wants the session ended.
    AbortSessionRequest<'a> {
        /// Which session.
        session_id: one &'a str = SESSION_ID;
        /// Who asks.
        origin_host: one &'a str = ORIGIN_HOST;
        /// And of which realm.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// The realm of the client.
        destination_realm: one &'a str = DESTINATION_REALM;
        /// The client.
        destination_host: one &'a str = DESTINATION_HOST;
        /// Credit control.
        auth_application_id: one u32 = AUTH_APPLICATION_ID;
        /// Rises with each start that loses its state.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
    } known &[ROUTING, &[dictionary::USER_NAME]];
}
