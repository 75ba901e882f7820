/* Checks of the stand-in driver. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { BYTES = 4096 };

/* Fills `x` on one stream and copies it on another, which waits or does not. Whether the copy is right. */
static int copied(void *first, void *second, void *event, Address x, Address y, unsigned char value, int ordered) {
    unsigned char out[BYTES];
    OK(cuMemsetD8Async(x, value, BYTES, first));
    if (ordered) {
        OK(cuEventRecord(event, first));
        OK(cuStreamWaitEvent(second, event, 0));
    }
    OK(cuMemcpyDtoDAsync_v2(y, x, BYTES, second));
    OK(cuMemcpyDtoHAsync_v2(out, y, BYTES, second));
    OK(cuStreamSynchronize(second));
    int right = out[0] == value && out[BYTES - 1] == value;
    OK(cuCtxSynchronize());
    return right;
}

static int count_right(int ordered, int rounds) {
    use_device(0);
    void *first = new_stream(), *second = new_stream(), *event = new_event();
    Address x = new_memory(BYTES), y = new_memory(BYTES);
    int right = 0;
    for (int round = 0; round < rounds; round++)
        right += copied(first, second, event, x, y, (unsigned char)(round + 1), ordered);
    return right;
}

static void order_with_events(void) { EQUAL(count_right(1, 100), 100); }

static void order_without_events(void) {
    int right = count_right(0, 50);
    EXPECT(right <= 10);
}

/* The way of the products: behind all that the context has, and before all that it gets. */
static int context_round(void *context, int there, int back, unsigned char value) {
    static void *theirs[2], *ours, *before, *after;
    static Address x, y, z;
    unsigned char out[BYTES];
    if (ours == NULL) {
        for (int index = 0; index < 2; index++) theirs[index] = new_stream();
        ours = new_stream();
        before = new_event();
        after = new_event();
        x = new_memory(BYTES), y = new_memory(BYTES), z = new_memory(BYTES);
    }
    OK(cuMemsetD8Async(x, value, BYTES / 2, theirs[0]));
    OK(cuMemsetD8Async(x + BYTES / 2, value, BYTES / 2, theirs[1]));
    if (there) {
        OK(cuCtxRecordEvent(context, before));
        OK(cuStreamWaitEvent(ours, before, 0));
    }
    OK(cuMemcpyDtoDAsync_v2(y, x, BYTES, ours));
    OK(cuEventRecord(after, ours));
    if (back) OK(cuCtxWaitEvent(context, after));
    /* One stream that was there, and one that is new. */
    void *later = new_stream();
    OK(cuMemcpyDtoDAsync_v2(z, y, BYTES / 2, theirs[0]));
    OK(cuMemcpyDtoDAsync_v2(z + BYTES / 2, y + BYTES / 2, BYTES / 2, later));
    OK(cuStreamDestroy_v2(later));
    OK(cuCtxSynchronize());
    OK(cuMemcpyDtoH_v2(out, z, BYTES));
    return out[0] == value && out[BYTES - 1] == value;
}

static void context_events(void) {
    void *context = use_device(0);
    for (int round = 0; round < 60; round++) EXPECT(context_round(context, 1, 1, (unsigned char)(round + 1)));
}

static void context_events_missing(void) {
    void *context = use_device(0);
    int right[2] = {0, 0};
    for (int round = 0; round < 50; round++)
        right[round % 2] += context_round(context, round % 2, !(round % 2), (unsigned char)(round + 1));
    EXPECT(right[0] <= 8 && right[1] <= 8);
}

/* The events are there, and order nothing. */
static void context_events_lost(void) {
    void *context = use_device(0);
    int right = 0;
    for (int round = 0; round < 30; round++) right += context_round(context, 1, 1, (unsigned char)(round + 1));
    EXPECT(right <= 8);
}

/* A copy reads its source when it runs. */
static void late_sources(void) {
    use_device(0);
    void *stream = new_stream();
    Address x = new_memory(1);
    int early = 0;
    for (int round = 0; round < 20; round++) {
        volatile unsigned char value = 1;
        unsigned char out = 0;
        OK(cuMemcpyHtoDAsync_v2(x, (const void *)&value, 1, stream));
        value = 2;
        OK(cuMemcpyDtoHAsync_v2(&out, x, 1, stream));
        early += out == 1;
        OK(cuStreamSynchronize(stream));
        early += out == 1;
    }
    EXPECT(early <= 4);
    /* The synchronous copy does not. */
    for (int round = 0; round < 20; round++) {
        unsigned char value = 1, out = 0;
        OK(cuMemcpyHtoD_v2(x, &value, 1));
        value = 2;
        OK(cuMemcpyDtoH_v2(&out, x, 1));
        EQUAL(out, 1);
    }
}

/* The stream of null waits for blocking streams, and they for it; others do not. */
static void stream_of_null(void) {
    use_device(0);
    void *blocking;
    Address x = new_memory(4), y = new_memory(4);
    OK(cuStreamCreate(&blocking, 0));
    for (unsigned round = 1; round < 40; round++) {
        unsigned out = 0;
        OK(cuMemsetD32Async(x, round, 1, blocking));
        OK(cuMemcpyDtoD_v2(y, x, 4));
        OK(cuMemcpyDtoHAsync_v2(&out, y, 4, blocking));
        OK(cuStreamSynchronize(blocking));
        EQUAL(out, round);
    }
}

static void events(void) {
    use_device(0);
    void *stream = new_stream(), *other = new_stream(), *event = new_event(), *timed[2];
    Address x = new_memory(4);
    float milliseconds = -1;
    OK(cuEventQuery(event));
    OK(cuEventSynchronize(event));
    OK(cuStreamWaitEvent(stream, event, 0));
    for (unsigned round = 1; round < 20; round++) {
        unsigned out = 0;
        OK(cuMemsetD32Async(x, round, 1, stream));
        OK(cuEventRecord(event, stream));
        OK(cuStreamWaitEvent(other, event, 0));
        /* Recorded anew, which changes nothing for those that wait already. */
        OK(cuEventRecord(event, other));
        OK(cuMemcpyDtoHAsync_v2(&out, x, 4, other));
        OK(cuStreamSynchronize(other));
        EQUAL(out, round);
    }
    OK(cuEventCreate(&timed[0], 0));
    OK(cuEventCreate(&timed[1], 0));
    OK(cuEventRecord(timed[0], stream));
    OK(cuMemsetD32Async(x, 0, 1, stream));
    OK(cuEventRecord(timed[1], stream));
    OK(cuEventSynchronize(timed[1]));
    OK(cuEventElapsedTime_v2(&milliseconds, timed[0], timed[1]));
    EXPECT(milliseconds >= 0 && milliseconds < 10000);
    EQUAL(cuEventElapsedTime_v2(&milliseconds, event, timed[1]), CUDA_ERROR_INVALID_HANDLE);
}

static int from_function;
static volatile int go;
static void call_driver(void *event) { from_function = cuEventQuery(event); }
static void wait_for_go(void *unused) {
    (void)unused;
    while (!__atomic_load_n(&go, __ATOMIC_ACQUIRE)) usleep(100);
}

static void host_functions(void) {
    use_device(0);
    void *stream = new_stream(), *other = new_stream(), *event = new_event();
    OK(cuLaunchHostFunc(stream, call_driver, event));
    OK(cuStreamSynchronize(stream));
    EQUAL(from_function, CUDA_ERROR_NOT_PERMITTED);
    OK(cuLaunchHostFunc(stream, wait_for_go, NULL));
    OK(cuEventRecord(event, stream));
    EQUAL(cuEventQuery(event), CUDA_ERROR_NOT_READY);
    EQUAL(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    /* Other streams go on. */
    OK(cuMemsetD8Async(new_memory(8), 1, 8, other));
    OK(cuStreamSynchronize(other));
    __atomic_store_n(&go, 1, __ATOMIC_RELEASE);
    OK(cuEventSynchronize(event));
    OK(cuEventQuery(event));
}

static void refused(void) {
    void *context, *other, *stream, *event, *event_of_other, *module;
    int device, version;
    size_t free_bytes, total, less;
    Address x, end;
    const char *name;
    char byte = 0;
    EQUAL(cuDeviceGet(&device, 0), CUDA_ERROR_NOT_INITIALIZED);
    OK(cuDriverGetVersion(&version));
    EQUAL(version, 12050);
    EQUAL(cuInit(1), CUDA_ERROR_INVALID_VALUE);
    OK(cuInit(0));
    EQUAL(cuDeviceGet(&device, 3), CUDA_ERROR_INVALID_DEVICE);
    EQUAL(cuStreamCreate(&stream, 1), CUDA_ERROR_INVALID_CONTEXT);
    EQUAL(cuMemAlloc_v2(&x, 8), CUDA_ERROR_INVALID_CONTEXT);
    EQUAL(cuCtxSetCurrent(&byte), CUDA_ERROR_INVALID_CONTEXT);
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuDevicePrimaryCtxRetain(&other, 1));
    OK(cuCtxSetCurrent(other));
    event_of_other = new_event();
    OK(cuCtxSetCurrent(context));
    stream = new_stream(), event = new_event(), x = new_memory(BYTES);
    EQUAL(cuStreamCreate(&stream, 2), CUDA_ERROR_INVALID_VALUE);
    EQUAL(cuEventRecord(event_of_other, stream), CUDA_ERROR_INVALID_HANDLE);
    OK(cuStreamWaitEvent(stream, event_of_other, 0));
    EQUAL(cuCtxRecordEvent(context, event_of_other), CUDA_ERROR_INVALID_HANDLE);
    EQUAL(cuCtxRecordEvent(NULL, event), CUDA_ERROR_INVALID_CONTEXT);
    EQUAL(cuEventRecord(stream, stream), CUDA_ERROR_INVALID_HANDLE);
    /* Destroyed, and destroyed twice. */
    OK(cuEventDestroy_v2(event));
    EQUAL(cuEventDestroy_v2(event), CUDA_ERROR_INVALID_HANDLE);
    EQUAL(cuEventQuery(event), CUDA_ERROR_INVALID_HANDLE);
    EQUAL(cuEventRecord(event, stream), CUDA_ERROR_INVALID_HANDLE);
    OK(cuStreamDestroy_v2(stream));
    EQUAL(cuStreamDestroy_v2(stream), CUDA_ERROR_INVALID_HANDLE);
    EQUAL(cuStreamSynchronize(stream), CUDA_ERROR_INVALID_HANDLE);
    EQUAL(cuMemsetD8Async(x, 0, 1, stream), CUDA_ERROR_INVALID_HANDLE);
    EQUAL(standInLaunch(stream, "", NULL, NULL), CUDA_ERROR_INVALID_HANDLE);
    /* Memory. */
    EQUAL(cuMemAlloc_v2(&end, 0), CUDA_ERROR_INVALID_VALUE);
    EQUAL(cuMemAlloc_v2(&end, 2 << 20), CUDA_ERROR_OUT_OF_MEMORY);
    EQUAL(cuMemcpyHtoD_v2(x + BYTES, &byte, 1), CUDA_ERROR_INVALID_VALUE);
    EQUAL(cuMemcpyDtoH_v2(&byte, x + BYTES - 1, 2), CUDA_ERROR_INVALID_VALUE);
    EQUAL(cuMemcpyHtoD_v2(x - 1, &byte, 1), CUDA_ERROR_INVALID_VALUE);
    EQUAL(cuMemcpyHtoD_v2(x, (void *)x, 1), CUDA_ERROR_INVALID_VALUE);
    EQUAL(cuMemcpyHtoD_v2((Address)&byte, &byte, 1), CUDA_ERROR_INVALID_VALUE);
    EQUAL(cuMemFree_v2(x + 1), CUDA_ERROR_INVALID_VALUE);
    EQUAL(cuMemFree_v2((Address)&byte), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemGetInfo_v2(&free_bytes, &total));
    EQUAL(total, 1 << 20);
    EQUAL(total - free_bytes, BYTES);
    OK(cuMemFree_v2(x));
    EQUAL(cuMemFree_v2(x), CUDA_ERROR_INVALID_VALUE);
    EQUAL(cuMemFreeAsync(x, NULL), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemGetInfo_v2(&less, &total));
    EQUAL(less, 1 << 20);
    EQUAL(cuMemFreeHost(&byte), CUDA_ERROR_INVALID_VALUE);
    EQUAL(cuModuleLoadData(&module, "x"), CUDA_ERROR_NOT_SUPPORTED);
    OK(cuGetErrorName(CUDA_ERROR_NOT_READY, &name));
    EQUAL(strcmp(name, "CUDA_ERROR_NOT_READY"), 0);
    /* Contexts. */
    void *now;
    OK(cuCtxPushCurrent_v2(other));
    OK(cuCtxPopCurrent_v2(&now));
    EXPECT(now == other);
    OK(cuDevicePrimaryCtxRelease_v2(0));
    EQUAL(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT);
    EQUAL(cuMemAlloc_v2(&x, 8), CUDA_ERROR_CONTEXT_IS_DESTROYED);
    EQUAL(cuCtxSetCurrent(context), CUDA_ERROR_CONTEXT_IS_DESTROYED);
    OK(cuCtxSetCurrent(NULL));
    OK(cuCtxGetCurrent(&now));
    EXPECT(now == NULL);
}

static void no_devices(void) { EQUAL(cuInit(0), CUDA_ERROR_NO_DEVICE); }

static void *without_context(void *stream) {
    Address x;
    void *context;
    OK(cuCtxGetCurrent(&context));
    EXPECT(context == NULL);
    EQUAL(cuMemAlloc_v2(&x, 8), CUDA_ERROR_INVALID_CONTEXT);
    EQUAL(cuMemsetD8Async(0, 0, 0, NULL), CUDA_ERROR_INVALID_CONTEXT);
    OK(cuStreamSynchronize(stream));
    return NULL;
}

static void threads(void) {
    pthread_t thread;
    use_device(0);
    pthread_create(&thread, NULL, without_context, new_stream());
    pthread_join(thread, NULL);
}

/* A copy that comes after its memory was freed spoils the context, as on a GPU. */
static void freed_too_early(void) {
    void *context = use_device(0), *first = new_stream(), *second = new_stream(), *event = new_event();
    char out[8];
    Address x = new_memory(8), y;
    OK(cuLaunchHostFunc(first, wait_for_go, NULL));
    OK(cuMemcpyDtoHAsync_v2(out, x, 8, first));
    OK(cuMemFreeAsync(x, second));
    EQUAL(cuMemcpyDtoH_v2(out, x, 8), CUDA_ERROR_INVALID_VALUE);
    OK(cuStreamSynchronize(second));
    OK(cuEventRecord(event, first));
    __atomic_store_n(&go, 1, __ATOMIC_RELEASE);
    EQUAL(cuStreamSynchronize(first), CUDA_ERROR_ILLEGAL_ADDRESS);
    EQUAL(cuEventQuery(event), CUDA_ERROR_ILLEGAL_ADDRESS);
    EQUAL(cuMemAlloc_v2(&y, 8), CUDA_ERROR_ILLEGAL_ADDRESS);
    EQUAL(cuCtxRecordEvent(context, event), CUDA_ERROR_ILLEGAL_ADDRESS);
}

/* Freed in order it is right. */
static void freed_in_order(void) {
    use_device(0);
    void *first = new_stream(), *second = new_stream(), *event = new_event();
    for (int round = 0; round < 30; round++) {
        unsigned char out[8] = {0};
        Address x;
        OK(cuMemAllocAsync(&x, 8, first));
        OK(cuMemsetD8Async(x, 7, 8, first));
        OK(cuEventRecord(event, first));
        OK(cuStreamWaitEvent(second, event, 0));
        OK(cuMemcpyDtoHAsync_v2(out, x, 8, second));
        OK(cuMemFreeAsync(x, second));
        OK(cuStreamSynchronize(second));
        EQUAL(out[7], 7);
    }
    size_t free_bytes, total;
    OK(cuMemGetInfo_v2(&free_bytes, &total));
    EQUAL(free_bytes, total);
}

static void addresses(void) {
    use_device(0);
    Address x = new_memory(8);
    char *host = standInHost(x);
    unsigned char out = 0;
    EXPECT(host != NULL && (unsigned char)host[0] == 0xa5 && standInHost(x + 8) == NULL);
    host[3] = 9;
    OK(cuMemcpyDtoH_v2(&out, x + 3, 1));
    EQUAL(out, 9);
    /* A sanitizer would report what is meant to happen. */
    if (getenv("CHECK_SANITIZED") != NULL) return;
    pid_t child = fork();
    if (child == 0) _exit(*(volatile char *)x);
    int status;
    waitpid(child, &status, 0);
    EXPECT(WIFSIGNALED(status));
}

/* Rows with gaps, as CubeCL's pitched tensors. */
static void rows(void) {
    struct {
        size_t from_x, from_y;
        unsigned from_type;
        const void *from_host;
        Address from_device;
        void *from_array;
        size_t from_pitch, to_x, to_y;
        unsigned to_type;
        void *to_host;
        Address to_device;
        void *to_array;
        size_t to_pitch, width, height;
    } copy = {.from_type = 1, .to_type = 2, .width = 3, .height = 4, .to_pitch = 512, .from_pitch = 3};
    unsigned char in[12], out[12] = {0};
    use_device(0);
    void *stream = new_stream();
    for (int index = 0; index < 12; index++) in[index] = (unsigned char)index;
    copy.from_host = in;
    copy.to_device = new_memory(3 * 512 + 3);
    OK(cuMemcpy2DAsync_v2(&copy, stream));
    copy.from_type = 2, copy.to_type = 1, copy.to_host = out;
    copy.from_device = copy.to_device, copy.from_pitch = 512, copy.to_pitch = 3;
    OK(cuMemcpy2DAsync_v2(&copy, stream));
    OK(cuStreamSynchronize(stream));
    EQUAL(memcmp(in, out, 12), 0);
    copy.height = 5;
    EQUAL(cuMemcpy2DAsync_v2(&copy, stream), CUDA_ERROR_INVALID_VALUE);
}

static void calls_and_log(void) {
    char line[256];
    int synchronized = 0, ran = 0;
    use_device(0);
    void *stream = new_stream();
    for (int index = 0; index < 3; index++) OK(cuStreamSynchronize(stream));
    OK(cuMemsetD8Async(new_memory(8), 0, 8, stream));
    OK(cuStreamSynchronize(stream));
    EQUAL(standInCalls("cuStreamSynchronize"), 4);
    EQUAL(standInCalls("cuCtxSynchronize"), 0);
    FILE *file = fopen(getenv("STAND_IN_LOG"), "r");
    EXPECT(file != NULL);
    while (fgets(line, sizeof line, file) != NULL) {
        synchronized += strstr(line, "call\tcuStreamSynchronize") != NULL;
        ran += strstr(line, "run\tcopy") != NULL || strstr(line, "end\tcopy") != NULL;
    }
    fclose(file);
    unlink(getenv("STAND_IN_LOG"));
    EQUAL(synchronized, 4);
    EQUAL(ran, 2);
}

/* The names that callers look for, and whether they name one library. */
static void names(void) {
    static const char *const functions[] = {
        "cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString", "cuDeviceGet", "cuDeviceGetCount",
        "cuDeviceGetName", "cuDeviceGetAttribute", "cuDeviceGetPCIBusId", "cuDeviceGetUuid_v2", "cuDeviceTotalMem_v2",
        "cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2", "cuCtxSetCurrent", "cuCtxGetCurrent",
        "cuCtxSynchronize", "cuCtxGetStreamPriorityRange", "cuCtxRecordEvent", "cuCtxWaitEvent", "cuStreamCreate",
        "cuStreamCreateWithPriority", "cuStreamDestroy_v2", "cuStreamSynchronize", "cuStreamQuery", "cuStreamWaitEvent",
        "cuEventCreate", "cuEventDestroy_v2", "cuEventRecord", "cuEventQuery", "cuEventSynchronize",
        "cuEventElapsedTime_v2", "cuLaunchHostFunc", "cuMemAlloc_v2", "cuMemFree_v2", "cuMemAllocAsync", "cuMemFreeAsync",
        "cuMemAllocHost_v2", "cuMemFreeHost", "cuMemGetInfo_v2", "cuMemcpyHtoD_v2", "cuMemcpyDtoH_v2",
        "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoDAsync_v2", "cuMemcpy2DAsync_v2", "cuModuleLoadData"};
    void *driver = dlopen("libcuda.so.1", RTLD_NOW), *lt = dlopen("libcublasLt.so.12", RTLD_NOW);
    EXPECT(driver != NULL && driver == dlopen("libcuda.so", RTLD_NOW));
    EXPECT(lt != NULL && lt == dlopen("libcublasLt.so", RTLD_NOW));
    EXPECT(dlopen("libnccl.so.2", RTLD_NOW) != NULL);
    for (size_t index = 0; index < sizeof functions / sizeof *functions; index++)
        EXPECT(dlsym(driver, functions[index]) != NULL);
}

/* The end of a context with work in its queues leaves no memory, and its successor works. */
static void context_ends(void) {
    for (int round = 0; round < 20; round++) {
        void *stream, *event;
        size_t free_bytes, total;
        use_device(0);
        stream = new_stream(), event = new_event();
        Address x = new_memory(BYTES);
        for (int index = 0; index < 5; index++) OK(cuMemsetD8Async(x, 1, BYTES, stream));
        OK(cuEventRecord(event, stream));
        OK(cuDevicePrimaryCtxRelease_v2(0));
        EQUAL(cuEventQuery(event), CUDA_ERROR_INVALID_HANDLE);
        use_device(0);
        sleep_ms(20);
        OK(cuMemGetInfo_v2(&free_bytes, &total));
        EQUAL(free_bytes, total);
        OK(cuDevicePrimaryCtxRelease_v2(0));
        OK(cuCtxSetCurrent(NULL));
    }
}

#define JITTER "STAND_IN_JITTER=11 STAND_IN_JITTER_US=300"
#define SLOW "STAND_IN_JITTER=11 STAND_IN_JITTER_US=2000"

const struct Case cuda_cases[] = {
    {"cuda: with events all is in order", order_with_events, JITTER, 1, 0, 0},
    {"cuda: without events it is not", order_without_events, SLOW, 1, 0, 1},
    {"cuda: events of the context", context_events, JITTER, 1, 0, 0},
    {"cuda: events of the context missing", context_events_missing, SLOW, 1, 0, 1},
    {"cuda: fault record", context_events_lost, SLOW " STAND_IN_CUDA_FAULT=record", 1, 0, 1},
    {"cuda: fault wait", context_events_lost, SLOW " STAND_IN_CUDA_FAULT=wait", 1, 0, 1},
    {"cuda: sources are read late", late_sources, SLOW, 1, 0, 1},
    {"cuda: the stream of null", stream_of_null, JITTER, 1, 0, 0},
    {"cuda: events", events, JITTER, 1, 0, 0},
    {"cuda: functions of the host", host_functions, "", 1, 0, 0},
    {"cuda: wrong use is refused", refused, "STAND_IN_DRIVER=12050 STAND_IN_DEVICES=2 STAND_IN_MEMORY=1048576", 1, 0, 0},
    {"cuda: no devices", no_devices, "STAND_IN_DEVICES=0", 1, 0, 0},
    {"cuda: a context is of a thread", threads, "", 1, 0, 0},
    {"cuda: memory freed too early", freed_too_early, "", 1, 0, 0},
    {"cuda: memory freed in order", freed_in_order, JITTER, 1, 0, 0},
    {"cuda: addresses cannot be followed", addresses, "", 1, 0, 0},
    {"cuda: rows", rows, "", 1, 0, 0},
    {"cuda: calls and log", calls_and_log, "STAND_IN_LOG=check.log", 1, 0, 0},
    {"cuda: names", names, "LD_LIBRARY_PATH=.", 1, 0, 0},
    {"cuda: the end of a context", context_ends, JITTER, 1, 0, 0},
    {NULL, NULL, NULL, 0, 0, 0},
};
