//! Service-Information of a request (TS 32.299; OMA DDS Charging Data): who sends what to whom, and how much of it.

use crate::charge::ch2::{Operation, Request, Trigger};
use crate::charge::content::ContentClass;
use crate::charge::event::Direction;
use crate::charge::service::Service;
use crate::enabler::Call;
use crate::wire::diameter::Writer;
use crate::wire::diameter::codes::{ApplicationServiceType, NodeFunctionality, RoleOfNode};
use crate::wire::diameter::dictionary as avp;

/// Service-Specific-Type of the content class. The values of this AVP are the operator's to assign.
pub const SPECIFIC_TYPE_CLASS: u32 = 1;

/// Service-Specific-Type of the size of a message in octets.
pub const SPECIFIC_TYPE_OCTETS: u32 = 2;

/// A message that a request debits or refunds.
struct Message {
    class: ContentClass,
    octets: u64,
    /// Messages that this request counts: none if it refunds.
    count: u32,
    is_delivered: bool,
}

impl Message {
    fn from_operation(operation: &Operation) -> Option<Message> {
        match *operation {
            Operation::Debit { class, octets, trigger, .. } => {
                Some(Message { class, octets, count: 1, is_delivered: trigger == Trigger::Response })
            }
            Operation::Refund { class, octets, .. } => Some(Message { class, octets, count: 0, is_delivered: false }),
            Operation::Reserve { .. } | Operation::Release => None,
        }
    }
}

/// Appends Service-Information.
pub fn write(writer: &mut Writer<'_>, request: &Request, call: &Call<'_>) {
    let message = Message::from_operation(&request.operation);
    writer.group(avp::SERVICE_INFORMATION, |information| {
        information.group(avp::IMS_INFORMATION, |ims| write_ims_information(ims, request, call, message.as_ref()));
        // No M flag: servers without OMA's AVPs must be able to ignore these.
        information.group(avp::SERVICE_GENERIC_INFORMATION.optional(), |generic| {
            generic.i32(avp::APPLICATION_SERVICE_TYPE.optional(), service_type(request.service).0);
        });
        information.group(avp::IM_INFORMATION.optional(), |im| write_counters(im, request, message.as_ref()));
    });
}

/// Message counters: of the message that the request debits, otherwise 0. A message is successfully sent if its response says
/// so. Copies to several recipients are counted as exploded.
fn write_counters(im: &mut Writer<'_>, request: &Request, message: Option<&Message>) {
    let sent = message.map_or(0, |message| message.count);
    let delivered = message.filter(|message| message.is_delivered).map_or(0, |message| message.count);
    im.u32(avp::TOTAL_NUMBER_OF_MESSAGES_SENT.optional(), sent);
    im.u32(avp::NUMBER_OF_MESSAGES_SUCCESSFULLY_SENT.optional(), delivered);
    if request.recipients > 1 {
        let copies = |messages: u32| messages.saturating_mul(request.recipients);
        im.u32(avp::TOTAL_NUMBER_OF_MESSAGES_EXPLODED.optional(), copies(sent));
        im.u32(avp::NUMBER_OF_MESSAGES_SUCCESSFULLY_EXPLODED.optional(), copies(delivered));
    }
}

/// IMS-Information (TS 32.299).
fn write_ims_information(ims: &mut Writer<'_>, request: &Request, call: &Call<'_>, message: Option<&Message>) {
    let is_calling = is_calling(request.service, call.direction);
    let account = request.account.as_str();
    let (calling, called) = if is_calling { (account, call.other) } else { (call.other, account) };
    let role = match request.service {
        Service::Sending => RoleOfNode::ORIGINATING_ROLE,
        Service::Retrieval | Service::Receiving => RoleOfNode::TERMINATING_ROLE,
    };
    ims.group(avp::EVENT_TYPE, |event| event.text(avp::SIP_METHOD, call.method));
    ims.i32(avp::ROLE_OF_NODE, role.0);
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
    if let Some(message) = message {
        write_specific(ims, SPECIFIC_TYPE_CLASS, message.class.as_str());
        write_specific(ims, SPECIFIC_TYPE_OCTETS, &message.octets.to_string());
    }
}

/// Service-Specific-Info. No M flag: servers must be able to ignore it.
fn write_specific(ims: &mut Writer<'_>, kind: u32, data: &str) {
    ims.group(avp::SERVICE_SPECIFIC_INFO.optional(), |specific| {
        specific.text(avp::SERVICE_SPECIFIC_DATA.optional(), data);
        specific.u32(avp::SERVICE_SPECIFIC_TYPE.optional(), kind);
    });
}

/// Whether the charged party has sent the request. The inviting side receives in a pull and sends in a push.
fn is_calling(service: Service, direction: Direction) -> bool {
    service.is_paid_by_sender() == (direction == Direction::Push)
}

fn service_type(service: Service) -> ApplicationServiceType {
    match service {
        Service::Sending => ApplicationServiceType::SENDING,
        Service::Receiving => ApplicationServiceType::RECEIVING,
        Service::Retrieval => ApplicationServiceType::RETRIEVAL,
    }
}
