/* Raw SIP (RFC 3261) and MSRP (RFC 4975) messages of one session. */
#ifndef MESSAGES_H
#define MESSAGES_H

#include <stdbool.h>
#include <stddef.h>

#define MESSAGE_SIZE 4096

/* The session that messages belong to. */
struct party {
    char call_id[64];
    char account[64];   /* account that pays: sip:user@host */
    unsigned worker;
    unsigned number;    /* of the session within its worker */
    bool push;          /* RCS push: the server invites */
};

struct message {
    size_t length;
    char text[MESSAGE_SIZE];
};

void sip_invite(struct message *out, const struct party *party);
void sip_reply(struct message *out, const struct party *party, unsigned code);
void sip_cancel(struct message *out, const struct party *party);
void sip_bye(struct message *out, const struct party *party);

/* Content of a SEND. */
struct chunk {
    const char *message_id;
    const char *transaction;
    const char *range;  /* Byte-Range */
    const char *body;   /* NULL: none */
    char flag;
    bool second_pass;   /* the relay comes first in From-Path: it came from itself */
};

void msrp_send(struct message *out, const struct party *party, const struct chunk *chunk);
void msrp_response(struct message *out, const struct party *party, const char *transaction, unsigned code);

#endif
