/* What the files of the stand-in for NCCL share. */
#ifndef STAND_IN_NCCL_H
#define STAND_IN_NCCL_H

#include <pthread.h>
#include <stdarg.h>

#include "handles.h"
#include "stand_in.h"

/* `ncclResult_t`. */
enum {
    SUCCESS = 0,
    UNHANDLED_CUDA_ERROR = 1,
    SYSTEM_ERROR = 2,
    INTERNAL_ERROR = 3,
    INVALID_ARGUMENT = 4,
    INVALID_USAGE = 5,
    REMOTE_ERROR = 6,
    IN_PROGRESS = 7,
};

enum { ID_BYTES = 16, MOST_RANKS = 64, DATATYPES = 12 };

enum Kind { ALL_GATHER, BROADCAST, SEND, RECEIVE, FINISH };

/* One call of a group. */
struct Transfer {
    enum Kind kind;
    /* The root of a broadcast, the other rank of a send or receive. */
    int peer;
    uint64_t from, to;
    size_t count, bytes;
    int type;
    void *stream;
};

/* What is started at once: the calls between start and end of a group, or one alone. */
struct Group {
    struct Communicator *communicator;
    struct Transfer *transfers;
    int count;
    /* Which of the communicator's groups it is, from 0. */
    long long call;
    struct Group *next;
};

struct Communicator {
    void *handle;
    /* Its thread, its groups on streams, and the handle hold it. */
    int references;
    unsigned char id[ID_BYTES];
    int rank, ranks, device, blocking;
    /* IN_PROGRESS while the thread has a job, then what came of it. */
    int state;
    char message[256];
    int connected, finalized, destroyed, aborted, thread_ended;
    /* Becomes readable when it is aborted. */
    int abort_event;
    /* A socket a direction and rank. */
    int out[MOST_RANKS], in[MOST_RANKS];
    /* The thread's job. */
    struct Group *group;
    int finalize;
    /* Groups so far: called, put on a stream, and done. */
    long long calls, launched, done;
    /* The stream of the last group: groups of one communicator run one after another. */
    void *last_stream;
};

extern pthread_mutex_t nccl_lock;
extern pthread_cond_t nccl_changed;

/* nccl.c */
/* Takes note of an error, which stays; returns it. */
int fail(struct Communicator *communicator, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Whether a fault is asked for; `rest` is what follows the call. */
int fault(const char *kind, int rank, long long call, const char **rest);
/* Waits for the abort, no longer than so many microseconds where that is not negative; whether it came. */
int wait_for_abort(struct Communicator *communicator, long long microseconds);
size_t datatype_bytes(int type);

/* nccl_link.c. Results: SUCCESS, an error, or -1 once the communicator is aborted. */
/* Connects all ranks with each other. */
int link_connect(struct Communicator *communicator);
void link_close(struct Communicator *communicator);
/* Moves the data of a group; addresses are the host's. */
int link_run(struct Communicator *communicator, const struct Group *group);
/* Waits until all ranks finalise. */
int link_finish(struct Communicator *communicator);

#endif
