/* Accounts, read and set by commands of the library. */
#ifndef MONEY_H
#define MONEY_H

#include "imcharge.h"

#include <stdbool.h>
#include <stdint.h>

struct account {
    long long balance;
    long long held;
    long long debited;
    long long messages;
};

/* Runs a command with up to two arguments (NULL: none). The answer ends in NUL. */
int32_t command(imcharge_worker *worker, const char *name, const char *one, const char *two, char *answer, size_t size);

/* Sets a balance. */
bool account_set(imcharge_worker *worker, const char *id, long long balance);

/* Reads an account. `false`: there is none. */
bool account_get(imcharge_worker *worker, const char *id, struct account *account);

/* Waits until `debited` units are debited and nothing is held. Returns the last state of the account. */
struct account account_settled(imcharge_worker *worker, const char *id, long long debited);

/* Waits until `debited` units are debited. */
bool account_debited(imcharge_worker *worker, const char *id, long long debited);

#endif
