/* Stands for NVIDIA's NCCL, `libnccl.so.2`: the fifteen functions that move bytes between ranks, on streams of the
 * stand-in driver. How ranks meet and move data is in `nccl_link.c`.
 *
 * Kept from NVIDIA's: a group is one piece of work on its stream, which blocks the stream and not the host until all of
 * it is done; a communicator that does not block returns ncclInProgress, and a thread of the library puts the work on the
 * stream later; once there is an asynchronous error the work hangs until the communicator is aborted. Calls that
 * NVIDIA's refuses are refused with its codes, and some that it does not see: ranks that disagree on counts, types,
 * roots or kinds, two ranks that send to each other outside a group, memory that is not the device's.
 *
 * Missing: reductions, communicators that are split or made within a group, registered memory, several hosts. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "nccl.h"

/* `ncclUniqueId`. */
struct UniqueId {
    char bytes[128];
};

/* `ncclConfig_t`, as far as it is read. */
struct Config {
    size_t size;
    unsigned magic, version;
    int blocking;
};

enum { KIND_COMMUNICATOR = 4, UNDEFINED = INT_MIN };
static const char ID_MAGIC[8] = "stand-in";

pthread_mutex_t nccl_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t nccl_changed;

static struct Handles handles;
static char last_message[256];

/* This thread's group. */
static __thread int depth;
static __thread struct Group *groups;
static __thread int group_error;

__attribute__((constructor)) static void start(void) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&nccl_changed, &attributes);
    pthread_condattr_destroy(&attributes);
}

size_t datatype_bytes(int type) {
    static const size_t bytes[DATATYPES] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return bytes[type];
}

/* STAND_IN_NCCL_FAULT is a list of KIND:RANK[:CALL[:REST]], divided by commas. */
int fault(const char *kind, int rank, long long call, const char **rest) {
    const char *text = getenv("STAND_IN_NCCL_FAULT");
    size_t length = strlen(kind);
    while (text != NULL && *text != 0) {
        const char *end = strchrnul(text, ',');
        char *at;
        if (strncmp(text, kind, length) == 0 && text[length] == ':' && strtol(text + length + 1, &at, 10) == rank) {
            int fits = *at != ':' || strtoll(at + 1, &at, 10) == call;
            if (rest != NULL) *rest = *at == ':' ? at + 1 : "";
            if (fits) return 1;
        }
        text = *end == ',' ? end + 1 : end;
    }
    return 0;
}

int fail(struct Communicator *communicator, int code, const char *format, ...) {
    char text[sizeof last_message];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    pthread_mutex_lock(&nccl_lock);
    memcpy(last_message, text, sizeof text);
    if (communicator != NULL && (communicator->state == SUCCESS || communicator->state == IN_PROGRESS)) {
        communicator->state = code;
        memcpy(communicator->message, text, sizeof text);
    }
    pthread_cond_broadcast(&nccl_changed);
    pthread_mutex_unlock(&nccl_lock);
    return code;
}

int wait_for_abort(struct Communicator *communicator, long long microseconds) {
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += (end.tv_nsec / 1000 + microseconds) / 1000000;
    end.tv_nsec = (end.tv_nsec / 1000 + microseconds) % 1000000 * 1000;
    pthread_mutex_lock(&nccl_lock);
    int ended = 0;
    while (!communicator->aborted && !ended)
        if (microseconds < 0) pthread_cond_wait(&nccl_changed, &nccl_lock);
        else ended = pthread_cond_timedwait(&nccl_changed, &nccl_lock, &end) == ETIMEDOUT;
    int aborted = communicator->aborted;
    pthread_mutex_unlock(&nccl_lock);
    return aborted;
}

static void release(struct Communicator *communicator) {
    pthread_mutex_lock(&nccl_lock);
    int left = --communicator->references;
    pthread_mutex_unlock(&nccl_lock);
    if (left > 0) return;
    link_close(communicator);
    free(communicator);
}

static void group_free(struct Group *group) {
    free(group->transfers);
    free(group);
}

/* The work of a group on its stream. */

/* Puts the host's addresses in place of the device's; 0 where there is none. */
static int pin_all(struct Communicator *self, struct Group *group) {
    int there = 1;
    for (int index = 0; index < group->count; index++) {
        struct Transfer *transfer = &group->transfers[index];
        size_t whole = transfer->kind == ALL_GATHER ? transfer->bytes * (size_t)self->ranks : transfer->bytes;
        uint64_t from = transfer->from, to = transfer->to;
        transfer->from = transfer->to = 0;
        if (transfer->bytes == 0) continue;
        if (from != 0) transfer->from = (uint64_t)standInPin(from, transfer->bytes);
        if (to != 0) transfer->to = (uint64_t)standInPin(to, whole);
        there &= (from == 0) == (transfer->from == 0) && (to == 0) == (transfer->to == 0);
    }
    return there;
}

static void unpin_all(struct Group *group) {
    for (int index = 0; index < group->count; index++) {
        if (group->transfers[index].from != 0) standInUnpin(group->transfers[index].from);
        if (group->transfers[index].to != 0) standInUnpin(group->transfers[index].to);
    }
}

static void run_group(void *argument, int cancelled) {
    struct Group *group = argument;
    struct Communicator *self = group->communicator;
    const char *rest;
    void *stream = group->transfers[0].stream;
    if (!cancelled) {
        if (!pin_all(self, group)) {
            fprintf(stderr, "stand-in: memory was freed before NCCL used it\n");
            standInSpoil(stream, CUDA_ERROR_ILLEGAL_ADDRESS);
            fail(self, UNHANDLED_CUDA_ERROR, "Cuda failure 'an illegal memory access was encountered'");
        } else if (fault("async", self->rank, group->call, &rest)) {
            if (strcmp(rest, "system") == 0) fail(self, SYSTEM_ERROR, "a fault that was asked for");
            else fail(self, REMOTE_ERROR, "a fault that was asked for");
            wait_for_abort(self, -1);
        } else {
            link_run(self, group);
        }
        unpin_all(group);
    }
    pthread_mutex_lock(&nccl_lock);
    self->done++;
    pthread_cond_broadcast(&nccl_changed);
    pthread_mutex_unlock(&nccl_lock);
    group_free(group);
    release(self);
}

/* The communicator's thread. */

/* Puts a group on its stream, after what the environment asks for. Takes the group. */
static int launch(struct Communicator *self, struct Group *group) {
    const char *rest;
    int late = fault("late", self->rank, group->call, &rest), hung = fault("hang", self->rank, group->call, NULL);
    long long delay = late ? atoll(rest) * 1000 : standInDelay();
    if (wait_for_abort(self, hung ? -1 : delay)) {
        group_free(group);
        return SUCCESS;
    }
    void *stream = group->transfers[0].stream;
    int result = SUCCESS;
    if (self->last_stream != NULL && self->last_stream != stream && standInOrder(self->last_stream, stream) != 0)
        self->last_stream = NULL; /* Destroyed: its work is done, or nobody waits for it. */
    for (int index = 1; index < group->count && result == SUCCESS; index++)
        if (group->transfers[index].stream != stream) result = standInOrder(group->transfers[index].stream, stream);
    void **others = calloc((size_t)group->count, sizeof *others);
    int count = group->count;
    if (others == NULL) abort();
    for (int index = 0; index < count; index++) others[index] = group->transfers[index].stream;
    pthread_mutex_lock(&nccl_lock);
    self->references++;
    self->launched++;
    pthread_mutex_unlock(&nccl_lock);
    if (result == SUCCESS) {
        standInSay("nccl launch", stream);
        result = standInLaunch(stream, "nccl", run_group, group);
    }
    if (result != SUCCESS) {
        run_group(group, 1);
        free(others);
        return fail(self, UNHANDLED_CUDA_ERROR, "Cuda failure %d: the stream takes no work", result);
    }
    for (int index = 1; index < count; index++)
        if (others[index] != stream) standInOrder(stream, others[index]);
    free(others);
    self->last_stream = stream;
    return SUCCESS;
}

static int finish(struct Communicator *self) {
    pthread_mutex_lock(&nccl_lock);
    while (self->done < self->launched && !self->aborted) pthread_cond_wait(&nccl_changed, &nccl_lock);
    pthread_mutex_unlock(&nccl_lock);
    return link_finish(self);
}

static int begin(struct Communicator *self) {
    if (fault("init-hang", self->rank, 0, NULL)) return wait_for_abort(self, -1) ? -1 : SUCCESS;
    if (fault("init-error", self->rank, 0, NULL)) return fail(self, SYSTEM_ERROR, "a fault that was asked for");
    if (wait_for_abort(self, standInDelay())) return -1;
    return link_connect(self);
}

static void *serve(void *argument) {
    struct Communicator *self = argument;
    pthread_setname_np(pthread_self(), "stand-in nccl");
    int result = begin(self);
    pthread_mutex_lock(&nccl_lock);
    self->connected = result == SUCCESS;
    for (;;) {
        if (self->state == IN_PROGRESS && result == SUCCESS) self->state = SUCCESS;
        pthread_cond_broadcast(&nccl_changed);
        while (self->group == NULL && !self->finalize && !self->destroyed && !self->aborted)
            pthread_cond_wait(&nccl_changed, &nccl_lock);
        if (self->aborted || (self->destroyed && self->group == NULL && !self->finalize)) break;
        struct Group *group = self->group;
        self->group = NULL;
        if (group == NULL) self->finalize = 0;
        pthread_mutex_unlock(&nccl_lock);
        result = group != NULL ? launch(self, group) : finish(self);
        pthread_mutex_lock(&nccl_lock);
        if (group == NULL) self->finalized = result == SUCCESS;
    }
    if (self->group != NULL) group_free(self->group);
    self->group = NULL;
    self->thread_ended = 1;
    pthread_cond_broadcast(&nccl_changed);
    pthread_mutex_unlock(&nccl_lock);
    release(self);
    return NULL;
}

/* Functions. */

EXPORT int ncclGetVersion(int *version) {
    standInSay(__func__, NULL);
    if (version == NULL) return fail(NULL, INVALID_ARGUMENT, "GetVersion: version is NULL");
    *version = (int)standInNumber("STAND_IN_NCCL_VERSION", 22703);
    return SUCCESS;
}

EXPORT int ncclGetUniqueId(struct UniqueId *id) {
    standInSay(__func__, NULL);
    if (id == NULL) return fail(NULL, INVALID_ARGUMENT, "GetUniqueId: out is NULL");
    memset(id, 0, sizeof *id);
    memcpy(id->bytes, ID_MAGIC, sizeof ID_MAGIC);
    if (getrandom(id->bytes + sizeof ID_MAGIC, ID_BYTES, 0) != ID_BYTES)
        return fail(NULL, SYSTEM_ERROR, "no random numbers: %s", strerror(errno));
    return SUCCESS;
}

EXPORT const char *ncclGetErrorString(int code) {
    switch (code) {
    case SUCCESS: return "no error";
    case UNHANDLED_CUDA_ERROR: return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case SYSTEM_ERROR: return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case INTERNAL_ERROR: return "internal error - please report this issue to the NCCL developers";
    case INVALID_ARGUMENT: return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case INVALID_USAGE: return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case REMOTE_ERROR: return "remote process exited or there was a network error";
    case IN_PROGRESS: return "NCCL operation in progress";
    default: return "unknown result code";
    }
}

EXPORT const char *ncclGetLastError(void *handle) {
    static __thread char text[sizeof last_message];
    standInSay(__func__, NULL);
    pthread_mutex_lock(&nccl_lock);
    struct Communicator *self = handle_get(&handles, KIND_COMMUNICATOR, handle);
    memcpy(text, self != NULL && self->message[0] != 0 ? self->message : last_message, sizeof text);
    pthread_mutex_unlock(&nccl_lock);
    return text;
}

/* Waits until a communicator that blocks has done its job; wants the lock. */
static int settle(struct Communicator *self) {
    while (self->blocking && self->state == IN_PROGRESS && !self->aborted)
        pthread_cond_wait(&nccl_changed, &nccl_lock);
    return self->state;
}

EXPORT int ncclCommInitRankConfig(void **handle, int ranks, struct UniqueId id, int rank, const struct Config *config) {
    int blocking = 1, device;
    standInSay(__func__, NULL);
    if (handle == NULL) return fail(NULL, INVALID_ARGUMENT, "CommInitRank: comm is NULL");
    if (depth > 0) return group_error = fail(NULL, INVALID_USAGE, "CommInitRank: in a group, which is missing here");
    if (ranks < 1 || ranks > MOST_RANKS || rank < 0 || rank >= ranks)
        return fail(NULL, INVALID_ARGUMENT, "Invalid rank requested : %d/%d", rank, ranks);
    if (memcmp(id.bytes, ID_MAGIC, sizeof ID_MAGIC) != 0)
        return fail(NULL, INVALID_ARGUMENT, "CommInitRank: the id was not made by ncclGetUniqueId");
    if (config != NULL) {
        size_t least = offsetof(struct Config, blocking) + sizeof config->blocking;
        if (config->magic != 0xcafebeef || config->size < least || config->version < 21400)
            return fail(NULL, INVALID_ARGUMENT, "ncclConfig_t argument not initialized via NCCL_CONFIG_INITIALIZER");
        if (config->blocking != UNDEFINED) blocking = config->blocking;
        if (blocking != 0 && blocking != 1)
            return fail(NULL, INVALID_ARGUMENT, "Invalid config blocking attribute value %d", blocking);
    }
    if (standInDefaultContext() != CUDA_SUCCESS || standInDevice(&device) != CUDA_SUCCESS)
        return fail(NULL, UNHANDLED_CUDA_ERROR, "Cuda failure: no usable context");
    struct Communicator *self = calloc(1, sizeof *self);
    if (self == NULL) return fail(NULL, SYSTEM_ERROR, "no memory");
    memcpy(self->id, id.bytes + sizeof ID_MAGIC, ID_BYTES);
    self->rank = rank;
    self->ranks = ranks;
    self->device = device;
    self->blocking = blocking;
    self->state = IN_PROGRESS;
    self->references = 2;
    self->abort_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    for (int other = 0; other < MOST_RANKS; other++) self->out[other] = self->in[other] = -1;
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_mutex_lock(&nccl_lock);
    int failed = self->abort_event < 0 || pthread_create(&thread, &attributes, serve, self) != 0;
    pthread_attr_destroy(&attributes);
    if (failed) {
        pthread_mutex_unlock(&nccl_lock);
        free(self);
        return fail(NULL, SYSTEM_ERROR, "no thread or event");
    }
    self->handle = *handle = handle_new(&handles, KIND_COMMUNICATOR, self);
    int state = settle(self);
    pthread_mutex_unlock(&nccl_lock);
    return state;
}

EXPORT int ncclCommGetAsyncError(void *handle, int *state) {
    standInSay(__func__, NULL);
    pthread_mutex_lock(&nccl_lock);
    struct Communicator *self = handle_get(&handles, KIND_COMMUNICATOR, handle);
    if (self != NULL && state != NULL) *state = self->state;
    pthread_mutex_unlock(&nccl_lock);
    if (self == NULL || state == NULL)
        return fail(NULL, INVALID_ARGUMENT, "CommGetAsyncError: comm or asyncError argument is NULL or destroyed");
    return SUCCESS;
}

/* The communicator where it may be used; wants the lock and gives it up on an error. */
static int ready(void *handle, const char *function, struct Communicator **self) {
    *self = handle_get(&handles, KIND_COMMUNICATOR, handle);
    int state = *self == NULL ? SUCCESS : (*self)->state, finalized = *self != NULL && (*self)->finalized;
    if (*self != NULL && state == SUCCESS && !finalized) return SUCCESS;
    pthread_mutex_unlock(&nccl_lock);
    if (*self == NULL) return fail(NULL, INVALID_ARGUMENT, "%s: comm is NULL, destroyed or aborted", function);
    if (finalized) return fail(NULL, INVALID_USAGE, "%s: the communicator is finalized", function);
    if (state != IN_PROGRESS) return state;
    return fail(NULL, INVALID_ARGUMENT, "%s: the communicator was used before the previous call returned ncclSuccess",
                function);
}

EXPORT int ncclCommFinalize(void *handle) {
    struct Communicator *self;
    standInSay(__func__, NULL);
    pthread_mutex_lock(&nccl_lock);
    int result = ready(handle, "CommFinalize", &self);
    if (result != SUCCESS) return result;
    self->state = IN_PROGRESS;
    self->finalize = 1;
    pthread_cond_broadcast(&nccl_changed);
    result = settle(self);
    pthread_mutex_unlock(&nccl_lock);
    return result;
}

/* Takes the handle away: whoever calls is the last that does. */
static struct Communicator *take(void *handle) {
    struct Communicator *self = handle_get(&handles, KIND_COMMUNICATOR, handle);
    if (self != NULL) handle_remove(&handles, handle);
    return self;
}

EXPORT int ncclCommDestroy(void *handle) {
    standInSay(__func__, NULL);
    pthread_mutex_lock(&nccl_lock);
    struct Communicator *self = take(handle);
    if (self == NULL) {
        pthread_mutex_unlock(&nccl_lock);
        return fail(NULL, INVALID_ARGUMENT, "CommDestroy: comm is NULL, destroyed or aborted");
    }
    /* What is not finalized is finalized first, with all ranks. */
    if (!self->finalized && self->connected && (self->state == SUCCESS || self->state == IN_PROGRESS)) self->finalize = 1;
    self->destroyed = 1;
    pthread_cond_broadcast(&nccl_changed);
    while (self->blocking && !self->thread_ended) pthread_cond_wait(&nccl_changed, &nccl_lock);
    pthread_mutex_unlock(&nccl_lock);
    release(self);
    return SUCCESS;
}

EXPORT int ncclCommAbort(void *handle) {
    standInSay(__func__, NULL);
    pthread_mutex_lock(&nccl_lock);
    struct Communicator *self = take(handle);
    if (self == NULL) {
        pthread_mutex_unlock(&nccl_lock);
        return fail(NULL, INVALID_ARGUMENT, "CommAbort: comm is NULL, destroyed or aborted");
    }
    int hung = fault("hang-abort", self->rank, 0, NULL);
    self->aborted = 1;
    if (eventfd_write(self->abort_event, 1) != 0) abort();
    pthread_cond_broadcast(&nccl_changed);
    while (!self->thread_ended) pthread_cond_wait(&nccl_changed, &nccl_lock);
    pthread_mutex_unlock(&nccl_lock);
    while (hung) pause();
    release(self);
    return SUCCESS;
}

/* Groups. */

static void drop_groups(void) {
    while (groups != NULL) {
        struct Group *group = groups;
        groups = group->next;
        group_free(group);
    }
}

static int receives_from(const struct Transfer *transfer, int rank) {
    return transfer->kind == RECEIVE && transfer->peer == rank;
}

/* Whether a rank's sends to itself have a receive each, of the same size. */
static int check_self(const struct Group *group) {
    int rank = group->communicator->rank, next = 0;
    for (int index = 0; index < group->count; index++) {
        const struct Transfer *send = &group->transfers[index];
        if (send->kind != SEND || send->peer != rank) continue;
        while (next < group->count && !receives_from(&group->transfers[next], rank)) next++;
        if (next == group->count || group->transfers[next].bytes != send->bytes) return 0;
        next++;
    }
    for (; next < group->count; next++)
        if (receives_from(&group->transfers[next], rank)) return 0;
    return 1;
}

/* Starts the groups of this thread. */
static int start_groups(void) {
    int result = SUCCESS;
    for (struct Group *group = groups; group != NULL && result == SUCCESS; group = group->next) {
        struct Communicator *self = group->communicator;
        if (self->blocking != groups->communicator->blocking)
            result = fail(NULL, INVALID_ARGUMENT, "communicators that block and that do not are in one group");
        else if (!check_self(group))
            result = fail(self, INVALID_USAGE, "rank %d sends to itself without a matching receive in that group",
                          self->rank);
    }
    /* In the order of the calls, which this list has the other way. */
    struct Group *ordered = NULL;
    for (struct Group *group = groups, *next; group != NULL; group = next) {
        next = group->next;
        group->next = ordered;
        ordered = group;
    }
    groups = ordered;
    while (groups != NULL && result == SUCCESS) {
        struct Group *group = groups;
        struct Communicator *self = group->communicator;
        pthread_mutex_lock(&nccl_lock);
        group->call = self->calls++;
        pthread_mutex_unlock(&nccl_lock);
        if (fault("die", self->rank, group->call, NULL)) raise(SIGKILL);
        while (fault("hang-call", self->rank, group->call, NULL)) pause();
        groups = group->next;
        group->next = NULL;
        pthread_mutex_lock(&nccl_lock);
        if (handle_get(&handles, KIND_COMMUNICATOR, self->handle) == self && self->state == SUCCESS) {
            self->state = IN_PROGRESS;
            self->group = group;
            pthread_cond_broadcast(&nccl_changed);
            result = settle(self);
        } else {
            group_free(group);
            result = INVALID_USAGE;
        }
        pthread_mutex_unlock(&nccl_lock);
        release(self);
        if (result == IN_PROGRESS && groups != NULL) result = SUCCESS;
    }
    return result;
}

EXPORT int ncclGroupStart(void) {
    standInSay(__func__, NULL);
    depth++;
    return SUCCESS;
}

/* Drops what a failed group holds. */
static void forget_groups(void) {
    for (struct Group *group = groups; group != NULL; group = group->next) release(group->communicator);
    drop_groups();
}

EXPORT int ncclGroupEnd(void) {
    standInSay(__func__, NULL);
    if (depth == 0) return fail(NULL, INVALID_USAGE, "ncclGroupEnd: not in a group call.");
    if (--depth > 0) return SUCCESS;
    int result = group_error;
    group_error = SUCCESS;
    if (result == SUCCESS) result = start_groups();
    forget_groups();
    return result;
}

static int overlap(uint64_t one, size_t bytes, uint64_t other, size_t others) {
    return one < other + others && other < one + bytes;
}

/* What is wrong with a call's arguments. */
static int check(struct Communicator *self, const struct Transfer *transfer, const char *name) {
    size_t whole = transfer->kind == ALL_GATHER ? transfer->bytes * (size_t)self->ranks : transfer->bytes;
    int device;
    const char *peer = transfer->kind == BROADCAST ? "root" : "peer";
    if (transfer->kind != ALL_GATHER && (transfer->peer < 0 || transfer->peer >= self->ranks))
        return fail(self, INVALID_ARGUMENT, "%s : invalid %s %d (%s should be in the 0..%d range)", name, peer,
                    transfer->peer, peer, self->ranks - 1);
    if (standInStreamDevice(transfer->stream, &device) != CUDA_SUCCESS)
        return fail(self, UNHANDLED_CUDA_ERROR, "%s : Cuda failure 'invalid resource handle' for the stream", name);
    if (device != self->device)
        return fail(self, INVALID_USAGE, "%s : the stream is of device %d, the communicator of %d", name, device,
                    self->device);
    if (transfer->bytes == 0) return SUCCESS;
    int sends = transfer->kind != RECEIVE && (transfer->kind != BROADCAST || transfer->peer == self->rank);
    if (sends && !standInHolds(transfer->from, transfer->bytes, device))
        return fail(self, INVALID_ARGUMENT, "%s : sendbuff is not %zu bytes of device %d", name, transfer->bytes, device);
    if (transfer->kind != SEND && !standInHolds(transfer->to, whole, device))
        return fail(self, INVALID_ARGUMENT, "%s : recvbuff is not %zu bytes of device %d", name, whole, device);
    uint64_t in_place = transfer->to + (transfer->kind == ALL_GATHER ? (uint64_t)self->rank * transfer->bytes : 0);
    if (transfer->kind <= BROADCAST && sends && transfer->from != in_place &&
        overlap(transfer->from, transfer->bytes, transfer->to, whole))
        return fail(self, INVALID_ARGUMENT, "%s : sendbuff lies in recvbuff, and not where it does in place", name);
    return SUCCESS;
}

static void append(struct Communicator *self, struct Transfer transfer) {
    struct Group *group = groups;
    while (group != NULL && group->communicator != self) group = group->next;
    if (group == NULL) {
        group = calloc(1, sizeof *group);
        if (group == NULL) abort();
        group->communicator = self;
        group->next = groups;
        groups = group;
        pthread_mutex_lock(&nccl_lock);
        self->references++;
        pthread_mutex_unlock(&nccl_lock);
    }
    group->transfers = realloc(group->transfers, (size_t)(group->count + 1) * sizeof transfer);
    if (group->transfers == NULL) abort();
    group->transfers[group->count++] = transfer;
}

/* A call, in a group or alone. */
static int submit(const char *name, void *handle, int type, size_t count, struct Transfer transfer) {
    struct Communicator *self;
    standInSay(name, transfer.stream);
    name += strlen("nccl");
    pthread_mutex_lock(&nccl_lock);
    int result = ready(handle, name, &self);
    if (result == SUCCESS) {
        /* It may not go while it is looked at. */
        self->references++;
        pthread_mutex_unlock(&nccl_lock);
        if (type < 0 || type >= DATATYPES) {
            result = fail(self, INVALID_ARGUMENT, "%s : invalid type %d", name, type);
        } else {
            transfer.type = type;
            transfer.count = count;
            transfer.bytes = count * datatype_bytes(type);
            /* The root alone sends. */
            if (transfer.kind == BROADCAST && transfer.peer != self->rank) transfer.from = 0;
            result = check(self, &transfer, name);
        }
        if (result == SUCCESS) append(self, transfer);
        release(self);
    }
    if (depth > 0) {
        if (result != SUCCESS) group_error = result;
        return result;
    }
    if (result == SUCCESS) result = start_groups();
    forget_groups();
    return result;
}

EXPORT int ncclAllGather(const void *from, void *to, size_t count, int type, void *handle, void *stream) {
    return submit(__func__, handle, type, count, (struct Transfer){
        .kind = ALL_GATHER, .from = (uint64_t)from, .to = (uint64_t)to, .stream = stream});
}

EXPORT int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, void *handle, void *stream) {
    return submit(__func__, handle, type, count, (struct Transfer){
        .kind = BROADCAST, .from = (uint64_t)from, .to = (uint64_t)to, .peer = root, .stream = stream});
}

EXPORT int ncclSend(const void *from, size_t count, int type, int peer, void *handle, void *stream) {
    return submit(__func__, handle, type, count, (struct Transfer){
        .kind = SEND, .from = (uint64_t)from, .peer = peer, .stream = stream});
}

EXPORT int ncclRecv(void *to, size_t count, int type, int peer, void *handle, void *stream) {
    return submit(__func__, handle, type, count, (struct Transfer){
        .kind = RECEIVE, .to = (uint64_t)to, .peer = peer, .stream = stream});
}
