/* Checks of the stand-in for NCCL. Rank and device are the same number. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

enum { UINT8 = 1, FLOAT32 = 7, TYPES = 12 };
static const size_t TYPE_BYTES[TYPES] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};

static void *comm, *stream;

/* Waits until a call is under way, or for its error. */
static int settled(void) {
    int state = NCCL_IN_PROGRESS;
    while (state == NCCL_IN_PROGRESS) {
        OK(ncclCommGetAsyncError(comm, &state));
        usleep(50);
    }
    return state;
}

/* The error that comes within so many milliseconds, or what there is then. */
static int error_within(int milliseconds) {
    int state = NCCL_SUCCESS;
    long long end = now_us() + milliseconds * 1000LL;
    while ((state == NCCL_SUCCESS || state == NCCL_IN_PROGRESS) && now_us() < end) {
        OK(ncclCommGetAsyncError(comm, &state));
        usleep(100);
    }
    return state;
}

static int start_joining(int own, int of, int blocking) {
    struct NcclConfig config = {sizeof config, 0xcafebeef, 21400, blocking, 0};
    return ncclCommInitRankConfig(&comm, of, id, own, &config);
}

static void join(void) {
    use_device(rank);
    stream = new_stream();
    EQUAL(start_joining(rank, ranks, 0), NCCL_IN_PROGRESS);
    EQUAL(settled(), NCCL_SUCCESS);
}

static void leave(void) {
    EQUAL(ncclCommFinalize(comm), NCCL_IN_PROGRESS);
    EQUAL(settled(), NCCL_SUCCESS);
    OK(ncclCommDestroy(comm));
}

static unsigned char value_of(int from, int to, size_t index, int salt) {
    return (unsigned char)(from * 31 + to * 7 + (int)(index % 251) * 3 + salt);
}

static void upload(Address to, size_t bytes, int from, int receiver, int salt) {
    unsigned char *host = malloc(bytes + 1);
    for (size_t index = 0; index < bytes; index++) host[index] = value_of(from, receiver, index, salt);
    OK(cuMemcpyHtoDAsync_v2(to, host, bytes, stream));
    OK(cuStreamSynchronize(stream));
    free(host);
}

/* How many bytes are not those of the sender. */
static size_t wrong_bytes(Address at, size_t bytes, int from, int receiver, int salt) {
    unsigned char *host = malloc(bytes + 1);
    size_t wrong = 0;
    OK(cuMemcpyDtoHAsync_v2(host, at, bytes, stream));
    OK(cuStreamSynchronize(stream));
    for (size_t index = 0; index < bytes; index++) wrong += host[index] != value_of(from, receiver, index, salt);
    free(host);
    return wrong;
}

/* Ends a group, alone or not, and waits until it is on the stream. */
static void end_group(void) {
    EQUAL(ncclGroupEnd(), NCCL_IN_PROGRESS);
    EQUAL(settled(), NCCL_SUCCESS);
}

static void gather(Address own, Address all, size_t count, int type, int salt) {
    size_t bytes = count * TYPE_BYTES[type];
    if (bytes > 0) upload(own, bytes, rank, 0, salt);
    OK(ncclGroupStart());
    OK(ncclAllGather(own, all, count, type, comm, stream));
    end_group();
    for (int from = 0; from < ranks && bytes > 0; from++)
        EQUAL(wrong_bytes(all + (Address)from * bytes, bytes, from, 0, salt), 0);
}

static void all_types(void) {
    static const size_t counts[] = {0, 1, 7, 1000, 70001};
    size_t most = 70001 * 8;
    join();
    Address own = new_memory(most), all = new_memory(most * (size_t)ranks);
    for (int type = 0; type < TYPES; type++)
        for (int size = 0; size < (type == UINT8 || type == 9 ? 5 : 4); size++) {
            size_t count = counts[size], bytes = count * TYPE_BYTES[type];
            gather(own, all, count, type, size);
            /* In place. */
            gather(all + (Address)rank * bytes, all, count, type, size + 50);
            int root = (type + size) % ranks;
            if (bytes > 0) upload(own, bytes, rank, 1, size);
            OK(ncclGroupStart());
            OK(ncclBroadcast(own, size % 2 ? own : all, count, type, root, comm, stream));
            end_group();
            EQUAL(wrong_bytes(size % 2 ? own : all, bytes, root, 1, size), 0);
        }
    leave();
    /* Nothing holds the memory any more. */
    size_t free_bytes, total;
    OK(cuMemFree_v2(own));
    OK(cuMemFree_v2(all));
    OK(cuMemGetInfo_v2(&free_bytes, &total));
    EQUAL(free_bytes, total);
}

/* To all ranks at once, this one among them, of sizes that differ. */
static void exchange(Address out, Address in, size_t unit, int salt) {
    for (int to = 0; to < ranks; to++)
        upload(out + (Address)to * unit * 8, unit * (size_t)(1 + (rank + to) % 8), rank, to, salt);
    OK(ncclGroupStart());
    for (int other = 0; other < ranks; other++) {
        size_t bytes = unit * (size_t)(1 + (rank + other) % 8);
        OK(ncclSend(out + (Address)other * unit * 8, bytes, UINT8, other, comm, stream));
        OK(ncclRecv(in + (Address)other * unit * 8, bytes, UINT8, other, comm, stream));
    }
    end_group();
    for (int from = 0; from < ranks; from++)
        EQUAL(wrong_bytes(in + (Address)from * unit * 8, unit * (size_t)(1 + (rank + from) % 8), from, rank, salt), 0);
}

static void exchanges(void) {
    join();
    size_t unit = 30000;
    Address out = new_memory(unit * 8 * (size_t)ranks), in = new_memory(unit * 8 * (size_t)ranks);
    for (int round = 0; round < 10; round++) exchange(out, in, round % 2 ? unit : 5, round);
    /* Alone: one sends, the other receives, no group. */
    for (int round = 0; round < 6; round++) {
        int from = round % ranks, to = (round + 1) % ranks;
        if (rank == from) {
            upload(out, 100, rank, to, round);
            EQUAL(ncclSend(out, 100, UINT8, to, comm, stream), NCCL_IN_PROGRESS);
            EQUAL(settled(), NCCL_SUCCESS);
        } else if (rank == to) {
            EQUAL(ncclRecv(in, 100, UINT8, from, comm, stream), NCCL_IN_PROGRESS);
            EQUAL(settled(), NCCL_SUCCESS);
            EQUAL(wrong_bytes(in, 100, from, to, round), 0);
        }
    }
    /* Two receives in two groups that a sender has in one, and a collective beside them. */
    Address all = new_memory(64 * (size_t)ranks);
    upload(out, 64, rank, 0, 0);
    OK(ncclGroupStart());
    OK(ncclSend(out, 32, UINT8, (rank + 1) % ranks, comm, stream));
    OK(ncclAllGather(out, all, 64, UINT8, comm, stream));
    OK(ncclRecv(in, 32, UINT8, (rank + ranks - 1) % ranks, comm, stream));
    end_group();
    EQUAL(wrong_bytes(all + (Address)((ranks - 1) * 64), 64, ranks - 1, 0, 0), 0);
    EQUAL(wrong_bytes(in, 32, (rank + ranks - 1) % ranks, 0, 0), 0);
    leave();
}

static void many_rounds(void) {
    join();
    Address out = new_memory(64 * 8 * 8), in = new_memory(64 * 8 * 8);
    int files = 0;
    size_t used = 0;
    for (int round = 0; round < 200; round++) {
        exchange(out, in, 64, round);
        if (round == 50) files = open_files(), used = mallinfo2().uordblks;
    }
    EQUAL(open_files(), files);
    /* A sanitizer has an allocator of its own. */
    if (getenv("CHECK_SANITIZED") == NULL) EXPECT(mallinfo2().uordblks < used + 2000);
    leave();
}

/* Communicators that come and go leave nothing open. */
static void many_communicators(void) {
    int state, files = 0;
    use_device(rank);
    stream = new_stream();
    Address own = new_memory(64), all = new_memory(64 * 8);
    for (int round = 0; round < 12; round++) {
        memcpy(id.bytes + 8, &round, sizeof round);
        EQUAL(start_joining(rank, ranks, 0), NCCL_IN_PROGRESS);
        EQUAL(settled(), NCCL_SUCCESS);
        gather(own, all, 64, UINT8, round);
        if (round % 3 == 2) OK(ncclCommAbort(comm));
        else leave();
        EQUAL(ncclCommGetAsyncError(comm, &state), NCCL_ARGUMENT);
        /* What the thread of a communicator closes, it closes soon. */
        for (int wait = 0; wait < 400 && round > 0 && open_files() != files; wait++) sleep_ms(5);
        if (round == 0) sleep_ms(200);
        if (round == 0) files = open_files();
        EQUAL(open_files(), files);
    }
}

static void blocking(void) {
    use_device(rank);
    stream = new_stream();
    OK(start_joining(rank, ranks, 1));
    Address own = new_memory(64), all = new_memory(64 * (size_t)ranks);
    for (int round = 0; round < 10; round++) {
        upload(own, 64, rank, 0, round);
        OK(ncclAllGather(own, all, 64, UINT8, comm, stream));
        for (int from = 0; from < ranks; from++) EQUAL(wrong_bytes(all + (Address)from * 64, 64, from, 0, round), 0);
    }
    OK(ncclCommFinalize(comm));
    OK(ncclCommDestroy(comm));
}

/* Ranks as threads of one process. */
static void *one_thread(void *argument) {
    int own = (int)(intptr_t)argument;
    void *mine, *work;
    struct NcclConfig config = {sizeof config, 0xcafebeef, 21400, 1, 0};
    unsigned char got[2];
    use_device(own);
    work = new_stream();
    OK(ncclCommInitRankConfig(&mine, 2, id, own, &config));
    Address all = new_memory(2);
    for (int round = 0; round < 20; round++) {
        OK(cuMemsetD8Async(all + (Address)own, (unsigned char)(round + own), 1, work));
        OK(ncclAllGather(all + (Address)own, all, 1, UINT8, mine, work));
        OK(cuMemcpyDtoHAsync_v2(got, all, 2, work));
        OK(cuStreamSynchronize(work));
        EXPECT(got[0] == round && got[1] == round + 1);
    }
    OK(ncclCommDestroy(mine));
    return NULL;
}

static void threads(void) {
    pthread_t other;
    pthread_create(&other, NULL, one_thread, (void *)1);
    one_thread(NULL);
    pthread_join(other, NULL);
}

/* An event before the communicator has settled does not wait for the group. */
static int early_or_late(int early, int rounds) {
    int right = 0;
    join();
    void *event = new_event();
    Address own = new_memory(64), all = new_memory(64 * (size_t)ranks);
    for (int round = 0; round < rounds; round++) {
        unsigned char out[64];
        upload(own, 64, rank, 0, round);
        OK(ncclGroupStart());
        OK(ncclAllGather(own, all, 64, UINT8, comm, stream));
        EQUAL(ncclGroupEnd(), NCCL_IN_PROGRESS);
        if (!early) EQUAL(settled(), NCCL_SUCCESS);
        OK(cuEventRecord(event, stream));
        while (cuEventQuery(event) == CUDA_ERROR_NOT_READY) usleep(50);
        memcpy(out, standInHost(all + (Address)((rank + 1) % ranks) * 64), 64);
        right += out[63] == value_of((rank + 1) % ranks, 0, 63, round);
        EQUAL(settled(), NCCL_SUCCESS);
        OK(cuStreamSynchronize(stream));
    }
    leave();
    return right;
}

static void event_after_settling(void) { EQUAL(early_or_late(0, 30), 30); }
static void event_before_settling(void) { EXPECT(early_or_late(1, 30) <= 6); }

/* A stream waits for its peer, the host and other streams do not. */
static void peer_is_late(void) {
    join();
    void *event = new_event(), *other = new_stream();
    Address own = new_memory(64), all = new_memory(64 * (size_t)ranks);
    upload(own, 64, rank, 0, 0);
    if (rank == 1) sleep_ms(200);
    long long started = now_us();
    OK(ncclGroupStart());
    OK(ncclAllGather(own, all, 64, UINT8, comm, stream));
    end_group();
    OK(cuEventRecord(event, stream));
    EXPECT(now_us() - started < 150000);
    if (rank == 0) {
        EQUAL(cuEventQuery(event), CUDA_ERROR_NOT_READY);
        OK(cuMemsetD8Async(new_memory(8), 0, 8, other));
        OK(cuStreamSynchronize(other));
        EQUAL(cuEventQuery(event), CUDA_ERROR_NOT_READY);
    }
    OK(cuEventSynchronize(event));
    if (rank == 0) EXPECT(now_us() - started > 100000);
    leave();
}

static void bandwidth(void) {
    join();
    size_t bytes = 1 << 20;
    Address own = new_memory(bytes), all = new_memory(bytes * (size_t)ranks);
    upload(own, bytes, rank, 0, 0);
    long long started = now_us();
    OK(ncclAllGather(own, all, bytes, UINT8, comm, stream) != NCCL_IN_PROGRESS);
    EQUAL(settled(), NCCL_SUCCESS);
    EXPECT(now_us() - started < 150000);
    OK(cuStreamSynchronize(stream));
    long long took = now_us() - started;
    EXPECT(took > 195000 && took < 600000);
    EQUAL(wrong_bytes(all + (Address)(bytes * (size_t)(1 - rank)), bytes, 1 - rank, 0, 0), 0);
    leave();
}

/* Aborts, and sees that all that waited goes on at once. */
static void abort_at_once(void) {
    long long started = now_us();
    OK(ncclCommAbort(comm));
    OK(cuStreamSynchronize(stream));
    OK(cuMemsetD8Async(new_memory(8), 0, 8, stream));
    OK(cuStreamSynchronize(stream));
    EXPECT(now_us() - started < 1000000);
    EQUAL(ncclCommAbort(comm), NCCL_ARGUMENT);
    EQUAL(ncclCommDestroy(comm), NCCL_ARGUMENT);
    EQUAL(ncclAllGather(0, 0, 0, UINT8, comm, stream), NCCL_ARGUMENT);
}

static void start_gather(Address own, Address all) {
    OK(ncclGroupStart());
    OK(ncclAllGather(own, all, 8, UINT8, comm, stream));
    EQUAL(ncclGroupEnd(), NCCL_IN_PROGRESS);
}

static void fault_async(void) {
    join();
    Address own = new_memory(8), all = new_memory(64);
    gather(own, all, 8, UINT8, 1);
    start_gather(own, all);
    if (rank == 1) {
        EQUAL(error_within(5000), strstr(getenv("STAND_IN_NCCL_FAULT"), "system") ? NCCL_SYSTEM : NCCL_REMOTE);
        EXPECT(strstr(ncclGetLastError(comm), "asked for") != NULL);
        EXPECT(ncclAllGather(own, all, 8, UINT8, comm, stream) != NCCL_SUCCESS);
    } else {
        EQUAL(error_within(200), NCCL_SUCCESS);
    }
    EQUAL(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    abort_at_once();
}

static void *abort_later(void *unused) {
    (void)unused;
    sleep_ms(200);
    OK(ncclCommAbort(comm));
    return NULL;
}

static void fault_hang(void) {
    join();
    Address own = new_memory(8), all = new_memory(64);
    gather(own, all, 8, UINT8, 1);
    start_gather(own, all);
    pthread_t thread;
    if (rank == 0) {
        EQUAL(error_within(150), NCCL_IN_PROGRESS);
        EQUAL(ncclAllGather(own, all, 8, UINT8, comm, stream), NCCL_ARGUMENT);
        pthread_create(&thread, NULL, abort_later, NULL);
        pthread_join(thread, NULL);
        OK(cuStreamSynchronize(stream));
    } else {
        EQUAL(settled(), NCCL_SUCCESS);
        sleep_ms(100);
        EQUAL(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
        /* From another thread, while this one waits for the stream. */
        pthread_create(&thread, NULL, abort_later, NULL);
        OK(cuStreamSynchronize(stream));
        pthread_join(thread, NULL);
    }
}

static int returned;
static void *call_that_hangs(void *argument) {
    Address *memory = argument;
    OK(cuCtxSetCurrent((void *)memory[2]));
    ncclAllGather(memory[0], memory[1], 8, UINT8, comm, stream);
    __atomic_store_n(&returned, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void fault_hang_call(void) {
    join();
    void *context;
    OK(cuCtxGetCurrent(&context));
    Address memory[] = {new_memory(8), new_memory(64), (Address)context};
    gather(memory[0], memory[1], 8, UINT8, 1);
    if (rank == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, call_that_hangs, memory);
        sleep_ms(200);
        EXPECT(!__atomic_load_n(&returned, __ATOMIC_ACQUIRE));
        OK(ncclCommAbort(comm));
        sleep_ms(100);
        EXPECT(!__atomic_load_n(&returned, __ATOMIC_ACQUIRE));
    } else {
        start_gather(memory[0], memory[1]);
        sleep_ms(200);
        abort_at_once();
    }
}

static void *abort_that_hangs(void *unused) {
    (void)unused;
    ncclCommAbort(comm);
    __atomic_store_n(&returned, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void fault_hang_abort(void) {
    join();
    pthread_t thread;
    start_gather(new_memory(8), new_memory(64));
    EQUAL(settled(), NCCL_SUCCESS);
    OK(cuStreamSynchronize(stream));
    if (rank == 0) {
        start_gather(new_memory(8), new_memory(64));
        EQUAL(settled(), NCCL_SUCCESS);
        pthread_create(&thread, NULL, abort_that_hangs, NULL);
        OK(cuStreamSynchronize(stream));
        sleep_ms(100);
        EXPECT(!__atomic_load_n(&returned, __ATOMIC_ACQUIRE));
    } else {
        abort_at_once();
    }
}

static void fault_late(void) {
    join();
    Address own = new_memory(8), all = new_memory(64);
    gather(own, all, 8, UINT8, 1);
    long long started = now_us();
    start_gather(own, all);
    EQUAL(settled(), NCCL_SUCCESS);
    if (rank == 1) EXPECT(now_us() - started > 290000);
    OK(cuStreamSynchronize(stream));
    EXPECT(now_us() - started > 200000);
    leave();
}

static void fault_spoil(void) {
    join();
    Address own = new_memory(1000), all = new_memory(2000);
    for (int round = 0; round < 3; round++) {
        upload(own, 1000, rank, 0, round);
        OK(ncclGroupStart());
        OK(ncclAllGather(own, all, 1000, UINT8, comm, stream));
        end_group();
        int spoiled = rank == 1 && (round == 2 || strcmp(getenv("STAND_IN_NCCL_FAULT"), "spoil:0") == 0);
        EQUAL(wrong_bytes(all, 1000, 0, 0, round), spoiled);
        EQUAL(wrong_bytes(all + 1000, 1000, 1, 0, round), 0);
    }
    leave();
}

static void fault_die(void) {
    join();
    Address own = new_memory(8), all = new_memory(64);
    gather(own, all, 8, UINT8, 1);
    start_gather(own, all);
    /* Over NVLink nothing says that a rank is gone; a network does. */
    EQUAL(error_within(300), getenv("STAND_IN_NCCL_NOTICE") ? NCCL_REMOTE : NCCL_SUCCESS);
    EQUAL(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    abort_at_once();
}

static void fault_init(void) {
    use_device(rank);
    stream = new_stream();
    EQUAL(start_joining(rank, ranks, 0), NCCL_IN_PROGRESS);
    int error = rank == 1 && strstr(getenv("STAND_IN_NCCL_FAULT"), "error") ? NCCL_SYSTEM : NCCL_IN_PROGRESS;
    EQUAL(error_within(300), error);
    abort_at_once();
}

/* The others are not there when it is aborted. */
static void abort_while_joining(void) {
    for (int round = 0; round < 5; round++) {
        use_device(rank);
        stream = new_stream();
        EQUAL(start_joining(0, 2, 0), NCCL_IN_PROGRESS);
        EQUAL(error_within(20), NCCL_IN_PROGRESS);
        abort_at_once();
    }
}

static void expect_disagreement(const char *one, const char *other) {
    EQUAL(error_within(5000), NCCL_USAGE);
    const char *text = ncclGetLastError(comm);
    if (strstr(text, one) == NULL || strstr(text, other) == NULL) {
        fprintf(stderr, "the error does not name `%s` and `%s`: %s\n", one, other, text);
        exit(1);
    }
    EQUAL(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    abort_at_once();
}

static void another_communicator(int number) {
    id.bytes[8] = (char)number;
    EQUAL(start_joining(rank, ranks, 0), NCCL_IN_PROGRESS);
    EQUAL(settled(), NCCL_SUCCESS);
}

static void ranks_disagree(void) {
    join();
    Address own = new_memory(1024), all = new_memory(4096);
    OK(ncclAllGather(own, all, rank == 0 ? 8 : 16, UINT8, comm, stream) != NCCL_IN_PROGRESS);
    expect_disagreement("8 of uint8", "16 of uint8");
    another_communicator(1);
    OK(ncclAllGather(own, all, 8, rank == 0 ? UINT8 : FLOAT32, comm, stream) != NCCL_IN_PROGRESS);
    expect_disagreement("8 of uint8", "8 of float32");
    another_communicator(2);
    OK(ncclBroadcast(own, all, 8, UINT8, rank, comm, stream) != NCCL_IN_PROGRESS);
    expect_disagreement("from root 0", "from root 1");
    another_communicator(3);
    if (rank == 0) OK(ncclAllGather(own, all, 8, UINT8, comm, stream) != NCCL_IN_PROGRESS);
    else OK(ncclBroadcast(own, all, 8, UINT8, 0, comm, stream) != NCCL_IN_PROGRESS);
    expect_disagreement("gathers", "broadcasts");
    another_communicator(4);
    if (rank == 0) OK(ncclSend(own, 8, UINT8, 1, comm, stream) != NCCL_IN_PROGRESS);
    else OK(ncclRecv(all, 12, UINT8, 0, comm, stream) != NCCL_IN_PROGRESS);
    expect_disagreement("rank 0 sends 8", "rank 1 receives 12");
    another_communicator(5);
    /* Outside a group. */
    OK(ncclSend(own, 8, UINT8, 1 - rank, comm, stream) != NCCL_IN_PROGRESS);
    expect_disagreement("send to each other", "deadlock");
    another_communicator(6);
    if (rank == 0) EQUAL(ncclCommFinalize(comm), NCCL_IN_PROGRESS);
    else OK(ncclRecv(all, 12, UINT8, 0, comm, stream) != NCCL_IN_PROGRESS);
    EQUAL(error_within(5000), NCCL_USAGE);
    EXPECT(strstr(ncclGetLastError(comm), "finalises") != NULL);
    abort_at_once();
}

/* Both join with what does not fit. */
static void joins_disagree(void) {
    use_device(rank);
    stream = new_stream();
    EQUAL(start_joining(rank, 2 + rank, 0), NCCL_IN_PROGRESS);
    EQUAL(error_within(5000), NCCL_USAGE);
    EXPECT(strstr(ncclGetLastError(comm), "rank 1 joins 3") != NULL);
    abort_at_once();
    id.bytes[8] = 1;
    EQUAL(start_joining(0, 2, 0), NCCL_IN_PROGRESS);
    /* One of them is the first, and waits. */
    int error = error_within(500);
    EXPECT(error == NCCL_USAGE || error == NCCL_IN_PROGRESS);
    sleep_ms(600);
    abort_at_once();
    id.bytes[8] = 2;
    use_device(0);
    stream = new_stream();
    EQUAL(start_joining(rank, 2, 0), NCCL_IN_PROGRESS);
    EQUAL(error_within(5000), NCCL_USAGE);
    EXPECT(strstr(ncclGetLastError(comm), "duplicate GPU") != NULL);
    abort_at_once();
}

static void refused(void) {
    int version, state;
    struct NcclConfig config = {sizeof config, 1, 21400, 0, 0};
    struct Id none = {{0}};
    OK(ncclGetVersion(&version));
    EQUAL(version, 21805);
    use_device(0);
    EQUAL(ncclCommInitRankConfig(&comm, 1, id, 0, &config), NCCL_ARGUMENT);
    config.magic = 0xcafebeef;
    EQUAL(ncclCommInitRankConfig(&comm, 1, id, 1, &config), NCCL_ARGUMENT);
    EQUAL(ncclCommInitRankConfig(&comm, 0, id, 0, &config), NCCL_ARGUMENT);
    EQUAL(ncclCommInitRankConfig(&comm, 1, none, 0, &config), NCCL_ARGUMENT);
    EQUAL(ncclGroupEnd(), NCCL_USAGE);
    EQUAL(ncclCommGetAsyncError(NULL, &state), NCCL_ARGUMENT);
    EQUAL(ncclCommAbort(NULL), NCCL_ARGUMENT);
    join();
    Address x = new_memory(64), y = new_memory(64);
    char host[64];
    struct { int expected, found; } calls[] = {
        {NCCL_ARGUMENT, ncclAllGather(x, y, 8, 12, comm, stream)},
        {NCCL_ARGUMENT, ncclBroadcast(x, y, 8, UINT8, 1, comm, stream)},
    };
    /* An error of a call stays with the communicator: one of each for one of these. */
    EQUAL(calls[0].found, calls[0].expected);
    EXPECT(calls[1].found != NCCL_SUCCESS);
    OK(ncclCommAbort(comm));
    for (int number = 0; number < 12; number++) {
        another_communicator(10 + number);
        int expected = NCCL_ARGUMENT, found = -1;
        void *gone = new_stream();
        switch (number) {
        case 0: found = ncclBroadcast(x, y, 8, UINT8, 1, comm, stream); break;
        case 1: found = ncclSend(x, 8, UINT8, -1, comm, stream); break;
        case 2: found = ncclAllGather((Address)host, y, 8, UINT8, comm, stream); break;
        case 3: found = ncclAllGather(x, y + 60, 8, UINT8, comm, stream); break;
        case 4: found = ncclAllGather(0, y, 8, UINT8, comm, stream); break;
        case 5: found = ncclAllGather(x + 4, x, 8, UINT8, comm, stream); break;
        case 6: found = ncclSend(x, 8, UINT8, 0, comm, stream), expected = NCCL_USAGE; break;
        case 7:
            OK(cuStreamDestroy_v2(gone));
            found = ncclAllGather(x, y, 8, UINT8, comm, gone), expected = NCCL_CUDA;
            break;
        case 8:
            OK(ncclGroupStart());
            EQUAL(ncclSend(x, 8, UINT8, 3, comm, stream), NCCL_ARGUMENT);
            found = ncclGroupEnd();
            break;
        case 9:
            EQUAL(ncclCommFinalize(comm), NCCL_IN_PROGRESS);
            EQUAL(settled(), NCCL_SUCCESS);
            found = ncclAllGather(x, y, 8, UINT8, comm, stream), expected = NCCL_USAGE;
            break;
        case 10:
            use_device(1);
            gone = new_stream();
            use_device(0);
            found = ncclAllGather(x, y, 8, UINT8, comm, gone), expected = NCCL_USAGE;
            break;
        case 11:
            /* Freed between the call and the work. */
            OK(ncclGroupStart());
            OK(ncclAllGather(x, y, 8, UINT8, comm, stream));
            OK(cuMemFreeAsync(y, stream));
            OK(cuStreamSynchronize(stream));
            EQUAL(ncclGroupEnd(), NCCL_IN_PROGRESS);
            found = error_within(2000), expected = NCCL_CUDA;
            break;
        }
        EQUAL(found, expected);
        EXPECT(ncclGetLastError(comm)[0] != 0);
        OK(ncclCommAbort(comm));
    }
    EQUAL(cuStreamSynchronize(stream), CUDA_ERROR_ILLEGAL_ADDRESS);
    EQUAL(strcmp(ncclGetErrorString(NCCL_REMOTE), "remote process exited or there was a network error"), 0);
}

#define JITTER "STAND_IN_JITTER=5 STAND_IN_JITTER_US=100"
#define SLOW "STAND_IN_JITTER=5 STAND_IN_JITTER_US=2000"

const struct Case nccl_cases[] = {
    {"nccl: all types, 2 ranks", all_types, JITTER, 2, 0, 0},
    {"nccl: all types, 4 ranks", all_types, JITTER, 4, 0, 0},
    {"nccl: all types, 8 ranks", all_types, "", 8, 0, 0},
    {"nccl: all types, 1 rank", all_types, "", 1, 0, 0},
    {"nccl: sends and receives, 2 ranks", exchanges, JITTER, 2, 0, 0},
    {"nccl: sends and receives, 4 ranks", exchanges, JITTER, 4, 0, 0},
    {"nccl: sends and receives, 8 ranks", exchanges, "", 8, 0, 0},
    {"nccl: 200 rounds, 2 ranks", many_rounds, "MALLOC_ARENA_MAX=1 GLIBC_TUNABLES=glibc.malloc.tcache_count=0", 2, 0, 0},
    {"nccl: 200 rounds, 4 ranks", many_rounds, "MALLOC_ARENA_MAX=1 GLIBC_TUNABLES=glibc.malloc.tcache_count=0", 4, 0, 0},
    {"nccl: communicators come and go", many_communicators, "", 2, 0, 0},
    {"nccl: blocking", blocking, JITTER, 2, 0, 0},
    {"nccl: ranks as threads", threads, JITTER, 1, 0, 0},
    {"nccl: an event after settling", event_after_settling, SLOW, 2, 0, 0},
    {"nccl: an event before settling", event_before_settling, SLOW, 2, 0, 1},
    {"nccl: a stream waits for its peer", peer_is_late, "", 2, 0, 0},
    {"nccl: bandwidth", bandwidth, "STAND_IN_BANDWIDTH=5e6", 2, 0, 0},
    {"nccl: fault async", fault_async, "STAND_IN_NCCL_FAULT=async:1:1", 2, 0, 0},
    {"nccl: fault async, system", fault_async, "STAND_IN_NCCL_FAULT=async:1:1:system", 2, 0, 0},
    {"nccl: fault hang", fault_hang, "STAND_IN_NCCL_FAULT=hang:0:1", 2, 0, 0},
    {"nccl: fault hang-call", fault_hang_call, "STAND_IN_NCCL_FAULT=hang-call:0:1", 2, 0, 0},
    {"nccl: fault hang-abort", fault_hang_abort, "STAND_IN_NCCL_FAULT=hang-abort:0", 2, 0, 0},
    {"nccl: fault late", fault_late, "STAND_IN_NCCL_FAULT=late:1:1:300", 2, 0, 0},
    {"nccl: fault spoil", fault_spoil, "STAND_IN_NCCL_FAULT=spoil:0:2", 2, 0, 0},
    {"nccl: fault spoil, every call", fault_spoil, "STAND_IN_NCCL_FAULT=spoil:0", 2, 0, 0},
    {"nccl: fault die", fault_die, "STAND_IN_NCCL_FAULT=die:2:1", 4, 3, 0},
    {"nccl: fault die, noticed", fault_die, "STAND_IN_NCCL_FAULT=die:1:1 STAND_IN_NCCL_NOTICE=1", 2, 2, 0},
    {"nccl: fault init-hang", fault_init, "STAND_IN_NCCL_FAULT=init-hang:1", 2, 0, 0},
    {"nccl: fault init-error", fault_init, "STAND_IN_NCCL_FAULT=init-error:1", 2, 0, 0},
    {"nccl: abort while joining", abort_while_joining, JITTER, 1, 0, 0},
    {"nccl: ranks that disagree", ranks_disagree, "", 2, 0, 0},
    {"nccl: joins that disagree", joins_disagree, "", 2, 0, 0},
    {"nccl: wrong use is refused", refused, "STAND_IN_NCCL_VERSION=21805", 1, 0, 0},
    {NULL, NULL, NULL, 0, 0, 0},
};
