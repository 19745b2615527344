"""An OCS made with python-diameter: accounts in memory, told on the standard input, asked by the line 'accounts'.

Usage: python_ocs.py PORT ORIGIN-HOST ORIGIN-REALM CLIENT-HOST CLIENT-REALM ACCOUNT=BALANCE...
"""
import sys
import threading

from diameter.message.avp.grouped import GrantedServiceUnit, MultipleServicesCreditControl
from diameter.message.constants import APP_DIAMETER_CREDIT_CONTROL_APPLICATION as CREDIT_CONTROL
from diameter.node import Node
from diameter.node.application import SimpleThreadingApplication

INITIAL, UPDATE, TERMINATION, EVENT = 1, 2, 3, 4
SUCCESS, LIMIT_REACHED, USER_UNKNOWN = 2001, 4012, 5030

port, host, realm, client, client_realm = int(sys.argv[1]), *sys.argv[2:6]
accounts = {}
for text in sys.argv[6:]:
    name, balance = text.rsplit("=", 1)
    accounts[name] = [int(balance), 0, 0]
held = {}
lock = threading.Lock()


def service(request):
    """Where the units of a request stand: its first service, or the command."""
    services = request.multiple_services_credit_control
    return services[0] if services else request


def count(units):
    return (units.cc_service_specific_units or 0) if units else 0


def book(request):
    """Books a request; its result and what is granted."""
    names = [one.subscription_id_data for one in request.subscription_id]
    account = next((accounts[name] for name in names if name in accounts), None)
    if account is None:
        return USER_UNKNOWN, 0
    part = service(request)
    used = part.used_service_unit
    used = sum(count(one) for one in (used if isinstance(used, list) else [used]))
    wanted = count(part.requested_service_unit)
    if request.cc_request_type == EVENT:
        account[0] -= wanted
        account[2] += wanted
        return SUCCESS, wanted
    back = held.pop(request.session_id, 0)
    account[0] += back - used
    account[1] -= back
    account[2] += used
    if request.cc_request_type == TERMINATION:
        return SUCCESS, 0
    granted = min(wanted, max(account[0], 0))
    if wanted and not granted:
        return LIMIT_REACHED, 0
    account[0] -= granted
    account[1] += granted
    held[request.session_id] = granted
    return SUCCESS, granted


def on_request(application, request):
    with lock:
        result, granted = book(request)
    answer = application.generate_answer(request, result_code=result)
    answer.cc_request_type = request.cc_request_type
    answer.cc_request_number = request.cc_request_number
    units = GrantedServiceUnit(cc_service_specific_units=granted) if granted else None
    if request.multiple_services_credit_control:
        identifiers = service(request).service_identifier
        one = MultipleServicesCreditControl(result_code=result, service_identifier=identifiers)
        if units:
            one.granted_service_unit = units
        answer.multiple_services_credit_control = [one]
    elif units:
        answer.granted_service_unit = units
    return answer


node = Node(host, realm, ip_addresses=["127.0.0.1"], tcp_port=port, vendor_ids=[10415])
node.idle_timeout = 30
application = SimpleThreadingApplication(CREDIT_CONTROL, is_auth_application=True, request_handler=on_request)
peer = node.add_peer(f"aaa://{client}", client_realm)
node.add_application(application, [peer], realms=[realm])
node.start()
print("ready", flush=True)
for line in sys.stdin:
    with lock:
        for name, (balance, reserved, debited) in sorted(accounts.items()):
            print(f"account={name} balance={balance} held={reserved} debited={debited}")
    print("ok", flush=True)
node.stop(wait_timeout=1)
