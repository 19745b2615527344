/* A worker's life: many sessions at once, of every kind. */
#ifndef SESSIONS_H
#define SESSIONS_H

#include "imcharge.h"

#include <stddef.h>

#define WORKERS 4
#define PRICE 3
#define DEFAULT_BALANCE 1000000

/* Event rings: each worker has one for SIP and one for MSRP, the harness itself has the last. */
#define RINGS (2 * WORKERS + 1)

/* How many kinds of session there are. */
extern const size_t kinds;

/* Before the workers start: gives the accounts that need it their balance. */
void sessions_prepare(imcharge_worker *admin, unsigned per_kind);

/* The whole life of worker `index`; verdicts come in by the pipe. */
void sessions_run(imcharge_handle *handle, unsigned index, unsigned per_kind, int verdicts);

/* After the workers ended: every account, to the last unit. */
void sessions_audit(imcharge_worker *admin, unsigned per_kind);

#endif
