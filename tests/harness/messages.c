#include "messages.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void append(struct message *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void append(struct message *out, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(out->text + out->length, MESSAGE_SIZE - out->length, format, arguments);
    va_end(arguments);
    if (written < 0 || (size_t)written >= MESSAGE_SIZE - out->length) {
        fprintf(stderr, "harness: a message is too long\n");
        abort();
    }
    out->length += (size_t)written;
}

/* The MSRP URIs of a session: its server, its client and the relay between them. */
static const char *server_uri(const struct party *party)
{
    static char uri[96];
    snprintf(uri, sizeof uri, "msrp://store.example.net:2855/server%uof%u;tcp", party->number, party->worker);
    return uri;
}

static const char *client_uri(const struct party *party)
{
    static char uri[96];
    snprintf(uri, sizeof uri, "msrp://client.example.com:7394/client%uof%u;tcp", party->number, party->worker);
    return uri;
}

#define RELAY_URI "msrp://relay.example.com:2855/relay;tcp"

/* Appends a session description with this path. */
static void body(struct message *out, const char *path)
{
    struct message sdp = {0};
    append(&sdp, "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n");
    append(&sdp, "m=message 2855 TCP/MSRP *\r\na=accept-types:text/plain\r\na=path:%s\r\n", path);
    append(out, "Content-Type: application/sdp\r\nContent-Length: %zu\r\n\r\n%s", sdp.length, sdp.text);
}

/* Appends the headers that all messages of the INVITE's transaction share. */
static void head(struct message *out, const struct party *party, const char *to_tag, const char *cseq)
{
    append(out, "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK%uw%u\r\n", party->number, party->worker);
    append(out, "Max-Forwards: 70\r\n");
    append(out, "From: <%s>;tag=inviting%u\r\n", party->push ? "sip:store@example.net" : party->account, party->number);
    append(out, "To: <%s>%s\r\n", party->push ? party->account : "sip:store@example.net", to_tag);
    append(out, "Call-ID: %s\r\nCSeq: %s\r\n", party->call_id, cseq);
}

static const char *request_uri(const struct party *party)
{
    return party->push ? party->account : "sip:store@example.net";
}

void sip_invite(struct message *out, const struct party *party)
{
    out->length = 0;
    append(out, "INVITE %s SIP/2.0\r\n", request_uri(party));
    head(out, party, "", "7 INVITE");
    if (party->push) {
        append(out, "P-Asserted-Identity: <sip:rcse-standfw@example.net>\r\n");
        append(out, "P-Called-Party-ID: <%s>\r\n", party->account);
    } else {
        append(out, "P-Asserted-Identity: \"Alice\" <%s>\r\n", party->account);
    }
    append(out, "Contact: <sip:192.0.2.1:5060>\r\n");
    body(out, party->push ? server_uri(party) : client_uri(party));
}

void sip_reply(struct message *out, const struct party *party, unsigned code)
{
    out->length = 0;
    append(out, "SIP/2.0 %u Said\r\n", code);
    head(out, party, ";tag=answering", "7 INVITE");
    if (code / 100 == 2) {
        append(out, "Contact: <sip:192.0.2.2:5060>\r\n");
        body(out, party->push ? client_uri(party) : server_uri(party));
    } else {
        append(out, "Content-Length: 0\r\n\r\n");
    }
}

void sip_cancel(struct message *out, const struct party *party)
{
    out->length = 0;
    append(out, "CANCEL %s SIP/2.0\r\n", request_uri(party));
    head(out, party, "", "7 CANCEL");
    append(out, "Content-Length: 0\r\n\r\n");
}

void sip_bye(struct message *out, const struct party *party)
{
    out->length = 0;
    append(out, "BYE sip:192.0.2.2:5060 SIP/2.0\r\n");
    head(out, party, ";tag=answering", "8 BYE");
    append(out, "Content-Length: 0\r\n\r\n");
}

void msrp_send(struct message *out, const struct party *party, const struct chunk *chunk)
{
    out->length = 0;
    append(out, "MSRP %s SEND\r\n", chunk->transaction);
    if (chunk->second_pass) {
        append(out, "To-Path: %s\r\n", client_uri(party));
        append(out, "From-Path: %s %s\r\n", RELAY_URI, server_uri(party));
    } else {
        append(out, "To-Path: %s %s\r\n", RELAY_URI, client_uri(party));
        append(out, "From-Path: %s\r\n", server_uri(party));
    }
    append(out, "Message-ID: %s\r\nByte-Range: %s\r\n", chunk->message_id, chunk->range);
    if (chunk->body != NULL) {
        append(out, "Content-Type: text/plain\r\n\r\n%s\r\n", chunk->body);
    }
    append(out, "-------%s%c\r\n", chunk->transaction, chunk->flag);
}

void msrp_response(struct message *out, const struct party *party, const char *transaction, unsigned code)
{
    out->length = 0;
    append(out, "MSRP %s %u Said\r\n", transaction, code);
    append(out, "To-Path: %s\r\n", RELAY_URI);
    append(out, "From-Path: %s\r\n", client_uri(party));
    append(out, "-------%s$\r\n", transaction);
}
