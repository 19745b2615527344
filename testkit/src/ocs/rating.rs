//! Rates Credit-Control-Requests: grants, debits and refuses units.

use super::accounts::{Accounts, Kind, Quantity, Session};
use super::settings::Settings;
use imcharge::enabler::diameter::SPECIFIC_TYPE_CLASS;
use imcharge::wire::diameter::codes::{ApplicationServiceType, CheckBalanceResult, RequestType, RequestedAction};
use imcharge::wire::diameter::credit_control::{Balance, CostInformation, UnitValue};
use imcharge::wire::diameter::{
    CreditControlAnswer, CreditControlRequest, Failed, FailedAvp, Fault, Message, RawAvp, ResultCode, Service,
    dictionary,
};

/// Prices of a service unit for one request.
#[derive(Clone, Copy)]
struct Prices {
    /// Of units that are reserved.
    reserved: i64,
    /// Of units that are used: of the content class of the message.
    used: i64,
}

impl Prices {
    /// Reads service and content class from Service-Information.
    fn new(settings: &Settings, message: &Message<'_>) -> Prices {
        let information = message.find(dictionary::SERVICE_INFORMATION);
        let service = information
            .and_then(|all| member(all, dictionary::SERVICE_GENERIC_INFORMATION))
            .and_then(|generic| member(generic, dictionary::APPLICATION_SERVICE_TYPE))
            .and_then(|kind| kind.i32().ok())
            .map(ApplicationServiceType);
        let ims = information.and_then(|all| member(all, dictionary::IMS_INFORMATION));
        let class = ims.into_iter().flat_map(|ims| ims.group().flatten()).find_map(|info| {
            let kind = member(info, dictionary::SERVICE_SPECIFIC_TYPE)?.u32().ok()?;
            let data = member(info, dictionary::SERVICE_SPECIFIC_DATA)?.text().ok()?;
            (info.is(dictionary::SERVICE_SPECIFIC_INFO) && kind == SPECIFIC_TYPE_CLASS).then_some(data)
        });
        Prices { reserved: settings.price_of(service, None), used: settings.price_of(service, class) }
    }
}

/// Returns an AVP of a group.
fn member(group: RawAvp<'_>, wanted: dictionary::Avp) -> Option<RawAvp<'_>> {
    group.group().flatten().find(|found| found.is(wanted))
}

/// Result for one service, wherever it goes in the answer.
type Rated<'s> = Result<Service<'s>, ResultCode>;

/// Returns an answer with only the AVPs of every answer.
pub fn plain<'s>(
    request: &CreditControlRequest<'s>,
    result: ResultCode,
    settings: &'s Settings,
) -> CreditControlAnswer<'s> {
    CreditControlAnswer {
        session_id: Some(request.session_id),
        result_code: Some(result),
        origin_host: &settings.origin_host,
        origin_realm: &settings.origin_realm,
        auth_application_id: Some(dictionary::APPLICATION_CREDIT_CONTROL),
        request_type: Some(request.request_type),
        request_number: Some(request.request_number),
        session_failover: settings.session_failover,
        cc_sub_session_id: request.cc_sub_session_id,
        failure_handling: settings.failure_handling,
        debit_failure_handling: settings.debit_failure_handling,
        ..CreditControlAnswer::default()
    }
}

/// Rates a request, updates the accounts and returns the answer.
pub fn rate<'s>(
    accounts: &mut Accounts,
    settings: &'s Settings,
    request: &CreditControlRequest<'s>,
    message: &Message<'s>,
    connection: u64,
) -> CreditControlAnswer<'s> {
    let unknown = |context: &String| context != request.service_context_id;
    if !settings.service_contexts.is_empty() && settings.service_contexts.iter().all(unknown) {
        let failed = message.find(dictionary::SERVICE_CONTEXT_ID);
        let failed_avp = vec![FailedAvp { avp: failed }];
        return CreditControlAnswer { failed_avp, ..plain(request, ResultCode::RATING_FAILED, settings) };
    }
    let prices = Prices::new(settings, message);
    let rated = match request.request_type {
        RequestType::EVENT_REQUEST => event(accounts, settings, prices, request),
        RequestType::INITIAL_REQUEST | RequestType::UPDATE_REQUEST | RequestType::TERMINATION_REQUEST => {
            in_session(accounts, settings, prices, request, connection)
        }
        _ => Err(Fault::new(ResultCode::INVALID_AVP_VALUE)),
    };
    rated.unwrap_or_else(|fault| {
        let failed = match fault.failed {
            Some(Failed::Missing(avp)) => {
                Some(RawAvp { code: avp.code, vendor: avp.vendor, flags: 0x40, data: &[0; 4] })
            }
            _ => None,
        };
        let failed_avp = failed.map(|avp| FailedAvp { avp: Some(avp) }).into_iter().collect();
        CreditControlAnswer { failed_avp, ..plain(request, fault.result, settings) }
    })
}

/// Rates INITIAL, UPDATE and TERMINATION.
fn in_session<'s>(
    accounts: &mut Accounts,
    settings: &'s Settings,
    prices: Prices,
    request: &CreditControlRequest<'s>,
    connection: u64,
) -> Result<CreditControlAnswer<'s>, Fault<'static>> {
    let initial = request.request_type == RequestType::INITIAL_REQUEST;
    let (key, mut session) = match accounts.sessions.remove_entry(request.session_id) {
        Some(open) if initial => {
            accounts.sessions.insert(open.0, open.1);
            return Err(Fault::new(ResultCode::UNABLE_TO_COMPLY));
        }
        Some(open) => open,
        None if initial => {
            let mut session = Accounts::open_session(accounts.payer(request, settings).map_err(Fault::new)?);
            request.origin_host.clone_into(&mut session.client);
            request.origin_realm.clone_into(&mut session.client_realm);
            (request.session_id.to_owned(), session)
        }
        None => return Err(Fault::new(ResultCode::UNKNOWN_SESSION_ID)),
    };
    session.connection = connection;
    session.number = request.request_number;
    let ends = request.request_type == RequestType::TERMINATION_REQUEST;
    let answer = answer_services(settings, request, |service| {
        rate_service(accounts, &mut session, settings, prices, service, ends)
    });
    let account = session.account;
    let refused = answer.result_code != Some(ResultCode::SUCCESS);
    if ends || (initial && refused) {
        accounts.unreported += u64::from(ends && session.held() > 0);
        accounts.close(&mut session);
    } else {
        accounts.sessions.insert(key, session);
    }
    Ok(CreditControlAnswer { remaining_balance: balance(accounts, account, settings), ..answer })
}

/// Debits the used units of one service and reserves the requested ones.
fn rate_service<'s>(
    accounts: &mut Accounts,
    session: &mut Session,
    settings: &'s Settings,
    prices: Prices,
    service: &Service<'_>,
    ends: bool,
) -> Rated<'s> {
    let used: Result<i64, ResultCode> = service.used_service_unit.iter().try_fold(0_i64, |sum, units| {
        let cost = Quantity::from_units(units, settings)?.map_or(Ok(0), |used| used.cost(prices.used))?;
        Ok(sum + cost)
    });
    let used = used?;
    if ends || !service.used_service_unit.is_empty() || service.requested_service_unit.is_some() {
        accounts.report(session, service, used);
    }
    let Some(wanted) = service.requested_service_unit.as_ref().filter(|_| !ends) else {
        return Ok(Service::default());
    };
    let any = Quantity { kind: Kind::Specific, amount: settings.quota as i64 };
    let wanted = Quantity::from_units(wanted, settings)?.unwrap_or(any);
    let (granted, last) = accounts.reserve(session, service, wanted, prices.reserved, settings.partial)?;
    Ok(Service {
        granted_service_unit: Some(granted.to_units(settings)),
        validity_time: settings.validity_time,
        final_unit_indication: settings.final_unit_indication().filter(|_| last),
        ..Service::default()
    })
}

/// Rating-Group of the service that [`add_foreign`] adds.
pub const FOREIGN_GROUP: u32 = 99;

/// Adds a service to an answer that the request does not contain: refused with 4012, or with one unit granted and held.
pub fn add_foreign(
    accounts: &mut Accounts,
    settings: &Settings,
    session_id: &str,
    answer: &mut CreditControlAnswer<'_>,
    granted: bool,
    first: bool,
) {
    let mut service = Service { rating_group: Some(FOREIGN_GROUP), ..Service::default() };
    service.result_code = Some(ResultCode::CREDIT_LIMIT_REACHED);
    if let Some((key, mut session)) = accounts.sessions.remove_entry(session_id) {
        // Replaces the unit of an earlier answer, so that one unit is held in all.
        accounts.report(&mut session, &service, 0);
        let one = Quantity { kind: Kind::Specific, amount: 1 };
        if granted
            && let Ok((granted, _)) = accounts.reserve(&mut session, &service, one, settings.price, settings.partial)
        {
            service.granted_service_unit = Some(granted.to_units(settings));
            service.result_code = Some(ResultCode::SUCCESS);
        }
        accounts.sessions.insert(key, session);
    }
    answer.services.insert(if first { 0 } else { answer.services.len() }, service);
}

/// Rates EVENT_REQUEST.
fn event<'s>(
    accounts: &mut Accounts,
    settings: &'s Settings,
    prices: Prices,
    request: &CreditControlRequest<'s>,
) -> Result<CreditControlAnswer<'s>, Fault<'static>> {
    let action = request.requested_action.ok_or(Fault::missing(dictionary::REQUESTED_ACTION))?;
    let account = accounts.payer(request, settings).map_err(Fault::new)?;
    let mut cost = 0;
    let mut enough = true;
    let mut answer = answer_services(settings, request, |service| {
        let any = Quantity { kind: Kind::Specific, amount: 1 };
        let wanted = service.requested_service_unit.as_ref();
        let wanted = wanted.map_or(Ok(None), |units| Quantity::from_units(units, settings))?.unwrap_or(any);
        let of_this = wanted.cost(prices.used)?;
        cost += of_this;
        match action {
            RequestedAction::DIRECT_DEBITING => accounts.debit(account, of_this)?,
            RequestedAction::REFUND_ACCOUNT => accounts.refund(account, of_this),
            RequestedAction::CHECK_BALANCE => enough = accounts.get(account).balance >= cost,
            RequestedAction::PRICE_ENQUIRY => {}
            _ => return Err(ResultCode::INVALID_AVP_VALUE),
        }
        let debit = action == RequestedAction::DIRECT_DEBITING;
        Ok(Service { granted_service_unit: debit.then(|| wanted.to_units(settings)), ..Service::default() })
    });
    match action {
        RequestedAction::CHECK_BALANCE => {
            answer.check_balance_result =
                Some(if enough { CheckBalanceResult::ENOUGH_CREDIT } else { CheckBalanceResult::NO_CREDIT });
        }
        RequestedAction::PRICE_ENQUIRY | RequestedAction::DIRECT_DEBITING => {
            let unit_value = value(cost, settings);
            answer.cost_information = Some(CostInformation { unit_value, ..CostInformation::default() });
        }
        _ => {}
    }
    Ok(CreditControlAnswer { remaining_balance: balance(accounts, account, settings), ..answer })
}

fn value(units: i64, settings: &Settings) -> UnitValue {
    UnitValue { digits: units, exponent: Some(settings.money_exponent).filter(|exponent| *exponent != 0) }
}

fn balance(accounts: &Accounts, account: usize, settings: &Settings) -> Option<Balance> {
    let unit_value = value(accounts.get(account).balance, settings);
    settings.tell_balance.then(|| Balance { unit_value, ..Balance::default() })
}

/// Returns an answer in the form of the request: units in Multiple-Services-Credit-Control, or in the command itself.
fn answer_services<'s>(
    settings: &'s Settings,
    request: &CreditControlRequest<'s>,
    mut rate: impl FnMut(&Service<'s>) -> Rated<'s>,
) -> CreditControlAnswer<'s> {
    let mut answer = plain(request, ResultCode::SUCCESS, settings);
    if request.services.is_empty() {
        let service = Service {
            requested_service_unit: request.requested_service_unit.clone(),
            used_service_unit: request.used_service_unit.clone(),
            service_identifier: request.service_identifier.into_iter().collect(),
            ..Service::default()
        };
        match rate(&service) {
            Ok(rated) => {
                answer.granted_service_unit = rated.granted_service_unit;
                answer.validity_time = rated.validity_time;
                answer.final_unit_indication = rated.final_unit_indication;
            }
            Err(result) => answer.result_code = Some(result),
        }
        return answer;
    }
    let mut refusals = Vec::new();
    for service in &request.services {
        let rated = rate(service).unwrap_or_else(|result| {
            refusals.push(result);
            Service { result_code: Some(result), ..Service::default() }
        });
        answer.services.push(Service {
            service_identifier: service.service_identifier.clone(),
            rating_group: service.rating_group,
            result_code: Some(rated.result_code.unwrap_or(ResultCode::SUCCESS)),
            ..rated
        });
    }
    if let Some(first) = refusals.first().filter(|_| refusals.len() == request.services.len()) {
        answer.result_code = Some(*first).filter(|_| !settings.success_on_top).or(Some(ResultCode::SUCCESS));
    }
    answer
}
