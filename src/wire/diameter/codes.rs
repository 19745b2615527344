//! Result codes and enumerations: numbers with named constants, because peers may send values of later documents.
//!
//! The lists are complete copies of their documents, whether this program uses a value or not: the OCS simulator, the
//! tests and the log show their names.

use std::fmt;

/// Result-Code (RFC 6733, 7.1; RFC 8506, 9). Displayed as name and number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResultCode(pub u32);

/// Declares constants and names.
macro_rules! result_codes {
    ($($constant:ident = $code:literal;)*) => {
        impl ResultCode {
            $(
                #[doc = concat!("DIAMETER_", stringify!($constant), ", ", $code, ".")]
                pub const $constant: ResultCode = ResultCode($code);
            )*

            /// Returns the name in the RFC, without `DIAMETER_`; `None`: unknown.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($constant)),)*
                    _ => None,
                }
            }
        }
    };
}

result_codes! {
    SUCCESS = 2001;
    LIMITED_SUCCESS = 2002;
    COMMAND_UNSUPPORTED = 3001;
    UNABLE_TO_DELIVER = 3002;
    REALM_NOT_SERVED = 3003;
    TOO_BUSY = 3004;
    LOOP_DETECTED = 3005;
    REDIRECT_INDICATION = 3006;
    APPLICATION_UNSUPPORTED = 3007;
    INVALID_HDR_BITS = 3008;
    INVALID_AVP_BITS = 3009;
    UNKNOWN_PEER = 3010;
    AUTHENTICATION_REJECTED = 4001;
    OUT_OF_SPACE = 4002;
    ELECTION_LOST = 4003;
    END_USER_SERVICE_DENIED = 4010;
    CREDIT_CONTROL_NOT_APPLICABLE = 4011;
    CREDIT_LIMIT_REACHED = 4012;
    AVP_UNSUPPORTED = 5001;
    UNKNOWN_SESSION_ID = 5002;
    AUTHORIZATION_REJECTED = 5003;
    INVALID_AVP_VALUE = 5004;
    MISSING_AVP = 5005;
    RESOURCES_EXCEEDED = 5006;
    CONTRADICTING_AVPS = 5007;
    AVP_NOT_ALLOWED = 5008;
    AVP_OCCURS_TOO_MANY_TIMES = 5009;
    NO_COMMON_APPLICATION = 5010;
    UNSUPPORTED_VERSION = 5011;
    UNABLE_TO_COMPLY = 5012;
    INVALID_BIT_IN_HEADER = 5013;
    INVALID_AVP_LENGTH = 5014;
    INVALID_MESSAGE_LENGTH = 5015;
    INVALID_AVP_BIT_COMBO = 5016;
    NO_COMMON_SECURITY = 5017;
    USER_UNKNOWN = 5030;
    RATING_FAILED = 5031;
}

impl ResultCode {
    /// Whether it is 2xxx.
    pub fn is_success(self) -> bool {
        self.0 / 1000 == 2
    }

    /// Whether it is 3xxx: such answers have the E flag (RFC 6733, 7.1.3).
    pub fn is_protocol_error(self) -> bool {
        self.0 / 1000 == 3
    }

    /// Whether it is 4xxx (RFC 6733, 7.1.4): the request may succeed later.
    pub fn is_transient(self) -> bool {
        self.0 / 1000 == 4
    }
}

impl fmt::Display for ResultCode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(out, "{name} ({})", self.0),
            None => write!(out, "result code {}", self.0),
        }
    }
}

/// Declares Enumerated AVPs.
macro_rules! enumerations {
    ($($(#[$meta:meta])* $name:ident { $($constant:ident = $value:literal;)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name(pub i32);

        impl $name {
            $(
                #[doc = concat!(stringify!($constant), ", ", $value, ".")]
                pub const $constant: $name = $name($value);
            )*

            /// Returns the name in the document; `None`: unknown.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($constant)),)*
                    _ => None,
                }
            }
        }
    )*};
}
enumerations! {
    /// CC-Request-Type (RFC 8506, 8.3).
    RequestType {
        INITIAL_REQUEST = 1;
        UPDATE_REQUEST = 2;
        TERMINATION_REQUEST = 3;
        EVENT_REQUEST = 4;
    }
    /// Requested-Action (RFC 8506, 8.41), in an EVENT_REQUEST only.
    RequestedAction {
        DIRECT_DEBITING = 0;
        REFUND_ACCOUNT = 1;
        CHECK_BALANCE = 2;
        PRICE_ENQUIRY = 3;
    }
    /// Check-Balance-Result (RFC 8506, 8.6).
    CheckBalanceResult {
        ENOUGH_CREDIT = 0;
        NO_CREDIT = 1;
    }
    /// CC-Session-Failover (RFC 8506, 8.4); absent: not supported.
    SessionFailover {
        FAILOVER_NOT_SUPPORTED = 0;
        FAILOVER_SUPPORTED = 1;
    }
    /// Credit-Control-Failure-Handling (RFC 8506, 8.14); absent: TERMINATE.
    FailureHandling {
        TERMINATE = 0;
        CONTINUE = 1;
        RETRY_AND_TERMINATE = 2;
    }
    /// Direct-Debiting-Failure-Handling (RFC 8506, 8.15); absent: TERMINATE_OR_BUFFER.
    DebitFailureHandling {
        TERMINATE_OR_BUFFER = 0;
        CONTINUE = 1;
    }
    /// Final-Unit-Action (RFC 8506, 8.35); an unknown value means TERMINATE.
    FinalUnitAction {
        TERMINATE = 0;
        REDIRECT = 1;
        RESTRICT_ACCESS = 2;
    }
    /// Redirect-Address-Type (RFC 8506, 8.38).
    RedirectAddressType {
        IPV4_ADDRESS = 0;
        IPV6_ADDRESS = 1;
        URL = 2;
        SIP_URI = 3;
    }
    /// Subscription-Id-Type (RFC 8506, 8.47).
    SubscriptionIdType {
        END_USER_E164 = 0;
        END_USER_IMSI = 1;
        END_USER_SIP_URI = 2;
        END_USER_NAI = 3;
        END_USER_PRIVATE = 4;
    }
    /// Multiple-Services-Indicator (RFC 8506, 8.40).
    MultipleServices {
        MULTIPLE_SERVICES_NOT_SUPPORTED = 0;
        MULTIPLE_SERVICES_SUPPORTED = 1;
    }
    /// Tariff-Change-Usage (RFC 8506, 8.27).
    TariffChangeUsage {
        UNIT_BEFORE_TARIFF_CHANGE = 0;
        UNIT_AFTER_TARIFF_CHANGE = 1;
        UNIT_INDETERMINATE = 2;
    }
    /// Termination-Cause (RFC 6733, 8.15).
    TerminationCause {
        LOGOUT = 1;
        SERVICE_NOT_PROVIDED = 2;
        BAD_ANSWER = 3;
        ADMINISTRATIVE = 4;
        LINK_BROKEN = 5;
        AUTH_EXPIRED = 6;
        USER_MOVED = 7;
        SESSION_TIMEOUT = 8;
    }
    /// Disconnect-Cause (RFC 6733, 5.4.3).
    DisconnectCause {
        REBOOTING = 0;
        BUSY = 1;
        DO_NOT_WANT_TO_TALK_TO_YOU = 2;
    }
    /// Re-Auth-Request-Type (RFC 6733, 8.12).
    ReAuthRequestType {
        AUTHORIZE_ONLY = 0;
        AUTHORIZE_AUTHENTICATE = 1;
    }
    /// Reporting-Reason (TS 32.299).
    ReportingReason {
        THRESHOLD = 0;
        QHT = 1;
        FINAL = 2;
        QUOTA_EXHAUSTED = 3;
        VALIDITY_TIME = 4;
        OTHER_QUOTA_TYPE = 5;
        RATING_CONDITION_CHANGE = 6;
        FORCED_REAUTHORISATION = 7;
        POOL_EXHAUSTED = 8;
    }
    /// Role-Of-Node (TS 32.299).
    RoleOfNode {
        ORIGINATING_ROLE = 0;
        TERMINATING_ROLE = 1;
        PROXY_ROLE = 2;
        B2BUA_ROLE = 3;
    }
    /// Node-Functionality (TS 32.299); from 7 on the releases differ.
    NodeFunctionality {
        S_CSCF = 0;
        P_CSCF = 1;
        I_CSCF = 2;
        MRFC = 3;
        MGCF = 4;
        BGCF = 5;
        AS = 6;
    }
    /// Application-Service-Type (OMA DDS Charging Data).
    ApplicationServiceType {
        SENDING = 100;
        RECEIVING = 101;
        RETRIEVAL = 102;
        INVITING = 103;
        LEAVING = 104;
        JOINING = 105;
    }
}
