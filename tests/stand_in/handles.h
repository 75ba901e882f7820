/* Handles that are never given twice, so that the use of a destroyed object is seen. NVIDIA's libraries give addresses,
 * and read freed memory. */
#ifndef STAND_IN_HANDLES_H
#define STAND_IN_HANDLES_H

#include <stdint.h>
#include <stdlib.h>

struct Handle {
    uintptr_t value;
    int kind;
    void *object;
    struct Handle *next;
};

/* Every library has its own table, which its lock guards. */
struct Handles {
    struct Handle *buckets[256];
    uintptr_t last;
};

static inline struct Handle **handle_bucket(struct Handles *handles, uintptr_t value) {
    return &handles->buckets[(value >> 8) % 256];
}

static inline void *handle_new(struct Handles *handles, int kind, void *object) {
    struct Handle *handle = malloc(sizeof *handle);
    if (handle == NULL) abort();
    /* Far below what is mapped: whoever follows it as an address is stopped. */
    uintptr_t value = (++handles->last << 8) | (uintptr_t)kind;
    struct Handle **bucket = handle_bucket(handles, value);
    *handle = (struct Handle){value, kind, object, *bucket};
    *bucket = handle;
    return (void *)value;
}

/* The object, or null where the handle is of another kind, or of none that exists. */
static inline void *handle_get(struct Handles *handles, int kind, const void *value) {
    struct Handle *handle = *handle_bucket(handles, (uintptr_t)value);
    for (; handle != NULL; handle = handle->next)
        if (handle->value == (uintptr_t)value && handle->kind == kind) return handle->object;
    return NULL;
}

static inline void handle_remove(struct Handles *handles, const void *value) {
    struct Handle **at = handle_bucket(handles, (uintptr_t)value);
    for (; *at != NULL; at = &(*at)->next)
        if ((*at)->value == (uintptr_t)value) {
            struct Handle *gone = *at;
            *at = gone->next;
            free(gone);
            return;
        }
}

#endif
