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

/// What a request may say about the service; it is for rating, not for the codec.
const SERVICE: &[Avp] = &[
    dictionary::USER_EQUIPMENT_INFO,
    dictionary::SERVICE_PARAMETER_INFO,
    dictionary::SUBSCRIPTION_ID_EXTENSION,
    dictionary::CC_CORRELATION_ID,
    dictionary::ACCT_MULTI_SESSION_ID,
    dictionary::SERVICE_INFORMATION,
    dictionary::AOC_REQUEST_TYPE,
];

/// What TS 32.299 adds to Multiple-Services-Credit-Control: hints when to report.
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
        /// Which session of charging.
        session_id: one &'a str = SESSION_ID;
        /// Who asks.
        origin_host: one &'a str = ORIGIN_HOST;
        /// And of which realm.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Where the charging system is.
        destination_realm: one &'a str = DESTINATION_REALM;
        /// [`APPLICATION_CREDIT_CONTROL`](dictionary::APPLICATION_CREDIT_CONTROL).
        auth_application_id: one u32 = AUTH_APPLICATION_ID;
        /// What kind of service, and whose definition of it.
        service_context_id: one &'a str = SERVICE_CONTEXT_ID;
        /// Begin, go on, end, or all at once.
        request_type: one RequestType = CC_REQUEST_TYPE;
        /// Rises within a session; a resend keeps it.
        request_number: one u32 = CC_REQUEST_NUMBER;
        /// Which charging system.
        destination_host: optional &'a str = DESTINATION_HOST;
        /// The subscriber's private identity.
        user_name: optional &'a str = USER_NAME;
        /// Part of the session.
        cc_sub_session_id: optional u64 = CC_SUB_SESSION_ID;
        /// Rises with each start of the client that loses its state.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
        /// When it happened.
        event_timestamp: optional Time = EVENT_TIMESTAMP;
        /// Who pays.
        subscription_id: many SubscriptionId<'a> = SUBSCRIPTION_ID;
        /// Which service, where units stand in the command.
        service_identifier: optional u32 = SERVICE_IDENTIFIER;
        /// Why the session ends.
        termination_cause: optional TerminationCause = TERMINATION_CAUSE;
        /// Units wanted, outside of services.
        requested_service_unit: optional ServiceUnits = REQUESTED_SERVICE_UNIT;
        /// What an EVENT_REQUEST wants.
        requested_action: optional RequestedAction = REQUESTED_ACTION;
        /// Units used, outside of services.
        used_service_unit: many ServiceUnits = USED_SERVICE_UNIT;
        /// Whether units stand in services.
        multiple_services_indicator: optional MultipleServices = MULTIPLE_SERVICES_INDICATOR;
        /// Units wanted and used of each service.
        services: many Service<'a> = MULTIPLE_SERVICES_CREDIT_CONTROL;
    } known &[ROUTING, SERVICE];

    /// Credit-Control-Answer (RFC 8506, 3.2).
    CreditControlAnswer<'a> {
        /// As in the request. Only an answer with the E flag may be without.
        session_id: optional &'a str = SESSION_ID;
        /// Either this or `experimental_result` is there.
        result_code: optional ResultCode = RESULT_CODE;
        /// A result of a vendor's own.
        experimental_result: optional ExperimentalResult = EXPERIMENTAL_RESULT;
        /// Who answers.
        origin_host: one &'a str = ORIGIN_HOST;
        /// And of which realm.
        origin_realm: one &'a str = ORIGIN_REALM;
        /// Credit control.
        auth_application_id: optional u32 = AUTH_APPLICATION_ID;
        /// As in the request; error answers lack it.
        request_type: optional RequestType = CC_REQUEST_TYPE;
        /// As in the request; error answers lack it.
        request_number: optional u32 = CC_REQUEST_NUMBER;
        /// Whether the session may move to another server.
        session_failover: optional SessionFailover = CC_SESSION_FAILOVER;
        /// Part of the session.
        cc_sub_session_id: optional u64 = CC_SUB_SESSION_ID;
        /// Rises with each start of the server that loses its state.
        origin_state_id: optional u32 = ORIGIN_STATE_ID;
        /// When it happened.
        event_timestamp: optional Time = EVENT_TIMESTAMP;
        /// Units granted, outside of services.
        granted_service_unit: optional ServiceUnits = GRANTED_SERVICE_UNIT;
        /// Units granted of each service.
        services: many Service<'a> = MULTIPLE_SERVICES_CREDIT_CONTROL;
        /// What it has cost, or would cost.
        cost_information: optional CostInformation<'a> = COST_INFORMATION;
        /// The grant is the last one.
        final_unit_indication: optional FinalUnitIndication<'a> = FINAL_UNIT_INDICATION;
        /// The answer to CHECK_BALANCE.
        check_balance_result: optional CheckBalanceResult = CHECK_BALANCE_RESULT;
        /// What to do when the server fails in a session.
        failure_handling: optional FailureHandling = CREDIT_CONTROL_FAILURE_HANDLING;
        /// The same for direct debits.
        debit_failure_handling: optional DebitFailureHandling = DIRECT_DEBITING_FAILURE_HANDLING;
        /// Seconds that the grant is good for.
        validity_time: optional u32 = VALIDITY_TIME;
        /// What is left of the account (TS 32.299).
        remaining_balance: optional Balance = REMAINING_BALANCE;
        /// For people; often no UTF-8.
        error_message: optional &'a [u8] = ERROR_MESSAGE;
        /// Who found the error, if not the origin.
        error_reporting_host: optional &'a str = ERROR_REPORTING_HOST;
        /// What was wrong with the request.
        failed_avp: many FailedAvp<'a> = FAILED_AVP;
    } known &[ROUTING, &[dictionary::USER_NAME, dictionary::ACCT_MULTI_SESSION_ID, dictionary::LOW_BALANCE_INDICATION,
        dictionary::REFUND_INFORMATION, dictionary::SERVICE_INFORMATION]];

    /// Multiple-Services-Credit-Control (RFC 8506, 8.16): one service of a request or an answer.
    Service<'a> {
        /// Units granted.
        granted_service_unit: optional ServiceUnits = GRANTED_SERVICE_UNIT;
        /// Units wanted; without it, what is used is debited and nothing is granted.
        requested_service_unit: optional ServiceUnits = REQUESTED_SERVICE_UNIT;
        /// Units used.
        used_service_unit: many ServiceUnits = USED_SERVICE_UNIT;
        /// Which services.
        service_identifier: many u32 = SERVICE_IDENTIFIER;
        /// Which group of services.
        rating_group: optional u32 = RATING_GROUP;
        /// Seconds that the grant is good for.
        validity_time: optional u32 = VALIDITY_TIME;
        /// What became of this service; absent: as the answer's own.
        result_code: optional ResultCode = RESULT_CODE;
        /// The grant is the last one.
        final_unit_indication: optional FinalUnitIndication<'a> = FINAL_UNIT_INDICATION;
        /// For which side of a change of tariff.
        tariff_change_usage: optional TariffChangeUsage = TARIFF_CHANGE_USAGE;
        /// Why it is reported now (TS 32.299).
        reporting_reason: optional ReportingReason = REPORTING_REASON;
    } known &[HINTS];

    /// Granted-, Requested- and Used-Service-Unit (RFC 8506, 8.17 to 8.19). Nothing set: in a request, whatever the server
    /// thinks fit; in a grant, units of a kind that nobody here knows.
    ServiceUnits {
        /// When the tariff changes.
        tariff_time_change: optional Time = TARIFF_TIME_CHANGE;
        /// On which side of the change they were used.
        tariff_change_usage: optional TariffChangeUsage = TARIFF_CHANGE_USAGE;
        /// Seconds.
        time: optional u32 = CC_TIME;
        /// Money.
        money: optional Money = CC_MONEY;
        /// Octets both ways.
        total_octets: optional u64 = CC_TOTAL_OCTETS;
        /// Octets from the user.
        input_octets: optional u64 = CC_INPUT_OCTETS;
        /// Octets to the user.
        output_octets: optional u64 = CC_OUTPUT_OCTETS;
        /// What the service counts: messages.
        service_specific: optional u64 = CC_SERVICE_SPECIFIC_UNITS;
        /// Why they are reported now (TS 32.299).
        reporting_reason: optional ReportingReason = REPORTING_REASON;
    } known &[];

    /// CC-Money (RFC 8506, 8.22).
    Money {
        /// How much.
        unit_value: one UnitValue = UNIT_VALUE;
        /// ISO 4217; absent: as the server is set up.
        currency_code: optional u32 = CURRENCY_CODE;
    } known &[];

    /// Remaining-Balance (TS 32.299).
    Balance {
        /// How much.
        unit_value: one UnitValue = UNIT_VALUE;
        /// ISO 4217. The document wants it; not every server sends it.
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
        /// How much.
        unit_value: one UnitValue = UNIT_VALUE;
        /// ISO 4217. The RFC wants it; 0 is nobody's.
        currency_code: optional u32 = CURRENCY_CODE;
        /// For what: "message".
        cost_unit: optional &'a str = COST_UNIT;
    } known &[];

    /// Final-Unit-Indication (RFC 8506, 8.34).
    FinalUnitIndication<'a> {
        /// What to do when the last units are used; not there or not known: TERMINATE.
        action: optional FinalUnitAction = FINAL_UNIT_ACTION;
        /// Filters, with RESTRICT_ACCESS.
        restriction_filter_rule: many &'a [u8] = RESTRICTION_FILTER_RULE;
        /// Filters by name, with RESTRICT_ACCESS.
        filter_id: many &'a str = FILTER_ID;
        /// Where to, with REDIRECT.
        redirect_server: optional RedirectServer<'a> = REDIRECT_SERVER;
    } known &[];

    /// Redirect-Server (RFC 8506, 8.37).
    RedirectServer<'a> {
        /// What kind of address.
        address_type: one RedirectAddressType = REDIRECT_ADDRESS_TYPE;
        /// Where.
        address: one &'a str = REDIRECT_SERVER_ADDRESS;
    } known &[];

    /// Subscription-Id (RFC 8506, 8.46).
    SubscriptionId<'a> {
        /// What kind of identity.
        kind: one SubscriptionIdType = SUBSCRIPTION_ID_TYPE;
        /// Which.
        data: one &'a str = SUBSCRIPTION_ID_DATA;
    } known &[];
}
