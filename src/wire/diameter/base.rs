//! Messages of the base protocol (RFC 6733): between peers, and those by which a server reaches into a session.

use super::avp::{Address, Avps};
use super::dictionary::{self, Avp};
use super::fault::Fault;
use super::grammar::{Body, FailedAvp, Reading, Value, grammar};
use super::write::Writer;
use crate::wire::diameter::codes::{DisconnectCause, ReAuthRequestType, ResultCode};

/// AVPs that any message may contain and that are not used.
pub(super) const ROUTING: &[Avp] = &[
    dictionary::PROXY_INFO,
    dictionary::ROUTE_RECORD,
    dictionary::REDIRECT_HOST,
    dictionary::REDIRECT_HOST_USAGE,
    dictionary::REDIRECT_MAX_CACHE_TIME,
    dictionary::CLASS,
    dictionary::PROXY_STATE,
];

/// Vendor-Specific-Application-Id (RFC 6733, 6.11; RFC 3588 has several Vendor-Ids in one). Malformed parts
/// are ignored: peers advertise many applications, and an unrelated one must not prevent the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VendorSpecificApplication {
    /// Vendor of the application.
    pub vendor_id: Vec<u32>,
    /// Authorization applications; credit control is one.
    pub auth_application_id: Vec<u32>,
    /// Accounting applications.
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
    /// The AVPs that all answers share: the grammar of answers with the E flag (RFC 6733, 7.2), of RAA and of ASA.
    Answer<'a> {
        /// Absent in error answers to requests without one or that could not be decoded.
        session_id: optional &'a str = SESSION_ID;
        /// Result; absent if `experimental_result` is present.
        result_code: optional ResultCode = RESULT_CODE;
        /// Result defined by a vendor.
        experimental_result: optional ExperimentalResult = EXPERIMENTAL_RESULT;
        /// Origin-Host of the sender.
        origin_host: one &'a str = ORIGIN_HOST;
        /// Realm of the sender.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Increases with each start of the sender that has lost all sessions.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
        /// Text for people; often not UTF-8.
        error_message: optional &'a [u8] = ERROR_MESSAGE;
        /// Host that reports the error, if it is not Origin-Host.
        error_reporting_host: optional &'a str = ERROR_REPORTING_HOST;
        /// Invalid or missing AVPs of the request.
        failed_avp: many FailedAvp<'a> = FAILED_AVP;
    } known &[ROUTING, &[dictionary::AUTH_APPLICATION_ID, dictionary::CC_REQUEST_TYPE, dictionary::CC_REQUEST_NUMBER,
        dictionary::USER_NAME]];

    /// Experimental-Result (RFC 6733, 7.6).
    ExperimentalResult {
        /// Vendor that defines the code.
        vendor_id: one u32 = VENDOR_ID;
        /// The code; its classes are those of Result-Code.
        code: one ResultCode = EXPERIMENTAL_RESULT_CODE;
    } known &[];

    /// Capabilities-Exchange-Request (RFC 6733, 5.3.1).
    CapabilitiesExchangeRequest<'a> {
        /// Origin-Host of the sender.
        origin_host: one &'a str = ORIGIN_HOST;
        /// Realm of the sender.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Addresses of the sender.
        host_ip_address: some Address = HOST_IP_ADDRESS;
        /// Vendor of the implementation.
        vendor_id: one u32 = VENDOR_ID;
        /// Name of the implementation.
        product_name: one &'a str = PRODUCT_NAME;
        /// Increases with each start of the sender that has lost all sessions.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
        /// Vendors whose AVPs the sender supports.
        supported_vendor_id: many u32 = SUPPORTED_VENDOR_ID;
        /// Authorization applications.
        auth_application_id: many u32 = AUTH_APPLICATION_ID;
        /// 0: none; 1: TLS after the capabilities exchange.
        inband_security_id: many u32 = INBAND_SECURITY_ID;
        /// Accounting applications.
        acct_application_id: many u32 = ACCT_APPLICATION_ID;
        /// Vendor-specific applications.
        vendor_specific_application_id: many VendorSpecificApplication = VENDOR_SPECIFIC_APPLICATION_ID;
        /// Version of the implementation.
        firmware_revision: optional u32 = FIRMWARE_REVISION;
    } known &[];

    /// Capabilities-Exchange-Answer (RFC 6733, 5.3.2).
    CapabilitiesExchangeAnswer<'a> {
        /// Whether the connection is accepted.
        result_code: one ResultCode = RESULT_CODE;
        /// Origin-Host of the sender.
        origin_host: one &'a str = ORIGIN_HOST;
        /// Realm of the sender.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Addresses of the sender. The RFC requires one; refusals often have none.
        host_ip_address: many Address = HOST_IP_ADDRESS;
        /// Vendor of the implementation.
        vendor_id: optional u32 = VENDOR_ID;
        /// Name of the implementation.
        product_name: optional &'a [u8] = PRODUCT_NAME;
        /// Increases with each start of the sender that has lost all sessions.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
        /// Text for people.
        error_message: optional &'a [u8] = ERROR_MESSAGE;
        /// Invalid or missing AVPs of the request.
        failed_avp: many FailedAvp<'a> = FAILED_AVP;
        /// Vendors whose AVPs the sender supports.
        supported_vendor_id: many u32 = SUPPORTED_VENDOR_ID;
        /// Authorization applications.
        auth_application_id: many u32 = AUTH_APPLICATION_ID;
        /// 0: none; 1: TLS after the capabilities exchange.
        inband_security_id: many u32 = INBAND_SECURITY_ID;
        /// Accounting applications.
        acct_application_id: many u32 = ACCT_APPLICATION_ID;
        /// Vendor-specific applications.
        vendor_specific_application_id: many VendorSpecificApplication = VENDOR_SPECIFIC_APPLICATION_ID;
        /// Version of the implementation.
        firmware_revision: optional u32 = FIRMWARE_REVISION;
    } known &[];

    /// Device-Watchdog-Request (RFC 6733, 5.5.1).
    DeviceWatchdogRequest<'a> {
        /// Origin-Host of the sender.
        origin_host: one &'a str = ORIGIN_HOST;
        /// Realm of the sender.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Increases with each start of the sender that has lost all sessions.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
    } known &[];

    /// Device-Watchdog-Answer (5.5.2) and Disconnect-Peer-Answer (5.4.2).
    PeerAnswer<'a> {
        /// Result of the request.
        result_code: one ResultCode = RESULT_CODE;
        /// Origin-Host of the sender.
        origin_host: one &'a str = ORIGIN_HOST;
        /// Realm of the sender.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Increases with each start of the sender that has lost all sessions.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
        /// Text for people.
        error_message: optional &'a [u8] = ERROR_MESSAGE;
        /// Invalid or missing AVPs of the request.
        failed_avp: many FailedAvp<'a> = FAILED_AVP;
    } known &[];

    /// Disconnect-Peer-Request (RFC 6733, 5.4.1).
    DisconnectPeerRequest<'a> {
        /// Origin-Host of the sender.
        origin_host: one &'a str = ORIGIN_HOST;
        /// Realm of the sender.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Reason.
        disconnect_cause: one DisconnectCause = DISCONNECT_CAUSE;
    } known &[];

    /// Re-Auth-Request (RFC 6733, 8.3.1; RFC 8506, 5.5): the server requests a report of usage.
    ReAuthRequest<'a> {
        /// Session-Id.
        session_id: one &'a str = SESSION_ID;
        /// Origin-Host of the sender.
        origin_host: one &'a str = ORIGIN_HOST;
        /// Realm of the sender.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Destination-Realm: the realm of the client.
        destination_realm: one &'a str = DESTINATION_REALM;
        /// Destination-Host: the client.
        destination_host: one &'a str = DESTINATION_HOST;
        /// Application-Id of credit control.
        auth_application_id: one u32 = AUTH_APPLICATION_ID;
        /// Type of re-authorization: AUTHORIZE_ONLY.
        re_auth_request_type: one ReAuthRequestType = RE_AUTH_REQUEST_TYPE;
        /// CC-Sub-Session-Id.
        cc_sub_session_id: optional u64 = CC_SUB_SESSION_ID;
        /// The service to be reported; absent: all.
        service_identifier: optional u32 = SERVICE_IDENTIFIER;
        /// The rating group to be reported; absent: all.
        rating_group: optional u32 = RATING_GROUP;
        /// Increases with each start of the sender that has lost all sessions.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
    } known &[ROUTING, &[dictionary::USER_NAME, dictionary::G_S_U_POOL_IDENTIFIER]];

    /// Abort-Session-Request (RFC 6733, 8.5.1): the server requests the end of the session.
    AbortSessionRequest<'a> {
        /// Session-Id.
        session_id: one &'a str = SESSION_ID;
        /// Origin-Host of the sender.
        origin_host: one &'a str = ORIGIN_HOST;
        /// Realm of the sender.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Destination-Realm: the realm of the client.
        destination_realm: one &'a str = DESTINATION_REALM;
        /// Destination-Host: the client.
        destination_host: one &'a str = DESTINATION_HOST;
        /// Application-Id of credit control.
        auth_application_id: one u32 = AUTH_APPLICATION_ID;
        /// Increases with each start of the sender that has lost all sessions.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
    } known &[ROUTING, &[dictionary::USER_NAME]];
}
