/* Memory of the stand-in driver: the host's, under addresses that the host cannot follow.
 *
 * An address of the device is the host's with one bit set that no address of a process has, so that code which reads
 * device memory directly is stopped here as it would be beside a GPU. New memory holds 0xa5. A copy reads its source when
 * the stream comes to it, pageable or not; NVIDIA's stages some pageable sources earlier, and none should count on it. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "cuda.h"

static const uint64_t DEVICE_BIT = 1ULL << 60;
/* Bytes of new memory that are filled. */
static const size_t FILLED = 1 << 20;

/* An allocation of a device, or of pinned host memory. */
struct Memory {
    char *host;
    size_t bytes;
    struct Context *context;
    int pinned_host;
    /* Operations that use it now. */
    int pins;
    /* No submission may name it any more; it goes with the last pin once it is `freed`. */
    int leaving, freed;
    struct Memory *next;
};

static struct Memory *all;
static size_t used[DEVICES];

static int of_device(uint64_t address) { return (address & DEVICE_BIT) != 0; }
static char *host_of(uint64_t address) { return (char *)(address & ~DEVICE_BIT); }
static uint64_t address_of(const struct Memory *memory) { return (uint64_t)memory->host | DEVICE_BIT; }

/* The allocation that holds all these bytes. */
static struct Memory *find(uint64_t address, size_t bytes) {
    const char *at = host_of(address);
    if (!of_device(address)) return NULL;
    /* The end of one allocation may be the start of another. */
    if (bytes == 0) bytes = 1;
    for (struct Memory *memory = all; memory != NULL; memory = memory->next)
        if (!memory->pinned_host && !memory->freed && at >= memory->host && at < memory->host + memory->bytes &&
            bytes <= (size_t)(memory->host + memory->bytes - at))
            return memory;
    return NULL;
}

static size_t capacity(void) { return (size_t)standInNumber("STAND_IN_MEMORY", 80LL << 30); }

static struct Memory *memory_new(struct Context *context, size_t bytes, int pinned_host) {
    if (!pinned_host && (bytes > capacity() || used[context->device] > capacity() - bytes)) return NULL;
    struct Memory *memory = calloc(1, sizeof *memory);
    if (memory == NULL) return NULL;
    /* Pages are taken from the system as they are touched: a large pool costs nothing. */
    memory->host = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory->host == MAP_FAILED) {
        free(memory);
        return NULL;
    }
    memset(memory->host, 0xa5, bytes < FILLED ? bytes : FILLED);
    memory->bytes = bytes;
    memory->context = context;
    memory->pinned_host = pinned_host;
    memory->next = all;
    all = memory;
    if (!pinned_host) used[context->device] += bytes;
    return memory;
}

static void memory_free(struct Memory *memory) {
    memory->leaving = memory->freed = 1;
    if (memory->pins > 0) return;
    for (struct Memory **at = &all; *at != NULL; at = &(*at)->next)
        if (*at == memory) {
            *at = memory->next;
            break;
        }
    if (!memory->pinned_host) used[memory->context->device] -= memory->bytes;
    munmap(memory->host, memory->bytes);
    free(memory);
}

void memory_release(struct Context *context) {
    for (struct Memory *memory = all, *next; memory != NULL; memory = next) {
        next = memory->next;
        if (memory->context == context && !memory->freed) memory_free(memory);
    }
}

static struct Memory *pin(uint64_t address, size_t bytes) {
    struct Memory *memory = find(address, bytes);
    if (memory != NULL) memory->pins++;
    return memory;
}

static void unpin(struct Memory *memory) {
    if (memory != NULL && --memory->pins == 0 && memory->freed) memory_free(memory);
}

void *standInPin(uint64_t address, size_t bytes) {
    pthread_mutex_lock(&driver_lock);
    void *host = pin(address, bytes) != NULL ? host_of(address) : NULL;
    pthread_mutex_unlock(&driver_lock);
    return host;
}

void standInUnpin(uint64_t address) {
    const char *at = host_of(address);
    pthread_mutex_lock(&driver_lock);
    /* What is freed while it is pinned is still listed, and its range is no other's. */
    for (struct Memory *memory = all; memory != NULL; memory = memory->next)
        if (memory->pins > 0 && at >= memory->host && at < memory->host + memory->bytes) {
            unpin(memory);
            break;
        }
    pthread_mutex_unlock(&driver_lock);
}

int standInHolds(uint64_t address, size_t bytes, int device) {
    pthread_mutex_lock(&driver_lock);
    struct Memory *memory = find(address, bytes);
    int holds = memory != NULL && !memory->leaving && memory->context->device == device;
    pthread_mutex_unlock(&driver_lock);
    return holds;
}

void *standInHost(uint64_t address) {
    pthread_mutex_lock(&driver_lock);
    void *host = find(address, 0) != NULL ? host_of(address) : NULL;
    pthread_mutex_unlock(&driver_lock);
    return host;
}

/* Allocations. */

EXPORT CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    struct Context *context;
    ENTER(NULL);
    CHECK(free_bytes != NULL && total != NULL, CUDA_ERROR_INVALID_VALUE);
    TRY(current(&context));
    *total = capacity();
    *free_bytes = *total - used[context->device];
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    ENTER(NULL);
    CHECK(bytes != NULL, CUDA_ERROR_INVALID_VALUE);
    CHECK(device >= 0 && device < DEVICES, CUDA_ERROR_INVALID_DEVICE);
    *bytes = capacity();
    return leave(CUDA_SUCCESS);
}

static CUresult allocate(struct Context *context, CUdeviceptr *address, size_t bytes) {
    if (address == NULL || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    struct Memory *memory = memory_new(context, bytes, 0);
    if (memory == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    *address = address_of(memory);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
    struct Context *context;
    ENTER(NULL);
    TRY(current(&context));
    return leave(allocate(context, address, bytes));
}

EXPORT CUresult cuMemAllocAsync(CUdeviceptr *address, size_t bytes, CUstream handle) {
    struct Stream *stream;
    ENTER(handle);
    TRY(stream_of(handle, &stream));
    return leave(allocate(stream->context, address, bytes));
}

/* An allocation by its own address. */
static struct Memory *allocation(CUdeviceptr address) {
    struct Memory *memory = find(address, 0);
    return memory != NULL && !memory->leaving && address_of(memory) == address ? memory : NULL;
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr address) {
    struct Context *context;
    struct Memory *memory;
    ENTER(NULL);
    if (address == 0) return leave(CUDA_SUCCESS);
    TRY(current(&context));
    CHECK((memory = allocation(address)) != NULL, CUDA_ERROR_INVALID_VALUE);
    /* As the driver: waits for all of the context. */
    memory->leaving = 1;
    memory->pins++;
    struct Mark *mark = context_mark(memory->context);
    mark_await(mark);
    mark_drop(mark);
    if (!memory->freed) memory_free(memory);
    unpin(memory);
    return leave(CUDA_SUCCESS);
}

static void run_free(void *argument, int cancelled) {
    struct Memory *memory = argument;
    pthread_mutex_lock(&driver_lock);
    /* The submission's own pin is one. */
    if (memory->pins > 1 && !cancelled) {
        fprintf(stderr, "stand-in: memory was freed while another stream used it\n");
        memory->context->error = CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    if (!memory->freed) memory_free(memory);
    unpin(memory);
    pthread_mutex_unlock(&driver_lock);
}

EXPORT CUresult cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
    struct Stream *stream;
    struct Memory *memory;
    ENTER(handle);
    TRY(stream_of(handle, &stream));
    CHECK((memory = allocation(address)) != NULL, CUDA_ERROR_INVALID_VALUE);
    memory->leaving = 1;
    memory->pins++;
    submit_work(stream, "free", run_free, memory);
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    struct Context *context;
    (void)flags;
    ENTER(NULL);
    CHECK(address != NULL && bytes > 0, CUDA_ERROR_INVALID_VALUE);
    TRY(current(&context));
    struct Memory *memory = memory_new(context, bytes, 1);
    CHECK(memory != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    *address = memory->host;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult cuMemAllocHost_v2(void **address, size_t bytes) { return cuMemHostAlloc(address, bytes, 0); }

EXPORT CUresult cuMemFreeHost(void *address) {
    ENTER(NULL);
    for (struct Memory *memory = all; memory != NULL; memory = memory->next)
        if (memory->pinned_host && memory->host == address) {
            memory_free(memory);
            return leave(CUDA_SUCCESS);
        }
    return leave(CUDA_ERROR_INVALID_VALUE);
}

/* Copies. */

/* One side of a copy: rows of the device's memory or of the host's. */
struct Side {
    uint64_t address;
    size_t pitch;
    int device;
};

struct Copy {
    struct Side to, from;
    size_t width, height;
    /* A source that was read at the call. */
    void *staged;
    /* Without a source: what memory is filled with, of 1, 2 or 4 bytes. */
    unsigned value, value_bytes;
    struct Context *context;
};

static size_t extent(const struct Side *side, const struct Copy *copy) {
    return side->pitch * (copy->height - 1) + copy->width;
}

static void fill(char *row, const struct Copy *copy) {
    for (size_t at = 0; at < copy->width; at += copy->value_bytes) memcpy(row + at, &copy->value, copy->value_bytes);
}

static void run_copy(void *argument, int cancelled) {
    struct Copy *copy = argument;
    struct Memory *to = NULL, *from = NULL;
    pthread_mutex_lock(&driver_lock);
    if (copy->to.device) to = pin(copy->to.address, extent(&copy->to, copy));
    if (copy->from.device) from = pin(copy->from.address, extent(&copy->from, copy));
    int there = (to != NULL || !copy->to.device) && (from != NULL || !copy->from.device);
    if (!there && !cancelled) {
        fprintf(stderr, "stand-in: a copy ran after its memory was freed\n");
        copy->context->error = CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    pthread_mutex_unlock(&driver_lock);
    for (size_t row = 0; row < copy->height && there && !cancelled; row++) {
        char *into = host_of(copy->to.address) + row * copy->to.pitch;
        if (copy->value_bytes > 0) fill(into, copy);
        else memmove(into, host_of(copy->from.address) + row * copy->from.pitch, copy->width);
    }
    pthread_mutex_lock(&driver_lock);
    unpin(to);
    unpin(from);
    pthread_mutex_unlock(&driver_lock);
    free(copy->staged);
    free(copy);
}

static CUresult side_check(const struct Side *side, const struct Copy *copy) {
    if (!side->device) return side->address == 0 || of_device(side->address) ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
    struct Memory *memory = find(side->address, extent(side, copy));
    return memory == NULL || memory->leaving ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

/* Wants the lock. */
static CUresult submit_copy(struct Stream *stream, struct Copy copy) {
    if (copy.width == 0 || copy.height == 0) return CUDA_SUCCESS;
    CUresult result = side_check(&copy.to, &copy);
    if (result == CUDA_SUCCESS && copy.value_bytes == 0) result = side_check(&copy.from, &copy);
    if (result != CUDA_SUCCESS) return result;
    copy.context = stream->context;
    struct Copy *made = malloc(sizeof *made);
    if (made == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    *made = copy;
    submit_work(stream, "copy", run_copy, made);
    return CUDA_SUCCESS;
}

static struct Copy plain(uint64_t to, int to_device, uint64_t from, int from_device, size_t bytes) {
    return (struct Copy){
        .to = {to, bytes, to_device}, .from = {from, bytes, from_device}, .width = bytes, .height = 1};
}

static struct Copy filling(uint64_t to, unsigned value, unsigned value_bytes, size_t count) {
    struct Copy copy = plain(to, 1, 0, 0, count * value_bytes);
    copy.value = value;
    copy.value_bytes = value_bytes;
    return copy;
}

static CUresult on_stream(const char *function, CUstream handle, struct Copy copy) {
    struct Stream *stream;
    CUresult result = enter(function, handle);
    if (result != CUDA_SUCCESS) return result;
    TRY(stream_of(handle, &stream));
    return leave(submit_copy(stream, copy));
}

EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    return on_stream(__func__, stream, plain(to, 1, (uint64_t)from, 0, bytes));
}

EXPORT CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return on_stream(__func__, stream, plain((uint64_t)to, 0, from, 1, bytes));
}

EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return on_stream(__func__, stream, plain(to, 1, from, 1, bytes));
}

/* These are on the stream of null, and return before they have run: so does the driver's. */

EXPORT CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return on_stream(__func__, NULL, plain(to, 1, from, 1, bytes));
}

EXPORT CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
    return on_stream(__func__, NULL, filling(to, value, 1, count));
}

EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
    return on_stream(__func__, stream, filling(to, value, 1, count));
}

EXPORT CUresult cuMemsetD16_v2(CUdeviceptr to, unsigned short value, size_t count) {
    return on_stream(__func__, NULL, filling(to, value, 2, count));
}

EXPORT CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream stream) {
    return on_stream(__func__, stream, filling(to, value, 2, count));
}

EXPORT CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) {
    return on_stream(__func__, NULL, filling(to, value, 4, count));
}

EXPORT CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
    return on_stream(__func__, stream, filling(to, value, 4, count));
}

/* Waits for the stream of null, takes the source, and returns: the copy itself may come later, as the driver's from
 * pageable memory. */
EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) {
    struct Stream *stream;
    ENTER(NULL);
    TRY(stream_of(NULL, &stream));
    struct Copy copy = plain(to, 1, (uint64_t)from, 0, bytes);
    if (bytes == 0) return leave(CUDA_SUCCESS);
    TRY(side_check(&copy.to, &copy));
    TRY(side_check(&copy.from, &copy));
    struct Mark *mark = stream_mark(stream);
    mark_await(mark);
    mark_drop(mark);
    copy.staged = malloc(bytes);
    CHECK(copy.staged != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    memcpy(copy.staged, from, bytes);
    copy.from.address = (uint64_t)copy.staged;
    /* The context may have ended meanwhile. */
    CUresult result = stream_of(NULL, &stream);
    if (result == CUDA_SUCCESS) result = submit_copy(stream, copy);
    if (result != CUDA_SUCCESS) free(copy.staged);
    return leave(result);
}

EXPORT CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) {
    struct Stream *stream;
    ENTER(NULL);
    TRY(stream_of(NULL, &stream));
    TRY(submit_copy(stream, plain((uint64_t)to, 0, from, 1, bytes)));
    struct Context *context = stream->context;
    struct Mark *mark = stream_mark(stream);
    mark_await(mark);
    mark_drop(mark);
    return leave(context->error);
}

/* `CUDA_MEMCPY2D`. */
struct Rows {
    size_t from_x, from_y;
    unsigned from_type;
    const void *from_host;
    CUdeviceptr from_device;
    void *from_array;
    size_t from_pitch;
    size_t to_x, to_y;
    unsigned to_type;
    void *to_host;
    CUdeviceptr to_device;
    void *to_array;
    size_t to_pitch;
    size_t width, height;
};

static CUresult side_of(unsigned type, const void *host, CUdeviceptr device, size_t pitch, size_t x, size_t y,
                        size_t width, struct Side *side) {
    enum { HOST = 1, DEVICE = 2 };
    if (type != HOST && type != DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
    /* No pitch: rows without gaps. */
    if (pitch == 0) pitch = width;
    if (pitch < width + x) return CUDA_ERROR_INVALID_VALUE;
    uint64_t address = type == DEVICE ? device : (uint64_t)host;
    *side = (struct Side){address == 0 ? 0 : address + y * pitch + x, pitch, type == DEVICE};
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemcpy2DAsync_v2(const struct Rows *rows, CUstream handle) {
    struct Stream *stream;
    ENTER(handle);
    CHECK(rows != NULL, CUDA_ERROR_INVALID_VALUE);
    TRY(stream_of(handle, &stream));
    struct Copy copy = {.width = rows->width, .height = rows->height};
    TRY(side_of(rows->to_type, rows->to_host, rows->to_device, rows->to_pitch, rows->to_x, rows->to_y, rows->width,
                &copy.to));
    TRY(side_of(rows->from_type, rows->from_host, rows->from_device, rows->from_pitch, rows->from_x, rows->from_y,
                rows->width, &copy.from));
    return leave(submit_copy(stream, copy));
}
