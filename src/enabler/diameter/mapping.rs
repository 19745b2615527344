//! CH-2 in the words of Diameter Credit-Control (RFC 8506; TS 32.299).
//!
//! | CH-2 | reservation | Credit-Control-Request |
//! |---|---|---|
//! | reserve k | none | INITIAL, wants k |
//! | reserve again | n outstanding | UPDATE, wants n |
//! | debit one | n > 1 outstanding | UPDATE, used 1, wants n - 1 |
//! | debit the last | 1 outstanding | TERMINATION, used 1 |
//! | release | n outstanding | TERMINATION, used 0 |
//! | debit | none | EVENT, DIRECT_DEBITING, wants 1 |
//! | refund | any | EVENT, REFUND_ACCOUNT, wants 1 |
//!
//! A Diameter session is one reservation: its Session-Id has the number of the request that opened it, and its
//! CC-Request-Number counts the requests of that reservation. So every request has the same two names however often it is
//! written, also by another process.

use super::services::{self, Other};
use crate::charge::ch2::{Denial, Failure, Grant, Operation, Request, Reservation, Response, SessionKey, Trigger};
use crate::charge::event::Direction;
use crate::charge::policy::OnFailure;
use crate::charge::tariff::{Per, Quota, Tariff, Unit};
use crate::enabler::Call;
use crate::enabler::diameter::profile::{CreditControlProfile, Profile};
use crate::wire::diameter::codes::{
    FailureHandling, MultipleServices, NodeFunctionality, ReportingReason, RequestType, RequestedAction, RoleOfNode,
    SubscriptionIdType, TerminationCause,
};
use crate::wire::diameter::credit_control::{Money, Service, ServiceUnits, SubscriptionId, UnitValue};
use crate::wire::diameter::dictionary as avp;
use crate::wire::diameter::{
    Command, CreditControlAnswer, CreditControlRequest, EndToEnd, Flags, HopByHop, Outcome, ResultCode, Time, TooLong,
    Writer,
};

/// The Session-Id of a reservation (RFC 6733, 8.8): host, both halves of the first half of the key, and the rest.
pub fn session_id(origin_host: &str, session: SessionKey, opened_by: u32) -> String {
    let SessionKey(first, second) = session;
    format!("{origin_host};{};{};{second:016x}.{opened_by}", first >> 32, first as u32)
}

/// The session that a Session-Id is of, and the number of the request that opened the reservation; `None`: not one of
/// this client.
pub fn session_of(origin_host: &str, session_id: &str) -> Option<(SessionKey, u32)> {
    let mut parts = session_id.rsplitn(4, ';');
    let (second, opened_by) = parts.next()?.split_once('.')?;
    let second = u64::from_str_radix(second, 16).ok()?;
    let low: u32 = parts.next()?.parse().ok()?;
    let high: u32 = parts.next()?.parse().ok()?;
    let ours = parts.next()?.eq_ignore_ascii_case(origin_host);
    let key = SessionKey(u64::from(high) << 32 | u64::from(low), second);
    ours.then_some((key, opened_by.parse().ok()?))
}

/// Session-Id and CC-Request-Number of a request.
pub fn names_of(origin_host: &str, request: &Request) -> (String, u32) {
    let plan = Plan::of(request);
    (session_id(origin_host, request.session, plan.opened_by), plan.number(request))
}

/// What a CH-2 request becomes.
struct Plan {
    kind: RequestType,
    opened_by: u32,
    wanted: Option<Quota>,
    /// And the octets, where octets are counted.
    used: Option<(Quota, u64)>,
    cause: Option<TerminationCause>,
    action: Option<RequestedAction>,
}

impl Plan {
    fn of(request: &Request) -> Plan {
        let (opened_by, outstanding) = match request.reservation {
            Reservation::None => (request.number, Quota(0)),
            Reservation::Open { opened_by, outstanding } | Reservation::Last { opened_by, outstanding } => {
                (opened_by, outstanding)
            }
        };
        let plan = |kind, wanted, used, cause| Plan { kind, opened_by, wanted, used, cause, action: None };
        let event = |action, quota: &Quota, octets: &u64| {
            let (kind, used) = (RequestType::EVENT_REQUEST, Some((*quota, *octets)));
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
            // A session of its own (RFC 8506, 6.4), whatever is reserved beside it.
            (Operation::Refund { quota, octets, .. }, _) => event(RequestedAction::REFUND_ACCOUNT, quota, octets),
            (Operation::Debit { quota, octets, trigger, .. }, _) if ends => {
                plan(RequestType::TERMINATION_REQUEST, None, Some((*quota, *octets)), Some(cause(*trigger)))
            }
            (Operation::Debit { quota, octets, .. }, _) => {
                let rest = Quota(outstanding.0.saturating_sub(quota.0));
                plan(RequestType::UPDATE_REQUEST, Some(rest), Some((*quota, *octets)), None)
            }
            (Operation::Release, _) => {
                let cause = TerminationCause::SERVICE_NOT_PROVIDED;
                plan(RequestType::TERMINATION_REQUEST, None, Some((Quota(0), 0)), Some(cause))
            }
        }
    }

    fn number(&self, request: &Request) -> u32 {
        if self.opened_by == request.number { 0 } else { request.sequence }
    }
}

/// Why a session ends with this debit (RFC 6733, 8.15).
fn cause(trigger: Trigger) -> TerminationCause {
    match trigger {
        Trigger::Response | Trigger::Error(_) => TerminationCause::LOGOUT,
        Trigger::Timeout => TerminationCause::SESSION_TIMEOUT,
        Trigger::Close => TerminationCause::LINK_BROKEN,
    }
}

/// Where a request goes, and what it closes there beside our service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target<'a> {
    /// Destination-Host, where it is known.
    pub host: Option<&'a str>,
    /// What the server has granted to other services.
    pub others: &'a [Other],
}

/// Appends the request to `out`. The sender sets Hop-by-Hop Identifier and T flag, and the End-to-End Identifier where
/// the request has no stamp.
pub fn write(
    dialect: &CreditControlProfile,
    request: &Request,
    call: &Call<'_>,
    target: Target<'_>,
    at: Time,
    out: &mut Vec<u8>,
) -> Result<usize, TooLong> {
    let plan = Plan::of(request);
    let session_id = session_id(&dialect.origin_host, request.session, plan.opened_by);
    let is_event = plan.kind == RequestType::EVENT_REQUEST;
    // A direct debit asks for what it takes (RFC 8506, 6.3).
    let wanted = match is_event {
        true => plan.used.map(|(quota, octets)| units(dialect, request.tariff, quota, octets)),
        false => plan.wanted.map(|quota| units(dialect, request.tariff, quota, u64::from(quota.0) * 1024)),
    };
    let used = plan.used.filter(|_| !is_event);
    let used = used.map(|(quota, octets)| units(dialect, request.tariff, quota, octets));
    let is_last = plan.kind == RequestType::TERMINATION_REQUEST;
    let in_command = !dialect.keys.in_multiple_services();
    // Units stand either in the command or in services, never in both: a server that finds services may read no units
    // in the command, and the debit would be lost.
    let services: Vec<Service<'_>> = if in_command {
        Vec::new()
    } else {
        let own = Service {
            requested_service_unit: wanted.clone(),
            used_service_unit: used.clone().into_iter().collect(),
            service_identifier: dialect.keys.identifier.into_iter().collect(),
            rating_group: dialect.keys.rating_group,
            reporting_reason: (is_last && used.is_some()).then_some(ReportingReason::FINAL),
            ..Service::default()
        };
        std::iter::once(own).chain(target.others.iter().map(Other::closing)).collect()
    };
    let indicator = (!in_command).then_some(MultipleServices::MULTIPLE_SERVICES_SUPPORTED);
    let body = CreditControlRequest {
        session_id: &session_id,
        origin_host: &dialect.origin_host,
        origin_realm: &dialect.origin_realm,
        destination_realm: &dialect.destination_realm,
        auth_application_id: avp::APPLICATION_CREDIT_CONTROL,
        service_context_id: &dialect.service_context_id,
        request_type: plan.kind,
        request_number: plan.number(request),
        destination_host: target.host,
        event_timestamp: Some(at),
        subscription_id: vec![subscription(request.account.as_str())],
        service_identifier: dialect.keys.identifier.filter(|_| in_command),
        termination_cause: plan.cause,
        requested_service_unit: wanted.filter(|_| in_command),
        requested_action: plan.action,
        used_service_unit: used.filter(|_| in_command).into_iter().collect(),
        multiple_services_indicator: indicator,
        services,
        ..CreditControlRequest::default()
    };
    let (application, names) = (avp::APPLICATION_CREDIT_CONTROL, (HopByHop(0), EndToEnd(request.end_to_end_id)));
    let mut writer = Writer::request(out, Command::CREDIT_CONTROL, Flags::PROXIABLE, application, names.0, names.1);
    body.write(&mut writer);
    if dialect.keys.profile == Profile::Ro {
        service_information(&mut writer, request, call);
    }
    writer.finish()
}

/// What TS 32.299 and OMA's charging data say of an IM service that hands out stored messages. The counters are of
/// messages for which a debit is asked: one with each.
fn service_information(writer: &mut Writer<'_>, request: &Request, call: &Call<'_>) {
    let messages = u32::from(matches!(request.operation, Operation::Debit { .. }));
    let (calling, called) = match call.direction {
        Direction::Pull => (request.account.as_str(), call.other),
        Direction::Push => (call.other, request.account.as_str()),
    };
    writer.group(avp::SERVICE_INFORMATION, |service| {
        service.group(avp::IMS_INFORMATION, |ims| {
            ims.group(avp::EVENT_TYPE, |event| event.text(avp::SIP_METHOD, "INVITE"));
            ims.i32(avp::ROLE_OF_NODE, RoleOfNode::TERMINATING_ROLE.0);
            ims.i32(avp::NODE_FUNCTIONALITY, NodeFunctionality::AS.0);
            ims.text(avp::USER_SESSION_ID, call.call_id);
            if !calling.is_empty() {
                ims.text(avp::CALLING_PARTY_ADDRESS, calling);
            }
            if !called.is_empty() {
                ims.text(avp::CALLED_PARTY_ADDRESS, called);
            }
            if !call.icid.is_empty() {
                ims.text(avp::IMS_CHARGING_IDENTIFIER, call.icid);
            }
        });
        // RETRIEVAL (OMA-DDS-Charging_Data). Servers that have not loaded OMA's AVPs must be able to pass them over.
        service.group(avp::SERVICE_GENERIC_INFORMATION.optional(), |generic| {
            generic.i32(avp::APPLICATION_SERVICE_TYPE.optional(), 102);
        });
        service.group(avp::IM_INFORMATION.optional(), |im| {
            im.u32(avp::TOTAL_NUMBER_OF_MESSAGES_SENT.optional(), messages);
            im.u32(avp::NUMBER_OF_MESSAGES_SUCCESSFULLY_SENT.optional(), messages);
        });
    });
}

/// The subscriber: digits without `+` for the tel URI of a global number (E.164 has none), else the URI.
fn subscription(account: &str) -> SubscriptionId<'_> {
    // A number with an extension is no E.164 number.
    match account.strip_prefix("tel:+").filter(|number| number.bytes().all(|digit| digit.is_ascii_digit())) {
        Some(digits) => SubscriptionId { kind: SubscriptionIdType::END_USER_E164, data: digits },
        None => SubscriptionId { kind: SubscriptionIdType::END_USER_SIP_URI, data: account },
    }
}

/// An amount in what the server counts.
fn units(dialect: &CreditControlProfile, tariff: Tariff, quota: Quota, octets: u64) -> ServiceUnits {
    let none = ServiceUnits::default();
    match dialect.keys.unit {
        Unit::Message => ServiceUnits { service_specific: Some(quota.0.into()), ..none },
        Unit::Octets => ServiceUnits { total_octets: Some(octets), ..none },
        Unit::Money => {
            let digits = i64::try_from(tariff.price_of(quota).0).unwrap_or(i64::MAX);
            // RFC 8506, 8.10: what is not a whole unit of the currency needs its scale.
            let exponent = Some(dialect.keys.exponent).filter(|exponent| *exponent != 0);
            let unit_value = UnitValue { digits, exponent };
            ServiceUnits { money: Some(Money { unit_value, currency_code: dialect.keys.currency }), ..none }
        }
    }
}

/// How much of the service a grant is worth. Units of another kind than was asked for are worth nothing here.
fn worth(dialect: &CreditControlProfile, tariff: Tariff, granted: &ServiceUnits) -> Quota {
    let count = match dialect.keys.unit {
        Unit::Message => granted.service_specific.unwrap_or(0),
        Unit::Octets => match tariff.per {
            Per::Kilobyte => granted.total_octets.unwrap_or(0) / 1024,
            Per::Message => 0,
        },
        Unit::Money => minor_units(dialect, granted) / tariff.price_of(Quota(1)).0.max(1),
    };
    Quota(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Money as a whole number of what the tariff is in; fractions of it buy nothing.
fn minor_units(dialect: &CreditControlProfile, granted: &ServiceUnits) -> u64 {
    let Some(money) = &granted.money else { return 0 };
    let digits = u64::try_from(money.unit_value.digits).unwrap_or(0);
    let exponent = money.unit_value.exponent.unwrap_or(0).saturating_sub(dialect.keys.exponent);
    match 10_u64.checked_pow(exponent.unsigned_abs()) {
        Some(power) if exponent < 0 => digits / power,
        Some(power) => digits.saturating_mul(power),
        None if exponent < 0 => 0,
        None => u64::MAX,
    }
}

/// Whether the answer as a whole says success: the session is open at the server then, even if it refuses our service
/// in it.
pub fn succeeds(answer: &CreditControlAnswer<'_>) -> bool {
    answer.outcome().is_some_and(|outcome| outcome.code().is_success())
}

/// What the server said, in the words of CH-2. Of several services, ours decides. Units, Validity-Time and
/// Final-Unit-Indication are those of our service; the command's hold where our service has none of its own.
pub fn read(dialect: &CreditControlProfile, request: &Request, answer: &CreditControlAnswer<'_>) -> Response {
    // What a request says in the command is answered there: another service that the answer names does not refuse it.
    let in_command = matches!(request.operation, Operation::Refund { .. }) && !dialect.keys.in_multiple_services();
    let service = services::ours(&dialect.keys, answer).filter(|_| !in_command);
    // A vendor's result has a meaning of its own: it is no more than a yes or a no.
    if let Some(Outcome::Experimental(_, code)) = answer.outcome()
        && !code.is_success()
        && !code.is_protocol_error()
    {
        return Response::Denied(Denial::Refused(code.0));
    }
    let command = answer.outcome().map_or(ResultCode::UNABLE_TO_COMPLY, |outcome| outcome.code());
    // A service without a Result-Code of its own has the command's (RFC 8506, 8.16).
    let result = match service.and_then(|service| service.result_code) {
        Some(own) if command.is_success() => own,
        _ => command,
    };
    match result.is_success() {
        true => succeeded(dialect, request, answer, service),
        false => refused(request, result),
    }
}

fn succeeded(
    dialect: &CreditControlProfile,
    request: &Request,
    answer: &CreditControlAnswer<'_>,
    service: Option<&Service<'_>>,
) -> Response {
    let (balance, outstanding) = (None, outstanding(request));
    match &request.operation {
        Operation::Debit { .. } => match request.reservation {
            Reservation::Open { .. } => {
                let rest = Some(grant(dialect, request, answer, service, Quota(0)));
                Response::Debited { balance, ended: false, rest }
            }
            // A TERMINATION has ended it; an event had none.
            Reservation::Last { .. } => Response::Debited { balance, ended: true, rest: None },
            Reservation::None => Response::debited(balance),
        },
        Operation::Refund { .. } => Response::Refunded { balance },
        Operation::Release => Response::Released { balance },
        Operation::Reserve { quota } => {
            let most = Quota(outstanding.0.saturating_add(quota.0));
            let grant = grant(dialect, request, answer, service, outstanding);
            Response::Granted(Grant { quota: Quota(grant.quota.0.min(most.0 - outstanding.0)), ..grant })
        }
    }
}

/// What is reserved before a request.
fn outstanding(request: &Request) -> Quota {
    match request.reservation {
        Reservation::None => Quota(0),
        Reservation::Open { outstanding, .. } | Reservation::Last { outstanding, .. } => outstanding,
    }
}

/// A grant is of all that may be used from now on (RFC 8506, 5.3): what is more than `before` is new.
fn grant(
    dialect: &CreditControlProfile,
    request: &Request,
    answer: &CreditControlAnswer<'_>,
    service: Option<&Service<'_>>,
    before: Quota,
) -> Grant {
    let granted = service.and_then(|service| service.granted_service_unit.as_ref());
    let granted = granted.or(answer.granted_service_unit.as_ref());
    let total = granted.map_or(Quota(0), |units| worth(dialect, request.tariff, units));
    let last = service.and_then(|service| service.final_unit_indication.as_ref());
    Grant {
        quota: Quota(total.0.saturating_sub(before.0)),
        reserved: Some(total),
        valid_for: service.and_then(|service| service.validity_time).or(answer.validity_time),
        // For messages, which can neither be sent elsewhere nor be restricted, each action means: no more after these
        // (RFC 8506, 8.35).
        last: last.or(answer.final_unit_indication.as_ref()).is_some(),
        on_failure: answer.failure_handling.map(|handling| match handling {
            FailureHandling::CONTINUE => OnFailure::Grant,
            _ => OnFailure::Deny,
        }),
        server_binding: None,
        balance: None,
    }
}

/// RFC 8506, 9, and where its tables are silent: a limit that is reached denies whatever CCFH says, and what was used
/// is deducted all the same. A one-time event that is refused has moved nothing (RFC 8506, 6).
fn refused(request: &Request, result: ResultCode) -> Response {
    let asked = match request.operation {
        Operation::Reserve { quota } => quota.0,
        Operation::Debit { .. } | Operation::Refund { .. } | Operation::Release => 0,
    };
    let is_event = Plan::of(request).kind == RequestType::EVENT_REQUEST;
    let asks = is_event || matches!(request.operation, Operation::Reserve { .. });
    match result {
        ResultCode::UNKNOWN_SESSION_ID => Response::NoReservation,
        ResultCode::TOO_BUSY => Response::Failed(Failure::Busy),
        ResultCode::UNABLE_TO_DELIVER
        | ResultCode::REALM_NOT_SERVED
        | ResultCode::LOOP_DETECTED
        | ResultCode::REDIRECT_INDICATION => Response::Failed(Failure::Undeliverable),
        _ if result.is_protocol_error() => Response::Failed(Failure::Enabler),
        ResultCode::CREDIT_CONTROL_NOT_APPLICABLE if asks => Response::Free,
        ResultCode::CREDIT_LIMIT_REACHED if asked > 1 => Response::Denied(Denial::NotSoMany),
        ResultCode::CREDIT_LIMIT_REACHED if asks => Response::Denied(Denial::NoCredit),
        ResultCode::END_USER_SERVICE_DENIED if asks => Response::Denied(Denial::ServiceDenied),
        ResultCode::CREDIT_CONTROL_NOT_APPLICABLE
        | ResultCode::CREDIT_LIMIT_REACHED
        | ResultCode::END_USER_SERVICE_DENIED => match request.operation {
            Operation::Release => Response::Released { balance: None },
            // 4011 ends the session; after the others a TERMINATION closes it, so that nothing stays locked there.
            _ => Response::Debited {
                balance: None,
                ended: result == ResultCode::CREDIT_CONTROL_NOT_APPLICABLE,
                rest: Some(Grant { reserved: Some(Quota(0)), ..Grant::default() }),
            },
        },
        // A transient failure (RFC 6733, 7.1.4: out of space, say) may be over the next time, and what is with the
        // client is to be paid for.
        ResultCode(4000..=4999) if !matches!(request.operation, Operation::Reserve { .. }) => {
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
