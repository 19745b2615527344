#define _GNU_SOURCE
#include "check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static struct counters {
    unsigned passed;
    unsigned failed;
} *counters;

static unsigned bound_seconds;
static unsigned steps_right;
static unsigned steps_wrong;

void check_begin(unsigned bound)
{
    bound_seconds = bound;
    counters = mmap(NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counters == MAP_FAILED) {
        perror("harness: mmap");
        exit(2);
    }
}

/* One write per line, because several processes print. */
static void line(bool good, const char *text)
{
    __atomic_add_fetch(good ? &counters->passed : &counters->failed, 1, __ATOMIC_RELAXED);
    dprintf(STDOUT_FILENO, "%s %s\n", good ? "ok  " : "FAIL", text);
}

bool check(bool good, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    line(good, text);
    return good;
}

bool check_result(int32_t got, int32_t want, const char *format, ...)
{
    char text[512], whole[600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    snprintf(whole, sizeof whole, got == want ? "%s: %d" : "%s: %d, not %d", text, got, want);
    line(got == want, whole);
    return got == want;
}

bool step(int32_t got, int32_t want, const char *what, const char *of)
{
    if (got == want) {
        steps_right++;
        return true;
    }
    steps_wrong++;
    return check_result(got, want, "%s: %s", of, what);
}

bool check_steps(const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return check(steps_wrong == 0 && steps_right > 0, "%s: %u right, %u wrong", text, steps_right, steps_wrong);
}

uint64_t check_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

bool in_time(uint64_t since)
{
    return check_now() - since < (uint64_t)bound_seconds * 1000;
}

int check_end(void)
{
    dprintf(STDOUT_FILENO, "%u passed, %u failed\n", counters->passed, counters->failed);
    return counters->failed == 0 && counters->passed > 0 ? 0 : 1;
}
