#define _GNU_SOURCE
#include "sessions.h"
#include "check.h"
#include "library.h"
#include "messages.h"
#include "money.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Tokens of an INVITE, which must come back with the verdict. */
#define ROUTE 7

struct kind;

struct session {
    struct party party;
    const struct kind *kind;
    imcharge_session name;
    imcharge_verdict verdict;
    bool decided;
};

/* SIP and MSRP use separate workers, so their order is not defined. */
struct worker {
    unsigned index;
    imcharge_worker *sip;
    imcharge_worker *msrp;
    struct session *sessions;
    size_t count;
};

struct kind {
    const char *name;
    int32_t verdict;        /* 0: do not wait for one */
    unsigned messages;      /* number passed with the INVITE */
    unsigned debits;        /* messages that each session pays */
    bool push;
    bool exact;             /* the balance is exactly the initial reservations */
    bool dialog;            /* ends by BYE */
    bool timer;             /* the BYE is sent after the debits */
    void (*play)(struct worker *, struct session *);
};

/* Calls of the hooks with the expected results. */

static void invite(struct worker *worker, struct session *session)
{
    struct message message;
    imcharge_tokens tokens = {worker->index, session->party.number, ROUTE};
    imcharge_invite charged = {session->kind->messages, IMCHARGE_CONTENT_RECEIVED, 0, NULL};
    sip_invite(&message, &session->party);
    int32_t got = imcharge.on_invite(
        worker->sip, message.text, message.length, &charged, &tokens, &session->name);
    step(got, IMCHARGE_OK, "on_invite", session->party.call_id);
}

/* Passes a reply, with or without its INVITE. */
static void reply(struct worker *worker, struct session *session, unsigned code, bool with_invite)
{
    struct message answer, invite;
    sip_reply(&answer, &session->party, code);
    sip_invite(&invite, &session->party);
    int32_t got = imcharge.on_reply(worker->sip, answer.text, answer.length, NULL, invite.text,
                                    with_invite ? invite.length : 0, NULL);
    step(got, code < 200 ? IMCHARGE_IGNORED : IMCHARGE_OK, "on_reply", session->party.call_id);
}

static void cancel(struct worker *worker, struct session *session)
{
    struct message message;
    sip_cancel(&message, &session->party);
    step(imcharge.on_cancel(worker->sip, message.text, message.length), IMCHARGE_OK, "on_cancel",
         session->party.call_id);
}

static void bye(struct worker *worker, struct session *session)
{
    struct message message;
    sip_bye(&message, &session->party);
    step(imcharge.on_request(worker->sip, message.text, message.length, NULL), IMCHARGE_OK, "on_request",
         session->party.call_id);
}

enum side { SERVER, CLIENT };

/* Each side of each session has its own connection, independent of the worker that reads it. */
static uint64_t connection(const struct session *session, enum side side)
{
    return 1 + (uint64_t)side + 2 * (uint64_t)session->party.number;
}

static void frame(struct worker *worker, struct session *session, const struct chunk *chunk, int32_t want)
{
    struct message message;
    msrp_send(&message, &session->party, chunk);
    int32_t got = imcharge.on_msrp(
        worker->msrp, message.text, message.length, connection(session, SERVER), NULL, chunk->second_pass);
    step(got, want, "on_msrp SEND", session->party.call_id);
}

static const char *transaction(const struct worker *worker, const struct session *session, unsigned nth)
{
    static char id[32];
    snprintf(id, sizeof id, "t%uw%un%u", nth, worker->index, session->party.number);
    return id;
}

/* Sends a whole message: the `nth` of its session, in the transaction of this number. */
static void send_message(struct worker *worker, struct session *session, unsigned nth, int32_t want)
{
    char message_id[32];
    snprintf(message_id, sizeof message_id, "message%u", nth);
    struct chunk chunk = {message_id, transaction(worker, session, nth), "1-5/5", "hello", '$', false};
    frame(worker, session, &chunk, want);
}

static void respond(struct worker *worker, struct session *session, unsigned nth, unsigned code, int32_t want)
{
    struct message message;
    msrp_response(&message, &session->party, transaction(worker, session, nth), code);
    int32_t got = imcharge.on_msrp(worker->msrp, message.text, message.length, connection(session, CLIENT), NULL, 0);
    step(got, want, "on_msrp response", session->party.call_id);
}

/* Passes the 200 and the empty SEND by which the server binds the connection, which is free. */
static void establish(struct worker *worker, struct session *session)
{
    reply(worker, session, 200, true);
    struct chunk binding = {"binding", transaction(worker, session, 0), "1-0/0", NULL, '$', false};
    frame(worker, session, &binding, IMCHARGE_PASS);
}

/* The kinds of sessions, after the verdict. */

static void play_answered(struct worker *worker, struct session *session)
{
    establish(worker, session);
    send_message(worker, session, 1, IMCHARGE_PASS);
    respond(worker, session, 1, 200, IMCHARGE_PASS);
}

static void play_refused(struct worker *worker, struct session *session)
{
    establish(worker, session);
    send_message(worker, session, 1, IMCHARGE_PASS);
    respond(worker, session, 1, 415, IMCHARGE_PASS);
}

static void play_silent(struct worker *worker, struct session *session)
{
    establish(worker, session);
    send_message(worker, session, 1, IMCHARGE_PASS);
}

static void play_cut(struct worker *worker, struct session *session)
{
    play_silent(worker, session);
    step(imcharge.on_disconnect(worker->msrp, connection(session, CLIENT)), IMCHARGE_OK, "on_disconnect",
         session->party.call_id);
}

static void play_twice(struct worker *worker, struct session *session)
{
    establish(worker, session);
    struct chunk chunk = {"message1", transaction(worker, session, 1), "1-5/5", "hello", '$', false};
    frame(worker, session, &chunk, IMCHARGE_PASS);
    chunk.second_pass = true;
    frame(worker, session, &chunk, IMCHARGE_PASS);
    respond(worker, session, 1, 200, IMCHARGE_PASS);
}

static void play_chunks(struct worker *worker, struct session *session)
{
    static const char *const ranges[] = {"1-5/15", "6-10/15", "11-15/15"};
    establish(worker, session);
    for (unsigned nth = 1; nth <= 3; nth++) {
        struct chunk chunk = {
            "message1", transaction(worker, session, nth), ranges[nth - 1], "hello", nth < 3 ? '+' : '$', false};
        frame(worker, session, &chunk, IMCHARGE_PASS);
    }
    for (unsigned nth = 1; nth <= 3; nth++) {
        respond(worker, session, nth, 200, IMCHARGE_PASS);
    }
}

static void play_again(struct worker *worker, struct session *session)
{
    play_answered(worker, session);
    struct chunk again = {"message1", transaction(worker, session, 2), "1-5/5", "hello", '$', false};
    frame(worker, session, &again, IMCHARGE_PASS);
    respond(worker, session, 2, 200, IMCHARGE_PASS);
}

static void play_three(struct worker *worker, struct session *session)
{
    establish(worker, session);
    for (unsigned nth = 1; nth <= 3; nth++) {
        send_message(worker, session, nth, IMCHARGE_PASS);
    }
    for (unsigned nth = 3; nth >= 1; nth--) {
        respond(worker, session, nth, nth == 2 ? 413 : 200, IMCHARGE_PASS);
    }
}

static void play_beyond(struct worker *worker, struct session *session)
{
    establish(worker, session);
    send_message(worker, session, 1, IMCHARGE_PASS);
    send_message(worker, session, 2, IMCHARGE_MSRP_BEYOND_GRANT);
    respond(worker, session, 1, 200, IMCHARGE_PASS);
}

/* The path of the client is unknown, but the transaction is known. */
static void play_without_offer(struct worker *worker, struct session *session)
{
    reply(worker, session, 200, false);
    send_message(worker, session, 1, IMCHARGE_PASS);
    respond(worker, session, 1, 200, IMCHARGE_PASS);
}

static void play_unused(struct worker *worker, struct session *session)
{
    establish(worker, session);
}

static void play_busy(struct worker *worker, struct session *session)
{
    reply(worker, session, 180, true);
    reply(worker, session, 486, true);
}

static void play_nothing(struct worker *worker, struct session *session)
{
    (void)worker;
    check(strcmp(session->verdict.reason, "no-credit") == 0, "%s: denied for '%s'", session->party.call_id,
          session->verdict.reason);
}

static void play_cancelled(struct worker *worker, struct session *session)
{
    reply(worker, session, 487, true);
}

static const struct kind all[] = {
    {.name = "the client answers 200", .verdict = IMCHARGE_GRANTED, .debits = 1, .dialog = true, .play = play_answered},
    {.name = "the client answers 415", .verdict = IMCHARGE_GRANTED, .debits = 1, .dialog = true, .play = play_refused},
    {.name = "the client is silent", .verdict = IMCHARGE_GRANTED, .debits = 1, .dialog = true, .timer = true,
     .play = play_silent},
    {.name = "the client hangs up unanswered", .verdict = IMCHARGE_GRANTED, .debits = 1, .dialog = true,
     .play = play_silent},
    {.name = "the connection breaks", .verdict = IMCHARGE_GRANTED, .debits = 1, .dialog = true, .play = play_cut},
    {.name = "frames pass twice", .verdict = IMCHARGE_GRANTED, .debits = 1, .dialog = true, .play = play_twice},
    {.name = "a message in chunks", .verdict = IMCHARGE_GRANTED, .debits = 1, .dialog = true, .play = play_chunks},
    {.name = "a message sent again", .verdict = IMCHARGE_GRANTED, .debits = 1, .dialog = true, .play = play_again},
    {.name = "three messages", .verdict = IMCHARGE_GRANTED, .messages = 3, .debits = 3, .dialog = true,
     .play = play_three},
    {.name = "a message beyond the grant", .verdict = IMCHARGE_GRANTED, .messages = 1, .debits = 1, .exact = true,
     .dialog = true, .play = play_beyond},
    {.name = "the offer is not given", .verdict = IMCHARGE_GRANTED, .debits = 1, .dialog = true,
     .play = play_without_offer},
    {.name = "the server pushes", .verdict = IMCHARGE_GRANTED, .debits = 1, .push = true, .dialog = true,
     .play = play_answered},
    {.name = "nothing is sent", .verdict = IMCHARGE_GRANTED, .dialog = true, .play = play_unused},
    {.name = "the server is busy", .verdict = IMCHARGE_GRANTED, .play = play_busy},
    {.name = "no credit", .verdict = IMCHARGE_DENIED, .exact = true, .play = play_nothing},
    {.name = "cancelled at once", .play = play_cancelled},
};

const size_t kinds = sizeof all / sizeof all[0];

static void account_id(char *out, size_t size, unsigned worker, size_t kind)
{
    snprintf(out, size, "sip:w%uk%zu@example.com", worker, kind);
}

/* Returns the initial balance for a kind. */
static long long start_balance(const struct kind *kind, unsigned per_kind)
{
    return kind->exact ? (long long)kind->debits * PRICE * per_kind : DEFAULT_BALANCE;
}

void sessions_prepare(imcharge_worker *admin, unsigned per_kind)
{
    for (unsigned worker = 0; worker < WORKERS; worker++) {
        for (size_t kind = 0; kind < kinds; kind++) {
            /* A cancelled one may never be requested. */
            if (all[kind].exact || all[kind].verdict == 0) {
                char id[64];
                account_id(id, sizeof id, worker, kind);
                account_set(admin, id, start_balance(&all[kind], per_kind));
            }
        }
    }
}

static void make_sessions(struct worker *worker, unsigned per_kind)
{
    worker->count = kinds * per_kind;
    worker->sessions = calloc(worker->count, sizeof *worker->sessions);
    if (worker->sessions == NULL) {
        abort();
    }
    for (size_t number = 0; number < worker->count; number++) {
        struct session *session = &worker->sessions[number];
        session->kind = &all[number % kinds];
        session->party.worker = worker->index;
        session->party.number = (unsigned)number;
        session->party.push = session->kind->push;
        account_id(session->party.account, sizeof session->party.account, worker->index, number % kinds);
        snprintf(session->party.call_id, sizeof session->party.call_id, "w%un%zu@harness", worker->index, number);
    }
}

/* Whether the verdict is for this session and has the expected result. */
static bool fits(const struct session *session, const imcharge_verdict *verdict)
{
    return verdict->result == session->kind->verdict && verdict->tokens.continuation == ROUTE
        && verdict->session.high == session->name.high && verdict->session.low == session->name.low
        && strcmp(verdict->call_id, session->party.call_id) == 0
        && strcmp(verdict->account, session->party.account) == 0
        && (verdict->result == IMCHARGE_GRANTED) == (verdict->granted > 0);
}

static void decide(struct worker *worker, const imcharge_verdict *verdict)
{
    struct session *session = verdict->tokens.label < worker->count ? &worker->sessions[verdict->tokens.label] : NULL;
    if (session == NULL || session->decided) {
        check(false, "worker %u: an unexpected or repeated verdict: %s", worker->index, verdict->call_id);
        return;
    }
    session->decided = true;
    session->verdict = *verdict;
    if (session->kind->verdict != 0 && !fits(session, verdict)) {
        check(false, "%s: verdict %d, granted %u, account %s, reason '%s'", session->party.call_id, verdict->result,
              verdict->granted, verdict->account, verdict->reason);
    }
}

/* Verdicts arrive in any order. A cancelled session may get one or not. */
static void gather_verdicts(struct worker *worker, int verdicts)
{
    size_t wanted = 0;
    for (size_t number = 0; number < worker->count; number++) {
        wanted += worker->sessions[number].kind->verdict != 0;
    }
    uint64_t since = check_now();
    size_t missing = wanted;
    while (missing > 0 && in_time(since)) {
        struct pollfd readable = {verdicts, POLLIN, 0};
        imcharge_verdict verdict;
        if (poll(&readable, 1, 100) > 0 && read(verdicts, &verdict, sizeof verdict) == sizeof verdict) {
            decide(worker, &verdict);
        }
        missing = wanted;
        for (size_t number = 0; number < worker->count; number++) {
            missing -= worker->sessions[number].kind->verdict != 0 && worker->sessions[number].decided;
        }
    }
    check(missing == 0, "worker %u: %zu of %zu verdicts came", worker->index, wanted - missing, wanted);
}

/* Returns the sessions that can proceed: those with a verdict, and those that need none. */
static bool ready(const struct session *session)
{
    return session->decided || session->kind->verdict == 0;
}

static void play(struct worker *worker)
{
    for (size_t number = 0; number < worker->count; number++) {
        struct session *session = &worker->sessions[number];
        if (ready(session)) {
            session->kind->play(worker, session);
        }
    }
}

static void hang_up(struct worker *worker, bool timer)
{
    for (size_t number = 0; number < worker->count; number++) {
        struct session *session = &worker->sessions[number];
        if (session->kind->dialog && session->kind->timer == timer && ready(session)) {
            bye(worker, session);
        }
    }
}

static void wait_for_timers(struct worker *worker, unsigned per_kind)
{
    for (size_t kind = 0; kind < kinds; kind++) {
        if (all[kind].timer) {
            char id[64];
            account_id(id, sizeof id, worker->index, kind);
            check(account_debited(worker->sip, id, (long long)all[kind].debits * PRICE * per_kind),
                  "worker %u: %s: debited in time", worker->index, all[kind].name);
        }
    }
}

void sessions_run(imcharge_handle *handle, unsigned index, unsigned per_kind, int verdicts)
{
    struct worker worker = {.index = index};
    bool attached = check_result(imcharge.attach(handle, 2 * index, &worker.sip), IMCHARGE_OK,
                                 "worker %u: attach for SIP", index)
        && check_result(imcharge.attach(handle, 2 * index + 1, &worker.msrp), IMCHARGE_OK,
                        "worker %u: attach for MSRP", index);
    if (!attached) {
        return;
    }
    make_sessions(&worker, per_kind);
    for (size_t number = 0; number < worker.count; number++) {
        invite(&worker, &worker.sessions[number]);
        if (worker.sessions[number].kind->verdict == 0) {
            cancel(&worker, &worker.sessions[number]);
        }
    }
    gather_verdicts(&worker, verdicts);
    play(&worker);
    hang_up(&worker, false);
    wait_for_timers(&worker, per_kind);
    hang_up(&worker, true);
    check_steps("worker %u: each call in %zu sessions at once", index, worker.count);
    free(worker.sessions);
    check_result(imcharge.detach(worker.sip), IMCHARGE_OK, "worker %u: detach SIP", index);
    check_result(imcharge.detach(worker.msrp), IMCHARGE_OK, "worker %u: detach MSRP", index);
}

void sessions_audit(imcharge_worker *admin, unsigned per_kind)
{
    for (unsigned worker = 0; worker < WORKERS; worker++) {
        for (size_t kind = 0; kind < kinds; kind++) {
            char id[64];
            account_id(id, sizeof id, worker, kind);
            long long messages = (long long)all[kind].debits * per_kind;
            long long debited = messages * PRICE;
            long long left = start_balance(&all[kind], per_kind) - debited;
            struct account account = account_settled(admin, id, debited);
            check(account.balance == left && account.held == 0 && account.debited == debited
                      && account.messages == messages,
                  "%s (%s): balance %lld of %lld, held %lld, debited %lld of %lld, messages %lld of %lld", id,
                  all[kind].name, account.balance, left, account.held, account.debited, debited, account.messages,
                  messages);
        }
    }
}
