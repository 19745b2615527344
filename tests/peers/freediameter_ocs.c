/*
 * A freeDiameter extension that answers Credit-Control-Requests with success and grants what is asked for, so that every
 * request is parsed by freeDiameter's own dictionary (RFC 8506, TS 32.299). Keeps no accounts.
 */
#include <freeDiameter/extension.h>

static struct dict_object *request_type, *request_number, *application_id, *services, *requested, *granted, *units,
	*identifier;
static struct disp_hdl *handler;

/* Copies an unsigned or enumerated AVP of the request into the answer, if it is there. */
static int copy(struct msg *from, struct msg *to, struct dict_object *which)
{
	struct avp *found = NULL, *made = NULL;
	struct avp_hdr *header = NULL;
	CHECK_FCT(fd_msg_search_avp(from, which, &found));
	if (!found)
		return 0;
	CHECK_FCT(fd_msg_avp_hdr(found, &header));
	CHECK_FCT(fd_msg_avp_new(which, 0, &made));
	CHECK_FCT(fd_msg_avp_setvalue(made, header->avp_value));
	return fd_msg_avp_add(to, MSG_BRW_LAST_CHILD, made);
}

static struct avp *child(msg_or_avp *parent, struct dict_object *which)
{
	struct dict_avp_data wanted, data;
	struct avp *avp = NULL;
	struct dict_object *model;
	fd_dict_getval(which, &wanted);
	fd_msg_browse(parent, MSG_BRW_FIRST_CHILD, &avp, NULL);
	for (; avp; fd_msg_browse(avp, MSG_BRW_NEXT, &avp, NULL)) {
		if (fd_msg_model(avp, &model) || !model || fd_dict_getval(model, &data))
			continue;
		if (data.avp_code == wanted.avp_code && data.avp_vendor == wanted.avp_vendor)
			return avp;
	}
	return NULL;
}

/* Grants, at the same place, what the request asks for there. */
static int grant(msg_or_avp *from, msg_or_avp *to)
{
	struct avp *asked = child(from, requested), *count, *group, *made;
	struct avp_hdr *header = NULL;
	if (!asked || !(count = child(asked, units)))
		return 0;
	CHECK_FCT(fd_msg_avp_hdr(count, &header));
	CHECK_FCT(fd_msg_avp_new(granted, 0, &group));
	CHECK_FCT(fd_msg_avp_new(units, 0, &made));
	CHECK_FCT(fd_msg_avp_setvalue(made, header->avp_value));
	CHECK_FCT(fd_msg_avp_add(group, MSG_BRW_LAST_CHILD, made));
	return fd_msg_avp_add(to, MSG_BRW_LAST_CHILD, group);
}

static int on_request(struct msg **message, struct avp *avp, struct session *session, void *opaque,
	enum disp_action *action)
{
	struct msg *request = *message;
	struct avp *service, *answered;
	CHECK_FCT(fd_msg_new_answer_from_req(fd_g_config->cnf_dict, message, 0));
	CHECK_FCT(fd_msg_rescode_set(*message, "DIAMETER_SUCCESS", NULL, NULL, 1));
	CHECK_FCT(copy(request, *message, application_id));
	CHECK_FCT(copy(request, *message, request_type));
	CHECK_FCT(copy(request, *message, request_number));
	CHECK_FCT(grant(request, *message));
	if ((service = child(request, services))) {
		CHECK_FCT(fd_msg_avp_new(services, 0, &answered));
		CHECK_FCT(grant(service, answered));
		CHECK_FCT(fd_msg_avp_add(*message, MSG_BRW_LAST_CHILD, answered));
	}
	*action = DISP_ACT_SEND;
	return 0;
}

static int find(const char *name, struct dict_object **object)
{
	return fd_dict_search(fd_g_config->cnf_dict, DICT_AVP, AVP_BY_NAME, name, object, ENOENT);
}

static int start(char *configuration)
{
	struct disp_when when;
	CHECK_FCT(find("CC-Request-Type", &request_type));
	CHECK_FCT(find("CC-Request-Number", &request_number));
	CHECK_FCT(find("Auth-Application-Id", &application_id));
	CHECK_FCT(find("Multiple-Services-Credit-Control", &services));
	CHECK_FCT(find("Requested-Service-Unit", &requested));
	CHECK_FCT(find("Granted-Service-Unit", &granted));
	CHECK_FCT(find("CC-Service-Specific-Units", &units));
	CHECK_FCT(find("Service-Identifier", &identifier));
	memset(&when, 0, sizeof when);
	CHECK_FCT(fd_dict_search(fd_g_config->cnf_dict, DICT_APPLICATION, APPLICATION_BY_NAME,
		"Diameter Credit Control Application", &when.app, ENOENT));
	CHECK_FCT(fd_dict_search(fd_g_config->cnf_dict, DICT_COMMAND, CMD_BY_NAME, "Credit-Control-Request", &when.command,
		ENOENT));
	CHECK_FCT(fd_disp_register(on_request, DISP_HOW_CC, &when, NULL, &handler));
	return fd_disp_app_support(when.app, NULL, 1, 0);
}

void fd_ext_fini(void)
{
	(void) fd_disp_unregister(&handler, NULL);
}

EXTENSION_ENTRY("imcharge_ocs", start, "dict_dcca", "dict_dcca_3gpp");
