/*
 * imcharge: online charging of instant messages, for any SIP proxy or MSRP relay that can call C.
 *
 * The order of calls:
 *   imcharge_config_new, imcharge_config_set, imcharge_open       before the host forks
 *   imcharge_engine_run                                           in a process or thread of its own
 *   imcharge_resumer_attach, imcharge_next_verdict                in the takers of verdicts
 *   imcharge_attach, imcharge_on_invite, imcharge_on_msrp, ...    in each worker
 *   imcharge_detach, imcharge_resumer_detach, imcharge_stop, imcharge_close
 *
 * Handles are opaque. They are looked up, not followed: a wrong or closed one is told by IMCHARGE_BAD_HANDLE.
 * Results are stable numbers: zero and above is good, below zero is not. Text is UTF-8, a pointer and a length.
 * Buffers are the caller's; this library keeps no pointer of the caller's after a call, but for the logger.
 *
 * This file is generated, see cbindgen.toml.
 */


#ifndef IMCHARGE_H
#define IMCHARGE_H

#include <stddef.h>
#include <stdint.h>

// Version of this ABI: rises with each change that breaks a program compiled before.
#define IMCHARGE_ABI_VERSION 1

// Longest SIP message that a hook takes, in bytes.
#define IMCHARGE_SIP_MAX 65536

// Longest MSRP frame that imcharge_on_msrp takes, in bytes.
#define IMCHARGE_MSRP_MAX 1048576

// Longest name of a parameter or command, in bytes.
#define IMCHARGE_NAME_MAX 64

// Longest value of a parameter or argument of a command, in bytes.
#define IMCHARGE_VALUE_MAX 4096

// Most arguments of a command.
#define IMCHARGE_ARGUMENTS_MAX 8

// Done.
#define IMCHARGE_OK 0

// imcharge_on_msrp: the frame may go on; it belongs to a charged session.
#define IMCHARGE_PASS 1

// The frame may go on, or the request is done with: it belongs to no charged session.
#define IMCHARGE_NOT_CHARGED 2

// The message is none that the hook needs: a 1xx reply, or one to another method than INVITE.
#define IMCHARGE_IGNORED 3

// imcharge_next_verdict: none came in time.
#define IMCHARGE_NO_VERDICT 4

// imcharge_on_invite: no SIP INVITE, no Call-ID or From tag, or a field of it is too long.
#define IMCHARGE_INVITE_MALFORMED -1

// imcharge_on_invite: the engine does not run.
#define IMCHARGE_INVITE_ENGINE_DOWN -2

// imcharge_on_invite: the ring of this worker or the table of sessions is full, or a verdict has waited for its
// taker for more than a second.
#define IMCHARGE_INVITE_FULL -3

// imcharge_on_msrp: the frame must not go on; it is beyond the grant.
#define IMCHARGE_MSRP_BEYOND_GRANT -1

// imcharge_on_msrp: the frame must not go on; it is no MSRP frame, or has content and no Message-ID.
#define IMCHARGE_MSRP_MALFORMED -2

// imcharge_on_msrp: the frame must not go on; the ring of this worker or a table is full.
#define IMCHARGE_MSRP_FULL -3

// imcharge_on_msrp: the frame must not go on; it claims to be of the other side of its session than it comes from.
#define IMCHARGE_MSRP_FORGED -4

// imcharge_on_msrp: the frame must not go on; it comes from an endpoint of a charged session, or from an IM server, and
// belongs to no session.
#define IMCHARGE_MSRP_NO_SESSION -5

// imcharge_on_request: the request must not go on; its session has changed its MSRP endpoints too often.
#define IMCHARGE_REQUEST_TOO_MANY -6

// A pointer is NULL that must not be.
#define IMCHARGE_NULL_ARGUMENT -100

// A length is 0 or beyond its limit.
#define IMCHARGE_BAD_LENGTH -101

// No handle: closed already, of another kind, or not made by this library in this process.
#define IMCHARGE_BAD_HANDLE -102

// Another thread is using the handle.
#define IMCHARGE_BUSY -103

// Not now, or not in this process: the function's text says when.
#define IMCHARGE_WRONG_STATE -104

// A number is out of its range: an index, a count of processes or a log level.
#define IMCHARGE_OUT_OF_RANGE -105

// This process has attached this index already.
#define IMCHARGE_INDEX_TAKEN -106

// Text that is not UTF-8.
#define IMCHARGE_BAD_TEXT -107

// No such parameter, or its value is not allowed.
#define IMCHARGE_BAD_PARAMETER -108

// imcharge_open could not make the shared memory, or cannot use the state directory.
#define IMCHARGE_OPEN_FAILED -109

// imcharge_engine_run: the engine ended by a failure.
#define IMCHARGE_ENGINE_FAILED -110

// No SIP message of the kind that the hook takes, or a field that names the dialog is missing.
#define IMCHARGE_BAD_SIP -111

// The buffer is too small; the size it needs is told.
#define IMCHARGE_NEEDS_ROOM -112

// imcharge_command: the command failed; the answer says why.
#define IMCHARGE_COMMAND_FAILED -113

// This process has 1024 handles open.
#define IMCHARGE_TOO_MANY_HANDLES -114

// A defect of this library was caught; it is logged. The handle can be used further.
#define IMCHARGE_PANIC -115

// Log level: something failed.
#define IMCHARGE_LOG_ERROR 1

// Log level: something may be wrong.
#define IMCHARGE_LOG_WARNING 2

// Log level: what happened.
#define IMCHARGE_LOG_INFO 3

// Log level: for those who look for a defect.
#define IMCHARGE_LOG_DEBUG 4

// Log level: everything.
#define IMCHARGE_LOG_TRACE 5

// Most processes (or threads) that may attach.
#define IMCHARGE_PROCESSES_MAX 1024

// Verdict: credit is reserved, the INVITE goes on.
#define IMCHARGE_GRANTED 1

// Verdict: the enabler refused. Nothing is reserved.
#define IMCHARGE_DENIED 2

// Verdict: the enabler could not be asked or gave no answer. Nothing is reserved.
#define IMCHARGE_FAILED 3

// Room for a reason in a verdict, with its NUL.
#define IMCHARGE_REASON_SIZE 64

// Room for a Call-ID or an account in a verdict, with its NUL.
#define IMCHARGE_IDENTITY_SIZE 256

// A configuration: every parameter, with its default where it is not set.
typedef struct imcharge_config imcharge_config;

// What all processes of one host share: made once, before they part.
typedef struct imcharge_handle imcharge_handle;

// Takes verdicts. For one thread at a time.
typedef struct imcharge_resumer imcharge_resumer;

// One worker's way to the engine. For one thread at a time.
typedef struct imcharge_worker imcharge_worker;

// Gets a log line: `userdata` as given, one of IMCHARGE_LOG_ERROR to IMCHARGE_LOG_TRACE, and the text, which is
// UTF-8, does not end in NUL and is gone when the callback returns. Any thread of this library may call it,
// several at once. It must not call this library.
typedef void (*imcharge_log_callback)(void *userdata, int32_t level, const char *text, size_t length);

// Names a session: the same in every process, for one INVITE for ever.
typedef struct imcharge_session {
    // Upper half.
    uint64_t high;
    // Lower half.
    uint64_t low;
} imcharge_session;

// Three numbers of the host's own that come back with the verdict, so that it finds its waiting INVITE
// again. This library never looks into them.
typedef struct imcharge_tokens {
    // First number, by its use in Kamailio: the hash index of the transaction.
    uint64_t index;
    // Second number: the label of the transaction.
    uint64_t label;
    // Third number: how the host goes on.
    uint64_t route;
} imcharge_tokens;

// A verdict on an INVITE that waits. Text in it ends in NUL, and is cut where it is longer than its room.
typedef struct imcharge_verdict {
    // The session, as imcharge_on_invite named it.
    struct imcharge_session session;
    // The tokens that imcharge_on_invite was given.
    struct imcharge_tokens tokens;
    // What is left on the account beside all that is held; 0 where `balance_known` is 0.
    int64_t balance;
    // Whether the enabler told the balance: 1 or 0.
    int32_t balance_known;
    // IMCHARGE_GRANTED, IMCHARGE_DENIED or IMCHARGE_FAILED.
    int32_t result;
    // Messages (or kilobytes, by the tariff) granted; 0 unless granted.
    uint32_t granted;
    // A code that goes with the reason, else 0.
    uint32_t code;
    // Why, in one word: empty for a plain grant, else for instance `no-credit`.
    char reason[IMCHARGE_REASON_SIZE];
    // The Call-ID.
    char call_id[IMCHARGE_IDENTITY_SIZE];
    // Who pays: the canonical identity.
    char account[IMCHARGE_IDENTITY_SIZE];
} imcharge_verdict;

// Where a SIP message came from.
typedef struct imcharge_source {
    // IPv6 address in network order; an IPv4 address as ::ffff:a.b.c.d.
    uint8_t address[16];
    // Port in host order; 0 for TCP, TLS and other transports with connections, where it says nothing of the sender.
    uint16_t port;
} imcharge_source;

// Text of the caller's: UTF-8, no NUL needed.
typedef struct imcharge_text {
    // Its first byte, not NULL.
    const char *start;
    // How many bytes.
    size_t length;
} imcharge_text;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Tells the version of the ABI that this library has. Compare it with IMCHARGE_ABI_VERSION before any other call.
//
// Returns: the version. Any process, any thread.
uint32_t imcharge_abi_version(void);

// Says in a sentence what a result means. The numbers -1 to -3 mean one thing from imcharge_on_invite and
// another from imcharge_on_msrp; their sentences name both.
//
// Parameters:
//   result       what a function of this library returned; any number is allowed.
//   buffer       the caller's, for `size` bytes; gets the sentence, cut if need be, ended by NUL. Not NULL.
//   size         1 or more.
//
// Returns: the length of the sentence in the buffer without the NUL, or IMCHARGE_NULL_ARGUMENT or
// IMCHARGE_BAD_LENGTH. Any process, any thread.
int32_t imcharge_strerror(int32_t result, char *buffer, size_t size);

// Sends the library's log lines to the host. Without it there are none. No line has a message body in it.
//
// Parameters:
//   level        the finest level wanted, IMCHARGE_LOG_ERROR to IMCHARGE_LOG_TRACE.
//   callback     gets the lines, not NULL. It and `userdata` must stay good while the process lives, and in
//                every child of it.
//   userdata     given to the callback as it is. May be NULL.
//
// Returns: IMCHARGE_OK; IMCHARGE_OUT_OF_RANGE if it is no level; IMCHARGE_WRONG_STATE if this process, or the
// one it was forked from, has set it already. Call it before imcharge_open.
int32_t imcharge_set_logger(int32_t level, imcharge_log_callback callback, void *userdata);

// Makes a configuration with every parameter at its default.
//
// Parameters:
//   config       place for the handle, not NULL. The caller frees it with imcharge_config_free.
//
// Returns: IMCHARGE_OK, else an error, and no handle was made. Any process, any thread.
int32_t imcharge_config_new(struct imcharge_config **config);

// Sets one parameter. Names and values are those of the manual, the same on every host: `state_dir`,
// `default_balance`, `response_timeout` and so on; whole numbers are given as text.
//
// Parameters:
//   config       the configuration, not NULL.
//   name         its name, not NULL, 1 to IMCHARGE_NAME_MAX bytes.
//   value        its value, not NULL, 0 to IMCHARGE_VALUE_MAX bytes.
//   error        the caller's buffer for a sentence that names the parameter, the value and what is
//                allowed; cut if need be, ended by NUL. May be NULL. Written only on IMCHARGE_BAD_PARAMETER.
//   error_size   its size in bytes.
//
// Returns: IMCHARGE_OK, IMCHARGE_BAD_PARAMETER, or another error. Name and value are copied.
// Any process, any thread.
int32_t imcharge_config_set(struct imcharge_config *config,
                            const char *name,
                            size_t name_length,
                            const char *value,
                            size_t value_length,
                            char *error,
                            size_t error_size);

// Frees a configuration. What was opened with it has a copy and goes on.
//
// Parameters:
//   config       the configuration, not NULL.
//
// Returns: IMCHARGE_OK; IMCHARGE_BAD_HANDLE if it is freed already. Any process, any thread.
int32_t imcharge_config_free(struct imcharge_config *config);

// Opens: locks the state directory, checks the ledger in it and makes the shared memory. One host at a
// time can have a state directory.
//
// Parameters:
//   config       the configuration, not NULL; it is copied, and stays the caller's to free.
//   processes    how many workers will attach, 1 to IMCHARGE_PROCESSES_MAX.
//   handle       place for the handle, not NULL. Each process that has it closes it with imcharge_close.
//   error        the caller's buffer for a sentence that says what is wrong and what to do; cut if need be,
//                ended by NUL. May be NULL. Written only on IMCHARGE_OPEN_FAILED.
//   error_size   its size in bytes.
//
// Returns: IMCHARGE_OK; IMCHARGE_OPEN_FAILED; IMCHARGE_OUT_OF_RANGE if `processes` is out of its range; or
// another error. Call it before the host forks, while no other thread is in this library: the children
// inherit the handle, and all of them use the same pointer.
int32_t imcharge_open(struct imcharge_config *config,
                      uint32_t processes,
                      struct imcharge_handle **handle,
                      char *error,
                      size_t error_size);

// Runs the engine until imcharge_stop, or until it fails. It owns all sessions and money; exactly one may
// run for all processes. After a failure, or when its process has died, run it again: it carries on from
// what it had committed, and from the events that workers have put into their rings meanwhile.
//
// Parameters:
//   handle       the handle, not NULL.
//   error        the caller's buffer for a sentence that says what failed; cut if need be, ended by NUL.
//                May be NULL. Written only on IMCHARGE_ENGINE_FAILED.
//   error_size   its size in bytes.
//
// Returns: IMCHARGE_OK when stopped; IMCHARGE_ENGINE_FAILED; IMCHARGE_WRONG_STATE if this process runs it
// already; or another error. A process of its own is best: it keeps the host's workers out of its reach.
// A thread will do. Other threads may use the handle meanwhile.
int32_t imcharge_engine_run(struct imcharge_handle *handle, char *error, size_t error_size);

// Asks the engine, in whichever process it runs, to settle what is open and to return. It cannot be taken
// back. Does not wait.
//
// Parameters:
//   handle       the handle, not NULL.
//
// Returns: IMCHARGE_OK, or an error. Any process that has the handle, any thread; in a signal handler only
// where no other call with this handle but imcharge_engine_run can be interrupted by it.
int32_t imcharge_stop(struct imcharge_handle *handle);

// Attaches a worker: a process, or a thread, that calls the hooks.
//
// Parameters:
//   handle       the handle, not NULL.
//   index        the worker's own number, below `processes` of imcharge_open. No other worker may have it at
//                the same time; one that takes the place of a dead worker takes its number.
//   worker       place for the worker's handle, not NULL. The caller gives it back with imcharge_detach.
//
// Returns: IMCHARGE_OK, IMCHARGE_OUT_OF_RANGE, IMCHARGE_INDEX_TAKEN, or another error. Call it in the worker,
// after fork: the worker's handle is good in this process alone.
int32_t imcharge_attach(struct imcharge_handle *handle, uint32_t index, struct imcharge_worker **worker);

// Detaches a worker and frees its handle. What it has put into its ring is still read.
//
// Parameters:
//   worker       the worker, not NULL.
//
// Returns: IMCHARGE_OK, or an error. The process that attached it.
int32_t imcharge_detach(struct imcharge_worker *worker);

// Closes this process's handle. Workers and resumers that are still attached keep what they need. The state
// directory is free for another host when every process has closed it or ended. It does not stop the engine.
//
// Parameters:
//   handle       the handle, not NULL.
//
// Returns: IMCHARGE_OK; IMCHARGE_BAD_HANDLE if this process has closed it already. Any process.
int32_t imcharge_close(struct imcharge_handle *handle);

// Attaches a taker of verdicts: a process, or a thread, that lets waiting INVITEs go on. There can be as many as
// the parameter `resume_workers` (2) says; the next verdict goes to whichever asks first. While a verdict has
// waited for more than a second, imcharge_on_invite returns IMCHARGE_INVITE_FULL.
//
// Parameters:
//   handle       the handle, not NULL.
//   index        below `resume_workers`. No other taker may have it at the same time.
//   resumer      place for its handle, not NULL. The caller gives it back with imcharge_resumer_detach.
//
// Returns: IMCHARGE_OK, IMCHARGE_OUT_OF_RANGE, IMCHARGE_INDEX_TAKEN, or another error. Call it after fork: the
// handle is good in this process alone.
int32_t imcharge_resumer_attach(struct imcharge_handle *handle, uint32_t index, struct imcharge_resumer **resumer);

// Takes the next verdict; waits for one if there is none yet. A verdict is given once.
//
// Parameters:
//   resumer      the taker, not NULL.
//   timeout_ms   how long to wait at most, in milliseconds; 0: not at all.
//   verdict      place for it, not NULL. Written only on IMCHARGE_OK; it holds no pointer, nothing is freed.
//
// Returns: IMCHARGE_OK, IMCHARGE_NO_VERDICT, or an error; IMCHARGE_WRONG_STATE in another process than the
// one that attached it. One thread at a time. It waits: not for a process that serves SIP.
int32_t imcharge_next_verdict(struct imcharge_resumer *resumer, uint32_t timeout_ms, struct imcharge_verdict *verdict);

// Detaches a taker of verdicts and frees its handle. Verdicts that it has not taken go to the others, or wait for
// the next one that attaches.
//
// Parameters:
//   resumer      the taker, not NULL.
//
// Returns: IMCHARGE_OK, or an error. The process that attached it.
int32_t imcharge_resumer_detach(struct imcharge_resumer *resumer);

// An initial INVITE that asks for stored messages, or (RCS push) brings them: asks for a reservation. Hold
// the INVITE back until its verdict comes from imcharge_next_verdict.
//
// Parameters:
//   worker       the worker, not NULL.
//   message      the INVITE, not NULL, 1 to IMCHARGE_SIP_MAX bytes. It is copied. Its headers decide who pays: a host
//                that removes or adds P-Asserted-Identity, P-Called-Party-ID or From gives them as changed. The
//                Request-URI is that received.
//   messages     how many stored messages it is for; 0: not known, then one is reserved at a time.
//   tokens       what comes back with the verdict; NULL: three zeros. It is copied. An INVITE that comes again
//                in the same transaction is ignored; with another index or label it came by another way (RFC
//                3261, 8.2.2.2), and its verdict is `failed` with the reason `merged`. Answer it by 482, and do
//                not give that reply to imcharge_on_reply.
//   session      place for the session's name, or NULL. Written only on IMCHARGE_OK.
//
// Returns: IMCHARGE_OK: a verdict will come; IMCHARGE_IGNORED: it has a To tag, so it is within a dialog and
// needs no verdict: give it to imcharge_on_request; IMCHARGE_INVITE_MALFORMED, IMCHARGE_INVITE_ENGINE_DOWN or IMCHARGE_INVITE_FULL: none
// will come, the host decides; or another error. The process that attached the worker, one thread at a time.
int32_t imcharge_on_invite(struct imcharge_worker *worker,
                           const void *message,
                           size_t length,
                           uint32_t messages,
                           const struct imcharge_tokens *tokens,
                           struct imcharge_session *session);

// A request within a dialog (it has a To tag), before it goes on: INVITE, ACK, PRACK, UPDATE or BYE. Descriptions in ACK
// and PRACK bind MSRP sessions. A BYE of either side ends its dialog; that of the last dialog closes the session: what
// is outstanding is settled by policy, the rest is released. Other requests are ignored, so that a host may give all.
//
// Parameters:
//   worker       the worker, not NULL.
//   message      the request as received, not NULL, 1 to IMCHARGE_SIP_MAX bytes. It is copied.
//   source       where it came from; NULL: not known. Without it a BYE, or a new MSRP session, of somebody else who
//                claims to be the side that has the messages is believed.
//
// Returns: IMCHARGE_OK, IMCHARGE_IGNORED, IMCHARGE_NOT_CHARGED: the request goes on; IMCHARGE_REQUEST_TOO_MANY: it must
// not; IMCHARGE_BAD_SIP, or another error. The process that attached the worker, one thread at a time.
int32_t imcharge_on_request(struct imcharge_worker *worker,
                            const void *message,
                            size_t length,
                            const struct imcharge_source *source);

// A reply to an INVITE, PRACK, UPDATE or BYE, before it goes on. A 2xx, and a provisional reply that is sent
// reliably, binds the MSRP sessions of both session descriptions to the reservation; 300 and above to the initial INVITE
// ends it. A 2xx, 408 or 481 to a BYE says that the other side knows of the end. Replies to other methods and other
// provisional replies are ignored, so that a host may give all replies. Do not give one that the host has made itself
// because the other side did not answer.
//
// Parameters:
//   worker           the worker, not NULL.
//   reply            the reply as received, not NULL, 1 to IMCHARGE_SIP_MAX bytes. It is copied.
//   reply_source     where it came from; NULL: not known. Without it an answer of somebody else than the side that has
//                    the messages is believed.
//   request          the request that it answers, up to IMCHARGE_SIP_MAX bytes, for the session description in it.
//                    With a length of 0, which NULL may come with, it is not known: the offer is then the one of an
//                    earlier reply to the same INVITE, and where there was none no MSRP session is bound. It is
//                    copied.
//   request_source   where the request came from; NULL: not known.
//
// Returns: IMCHARGE_OK, IMCHARGE_IGNORED, IMCHARGE_NOT_CHARGED, IMCHARGE_BAD_SIP, or another error. The reply
// goes on whatever it is. The process that attached the worker, one thread at a time.
int32_t imcharge_on_reply(struct imcharge_worker *worker,
                          const void *reply,
                          size_t reply_length,
                          const struct imcharge_source *reply_source,
                          const void *request,
                          size_t request_length,
                          const struct imcharge_source *request_source);

// A CANCEL of an INVITE. The reservation is released, also where its verdict is still to come.
//
// Parameters:
//   worker       the worker, not NULL.
//   message      the CANCEL as received, not NULL, 1 to IMCHARGE_SIP_MAX bytes. It is copied.
//
// Returns: IMCHARGE_OK, IMCHARGE_BAD_SIP, or another error. The CANCEL goes on whatever it is. The process
// that attached the worker, one thread at a time.
int32_t imcharge_on_cancel(struct imcharge_worker *worker, const void *message, size_t length);

// An MSRP frame, request or response, before it goes on.
//
// Parameters:
//   worker       the worker, not NULL.
//   frame        the whole frame, from its first `M` to the CRLF of its end-line, not NULL, 1 to
//                IMCHARGE_MSRP_MAX bytes. What is needed of it is copied.
//   connection   the host's number of the connection it came on, for imcharge_on_disconnect; 0: the host has made the
//                frame itself. It decides which side of a session the frame may speak for, so it must be right.
//   source       the other end of the connection; its port says nothing here. NULL: not known, so that no frame counts as
//                one of the parameter im_server.
//   from_self    not 0: the frame came over a connection of this relay to itself, so that it passes twice.
//
// Returns: IMCHARGE_PASS, IMCHARGE_NOT_CHARGED: relay it; IMCHARGE_MSRP_BEYOND_GRANT, IMCHARGE_MSRP_MALFORMED,
// IMCHARGE_MSRP_FULL, IMCHARGE_MSRP_FORGED, IMCHARGE_MSRP_NO_SESSION: do not; or another error. The process that attached
// the worker, one thread at a time.
int32_t imcharge_on_msrp(struct imcharge_worker *worker,
                         const void *frame,
                         size_t length,
                         uint64_t connection,
                         const struct imcharge_source *source,
                         int32_t from_self);

// A connection that may have carried MSRP frames is closed.
//
// Parameters:
//   worker       the worker, not NULL.
//   connection   the host's number of it, as in imcharge_on_msrp. The host does not use it again for another
//                connection before this call.
//
// Returns: IMCHARGE_OK; IMCHARGE_IGNORED if the number is 0; or an error. The process that attached the worker,
// one thread at a time.
int32_t imcharge_on_disconnect(struct imcharge_worker *worker, uint64_t connection);

// Runs a command of the manual: `stats`, `sessions [LIMIT] [NEXT]`, `session CALLID [NEXT]`, `explain CALLID [NEXT]`,
// `audit [LIST] [LIMIT] [NEXT]`, `account.set ID BALANCE`, `account.add ID AMOUNT`, `account.get ID`,
// `accounts [LIMIT] [NEXT]`, `debits [ID] [LIMIT] [NEXT]`, `outbox`, `outbox.resend CALLID`, `outbox.release CALLID`,
// `peers`, `tariff`, `reload [TARIFF]`. A command waits for the engine, one second at most.
//
// Parameters:
//   worker          the worker, not NULL.
//   name            the command, not NULL, 1 to IMCHARGE_NAME_MAX bytes.
//   arguments       its arguments, whole numbers as text, each up to IMCHARGE_VALUE_MAX bytes. May be NULL
//                   where `count` is 0. They are copied.
//   count           how many, up to IMCHARGE_ARGUMENTS_MAX.
//   answer          the caller's buffer for the answer as JSON text, without NUL. May be NULL where `size` is 0.
//                   On IMCHARGE_COMMAND_FAILED it is an object with `code` (400 wrong use, 404 not found, 409 not
//                   with this enabler, 500 the ledger cannot be read, 503 the engine does not answer) and `text`.
//   size            the buffer's size in bytes.
//   length          place for the length of the whole answer, not NULL. Written on IMCHARGE_OK,
//                   IMCHARGE_COMMAND_FAILED and IMCHARGE_NEEDS_ROOM.
//
// Returns: IMCHARGE_OK; IMCHARGE_COMMAND_FAILED; IMCHARGE_NEEDS_ROOM: the command has run, and its answer waits
// for imcharge_command_answer, do not run it again; or another error. The process that attached the worker,
// one thread at a time. It waits: not for a process that serves SIP.
int32_t imcharge_command(struct imcharge_worker *worker,
                         const char *name,
                         size_t name_length,
                         const struct imcharge_text *arguments,
                         size_t count,
                         char *answer,
                         size_t size,
                         size_t *length);

// Gives the answer that the last imcharge_command of this worker had no room for, and forgets it.
//
// Parameters:
//   worker          the worker, not NULL.
//   answer          the caller's buffer, for `size` bytes; gets the answer as JSON text, without NUL. Not NULL.
//   size            at least what imcharge_command told.
//   length          place for the length of the answer, not NULL. Written on IMCHARGE_OK and IMCHARGE_NEEDS_ROOM.
//
// Returns: IMCHARGE_OK, whether the command had failed or not; IMCHARGE_NEEDS_ROOM: the answer waits on;
// IMCHARGE_WRONG_STATE: none waits; or another error. The process that attached the worker, one thread at a time.
int32_t imcharge_command_answer(struct imcharge_worker *worker, char *answer, size_t size, size_t *length);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* IMCHARGE_H */
