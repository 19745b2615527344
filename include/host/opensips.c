/* Inline functions and macros of the host as functions: compiled with the host's own macros, so that they use its locks and
 * its log. */
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

/* Whether an MSRP address belongs to this proxy: to a socket, or to an alias. An alias without a port has the ports of the
 * sockets. */
int imcharge_is_own(str *host, unsigned short port, unsigned short proto)
{
	struct socket_info_full **list = get_sock_info_list(proto), *one;
	struct host_alias *alias;

	if (grep_sock_info_ext(host, port, proto, 0))
		return 1;
	if (!grep_aliases(host->s, host->len, port, proto))
		return 0;
	for (alias = aliases; alias; alias = alias->next)
		if (alias->port == port && (alias->proto == 0 || alias->proto == proto)
				&& match_domain(alias->alias.s, alias->alias.len, host->s, host->len, alias->accept_subdomain))
			return 1;
	for (one = list ? *list : NULL; one; one = one->next)
		if (one->socket_info.port_no == port)
			return 1;
	return 0;
}

static int has_connection(struct ip_addr *peer, unsigned short peer_port, unsigned short local_port,
		enum sip_protos proto, struct socket_info *socket)
{
	struct tcp_connection *found = NULL;
	int matches;

	/* Without a variable for a descriptor the host only searches its table. */
	if (tcp_conn_get(0, peer, peer_port, proto, NULL, &found, NULL, socket) <= 0 || !found)
		return 0;
	matches = found->state >= S_CONN_OK && found->state != S_CONN_EOF
		&& (local_port == 0 || found->rcv.dst_port == local_port);
	tcpconn_put(found);
	return matches;
}

/* Whether the host has an MSRP connection with this peer, from this local address and port, or (NULL, 0) from any. */
int imcharge_has_connection(const struct ip_addr *peer, unsigned short peer_port, const struct ip_addr *local,
		unsigned short local_port)
{
	static const enum sip_protos protocols[] = {PROTO_MSRP, PROTO_MSRPS};
	struct ip_addr address = *peer;
	unsigned int at;

	for (at = 0; at < sizeof protocols / sizeof *protocols; at++) {
		struct socket_info_full **list = get_sock_info_list(protocols[at]), *one;

		if (!local && has_connection(&address, peer_port, 0, protocols[at], NULL))
			return 1;
		for (one = local && list ? *list : NULL; one; one = one->next)
			if (ip_addr_cmp(&one->socket_info.address, (struct ip_addr *)local)
					&& has_connection(&address, peer_port, local_port, protocols[at], &one->socket_info))
				return 1;
	}
	return 0;
}

int imcharge_logs(int level)
{
	return is_printable(level);
}

/* The host logs `place` as the name of the function. */
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
