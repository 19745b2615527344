/* Calls every function with invalid arguments and checks the exact result. */
#ifndef ARGUMENTS_H
#define ARGUMENTS_H

#include "imcharge.h"

/* Checks that need no shared memory. */
void arguments_before_open(const char *state_dir);

/* Checks that need an open handle, before the engine runs. `admin` is attached as worker `RINGS - 1`. */
void arguments_after_open(imcharge_handle *handle, imcharge_worker *admin, imcharge_verdict_reader *reader);

/* Checks that need an engine. */
void arguments_of_commands(imcharge_worker *admin);

#endif
