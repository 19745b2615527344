/* Checks, each printed as a line and counted over all processes of the harness. */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stdint.h>

/* Creates the counters; call it before fork. `bound` is the limit of each wait in seconds. */
void check_begin(unsigned bound);

/* Checks a condition. */
bool check(bool good, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Checks a result. */
bool check_result(int32_t got, int32_t want, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Checks one of many similar results; prints a line only on failure. */
bool step(int32_t got, int32_t want, const char *what, const char *of);

/* Checks that no step of this process has failed. */
bool check_steps(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Start of a wait; `in_time` checks whether its limit has passed. */
uint64_t check_now(void);
bool in_time(uint64_t since);

/* Prints the totals and returns the exit status. */
int check_end(void);

#endif
