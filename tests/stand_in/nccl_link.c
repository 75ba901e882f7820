/* How ranks of the stand-in for NCCL meet and move data: over Unix sockets with names outside the file system, which go
 * with the process, however it ends.
 *
 * Every rank has one socket to each other rank and one from it. A message is a header, an answer to it, and the data.
 * The receiver answers when its own group runs, so that a send waits for its receiver, and compares what both say first.
 * NVIDIA's moves what fits its buffers without that, and does not compare. A rank that is gone leaves the others waiting,
 * as over NVLink; with STAND_IN_NCCL_NOTICE=1 they get ncclRemoteError, as over a network. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "nccl.h"

enum { MAGIC = 0x57a2d1a };

struct Hello {
    uint32_t magic;
    int32_t ranks, rank, device;
};

struct Welcome {
    uint32_t magic;
    int32_t code;
    char message[120];
};

struct Header {
    uint32_t magic;
    /* SEND stands for both sides. */
    int32_t kind;
    int32_t type, root;
    uint64_t count, bytes;
    /* Whether the sender's group receives from this rank too. */
    int32_t receives;
    int32_t rank;
};

struct Answer {
    uint32_t magic;
    int32_t refused;
    /* What the receiver waits for. */
    struct Header expected;
};

/* When this thread's last message came to its data. */
static __thread long long data_began;

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000LL + time.tv_nsec / 1000;
}

static int aborted(struct Communicator *communicator) {
    pthread_mutex_lock(&nccl_lock);
    int aborted = communicator->aborted;
    pthread_mutex_unlock(&nccl_lock);
    return aborted;
}

/* Connecting. */

static socklen_t name_of(const struct Communicator *communicator, int rank, struct sockaddr_un *name) {
    char hex[2 * ID_BYTES + 1];
    for (int index = 0; index < ID_BYTES; index++) sprintf(hex + 2 * index, "%02x", communicator->id[index]);
    memset(name, 0, sizeof *name);
    name->sun_family = AF_UNIX;
    /* A leading zero: the name is in no folder. */
    int length = snprintf(name->sun_path + 1, sizeof name->sun_path - 1, "stand-in-nccl-%s-%d", hex, rank);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

static int new_socket(void) {
    int made = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int bytes = 1 << 20;
    if (made >= 0) setsockopt(made, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    return made;
}

/* A rank's answer to one that connects. */
static struct Welcome judge(const struct Communicator *self, const struct Hello *hello) {
    struct Welcome welcome = {.magic = MAGIC, .code = SUCCESS};
    char *text = welcome.message;
    if (hello->magic != MAGIC) {
        welcome.code = INTERNAL_ERROR;
        snprintf(text, sizeof welcome.message, "a process that is no rank has connected");
    } else if (hello->ranks != self->ranks) {
        welcome.code = INVALID_USAGE;
        snprintf(text, sizeof welcome.message, "rank %d joins %d ranks, rank %d joins %d", hello->rank, hello->ranks,
                 self->rank, self->ranks);
    } else if (hello->rank < 0 || hello->rank >= self->ranks || self->in[hello->rank] >= 0) {
        welcome.code = INVALID_USAGE;
        snprintf(text, sizeof welcome.message, "rank %d joins twice", hello->rank);
    } else if (hello->device == self->device) {
        welcome.code = INVALID_USAGE;
        snprintf(text, sizeof welcome.message, "duplicate GPU: rank %d and rank %d are both on device %d", self->rank,
                 hello->rank, self->device);
    }
    return welcome;
}

static int close_all(int *sockets, int count, int code) {
    for (int index = 0; index < count; index++)
        if (sockets[index] >= 0) close(sockets[index]);
    return code;
}

int link_connect(struct Communicator *self) {
    struct sockaddr_un name;
    /* Sockets that are connected and wait for the answer, and those accepted that have not said who they are. */
    int asked[MOST_RANKS], unknown[2 * MOST_RANKS], listener = new_socket();
    for (int rank = 0; rank < MOST_RANKS; rank++) asked[rank] = unknown[2 * rank] = unknown[2 * rank + 1] = -1;
    socklen_t length = name_of(self, self->rank, &name);
    if (listener < 0 || bind(listener, (struct sockaddr *)&name, length) != 0 || listen(listener, 2 * MOST_RANKS) != 0) {
        int code = errno;
        if (listener >= 0) close(listener);
        if (code == EADDRINUSE) return fail(self, INVALID_USAGE, "rank %d joins twice", self->rank);
        return fail(self, SYSTEM_ERROR, "no socket: %s", strerror(code));
    }
    int missing = 2 * (self->ranks - 1), result = SUCCESS;
    while (missing > 0 && result == SUCCESS) {
        if (aborted(self)) {
            result = -1;
            break;
        }
        for (int rank = 0; rank < self->ranks && result == SUCCESS; rank++) {
            if (rank == self->rank || self->out[rank] >= 0) continue;
            if (asked[rank] < 0) {
                int made = new_socket();
                length = name_of(self, rank, &name);
                struct Hello hello = {MAGIC, self->ranks, self->rank, self->device};
                if (made >= 0 && connect(made, (struct sockaddr *)&name, length) == 0 &&
                    send(made, &hello, sizeof hello, MSG_NOSIGNAL) == sizeof hello)
                    asked[rank] = made;
                else if (made >= 0)
                    close(made);
                continue;
            }
            struct Welcome welcome;
            ssize_t got = recv(asked[rank], &welcome, sizeof welcome, 0);
            if (got == sizeof welcome && welcome.code == SUCCESS) {
                self->out[rank] = asked[rank];
                asked[rank] = -1;
                missing--;
            } else if (got == sizeof welcome) {
                result = fail(self, welcome.code, "%s", welcome.message);
            } else if (got >= 0 || errno != EAGAIN) {
                /* The rank is gone before it answered: another may come. */
                close(asked[rank]);
                asked[rank] = -1;
            }
        }
        int accepted = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        for (int index = 0; index < 2 * MOST_RANKS && accepted >= 0; index++)
            if (unknown[index] < 0) {
                unknown[index] = accepted;
                accepted = -1;
            }
        if (accepted >= 0) close(accepted);
        for (int index = 0; index < 2 * MOST_RANKS && result == SUCCESS; index++) {
            struct Hello hello;
            if (unknown[index] < 0) continue;
            ssize_t got = recv(unknown[index], &hello, sizeof hello, 0);
            if (got < 0 && errno == EAGAIN) continue;
            struct Welcome welcome = {.magic = MAGIC, .code = INTERNAL_ERROR};
            if (got == sizeof hello) {
                welcome = judge(self, &hello);
                if (send(unknown[index], &welcome, sizeof welcome, MSG_NOSIGNAL) != sizeof welcome) got = -1;
            }
            if (got == sizeof hello && welcome.code == SUCCESS) {
                self->in[hello.rank] = unknown[index];
                missing--;
            } else {
                if (got == sizeof hello) result = fail(self, welcome.code, "%s", welcome.message);
                close(unknown[index]);
            }
            unknown[index] = -1;
        }
        struct pollfd wake[] = {{self->abort_event, POLLIN, 0}, {listener, POLLIN, 0}};
        if (missing > 0 && result == SUCCESS) poll(wake, 2, 1);
    }
    close_all(asked, MOST_RANKS, 0);
    close_all(unknown, 2 * MOST_RANKS, 0);
    close(listener);
    return result;
}

void link_close(struct Communicator *communicator) {
    close_all(communicator->out, communicator->ranks, 0);
    close_all(communicator->in, communicator->ranks, 0);
    close(communicator->abort_event);
}

/* Moving. */

/* One message, of either side. */
struct Message {
    struct Header header;
    char *data;
    /* Whether a byte is changed on its way. */
    int spoiled;
};

/* The messages of one direction between two ranks, in order. */
struct Lane {
    int socket, rank, incoming;
    struct Message *messages;
    int count, next;
    enum { HEADER, ANSWER, DATA, STUCK } stage;
    /* Bytes of this stage. */
    size_t moved;
    union {
        struct Header header;
        struct Answer answer;
    } buffer;
    /* An outgoing lane: whether the other rank's own send was looked at. */
    int looked;
};

static const char *words(const struct Header *header, int receiver, char *text, size_t size) {
    static const char *const types[DATATYPES] = {"int8", "uint8", "int32", "uint32", "int64", "uint64",
                                                 "float16", "float32", "float64", "bfloat16", "float8e4m3", "float8e5m2"};
    static const char *const kinds[] = {"gathers", "broadcasts", "sends", "receives", "finalises"};
    const char *kind = kinds[header->kind == SEND && receiver ? RECEIVE : header->kind];
    int length = snprintf(text, size, "rank %d %s", header->rank, kind);
    if (header->kind != FINISH)
        length += snprintf(text + length, size - (size_t)length, " %llu of %s", (unsigned long long)header->count,
                           types[header->type]);
    if (header->kind == BROADCAST) snprintf(text + length, size - (size_t)length, " from root %d", header->root);
    return text;
}

static int agree(const struct Header *sent, const struct Header *expected) {
    return sent->magic == MAGIC && sent->kind == expected->kind && sent->type == expected->type &&
           sent->root == expected->root && sent->count == expected->count && sent->bytes == expected->bytes;
}

static void disagree(struct Communicator *self, struct Lane *lane, const struct Header *sent,
                     const struct Header *expected) {
    char one[96], other[96];
    lane->stage = STUCK;
    fail(self, INVALID_USAGE, "ranks disagree: %s, but %s", words(sent, 0, one, sizeof one),
         words(expected, 1, other, sizeof other));
}

static void lost(struct Communicator *self, struct Lane *lane) {
    lane->stage = STUCK;
    if (standInNumber("STAND_IN_NCCL_NOTICE", 0) != 0)
        fail(self, REMOTE_ERROR, "rank %d is gone: connection closed by remote peer", lane->rank);
}

/* Sends or receives some bytes of a stage; whether that ended it. */
static int move(struct Communicator *self, struct Lane *lane, int outwards, void *data, size_t bytes) {
    while (lane->moved < bytes) {
        char *at = (char *)data + lane->moved;
        size_t rest = bytes - lane->moved;
        ssize_t moved = outwards ? send(lane->socket, at, rest, MSG_NOSIGNAL) : recv(lane->socket, at, rest, 0);
        if (moved < 0 && errno == EINTR) continue;
        if (moved < 0 && errno == EAGAIN) return 0;
        if (moved <= 0) {
            lost(self, lane);
            return 0;
        }
        lane->moved += (size_t)moved;
    }
    lane->moved = 0;
    return 1;
}

/* With its last byte changed: of a float the sign and the exponent. */
static int move_spoiled(struct Communicator *self, struct Lane *lane, struct Message *message) {
    size_t bytes = message->header.bytes, last = bytes - 1;
    char *copy = malloc(bytes);
    if (copy == NULL) abort();
    memcpy(copy, message->data, bytes);
    copy[last] = (char)~copy[last];
    int done = move(self, lane, 1, copy, bytes);
    free(copy);
    return done;
}

/* Takes a lane as far as it goes without waiting. */
static void step(struct Communicator *self, struct Lane *lane) {
    while (lane->stage != STUCK && lane->next < lane->count) {
        struct Message *message = &lane->messages[lane->next];
        int out = !lane->incoming;
        switch (lane->stage) {
        case HEADER:
            if (out) lane->buffer.header = message->header;
            if (!move(self, lane, out, &lane->buffer.header, sizeof(struct Header))) return;
            lane->stage = ANSWER;
            if (!out) {
                struct Header sent = lane->buffer.header;
                lane->buffer.answer = (struct Answer){MAGIC, !agree(&sent, &message->header), message->header};
                if (lane->buffer.answer.refused) {
                    send(lane->socket, &lane->buffer.answer, sizeof(struct Answer), MSG_NOSIGNAL);
                    disagree(self, lane, &sent, &message->header);
                }
            }
            break;
        case ANSWER:
            if (!move(self, lane, !out, &lane->buffer.answer, sizeof(struct Answer))) return;
            lane->stage = DATA;
            data_began = now();
            if (out && lane->buffer.answer.refused)
                disagree(self, lane, &message->header, &lane->buffer.answer.expected);
            break;
        case DATA:
            if (message->spoiled && out && message->header.bytes > 0) {
                if (!move_spoiled(self, lane, message)) return;
            } else if (!move(self, lane, out, message->data, message->header.bytes)) {
                return;
            }
            lane->stage = HEADER;
            lane->next++;
            break;
        case STUCK: break;
        }
    }
}

static int ended(const struct Lane *lane) { return lane->next == lane->count; }

/* Two ranks that each send to the other, in groups that do not receive, wait for ever; NVIDIA's gets away with it while
 * the data fit its buffers. */
static void look_for_deadlock(struct Communicator *self, struct Lane *out, const struct Lane *in) {
    struct Header sent;
    ssize_t got = recv(in->socket, &sent, sizeof sent, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    out->looked = 1;
    if (got != sizeof sent) return;
    if (sent.magic != MAGIC || sent.kind != SEND || sent.receives) return;
    out->stage = STUCK;
    fail(self, INVALID_USAGE, "ranks %d and %d send to each other, and neither receives in that group: a deadlock",
         self->rank, out->rank);
}

/* Moves all messages. */
static int exchange(struct Communicator *self, struct Lane *out, struct Lane *in) {
    struct pollfd wake[2 * MOST_RANKS + 1];
    for (;;) {
        int waiting = 0, count = 1;
        if (aborted(self)) return -1;
        for (int rank = 0; rank < self->ranks; rank++) {
            step(self, &out[rank]);
            step(self, &in[rank]);
        }
        wake[0] = (struct pollfd){self->abort_event, POLLIN, 0};
        for (int rank = 0; rank < self->ranks; rank++) {
            struct Lane *lane = &out[rank];
            int alone = !ended(lane) && lane->stage == ANSWER && in[rank].count == 0 && !lane->looked &&
                        lane->messages[lane->next].header.kind == SEND;
            if (alone) look_for_deadlock(self, lane, &in[rank]);
            waiting |= !ended(lane) || !ended(&in[rank]);
            short events = lane->stage == ANSWER ? POLLIN : POLLOUT;
            if (!ended(lane) && lane->stage != STUCK) wake[count++] = (struct pollfd){lane->socket, events, 0};
            events = in[rank].stage == ANSWER ? POLLOUT : POLLIN;
            if ((!ended(&in[rank]) && in[rank].stage != STUCK) || (alone && !lane->looked))
                wake[count++] = (struct pollfd){in[rank].socket, events, 0};
        }
        if (!waiting) return SUCCESS;
        poll(wake, (nfds_t)count, -1);
    }
}

static struct Message *add(struct Lane *lane, struct Header header, uint64_t data) {
    lane->messages = realloc(lane->messages, (size_t)(lane->count + 1) * sizeof *lane->messages);
    if (lane->messages == NULL) abort();
    struct Message *message = &lane->messages[lane->count++];
    *message = (struct Message){header, (char *)data, 0};
    return message;
}

static void lanes_new(struct Communicator *self, struct Lane *out, struct Lane *in) {
    for (int rank = 0; rank < self->ranks; rank++) {
        out[rank] = (struct Lane){.socket = self->out[rank], .rank = rank};
        in[rank] = (struct Lane){.socket = self->in[rank], .rank = rank, .incoming = 1};
    }
}

static void lanes_free(struct Communicator *self, struct Lane *out, struct Lane *in) {
    for (int rank = 0; rank < self->ranks; rank++) {
        free(out[rank].messages);
        free(in[rank].messages);
    }
}

static void copy_own(uint64_t to, uint64_t from, size_t bytes) {
    if (to != from && bytes > 0) memmove((void *)to, (const void *)from, bytes);
}

/* Sends to this rank itself, each to the receive of the same place in the order. */
static void run_self(const struct Communicator *self, const struct Group *group) {
    int next = 0;
    for (int index = 0; index < group->count; index++) {
        const struct Transfer *send = &group->transfers[index];
        if (send->kind != SEND || send->peer != self->rank) continue;
        while (group->transfers[next].kind != RECEIVE || group->transfers[next].peer != self->rank) next++;
        copy_own(group->transfers[next++].to, send->from, send->bytes);
    }
}

static void plan(struct Communicator *self, const struct Transfer *transfer, struct Lane *out, struct Lane *in) {
    struct Header header = {
        .magic = MAGIC, .kind = transfer->kind, .type = transfer->type, .count = transfer->count,
        .bytes = transfer->bytes, .rank = self->rank};
    for (int rank = 0; rank < self->ranks; rank++) {
        if (rank == self->rank) continue;
        switch (transfer->kind) {
        case ALL_GATHER:
            add(&out[rank], header, transfer->from);
            add(&in[rank], header, transfer->to + (uint64_t)rank * transfer->bytes);
            break;
        case BROADCAST:
            /* Those that have no data to send say so: another root, or none, would be waited for unseen. */
            header.root = transfer->peer;
            header.bytes = self->rank == transfer->peer ? transfer->bytes : 0;
            add(&out[rank], header, transfer->from);
            header.bytes = rank == transfer->peer ? transfer->bytes : 0;
            add(&in[rank], header, transfer->to);
            break;
        case SEND:
            if (rank == transfer->peer) add(&out[rank], header, transfer->from);
            break;
        case RECEIVE:
            header.kind = SEND;
            if (rank == transfer->peer) add(&in[rank], header, transfer->to);
            break;
        case FINISH:
            add(&out[rank], header, 0);
            add(&in[rank], header, 0);
            break;
        }
    }
}

int link_run(struct Communicator *self, const struct Group *group) {
    struct Lane out[MOST_RANKS], in[MOST_RANKS];
    size_t sent = 0, received = 0;
    lanes_new(self, out, in);
    /* Collectives first: their order among sends and receives is free. */
    for (int pass = 0; pass < 2; pass++)
        for (int index = 0; index < group->count; index++) {
            const struct Transfer *transfer = &group->transfers[index];
            int collective = transfer->kind == ALL_GATHER || transfer->kind == BROADCAST;
            if (collective == (pass == 0)) plan(self, transfer, out, in);
        }
    for (int rank = 0; rank < self->ranks; rank++) {
        for (int index = 0; index < in[rank].count; index++) received += in[rank].messages[index].header.bytes;
        for (int index = 0; index < out[rank].count; index++) {
            struct Message *message = &out[rank].messages[index];
            sent += message->header.bytes;
            message->spoiled = fault("spoil", self->rank, group->call, NULL);
            for (int other = 0; other < in[rank].count; other++)
                message->header.receives |= in[rank].messages[other].header.kind == SEND;
        }
    }
    for (int index = 0; index < group->count; index++) {
        const struct Transfer *transfer = &group->transfers[index];
        if (transfer->kind == ALL_GATHER)
            copy_own(transfer->to + (uint64_t)self->rank * transfer->bytes, transfer->from, transfer->bytes);
        if (transfer->kind == BROADCAST && transfer->peer == self->rank)
            copy_own(transfer->to, transfer->from, transfer->bytes);
    }
    run_self(self, group);
    data_began = now();
    long long bandwidth = standInNumber("STAND_IN_BANDWIDTH", 0);
    int result = exchange(self, out, in);
    lanes_free(self, out, in);
    if (result == SUCCESS && bandwidth > 0) {
        double most = sent > received ? (double)sent : (double)received;
        long long left = (long long)(most * 1e6 / (double)bandwidth) - (now() - data_began);
        if (left > 0 && wait_for_abort(self, left)) return -1;
    }
    return result;
}

int link_finish(struct Communicator *self) {
    struct Lane out[MOST_RANKS], in[MOST_RANKS];
    struct Transfer finish = {.kind = FINISH};
    lanes_new(self, out, in);
    plan(self, &finish, out, in);
    int result = exchange(self, out, in);
    lanes_free(self, out, in);
    return result;
}
