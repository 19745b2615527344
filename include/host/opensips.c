/* Functions of the host that stand in its headers alone: compiled with the host's own macros, so that they take the
 * host's locks, and log where the host logs. */
#include "opensips.h"

void *imcharge_shm_malloc(unsigned long octets)
{
	return shm_malloc(octets);
}

void imcharge_shm_free(void *block)
{
	shm_free(block);
}

int imcharge_parse_headers(struct sip_msg *message, hdr_flags_t wanted, int next)
{
	return parse_headers(message, wanted, next);
}

int imcharge_logs(int level)
{
	return is_printable(level);
}

/* The place is what the host takes its function's name for. */
#undef __DP_FUNC
#define __DP_FUNC place

void imcharge_log(int level, const char *place, const char *line)
{
	switch (level) {
	case L_ERR:
		LM_ERR("%s\n", line);
		break;
	case L_WARN:
		LM_WARN("%s\n", line);
		break;
	case L_INFO:
		LM_INFO("%s\n", line);
		break;
	default:
		LM_DBG("%s\n", line);
	}
}
