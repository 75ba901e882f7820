/* Stands for NVIDIA's cuBLASLt, `libcublasLt.so.12`: products of matrices of f32, f16 or bf16, summed in f32 and rounded
 * once, on streams of the stand-in driver.
 *
 * Sums are in the order of the terms, which NVIDIA's are not. Parts of them pass through the workspace, so that two
 * products that share one without an order between them are wrong here. An algorithm serves the problem that it was
 * chosen for and no other, and the alignment that was promised is checked.
 *
 * Missing: batches, 8 bits and less, integers, scales of matrices, gradients, alpha and beta on the device. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "handles.h"
#include "stand_in.h"

/* `cublasStatus_t`. */
enum {
    SUCCESS = 0,
    NOT_INITIALIZED = 1,
    ALLOC_FAILED = 3,
    INVALID_VALUE = 7,
    EXECUTION_FAILED = 13,
    NOT_SUPPORTED = 15,
};

enum { KIND_HANDLE = 5, KIND_DESCRIPTION = 6, KIND_LAYOUT = 7, KIND_PREFERENCE = 8 };
/* `cudaDataType`. */
enum { R_32F = 0, R_16F = 2, R_16BF = 14 };
/* `cublasLtEpilogue_t`, as bits. */
enum { RELU = 2, BIAS = 4 };

struct Lt {
    int device;
};

struct Description {
    int compute, scale;
    int32_t transposed[2];
    uint32_t epilogue;
    uint64_t bias;
    int32_t bias_type;
};

struct Layout {
    int32_t type, order;
    uint64_t rows, columns;
    int64_t pitch;
};

struct Preference {
    uint64_t workspace;
    uint32_t reduction;
    /* Of A, B, C and D. */
    uint32_t aligned[4];
};

/* `cublasLtMatmulAlgo_t`. */
struct Algorithm {
    uint64_t magic, problem, workspace, aligned, rest[4];
};

/* `cublasLtMatmulHeuristicResult_t`. */
struct Result {
    struct Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

static const uint64_t ALGORITHM = 0x57a2d1ac0b1a5;
/* What an algorithm wants of the workspace, where it gets so much. */
static const uint64_t WORKSPACE = 1 << 20;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct Handles handles;
static long long products;

static void *get(int kind, const void *handle) {
    pthread_mutex_lock(&lock);
    void *object = handle_get(&handles, kind, handle);
    pthread_mutex_unlock(&lock);
    return object;
}

static int make(int kind, void **handle, const void *object, size_t bytes) {
    void *made = malloc(bytes);
    if (handle == NULL || made == NULL) {
        free(made);
        return handle == NULL ? INVALID_VALUE : ALLOC_FAILED;
    }
    memcpy(made, object, bytes);
    pthread_mutex_lock(&lock);
    *handle = handle_new(&handles, kind, made);
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

static int destroy(int kind, void *handle) {
    pthread_mutex_lock(&lock);
    void *object = handle_get(&handles, kind, handle);
    if (object != NULL) handle_remove(&handles, handle);
    pthread_mutex_unlock(&lock);
    free(object);
    return object != NULL ? SUCCESS : INVALID_VALUE;
}

/* STAND_IN_LT_FAULT: KIND or KIND:FIRST, the number of the first product that it is for. */
static int fault(const char *kind, long long product) {
    const char *text = getenv("STAND_IN_LT_FAULT");
    size_t length = strlen(kind);
    if (text == NULL || strncmp(text, kind, length) != 0) return 0;
    if (text[length] == 0) return 1;
    return text[length] == ':' && product >= atoll(text + length + 1);
}

/* The handle, descriptions and layouts. */

EXPORT size_t cublasLtGetVersion(void) {
    standInSay(__func__, NULL);
    return (size_t)standInNumber("STAND_IN_LT_VERSION", 120805);
}

EXPORT const char *cublasLtGetStatusString(int status) {
    switch (status) {
    case SUCCESS: return "success";
    case NOT_INITIALIZED: return "the library was not initialized";
    case ALLOC_FAILED: return "the resource allocation failed";
    case INVALID_VALUE: return "an invalid value";
    case EXECUTION_FAILED: return "the function failed to launch on the GPU";
    case NOT_SUPPORTED: return "the functionality is not supported";
    default: return "an unknown status";
    }
}

EXPORT int cublasLtCreate(void **handle) {
    struct Lt made;
    standInSay(__func__, NULL);
    if (fault("create", 0) || standInDefaultContext() != CUDA_SUCCESS || standInDevice(&made.device) != CUDA_SUCCESS)
        return NOT_INITIALIZED;
    return make(KIND_HANDLE, handle, &made, sizeof made);
}

EXPORT int cublasLtDestroy(void *handle) {
    standInSay(__func__, NULL);
    return destroy(KIND_HANDLE, handle) == SUCCESS ? SUCCESS : NOT_INITIALIZED;
}

static size_t type_bytes(int type) { return type == R_32F ? 4 : 2; }
static int type_known(int type) { return type == R_32F || type == R_16F || type == R_16BF; }

EXPORT int cublasLtMatrixLayoutCreate(void **handle, int type, uint64_t rows, uint64_t columns, int64_t pitch) {
    standInSay(__func__, NULL);
    struct Layout made = {type, 0, rows, columns, pitch};
    return make(KIND_LAYOUT, handle, &made, sizeof made);
}

EXPORT int cublasLtMatrixLayoutDestroy(void *handle) {
    standInSay(__func__, NULL);
    return destroy(KIND_LAYOUT, handle);
}

/* Where an attribute is kept. */
struct Field {
    void *at;
    size_t bytes;
};

static int set(struct Field field, const void *value, size_t bytes) {
    if (field.at == NULL) return NOT_SUPPORTED;
    if (value == NULL || bytes != field.bytes) return INVALID_VALUE;
    memcpy(field.at, value, bytes);
    return SUCCESS;
}

#define FIELD(member) ((struct Field){&(member), sizeof(member)})

EXPORT int cublasLtMatrixLayoutSetAttribute(void *handle, int attribute, const void *value, size_t bytes) {
    standInSay(__func__, NULL);
    struct Layout *layout = get(KIND_LAYOUT, handle);
    if (layout == NULL) return INVALID_VALUE;
    switch (attribute) {
    case 0: return set(FIELD(layout->type), value, bytes);
    case 1: return set(FIELD(layout->order), value, bytes);
    case 2: return set(FIELD(layout->rows), value, bytes);
    case 3: return set(FIELD(layout->columns), value, bytes);
    case 4: return set(FIELD(layout->pitch), value, bytes);
    default: return NOT_SUPPORTED;
    }
}

EXPORT int cublasLtMatmulDescCreate(void **handle, int compute, int scale) {
    standInSay(__func__, NULL);
    struct Description made = {.compute = compute, .scale = scale, .epilogue = 1, .bias_type = -1};
    return make(KIND_DESCRIPTION, handle, &made, sizeof made);
}

EXPORT int cublasLtMatmulDescDestroy(void *handle) {
    standInSay(__func__, NULL);
    return destroy(KIND_DESCRIPTION, handle);
}

EXPORT int cublasLtMatmulDescSetAttribute(void *handle, int attribute, const void *value, size_t bytes) {
    standInSay(__func__, NULL);
    struct Description *description = get(KIND_DESCRIPTION, handle);
    if (description == NULL) return INVALID_VALUE;
    switch (attribute) {
    case 3: return set(FIELD(description->transposed[0]), value, bytes);
    case 4: return set(FIELD(description->transposed[1]), value, bytes);
    case 7: return set(FIELD(description->epilogue), value, bytes);
    case 8: return set(FIELD(description->bias), value, bytes);
    case 26: return set(FIELD(description->bias_type), value, bytes);
    default: return NOT_SUPPORTED;
    }
}

EXPORT int cublasLtMatmulPreferenceCreate(void **handle) {
    standInSay(__func__, NULL);
    struct Preference made = {.reduction = 7, .aligned = {256, 256, 256, 256}};
    return make(KIND_PREFERENCE, handle, &made, sizeof made);
}

EXPORT int cublasLtMatmulPreferenceDestroy(void *handle) {
    standInSay(__func__, NULL);
    return destroy(KIND_PREFERENCE, handle);
}

EXPORT int cublasLtMatmulPreferenceSetAttribute(void *handle, int attribute, const void *value, size_t bytes) {
    standInSay(__func__, NULL);
    struct Preference *preference = get(KIND_PREFERENCE, handle);
    if (preference == NULL) return INVALID_VALUE;
    if (attribute >= 5 && attribute <= 8) return set(FIELD(preference->aligned[attribute - 5]), value, bytes);
    switch (attribute) {
    case 1: return set(FIELD(preference->workspace), value, bytes);
    case 3: return set(FIELD(preference->reduction), value, bytes);
    default: return NOT_SUPPORTED;
    }
}

/* A problem, and the choice of its algorithm. */

/* A, B, C and D, whose sizes are checked. */
struct Problem {
    struct Description description;
    struct Layout a, b, c, d;
    uint64_t rows, columns, terms;
};

static int problem_of(const void *handle, const void *description, const void *const layouts[4],
                      struct Problem *problem) {
    const struct Layout *found[4];
    const struct Description *described = get(KIND_DESCRIPTION, description);
    if (get(KIND_HANDLE, handle) == NULL) return NOT_INITIALIZED;
    if (described == NULL) return INVALID_VALUE;
    for (int index = 0; index < 4; index++)
        if ((found[index] = get(KIND_LAYOUT, layouts[index])) == NULL) return INVALID_VALUE;
    *problem = (struct Problem){*described, *found[0], *found[1], *found[2], *found[3], 0, 0, 0};
    for (int index = 0; index < 4; index++) {
        uint64_t along = found[index]->order == 0 ? found[index]->rows : found[index]->columns;
        if (found[index]->rows == 0 || found[index]->columns == 0) return INVALID_VALUE;
        if (found[index]->pitch < 0 || (uint64_t)found[index]->pitch < along) return INVALID_VALUE;
        if (!type_known(found[index]->type) || found[index]->type != found[0]->type) return NOT_SUPPORTED;
        if (found[index]->order < 0 || found[index]->order > 1) return NOT_SUPPORTED;
    }
    int a_transposed = described->transposed[0], b_transposed = described->transposed[1];
    if ((a_transposed | b_transposed) & ~1) return NOT_SUPPORTED;
    problem->rows = a_transposed ? problem->a.columns : problem->a.rows;
    problem->terms = a_transposed ? problem->a.rows : problem->a.columns;
    problem->columns = b_transposed ? problem->b.rows : problem->b.columns;
    if ((b_transposed ? problem->b.columns : problem->b.rows) != problem->terms) return INVALID_VALUE;
    if (problem->d.rows != problem->rows || problem->d.columns != problem->columns) return INVALID_VALUE;
    if (problem->c.rows != problem->rows || problem->c.columns != problem->columns) return INVALID_VALUE;
    /* 68 sums in f32, 74 to 77 as well, with factors of fewer bits. */
    if (described->compute != 68 && !(described->compute >= 74 && described->compute <= 77)) return NOT_SUPPORTED;
    if (described->scale != R_32F || (described->epilogue & ~(1u | RELU | BIAS)) != 0) return NOT_SUPPORTED;
    if (described->bias_type >= 0 && described->bias_type != problem->d.type) return NOT_SUPPORTED;
    return SUCCESS;
}

/* A number of the problem: FNV-1a over what an algorithm depends on. */
static uint64_t number_of(const struct Problem *problem) {
    const struct Layout *layouts[] = {&problem->a, &problem->b, &problem->c, &problem->d};
    uint64_t fields[4 * 5 + 4], number = 0xcbf29ce484222325u;
    int count = 0;
    for (int index = 0; index < 4; index++) {
        fields[count++] = (uint64_t)layouts[index]->type;
        fields[count++] = (uint64_t)layouts[index]->order;
        fields[count++] = layouts[index]->rows;
        fields[count++] = layouts[index]->columns;
        fields[count++] = (uint64_t)layouts[index]->pitch;
    }
    fields[count++] = (uint64_t)problem->description.compute;
    fields[count++] = (uint64_t)problem->description.transposed[0];
    fields[count++] = (uint64_t)problem->description.transposed[1];
    fields[count++] = problem->description.epilogue;
    for (int index = 0; index < count; index++) number = (number ^ fields[index]) * 0x100000001b3u;
    return number;
}

EXPORT int cublasLtMatmulAlgoGetHeuristic(void *handle, void *description, void *a, void *b, void *c, void *d,
                                          void *preference_handle, int requested, struct Result *results, int *found) {
    struct Problem problem;
    standInSay(__func__, NULL);
    const struct Preference *preference = get(KIND_PREFERENCE, preference_handle);
    if (preference == NULL || requested < 1 || results == NULL || found == NULL) return INVALID_VALUE;
    *found = 0;
    int status = problem_of(handle, description, (const void *const[]){a, b, c, d}, &problem);
    if (status != SUCCESS) return status;
    long long number = fault("none", 0) ? 0 : standInNumber("STAND_IN_LT_ALGORITHMS", 1);
    if (number == 0) return NOT_SUPPORTED;
    uint32_t aligned = 256;
    for (int index = 0; index < 4; index++)
        if (preference->aligned[index] < aligned) aligned = preference->aligned[index];
    /* No matrix may be aligned worse than its elements. */
    if (aligned < type_bytes(problem.a.type)) return NOT_SUPPORTED;
    for (; *found < requested && *found < number; ++*found) {
        uint64_t workspace = preference->workspace < WORKSPACE ? preference->workspace : WORKSPACE;
        results[*found] = (struct Result){
            .algorithm = {ALGORITHM, number_of(&problem), workspace, aligned, {(uint64_t)*found}},
            .workspace = workspace, .state = SUCCESS, .waves = 1};
    }
    return SUCCESS;
}

/* Products. */

static float from_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023, bits;
    float value;
    if (exponent == 0) {
        value = (float)fraction / (1 << 24);
        return sign ? -value : value;
    }
    bits = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | fraction << 13;
    memcpy(&value, &bits, 4);
    return value;
}

static uint16_t to_half(float value) {
    uint32_t bits, sign;
    memcpy(&bits, &value, 4);
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    /* From 65520 on it rounds to infinity. */
    if (bits >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (bits < 0x38800000) {
        /* The sum's last bit is 2^-24, the smallest half: the addition rounds to even. */
        float positive, half = 0.5f;
        memcpy(&positive, &bits, 4);
        positive += half;
        memcpy(&bits, &positive, 4);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    bits += 0xfff + (bits >> 13 & 1);
    return (uint16_t)(sign | (bits - (112u << 23)) >> 13);
}

static float load(const void *matrix, int type, uint64_t index) {
    float value;
    if (type == R_32F) {
        memcpy(&value, (const char *)matrix + 4 * index, 4);
        return value;
    }
    uint16_t half;
    memcpy(&half, (const char *)matrix + 2 * index, 2);
    if (type == R_16F) return from_half(half);
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&value, &bits, 4);
    return value;
}

static void store(void *matrix, int type, uint64_t index, float value) {
    uint16_t half;
    if (type == R_32F) {
        memcpy((char *)matrix + 4 * index, &value, 4);
        return;
    }
    if (type == R_16F) {
        half = to_half(value);
    } else {
        uint32_t bits;
        memcpy(&bits, &value, 4);
        if (value == value) bits += 0x7fff + (bits >> 16 & 1);
        half = (uint16_t)(bits >> 16);
        if (value != value) half |= 0x40;
    }
    memcpy((char *)matrix + 2 * index, &half, 2);
}

static uint64_t place(const struct Layout *layout, uint64_t row, uint64_t column) {
    return layout->order == 0 ? column * (uint64_t)layout->pitch + row : row * (uint64_t)layout->pitch + column;
}

static size_t layout_bytes(const struct Layout *layout) {
    return (place(layout, layout->rows - 1, layout->columns - 1) + 1) * type_bytes(layout->type);
}

struct Product {
    struct Problem problem;
    uint64_t a, b, c, d, workspace, workspace_bytes;
    float alpha, beta;
    void *stream;
    long long number;
};

/* A matrix as f32, each sum's terms side by side. */
static float *gathered(const struct Layout *layout, const void *matrix, int transposed, uint64_t outer, uint64_t terms,
                       int outer_is_row) {
    float *values = malloc(outer * terms * sizeof *values);
    if (values == NULL) abort();
    for (uint64_t at = 0; at < outer; at++)
        for (uint64_t term = 0; term < terms; term++) {
            int as_row = outer_is_row != transposed;
            uint64_t index = as_row ? place(layout, at, term) : place(layout, term, at);
            values[at * terms + term] = load(matrix, layout->type, index);
        }
    return values;
}

/* As fast as the device would be, where STAND_IN_FLOPS says how fast that is. */
static void take_time(const struct Problem *problem, const struct timespec *started) {
    double rate = (double)standInNumber("STAND_IN_FLOPS", 0);
    if (rate <= 0) return;
    double seconds = 2.0 * (double)problem->rows * (double)problem->columns * (double)problem->terms / rate;
    struct timespec end = *started;
    long long nanoseconds = end.tv_nsec + (long long)(seconds * 1e9);
    end.tv_sec += nanoseconds / 1000000000;
    end.tv_nsec = nanoseconds % 1000000000;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL);
}

static void compute(const struct Product *product, const void *a, const void *b, const void *c, void *d, const void *bias,
                    float *workspace) {
    const struct Problem *problem = &product->problem;
    const struct Description *description = &problem->description;
    uint64_t terms = problem->terms;
    float *left = gathered(&problem->a, a, description->transposed[0], problem->rows, terms, 1);
    float *right = gathered(&problem->b, b, description->transposed[1], problem->columns, terms, 0);
    uint64_t batch = workspace != NULL ? product->workspace_bytes / sizeof *workspace : problem->rows;
    float *sums = workspace != NULL ? workspace : malloc(batch * sizeof *sums);
    if (sums == NULL) abort();
    for (uint64_t column = 0; column < problem->columns; column++)
        for (uint64_t first = 0; first < problem->rows; first += batch) {
            uint64_t count = problem->rows - first < batch ? problem->rows - first : batch;
            for (uint64_t row = 0; row < count; row++) {
                const float *x = left + (first + row) * terms, *y = right + column * terms;
                float sum = 0;
                for (uint64_t term = 0; term < terms; term++) sum += x[term] * y[term];
                sums[row] = sum;
            }
            for (uint64_t row = 0; row < count; row++) {
                float value = product->alpha * sums[row];
                if (product->beta != 0)
                    value += product->beta * load(c, problem->c.type, place(&problem->c, first + row, column));
                if (bias != NULL) value += load(bias, problem->d.type, first + row);
                if (description->epilogue & RELU) value = value > 0 ? value : 0;
                store(d, problem->d.type, place(&problem->d, first + row, column), value);
            }
        }
    if (workspace == NULL) free(sums);
    free(left);
    free(right);
    uint64_t last = place(&problem->d, problem->rows - 1, problem->columns - 1);
    if (fault("wrong", product->number)) store(d, problem->d.type, last, load(d, problem->d.type, last) * 2 + 1);
}

static void run(void *argument, int cancelled) {
    struct Product *product = argument;
    const struct Problem *problem = &product->problem;
    struct timespec started;
    clock_gettime(CLOCK_MONOTONIC, &started);
    struct { uint64_t address; size_t bytes; void *host; } memory[] = {
        {product->a, layout_bytes(&problem->a), NULL},
        {product->b, layout_bytes(&problem->b), NULL},
        {product->beta != 0 ? product->c : 0, layout_bytes(&problem->c), NULL},
        {product->d, layout_bytes(&problem->d), NULL},
        {problem->description.epilogue & BIAS ? problem->description.bias : 0,
         problem->rows * type_bytes(problem->d.type), NULL},
        {product->workspace_bytes > 0 ? product->workspace : 0, product->workspace_bytes, NULL},
    };
    int there = 1;
    for (int index = 0; index < 6 && !cancelled; index++)
        if (memory[index].address != 0) {
            memory[index].host = standInPin(memory[index].address, memory[index].bytes);
            there &= memory[index].host != NULL;
        }
    if (!cancelled && there) {
        compute(product, memory[0].host, memory[1].host, memory[2].host, memory[3].host, memory[4].host, memory[5].host);
        take_time(problem, &started);
    } else if (!cancelled) {
        fprintf(stderr, "stand-in: memory was freed before a product used it\n");
        standInSpoil(product->stream, CUDA_ERROR_ILLEGAL_ADDRESS);
    }
    for (int index = 0; index < 6; index++)
        if (memory[index].host != NULL) standInUnpin(memory[index].address);
    free(product);
}

static int holds(uint64_t address, size_t bytes, uint64_t aligned, int device) {
    return address % aligned == 0 && standInHolds(address, bytes, device);
}

EXPORT int cublasLtMatmul(void *handle, void *description, const float *alpha, const void *a, void *a_layout,
                          const void *b, void *b_layout, const float *beta, const void *c, void *c_layout, void *d,
                          void *d_layout, const struct Algorithm *algorithm, void *workspace, size_t workspace_bytes,
                          void *stream) {
    int device;
    struct Product product = {.a = (uint64_t)a, .b = (uint64_t)b, .c = (uint64_t)c, .d = (uint64_t)d,
                              .workspace = (uint64_t)workspace, .stream = stream};
    struct Problem *problem = &product.problem;
    standInSay(__func__, stream);
    int status = problem_of(handle, description, (const void *const[]){a_layout, b_layout, c_layout, d_layout}, problem);
    if (status != SUCCESS) return status;
    if (alpha == NULL || beta == NULL) return INVALID_VALUE;
    product.alpha = *alpha;
    product.beta = *beta;
    /* Without an algorithm the library chooses one that needs nothing. */
    uint64_t aligned = type_bytes(problem->d.type);
    if (algorithm != NULL) {
        if (algorithm->magic != ALGORITHM || algorithm->problem != number_of(problem)) return INVALID_VALUE;
        if (algorithm->workspace > workspace_bytes) return INVALID_VALUE;
        product.workspace_bytes = algorithm->workspace;
        aligned = algorithm->aligned;
    }
    const struct Lt *lt = get(KIND_HANDLE, handle);
    if (lt == NULL) return NOT_INITIALIZED;
    if (standInStreamDevice(stream, &device) != CUDA_SUCCESS) return EXECUTION_FAILED;
    if (device != lt->device) return INVALID_VALUE;
    if (!holds(product.a, layout_bytes(&problem->a), aligned, device)) return INVALID_VALUE;
    if (!holds(product.b, layout_bytes(&problem->b), aligned, device)) return INVALID_VALUE;
    if (!holds(product.d, layout_bytes(&problem->d), aligned, device)) return INVALID_VALUE;
    if (product.beta != 0 && !holds(product.c, layout_bytes(&problem->c), aligned, device)) return INVALID_VALUE;
    /* NVIDIA's may compute in place of C, and nowhere else. */
    if (product.d == product.a || product.d == product.b) return INVALID_VALUE;
    size_t bias_bytes = problem->rows * type_bytes(problem->d.type);
    if ((problem->description.epilogue & BIAS) &&
        !holds(problem->description.bias, bias_bytes, type_bytes(problem->d.type), device))
        return INVALID_VALUE;
    if (workspace_bytes > 0 && !holds(product.workspace, workspace_bytes, 16, device)) return INVALID_VALUE;
    pthread_mutex_lock(&lock);
    product.number = products++;
    pthread_mutex_unlock(&lock);
    if (fault("error", product.number)) return EXECUTION_FAILED;
    struct Product *made = malloc(sizeof *made);
    if (made == NULL) return ALLOC_FAILED;
    *made = product;
    if (standInLaunch(stream, "product", run, made) != CUDA_SUCCESS) {
        free(made);
        return EXECUTION_FAILED;
    }
    return SUCCESS;
}
