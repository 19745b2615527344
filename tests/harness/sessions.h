/* A worker that runs many sessions of all kinds at once. */
#ifndef SESSIONS_H
#define SESSIONS_H

#include "imcharge.h"

#include <stddef.h>

#define WORKERS 4
#define PRICE 3
#define DEFAULT_BALANCE 1000000

/* Attached workers: two per worker process, for SIP and MSRP, and one for the harness itself. */
#define RINGS (2 * WORKERS + 1)

/* Number of kinds of sessions. */
extern const size_t kinds;

/* Sets the initial balances, before the workers start. */
void sessions_prepare(imcharge_worker *admin, unsigned per_kind);

/* Main function of worker process `index`; verdicts arrive by the pipe. */
void sessions_run(imcharge_handle *handle, unsigned index, unsigned per_kind, int verdicts);

/* Checks all accounts exactly, after the workers have ended. */
void sessions_audit(imcharge_worker *admin, unsigned per_kind);

#endif
