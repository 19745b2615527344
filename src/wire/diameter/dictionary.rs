//! AVP dictionary of RFC 6733, RFC 8506, 3GPP TS 32.299 and OMA: code, name, data format, and whether a sender sets the
//! M flag.
//!
//! It covers all AVPs of credit control that servers send or document, whether this program uses them or not: faults
//! and logs name them, and a Failed-AVP needs the minimum length of their format.

use std::fmt;

/// Vendor-Id of 3GPP. The AVPs of OMA for instant messages use it as well.
pub const VENDOR_3GPP: u32 = 10_415;

/// Application-Id of the Diameter base protocol.
pub const APPLICATION_BASE: u32 = 0;

/// Application-Id of Diameter Credit-Control (RFC 8506).
pub const APPLICATION_CREDIT_CONTROL: u32 = 4;

/// Application-Id of relays, which accept all applications (RFC 6733, 2.4).
pub const APPLICATION_RELAY: u32 = 0xffff_ffff;

/// A command code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Command(pub u32);

impl Command {
    /// CER and CEA.
    pub const CAPABILITIES_EXCHANGE: Command = Command(257);
    /// RAR and RAA.
    pub const RE_AUTH: Command = Command(258);
    /// CCR and CCA.
    pub const CREDIT_CONTROL: Command = Command(272);
    /// ASR and ASA.
    pub const ABORT_SESSION: Command = Command(274);
    /// DWR and DWA.
    pub const DEVICE_WATCHDOG: Command = Command(280);
    /// DPR and DPA.
    pub const DISCONNECT_PEER: Command = Command(282);
}

/// Data formats (RFC 6733, 4.2 and 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Octets.
    OctetString,
    /// Text.
    Utf8String,
    /// Name of a host or realm.
    DiameterIdentity,
    /// 32 bits, signed.
    Integer32,
    /// 64 bits, signed.
    Integer64,
    /// 32 bits.
    Unsigned32,
    /// 64 bits.
    Unsigned64,
    /// 32 bits, signed: a named value.
    Enumerated,
    /// Seconds since 1900.
    Time,
    /// Address family and address.
    Address,
    /// AVPs.
    Grouped,
}

impl Format {
    /// Minimum length of the data, in octets.
    pub const fn minimum(self) -> usize {
        match self {
            Format::OctetString | Format::Utf8String | Format::DiameterIdentity | Format::Grouped => 0,
            Format::Integer32 | Format::Unsigned32 | Format::Enumerated | Format::Time => 4,
            Format::Address => 6,
            Format::Integer64 | Format::Unsigned64 => 8,
        }
    }
}

/// Definition of an AVP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avp {
    /// AVP Code.
    pub code: u32,
    /// Vendor-Id; 0: IETF, encoded without the field.
    pub vendor: u32,
    /// Whether a sender sets the M flag.
    pub mandatory: bool,
    /// Data format.
    pub format: Format,
    /// Name in its document.
    pub name: &'static str,
}

impl Avp {
    /// Returns the AVP with the M flag clear, for receivers that may not know it.
    pub const fn optional(self) -> Avp {
        Avp { mandatory: false, ..self }
    }
}

impl fmt::Display for Avp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({})", self.name, self.code)
    }
}

/// Returns the name of the AVP with this code and vendor; `None`: unknown.
pub fn name(code: u32, vendor: u32) -> Option<&'static str> {
    ALL.iter().find(|avp| avp.code == code && avp.vendor == vendor).map(|avp| avp.name)
}

/// Declares constants: code, name, format, and whether the M flag is set.
macro_rules! dictionary {
    ($($vendor:literal { $($constant:ident = $code:literal $name:literal $format:ident $flag:ident;)* })*) => {
        $($(
            #[doc = concat!($name, ", ", $code, ".")]
            pub const $constant: Avp = Avp {
                code: $code,
                vendor: $vendor,
                mandatory: dictionary!($flag),
                format: Format::$format,
                name: $name,
            };
        )*)*
        /// All AVPs of the dictionary.
        pub const ALL: &[Avp] = &[$($($constant,)*)*];
    };
    (must) => { true };
    (may) => { false };
}

dictionary! {
    // RFC 6733, 4.5.
    0 {
        USER_NAME = 1 "User-Name" Utf8String must;
        FILTER_ID = 11 "Filter-Id" Utf8String must;
        CLASS = 25 "Class" OctetString must;
        PROXY_STATE = 33 "Proxy-State" OctetString must;
        ACCT_MULTI_SESSION_ID = 50 "Acct-Multi-Session-Id" Utf8String must;
        EVENT_TIMESTAMP = 55 "Event-Timestamp" Time must;
        HOST_IP_ADDRESS = 257 "Host-IP-Address" Address must;
        AUTH_APPLICATION_ID = 258 "Auth-Application-Id" Unsigned32 must;
        ACCT_APPLICATION_ID = 259 "Acct-Application-Id" Unsigned32 must;
        VENDOR_SPECIFIC_APPLICATION_ID = 260 "Vendor-Specific-Application-Id" Grouped must;
        REDIRECT_HOST_USAGE = 261 "Redirect-Host-Usage" Enumerated must;
        REDIRECT_MAX_CACHE_TIME = 262 "Redirect-Max-Cache-Time" Unsigned32 must;
        SESSION_ID = 263 "Session-Id" Utf8String must;
        ORIGIN_HOST = 264 "Origin-Host" DiameterIdentity must;
        SUPPORTED_VENDOR_ID = 265 "Supported-Vendor-Id" Unsigned32 must;
        VENDOR_ID = 266 "Vendor-Id" Unsigned32 must;
        FIRMWARE_REVISION = 267 "Firmware-Revision" Unsigned32 may;
        RESULT_CODE = 268 "Result-Code" Unsigned32 must;
        PRODUCT_NAME = 269 "Product-Name" Utf8String may;
        DISCONNECT_CAUSE = 273 "Disconnect-Cause" Enumerated must;
        ORIGIN_STATE_ID = 278 "Origin-State-Id" Unsigned32 must;
        FAILED_AVP = 279 "Failed-AVP" Grouped must;
        PROXY_HOST = 280 "Proxy-Host" DiameterIdentity must;
        ERROR_MESSAGE = 281 "Error-Message" Utf8String may;
        ROUTE_RECORD = 282 "Route-Record" DiameterIdentity must;
        DESTINATION_REALM = 283 "Destination-Realm" DiameterIdentity must;
        PROXY_INFO = 284 "Proxy-Info" Grouped must;
        RE_AUTH_REQUEST_TYPE = 285 "Re-Auth-Request-Type" Enumerated must;
        REDIRECT_HOST = 292 "Redirect-Host" DiameterIdentity must;
        DESTINATION_HOST = 293 "Destination-Host" DiameterIdentity must;
        ERROR_REPORTING_HOST = 294 "Error-Reporting-Host" DiameterIdentity may;
        TERMINATION_CAUSE = 295 "Termination-Cause" Enumerated must;
        ORIGIN_REALM = 296 "Origin-Realm" DiameterIdentity must;
        EXPERIMENTAL_RESULT = 297 "Experimental-Result" Grouped must;
        EXPERIMENTAL_RESULT_CODE = 298 "Experimental-Result-Code" Unsigned32 must;
        INBAND_SECURITY_ID = 299 "Inband-Security-Id" Unsigned32 must;
    }
    // RFC 8506, 8.
    0 {
        CC_CORRELATION_ID = 411 "CC-Correlation-Id" OctetString may;
        CC_INPUT_OCTETS = 412 "CC-Input-Octets" Unsigned64 must;
        CC_MONEY = 413 "CC-Money" Grouped must;
        CC_OUTPUT_OCTETS = 414 "CC-Output-Octets" Unsigned64 must;
        CC_REQUEST_NUMBER = 415 "CC-Request-Number" Unsigned32 must;
        CC_REQUEST_TYPE = 416 "CC-Request-Type" Enumerated must;
        CC_SERVICE_SPECIFIC_UNITS = 417 "CC-Service-Specific-Units" Unsigned64 must;
        CC_SESSION_FAILOVER = 418 "CC-Session-Failover" Enumerated must;
        CC_SUB_SESSION_ID = 419 "CC-Sub-Session-Id" Unsigned64 must;
        CC_TIME = 420 "CC-Time" Unsigned32 must;
        CC_TOTAL_OCTETS = 421 "CC-Total-Octets" Unsigned64 must;
        CHECK_BALANCE_RESULT = 422 "Check-Balance-Result" Enumerated must;
        COST_INFORMATION = 423 "Cost-Information" Grouped must;
        COST_UNIT = 424 "Cost-Unit" Utf8String must;
        CURRENCY_CODE = 425 "Currency-Code" Unsigned32 must;
        CREDIT_CONTROL_FAILURE_HANDLING = 427 "Credit-Control-Failure-Handling" Enumerated must;
        DIRECT_DEBITING_FAILURE_HANDLING = 428 "Direct-Debiting-Failure-Handling" Enumerated must;
        EXPONENT = 429 "Exponent" Integer32 must;
        FINAL_UNIT_INDICATION = 430 "Final-Unit-Indication" Grouped must;
        GRANTED_SERVICE_UNIT = 431 "Granted-Service-Unit" Grouped must;
        RATING_GROUP = 432 "Rating-Group" Unsigned32 must;
        REDIRECT_ADDRESS_TYPE = 433 "Redirect-Address-Type" Enumerated must;
        REDIRECT_SERVER = 434 "Redirect-Server" Grouped must;
        REDIRECT_SERVER_ADDRESS = 435 "Redirect-Server-Address" Utf8String must;
        REQUESTED_ACTION = 436 "Requested-Action" Enumerated must;
        REQUESTED_SERVICE_UNIT = 437 "Requested-Service-Unit" Grouped must;
        RESTRICTION_FILTER_RULE = 438 "Restriction-Filter-Rule" OctetString must;
        SERVICE_IDENTIFIER = 439 "Service-Identifier" Unsigned32 must;
        SERVICE_PARAMETER_INFO = 440 "Service-Parameter-Info" Grouped may;
        SUBSCRIPTION_ID = 443 "Subscription-Id" Grouped must;
        SUBSCRIPTION_ID_DATA = 444 "Subscription-Id-Data" Utf8String must;
        UNIT_VALUE = 445 "Unit-Value" Grouped must;
        USED_SERVICE_UNIT = 446 "Used-Service-Unit" Grouped must;
        VALUE_DIGITS = 447 "Value-Digits" Integer64 must;
        VALIDITY_TIME = 448 "Validity-Time" Unsigned32 must;
        FINAL_UNIT_ACTION = 449 "Final-Unit-Action" Enumerated must;
        SUBSCRIPTION_ID_TYPE = 450 "Subscription-Id-Type" Enumerated must;
        TARIFF_TIME_CHANGE = 451 "Tariff-Time-Change" Time must;
        TARIFF_CHANGE_USAGE = 452 "Tariff-Change-Usage" Enumerated must;
        G_S_U_POOL_IDENTIFIER = 453 "G-S-U-Pool-Identifier" Unsigned32 must;
        CC_UNIT_TYPE = 454 "CC-Unit-Type" Enumerated must;
        MULTIPLE_SERVICES_INDICATOR = 455 "Multiple-Services-Indicator" Enumerated must;
        MULTIPLE_SERVICES_CREDIT_CONTROL = 456 "Multiple-Services-Credit-Control" Grouped must;
        G_S_U_POOL_REFERENCE = 457 "G-S-U-Pool-Reference" Grouped must;
        USER_EQUIPMENT_INFO = 458 "User-Equipment-Info" Grouped may;
        USER_EQUIPMENT_INFO_TYPE = 459 "User-Equipment-Info-Type" Enumerated may;
        USER_EQUIPMENT_INFO_VALUE = 460 "User-Equipment-Info-Value" OctetString may;
        SERVICE_CONTEXT_ID = 461 "Service-Context-Id" Utf8String must;
        SUBSCRIPTION_ID_EXTENSION = 659 "Subscription-Id-Extension" Grouped may;
    }
    // 3GPP TS 32.299, 7.2, and OMA DDS Charging Data.
    10_415 {
        EVENT_TYPE = 823 "Event-Type" Grouped must;
        SIP_METHOD = 824 "SIP-Method" Utf8String must;
        EVENT = 825 "Event" Utf8String must;
        ROLE_OF_NODE = 829 "Role-Of-Node" Enumerated must;
        USER_SESSION_ID = 830 "User-Session-Id" Utf8String must;
        CALLING_PARTY_ADDRESS = 831 "Calling-Party-Address" Utf8String must;
        CALLED_PARTY_ADDRESS = 832 "Called-Party-Address" Utf8String must;
        TIME_STAMPS = 833 "Time-Stamps" Grouped must;
        SIP_REQUEST_TIMESTAMP = 834 "SIP-Request-Timestamp" Time must;
        SIP_RESPONSE_TIMESTAMP = 835 "SIP-Response-Timestamp" Time must;
        APPLICATION_SERVER = 836 "Application-Server" Utf8String must;
        INTER_OPERATOR_IDENTIFIER = 838 "Inter-Operator-Identifier" Grouped must;
        ORIGINATING_IOI = 839 "Originating-IOI" Utf8String must;
        TERMINATING_IOI = 840 "Terminating-IOI" Utf8String must;
        IMS_CHARGING_IDENTIFIER = 841 "IMS-Charging-Identifier" Utf8String must;
        NODE_FUNCTIONALITY = 862 "Node-Functionality" Enumerated must;
        SERVICE_SPECIFIC_DATA = 863 "Service-Specific-Data" Utf8String must;
        TIME_QUOTA_THRESHOLD = 868 "Time-Quota-Threshold" Unsigned32 must;
        VOLUME_QUOTA_THRESHOLD = 869 "Volume-Quota-Threshold" Unsigned32 must;
        QUOTA_HOLDING_TIME = 871 "Quota-Holding-Time" Unsigned32 must;
        REPORTING_REASON = 872 "Reporting-Reason" Enumerated must;
        SERVICE_INFORMATION = 873 "Service-Information" Grouped must;
        IMS_INFORMATION = 876 "IMS-Information" Grouped must;
        QUOTA_CONSUMPTION_TIME = 881 "Quota-Consumption-Time" Unsigned32 must;
        UNIT_QUOTA_THRESHOLD = 1226 "Unit-Quota-Threshold" Unsigned32 must;
        SERVICE_SPECIFIC_INFO = 1249 "Service-Specific-Info" Grouped must;
        SERVICE_GENERIC_INFORMATION = 1256 "Service-Generic-Information" Grouped must;
        SERVICE_SPECIFIC_TYPE = 1257 "Service-Specific-Type" Unsigned32 must;
        TRIGGER = 1264 "Trigger" Grouped must;
        LOW_BALANCE_INDICATION = 2020 "Low-Balance-Indication" Enumerated must;
        REMAINING_BALANCE = 2021 "Remaining-Balance" Grouped must;
        REFUND_INFORMATION = 2022 "Refund-Information" OctetString must;
        AOC_REQUEST_TYPE = 2055 "AoC-Request-Type" Enumerated must;
        APPLICATION_SERVER_ID = 2101 "Application-Server-ID" Utf8String must;
        APPLICATION_SERVICE_TYPE = 2102 "Application-Service-Type" Enumerated must;
        APPLICATION_SESSION_ID = 2103 "Application-Session-ID" Unsigned32 must;
        DELIVERY_STATUS = 2104 "Delivery-Status" Utf8String must;
        IM_INFORMATION = 2110 "IM-Information" Grouped must;
        NUMBER_OF_MESSAGES_SUCCESSFULLY_EXPLODED =
            2111 "Number-Of-Messages-Successfully-Exploded" Unsigned32 must;
        NUMBER_OF_MESSAGES_SUCCESSFULLY_SENT = 2112 "Number-Of-Messages-Successfully-Sent" Unsigned32 must;
        TOTAL_NUMBER_OF_MESSAGES_EXPLODED = 2113 "Total-Number-Of-Messages-Exploded" Unsigned32 must;
        TOTAL_NUMBER_OF_MESSAGES_SENT = 2114 "Total-Number-Of-Messages-Sent" Unsigned32 must;
    }
}
