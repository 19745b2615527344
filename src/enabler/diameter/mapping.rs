//! Mapping of CH-2 to Diameter Credit-Control (RFC 8506; TS 32.299).
//!
//! | CH-2 | reservation | Credit-Control-Request |
//! |---|---|---|
//! | reserve k | none | INITIAL, requested k |
//! | reserve k more | n outstanding | UPDATE, requested n + k |
//! | debit one | n > 1 outstanding | UPDATE, used 1, requested n - 1 |
//! | debit the last | 1 outstanding | TERMINATION, used 1 |
//! | release | n outstanding | TERMINATION, used 0 |
//! | debit | none | EVENT, DIRECT_DEBITING, requested 1 |
//! | refund | any | EVENT, REFUND_ACCOUNT, requested 1 |
//!
//! A Diameter session is one reservation. Its Session-Id contains the number of the request that opened it, and
//! CC-Request-Number counts the requests of the reservation. So all copies of a request have the same two, also after a
//! restart.

use super::service_information;
use super::services::{self, Other};
use crate::charge::ch2::{Denial, Failure, Grant, Operation, Request, Reservation, Response, SessionKey, Trigger};
use crate::charge::policy::OnFailure;
use crate::charge::tariff::{Measure, Quota, QuotaUnit, Unit};
use crate::enabler::Call;
use crate::enabler::diameter::profile::{CreditControlProfile, Profile};
use crate::wire::diameter::codes::{
    FailureHandling, MultipleServices, ReportingReason, RequestType, RequestedAction, SubscriptionIdType,
    TerminationCause,
};
use crate::wire::diameter::credit_control::{Money, Service, ServiceUnits, SubscriptionId, UnitValue};
use crate::wire::diameter::dictionary as avp;
use crate::wire::diameter::{
    Command, CreditControlAnswer, CreditControlRequest, EndToEnd, Flags, HopByHop, Outcome, ResultCode, Time, TooLong,
    Writer,
};

/// Returns the Session-Id of a reservation (RFC 6733, 8.8): Origin-Host, the key of the session in three parts, and the
/// number of the request that opened the reservation.
pub fn session_id(origin_host: &str, session: SessionKey, opened_by: u32) -> String {
    let SessionKey(first, second) = session;
    format!("{origin_host};{};{};{second:016x}.{opened_by}", first >> 32, first as u32)
}

/// Parses a Session-Id: the session, and the number of the request that opened the reservation. `None`: it is not of
/// this host.
pub fn session_of(origin_host: &str, session_id: &str) -> Option<(SessionKey, u32)> {
    let mut parts = session_id.rsplitn(4, ';');
    let (second, opened_by) = parts.next()?.split_once('.')?;
    let second = u64::from_str_radix(second, 16).ok()?;
    let low: u32 = parts.next()?.parse().ok()?;
    let high: u32 = parts.next()?.parse().ok()?;
    let is_own = parts.next()?.eq_ignore_ascii_case(origin_host);
    let key = SessionKey(u64::from(high) << 32 | u64::from(low), second);
    is_own.then_some((key, opened_by.parse().ok()?))
}

/// Returns Session-Id and CC-Request-Number of a request.
pub fn ids_of(origin_host: &str, request: &Request) -> (String, u32) {
    let plan = Plan::new(request);
    (session_id(origin_host, request.session, plan.opened_by), plan.number(request))
}

/// The Credit-Control-Request of a CH-2 request.
struct Plan {
    kind: RequestType,
    opened_by: u32,
    wanted: Option<Quota>,
    /// Quota, and octets to all recipients.
    used: Option<(Quota, u64)>,
    cause: Option<TerminationCause>,
    action: Option<RequestedAction>,
}

impl Plan {
    fn new(request: &Request) -> Plan {
        let (opened_by, outstanding) = match request.reservation {
            Reservation::None => (request.number, Quota(0)),
            Reservation::Open { opened_by, outstanding } | Reservation::Last { opened_by, outstanding } => {
                (opened_by, outstanding)
            }
        };
        let plan = |kind, wanted, used, cause| Plan { kind, opened_by, wanted, used, cause, action: None };
        let octets_of = |octets: &u64| octets.saturating_mul(request.recipients.max(1).into());
        let event = |action, quota: &Quota, octets: &u64| {
            let (kind, used) = (RequestType::EVENT_REQUEST, Some((*quota, octets_of(octets))));
            Plan { kind, opened_by: request.number, wanted: None, used, cause: None, action: Some(action) }
        };
        let ends = matches!(request.reservation, Reservation::Last { .. });
        match (&request.operation, request.reservation) {
            (Operation::Reserve { quota }, Reservation::None) => {
                plan(RequestType::INITIAL_REQUEST, Some(*quota), None, None)
            }
            (Operation::Reserve { quota }, _) => {
                plan(RequestType::UPDATE_REQUEST, Some(Quota(outstanding.0.saturating_add(quota.0))), None, None)
            }
            (Operation::Debit { quota, octets, .. }, Reservation::None) => {
                event(RequestedAction::DIRECT_DEBITING, quota, octets)
            }
            // A separate session (RFC 8506, 6.4), independent of reservations.
            (Operation::Refund { quota, octets, .. }, _) => event(RequestedAction::REFUND_ACCOUNT, quota, octets),
            (Operation::Debit { quota, octets, trigger, .. }, _) if ends => {
                plan(RequestType::TERMINATION_REQUEST, None, Some((*quota, octets_of(octets))), Some(cause(*trigger)))
            }
            (Operation::Debit { quota, octets, .. }, _) => {
                let rest = Quota(outstanding.0.saturating_sub(quota.0));
                plan(RequestType::UPDATE_REQUEST, Some(rest), Some((*quota, octets_of(octets))), None)
            }
            (Operation::Release, _) => {
                let cause = TerminationCause::SERVICE_NOT_PROVIDED;
                plan(RequestType::TERMINATION_REQUEST, None, Some((Quota(0), 0)), Some(cause))
            }
        }
    }

    /// CC-Request-Number.
    fn number(&self, request: &Request) -> u32 {
        if self.opened_by == request.number { 0 } else { request.sequence }
    }

    /// Units in what the server counts. A direct debit requests what it takes (RFC 8506, 6.3).
    fn units(&self, profile: &CreditControlProfile, measure: Measure) -> Units {
        let used = self.used.map(|(quota, octets)| units(profile, measure, quota, octets));
        match self.kind {
            RequestType::EVENT_REQUEST => Units { requested: used, used: None },
            _ => {
                let requested = self.wanted.map(|quota| units(profile, measure, quota, u64::from(quota.0) * 1024));
                Units { requested, used }
            }
        }
    }
}

/// Termination-Cause of a session that ends with this debit (RFC 6733, 8.15).
fn cause(trigger: Trigger) -> TerminationCause {
    match trigger {
        Trigger::Response | Trigger::Error(_) | Trigger::Prepay => TerminationCause::LOGOUT,
        Trigger::Timeout => TerminationCause::SESSION_TIMEOUT,
        Trigger::Close => TerminationCause::LINK_BROKEN,
    }
}

/// Destination of a request, and the grants that it closes there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target<'a> {
    /// Destination-Host; `None`: any server of the realm.
    pub host: Option<&'a str>,
    /// Grants of the server to other services.
    pub others: &'a [Other],
}

/// Units that a request asks for and reports.
struct Units {
    requested: Option<ServiceUnits>,
    used: Option<ServiceUnits>,
}

/// Appends the request to `out`. The client sets the Hop-by-Hop Identifier and the T flag, and the End-to-End
/// Identifier if the request has none.
pub fn write(
    profile: &CreditControlProfile,
    request: &Request,
    call: &Call<'_>,
    target: Target<'_>,
    at: Time,
    out: &mut Vec<u8>,
) -> Result<usize, TooLong> {
    let plan = Plan::new(request);
    let session_id = session_id(&profile.origin_host, request.session, plan.opened_by);
    let mut body = CreditControlRequest {
        session_id: &session_id,
        origin_host: &profile.origin_host,
        origin_realm: &profile.origin_realm,
        destination_realm: &profile.destination_realm,
        auth_application_id: avp::APPLICATION_CREDIT_CONTROL,
        service_context_id: &profile.service_context_id,
        request_type: plan.kind,
        request_number: plan.number(request),
        destination_host: target.host,
        event_timestamp: Some(at),
        subscription_id: vec![subscription(request.account.as_str())],
        termination_cause: plan.cause,
        requested_action: plan.action,
        ..CreditControlRequest::default()
    };
    // Units are in the command or in services, never in both: a server that finds services may ignore units in the
    // command, and the debit would be lost.
    let units = plan.units(profile, request.measure);
    match profile.keys.in_multiple_services() {
        true => put_units_in_services(&mut body, profile, units, target.others),
        false => put_units_in_command(&mut body, profile, units),
    }
    let (hop_by_hop, end_to_end) = (HopByHop(0), EndToEnd(request.end_to_end_id));
    let (command, application) = (Command::CREDIT_CONTROL, avp::APPLICATION_CREDIT_CONTROL);
    let mut writer = Writer::request(out, command, Flags::PROXIABLE, application, hop_by_hop, end_to_end);
    body.write(&mut writer);
    if profile.keys.profile == Profile::Ro {
        service_information::write(&mut writer, request, call);
    }
    writer.finish()
}

/// Units in the command, with the Service-Identifier (RFC 8506, 5.1.1).
fn put_units_in_command(body: &mut CreditControlRequest<'_>, profile: &CreditControlProfile, units: Units) {
    body.service_identifier = profile.keys.identifier;
    body.requested_service_unit = units.requested;
    body.used_service_unit = units.used.into_iter().collect();
}

/// Units in Multiple-Services-Credit-Control (RFC 8506, 8.16), followed by those that close grants to other services.
fn put_units_in_services(
    body: &mut CreditControlRequest<'_>,
    profile: &CreditControlProfile,
    units: Units,
    others: &[Other],
) {
    let is_last = body.request_type == RequestType::TERMINATION_REQUEST;
    let own = Service {
        service_identifier: profile.keys.identifier.into_iter().collect(),
        rating_group: profile.keys.rating_group,
        reporting_reason: (is_last && units.used.is_some()).then_some(ReportingReason::FINAL),
        requested_service_unit: units.requested,
        used_service_unit: units.used.into_iter().collect(),
        ..Service::default()
    };
    body.multiple_services_indicator = Some(MultipleServices::MULTIPLE_SERVICES_SUPPORTED);
    body.services = std::iter::once(own).chain(others.iter().map(Other::closing)).collect();
}

/// Returns the Subscription-Id: E.164 digits without `+` for a global tel URI, otherwise the URI.
fn subscription(account: &str) -> SubscriptionId<'_> {
    // A number with an extension is not E.164.
    match account.strip_prefix("tel:+").filter(|number| number.bytes().all(|digit| digit.is_ascii_digit())) {
        Some(digits) => SubscriptionId { kind: SubscriptionIdType::END_USER_E164, data: digits },
        None => SubscriptionId { kind: SubscriptionIdType::END_USER_SIP_URI, data: account },
    }
}

/// Returns an amount in what the server counts.
fn units(profile: &CreditControlProfile, measure: Measure, quota: Quota, octets: u64) -> ServiceUnits {
    let none = ServiceUnits::default();
    match profile.keys.unit {
        Unit::Message => ServiceUnits { service_specific: Some(quota.0.into()), ..none },
        Unit::Octets => ServiceUnits { total_octets: Some(octets), ..none },
        Unit::Money => {
            let digits = i64::try_from(measure.price_of(quota).0).unwrap_or(i64::MAX);
            // RFC 8506, 8.10: Exponent is required for fractions of the currency unit.
            let exponent = Some(profile.keys.exponent).filter(|exponent| *exponent != 0);
            let unit_value = UnitValue { digits, exponent };
            ServiceUnits { money: Some(Money { unit_value, currency_code: profile.keys.currency }), ..none }
        }
    }
}

/// Returns the quota that a grant is worth. Units of another kind than requested are worth nothing.
fn worth(profile: &CreditControlProfile, measure: Measure, granted: &ServiceUnits) -> Quota {
    let count = match profile.keys.unit {
        Unit::Message => granted.service_specific.unwrap_or(0),
        Unit::Octets => match measure.unit {
            QuotaUnit::Kilobyte => granted.total_octets.unwrap_or(0) / 1024,
            QuotaUnit::Message | QuotaUnit::AccountUnit => 0,
        },
        Unit::Money => minor_units(profile, granted) / measure.price_of(Quota(1)).0.max(1),
    };
    Quota(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Returns the granted money in the unit of the prices, rounded down.
fn minor_units(profile: &CreditControlProfile, granted: &ServiceUnits) -> u64 {
    let Some(money) = &granted.money else { return 0 };
    let digits = u64::try_from(money.unit_value.digits).unwrap_or(0);
    let exponent = money.unit_value.exponent.unwrap_or(0).saturating_sub(profile.keys.exponent);
    match 10_u64.checked_pow(exponent.unsigned_abs()) {
        Some(power) if exponent < 0 => digits / power,
        Some(power) => digits.saturating_mul(power),
        None if exponent < 0 => 0,
        None => u64::MAX,
    }
}

/// Whether the command succeeded. The session is then open at the server, even if the charged service was refused.
pub fn succeeds(answer: &CreditControlAnswer<'_>) -> bool {
    answer.outcome().is_some_and(|outcome| outcome.code().is_success())
}

/// Returns the CH-2 response of an answer. Of several services, the charged one counts; its units, Validity-Time and
/// Final-Unit-Indication take precedence over those of the command.
pub fn read(profile: &CreditControlProfile, request: &Request, answer: &CreditControlAnswer<'_>) -> Response {
    // A request with units in the command is answered there: services of the answer do not concern it.
    let in_command = matches!(request.operation, Operation::Refund { .. }) && !profile.keys.in_multiple_services();
    let service = services::charged(&profile.keys, answer).filter(|_| !in_command);
    // Only the class of a vendor's result is known.
    if let Some(Outcome::Experimental(_, code)) = answer.outcome()
        && !code.is_success()
        && !code.is_protocol_error()
    {
        return Response::Denied(Denial::Refused(code.0));
    }
    let command = answer.outcome().map_or(ResultCode::UNABLE_TO_COMPLY, |outcome| outcome.code());
    // A service without Result-Code has that of the command (RFC 8506, 8.16).
    let result = match service.and_then(|service| service.result_code) {
        Some(own) if command.is_success() => own,
        _ => command,
    };
    match result.is_success() {
        true => succeeded(profile, request, answer, service),
        false => refused(request, result),
    }
}

fn succeeded(
    profile: &CreditControlProfile,
    request: &Request,
    answer: &CreditControlAnswer<'_>,
    service: Option<&Service<'_>>,
) -> Response {
    let (balance, outstanding) = (None, outstanding(request));
    match &request.operation {
        Operation::Debit { .. } => match request.reservation {
            Reservation::Open { .. } => {
                let rest = Some(grant(profile, request, answer, service, Quota(0)));
                Response::Debited { balance, ended: false, rest }
            }
            // A TERMINATION has ended it.
            Reservation::Last { .. } => Response::Debited { balance, ended: true, rest: None },
            Reservation::None => Response::debited(balance),
        },
        Operation::Refund { .. } => Response::Refunded { balance },
        Operation::Release => Response::Released { balance },
        Operation::Reserve { quota } => {
            let most = Quota(outstanding.0.saturating_add(quota.0));
            let grant = grant(profile, request, answer, service, outstanding);
            Response::Granted(Grant { quota: Quota(grant.quota.0.min(most.0 - outstanding.0)), ..grant })
        }
    }
}

/// Returns what is reserved before the request.
fn outstanding(request: &Request) -> Quota {
    match request.reservation {
        Reservation::None => Quota(0),
        Reservation::Open { outstanding, .. } | Reservation::Last { outstanding, .. } => outstanding,
    }
}

/// Returns the grant of an answer. Granted units replace the earlier ones (RFC 8506, 5.3): only those beyond `before`
/// are new.
fn grant(
    profile: &CreditControlProfile,
    request: &Request,
    answer: &CreditControlAnswer<'_>,
    service: Option<&Service<'_>>,
    before: Quota,
) -> Grant {
    let granted = service.and_then(|service| service.granted_service_unit.as_ref());
    let granted = granted.or(answer.granted_service_unit.as_ref());
    let total = granted.map_or(Quota(0), |units| worth(profile, request.measure, units));
    let last = service.and_then(|service| service.final_unit_indication.as_ref());
    Grant {
        quota: Quota(total.0.saturating_sub(before.0)),
        reserved: Some(total),
        valid_for: service.and_then(|service| service.validity_time).or(answer.validity_time),
        // Messages can be neither redirected nor restricted, so each action means that no more units follow (RFC 8506,
        // 8.35).
        last: last.or(answer.final_unit_indication.as_ref()).is_some(),
        on_failure: answer.failure_handling.map(|handling| match handling {
            FailureHandling::CONTINUE => OnFailure::Grant,
            _ => OnFailure::Deny,
        }),
        server_binding: None,
        balance: None,
    }
}

/// Returns the response for a Result-Code that is not success (RFC 8506, 9). In addition: 4010, 4011 and 4012 deny
/// whatever Credit-Control-Failure-Handling says, and used units are deducted nevertheless. A refused one-time event
/// has moved nothing (RFC 8506, 6).
fn refused(request: &Request, result: ResultCode) -> Response {
    let requested = match request.operation {
        Operation::Reserve { quota } => quota.0,
        Operation::Debit { .. } | Operation::Refund { .. } | Operation::Release => 0,
    };
    let is_event = Plan::new(request).kind == RequestType::EVENT_REQUEST;
    let requests_units = is_event || matches!(request.operation, Operation::Reserve { .. });
    match result {
        ResultCode::UNKNOWN_SESSION_ID => Response::NoReservation,
        ResultCode::TOO_BUSY => Response::Failed(Failure::Busy),
        ResultCode::UNABLE_TO_DELIVER
        | ResultCode::REALM_NOT_SERVED
        | ResultCode::LOOP_DETECTED
        | ResultCode::REDIRECT_INDICATION => Response::Failed(Failure::Undeliverable),
        _ if result.is_protocol_error() => Response::Failed(Failure::Enabler),
        ResultCode::CREDIT_CONTROL_NOT_APPLICABLE if requests_units => Response::Free,
        ResultCode::CREDIT_LIMIT_REACHED if requested > 1 => Response::Denied(Denial::NotSoMany),
        ResultCode::CREDIT_LIMIT_REACHED if requests_units => Response::Denied(Denial::NoCredit),
        ResultCode::END_USER_SERVICE_DENIED if requests_units => Response::Denied(Denial::ServiceDenied),
        ResultCode::CREDIT_CONTROL_NOT_APPLICABLE
        | ResultCode::CREDIT_LIMIT_REACHED
        | ResultCode::END_USER_SERVICE_DENIED => match request.operation {
            Operation::Release => Response::Released { balance: None },
            // 4011 ends the session. After the others a TERMINATION follows, so that no units stay reserved.
            _ => Response::Debited {
                balance: None,
                ended: result == ResultCode::CREDIT_CONTROL_NOT_APPLICABLE,
                rest: Some(Grant { reserved: Some(Quota(0)), ..Grant::default() }),
            },
        },
        // A transient failure (RFC 6733, 7.1.4) may not recur, and a delivered message must be paid for: resend.
        _ if result.is_transient() && !matches!(request.operation, Operation::Reserve { .. }) => {
            Response::Failed(Failure::Enabler)
        }
        ResultCode::AUTHORIZATION_REJECTED => Response::Denied(Denial::NotAuthorized),
        ResultCode::USER_UNKNOWN => Response::Denied(Denial::UnknownSubscriber),
        ResultCode::RATING_FAILED => Response::Denied(Denial::RatingFailed),
        other => Response::Denied(Denial::Refused(other.0)),
    }
}

#[cfg(test)]
mod tests;
