//! The exchange of capabilities (RFC 6733, 5.3): what we say of ourselves, and whether the other end will do.

use crate::enabler::diameter::client::node::LocalNode;
use crate::wire::diameter::base::{CapabilitiesExchangeAnswer, CapabilitiesExchangeRequest, VendorSpecificApplication};
use crate::wire::diameter::dictionary::{APPLICATION_CREDIT_CONTROL, APPLICATION_RELAY, VENDOR_3GPP};
use crate::wire::diameter::{Address, Message, ResultCode};
use std::net::IpAddr;
use std::rc::Rc;

/// Product-Name.
const PRODUCT_NAME: &str = "imcharge";

/// Vendor-Id: of no vendor.
const VENDOR_NONE: u32 = 0;

/// Inband-Security-Id: TLS begins with the connection or not at all.
const NO_INBAND_SECURITY: u32 = 0;

/// Characters of a stranger's name that are shown.
const NAME_SHOWN: usize = 80;

fn vendor_specific(local: &LocalNode) -> Vec<VendorSpecificApplication> {
    let application = VendorSpecificApplication {
        vendor_id: vec![VENDOR_3GPP],
        auth_application_id: vec![APPLICATION_CREDIT_CONTROL],
        acct_application_id: Vec::new(),
    };
    if local.vendor_specific_application { vec![application] } else { Vec::new() }
}

fn vendors(local: &LocalNode) -> Vec<u32> {
    if local.vendor_specific_application { vec![VENDOR_3GPP] } else { Vec::new() }
}

/// Our CER over a connection from this address.
pub(crate) fn request(local: &LocalNode, address: IpAddr) -> CapabilitiesExchangeRequest<'_> {
    CapabilitiesExchangeRequest {
        origin_host: &local.origin_host,
        origin_realm: &local.origin_realm,
        host_ip_address: vec![Address::Ip(address)],
        vendor_id: VENDOR_NONE,
        product_name: PRODUCT_NAME,
        origin_state_id: Some(local.origin_state_id),
        supported_vendor_id: vendors(local),
        auth_application_id: vec![APPLICATION_CREDIT_CONTROL],
        inband_security_id: vec![NO_INBAND_SECURITY],
        vendor_specific_application_id: vendor_specific(local),
        ..CapabilitiesExchangeRequest::default()
    }
}

/// Our CEA, to a peer that asks again on an open connection.
pub(crate) fn answer(local: &LocalNode, address: IpAddr) -> CapabilitiesExchangeAnswer<'_> {
    CapabilitiesExchangeAnswer {
        result_code: ResultCode::SUCCESS,
        origin_host: &local.origin_host,
        origin_realm: &local.origin_realm,
        host_ip_address: vec![Address::Ip(address)],
        vendor_id: Some(VENDOR_NONE),
        product_name: Some(PRODUCT_NAME.as_bytes()),
        origin_state_id: Some(local.origin_state_id),
        supported_vendor_id: vendors(local),
        auth_application_id: vec![APPLICATION_CREDIT_CONTROL],
        inband_security_id: vec![NO_INBAND_SECURITY],
        vendor_specific_application_id: vendor_specific(local),
        ..CapabilitiesExchangeAnswer::default()
    }
}

/// The peer's Origin-Host, where its CEA lets us go on. Else why not.
pub(crate) fn check(message: &Message<'_>, expected_host: &str) -> Result<Rc<str>, String> {
    let answer = CapabilitiesExchangeAnswer::decode(message)
        .map_err(|fault| format!("its Capabilities-Exchange-Answer cannot be read: {fault}"))?
        .body;
    if !answer.result_code.is_success() {
        return Err(format!("it refuses the connection: {}", answer.result_code));
    }
    if !expected_host.is_empty() && !answer.origin_host.eq_ignore_ascii_case(expected_host) {
        let called: String = answer.origin_host.chars().take(NAME_SHOWN).collect();
        return Err(format!("it calls itself \"{}\", not {expected_host}", called.escape_debug()));
    }
    if !has_credit_control(&answer) {
        return Err("it offers no credit control: neither application 4 nor a relay".into());
    }
    Ok(answer.origin_host.into())
}

fn has_credit_control(answer: &CapabilitiesExchangeAnswer<'_>) -> bool {
    let common = |id: &u32| matches!(*id, APPLICATION_CREDIT_CONTROL | APPLICATION_RELAY);
    let of_vendors = &answer.vendor_specific_application_id;
    answer.auth_application_id.iter().any(common)
        || answer.acct_application_id.contains(&APPLICATION_RELAY)
        || of_vendors.iter().flat_map(|vendor| &vendor.auth_application_id).any(common)
}
