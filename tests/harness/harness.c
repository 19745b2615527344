/*
 * A host of the C ABI: loads the library, opens it, forks the engine and four workers, and drives every hook
 * with raw bytes. Prints a line for each check; the exit status is 0 when all are right.
 *
 *   harness LIBRARY STATE_DIR SESSIONS BOUND KILLS
 *
 * SESSIONS are those of each kind in each worker; BOUND is the longest any wait may take, in seconds; KILLS is
 * how often the engine is killed at work and started again.
 */
#define _GNU_SOURCE
#include "arguments.h"
#include "check.h"
#include "library.h"
#include "money.h"
#include "sessions.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void log_line(void *userdata, int32_t level, const char *text, size_t length)
{
    dprintf(STDERR_FILENO, "%s %d: %.*s\n", (const char *)userdata, level, (int)length, text);
}

static void set(imcharge_config *config, const char *name, const char *value)
{
    char error[256] = "";
    int32_t got = imcharge.config_set(config, name, strlen(name), value, strlen(value), error, sizeof error);
    check_result(got, IMCHARGE_OK, "config_set(%s, %s) %s", name, value, error);
}

static imcharge_handle *open_library(const char *state_dir)
{
    char error[512] = "", balance[32];
    imcharge_config *config = NULL;
    imcharge_handle *handle = NULL, *second = NULL;
    snprintf(balance, sizeof balance, "%d", DEFAULT_BALANCE);
    check_result(imcharge.config_new(&config), IMCHARGE_OK, "config_new");
    set(config, "state_dir", state_dir);
    set(config, "tariff", "message:3");
    set(config, "response_timeout", "1");
    set(config, "resume_workers", "1");
    set(config, "max_sessions", "2000");
    set(config, "default_balance", balance);
    check_result(imcharge.open(config, RINGS, &handle, error, sizeof error), IMCHARGE_OK, "open %s", error);
    check_result(imcharge.open(config, RINGS, &second, error, sizeof error), IMCHARGE_OPEN_FAILED,
                 "open the same state_dir again: %s", error);
    check_result(imcharge.config_free(config), IMCHARGE_OK, "config_free");
    return handle;
}

static pid_t fork_engine(imcharge_handle *handle)
{
    pid_t child = fork();
    if (child == 0) {
        char error[512] = "";
        int32_t got = imcharge.engine_run(handle, error, sizeof error);
        check_result(got, IMCHARGE_OK, "engine_run %s", error);
        imcharge.close(handle);
        exit(0);
    }
    return child;
}

/* The engine accepts changes as soon as it runs. */
static bool engine_answers(imcharge_worker *admin)
{
    char answer[512] = "";
    uint64_t since = check_now();
    while (in_time(since)) {
        if (command(admin, "account.set", "sip:first@example.com", "1", answer, sizeof answer) == IMCHARGE_OK) {
            return check(true, "the engine answers: %s", answer);
        }
    }
    return check(false, "the engine does not answer: %s", answer);
}

static pid_t fork_worker(imcharge_handle *handle, unsigned index, unsigned per_kind, int verdicts)
{
    pid_t child = fork();
    if (child == 0) {
        sessions_run(handle, index, per_kind, verdicts);
        imcharge.close(handle);
        exit(0);
    }
    return child;
}

/* The death of an engine loses nothing: the next one continues from what was committed. */
static void kill_engine(imcharge_handle *handle, pid_t *engine)
{
    int status = 0;
    kill(*engine, SIGKILL);
    check(waitpid(*engine, &status, 0) == *engine && WIFSIGNALED(status), "the engine is killed at work");
    *engine = fork_engine(handle);
}

/* Passes verdicts to their workers until all workers have ended. Kills the engine at every 50th. */
static void resume_until_over(
    imcharge_handle *handle, pid_t *engine, unsigned kills, imcharge_verdict_reader *reader, const pid_t *workers,
    const int *pipes)
{
    unsigned over = 0, verdicts = 0;
    while (over < WORKERS) {
        imcharge_verdict verdict;
        int32_t got = imcharge.next_verdict(reader, 50, &verdict);
        if (got == IMCHARGE_OK && verdict.tokens.index < WORKERS) {
            if (write(pipes[verdict.tokens.index], &verdict, sizeof verdict) != sizeof verdict) {
                check(false, "worker %u takes no verdict: %s", (unsigned)verdict.tokens.index, strerror(errno));
            }
            if (++verdicts % 50 == 0 && kills > 0) {
                kills--;
                kill_engine(handle, engine);
            }
        } else if (got != IMCHARGE_NO_VERDICT) {
            check(false, "next_verdict: %d for worker %llu", got, (unsigned long long)verdict.tokens.index);
        }
        for (unsigned index = 0; index < WORKERS; index++) {
            int status;
            if (waitpid(workers[index], &status, WNOHANG) == workers[index]) {
                check(status == 0, "worker %u ended with status %d", index, status);
                over++;
            }
        }
    }
    check(kills == 0, "%u kills are left", kills);
}

static void run_workers(
    imcharge_handle *handle, pid_t *engine, unsigned kills, imcharge_verdict_reader *reader, unsigned per_kind)
{
    pid_t workers[WORKERS];
    int pipes[WORKERS];
    for (unsigned index = 0; index < WORKERS; index++) {
        int ends[2];
        if (pipe(ends) != 0) {
            perror("harness: pipe");
            exit(2);
        }
        workers[index] = fork_worker(handle, index, per_kind, ends[0]);
        close(ends[0]);
        pipes[index] = ends[1];
    }
    resume_until_over(handle, engine, kills, reader, workers, pipes);
    for (unsigned index = 0; index < WORKERS; index++) {
        close(pipes[index]);
    }
}

static void stop_engine(imcharge_handle *handle, pid_t engine)
{
    check_result(imcharge.stop(handle), IMCHARGE_OK, "stop");
    uint64_t since = check_now();
    int status = -1;
    pid_t ended = 0;
    while (ended == 0 && in_time(since)) {
        ended = waitpid(engine, &status, WNOHANG);
        usleep(10000);
    }
    if (!check(ended == engine && status == 0, "the engine ended with status %d", status)) {
        kill(engine, SIGKILL);
    }
}

int main(int count, char **arguments)
{
    if (count != 6) {
        fprintf(stderr, "usage: harness LIBRARY STATE_DIR SESSIONS BOUND KILLS\n");
        return 2;
    }
    unsigned per_kind = (unsigned)strtoul(arguments[3], NULL, 10);
    unsigned kills = (unsigned)strtoul(arguments[5], NULL, 10);
    signal(SIGPIPE, SIG_IGN);
    check_begin((unsigned)strtoul(arguments[4], NULL, 10));
    library_load(arguments[1]);
    check_result(imcharge.set_logger(IMCHARGE_LOG_INFO, log_line, "log"), IMCHARGE_OK, "set_logger");
    arguments_before_open(arguments[2]);

    imcharge_handle *handle = open_library(arguments[2]);
    imcharge_worker *admin = NULL;
    imcharge_verdict_reader *reader = NULL;
    check_result(imcharge.attach(handle, RINGS - 1, &admin), IMCHARGE_OK, "attach");
    check_result(imcharge.verdict_reader_attach(handle, 0, &reader), IMCHARGE_OK, "verdict_reader_attach");
    if (admin == NULL || reader == NULL) {
        return check_end();
    }
    arguments_after_open(handle, admin, reader);

    pid_t engine = fork_engine(handle);
    if (engine_answers(admin)) {
        arguments_of_commands(admin);
        sessions_prepare(admin, per_kind);
        run_workers(handle, &engine, kills, reader, per_kind);
        sessions_audit(admin, per_kind);
    }
    stop_engine(handle, engine);
    check_result(imcharge.verdict_reader_detach(reader), IMCHARGE_OK, "verdict_reader_detach");
    check_result(imcharge.detach(admin), IMCHARGE_OK, "detach");
    check_result(imcharge.close(handle), IMCHARGE_OK, "close");
    check_result(imcharge.close(handle), IMCHARGE_BAD_HANDLE, "close again");
    return check_end();
}
