//! The capabilities exchange (RFC 6733, 5.3): what this node advertises, and whether the peer is acceptable.

use crate::enabler::diameter::client::node::LocalNode;
use crate::wire::diameter::base::{CapabilitiesExchangeAnswer, CapabilitiesExchangeRequest, VendorSpecificApplication};
use crate::wire::diameter::dictionary::{APPLICATION_CREDIT_CONTROL, APPLICATION_RELAY, VENDOR_3GPP};
use crate::wire::diameter::{Address, Message, ResultCode};
use std::net::IpAddr;
use std::rc::Rc;

/// Product-Name.
const PRODUCT_NAME: &str = "imcharge";

/// Vendor-Id 0: no vendor (RFC 6733, 5.3.3).
const VENDOR_NONE: u32 = 0;

/// Inband-Security-Id: TLS is never negotiated in-band (RFC 6733, 13.1).
const NO_INBAND_SECURITY: u32 = 0;

/// Maximum length of an unexpected Origin-Host in the log, in characters.
const NAME_LOGGED_MAX: usize = 80;

fn vendor_specific(node: &LocalNode) -> Vec<VendorSpecificApplication> {
    let application = VendorSpecificApplication {
        vendor_id: vec![VENDOR_3GPP],
        auth_application_id: vec![APPLICATION_CREDIT_CONTROL],
        acct_application_id: Vec::new(),
    };
    if node.vendor_specific_application { vec![application] } else { Vec::new() }
}

fn vendors(node: &LocalNode) -> Vec<u32> {
    if node.vendor_specific_application { vec![VENDOR_3GPP] } else { Vec::new() }
}

/// Returns the CER. `address`: the local address of the connection.
pub(crate) fn request(node: &LocalNode, address: IpAddr) -> CapabilitiesExchangeRequest<'_> {
    CapabilitiesExchangeRequest {
        origin_host: &node.origin_host,
        origin_realm: &node.origin_realm,
        host_ip_address: vec![Address::Ip(address)],
        vendor_id: VENDOR_NONE,
        product_name: PRODUCT_NAME,
        origin_state_id: Some(node.origin_state_id),
        supported_vendor_id: vendors(node),
        auth_application_id: vec![APPLICATION_CREDIT_CONTROL],
        inband_security_id: vec![NO_INBAND_SECURITY],
        vendor_specific_application_id: vendor_specific(node),
        ..CapabilitiesExchangeRequest::default()
    }
}

/// Returns the CEA, for a peer that sends a CER over the open connection.
pub(crate) fn answer(node: &LocalNode, address: IpAddr) -> CapabilitiesExchangeAnswer<'_> {
    CapabilitiesExchangeAnswer {
        result_code: ResultCode::SUCCESS,
        origin_host: &node.origin_host,
        origin_realm: &node.origin_realm,
        host_ip_address: vec![Address::Ip(address)],
        vendor_id: Some(VENDOR_NONE),
        product_name: Some(PRODUCT_NAME.as_bytes()),
        origin_state_id: Some(node.origin_state_id),
        supported_vendor_id: vendors(node),
        auth_application_id: vec![APPLICATION_CREDIT_CONTROL],
        inband_security_id: vec![NO_INBAND_SECURITY],
        vendor_specific_application_id: vendor_specific(node),
        ..CapabilitiesExchangeAnswer::default()
    }
}

/// Returns the peer's Origin-Host if its CEA is acceptable, or why it is not. `expected_host` may be empty.
pub(crate) fn check(message: &Message<'_>, expected_host: &str) -> Result<Rc<str>, String> {
    let answer = CapabilitiesExchangeAnswer::decode(message)
        .map_err(|fault| format!("its Capabilities-Exchange-Answer cannot be read: {fault}"))?
        .body;
    if !answer.result_code.is_success() {
        return Err(format!("it refuses the connection: {}", answer.result_code));
    }
    if !expected_host.is_empty() && !answer.origin_host.eq_ignore_ascii_case(expected_host) {
        let found: String = answer.origin_host.chars().take(NAME_LOGGED_MAX).collect();
        return Err(format!("its Origin-Host is \"{}\", not {expected_host}", found.escape_debug()));
    }
    if !has_credit_control(&answer) {
        return Err("it supports neither credit control (application 4) nor relaying".into());
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
