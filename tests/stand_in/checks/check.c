/* Runs the cases: `check [CASE...]`, by default all. Every process has a time limit, and after each case nothing may be
 * left of its sockets. CHECK_NO_RACES=1 leaves out cases that race on purpose. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

enum { LIMIT_S = 40, MOST = 16 };

int rank, ranks;
struct Id id;

void expect_failed(const char *file, int line, const char *text, long long found) {
    fprintf(stderr, "rank %d: %s:%d: not so: %s; found %lld; NCCL's last error: %s\n", rank, file, line, text, found,
            ncclGetLastError(NULL));
    _exit(1);
}

void *use_device(int device) {
    void *context;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, device));
    OK(cuCtxSetCurrent(context));
    return context;
}

void *new_stream(void) {
    void *stream;
    OK(cuStreamCreate(&stream, 1));
    return stream;
}

void *new_event(void) {
    void *event;
    OK(cuEventCreate(&event, 2));
    return event;
}

Address new_memory(size_t bytes) {
    Address address;
    OK(cuMemAlloc_v2(&address, bytes));
    return address;
}

void sleep_ms(int milliseconds) { usleep((useconds_t)milliseconds * 1000); }

long long now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

int open_files(void) {
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (readdir(folder) != NULL) count++;
    closedir(folder);
    return count;
}

static const struct Case *find(const char *name) {
    const struct Case *const lists[] = {cuda_cases, nccl_cases, cublaslt_cases};
    for (int list = 0; list < 3; list++)
        for (const struct Case *one = lists[list]; one->name != NULL; one++)
            if (strcmp(one->name, name) == 0) return one;
    return NULL;
}

static pid_t spawn(const struct Case *one, int process) {
    char number[16], name[] = "/proc/self/exe", hex[2 * sizeof id + 1];
    for (size_t index = 0; index < sizeof id; index++) sprintf(hex + 2 * index, "%02x", (unsigned char)id.bytes[index]);
    pid_t child = fork();
    if (child != 0) return child;
    char *environment = strdup(one->environment), *rest = environment;
    for (char *word; (word = strtok_r(rest, " ", &rest)) != NULL;) putenv(word);
    snprintf(number, sizeof number, "%d", process);
    execl(name, "check", "--rank", one->name, number, hex, NULL);
    _exit(127);
}

/* Whether the system lists a socket of the stand-ins. */
static int sockets_left(void) {
    char line[512];
    int left = 0;
    FILE *list = fopen("/proc/net/unix", "r");
    while (list != NULL && fgets(line, sizeof line, list) != NULL) {
        char hex[2 * 16 + 1];
        for (int index = 0; index < 16; index++) sprintf(hex + 2 * index, "%02x", (unsigned char)id.bytes[8 + index]);
        left += strstr(line, hex) != NULL;
    }
    if (list != NULL) fclose(list);
    return left;
}

static int run_case(const struct Case *one) {
    pid_t children[MOST];
    long long started = now_us(), end = started + LIMIT_S * 1000000LL;
    int failed = 0, left = one->ranks;
    ncclGetUniqueId(&id);
    for (int process = 0; process < one->ranks; process++) children[process] = spawn(one, process);
    while (left > 0) {
        if (now_us() > end) {
            end += LIMIT_S * 1000000LL;
            fprintf(stderr, "%s: %d processes are not done in time\n", one->name, left);
            for (int process = 0; process < one->ranks; process++)
                if (children[process] > 0) kill(children[process], SIGKILL);
            failed = 1;
        }
        for (int process = 0; process < one->ranks; process++) {
            int status;
            if (children[process] == 0 || waitpid(children[process], &status, WNOHANG) == 0) continue;
            children[process] = 0;
            left--;
            int killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
            if (process == one->killed - 1 ? !killed : !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
                fprintf(stderr, "%s: process %d ended with status %#x\n", one->name, process, status);
                /* The others wait for it. */
                if (!failed) end = now_us() + 1000000;
                failed = 1;
            }
        }
        sleep_ms(1);
    }
    if (sockets_left() > 0) {
        fprintf(stderr, "%s: sockets are left\n", one->name);
        failed = 1;
    }
    printf("%s %s (%.2f s)\n", failed ? "FAILED" : "ok    ", one->name, (double)(now_us() - started) / 1e6);
    fflush(stdout);
    return failed;
}

int main(int count, char **arguments) {
    if (count == 5 && strcmp(arguments[1], "--rank") == 0) {
        const struct Case *one = find(arguments[2]);
        if (one == NULL) return 2;
        rank = atoi(arguments[3]);
        ranks = one->ranks;
        for (size_t index = 0; index < sizeof id; index++) {
            unsigned byte;
            sscanf(arguments[4] + 2 * index, "%2x", &byte);
            id.bytes[index] = (char)byte;
        }
        one->run();
        return 0;
    }
    const struct Case *const lists[] = {cuda_cases, nccl_cases, cublaslt_cases};
    int failed = 0, ran = 0, no_races = getenv("CHECK_NO_RACES") != NULL;
    for (int list = 0; list < 3; list++)
        for (const struct Case *one = lists[list]; one->name != NULL; one++) {
            int wanted = count == 1;
            for (int index = 1; index < count; index++) wanted |= strstr(one->name, arguments[index]) != NULL;
            if (!wanted || (no_races && one->races)) continue;
            failed += run_case(one);
            ran++;
        }
    printf("%d of %d cases passed\n", ran - failed, ran);
    return failed > 0 || ran == 0;
}
