/* The library under test, loaded at run time. */
#ifndef LIBRARY_H
#define LIBRARY_H

#include "imcharge.h"

#define LIBRARY_FUNCTIONS(F) \
    F(abi_version) F(strerror) F(set_logger) \
    F(config_new) F(config_set) F(config_free) \
    F(open) F(engine_run) F(stop) F(attach) F(detach) F(close) \
    F(verdict_reader_attach) F(next_verdict) F(verdict_reader_detach) \
    F(on_invite) F(on_reply) F(on_cancel) F(on_request) F(on_msrp) F(on_disconnect) \
    F(command) F(command_answer)

struct library {
#define LIBRARY_MEMBER(name) __typeof__(imcharge_##name) *name;
    LIBRARY_FUNCTIONS(LIBRARY_MEMBER)
#undef LIBRARY_MEMBER
};

extern struct library imcharge;

/* Loads the library, or prints the reason and ends the process. */
void library_load(const char *path);

#endif
