/* Stands for NVIDIA's driver, `libcuda.so.1`: devices, contexts, streams and events. Memory is in `cuda_memory.c`, the
 * work of streams in `cuda_run.c`.
 *
 * Where it differs: a device has its primary context and no other; nothing is compiled or launched but functions of the
 * host; nothing is captured into graphs; the stream of a thread (2) is missing. Arguments and states that the driver
 * refuses are refused with its codes, and some that it lets pass until they crash: destroyed handles, addresses outside
 * every allocation, memory that is freed while a stream uses it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cuda.h"

static int initialised;

/* This thread's stack of contexts. */
static __thread struct Context *stack[16];
static __thread int depth;

/* The log and the counts. */

enum { FUNCTIONS = 256 };
static pthread_mutex_t say_lock = PTHREAD_MUTEX_INITIALIZER;
static struct { const char *name; uint64_t calls; } functions[FUNCTIONS];
static int log_file = -1;

__attribute__((constructor)) static void open_log(void) {
    const char *name = getenv("STAND_IN_LOG");
    if (name == NULL || *name == 0) return;
    log_file = open(name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (log_file < 0) {
        fprintf(stderr, "stand-in: STAND_IN_LOG: %s: %m\n", name);
        abort();
    }
}

void log_line(const char *what, const char *name, const void *stream) {
    if (log_file < 0) return;
    char thread[32] = "", line[256];
    pthread_getname_np(pthread_self(), thread, sizeof thread);
    int length = snprintf(line, sizeof line, "%lld\t%d\t%ld\t%s\t%s\t%s\t%p\n", microseconds(), getpid(),
                          syscall(SYS_gettid), thread, what, name, stream);
    /* One write a line, so that processes may share the file. */
    if (write(log_file, line, (size_t)length) != length) fprintf(stderr, "stand-in: STAND_IN_LOG: %m\n");
}

/* Called thousands of times a second, and of no account: counted, and not in the log. */
static int polled(const char *function) {
    static const char *const names[] = {"cuEventQuery", "cuStreamQuery", "ncclCommGetAsyncError"};
    for (size_t index = 0; index < sizeof names / sizeof *names; index++)
        if (strcmp(function, names[index]) == 0) return 1;
    return 0;
}

void standInSay(const char *function, const void *stream) {
    pthread_mutex_lock(&say_lock);
    for (int index = 0; index < FUNCTIONS; index++) {
        if (functions[index].name == NULL) functions[index].name = function;
        if (strcmp(functions[index].name, function) != 0) continue;
        functions[index].calls++;
        break;
    }
    pthread_mutex_unlock(&say_lock);
    if (!polled(function)) log_line("call", function, stream);
}

uint64_t standInCalls(const char *function) {
    uint64_t calls = 0;
    pthread_mutex_lock(&say_lock);
    for (int index = 0; index < FUNCTIONS && functions[index].name != NULL; index++)
        if (strcmp(functions[index].name, function) == 0) calls = functions[index].calls;
    pthread_mutex_unlock(&say_lock);
    return calls;
}

CUresult enter(const char *function, const void *stream) {
    standInSay(function, stream);
    if (in_host_function()) return CUDA_ERROR_NOT_PERMITTED;
    pthread_mutex_lock(&driver_lock);
    if (initialised) return CUDA_SUCCESS;
    pthread_mutex_unlock(&driver_lock);
    return CUDA_ERROR_NOT_INITIALIZED;
}

CUresult leave(CUresult result) {
    pthread_mutex_unlock(&driver_lock);
    return result;
}

CUresult current(struct Context **context) {
    if (depth == 0) return CUDA_ERROR_INVALID_CONTEXT;
    *context = stack[depth - 1];
    return (*context)->references == 0 ? CUDA_ERROR_CONTEXT_IS_DESTROYED : (*context)->error;
}

CUresult stream_of(CUstream handle, struct Stream **stream) {
    /* 1 names the stream of null. */
    if (handle == NULL || handle == (CUstream)1) {
        struct Context *context;
        CUresult result = current(&context);
        if (result != CUDA_SUCCESS) return result;
        if (context->legacy == NULL) context->legacy = stream_new(context, 0);
        *stream = context->legacy;
        return *stream == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    }
    if (handle == (CUstream)2) return CUDA_ERROR_NOT_SUPPORTED;
    *stream = handle_get(&handles, KIND_STREAM, handle);
    return *stream == NULL ? CUDA_ERROR_INVALID_HANDLE : (*stream)->context->error;
}

static struct Event *event_of(CUevent handle) { return handle_get(&handles, KIND_EVENT, handle); }

/* The driver and its devices. */

static int device_count(void) {
    long long count = standInNumber("STAND_IN_DEVICES", 8);
    return count > DEVICES ? DEVICES : (int)count;
}

EXPORT CUresult cuInit(unsigned flags) {
    standInSay(__func__, NULL);
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    if (device_count() == 0) return CUDA_ERROR_NO_DEVICE;
    pthread_mutex_lock(&driver_lock);
    for (int device = 0; device < DEVICES && !initialised; device++) {
        struct Context *context = &contexts[device];
        context->device = device;
        context->handle = handle_new(&handles, KIND_CONTEXT, context);
    }
    initialised = 1;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuDriverGetVersion(int *version) {
    standInSay(__func__, NULL);
    if (version == NULL) return CUDA_ERROR_INVALID_VALUE;
    *version = (int)standInNumber("STAND_IN_DRIVER", 12080);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int *count) {
    ENTER(NULL);
    CHECK(count != NULL, CUDA_ERROR_INVALID_VALUE);
    *count = device_count();
    return leave(CUDA_SUCCESS);
}

static CUresult device_check(CUdevice device, const void *out) {
    if (out == NULL) return CUDA_ERROR_INVALID_VALUE;
    return device >= 0 && device < device_count() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    ENTER(NULL);
    TRY(device_check(ordinal, device));
    *device = ordinal;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    ENTER(NULL);
    TRY(device_check(device, name));
    CHECK(length > 0, CUDA_ERROR_INVALID_VALUE);
    snprintf(name, (size_t)length, "Stand-in for an H100");
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuDeviceGetUuid_v2(unsigned char *uuid, CUdevice device) {
    ENTER(NULL);
    TRY(device_check(device, uuid));
    memset(uuid, 0, 16);
    memcpy(uuid, "stand-in", 8);
    uuid[15] = (unsigned char)device;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuDeviceGetUuid(unsigned char *uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }

EXPORT CUresult cuDeviceGetPCIBusId(char *name, int length, CUdevice device) {
    ENTER(NULL);
    TRY(device_check(device, name));
    CHECK(length >= 13, CUDA_ERROR_INVALID_VALUE);
    snprintf(name, (size_t)length, "0000:%02x:00.0", device + 1);
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    /* Those of an H100 that say what may be launched; what can be left out is absent. */
    static const struct { int attribute, value; } known[] = {
        {1, 1024}, {2, 1024}, {3, 1024}, {4, 64},               /* threads of a block, and its dimensions */
        {5, 2147483647}, {6, 65535}, {7, 65535},                /* dimensions of a grid */
        {8, 49152}, {9, 65536}, {10, 32}, {12, 65536},          /* shared and constant memory, warp, registers */
        {13, 1980000}, {16, 132}, {31, 1}, {36, 2619000}, {37, 5120}, {38, 52428800}, {39, 2048}, {40, 3}, {41, 1},
        {75, 9}, {76, 0},                                       /* compute capability */
        {78, 1}, {81, 233472}, {82, 65536}, {83, 0}, {95, 1}, {97, 232448}, {106, 32}, {115, 1},
    };
    ENTER(NULL);
    TRY(device_check(device, value));
    CHECK(attribute > 0 && attribute < 200, CUDA_ERROR_INVALID_VALUE);
    *value = 0;
    for (size_t index = 0; index < sizeof known / sizeof *known; index++)
        if (known[index].attribute == attribute) *value = known[index].value;
    return leave(CUDA_SUCCESS);
}

/* Contexts. */

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    ENTER(NULL);
    TRY(device_check(device, context));
    contexts[device].references++;
    *context = contexts[device].handle;
    return leave(CUDA_SUCCESS);
}

static void event_free(struct Event *event) {
    for (struct Event **at = &event->context->events; *at != NULL; at = &(*at)->next)
        if (*at == event) {
            *at = event->next;
            break;
        }
    handle_remove(&handles, event->handle);
    mark_drop(event->mark);
    free(event);
}

/* Ends all that a context has; work that runs ends first, work that waits does not begin. */
static void context_end(struct Context *context) {
    for (struct Stream *stream = context->streams; stream != NULL; stream = stream->next)
        if (!stream->ended || !stream->cancelled) stream_end(stream, 1);
    while (context->events != NULL) event_free(context->events);
    while (context->held != NULL) {
        struct Held *held = context->held;
        context->held = held->next;
        mark_drop(held->mark);
        free(held);
    }
    memory_release(context);
    context->legacy = NULL;
    context->error = CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    ENTER(NULL);
    TRY(device_check(device, &device));
    CHECK(contexts[device].references > 0, CUDA_ERROR_INVALID_CONTEXT);
    if (--contexts[device].references == 0) context_end(&contexts[device]);
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    ENTER(NULL);
    TRY(device_check(device, active));
    if (flags != NULL) *flags = 0;
    *active = contexts[device].references > 0;
    return leave(CUDA_SUCCESS);
}

/* A context by its handle. */
static CUresult context_of(CUcontext handle, struct Context **context) {
    *context = handle_get(&handles, KIND_CONTEXT, handle);
    if (*context == NULL) return CUDA_ERROR_INVALID_CONTEXT;
    return (*context)->references == 0 ? CUDA_ERROR_CONTEXT_IS_DESTROYED : (*context)->error;
}

EXPORT CUresult cuCtxSetCurrent(CUcontext handle) {
    struct Context *context;
    ENTER(handle);
    if (handle == NULL) {
        if (depth > 0) depth--;
        return leave(CUDA_SUCCESS);
    }
    CHECK((context = handle_get(&handles, KIND_CONTEXT, handle)) != NULL, CUDA_ERROR_INVALID_CONTEXT);
    CHECK(context->references > 0, CUDA_ERROR_CONTEXT_IS_DESTROYED);
    if (depth == 0) depth = 1;
    stack[depth - 1] = context;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuCtxPushCurrent_v2(CUcontext handle) {
    struct Context *context;
    ENTER(handle);
    TRY(context_of(handle, &context));
    CHECK(depth < 16, CUDA_ERROR_UNKNOWN);
    stack[depth++] = context;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuCtxPopCurrent_v2(CUcontext *handle) {
    ENTER(NULL);
    CHECK(depth > 0, CUDA_ERROR_INVALID_CONTEXT);
    depth--;
    if (handle != NULL) *handle = stack[depth]->handle;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuCtxGetCurrent(CUcontext *handle) {
    ENTER(NULL);
    CHECK(handle != NULL, CUDA_ERROR_INVALID_VALUE);
    *handle = depth == 0 ? NULL : stack[depth - 1]->handle;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuCtxGetDevice(CUdevice *device) {
    struct Context *context;
    ENTER(NULL);
    CHECK(device != NULL, CUDA_ERROR_INVALID_VALUE);
    TRY(current(&context));
    *device = context->device;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuCtxSetFlags(unsigned flags) {
    struct Context *context;
    (void)flags;
    ENTER(NULL);
    TRY(current(&context));
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    struct Context *context;
    ENTER(NULL);
    TRY(current(&context));
    if (least != NULL) *least = 0;
    if (greatest != NULL) *greatest = -5;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuCtxSynchronize(void) {
    struct Context *context;
    ENTER(NULL);
    TRY(current(&context));
    struct Mark *mark = context_mark(context);
    mark_await(mark);
    mark_drop(mark);
    return leave(context->error);
}

static void event_set(struct Event *event, struct Mark *mark) {
    mark_drop(event->mark);
    event->mark = mark;
}

/* STAND_IN_CUDA_FAULT: an order that is missing. */
static int fault(const char *kind) {
    const char *text = getenv("STAND_IN_CUDA_FAULT");
    return text != NULL && strcmp(text, kind) == 0;
}

EXPORT CUresult cuCtxRecordEvent(CUcontext handle, CUevent event_handle) {
    struct Context *context;
    struct Event *event;
    ENTER(handle);
    TRY(context_of(handle, &context));
    CHECK((event = event_of(event_handle)) != NULL, CUDA_ERROR_INVALID_HANDLE);
    CHECK(event->context == context, CUDA_ERROR_INVALID_HANDLE);
    event_set(event, fault("record") ? mark_new(0) : context_mark(context));
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuCtxWaitEvent(CUcontext handle, CUevent event_handle) {
    struct Context *context;
    struct Event *event;
    ENTER(handle);
    TRY(context_of(handle, &context));
    CHECK((event = event_of(event_handle)) != NULL, CUDA_ERROR_INVALID_HANDLE);
    if (mark_reached(event->mark) || fault("wait")) return leave(CUDA_SUCCESS);
    for (struct Stream *stream = context->streams; stream != NULL; stream = stream->next)
        if (!stream->ended) stream_hold(stream, event->mark);
    /* Streams that are made later wait as well. */
    for (struct Held **at = &context->held; *at != NULL;) {
        struct Held *held = *at;
        if (!mark_reached(held->mark)) {
            at = &held->next;
            continue;
        }
        *at = held->next;
        mark_drop(held->mark);
        free(held);
    }
    struct Held *held = malloc(sizeof *held);
    if (held == NULL) abort();
    *held = (struct Held){mark_keep(event->mark), context->held};
    context->held = held;
    return leave(CUDA_SUCCESS);
}

/* Streams. */

EXPORT CUresult cuStreamCreateWithPriority(CUstream *handle, unsigned flags, int priority) {
    struct Context *context;
    (void)priority;
    ENTER(NULL);
    CHECK(handle != NULL && flags <= STREAM_NON_BLOCKING, CUDA_ERROR_INVALID_VALUE);
    TRY(current(&context));
    struct Stream *stream = stream_new(context, flags);
    CHECK(stream != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    *handle = stream->handle;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuStreamCreate(CUstream *handle, unsigned flags) { return cuStreamCreateWithPriority(handle, flags, 0); }

EXPORT CUresult cuStreamDestroy_v2(CUstream handle) {
    struct Stream *stream;
    ENTER(handle);
    CHECK(depth > 0, CUDA_ERROR_INVALID_CONTEXT);
    CHECK((stream = handle_get(&handles, KIND_STREAM, handle)) != NULL, CUDA_ERROR_INVALID_HANDLE);
    CHECK(stream != stream->context->legacy, CUDA_ERROR_INVALID_HANDLE);
    /* What was submitted still runs. */
    stream_end(stream, 0);
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuStreamGetCtx(CUstream handle, CUcontext *context) {
    struct Stream *stream;
    ENTER(handle);
    CHECK(context != NULL, CUDA_ERROR_INVALID_VALUE);
    TRY(stream_of(handle, &stream));
    *context = stream->context->handle;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuStreamGetFlags(CUstream handle, unsigned *flags) {
    struct Stream *stream;
    ENTER(handle);
    CHECK(flags != NULL, CUDA_ERROR_INVALID_VALUE);
    TRY(stream_of(handle, &stream));
    *flags = stream->flags;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuStreamIsCapturing(CUstream handle, int *status) {
    struct Stream *stream;
    ENTER(handle);
    CHECK(status != NULL, CUDA_ERROR_INVALID_VALUE);
    TRY(stream_of(handle, &stream));
    *status = 0;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuStreamQuery(CUstream handle) {
    struct Stream *stream;
    ENTER(handle);
    TRY(stream_of(handle, &stream));
    demand();
    return leave(stream_idle(stream) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY);
}

EXPORT CUresult cuStreamSynchronize(CUstream handle) {
    struct Stream *stream;
    ENTER(handle);
    TRY(stream_of(handle, &stream));
    /* The stream may be gone when the wait ends. */
    struct Context *context = stream->context;
    struct Mark *mark = stream_mark(stream);
    mark_await(mark);
    mark_drop(mark);
    return leave(context->error);
}

EXPORT CUresult cuStreamWaitEvent(CUstream handle, CUevent event_handle, unsigned flags) {
    struct Stream *stream;
    struct Event *event;
    ENTER(handle);
    CHECK(flags <= 1, CUDA_ERROR_INVALID_VALUE);
    CHECK(depth > 0, CUDA_ERROR_INVALID_CONTEXT);
    TRY(stream_of(handle, &stream));
    CHECK((event = event_of(event_handle)) != NULL, CUDA_ERROR_INVALID_HANDLE);
    stream_hold(stream, event->mark);
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuLaunchHostFunc(CUstream handle, void (*function)(void *), void *argument) {
    struct Stream *stream;
    ENTER(handle);
    CHECK(function != NULL, CUDA_ERROR_INVALID_VALUE);
    TRY(stream_of(handle, &stream));
    submit_function(stream, function, argument);
    return leave(CUDA_SUCCESS);
}

/* Events. */

EXPORT CUresult cuEventCreate(CUevent *handle, unsigned flags) {
    struct Context *context;
    ENTER(NULL);
    CHECK(handle != NULL && flags < 8, CUDA_ERROR_INVALID_VALUE);
    TRY(current(&context));
    struct Event *event = calloc(1, sizeof *event);
    CHECK(event != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    event->context = context;
    event->flags = flags;
    event->next = context->events;
    context->events = event;
    *handle = event->handle = handle_new(&handles, KIND_EVENT, event);
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuEventDestroy_v2(CUevent handle) {
    struct Event *event;
    ENTER(handle);
    CHECK(depth > 0, CUDA_ERROR_INVALID_CONTEXT);
    CHECK((event = event_of(handle)) != NULL, CUDA_ERROR_INVALID_HANDLE);
    event_free(event);
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuEventRecord(CUevent handle, CUstream stream_handle) {
    struct Stream *stream;
    struct Event *event;
    ENTER(stream_handle);
    CHECK(depth > 0, CUDA_ERROR_INVALID_CONTEXT);
    CHECK((event = event_of(handle)) != NULL, CUDA_ERROR_INVALID_HANDLE);
    TRY(stream_of(stream_handle, &stream));
    CHECK(event->context == stream->context, CUDA_ERROR_INVALID_HANDLE);
    event_set(event, stream_mark(stream));
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuEventQuery(CUevent handle) {
    struct Event *event;
    ENTER(handle);
    CHECK((event = event_of(handle)) != NULL, CUDA_ERROR_INVALID_HANDLE);
    TRY(event->context->error);
    demand();
    return leave(mark_reached(event->mark) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY);
}

EXPORT CUresult cuEventSynchronize(CUevent handle) {
    struct Event *event;
    ENTER(handle);
    CHECK(depth > 0, CUDA_ERROR_INVALID_CONTEXT);
    CHECK((event = event_of(handle)) != NULL, CUDA_ERROR_INVALID_HANDLE);
    struct Context *context = event->context;
    if (event->mark != NULL) {
        struct Mark *mark = mark_keep(event->mark);
        mark_await(mark);
        mark_drop(mark);
    }
    return leave(context->error);
}

EXPORT CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end) {
    struct Event *first, *last;
    ENTER(end);
    CHECK(milliseconds != NULL, CUDA_ERROR_INVALID_VALUE);
    CHECK((first = event_of(start)) != NULL && (last = event_of(end)) != NULL, CUDA_ERROR_INVALID_HANDLE);
    CHECK(!((first->flags | last->flags) & EVENT_DISABLE_TIMING), CUDA_ERROR_INVALID_HANDLE);
    CHECK(first->mark != NULL && last->mark != NULL, CUDA_ERROR_INVALID_HANDLE);
    CHECK(mark_reached(first->mark) && mark_reached(last->mark), CUDA_ERROR_NOT_READY);
    *milliseconds = (float)(last->mark->time - first->mark->time) / 1000;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}

/* Kernels and graphs, which there are none of. */

#define REFUSED(name, ...) \
    EXPORT CUresult name(__VA_ARGS__) { ENTER(NULL); return leave(CUDA_ERROR_NOT_SUPPORTED); }

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
REFUSED(cuModuleLoad, void **module, const char *name)
REFUSED(cuModuleLoadData, void **module, const void *image)
REFUSED(cuModuleGetFunction, void **function, void *module, const char *name)
REFUSED(cuModuleUnload, void *module)
REFUSED(cuFuncSetAttribute, void *function, int attribute, int value)
REFUSED(cuFuncGetAttribute, int *value, int attribute, void *function)
REFUSED(cuLaunchKernel, void *function, unsigned x, unsigned y, unsigned z, unsigned block_x, unsigned block_y,
        unsigned block_z, unsigned shared, CUstream stream, void **parameters, void **extra)
REFUSED(cuStreamBeginCapture_v2, CUstream stream, int mode)
REFUSED(cuStreamEndCapture, CUstream stream, void **graph)
#pragma GCC diagnostic pop

/* Errors. */

static const struct { CUresult code; const char *name, *text; } errors[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CUDA_ERROR_CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {CUDA_ERROR_NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static CUresult describe(CUresult code, const char **text, int name) {
    if (text == NULL) return CUDA_ERROR_INVALID_VALUE;
    for (size_t index = 0; index < sizeof errors / sizeof *errors; index++)
        if (errors[index].code == code) {
            *text = name ? errors[index].name : errors[index].text;
            return CUDA_SUCCESS;
        }
    *text = NULL;
    return CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuGetErrorName(CUresult code, const char **text) { return describe(code, text, 1); }
EXPORT CUresult cuGetErrorString(CUresult code, const char **text) { return describe(code, text, 0); }

/* For the other stand-ins. */

int standInLaunch(void *handle, const char *name, StandInWork work, void *argument) {
    struct Stream *stream;
    pthread_mutex_lock(&driver_lock);
    TRY(stream_of(handle, &stream));
    submit_work(stream, name, work, argument);
    return leave(CUDA_SUCCESS);
}

int standInOrder(void *earlier, void *later) {
    struct Stream *first, *second;
    pthread_mutex_lock(&driver_lock);
    TRY(stream_of(earlier, &first));
    TRY(stream_of(later, &second));
    struct Mark *mark = stream_mark(first);
    stream_hold(second, mark);
    mark_drop(mark);
    return leave(CUDA_SUCCESS);
}

int standInStreamDevice(void *handle, int *device) {
    struct Stream *stream;
    pthread_mutex_lock(&driver_lock);
    TRY(stream_of(handle, &stream));
    *device = stream->context->device;
    return leave(CUDA_SUCCESS);
}

int standInDevice(int *device) {
    struct Context *context;
    pthread_mutex_lock(&driver_lock);
    CHECK(initialised, CUDA_ERROR_NOT_INITIALIZED);
    TRY(current(&context));
    *device = context->device;
    return leave(CUDA_SUCCESS);
}

int standInDefaultContext(void) {
    CUresult result = cuInit(0);
    if (result != CUDA_SUCCESS || depth > 0) return result;
    pthread_mutex_lock(&driver_lock);
    contexts[0].references++;
    stack[depth++] = &contexts[0];
    return leave(CUDA_SUCCESS);
}

void standInSpoil(void *handle, int code) {
    struct Stream *stream;
    pthread_mutex_lock(&driver_lock);
    if (stream_of(handle, &stream) == CUDA_SUCCESS) stream->context->error = code;
    pthread_mutex_unlock(&driver_lock);
}
