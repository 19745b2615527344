/* Headers of Kamailio that the module uses. bindgen reads this list; it is not compiled. */
#include "core/sr_module.h"
#include "core/mod_fix.h"
#include "core/dprint.h"
#include "core/pt.h"
#include "core/cfg/cfg_struct.h"
#include "core/counters.h"
#include "core/events.h"
#include "core/tcp_conn.h"
#include "core/socket_info.h"
#include "core/script_cb.h"
#include "core/route.h"
#include "core/action.h"
#include "core/fmsg.h"
#include "core/forward.h"
#include "core/kemi.h"
#include "core/pvar.h"
#include "core/rpc.h"
#include "core/rpc_lookup.h"
#include "core/mem/shm.h"
#include "core/parser/msg_parser.h"
#include "core/parser/parse_from.h"
#include "core/parser/parse_to.h"
#include "core/parser/parse_cseq.h"
#include "modules/tm/tm_load.h"
#include "modules/msrp/msrp_parser.h"
#include "modules/tm/config.h"

/* Macros that bindgen cannot translate because of their casts and types. */
enum {
	IMCHARGE_PARAM_USE_FUNC = PARAM_USE_FUNC,
	IMCHARGE_BEFORE_REQUEST_ROUTE = PRE_SCRIPT_CB | REQUEST_CB,
	IMCHARGE_BEFORE_REPLY_ROUTE = PRE_SCRIPT_CB | ONREPLY_CB,
	IMCHARGE_MODULE_INTERFACE_VERSION = MODULE_INTERFACE_VER
};

/* Defined in core/tcp_main.c, not declared in any header. Whether a connection with this number exists, or (number 0) one with
 * these two ends. 6.0 and 6.1 also take the protocol, 0 for any; 5.6 ignores it. */
int tcpconn_exists(int id, struct ip_addr *peer, int peer_port, struct ip_addr *own, int own_port, int protocol);
