/* What the stand-in driver offers beyond NVIDIA's functions: to the stand-ins of NCCL and cuBLASLt, which put their work
 * on its streams, and to tests, which ask what was called. */
#ifndef STAND_IN_H
#define STAND_IN_H

#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

/* Results of the driver that the stand-ins give, in `CUresult`. */
enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_CONTEXT_IS_DESTROYED = 709,
    CUDA_ERROR_NOT_PERMITTED = 800,
    CUDA_ERROR_NOT_SUPPORTED = 801,
    CUDA_ERROR_UNKNOWN = 999,
};

/* Work on a stream. It is called once: on the stream's thread, or, `cancelled`, where the context ends before its turn;
 * then it frees its argument and nothing else. */
typedef void (*StandInWork)(void *argument, int cancelled);

/* Puts work on a stream, behind all that was submitted to it. */
EXPORT int standInLaunch(void *stream, const char *name, StandInWork work, void *argument);
/* Holds back what is submitted to `later` from now on until `earlier` has done what it was given so far. */
EXPORT int standInOrder(void *earlier, void *later);
/* The device of a stream, which must exist. */
EXPORT int standInStreamDevice(void *stream, int *device);
/* The device of this thread's current context. */
EXPORT int standInDevice(int *device);
/* Makes device 0's primary context current where this thread has none, as libraries over the CUDA runtime do. */
EXPORT int standInDefaultContext(void);
/* Whether these bytes lie within one allocation of the device. */
EXPORT int standInHolds(uint64_t address, size_t bytes, int device);
/* The host's address of the device's memory, which stays allocated until it is unpinned; null where there is none. */
EXPORT void *standInPin(uint64_t address, size_t bytes);
EXPORT void standInUnpin(uint64_t address);
/* Spoils a stream's context, as a kernel does that reads where nothing is allocated: every later call fails. */
EXPORT void standInSpoil(void *stream, int code);
/* Counts a call, and writes it to the log. */
EXPORT void standInSay(const char *function, const void *stream);
/* Times that a function was called in this process, in all three libraries. */
EXPORT uint64_t standInCalls(const char *function);
/* A random delay in microseconds under STAND_IN_JITTER, else 0. */
EXPORT unsigned standInDelay(void);
/* The host's address of an address of the device, for a debugger or a test; null where nothing is allocated. */
EXPORT void *standInHost(uint64_t address);

/* A number from the environment, where it has one. */
EXPORT long long standInNumber(const char *name, long long otherwise);

#endif
