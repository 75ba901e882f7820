/* What the checks of the stand-ins share: the functions as NVIDIA's headers have them, and cases, each of which runs in
 * one or several processes of its own. */
#ifndef STAND_IN_CHECK_H
#define STAND_IN_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "../stand_in.h"

typedef uint64_t Address;

int cuInit(unsigned), cuDriverGetVersion(int *), cuDeviceGetCount(int *), cuDeviceGet(int *, int);
int cuDeviceGetName(char *, int, int), cuDeviceGetAttribute(int *, int, int), cuDeviceTotalMem_v2(size_t *, int);
int cuDevicePrimaryCtxRetain(void **, int), cuDevicePrimaryCtxRelease_v2(int);
int cuCtxSetCurrent(void *), cuCtxGetCurrent(void **), cuCtxSynchronize(void);
int cuCtxPushCurrent_v2(void *), cuCtxPopCurrent_v2(void **);
int cuCtxRecordEvent(void *, void *), cuCtxWaitEvent(void *, void *);
int cuStreamCreate(void **, unsigned), cuStreamDestroy_v2(void *), cuStreamQuery(void *), cuStreamSynchronize(void *);
int cuStreamWaitEvent(void *, void *, unsigned), cuLaunchHostFunc(void *, void (*)(void *), void *);
int cuEventCreate(void **, unsigned), cuEventDestroy_v2(void *), cuEventRecord(void *, void *), cuEventQuery(void *);
int cuEventSynchronize(void *), cuEventElapsedTime_v2(float *, void *, void *);
int cuMemAlloc_v2(Address *, size_t), cuMemFree_v2(Address), cuMemAllocAsync(Address *, size_t, void *);
int cuMemFreeAsync(Address, void *), cuMemAllocHost_v2(void **, size_t), cuMemFreeHost(void *);
int cuMemGetInfo_v2(size_t *, size_t *);
int cuMemcpyHtoD_v2(Address, const void *, size_t), cuMemcpyDtoH_v2(void *, Address, size_t);
int cuMemcpyHtoDAsync_v2(Address, const void *, size_t, void *), cuMemcpyDtoHAsync_v2(void *, Address, size_t, void *);
int cuMemcpyDtoDAsync_v2(Address, Address, size_t, void *), cuMemcpyDtoD_v2(Address, Address, size_t);
int cuMemsetD8Async(Address, unsigned char, size_t, void *), cuMemsetD32Async(Address, unsigned, size_t, void *);
int cuMemcpy2DAsync_v2(const void *, void *), cuModuleLoadData(void **, const void *);
int cuGetErrorName(int, const char **);

enum { NCCL_SUCCESS, NCCL_CUDA, NCCL_SYSTEM, NCCL_INTERNAL, NCCL_ARGUMENT, NCCL_USAGE, NCCL_REMOTE, NCCL_IN_PROGRESS };

struct Id {
    char bytes[128];
};

struct NcclConfig {
    size_t size;
    unsigned magic, version;
    int blocking, padding;
};

int ncclGetVersion(int *), ncclGetUniqueId(struct Id *);
const char *ncclGetErrorString(int), *ncclGetLastError(void *);
int ncclCommInitRankConfig(void **, int, struct Id, int, const struct NcclConfig *);
int ncclCommGetAsyncError(void *, int *), ncclCommFinalize(void *), ncclCommDestroy(void *), ncclCommAbort(void *);
int ncclGroupStart(void), ncclGroupEnd(void);
int ncclAllGather(Address, Address, size_t, int, void *, void *);
int ncclBroadcast(Address, Address, size_t, int, int, void *, void *);
int ncclSend(Address, size_t, int, int, void *, void *), ncclRecv(Address, size_t, int, int, void *, void *);

size_t cublasLtGetVersion(void);
int cublasLtCreate(void **), cublasLtDestroy(void *);
int cublasLtMatrixLayoutCreate(void **, int, uint64_t, uint64_t, int64_t), cublasLtMatrixLayoutDestroy(void *);
int cublasLtMatmulDescCreate(void **, int, int), cublasLtMatmulDescDestroy(void *);
int cublasLtMatmulDescSetAttribute(void *, int, const void *, size_t);
int cublasLtMatmulPreferenceCreate(void **), cublasLtMatmulPreferenceDestroy(void *);
int cublasLtMatmulPreferenceSetAttribute(void *, int, const void *, size_t);
int cublasLtMatmulAlgoGetHeuristic(void *, void *, void *, void *, void *, void *, void *, int, void *, int *);
int cublasLtMatmul(void *, void *, const float *, Address, void *, Address, void *, const float *, Address, void *,
                   Address, void *, const void *, Address, size_t, void *);

/* The process's part of a case. */
extern int rank, ranks;
extern struct Id id;

struct Case {
    const char *name;
    void (*run)(void);
    /* Variables, as NAME=VALUE, divided by spaces. */
    const char *environment;
    int ranks;
    /* One more than the rank that is to be killed, or 0. */
    int killed;
    /* Whether it shows what goes wrong without order, which a detector of races would report. */
    int races;
};

extern const struct Case cuda_cases[], nccl_cases[], cublaslt_cases[];

void expect_failed(const char *file, int line, const char *text, long long found);
#define EXPECT(condition) ((condition) ? (void)0 : expect_failed(__FILE__, __LINE__, #condition, 0))
/* Compares numbers, and says what was found. */
#define EQUAL(found, expected)                                                                       \
    do {                                                                                             \
        long long found_ = (long long)(found), expected_ = (long long)(expected);                    \
        if (found_ != expected_) expect_failed(__FILE__, __LINE__, #found " == " #expected, found_); \
    } while (0)
#define OK(call) EQUAL(call, 0)

/* Makes the primary context of a device current. */
void *use_device(int device);
void *new_stream(void);
void *new_event(void);
Address new_memory(size_t bytes);
void sleep_ms(int milliseconds);
long long now_us(void);
int open_files(void);

#endif
