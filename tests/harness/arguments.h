/* Wrong arguments: every function, with the exact result. */
#ifndef ARGUMENTS_H
#define ARGUMENTS_H

#include "imcharge.h"

/* What needs no shared memory. */
void arguments_before_open(const char *state_dir);

/* What needs an open handle, with no engine yet. `admin` is attached to ring `RINGS - 1`. */
void arguments_after_open(imcharge_handle *handle, imcharge_worker *admin, imcharge_verdict_reader *reader);

/* What needs an engine. */
void arguments_of_commands(imcharge_worker *admin);

#endif
