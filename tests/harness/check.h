/* Checks: a line for each, counted over all processes of the harness. */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stdint.h>

/* Makes the counters; before fork. `bound` is how many seconds any wait may take. */
void check_begin(unsigned bound);

/* One check, with its line. */
bool check(bool good, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* One check of a result. */
bool check_result(int32_t got, int32_t want, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* A step among many alike: a line and a failure when it is wrong, nothing when it is right. */
bool step(int32_t got, int32_t want, const char *what, const char *of);

/* One check for all steps of this process. */
bool check_steps(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Start of a wait; `in_time` checks whether its limit has passed. */
uint64_t check_now(void);
bool in_time(uint64_t since);

/* Prints the sum; the exit status. */
int check_end(void);

#endif
