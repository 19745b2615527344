/*
 * imcharge: online charging of instant messages, for any SIP proxy or MSRP relay that can call C.
 *
 * The order of calls:
 *   imcharge_config_new, imcharge_config_set, imcharge_open       before the host forks
 *   imcharge_engine_run                                           in a separate process or thread
 *   imcharge_verdict_reader_attach, imcharge_next_verdict         in each verdict reader
 *   imcharge_attach, imcharge_on_invite, imcharge_on_msrp, ...    in each worker
 *   imcharge_detach, imcharge_verdict_reader_detach, imcharge_stop, imcharge_close
 *
 * Handles are opaque and looked up, not dereferenced: a wrong or closed one yields IMCHARGE_BAD_HANDLE.
 * Results are stable numbers: zero and above is success, below zero is an error. Text is UTF-8, passed as pointer
 * and length. Buffers belong to the caller; the library keeps no pointer after a call, except the logger's.
 *
 * This file is generated, see cbindgen.toml.
 */


#ifndef IMCHARGE_H
#define IMCHARGE_H

#include <stddef.h>
#include <stdint.h>

// Version of this ABI, incremented with each change that breaks compiled programs.
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

// Maximum length of the name of a tariff that is read, without its NUL. Configured names have up to 32 bytes.
#define IMCHARGE_TARIFF_MAX 64

// Success.
#define IMCHARGE_OK 0

// imcharge_on_msrp: relay the frame; it belongs to a charged session.
#define IMCHARGE_PASS 1

// The message belongs to no charged session; the host may relay it.
#define IMCHARGE_NOT_CHARGED 2

// The hook does not need this message, for example an unreliable provisional reply.
#define IMCHARGE_IGNORED 3

// imcharge_next_verdict: no verdict within the timeout.
#define IMCHARGE_NO_VERDICT 4

// imcharge_on_invite, imcharge_on_message: not a SIP INVITE or MESSAGE, no Call-ID or From tag, or a header is too long.
#define IMCHARGE_INVITE_MALFORMED -1

// imcharge_on_invite, imcharge_on_message: the engine is not running.
#define IMCHARGE_INVITE_ENGINE_DOWN -2

// imcharge_on_invite, imcharge_on_message: the queue of this worker or the session table is full, or a verdict has
// been waiting for a reader for more than one second.
#define IMCHARGE_INVITE_FULL -3

// imcharge_on_message: the body is larger than the parameter message_max.
#define IMCHARGE_MESSAGE_TOO_LARGE -7

// imcharge_on_invite, imcharge_on_message: there is no tariff of this name.
#define IMCHARGE_INVITE_UNKNOWN_TARIFF -8

// imcharge_on_msrp: do not relay the frame; the granted credit is used up.
#define IMCHARGE_MSRP_BEYOND_GRANT -1

// imcharge_on_msrp: do not relay the frame; it is malformed, or has content but no Message-ID.
#define IMCHARGE_MSRP_MALFORMED -2

// imcharge_on_msrp: do not relay the frame; the queue of this worker or a table is full.
#define IMCHARGE_MSRP_FULL -3

// imcharge_on_msrp: do not relay the frame; it claims to be from the opposite side of its session.
#define IMCHARGE_MSRP_FORGED -4

// imcharge_on_msrp: do not relay the frame; it comes from an endpoint of a charged session or from an IM server, but
// belongs to no session.
#define IMCHARGE_MSRP_NO_SESSION -5

// imcharge_on_request: do not relay the request; the session has changed its MSRP endpoints too often.
#define IMCHARGE_REQUEST_TOO_MANY -6

// A required pointer is NULL.
#define IMCHARGE_NULL_ARGUMENT -100

// A length is 0 or above its limit.
#define IMCHARGE_BAD_LENGTH -101

// Invalid handle: closed, of another type, or not created by this library in this process.
#define IMCHARGE_BAD_HANDLE -102

// Another thread is using the handle.
#define IMCHARGE_BUSY -103

// The call is not allowed now or in this process; see the function.
#define IMCHARGE_WRONG_STATE -104

// An index, a number of processes or a log level is out of range.
#define IMCHARGE_OUT_OF_RANGE -105

// This process has attached this index already.
#define IMCHARGE_INDEX_TAKEN -106

// Text is not UTF-8.
#define IMCHARGE_BAD_TEXT -107

// Unknown parameter, or a value that is not accepted.
#define IMCHARGE_BAD_PARAMETER -108

// imcharge_open: the shared memory cannot be created, or the state directory cannot be used.
#define IMCHARGE_OPEN_FAILED -109

// imcharge_engine_run: the engine failed.
#define IMCHARGE_ENGINE_FAILED -110

// Not a SIP message that the hook takes, or Call-ID, From tag or CSeq is missing.
#define IMCHARGE_BAD_SIP -111

// The buffer is too small; the needed size was written.
#define IMCHARGE_NEEDS_ROOM -112

// imcharge_command: the command failed; the answer contains the reason.
#define IMCHARGE_COMMAND_FAILED -113

// This process has 1024 open handles, which is the limit.
#define IMCHARGE_TOO_MANY_HANDLES -114

// A defect of this library was caught and logged. The handle remains usable.
#define IMCHARGE_PANIC -115

// Log level: failures.
#define IMCHARGE_LOG_ERROR 1

// Log level: possible problems.
#define IMCHARGE_LOG_WARNING 2

// Log level: normal events.
#define IMCHARGE_LOG_INFO 3

// Log level: details for debugging.
#define IMCHARGE_LOG_DEBUG 4

// Log level: all lines.
#define IMCHARGE_LOG_TRACE 5

// Largest number of workers (processes or threads) that may attach.
#define IMCHARGE_PROCESSES_MAX 1024

// Verdict: credit is reserved. Relay the INVITE.
#define IMCHARGE_GRANTED 1

// Verdict: the charging back end refused. Nothing is reserved.
#define IMCHARGE_DENIED 2

// Verdict: the charging back end could not be reached or did not answer. Nothing is reserved.
#define IMCHARGE_FAILED 3

// Size of the reason in a verdict, in bytes including the NUL.
#define IMCHARGE_REASON_SIZE 64

// Size of a Call-ID or account in a verdict, in bytes including the NUL.
#define IMCHARGE_IDENTITY_SIZE 256

// The inviting subscriber pays for what it receives; with RCS push, the called one.
#define IMCHARGE_CONTENT_RECEIVED 0

// The inviting subscriber pays for what it sends.
#define IMCHARGE_CONTENT_SENT 1

// Both parties pay, each for what it sends.
#define IMCHARGE_CONTENT_BOTH 2

// A configuration: the values of all parameters.
typedef struct imcharge_config imcharge_config;

// State shared by all processes of one host. Created once, before the fork.
typedef struct imcharge_handle imcharge_handle;

// An attached verdict reader. One thread at a time may use it.
typedef struct imcharge_verdict_reader imcharge_verdict_reader;

// An attached worker, which passes SIP and MSRP to the engine. One thread at a time may use it.
typedef struct imcharge_worker imcharge_worker;

// Receives one log line. `userdata` is the pointer passed to imcharge_set_logger, `level` one of IMCHARGE_LOG_ERROR to
// IMCHARGE_LOG_TRACE. `text` is UTF-8 of `length` bytes without a NUL and valid only during the call. Called by any
// thread, also concurrently. It must not call this library.
typedef void (*imcharge_log_callback)(void *userdata, int32_t level, const char *text, size_t length);

// Identifies a session. Derived from the INVITE, so it is the same in all processes and after a restart.
typedef struct imcharge_session {
    // Upper 64 bits.
    uint64_t high;
    // Lower 64 bits.
    uint64_t low;
} imcharge_session;

// Three numbers chosen by the host that come back with the verdict, so that it finds the INVITE. The library only
// compares `index` and `label` to recognise a retransmission.
typedef struct imcharge_tokens {
    // First number. The Kamailio module uses the hash index of the transaction.
    uint64_t index;
    // Second number. The Kamailio module uses the label of the transaction.
    uint64_t label;
    // Third number. The Kamailio module uses the route in which the script continues.
    uint64_t continuation;
} imcharge_tokens;

// A verdict on an INVITE. Text in it is truncated to fit and terminated by NUL.
typedef struct imcharge_verdict {
    // Session identifier, as returned by imcharge_on_invite.
    struct imcharge_session session;
    // Tokens that were passed to imcharge_on_invite.
    struct imcharge_tokens tokens;
    // Balance of the account without held credit, in the account's units; 0 if `balance_known` is 0.
    int64_t balance;
    // Units of the account that sessions hold; 0 if the charging back end does not report them.
    int64_t held;
    // 1 if the charging back end reported the balance, otherwise 0.
    int32_t balance_known;
    // IMCHARGE_GRANTED, IMCHARGE_DENIED or IMCHARGE_FAILED.
    int32_t result;
    // Granted messages (or kilobytes, depending on the tariff); 0 unless granted.
    uint32_t granted;
    // Diameter Result-Code or similar code of the reason; 0 if there is none.
    uint32_t code;
    // Reason as one word, for example `no-credit`; empty for a plain grant.
    char reason[IMCHARGE_REASON_SIZE];
    // Call-ID of the INVITE.
    char call_id[IMCHARGE_IDENTITY_SIZE];
    // Account that pays: the canonical identity of the subscriber.
    char account[IMCHARGE_IDENTITY_SIZE];
} imcharge_verdict;

// What is charged of an INVITE. All zeros: what the subscriber receives, an unknown number of messages.
typedef struct imcharge_invite {
    // Number of messages to reserve for; 0 if unknown, then one is reserved at a time.
    uint32_t messages;
    // IMCHARGE_CONTENT_RECEIVED, IMCHARGE_CONTENT_SENT or IMCHARGE_CONTENT_BOTH.
    uint32_t content;
    // Number of recipients of each message, by which its price is multiplied; 0 if unknown, counts as one.
    uint32_t recipients;
    // Name of a configured tariff, terminated by NUL; NULL or empty: none, the conditions of the tariffs decide. Only the
    // first IMCHARGE_TARIFF_MAX bytes are read.
    const char *tariff;
} imcharge_invite;

// Sender of a SIP message or MSRP frame.
typedef struct imcharge_source {
    // IPv6 address in network byte order; an IPv4 address as ::ffff:a.b.c.d.
    uint8_t address[16];
    // Port in host byte order; 0 for TCP, TLS and other connection-oriented transports, where it does not identify the
    // sender.
    uint16_t port;
} imcharge_source;

// Text of the caller: UTF-8; no NUL is needed.
typedef struct imcharge_text {
    // First byte, not NULL.
    const char *start;
    // Length in bytes.
    size_t length;
} imcharge_text;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Returns the ABI version of this library. Compare it with IMCHARGE_ABI_VERSION before any other call.
//
// Returns: the version. Any process, any thread.
uint32_t imcharge_abi_version(void);

// Describes a result as a sentence. -1 to -3 have different meanings for imcharge_on_invite and imcharge_on_msrp; their
// sentences name both.
//
// Parameters:
//   result       result of a function of this library; any number is allowed.
//   buffer       the caller's buffer, not NULL; receives the sentence, truncated to fit and terminated by NUL.
//   size         size of the buffer in bytes, at least 1.
//
// Returns: the length of the sentence in the buffer without the NUL, or IMCHARGE_NULL_ARGUMENT or
// IMCHARGE_BAD_LENGTH. Any process, any thread.
int32_t imcharge_strerror(int32_t result, char *buffer, size_t size);

// Sets the callback that receives log lines. Without it the library logs nothing. Lines never contain message bodies.
//
// Parameters:
//   level        finest level to log, IMCHARGE_LOG_ERROR to IMCHARGE_LOG_TRACE.
//   callback     the callback, not NULL. It and `userdata` must stay valid as long as this process and its children live.
//   userdata     passed to the callback unchanged. May be NULL.
//
// Returns: IMCHARGE_OK; IMCHARGE_OUT_OF_RANGE for an unknown level; IMCHARGE_WRONG_STATE if a logger has been set already
// in this process or before it was forked. Call it before imcharge_open.
int32_t imcharge_set_logger(int32_t level,
                            imcharge_log_callback callback,
                            void *userdata);

// Creates a configuration in which all parameters have their defaults.
//
// Parameters:
//   config       receives the handle, not NULL. Free it with imcharge_config_free.
//
// Returns: IMCHARGE_OK, or an error; then nothing was created. Any process, any thread.
int32_t imcharge_config_new(struct imcharge_config **config);

// Sets one parameter. Names, units and ranges are those of the manual and the same on every host: `state_dir`,
// `default_balance`, `response_timeout` and so on. Integers are passed as text.
//
// Parameters:
//   config       the configuration, not NULL.
//   name         name of the parameter, not NULL, 1 to IMCHARGE_NAME_MAX bytes.
//   value        its value, not NULL, 0 to IMCHARGE_VALUE_MAX bytes.
//   error        the caller's buffer for a sentence that names the parameter, the value and the accepted
//                values; truncated to fit, terminated by NUL. May be NULL. Written only on
//                IMCHARGE_BAD_PARAMETER.
//   error_size   size of the buffer in bytes.
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

// Frees a configuration. imcharge_open has copied it, so open handles are not affected.
//
// Parameters:
//   config       the configuration, not NULL.
//
// Returns: IMCHARGE_OK; IMCHARGE_BAD_HANDLE if it has been freed already. Any process, any thread.
int32_t imcharge_config_free(struct imcharge_config *config);

// Opens a host: locks the state directory, checks the ledger in it and creates the shared memory. A state directory can
// be used by one host at a time.
//
// Parameters:
//   config       the configuration, not NULL. It is copied; the caller still frees it.
//   processes    number of workers that will attach, 1 to IMCHARGE_PROCESSES_MAX.
//   handle       receives the handle, not NULL. Each process that has it closes it with imcharge_close.
//   error        the caller's buffer for a sentence that says what is wrong and what to do; truncated to
//                fit, terminated by NUL. May be NULL. Written only on IMCHARGE_OPEN_FAILED.
//   error_size   size of the buffer in bytes.
//
// Returns: IMCHARGE_OK; IMCHARGE_OPEN_FAILED; IMCHARGE_OUT_OF_RANGE for a wrong number of processes; or another
// error. Call it before the host forks, while no other thread uses this library. Child processes inherit the
// handle and use the same pointer.
int32_t imcharge_open(struct imcharge_config *config,
                      uint32_t processes,
                      struct imcharge_handle **handle,
                      char *error,
                      size_t error_size);

// Runs the engine, which owns all sessions and balances, until imcharge_stop is called or it fails. Exactly one engine
// may run for all processes of a host. After a failure, or if its process has died, run it again: it continues with what
// it had committed and with the events that workers have queued since.
//
// Parameters:
//   handle       the handle, not NULL.
//   error        the caller's buffer for a sentence that says what failed; truncated to fit, terminated by
//                NUL. May be NULL. Written only on IMCHARGE_ENGINE_FAILED.
//   error_size   size of the buffer in bytes.
//
// Returns: IMCHARGE_OK after imcharge_stop; IMCHARGE_ENGINE_FAILED; IMCHARGE_WRONG_STATE if this process runs the
// engine already; or another error. Blocks. Prefer a separate process, so that defects of workers cannot reach
// the engine; a thread works too. Other threads may use the handle meanwhile.
int32_t imcharge_engine_run(struct imcharge_handle *handle,
                            char *error,
                            size_t error_size);

// Tells the engine, in whichever process it runs, to settle open sessions and return. Does not wait for that and
// cannot be undone.
//
// Parameters:
//   handle       the handle, not NULL.
//
// Returns: IMCHARGE_OK, or an error. Any process that has the handle, any thread. In a signal handler only if
// imcharge_engine_run is the only call with this handle that the signal can interrupt.
int32_t imcharge_stop(struct imcharge_handle *handle);

// Attaches a worker: a process or thread that calls the hooks.
//
// Parameters:
//   handle       the handle, not NULL.
//   index        number of the worker, 0 to `processes` of imcharge_open minus 1. Unique among attached workers;
//                the replacement of a dead worker uses its number.
//   worker       receives the handle of the worker, not NULL. Free it with imcharge_detach.
//
// Returns: IMCHARGE_OK, IMCHARGE_OUT_OF_RANGE, IMCHARGE_INDEX_TAKEN, or another error. Call it in the worker, after
// the fork: the handle of the worker is valid only in this process.
int32_t imcharge_attach(struct imcharge_handle *handle, uint32_t index, struct imcharge_worker **worker);

// Detaches a worker and frees its handle. The engine still processes the events that it has queued.
//
// Parameters:
//   worker       the worker, not NULL.
//
// Returns: IMCHARGE_OK, or an error. Only in the process that attached it.
int32_t imcharge_detach(struct imcharge_worker *worker);

// Closes the handle of this process. Attached workers and verdict readers stay usable, and the engine keeps running.
// The state directory can be used by another host once all processes have closed the handle or ended.
//
// Parameters:
//   handle       the handle, not NULL.
//
// Returns: IMCHARGE_OK; IMCHARGE_BAD_HANDLE if this process has closed it already. Any process, any thread.
int32_t imcharge_close(struct imcharge_handle *handle);

// Attaches a verdict reader: a process or thread that takes verdicts and continues the INVITEs. The next verdict goes to
// whichever reader asks first. While the oldest verdict has been waiting for more than one second, imcharge_on_invite
// returns IMCHARGE_INVITE_FULL.
//
// Parameters:
//   handle       the handle, not NULL.
//   index        number of the reader, 0 to the parameter `resume_workers` minus 1 (default 2 readers). Unique among
//                attached readers.
//   reader       receives the handle of the reader, not NULL. Free it with imcharge_verdict_reader_detach.
//
// Returns: IMCHARGE_OK, IMCHARGE_OUT_OF_RANGE, IMCHARGE_INDEX_TAKEN, or another error. Call it after the fork: the
// handle of the reader is valid only in this process.
int32_t imcharge_verdict_reader_attach(struct imcharge_handle *handle,
                                       uint32_t index,
                                       struct imcharge_verdict_reader **reader);

// Takes the next verdict, waiting for one if necessary. Each verdict is delivered once.
//
// Parameters:
//   reader       the verdict reader, not NULL.
//   timeout_ms   longest wait in milliseconds; 0 returns at once.
//   verdict      receives the verdict, not NULL. Written only on IMCHARGE_OK. It contains no pointers.
//
// Returns: IMCHARGE_OK, IMCHARGE_NO_VERDICT after the timeout, or an error. Only in the process that attached the reader
// (otherwise IMCHARGE_WRONG_STATE), one thread at a time. Blocks: do not call it in a process that serves SIP.
int32_t imcharge_next_verdict(struct imcharge_verdict_reader *reader,
                              uint32_t timeout_ms,
                              struct imcharge_verdict *verdict);

// Detaches a verdict reader and frees its handle. Verdicts that it has not taken are delivered to other readers, or to
// the next one that attaches.
//
// Parameters:
//   reader       the verdict reader, not NULL.
//
// Returns: IMCHARGE_OK, or an error. Only in the process that attached it.
int32_t imcharge_verdict_reader_detach(struct imcharge_verdict_reader *reader);

// Requests a reservation for an initial INVITE of an MSRP session. Hold the INVITE
// back until imcharge_next_verdict returns its verdict.
//
// Parameters:
//   worker       the worker, not NULL.
//   message      the INVITE, not NULL. It is copied. Its headers decide who pays: a host that removes or adds
//                P-Asserted-Identity, P-Called-Party-ID or From passes them as changed. The Request-URI is the one
//                received.
//   length       length of the INVITE, 1 to IMCHARGE_SIP_MAX bytes.
//   charged      what is charged; NULL for all zeros. It is copied.
//   tokens       numbers that come back with the verdict; NULL for three zeros. They are copied. A retransmission (same
//                index and label) is ignored. A copy with another index or label has arrived by another path (RFC
//                3261, 8.2.2.2): its verdict is `failed` with the reason `merged`. Answer it with 482, and do not pass
//                that reply to imcharge_on_reply.
//   session      receives the session identifier. May be NULL. Written only on IMCHARGE_OK.
//
// Returns: IMCHARGE_OK if a verdict will follow; IMCHARGE_IGNORED for an INVITE with a To tag, which is within a dialog
// and needs no verdict: pass it to imcharge_on_request. No verdict follows IMCHARGE_INVITE_MALFORMED,
// IMCHARGE_INVITE_ENGINE_DOWN, IMCHARGE_INVITE_FULL, IMCHARGE_INVITE_UNKNOWN_TARIFF, IMCHARGE_OUT_OF_RANGE or another
// error; the host decides what to do. Only in the process that attached the worker, one thread at a time. Does not block.
int32_t imcharge_on_invite(struct imcharge_worker *worker,
                           const void *message,
                           size_t length,
                           const struct imcharge_invite *charged,
                           const struct imcharge_tokens *tokens,
                           struct imcharge_session *session);

// Requests a reservation for a SIP MESSAGE, within a dialog or not. Hold it back until imcharge_next_verdict returns its
// verdict. Then pass its final reply to imcharge_on_reply, or call imcharge_on_message_timeout.
//
// Parameters:
//   worker       the worker, not NULL.
//   message      the MESSAGE, not NULL. It is copied. Its headers decide who pays, as for imcharge_on_invite.
//   length       length of the MESSAGE, 1 to IMCHARGE_SIP_MAX bytes.
//   copies       number of recipients that pay for it, for a host that sends it to several; 0 counts as 1.
//   tariff       name of a configured tariff, as in imcharge_invite; NULL or empty: none.
//   tokens       numbers that come back with the verdict, as for imcharge_on_invite; NULL for three zeros. A copy with
//                another index or label gets the verdict `failed` with the reason `merged`.
//   session      receives the session identifier. May be NULL. Written only on IMCHARGE_OK.
//
// Returns: IMCHARGE_OK if a verdict will follow; IMCHARGE_NOT_CHARGED if its content is free of charge: relay it, without a
// verdict. No verdict follows IMCHARGE_INVITE_MALFORMED, IMCHARGE_INVITE_ENGINE_DOWN, IMCHARGE_INVITE_FULL,
// IMCHARGE_MESSAGE_TOO_LARGE, IMCHARGE_INVITE_UNKNOWN_TARIFF or another error; the host decides what to do. Only in the
// process that attached the worker, one thread at a time. Does not block.
int32_t imcharge_on_message(struct imcharge_worker *worker,
                            const void *message,
                            size_t length,
                            uint32_t copies,
                            const char *tariff,
                            const struct imcharge_tokens *tokens,
                            struct imcharge_session *session);

// Reports that a MESSAGE was relayed and got no final reply. The policy `message-timeout` decides about it. Do not pass a 408
// that the host generates then to imcharge_on_reply.
//
// Parameters:
//   worker       the worker, not NULL.
//   message      the MESSAGE, not NULL. It is copied.
//   length       length of the MESSAGE, 1 to IMCHARGE_SIP_MAX bytes.
//
// Returns: IMCHARGE_OK, IMCHARGE_INVITE_FULL (call it again later), IMCHARGE_BAD_SIP, or another error. Only in the
// process that attached the worker, one thread at a time. Does not block.
int32_t imcharge_on_message_timeout(struct imcharge_worker *worker,
                                    const void *message,
                                    size_t length);

// Processes a request within a dialog (with a To tag) before the host relays it: INVITE, ACK, PRACK, UPDATE or BYE. Session
// descriptions in ACK and PRACK bind MSRP sessions. A BYE from either side ends its dialog. The BYE of the last dialog
// closes the session: outstanding messages are settled by policy, the remaining credit is released. Other requests are
// ignored, so a host may pass all.
//
// Parameters:
//   worker       the worker, not NULL.
//   message      the request as received, not NULL. It is copied.
//   length       length of the request, 1 to IMCHARGE_SIP_MAX bytes.
//   source       sender of the request; NULL if unknown. Then a BYE or a new MSRP session from a third party that claims
//                to be the side with the messages is accepted.
//
// Returns: IMCHARGE_OK, IMCHARGE_IGNORED or IMCHARGE_NOT_CHARGED: relay the request; IMCHARGE_REQUEST_TOO_MANY: do not
// relay it; IMCHARGE_BAD_SIP, or another error. Only in the process that attached the worker, one thread at a time.
// Does not block.
int32_t imcharge_on_request(struct imcharge_worker *worker,
                            const void *message,
                            size_t length,
                            const struct imcharge_source *source);

// Processes a reply to an INVITE, MESSAGE, PRACK, UPDATE or BYE before the host relays it. A final reply to a MESSAGE ends
// its session: a 2xx debits it, 408 settles it by the policy `message-timeout`, any other releases it. A 2xx or a
// reliable provisional reply binds the MSRP sessions of both session descriptions to the reservation. A reply of 300
// or above to the initial INVITE ends the session. A 2xx, 408 or 481 to a BYE confirms the end of the dialog. Other
// replies are ignored, so a host may pass all, except those that it has generated itself because the other side did
// not answer.
//
// Parameters:
//   worker           the worker, not NULL.
//   reply            the reply as received, not NULL. It is copied.
//   reply_length     length of the reply, 1 to IMCHARGE_SIP_MAX bytes.
//   reply_source     sender of the reply; NULL if unknown. Then an answer from a third party that claims to be the side
//                    with the messages is accepted.
//   request          the request that it answers, for its session description. NULL if unknown. It is copied.
//   request_length   length of the request, up to IMCHARGE_SIP_MAX bytes; 0 if it is unknown. Then the offer of an
//                    earlier reply to the same INVITE is used; without one, no MSRP session is bound.
//   request_source   sender of the request; NULL if unknown.
//
// Returns: IMCHARGE_OK, IMCHARGE_IGNORED, IMCHARGE_NOT_CHARGED, IMCHARGE_BAD_SIP, or another error. Relay the reply in
// any case. Only in the process that attached the worker, one thread at a time. Does not block.
int32_t imcharge_on_reply(struct imcharge_worker *worker,
                          const void *reply,
                          size_t reply_length,
                          const struct imcharge_source *reply_source,
                          const void *request,
                          size_t request_length,
                          const struct imcharge_source *request_source);

// Processes a CANCEL before the host relays it. The reservation of its INVITE is released, also if the verdict is still
// pending.
//
// Parameters:
//   worker       the worker, not NULL.
//   message      the CANCEL as received, not NULL. It is copied.
//   length       length of the CANCEL, 1 to IMCHARGE_SIP_MAX bytes.
//
// Returns: IMCHARGE_OK, IMCHARGE_BAD_SIP, or another error. Relay the CANCEL in any case. Only in the process that
// attached the worker, one thread at a time. Does not block.
int32_t imcharge_on_cancel(struct imcharge_worker *worker, const void *message, size_t length);

// Decides whether the host may relay an MSRP frame, a request or a response.
//
// Parameters:
//   worker       the worker, not NULL.
//   frame        the whole frame, from its first `M` to the CRLF of its end-line, not NULL. It is not kept.
//   length       length of the frame, 1 to IMCHARGE_MSRP_MAX bytes.
//   connection   the host's number of the connection on which the frame arrived, as for imcharge_on_disconnect; 0 if the
//                host has generated the frame. It decides which side of a session the frame may act for, so it must be
//                correct.
//   source       address of the peer of that connection; the port is ignored. NULL if unknown; then no frame counts as
//                sent by an IM server of the parameter im_server.
//   from_self    not 0 if the frame arrived over a connection of this relay to itself, so that it passes twice.
//
// Returns: IMCHARGE_PASS or IMCHARGE_NOT_CHARGED: relay the frame; IMCHARGE_MSRP_BEYOND_GRANT, IMCHARGE_MSRP_MALFORMED,
// IMCHARGE_MSRP_FULL, IMCHARGE_MSRP_FORGED or IMCHARGE_MSRP_NO_SESSION: do not relay it; or another error. Only in the
// process that attached the worker, one thread at a time. Does not block.
int32_t imcharge_on_msrp(struct imcharge_worker *worker,
                         const void *frame,
                         size_t length,
                         uint64_t connection,
                         const struct imcharge_source *source,
                         int32_t from_self);

// Reports that a connection that may have carried MSRP frames is closed.
//
// Parameters:
//   worker       the worker, not NULL.
//   connection   the host's number of the connection, as in imcharge_on_msrp. The host must not reuse it for another
//                connection before this call.
//
// Returns: IMCHARGE_OK; IMCHARGE_IGNORED if the number is 0; or an error. Only in the process that attached the worker,
// one thread at a time. Does not block.
int32_t imcharge_on_disconnect(struct imcharge_worker *worker, uint64_t connection);

// Runs a command for operators: `stats`, `sessions [LIMIT] [NEXT]`, `session CALLID [NEXT]`, `explain CALLID [NEXT]`,
// `audit [LIST] [LIMIT] [NEXT]`, `account.set ID BALANCE [REFERENCE] [BY]`, `account.add ID AMOUNT REFERENCE [BY]`,
// `account.limit ID LIMIT [BY]`, `account.remove ID [BY]`, `account.get ID`, `account.list [PREFIX] [LIMIT] [NEXT]`,
// `account.history ID [LIMIT] [NEXT]`, `debits [ID] [LIMIT] [NEXT]`, `outbox`, `outbox.resend CALLID`, `outbox.release CALLID`,
// `peers`, `tariff`, `reload [TARIFF]`. Commands and answers are described in docs/rpc.md.
//
// Parameters:
//   worker          the worker, not NULL.
//   name            name of the command, not NULL, 1 to IMCHARGE_NAME_MAX bytes.
//   arguments       its arguments, integers as text, each up to IMCHARGE_VALUE_MAX bytes. May be NULL if `count` is 0.
//                   They are copied.
//   count           number of arguments, 0 to IMCHARGE_ARGUMENTS_MAX.
//   answer          the caller's buffer for the answer: JSON text without a NUL. May be NULL if `size` is 0.
//                   On IMCHARGE_COMMAND_FAILED the answer is an object with `code` (400 invalid arguments, 404 not
//                   found, 409 not available with this charging back end, 500 the ledger cannot be read, 503 the
//                   engine does not answer) and `text`.
//   size            size of the buffer in bytes.
//   length          receives the length of the whole answer in bytes, not NULL. Written on IMCHARGE_OK,
//                   IMCHARGE_COMMAND_FAILED and IMCHARGE_NEEDS_ROOM.
//
// Returns: IMCHARGE_OK; IMCHARGE_COMMAND_FAILED; IMCHARGE_NEEDS_ROOM if the command has run but the buffer is too small:
// get the answer with imcharge_command_answer, do not run the command again; or another error. Only in the process that
// attached the worker, one thread at a time. Blocks for up to one second: do not call it in a process that serves SIP.
int32_t imcharge_command(struct imcharge_worker *worker,
                         const char *name,
                         size_t name_length,
                         const struct imcharge_text *arguments,
                         size_t count,
                         char *answer,
                         size_t size,
                         size_t *length);

// Returns the answer that did not fit the buffer of the last imcharge_command of this worker, and discards it.
//
// Parameters:
//   worker          the worker, not NULL.
//   answer          the caller's buffer, not NULL; receives the answer: JSON text without a NUL.
//   size            size of the buffer in bytes, at least the length that imcharge_command has reported.
//   length          receives the length of the answer in bytes, not NULL. Written on IMCHARGE_OK and
//                   IMCHARGE_NEEDS_ROOM.
//
// Returns: IMCHARGE_OK, whether the command succeeded or failed; IMCHARGE_NEEDS_ROOM if the buffer is too small (the
// answer is kept); IMCHARGE_WRONG_STATE if there is no answer; or another error. Only in the process that attached the
// worker, one thread at a time. Does not block.
int32_t imcharge_command_answer(struct imcharge_worker *worker, char *answer, size_t size, size_t *length);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* IMCHARGE_H */
