/* Headers of OpenSIPS that the module uses. bindgen and opensips.c read this list. */
#include "sr_module.h"
#include "async.h"
#include "dprint.h"
#include "evi/evi_core.h"
#include "evi/evi_modules.h"
#include "evi/evi_params.h"
#include "evi/evi_transport.h"
#include "ipc.h"
#include "mi/mi.h"
#include "name_alias.h"
#include "net/net_tcp.h"
#include "net/tcp_conn.h"
#include "pt.h"
#include "pvar.h"
#include "route.h"
#include "script_cb.h"
#include "socket_info.h"
#include "statistics.h"
#include "mem/shm_mem.h"
#include "timer.h"
#include "parser/msg_parser.h"
#include "parser/parse_from.h"
#include "parser/parse_to.h"
#include "parser/parse_cseq.h"
#include "modules/tm/tm_load.h"
#include "modules/proto_msrp/msrp_api.h"

/* Macros that bindgen cannot read for their types; the first by the name that Kamailio's has. */
enum {
	IMCHARGE_PARAM_USE_FUNC = USE_FUNC_PARAM,
	IMCHARGE_JSON_NUMBER = cJSON_Number,
	IMCHARGE_JSON_STRING = cJSON_String,
	IMCHARGE_JSON_ARRAY = cJSON_Array
};
