//! Credit-Control-Request and -Answer (RFC 8506, 3), and the groups in them.

use super::avp::{Avps, Time};
use super::base::{ExperimentalResult, ROUTING};
use super::dictionary::{self, Avp};
use super::fault::Fault;
use super::grammar::{Body, FailedAvp, Reading, Value, grammar};
use super::write::Writer;
use crate::wire::diameter::codes::{
    CheckBalanceResult, DebitFailureHandling, FailureHandling, FinalUnitAction, MultipleServices, RedirectAddressType,
    ReportingReason, RequestType, RequestedAction, ResultCode, SessionFailover, SubscriptionIdType, TariffChangeUsage,
    TerminationCause,
};

/// AVPs about the service in requests: understood and not used.
const SERVICE: &[Avp] = &[
    dictionary::USER_EQUIPMENT_INFO,
    dictionary::SERVICE_PARAMETER_INFO,
    dictionary::SUBSCRIPTION_ID_EXTENSION,
    dictionary::CC_CORRELATION_ID,
    dictionary::ACCT_MULTI_SESSION_ID,
    dictionary::SERVICE_INFORMATION,
    dictionary::AOC_REQUEST_TYPE,
];

/// AVPs of TS 32.299 in Multiple-Services-Credit-Control that say when to report: understood and not used.
const HINTS: &[Avp] = &[
    dictionary::G_S_U_POOL_REFERENCE,
    dictionary::TIME_QUOTA_THRESHOLD,
    dictionary::VOLUME_QUOTA_THRESHOLD,
    dictionary::UNIT_QUOTA_THRESHOLD,
    dictionary::QUOTA_HOLDING_TIME,
    dictionary::QUOTA_CONSUMPTION_TIME,
    dictionary::TRIGGER,
    dictionary::REFUND_INFORMATION,
    dictionary::SERVICE_SPECIFIC_INFO,
];

grammar! {
    /// Credit-Control-Request (RFC 8506, 3.1).
    CreditControlRequest<'a> {
        /// Session-Id.
        session_id: one &'a str = SESSION_ID;
        /// Origin-Host of the sender.
        origin_host: one &'a str = ORIGIN_HOST;
        /// Realm of the sender.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Realm of the OCS.
        destination_realm: one &'a str = DESTINATION_REALM;
        /// [`APPLICATION_CREDIT_CONTROL`](dictionary::APPLICATION_CREDIT_CONTROL).
        auth_application_id: one u32 = AUTH_APPLICATION_ID;
        /// The service, and who defines it.
        service_context_id: one &'a str = SERVICE_CONTEXT_ID;
        /// INITIAL, UPDATE, TERMINATION or EVENT.
        request_type: one RequestType = CC_REQUEST_TYPE;
        /// Counts the requests of the session; resends keep it.
        request_number: one u32 = CC_REQUEST_NUMBER;
        /// The OCS.
        destination_host: optional &'a str = DESTINATION_HOST;
        /// Private identity of the subscriber.
        user_name: optional &'a str = USER_NAME;
        /// CC-Sub-Session-Id.
        cc_sub_session_id: optional u64 = CC_SUB_SESSION_ID;
        /// Increases with each start of the sender that has lost all sessions.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
        /// Time of the event.
        event_timestamp: optional Time = EVENT_TIMESTAMP;
        /// The charged subscriber.
        subscription_id: many SubscriptionId<'a> = SUBSCRIPTION_ID;
        /// The service, if units are in the command.
        service_identifier: optional u32 = SERVICE_IDENTIFIER;
        /// Reason for the end of the session.
        termination_cause: optional TerminationCause = TERMINATION_CAUSE;
        /// Units requested in the command.
        requested_service_unit: optional ServiceUnits = REQUESTED_SERVICE_UNIT;
        /// Action of an EVENT_REQUEST.
        requested_action: optional RequestedAction = REQUESTED_ACTION;
        /// Units used, in the command.
        used_service_unit: many ServiceUnits = USED_SERVICE_UNIT;
        /// Whether units are in Multiple-Services-Credit-Control.
        multiple_services_indicator: optional MultipleServices = MULTIPLE_SERVICES_INDICATOR;
        /// Units of each service.
        services: many Service<'a> = MULTIPLE_SERVICES_CREDIT_CONTROL;
    } known &[ROUTING, SERVICE];

    /// Credit-Control-Answer (RFC 8506, 3.2).
    CreditControlAnswer<'a> {
        /// As in the request. Required unless the E flag is set.
        session_id: optional &'a str = SESSION_ID;
        /// Result; absent if `experimental_result` is present.
        result_code: optional ResultCode = RESULT_CODE;
        /// Result defined by a vendor.
        experimental_result: optional ExperimentalResult = EXPERIMENTAL_RESULT;
        /// Origin-Host of the sender.
        origin_host: one &'a str = ORIGIN_HOST;
        /// Realm of the sender.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Application-Id of credit control.
        auth_application_id: optional u32 = AUTH_APPLICATION_ID;
        /// As in the request; absent in error answers.
        request_type: optional RequestType = CC_REQUEST_TYPE;
        /// As in the request; absent in error answers.
        request_number: optional u32 = CC_REQUEST_NUMBER;
        /// Whether another server can continue the session.
        session_failover: optional SessionFailover = CC_SESSION_FAILOVER;
        /// CC-Sub-Session-Id.
        cc_sub_session_id: optional u64 = CC_SUB_SESSION_ID;
        /// Increases with each start of the sender that has lost all sessions.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
        /// Time of the event.
        event_timestamp: optional Time = EVENT_TIMESTAMP;
        /// Units granted in the command.
        granted_service_unit: optional ServiceUnits = GRANTED_SERVICE_UNIT;
        /// Units of each service.
        services: many Service<'a> = MULTIPLE_SERVICES_CREDIT_CONTROL;
        /// Cost of the service.
        cost_information: optional CostInformation<'a> = COST_INFORMATION;
        /// No more units will be granted after these.
        final_unit_indication: optional FinalUnitIndication<'a> = FINAL_UNIT_INDICATION;
        /// The answer to CHECK_BALANCE.
        check_balance_result: optional CheckBalanceResult = CHECK_BALANCE_RESULT;
        /// What to do if the server fails during a session.
        failure_handling: optional FailureHandling = CREDIT_CONTROL_FAILURE_HANDLING;
        /// What to do if the server fails during a direct debit.
        debit_failure_handling: optional DebitFailureHandling = DIRECT_DEBITING_FAILURE_HANDLING;
        /// Validity of the grant in seconds.
        validity_time: optional u32 = VALIDITY_TIME;
        /// Balance of the account (TS 32.299).
        remaining_balance: optional Balance = REMAINING_BALANCE;
        /// Text for people; often not UTF-8.
        error_message: optional &'a [u8] = ERROR_MESSAGE;
        /// Host that reports the error, if it is not Origin-Host.
        error_reporting_host: optional &'a str = ERROR_REPORTING_HOST;
        /// Invalid or missing AVPs of the request.
        failed_avp: many FailedAvp<'a> = FAILED_AVP;
    } known &[ROUTING, &[dictionary::USER_NAME, dictionary::ACCT_MULTI_SESSION_ID, dictionary::LOW_BALANCE_INDICATION,
        dictionary::REFUND_INFORMATION, dictionary::SERVICE_INFORMATION]];

    /// Multiple-Services-Credit-Control (RFC 8506, 8.16): one service of a request or an answer.
    Service<'a> {
        /// Units granted.
        granted_service_unit: optional ServiceUnits = GRANTED_SERVICE_UNIT;
        /// Units requested. Absent: used units are debited and none are granted.
        requested_service_unit: optional ServiceUnits = REQUESTED_SERVICE_UNIT;
        /// Units used.
        used_service_unit: many ServiceUnits = USED_SERVICE_UNIT;
        /// The services.
        service_identifier: many u32 = SERVICE_IDENTIFIER;
        /// The rating group.
        rating_group: optional u32 = RATING_GROUP;
        /// Validity of the grant in seconds.
        validity_time: optional u32 = VALIDITY_TIME;
        /// Result for this service; absent: that of the answer.
        result_code: optional ResultCode = RESULT_CODE;
        /// No more units will be granted after these.
        final_unit_indication: optional FinalUnitIndication<'a> = FINAL_UNIT_INDICATION;
        /// Before or after a tariff change.
        tariff_change_usage: optional TariffChangeUsage = TARIFF_CHANGE_USAGE;
        /// Reason for the report (TS 32.299).
        reporting_reason: optional ReportingReason = REPORTING_REASON;
    } known &[HINTS];

    /// Granted-, Requested- and Used-Service-Unit (RFC 8506, 8.17 to 8.19). Without any AVP: in a request, the
    /// server decides; in a grant, units of an unknown kind.
    ServiceUnits {
        /// When the tariff changes.
        tariff_time_change: optional Time = TARIFF_TIME_CHANGE;
        /// Used before or after the change.
        tariff_change_usage: optional TariffChangeUsage = TARIFF_CHANGE_USAGE;
        /// Seconds.
        time: optional u32 = CC_TIME;
        /// Money.
        money: optional Money = CC_MONEY;
        /// Octets in both directions.
        total_octets: optional u64 = CC_TOTAL_OCTETS;
        /// Octets from the user.
        input_octets: optional u64 = CC_INPUT_OCTETS;
        /// Octets to the user.
        output_octets: optional u64 = CC_OUTPUT_OCTETS;
        /// Service-specific units: messages.
        service_specific: optional u64 = CC_SERVICE_SPECIFIC_UNITS;
        /// Reason for the report (TS 32.299).
        reporting_reason: optional ReportingReason = REPORTING_REASON;
    } known &[];

    /// CC-Money (RFC 8506, 8.22).
    Money {
        /// Amount.
        unit_value: one UnitValue = UNIT_VALUE;
        /// ISO 4217; absent: the default of the server.
        currency_code: optional u32 = CURRENCY_CODE;
    } known &[];

    /// Remaining-Balance (TS 32.299).
    Balance {
        /// Amount.
        unit_value: one UnitValue = UNIT_VALUE;
        /// ISO 4217. Required by the document, but not all servers send it.
        currency_code: optional u32 = CURRENCY_CODE;
    } known &[];

    /// Unit-Value (RFC 8506, 8.8): `digits` times ten to the power of `exponent`.
    UnitValue {
        /// Significant digits.
        digits: one i64 = VALUE_DIGITS;
        /// Absent: 0.
        exponent: optional i32 = EXPONENT;
    } known &[];

    /// Cost-Information (RFC 8506, 8.7).
    CostInformation<'a> {
        /// Amount.
        unit_value: one UnitValue = UNIT_VALUE;
        /// ISO 4217; 0 is no currency.
        currency_code: optional u32 = CURRENCY_CODE;
        /// The unit that the cost applies to, such as "message".
        cost_unit: optional &'a str = COST_UNIT;
    } known &[];

    /// Final-Unit-Indication (RFC 8506, 8.34).
    FinalUnitIndication<'a> {
        /// Action once the units are used; absent or unknown: TERMINATE.
        action: optional FinalUnitAction = FINAL_UNIT_ACTION;
        /// Filters, with RESTRICT_ACCESS.
        restriction_filter_rule: many &'a [u8] = RESTRICTION_FILTER_RULE;
        /// Filters by name, with RESTRICT_ACCESS.
        filter_id: many &'a str = FILTER_ID;
        /// Target of REDIRECT.
        redirect_server: optional RedirectServer<'a> = REDIRECT_SERVER;
    } known &[];

    /// Redirect-Server (RFC 8506, 8.37).
    RedirectServer<'a> {
        /// Type of the address.
        address_type: one RedirectAddressType = REDIRECT_ADDRESS_TYPE;
        /// The address.
        address: one &'a str = REDIRECT_SERVER_ADDRESS;
    } known &[];

    /// Subscription-Id (RFC 8506, 8.46).
    SubscriptionId<'a> {
        /// Type of the identity.
        kind: one SubscriptionIdType = SUBSCRIPTION_ID_TYPE;
        /// The identity.
        data: one &'a str = SUBSCRIPTION_ID_DATA;
    } known &[];
}
