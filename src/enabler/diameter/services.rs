//! Multiple-Services-Credit-Control of an answer (RFC 8506, 8.16): the charged service, and grants to other services,
//! which the next request of the session closes.

use crate::enabler::diameter::profile::ServiceParameters;
use crate::wire::diameter::CreditControlAnswer;
use crate::wire::diameter::codes::ReportingReason;
use crate::wire::diameter::credit_control::{Money, Service, ServiceUnits, UnitValue};
use std::cmp::Reverse;
use std::fmt;

/// Maximum number of grants to other services that a reservation keeps, and of the Service-Identifiers of each. The
/// TERMINATION of the session ends any further ones.
const OTHERS_MAX: usize = 8;
const IDENTIFIERS_MAX: usize = 8;

/// Returns the charged service of an answer, independent of the order of services.
///
/// Ids that are both configured and present must be equal. A service with ids must have a configured one, unless none
/// is configured. Of several such services, the one with most configured ids is taken, then the one with the fewest
/// other ids, then the one with the lowest ids. So a server may omit ids, or add its own. Units granted in the command
/// belong to the charged service, unless a service has a configured id.
pub fn charged<'s, 'a>(keys: &ServiceParameters, answer: &'s CreditControlAnswer<'a>) -> Option<&'s Service<'a>> {
    let in_command = answer.granted_service_unit.is_some();
    let rank = |service: &&Service<'_>| {
        let (agreeing, further) = agreement(keys, service).filter(|(agreeing, _)| *agreeing > 0 || !in_command)?;
        Some((agreeing, Reverse(further), Reverse(service.rating_group), Reverse(service.service_identifier.clone())))
    };
    // Reversed, because max_by_key returns the last of equal elements.
    answer.services.iter().rev().filter(|service| rank(service).is_some()).max_by_key(rank)
}

/// Returns how many configured ids a service has, and how many others. `None`: it is another service.
fn agreement(keys: &ServiceParameters, service: &Service<'_>) -> Option<(usize, usize)> {
    let identifiers = &service.service_identifier;
    let group = keys.rating_group.zip(service.rating_group).map(|(own, named)| own == named);
    let identifier = keys.identifier.filter(|_| !identifiers.is_empty()).map(|own| identifiers.contains(&own));
    let compared = [group, identifier];
    if compared.contains(&Some(false)) {
        return None;
    }
    let agreeing = compared.iter().flatten().count();
    let named = usize::from(service.rating_group.is_some()) + identifiers.len();
    let is_configured = keys.rating_group.is_some() || keys.identifier.is_some();
    (agreeing > 0 || named == 0 || !is_configured).then_some((agreeing, named - agreeing))
}

/// A grant to a service that was not requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    rating_group: Option<u32>,
    identifiers: Vec<u32>,
    /// Letters of [`KINDS`] of the granted kinds of units.
    kinds: String,
}

/// A letter, whether units of this kind are granted, and a function that sets them to 0.
type KindOfUnit = (char, fn(&ServiceUnits) -> bool, fn(&mut ServiceUnits));

const KINDS: [KindOfUnit; 6] = [
    ('s', |units| units.service_specific.is_some(), |units| units.service_specific = Some(0)),
    ('t', |units| units.time.is_some(), |units| units.time = Some(0)),
    ('o', |units| units.total_octets.is_some(), |units| units.total_octets = Some(0)),
    ('i', |units| units.input_octets.is_some(), |units| units.input_octets = Some(0)),
    ('u', |units| units.output_octets.is_some(), |units| units.output_octets = Some(0)),
    (
        'm',
        |units| units.money.is_some(),
        |units| {
            let unit_value = UnitValue { digits: 0, exponent: None };
            units.money = Some(Money { unit_value, currency_code: None });
        },
    ),
];

/// Returns the grants of an answer to other services. A service with the same ids as the charged one, or without
/// Granted-Service-Unit, has nothing that could be closed separately.
///
/// Empty if units are in the command: such a session does not support multiple services (RFC 8506, 8.40), so no request
/// can report another service. Its TERMINATION ends all grants.
pub fn others(keys: &ServiceParameters, answer: &CreditControlAnswer<'_>) -> Vec<Other> {
    if !keys.in_multiple_services() {
        return Vec::new();
    }
    let own = charged(keys, answer);
    let ids = |service: &Service<'_>| (service.rating_group, service.service_identifier.clone());
    let asked = (keys.rating_group, keys.identifier.into_iter().collect::<Vec<u32>>());
    let is_other = |service: &&Service<'_>| {
        let found = ids(service);
        found != asked && own.is_none_or(|own| found != ids(own))
    };
    let succeeded = |service: &&Service<'_>| service.result_code.is_none_or(|result| result.is_success());
    let granted = answer.services.iter().filter(is_other).filter(succeeded).filter_map(|service| {
        let units = service.granted_service_unit.as_ref()?;
        let kinds: String = KINDS.iter().filter(|kind| kind.1(units)).map(|kind| kind.0).collect();
        let identifiers: Vec<u32> = service.service_identifier.iter().copied().take(IDENTIFIERS_MAX).collect();
        (!kinds.is_empty()).then_some(Other { rating_group: service.rating_group, identifiers, kinds })
    });
    granted.take(OTHERS_MAX).collect()
}

impl Other {
    /// Returns the service that closes the grant: nothing used, nothing requested (RFC 8506, 5.1.2 and 8.16), final
    /// report (TS 32.299).
    pub fn closing(&self) -> Service<'static> {
        let mut units = ServiceUnits::default();
        KINDS.iter().filter(|kind| self.kinds.contains(kind.0)).for_each(|kind| kind.2(&mut units));
        Service {
            used_service_unit: vec![units],
            service_identifier: self.identifiers.clone(),
            rating_group: self.rating_group,
            reporting_reason: Some(ReportingReason::FINAL),
            ..Service::default()
        }
    }

    /// Parses what `Display` writes.
    fn parse(text: &str) -> Option<Other> {
        let mut parts = text.split(':');
        let rating_group = match parts.next()? {
            "" => None,
            group => Some(group.parse().ok()?),
        };
        let identifiers = parts.next()?.split('.').filter(|text| !text.is_empty());
        let identifiers = identifiers.map(str::parse).collect::<Result<_, _>>().ok()?;
        let kinds = parts.next()?.to_owned();
        parts.next().is_none().then_some(Other { rating_group, identifiers, kinds })
    }

    /// Parses what [`Listed`] writes.
    pub fn parse_all(text: &str) -> Vec<Other> {
        text.split(';').filter_map(Other::parse).collect()
    }
}

impl fmt::Display for Other {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(group) = self.rating_group {
            write!(out, "{group}")?;
        }
        let identifiers: Vec<String> = self.identifiers.iter().map(u32::to_string).collect();
        write!(out, ":{}:{}", identifiers.join("."), self.kinds)
    }
}

/// Writes several grants as one text.
#[derive(Debug)]
pub struct Listed<'a>(pub &'a [Other]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(at, other)| match at {
            0 => write!(out, "{other}"),
            _ => write!(out, ";{other}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enabler::diameter::profile::Profile;
    use crate::wire::diameter::ResultCode;

    fn keys(rating_group: Option<u32>, identifier: Option<u32>) -> ServiceParameters {
        ServiceParameters { profile: Profile::Ro, rating_group, identifier, ..ServiceParameters::default() }
    }

    fn service(rating_group: Option<u32>, identifiers: &[u32]) -> Service<'static> {
        let units = ServiceUnits { service_specific: Some(3), ..ServiceUnits::default() };
        Service {
            rating_group,
            service_identifier: identifiers.to_vec(),
            granted_service_unit: Some(units),
            ..Service::default()
        }
    }

    fn answer(services: Vec<Service<'static>>) -> CreditControlAnswer<'static> {
        CreditControlAnswer { services, ..CreditControlAnswer::default() }
    }

    /// Checks which of these services is the charged one, in this order and reversed.
    #[track_caller]
    fn expect(keys: ServiceParameters, found: &[(Option<u32>, &[u32])], wanted: Option<usize>) {
        let services: Vec<_> = found.iter().map(|(group, identifiers)| service(*group, identifiers)).collect();
        let reversed = answer(services.iter().cloned().rev().collect());
        let wanted = wanted.map(|at| &services[at]);
        assert_eq!((charged(&keys, &answer(services.clone())), charged(&keys, &reversed)), (wanted, wanted));
    }

    #[test]
    fn charged_service_is_found_by_its_ids_in_any_order() {
        let both = keys(Some(1), Some(7));
        expect(both, &[(Some(1), &[8]), (Some(1), &[7]), (Some(2), &[7])], Some(1));
        expect(both, &[(Some(1), &[]), (Some(1), &[9, 7])], Some(1));
        expect(both, &[(None, &[]), (None, &[7])], Some(1));
        expect(both, &[(Some(2), &[]), (None, &[8]), (Some(2), &[7])], None);
        // The server omits them.
        expect(both, &[(Some(2), &[7]), (None, &[])], Some(1));
    }

    #[test]
    fn server_may_add_the_id_that_is_not_configured() {
        expect(keys(Some(1), None), &[(Some(2), &[7]), (Some(1), &[7])], Some(1));
        expect(keys(Some(1), None), &[(Some(1), &[7]), (Some(1), &[])], Some(1));
        expect(keys(Some(1), None), &[(None, &[7])], None);
        expect(keys(None, Some(7)), &[(Some(100), &[7]), (Some(100), &[8])], Some(0));
        expect(keys(None, Some(7)), &[(Some(100), &[])], None);
    }

    #[test]
    fn service_with_fewest_ids_is_charged_if_none_is_configured() {
        expect(keys(None, None), &[(Some(5), &[])], Some(0));
        expect(keys(None, None), &[(Some(5), &[]), (None, &[])], Some(1));
        expect(keys(None, None), &[(Some(5), &[7]), (Some(5), &[]), (Some(6), &[])], Some(1));
        expect(keys(None, None), &[], None);
    }

    #[test]
    fn units_in_the_command_are_charged_unless_a_service_has_a_configured_id() {
        let units = Some(ServiceUnits { service_specific: Some(10), ..ServiceUnits::default() });
        let in_command = |services| CreditControlAnswer { granted_service_unit: units.clone(), ..answer(services) };
        let found = in_command(vec![service(Some(99), &[])]);
        assert_eq!((charged(&keys(None, None), &found), others(&keys(None, None), &found).len()), (None, 1));
        let found = in_command(vec![service(Some(99), &[]), service(Some(1), &[])]);
        assert_eq!(charged(&keys(Some(1), None), &found), found.services.last());
    }

    #[test]
    fn session_with_units_in_the_command_closes_no_other_service() {
        let found = answer(vec![service(Some(98), &[]), service(Some(99), &[])]);
        let ro = keys(Some(1), None);
        let rfc = ServiceParameters { profile: Profile::Rfc8506, ..ro };
        assert_eq!([ro, rfc].map(|keys| others(&keys, &found).len()), [2, 0]);
    }

    #[test]
    fn other_grants_are_closed_in_their_own_units() {
        let refused = Service { result_code: Some(ResultCode(4012)), ..service(Some(3), &[]) };
        let nothing = Service { granted_service_unit: None, ..service(Some(4), &[]) };
        let units = ServiceUnits { time: Some(60), total_octets: Some(1), ..ServiceUnits::default() };
        let other = Service { granted_service_unit: Some(units), ..service(Some(5), &[8, 9]) };
        let found = others(&keys(Some(1), Some(7)), &answer(vec![other, refused, service(Some(1), &[7]), nothing]));
        assert_eq!(found.iter().map(Other::to_string).collect::<Vec<_>>(), ["5:8.9:to"]);
        let closing = found[0].closing();
        let used = ServiceUnits { time: Some(0), total_octets: Some(0), ..ServiceUnits::default() };
        assert_eq!((closing.used_service_unit, closing.requested_service_unit), (vec![used], None));
        assert_eq!((closing.rating_group, closing.service_identifier), (Some(5), vec![8, 9]));
        assert_eq!(closing.reporting_reason, Some(ReportingReason::FINAL));
    }

    #[test]
    fn written_grants_are_parsed() {
        let all = ["5:8.9:to", ":7:s", "4294967295::m"].map(|text| Other::parse(text).expect(text));
        assert_eq!(Other::parse_all(&Listed(&all).to_string()), all);
        assert_eq!((Other::parse_all(""), Other::parse_all("x:y:z;1")), (vec![], vec![]));
    }

    #[test]
    fn number_of_other_grants_is_limited() {
        let many = (10..90).map(|group| service(Some(group), &[1; 60])).collect();
        let found = others(&keys(Some(1), None), &answer(many));
        assert_eq!((found.len(), found[0].identifiers.len()), (OTHERS_MAX, IDENTIFIERS_MAX));
    }
}
