/* What the files of the stand-in driver share. */
#ifndef STAND_IN_CUDA_H
#define STAND_IN_CUDA_H

#include <pthread.h>

#include "handles.h"
#include "stand_in.h"

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef void *CUcontext;
typedef void *CUstream;
typedef void *CUevent;

enum { DEVICES = 64, KIND_CONTEXT = 1, KIND_STREAM = 2, KIND_EVENT = 3 };
enum { STREAM_NON_BLOCKING = 1, EVENT_DISABLE_TIMING = 2 };

/* A moment in the work of one or several streams; reached once all of them have passed it. */
struct Mark {
    int references;
    int pending;
    /* When it was reached, in microseconds. */
    long long time;
};

struct Operation {
    enum { WORK, HOST_FUNCTION, MARK, WAIT } kind;
    const char *name;
    /* The process's submissions are numbered. */
    uint64_t number;
    long long submitted;
    StandInWork work;
    void (*function)(void *);
    void *argument;
    struct Mark *mark;
    struct Operation *next;
};

struct Stream {
    void *handle;
    struct Context *context;
    unsigned flags;
    struct Operation *first, *last;
    /* Whether the thread is in an operation. */
    int running;
    /* Ends when the queue is empty; with `cancelled` it is emptied at once. */
    int ended, cancelled;
    /* Number of the operation that jitter holds back, or 0. */
    uint64_t held;
    pthread_cond_t wake;
    struct Stream *next;
};

struct Event {
    void *handle;
    struct Context *context;
    unsigned flags;
    /* What was last recorded; null before. */
    struct Mark *mark;
    struct Event *next;
};

struct Held {
    struct Mark *mark;
    struct Held *next;
};

/* A device's primary context; there are no others. */
struct Context {
    void *handle;
    CUdevice device;
    int references;
    /* Stays once a stream has read or written where nothing is allocated. */
    CUresult error;
    struct Stream *streams;
    /* The stream of null, made when it is first used. */
    struct Stream *legacy;
    struct Event *events;
    /* What all later streams wait for. */
    struct Held *held;
};

/* One lock for the whole driver, and one condition for all that may have happened. */
extern pthread_mutex_t driver_lock;
extern struct Context contexts[DEVICES];
extern struct Handles handles;

/* cuda_run.c. All but `microseconds` want the lock. */
long long microseconds(void);
struct Mark *mark_new(int pending);
struct Mark *mark_keep(struct Mark *mark);
void mark_drop(struct Mark *mark);
int mark_reached(const struct Mark *mark);
/* Whether the host asks for a mark or a stream, which ends the idling of jitter. */
void demand(void);
void mark_await(struct Mark *mark);
struct Stream *stream_new(struct Context *context, unsigned flags);
int stream_idle(const struct Stream *stream);
void stream_end(struct Stream *stream, int cancelled);
/* The end of what a stream, or all of a context's, was given so far. */
struct Mark *stream_mark(struct Stream *stream);
struct Mark *context_mark(struct Context *context);
void stream_hold(struct Stream *stream, struct Mark *mark);
void submit_work(struct Stream *stream, const char *name, StandInWork work, void *argument);
void submit_function(struct Stream *stream, void (*function)(void *), void *argument);
/* Whether this thread is in a function that a stream called. */
int in_host_function(void);

/* cuda.c: a line of the log, where there is one. */
void log_line(const char *what, const char *name, const void *stream);
/* Counts the call, refuses it where the driver would, and takes the lock on success. */
CUresult enter(const char *function, const void *stream);
CUresult leave(CUresult result);

#define ENTER(stream)                                  \
    do {                                               \
        CUresult entered_ = enter(__func__, (stream)); \
        if (entered_ != CUDA_SUCCESS) return entered_; \
    } while (0)
/* Leave the driver where the result is an error. */
#define TRY(call)                                         \
    do {                                                  \
        CUresult tried_ = (call);                         \
        if (tried_ != CUDA_SUCCESS) return leave(tried_); \
    } while (0)
#define CHECK(condition, code) TRY((condition) ? CUDA_SUCCESS : (code))

/* This thread's context. */
CUresult current(struct Context **context);
/* A stream by its handle; null is that of the current context. */
CUresult stream_of(CUstream handle, struct Stream **stream);

/* cuda_memory.c */
void memory_release(struct Context *context);

#endif
