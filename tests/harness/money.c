#define _GNU_SOURCE
#include "money.h"
#include "check.h"
#include "library.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int32_t command(imcharge_worker *worker, const char *name, const char *one, const char *two, char *answer, size_t size)
{
    imcharge_text arguments[2] = {{one, one ? strlen(one) : 0}, {two, two ? strlen(two) : 0}};
    size_t count = (one != NULL) + (two != NULL);
    size_t length = 0;
    int32_t result = imcharge.command(worker, name, strlen(name), arguments, count, answer, size - 1, &length);
    answer[result == IMCHARGE_OK || result == IMCHARGE_COMMAND_FAILED ? length : 0] = '\0';
    return result;
}

bool account_set(imcharge_worker *worker, const char *id, long long balance)
{
    char text[32], answer[512];
    snprintf(text, sizeof text, "%lld", balance);
    int32_t result = command(worker, "account.set", id, text, answer, sizeof answer);
    if (result != IMCHARGE_OK) {
        check(false, "account.set %s %s: %d %s", id, text, result, answer);
    }
    return result == IMCHARGE_OK;
}

/* Returns an integer of the answer. */
static long long field(const char *answer, const char *name)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\":", name);
    const char *at = strstr(answer, quoted);
    return at == NULL ? -1 : strtoll(at + strlen(quoted), NULL, 10);
}

/* Returns the number of debits of an account; -1 if they do not fit on one page. */
static long long debits(imcharge_worker *worker, const char *id)
{
    static char answer[32 * 1024];
    if (command(worker, "debits", id, "500", answer, sizeof answer) != IMCHARGE_OK || field(answer, "more") != 0) {
        return -1;
    }
    long long rows = 0;
    for (const char *at = answer; (at = strstr(at, "\"messageid\":")) != NULL; at++) {
        rows++;
    }
    return rows;
}

bool account_get(imcharge_worker *worker, const char *id, struct account *account)
{
    char answer[1024];
    if (command(worker, "account.get", id, NULL, answer, sizeof answer) != IMCHARGE_OK) {
        return false;
    }
    account->balance = field(answer, "balance");
    account->held = field(answer, "held");
    account->debited = field(answer, "debited");
    account->messages = debits(worker, id);
    return true;
}

struct account account_settled(imcharge_worker *worker, const char *id, long long debited)
{
    struct account account = {-1, -1, -1, -1};
    uint64_t since = check_now();
    while (in_time(since)) {
        if (account_get(worker, id, &account) && account.held == 0 && account.debited == debited) {
            break;
        }
        usleep(20000);
    }
    return account;
}

bool account_debited(imcharge_worker *worker, const char *id, long long debited)
{
    struct account account = {-1, -1, -1, -1};
    uint64_t since = check_now();
    while (in_time(since)) {
        if (account_get(worker, id, &account) && account.debited >= debited) {
            return true;
        }
        usleep(20000);
    }
    return false;
}
