#include "library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct library imcharge;

static void *symbol(void *object, const char *name)
{
    void *address = dlsym(object, name);
    if (address == NULL) {
        fprintf(stderr, "harness: no symbol %s: %s\n", name, dlerror());
        exit(2);
    }
    return address;
}

void library_load(const char *path)
{
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (object == NULL) {
        fprintf(stderr, "harness: cannot load: %s\n", dlerror());
        exit(2);
    }
#define LIBRARY_LOAD(name) \
    { \
        void *address = symbol(object, "imcharge_" #name); \
        memcpy(&imcharge.name, &address, sizeof address); \
    }
    LIBRARY_FUNCTIONS(LIBRARY_LOAD)
#undef LIBRARY_LOAD
}
