/* Streams of the stand-in driver: queues of operations, each with a thread of its own.
 *
 * A GPU runs streams beside each other, and nothing but events orders them; which goes first is nearly always the same,
 * so that a missing event goes unseen for months. With STAND_IN_JITTER the order is hostile instead: an operation that
 * could run is held back for a random time, and then, nearly always, until those that were submitted later to other
 * streams have gone first. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cuda.h"

pthread_mutex_t driver_lock = PTHREAD_MUTEX_INITIALIZER;
struct Context contexts[DEVICES];
struct Handles handles;

static pthread_cond_t changed;
static uint64_t submitted;
/* Submissions at the last time that the host waited or asked. */
static uint64_t demanded;
static uint64_t seed;
/* Mean delay in microseconds; 0 without jitter. */
static long long mean;
static __thread int inside_function;

/* How long an operation is held back after its submission where the host does not ask for anything, and how much longer
 * at most, in means. */
enum { UNASKED = 50, LONGEST = 20 };

long long standInNumber(const char *name, long long otherwise) {
    const char *text = getenv(name);
    char *end;
    if (text == NULL || *text == 0) return otherwise;
    double number = strtod(text, &end);
    if (*end != 0 || number < 0) {
        fprintf(stderr, "stand-in: %s is `%s`, expected a number\n", name, text);
        abort();
    }
    return (long long)number;
}

long long microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

static void condition_init(pthread_cond_t *condition) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

__attribute__((constructor)) static void start(void) {
    condition_init(&changed);
    long long given = standInNumber("STAND_IN_JITTER", 0);
    if (given == 0) return;
    /* Ranks differ, as their launcher numbers them. */
    const char *rank = getenv("RANK");
    seed = (uint64_t)given * 0x9e3779b97f4a7c15u + (uint64_t)(rank != NULL ? atoi(rank) : 0) + 1;
    mean = standInNumber("STAND_IN_JITTER_US", 500);
}

/* xorshift64*; wants the lock. */
static uint64_t random_number(void) {
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return (seed * 0x2545f4914f6cdd1du) >> 16;
}

unsigned standInDelay(void) {
    if (mean == 0) return 0;
    pthread_mutex_lock(&driver_lock);
    unsigned delay = (unsigned)(random_number() % (uint64_t)(2 * mean + 1));
    pthread_mutex_unlock(&driver_lock);
    return delay;
}

int in_host_function(void) { return inside_function; }

struct Mark *mark_new(int pending) {
    struct Mark *mark = malloc(sizeof *mark);
    if (mark == NULL) abort();
    *mark = (struct Mark){1, pending, microseconds()};
    return mark;
}

struct Mark *mark_keep(struct Mark *mark) {
    mark->references++;
    return mark;
}

void mark_drop(struct Mark *mark) {
    if (mark != NULL && --mark->references == 0) free(mark);
}

int mark_reached(const struct Mark *mark) { return mark == NULL || mark->pending == 0; }

static void mark_pass(struct Mark *mark) {
    if (--mark->pending == 0) mark->time = microseconds();
    pthread_cond_broadcast(&changed);
}

void demand(void) {
    if (mean == 0 || demanded == submitted) return;
    demanded = submitted;
    pthread_cond_broadcast(&changed);
}

void mark_await(struct Mark *mark) {
    demand();
    while (!mark_reached(mark)) pthread_cond_wait(&changed, &driver_lock);
}

static void push(struct Stream *stream, struct Operation operation) {
    struct Operation *made = malloc(sizeof *made);
    if (made == NULL) abort();
    *made = operation;
    made->number = ++submitted;
    made->submitted = mean > 0 ? microseconds() : 0;
    made->next = NULL;
    if (stream->last == NULL) stream->first = made;
    else stream->last->next = made;
    stream->last = made;
    pthread_cond_signal(&stream->wake);
    /* What is held back for the sake of later submissions looks again. */
    if (mean > 0) pthread_cond_broadcast(&changed);
}

int stream_idle(const struct Stream *stream) { return stream->first == NULL && !stream->running; }

static void mark_on(struct Stream *stream, struct Mark *mark) {
    push(stream, (struct Operation){.kind = MARK, .mark = mark_keep(mark)});
}

static void wait_on(struct Stream *stream, struct Mark *mark) {
    push(stream, (struct Operation){.kind = WAIT, .mark = mark_keep(mark)});
}

static void join(struct Stream *earlier, struct Stream *later) {
    if (stream_idle(earlier)) return;
    struct Mark *mark = mark_new(1);
    mark_on(earlier, mark);
    wait_on(later, mark);
    mark_drop(mark);
}

/* The stream of null waits for all blocking streams, and these for it. */
static void join_legacy(struct Stream *stream) {
    struct Context *context = stream->context;
    if (stream == context->legacy) {
        for (struct Stream *other = context->streams; other != NULL; other = other->next)
            if (other != stream && !(other->flags & STREAM_NON_BLOCKING)) join(other, stream);
    } else if (context->legacy != NULL && !(stream->flags & STREAM_NON_BLOCKING)) {
        join(context->legacy, stream);
    }
}

struct Mark *stream_mark(struct Stream *stream) {
    join_legacy(stream);
    struct Mark *mark = mark_new(!stream_idle(stream));
    if (mark->pending > 0) mark_on(stream, mark);
    return mark;
}

struct Mark *context_mark(struct Context *context) {
    struct Mark *mark = mark_new(0);
    for (struct Stream *stream = context->streams; stream != NULL; stream = stream->next)
        if (!stream_idle(stream)) {
            mark->pending++;
            mark_on(stream, mark);
        }
    return mark;
}

void stream_hold(struct Stream *stream, struct Mark *mark) {
    if (mark_reached(mark)) return;
    join_legacy(stream);
    wait_on(stream, mark);
}

void submit_work(struct Stream *stream, const char *name, StandInWork work, void *argument) {
    join_legacy(stream);
    push(stream, (struct Operation){.kind = WORK, .name = name, .work = work, .argument = argument});
}

void submit_function(struct Stream *stream, void (*function)(void *), void *argument) {
    join_legacy(stream);
    push(stream, (struct Operation){
        .kind = HOST_FUNCTION, .name = "host function", .function = function, .argument = argument});
}

static void wait_until(long long time) {
    struct timespec at = {time / 1000000, time % 1000000 * 1000};
    pthread_cond_timedwait(&changed, &driver_lock, &at);
}

/* The number of the operation that a stream could run now, whether its thread is awake or not; 0 where there is none. */
static uint64_t runnable(const struct Stream *stream) {
    if (stream->running) return stream->held;
    for (const struct Operation *operation = stream->first; operation != NULL; operation = operation->next) {
        if (operation->kind == WORK || operation->kind == HOST_FUNCTION) return operation->number;
        if (operation->kind == WAIT && !mark_reached(operation->mark)) return 0;
    }
    return 0;
}

static int runnable_later(uint64_t number) {
    for (int device = 0; device < DEVICES; device++)
        for (struct Stream *stream = contexts[device].streams; stream != NULL; stream = stream->next)
            if (runnable(stream) > number) return 1;
    return 0;
}

/* Holds an operation back as the jitter says. */
static void hold_back(struct Stream *stream, const struct Operation *operation) {
    if (mean == 0) return;
    long long now = microseconds(), unasked = operation->submitted + UNASKED * mean;
    long long end = (now > unasked ? now : unasked) + LONGEST * mean;
    long long earliest = now + (long long)(random_number() % (uint64_t)(2 * mean + 1));
    int hostile = random_number() % 16 != 0, gave_way = 0;
    stream->held = operation->number;
    for (; now < end && !stream->cancelled; now = microseconds()) {
        if (now < unasked && operation->number > demanded) wait_until(unasked);
        else if (now < earliest) wait_until(earliest);
        else if (hostile && runnable_later(operation->number)) wait_until(end), gave_way = 1;
        /* What it gave way to has begun, and gets time to end, which it may not do for long. */
        else if (gave_way) earliest = now + mean, gave_way = 0;
        else break;
    }
    stream->held = 0;
    pthread_cond_broadcast(&changed);
}

/* Wants the lock, and has it again afterwards. */
static void run(struct Stream *stream, struct Operation *operation) {
    switch (operation->kind) {
    case MARK:
        mark_pass(operation->mark);
        mark_drop(operation->mark);
        return;
    case WAIT:
        while (!mark_reached(operation->mark) && !stream->cancelled) pthread_cond_wait(&changed, &driver_lock);
        mark_drop(operation->mark);
        return;
    default: break;
    }
    hold_back(stream, operation);
    int cancelled = stream->cancelled;
    pthread_mutex_unlock(&driver_lock);
    log_line("run", operation->name, stream->handle);
    if (operation->kind == WORK) {
        operation->work(operation->argument, cancelled);
    } else if (!cancelled) {
        inside_function = 1;
        operation->function(operation->argument);
        inside_function = 0;
    }
    log_line("end", operation->name, stream->handle);
    pthread_mutex_lock(&driver_lock);
}

static void *run_stream(void *argument) {
    struct Stream *stream = argument;
    pthread_setname_np(pthread_self(), "stand-in stream");
    pthread_mutex_lock(&driver_lock);
    for (;;) {
        while (stream->first == NULL && !stream->ended) pthread_cond_wait(&stream->wake, &driver_lock);
        struct Operation *operation = stream->first;
        if (operation == NULL) break;
        stream->first = operation->next;
        if (stream->first == NULL) stream->last = NULL;
        stream->running = 1;
        run(stream, operation);
        stream->running = 0;
        free(operation);
    }
    struct Context *context = stream->context;
    for (struct Stream **at = &context->streams; *at != NULL; at = &(*at)->next)
        if (*at == stream) {
            *at = stream->next;
            break;
        }
    pthread_mutex_unlock(&driver_lock);
    pthread_cond_destroy(&stream->wake);
    free(stream);
    return NULL;
}

struct Stream *stream_new(struct Context *context, unsigned flags) {
    struct Stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) return NULL;
    stream->context = context;
    stream->flags = flags;
    condition_init(&stream->wake);
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int failed = pthread_create(&thread, &attributes, run_stream, stream);
    pthread_attr_destroy(&attributes);
    if (failed) {
        free(stream);
        return NULL;
    }
    stream->handle = handle_new(&handles, KIND_STREAM, stream);
    stream->next = context->streams;
    context->streams = stream;
    for (struct Held **at = &context->held; *at != NULL;) {
        struct Held *held = *at;
        if (mark_reached(held->mark)) {
            *at = held->next;
            mark_drop(held->mark);
            free(held);
        } else {
            wait_on(stream, held->mark);
            at = &held->next;
        }
    }
    return stream;
}

void stream_end(struct Stream *stream, int cancelled) {
    handle_remove(&handles, stream->handle);
    stream->ended = 1;
    stream->cancelled |= cancelled;
    pthread_cond_signal(&stream->wake);
    pthread_cond_broadcast(&changed);
}
