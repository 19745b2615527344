#define _GNU_SOURCE
#include "arguments.h"
#include "check.h"
#include "library.h"
#include "money.h"
#include "sessions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* All functions that take a handle, called with otherwise valid arguments. */

static int32_t with_config_set(void *handle)
{
    return imcharge.config_set(handle, "tariff", 6, "message:3", 9, NULL, 0);
}

static int32_t with_config_free(void *handle)
{
    return imcharge.config_free(handle);
}

static int32_t with_open(void *handle)
{
    imcharge_handle *out;
    return imcharge.open(handle, 1, &out, NULL, 0);
}

static int32_t with_engine_run(void *handle)
{
    return imcharge.engine_run(handle, NULL, 0);
}

static int32_t with_stop(void *handle)
{
    return imcharge.stop(handle);
}

static int32_t with_attach(void *handle)
{
    imcharge_worker *out;
    return imcharge.attach(handle, 0, &out);
}

static int32_t with_detach(void *handle)
{
    return imcharge.detach(handle);
}

static int32_t with_close(void *handle)
{
    return imcharge.close(handle);
}

static int32_t with_verdict_reader_attach(void *handle)
{
    imcharge_verdict_reader *out;
    return imcharge.verdict_reader_attach(handle, 0, &out);
}

static int32_t with_next_verdict(void *handle)
{
    imcharge_verdict out;
    return imcharge.next_verdict(handle, 0, &out);
}

static int32_t with_verdict_reader_detach(void *handle)
{
    return imcharge.verdict_reader_detach(handle);
}

static int32_t with_on_invite(void *handle)
{
    return imcharge.on_invite(handle, "x", 1, 0, NULL, NULL);
}

static int32_t with_on_reply(void *handle)
{
    return imcharge.on_reply(handle, "x", 1, NULL, NULL, 0, NULL);
}

static int32_t with_on_cancel(void *handle)
{
    return imcharge.on_cancel(handle, "x", 1);
}

static int32_t with_on_request(void *handle)
{
    return imcharge.on_request(handle, "x", 1, NULL);
}

static int32_t with_on_msrp(void *handle)
{
    return imcharge.on_msrp(handle, "x", 1, 0, NULL, 0);
}

static int32_t with_on_disconnect(void *handle)
{
    return imcharge.on_disconnect(handle, 1);
}

static int32_t with_command(void *handle)
{
    size_t length;
    return imcharge.command(handle, "stats", 5, NULL, 0, NULL, 0, &length);
}

static int32_t with_command_answer(void *handle)
{
    char out[1];
    size_t length;
    return imcharge.command_answer(handle, out, sizeof out, &length);
}

enum of { CONFIG, HANDLE, WORKER, READER };

static const struct taker {
    const char *name;
    enum of of;
    int32_t (*call)(void *handle);
} takers[] = {
    {"config_set", CONFIG, with_config_set},
    {"config_free", CONFIG, with_config_free},
    {"open", CONFIG, with_open},
    {"engine_run", HANDLE, with_engine_run},
    {"stop", HANDLE, with_stop},
    {"attach", HANDLE, with_attach},
    {"close", HANDLE, with_close},
    {"verdict_reader_attach", HANDLE, with_verdict_reader_attach},
    {"detach", WORKER, with_detach},
    {"on_invite", WORKER, with_on_invite},
    {"on_reply", WORKER, with_on_reply},
    {"on_cancel", WORKER, with_on_cancel},
    {"on_request", WORKER, with_on_request},
    {"on_msrp", WORKER, with_on_msrp},
    {"on_disconnect", WORKER, with_on_disconnect},
    {"command", WORKER, with_command},
    {"command_answer", WORKER, with_command_answer},
    {"next_verdict", READER, with_next_verdict},
    {"verdict_reader_detach", READER, with_verdict_reader_detach},
};

#define TAKERS (sizeof takers / sizeof takers[0])

/* Passes an invalid handle to all functions of other types. */
static void check_consumers(const char *what, void *handle, enum of but, int32_t want)
{
    for (size_t at = 0; at < TAKERS; at++) {
        if (takers[at].of != but) {
            check_result(takers[at].call(handle), want, "%s(%s)", takers[at].name, what);
        }
    }
}

#define NONE ((enum of) - 1)

static void check_sentences(void)
{
    char buffer[128] = "";
    check(imcharge.abi_version() == IMCHARGE_ABI_VERSION, "abi_version is that of the header");
    check_result(imcharge.strerror(0, NULL, 10), IMCHARGE_NULL_ARGUMENT, "strerror(buffer NULL)");
    check_result(imcharge.strerror(0, buffer, 0), IMCHARGE_BAD_LENGTH, "strerror(size 0)");
    check_result(imcharge.strerror(IMCHARGE_OK, buffer, sizeof buffer), 7, "strerror(IMCHARGE_OK)");
    check(strcmp(buffer, "success") == 0, "strerror says '%s'", buffer);
    check_result(imcharge.strerror(IMCHARGE_OK, buffer, 3), 2, "strerror(size 3)");
    check(strcmp(buffer, "su") == 0, "strerror cuts to '%s'", buffer);
    check(imcharge.strerror(INT32_MIN, buffer, sizeof buffer) > 0, "strerror of no result: '%s'", buffer);
}

static void no_line(void *userdata, int32_t level, const char *text, size_t length)
{
    (void)userdata;
    (void)level;
    (void)text;
    (void)length;
}

/* The harness has set its logger already. */
static void check_logger(void)
{
    check_result(imcharge.set_logger(IMCHARGE_LOG_INFO, NULL, NULL), IMCHARGE_NULL_ARGUMENT, "set_logger(NULL)");
    check_result(imcharge.set_logger(0, no_line, NULL), IMCHARGE_OUT_OF_RANGE, "set_logger(level 0)");
    check_result(imcharge.set_logger(6, no_line, NULL), IMCHARGE_OUT_OF_RANGE, "set_logger(level 6)");
    check_result(imcharge.set_logger(IMCHARGE_LOG_INFO, no_line, NULL), IMCHARGE_WRONG_STATE, "set_logger again");
}

static void check_parameters(imcharge_config *config)
{
    char error[256] = "";
    char longer[IMCHARGE_VALUE_MAX + 1];
    memset(longer, 'x', sizeof longer);
    check_result(imcharge.config_set(config, NULL, 1, "x", 1, NULL, 0), IMCHARGE_NULL_ARGUMENT, "config_set(name NULL)");
    check_result(imcharge.config_set(config, "x", 1, NULL, 1, NULL, 0), IMCHARGE_NULL_ARGUMENT, "config_set(value NULL)");
    check_result(imcharge.config_set(config, "x", 0, "x", 1, NULL, 0), IMCHARGE_BAD_LENGTH, "config_set(no name)");
    check_result(imcharge.config_set(config, longer, IMCHARGE_NAME_MAX + 1, "x", 1, NULL, 0), IMCHARGE_BAD_LENGTH,
                 "config_set(name too long)");
    check_result(imcharge.config_set(config, "x", SIZE_MAX, "x", 1, NULL, 0), IMCHARGE_BAD_LENGTH,
                 "config_set(name of SIZE_MAX)");
    check_result(imcharge.config_set(config, "tariff", 6, longer, sizeof longer, NULL, 0), IMCHARGE_BAD_LENGTH,
                 "config_set(value too long)");
    check_result(imcharge.config_set(config, "tariff", 6, "\xff\xfe", 2, NULL, 0), IMCHARGE_BAD_TEXT,
                 "config_set(value not UTF-8)");
    check_result(imcharge.config_set(config, "no_such", 7, "x", 1, error, sizeof error), IMCHARGE_BAD_PARAMETER,
                 "config_set(no_such)");
    check(strstr(error, "no_such") != NULL, "it says '%s'", error);
    check_result(imcharge.config_set(config, "tariff", 6, "free", 4, error, sizeof error), IMCHARGE_BAD_PARAMETER,
                 "config_set(tariff free)");
    check(strstr(error, "tariff") != NULL && strstr(error, "free") != NULL, "it says '%s'", error);
    check_result(imcharge.config_set(config, "tariff", 6, "free", 4, error, 4), IMCHARGE_BAD_PARAMETER,
                 "config_set(error of 4 bytes)");
    check(strlen(error) == 3, "its sentence is cut to '%s'", error);
}

static void check_open(imcharge_config *config, const char *state_dir)
{
    char error[512] = "", missing[512];
    imcharge_handle *handle = NULL;
    check_result(imcharge.open(config, 0, &handle, NULL, 0), IMCHARGE_OUT_OF_RANGE, "open(0 processes)");
    check_result(imcharge.open(config, IMCHARGE_PROCESSES_MAX + 1, &handle, NULL, 0), IMCHARGE_OUT_OF_RANGE,
                 "open(too many processes)");
    check_result(imcharge.open(config, 1, NULL, NULL, 0), IMCHARGE_NULL_ARGUMENT, "open(handle NULL)");
    snprintf(missing, sizeof missing, "%s/missing", state_dir);
    imcharge.config_set(config, "state_dir", 9, missing, strlen(missing), NULL, 0);
    check_result(imcharge.open(config, 1, &handle, error, sizeof error), IMCHARGE_OPEN_FAILED, "open(no state_dir)");
    check(handle == NULL && strstr(error, missing) != NULL, "it says '%s'", error);
}

void arguments_before_open(const char *state_dir)
{
    uint64_t memory[8] = {0};
    imcharge_config *config = NULL, *closed = NULL;
    check_sentences();
    check_logger();
    check_result(imcharge.config_new(NULL), IMCHARGE_NULL_ARGUMENT, "config_new(NULL)");
    check_result(imcharge.config_new(&closed), IMCHARGE_OK, "config_new");
    check_result(imcharge.config_free(closed), IMCHARGE_OK, "config_free");
    check_result(imcharge.config_new(&config), IMCHARGE_OK, "config_new again");
    check_consumers("NULL", NULL, NONE, IMCHARGE_NULL_ARGUMENT);
    check_consumers("own memory", memory, NONE, IMCHARGE_BAD_HANDLE);
    check_consumers("odd address", (char *)memory + 1, NONE, IMCHARGE_BAD_HANDLE);
    check_consumers("last address", (void *)UINTPTR_MAX, NONE, IMCHARGE_BAD_HANDLE);
    check_consumers("closed", closed, NONE, IMCHARGE_BAD_HANDLE);
    check_consumers("a config", config, CONFIG, IMCHARGE_BAD_HANDLE);
    check_parameters(config);
    check_open(config, state_dir);
    check_result(imcharge.config_free(config), IMCHARGE_OK, "config_free after failed opens");
}

static const char no_call_id[] =
    "INVITE sip:a@b SIP/2.0\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
static const char in_dialog[] =
    "INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n"
    "To: <sip:a@b>;tag=2\r\nCall-ID: unknown\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
static const char unknown_bye[] =
    "BYE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>;tag=2\r\n"
    "Call-ID: unknown\r\nCSeq: 2 BYE\r\nContent-Length: 0\r\n\r\n";
static const char bye_answered[] =
    "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>;tag=2\r\n"
    "Call-ID: unknown\r\nCSeq: 2 BYE\r\nContent-Length: 0\r\n\r\n";
static const char unknown_answered[] =
    "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>;tag=2\r\n"
    "Call-ID: unknown\r\nCSeq: 2 INVITE\r\nContent-Length: 0\r\n\r\n";
static const char trying[] =
    "SIP/2.0 100 Trying\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\n"
    "Call-ID: unknown\r\nCSeq: 2 INVITE\r\nContent-Length: 0\r\n\r\n";
static const char unknown_send[] =
    "MSRP abcd SEND\r\nTo-Path: msrp://a:1/unknown1;tcp\r\nFrom-Path: msrp://b:1/unknown2;tcp\r\nMessage-ID: unknown1\r\n"
    "Byte-Range: 1-1/1\r\nContent-Type: text/plain\r\n\r\nx\r\n-------abcd$\r\n";

#define TEXT(constant) constant, sizeof constant - 1

static void check_sip(imcharge_worker *worker, char *large)
{
    check_result(imcharge.on_invite(worker, NULL, 1, 0, NULL, NULL), IMCHARGE_NULL_ARGUMENT, "on_invite(NULL)");
    check_result(imcharge.on_invite(worker, "x", 0, 0, NULL, NULL), IMCHARGE_BAD_LENGTH, "on_invite(length 0)");
    check_result(imcharge.on_invite(worker, large, IMCHARGE_SIP_MAX + 1, 0, NULL, NULL), IMCHARGE_BAD_LENGTH,
                 "on_invite(too long)");
    check_result(imcharge.on_invite(worker, large, IMCHARGE_SIP_MAX, 0, NULL, NULL), IMCHARGE_INVITE_MALFORMED,
                 "on_invite(noise)");
    check_result(imcharge.on_invite(worker, TEXT(no_call_id), 0, NULL, NULL), IMCHARGE_INVITE_MALFORMED,
                 "on_invite(no Call-ID)");
    check_result(imcharge.on_invite(worker, TEXT(unknown_bye), 0, NULL, NULL), IMCHARGE_INVITE_MALFORMED,
                 "on_invite(a BYE)");
    check_result(imcharge.on_invite(worker, TEXT(in_dialog), 0, NULL, NULL), IMCHARGE_IGNORED, "on_invite(in a dialog)");

    check_result(imcharge.on_reply(worker, NULL, 1, NULL, NULL, 0, NULL), IMCHARGE_NULL_ARGUMENT, "on_reply(NULL)");
    check_result(imcharge.on_reply(worker, TEXT(trying), NULL, NULL, 1, NULL), IMCHARGE_NULL_ARGUMENT,
                 "on_reply(request NULL)");
    check_result(imcharge.on_reply(worker, large, IMCHARGE_SIP_MAX + 1, NULL, NULL, 0, NULL), IMCHARGE_BAD_LENGTH,
                 "on_reply(too long)");
    check_result(imcharge.on_reply(worker, "x", 1, NULL, NULL, 0, NULL), IMCHARGE_BAD_SIP, "on_reply(noise)");
    check_result(imcharge.on_reply(worker, TEXT(unknown_bye), NULL, NULL, 0, NULL), IMCHARGE_BAD_SIP,
                 "on_reply(a request)");
    check_result(imcharge.on_reply(worker, TEXT(unknown_answered), NULL, TEXT(unknown_bye), NULL), IMCHARGE_BAD_SIP,
                 "on_reply(INVITE is a BYE)");
    check_result(imcharge.on_reply(worker, TEXT(trying), NULL, NULL, 0, NULL), IMCHARGE_IGNORED, "on_reply(100)");
    imcharge_source source = {{0}, 5060};
    check_result(imcharge.on_reply(worker, TEXT(bye_answered), &source, TEXT(unknown_bye), &source),
                 IMCHARGE_NOT_CHARGED, "on_reply(to an unknown BYE)");
    check_result(imcharge.on_reply(worker, TEXT(unknown_answered), &source, NULL, 0, NULL), IMCHARGE_NOT_CHARGED,
                 "on_reply(unknown session)");

    check_result(imcharge.on_cancel(worker, NULL, 1), IMCHARGE_NULL_ARGUMENT, "on_cancel(NULL)");
    check_result(imcharge.on_cancel(worker, large, IMCHARGE_SIP_MAX + 1), IMCHARGE_BAD_LENGTH, "on_cancel(too long)");
    check_result(imcharge.on_cancel(worker, TEXT(unknown_bye)), IMCHARGE_BAD_SIP, "on_cancel(a BYE)");
    check_result(imcharge.on_request(worker, NULL, 1, NULL), IMCHARGE_NULL_ARGUMENT, "on_request(NULL)");
    check_result(imcharge.on_request(worker, large, IMCHARGE_SIP_MAX + 1, NULL), IMCHARGE_BAD_LENGTH,
                 "on_request(too long)");
    check_result(imcharge.on_request(worker, TEXT(trying), NULL), IMCHARGE_BAD_SIP, "on_request(a reply)");
    check_result(imcharge.on_request(worker, TEXT(unknown_bye), &source), IMCHARGE_NOT_CHARGED,
                 "on_request(unknown session)");
}

static void check_msrp(imcharge_worker *worker, char *large)
{
    check_result(imcharge.on_msrp(worker, NULL, 1, 0, NULL, 0), IMCHARGE_NULL_ARGUMENT, "on_msrp(NULL)");
    check_result(imcharge.on_msrp(worker, "x", 0, 0, NULL, 0), IMCHARGE_BAD_LENGTH, "on_msrp(length 0)");
    check_result(imcharge.on_msrp(worker, large, IMCHARGE_MSRP_MAX + 1, 0, NULL, 0), IMCHARGE_BAD_LENGTH, "on_msrp(too long)");
    check_result(imcharge.on_msrp(worker, large, IMCHARGE_MSRP_MAX, 0, NULL, 0), IMCHARGE_MSRP_MALFORMED, "on_msrp(noise)");
    check_result(imcharge.on_msrp(worker, TEXT(trying), 0, NULL, 0), IMCHARGE_MSRP_MALFORMED, "on_msrp(SIP)");
    check_result(imcharge.on_msrp(worker, TEXT(unknown_send), 0, NULL, 0), IMCHARGE_NOT_CHARGED, "on_msrp(unknown session)");
    check_result(imcharge.on_disconnect(worker, 0), IMCHARGE_IGNORED, "on_disconnect(0)");
    check_result(imcharge.on_disconnect(worker, UINT64_MAX), IMCHARGE_OK, "on_disconnect(unknown)");
}

static void check_attach(imcharge_handle *handle)
{
    imcharge_worker *worker = NULL;
    imcharge_verdict_reader *reader = NULL;
    check_result(imcharge.attach(handle, 0, NULL), IMCHARGE_NULL_ARGUMENT, "attach(place NULL)");
    check_result(imcharge.attach(handle, RINGS, &worker), IMCHARGE_OUT_OF_RANGE, "attach(index too high)");
    check_result(imcharge.attach(handle, UINT32_MAX, &worker), IMCHARGE_OUT_OF_RANGE, "attach(highest index)");
    check_result(imcharge.attach(handle, RINGS - 1, &worker), IMCHARGE_INDEX_TAKEN, "attach(index again)");
    check_result(imcharge.verdict_reader_attach(handle, 0, NULL), IMCHARGE_NULL_ARGUMENT, "verdict_reader_attach(place NULL)");
    check_result(imcharge.verdict_reader_attach(handle, 1, &reader), IMCHARGE_OUT_OF_RANGE, "verdict_reader_attach(too high)");
    check_result(imcharge.verdict_reader_attach(handle, 0, &reader), IMCHARGE_INDEX_TAKEN, "verdict_reader_attach(again)");
    check(worker == NULL && reader == NULL, "a failed attach gives no handle");
    check_result(imcharge.attach(handle, 0, &worker), IMCHARGE_OK, "attach(0)");
    check_result(imcharge.detach(worker), IMCHARGE_OK, "detach");
    check_consumers("a detached worker", worker, NONE, IMCHARGE_BAD_HANDLE);
}

/* A child inherits the handles, but must not use the queues of its parent. */
static void check_child(imcharge_worker *worker, imcharge_verdict_reader *reader)
{
    pid_t child = fork();
    if (child == 0) {
        check_result(with_on_request(worker), IMCHARGE_WRONG_STATE, "on_request(the parent's worker)");
        check_result(with_command(worker), IMCHARGE_WRONG_STATE, "command(the parent's worker)");
        check_result(with_next_verdict(reader), IMCHARGE_WRONG_STATE, "next_verdict(the parent's reader)");
        _exit(0);
    }
    int status = -1;
    check(waitpid(child, &status, 0) == child && status == 0, "the child ended well");
}

void arguments_after_open(imcharge_handle *handle, imcharge_worker *admin, imcharge_verdict_reader *reader)
{
    char *large = malloc(IMCHARGE_MSRP_MAX + 1);
    if (large == NULL) {
        abort();
    }
    memset(large, 'x', IMCHARGE_MSRP_MAX + 1);
    check_attach(handle);
    check_consumers("an open handle", handle, HANDLE, IMCHARGE_BAD_HANDLE);
    check_consumers("a worker", admin, WORKER, IMCHARGE_BAD_HANDLE);
    check_consumers("a reader", reader, READER, IMCHARGE_BAD_HANDLE);
    check_sip(admin, large);
    check_msrp(admin, large);
    check_child(admin, reader);
    imcharge_verdict verdict;
    check_result(imcharge.next_verdict(reader, 0, NULL), IMCHARGE_NULL_ARGUMENT, "next_verdict(NULL)");
    check_result(imcharge.next_verdict(reader, 0, &verdict), IMCHARGE_NO_VERDICT, "next_verdict(0 ms)");
    check_result(imcharge.next_verdict(reader, 20, &verdict), IMCHARGE_NO_VERDICT, "next_verdict(20 ms)");
    free(large);
}

static void check_answers(imcharge_worker *admin)
{
    char *answer = malloc(65536);
    size_t needed = 0, length = 0;
    if (answer == NULL) {
        abort();
    }
    check_result(imcharge.command_answer(admin, answer, 1, &length), IMCHARGE_WRONG_STATE, "command_answer(none waits)");
    check_result(imcharge.command(admin, "stats", 5, NULL, 0, answer, 2, &needed), IMCHARGE_NEEDS_ROOM,
                 "command(stats, 2 bytes)");
    check_result(imcharge.command_answer(admin, answer, needed - 1, &length), IMCHARGE_NEEDS_ROOM,
                 "command_answer(a byte too few)");
    check_result(imcharge.command_answer(admin, answer, needed, &length), IMCHARGE_OK, "command_answer(enough)");
    check(length == needed && answer[0] == '{' && answer[length - 1] == '}', "it is an object of %zu bytes", length);
    check_result(imcharge.command_answer(admin, answer, 65536, &length), IMCHARGE_WRONG_STATE, "command_answer(again)");
    free(answer);
}

void arguments_of_commands(imcharge_worker *admin)
{
    char answer[512] = "", name[IMCHARGE_NAME_MAX + 1];
    imcharge_text none = {NULL, 1}, latin = {"\xe9", 1}, many[IMCHARGE_ARGUMENTS_MAX + 1];
    size_t length = 0;
    memset(name, 'x', sizeof name);
    for (size_t at = 0; at <= IMCHARGE_ARGUMENTS_MAX; at++) {
        many[at] = (imcharge_text){"x", 1};
    }
    check_result(imcharge.command(admin, NULL, 1, NULL, 0, answer, 9, &length), IMCHARGE_NULL_ARGUMENT,
                 "command(name NULL)");
    check_result(imcharge.command(admin, "x", 0, NULL, 0, answer, 9, &length), IMCHARGE_BAD_LENGTH, "command(no name)");
    check_result(imcharge.command(admin, name, sizeof name, NULL, 0, answer, 9, &length), IMCHARGE_BAD_LENGTH,
                 "command(name too long)");
    check_result(imcharge.command(admin, "stats", 5, NULL, 1, answer, 9, &length), IMCHARGE_NULL_ARGUMENT,
                 "command(arguments NULL)");
    check_result(imcharge.command(admin, "stats", 5, &none, 1, answer, 9, &length), IMCHARGE_NULL_ARGUMENT,
                 "command(an argument NULL)");
    check_result(imcharge.command(admin, "account.get", 11, &latin, 1, answer, 9, &length), IMCHARGE_BAD_TEXT,
                 "command(an argument not UTF-8)");
    check_result(imcharge.command(admin, "stats", 5, many, IMCHARGE_ARGUMENTS_MAX + 1, answer, 9, &length),
                 IMCHARGE_BAD_LENGTH, "command(too many arguments)");
    check_result(imcharge.command(admin, "stats", 5, NULL, 0, NULL, 9, &length), IMCHARGE_NULL_ARGUMENT,
                 "command(answer NULL)");
    check_result(imcharge.command(admin, "stats", 5, NULL, 0, answer, 9, NULL), IMCHARGE_NULL_ARGUMENT,
                 "command(length NULL)");
    check_result(command(admin, "account.get", "sip:unknown@example.com", NULL, answer, sizeof answer),
                 IMCHARGE_COMMAND_FAILED, "command(account.get of an unknown account)");
    check(strstr(answer, "\"code\":404") != NULL, "it says %s", answer);
    check_result(command(admin, "no.such", NULL, NULL, answer, sizeof answer), IMCHARGE_COMMAND_FAILED,
                 "command(no.such)");
    check(strstr(answer, "\"code\":4") != NULL, "it says %s", answer);
    check_answers(admin);
}
