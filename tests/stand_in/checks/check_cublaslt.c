/* Checks of the stand-in for cuBLASLt, with products as its caller asks for them: by columns, the weight first. */
#include <math.h>
#include <string.h>

#include "check.h"

enum { F32 = 0, F16 = 2, BF16 = 14, INVALID = 7, FAILED = 13, UNSUPPORTED = 15, NOT_INITIALIZED = 1 };
enum { TRANSA = 3, TRANSB = 4, EPILOGUE = 7, BIAS_POINTER = 8, WORKSPACE = 1 };

struct Algorithm {
    uint64_t data[8];
};

struct Result {
    struct Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

/* A problem: `rows x terms` by `terms x columns`, by columns. */
struct Problem {
    int type, rows, columns, terms, pitch, transposed[2];
    unsigned epilogue;
    float alpha, beta;
};

static void *handle, *stream;
static const size_t ROOM = 1 << 20;

static size_t bytes_of(int type) { return type == F32 ? 4 : 2; }

/* Exact in all types. */
static float value(int index, int salt) { return (float)((index * 37 + salt * 11) % 61 - 30) / 32; }

static void encode(int type, float number, void *to) {
    uint32_t bits;
    memcpy(&bits, &number, 4);
    if (type == F32) {
        memcpy(to, &number, 4);
    } else if (type == BF16) {
        uint16_t half = (uint16_t)(bits >> 16);
        memcpy(to, &half, 2);
    } else {
        int exponent;
        float fraction = frexpf(fabsf(number), &exponent);
        uint16_t half = number == 0 ? 0 : (uint16_t)((exponent + 14) << 10 | (int)(fraction * 2048 - 1024));
        if (number < 0) half |= 0x8000;
        memcpy(to, &half, 2);
    }
}

static double decode(int type, const void *from) {
    uint16_t half;
    uint32_t bits;
    float number;
    memcpy(&half, from, 2);
    if (type == F32) {
        memcpy(&number, from, 4);
        return number;
    }
    if (type == F16) {
        int exponent = half >> 10 & 31, fraction = half & 1023;
        double size = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
        if (exponent == 31) size = fraction ? NAN : INFINITY;
        return half & 0x8000 ? -size : size;
    }
    bits = (uint32_t)half << 16;
    memcpy(&number, &bits, 4);
    return number;
}

static Address upload(int type, int count, int salt) {
    char *host = malloc((size_t)count * 4);
    for (int index = 0; index < count; index++) encode(type, value(index, salt), host + (size_t)index * bytes_of(type));
    Address address = new_memory((size_t)count * bytes_of(type));
    OK(cuMemcpyHtoDAsync_v2(address, host, (size_t)count * bytes_of(type), stream));
    OK(cuStreamSynchronize(stream));
    free(host);
    return address;
}

struct Made {
    void *description, *a, *b, *d, *preference;
    struct Result result;
};

static int plan(const struct Problem *problem, struct Made *made, uint32_t aligned) {
    uint64_t room = ROOM;
    int found;
    OK(cublasLtMatmulDescCreate(&made->description, 68, F32));
    OK(cublasLtMatmulDescSetAttribute(made->description, TRANSA, &problem->transposed[0], 4));
    OK(cublasLtMatmulDescSetAttribute(made->description, TRANSB, &problem->transposed[1], 4));
    OK(cublasLtMatmulDescSetAttribute(made->description, EPILOGUE, &problem->epilogue, 4));
    uint64_t rows = (uint64_t)problem->rows, columns = (uint64_t)problem->columns, terms = (uint64_t)problem->terms;
    OK(cublasLtMatrixLayoutCreate(&made->a, problem->type, problem->transposed[0] ? terms : rows,
                                  problem->transposed[0] ? rows : terms, problem->pitch));
    if (problem->transposed[1])
        OK(cublasLtMatrixLayoutCreate(&made->b, problem->type, columns, terms, problem->columns));
    else
        OK(cublasLtMatrixLayoutCreate(&made->b, problem->type, terms, columns, problem->terms));
    OK(cublasLtMatrixLayoutCreate(&made->d, problem->type, rows, columns, problem->rows));
    OK(cublasLtMatmulPreferenceCreate(&made->preference));
    OK(cublasLtMatmulPreferenceSetAttribute(made->preference, WORKSPACE, &room, 8));
    for (int attribute = 5; attribute <= 8; attribute++)
        OK(cublasLtMatmulPreferenceSetAttribute(made->preference, attribute, &aligned, 4));
    return cublasLtMatmulAlgoGetHeuristic(handle, made->description, made->a, made->b, made->d, made->d, made->preference,
                                          1, &made->result, &found);
}

static void unplan(struct Made *made) {
    OK(cublasLtMatmulDescDestroy(made->description));
    OK(cublasLtMatrixLayoutDestroy(made->a));
    OK(cublasLtMatrixLayoutDestroy(made->b));
    OK(cublasLtMatrixLayoutDestroy(made->d));
    OK(cublasLtMatmulPreferenceDestroy(made->preference));
}

static void start(void) {
    use_device(0);
    stream = new_stream();
    OK(cublasLtCreate(&handle));
    EQUAL(cublasLtGetVersion(), 120805);
}

/* How many elements of a product are wrong. */
static int wrong_elements(struct Problem problem) {
    struct Made made;
    int a_count = problem.pitch * (problem.transposed[0] ? problem.rows : problem.terms);
    int d_count = problem.rows * problem.columns, wrong = 0;
    Address a = upload(problem.type, a_count, 1), b = upload(problem.type, problem.terms * problem.columns, 2);
    Address c = upload(problem.type, d_count, 3), bias = upload(problem.type, problem.rows, 4);
    Address d = new_memory((size_t)d_count * bytes_of(problem.type)), workspace = new_memory(ROOM);
    OK(plan(&problem, &made, 256));
    OK(cublasLtMatmulDescSetAttribute(made.description, BIAS_POINTER, &bias, 8));
    OK(cublasLtMatmul(handle, made.description, &problem.alpha, a, made.a, b, made.b, &problem.beta, c, made.d, d, made.d,
                      &made.result.algorithm, workspace, ROOM, stream));
    char *got = malloc((size_t)d_count * 4);
    OK(cuMemcpyDtoHAsync_v2(got, d, (size_t)d_count * bytes_of(problem.type), stream));
    OK(cuStreamSynchronize(stream));
    for (int column = 0; column < problem.columns; column++)
        for (int row = 0; row < problem.rows; row++) {
            double sum = 0;
            for (int term = 0; term < problem.terms; term++)
                sum += (double)value(problem.transposed[0] ? row * problem.pitch + term : term * problem.pitch + row, 1) *
                       value(problem.transposed[1] ? term * problem.columns + column : column * problem.terms + term, 2);
            sum = problem.alpha * sum + (problem.beta != 0 ? problem.beta * value(column * problem.rows + row, 3) : 0);
            if (problem.epilogue & 4) sum += value(row, 4);
            if (problem.epilogue & 2 && sum < 0) sum = 0;
            double allowed = fabs(sum) * (problem.type == F32 ? 1e-6 : problem.type == F16 ? 0x1p-11 : 0x1p-8) + 1e-5;
            double found = decode(problem.type, got + (size_t)(column * problem.rows + row) * bytes_of(problem.type));
            wrong += !(fabs(found - sum) <= allowed);
        }
    free(got);
    unplan(&made);
    for (Address *each = (Address[]){a, b, c, bias, d, workspace, 0}; *each != 0; each++) OK(cuMemFree_v2(*each));
    return wrong;
}

static void products(void) {
    static const int types[] = {F32, F16, BF16};
    start();
    for (int type = 0; type < 3; type++)
        for (int transposed = 0; transposed < 4; transposed++)
            for (int kind = 0; kind < 4; kind++) {
                int a_transposed = transposed & 1, along = a_transposed ? 96 : 64;
                struct Problem problem = {
                    .type = types[type], .rows = 64, .columns = 5, .terms = 96, .pitch = along + (kind == 2 ? 8 : 0),
                    .transposed = {a_transposed, transposed >> 1}, .epilogue = (unsigned[]){1, 4, 6, 2}[kind],
                    .alpha = kind == 3 ? 0.5f : 1, .beta = kind == 3 ? 2 : 0};
                EQUAL(wrong_elements(problem), 0);
            }
    EQUAL(wrong_elements((struct Problem){BF16, 64, 80, 96, 96, {1, 0}, 4, 1, 0}), 0);
    OK(cublasLtDestroy(handle));
    EQUAL(cublasLtDestroy(handle), NOT_INITIALIZED);
}

/* Every half, times one, and the rounding of halves of their steps. */
static void halves(void) {
    enum { COUNT = 65536 };
    static uint16_t in[COUNT], out[COUNT];
    static const int types[] = {F16, BF16};
    start();
    Address a = new_memory(sizeof in), b = new_memory(2), d = new_memory(sizeof in);
    for (int index = 0; index < COUNT; index++) in[index] = (uint16_t)index;
    for (int type = 0; type < 2; type++) {
        struct Problem problem = {types[type], COUNT, 1, 1, COUNT, {0, 0}, 1, 1, 0};
        struct Made made;
        uint16_t one = types[type] == F16 ? 0x3c00 : 0x3f80;
        OK(plan(&problem, &made, 2));
        OK(cuMemcpyHtoD_v2(a, in, sizeof in));
        OK(cuMemcpyHtoD_v2(b, &one, 2));
        OK(cuCtxSynchronize());
        /* Times one, and times what is rounded. */
        for (int round = 0; round < 4; round++) {
            float alpha = (float[]){1, 1 + 0x1p-12f, 1 - 0x1p-13f, 0.75f}[round];
            OK(cublasLtMatmul(handle, made.description, &alpha, a, made.a, b, made.b, &problem.beta, d, made.d, d, made.d,
                              NULL, 0, 0, stream));
            OK(cuStreamSynchronize(stream));
            OK(cuMemcpyDtoH_v2(out, d, sizeof out));
            for (int index = 0; index < COUNT; index++) {
                double given = decode(types[type], &in[index]), found = decode(types[type], &out[index]);
                double exact = (double)(float)(given * (double)alpha);
                if (isnan(given)) {
                    EXPECT(isnan(found));
                    continue;
                }
                /* A sum begins with 0, which a negative 0 does not change. */
                if (round == 0 && index != 0x8000) EQUAL(out[index], in[index]);
                if (isinf(found) || isinf(given)) {
                    EXPECT(fabs(exact) > (types[type] == F16 ? 65519 : 3.38e38));
                    continue;
                }
                /* No neighbour is nearer, and of two that are as near it is the even one. */
                for (int step = -1; step <= 1; step += 2) {
                    uint16_t neighbour = (uint16_t)(out[index] + step);
                    double other = decode(types[type], &neighbour);
                    if (isnan(other) || isinf(other) || (neighbour & 0x8000) != (out[index] & 0x8000)) continue;
                    double far = fabs(found - exact), near = fabs(other - exact);
                    EXPECT(far < near || (far == near && (out[index] & 1) == 0) || found == other);
                }
            }
        }
        unplan(&made);
    }
}

/* A product is on its stream, behind what is there. */
static void in_order(void) {
    start();
    struct Problem problem = {F32, 16, 16, 16, 16, {1, 0}, 1, 1, 0};
    struct Made made;
    Address a = new_memory(1024), b = new_memory(1024), d = new_memory(1024), workspace = new_memory(ROOM);
    OK(plan(&problem, &made, 256));
    for (int round = 1; round < 40; round++) {
        float one = (float)round, got[256];
        unsigned bits;
        memcpy(&bits, &one, 4);
        OK(cuMemsetD32Async(a, bits, 256, stream));
        OK(cuMemsetD32Async(b, 0x3f800000, 256, stream));
        OK(cublasLtMatmul(handle, made.description, &problem.alpha, a, made.a, b, made.b, &problem.beta, d, made.d, d,
                          made.d, &made.result.algorithm, workspace, ROOM, stream));
        OK(cuMemcpyDtoHAsync_v2(got, d, sizeof got, stream));
        OK(cuMemsetD8Async(d, 0, 1024, stream));
        OK(cuStreamSynchronize(stream));
        EXPECT(got[0] == 16 * (float)round && got[255] == 16 * (float)round);
    }
    EQUAL(standInCalls("cublasLtMatmul"), 39);
}

static void takes_time(void) {
    start();
    long long started = now_us();
    EQUAL(wrong_elements((struct Problem){F32, 64, 64, 64, 64, {0, 0}, 1, 1, 0}), 0);
    /* 2 * 64^3 operations at 5 million a second. */
    EXPECT(now_us() - started > 100000);
}

static void refused(void) {
    float one = 1, zero = 0;
    start();
    struct Problem problem = {BF16, 16, 16, 16, 16, {1, 0}, 4, 1, 0};
    struct Made made, other;
    Address a = new_memory(512), b = new_memory(512), d = new_memory(512), bias = new_memory(32);
    Address workspace = new_memory(ROOM);
    OK(plan(&problem, &made, 256));
    problem.columns = 8;
    OK(plan(&problem, &other, 256));
#define TRIED(desc, x, y, out, algorithm, space, bytes, on) \
    cublasLtMatmul(handle, desc, &one, x, made.a, y, made.b, &zero, out, made.d, out, made.d, algorithm, space, bytes, on)
    /* No bias yet. */
    EQUAL(TRIED(made.description, a, b, d, &made.result.algorithm, workspace, ROOM, stream), INVALID);
    OK(cublasLtMatmulDescSetAttribute(made.description, BIAS_POINTER, &bias, 8));
    OK(TRIED(made.description, a, b, d, &made.result.algorithm, workspace, ROOM, stream));
    EQUAL(TRIED(made.description, a, b, d, &other.result.algorithm, workspace, ROOM, stream), INVALID);
    EQUAL(TRIED(made.description, a + 2, b, d, &made.result.algorithm, workspace, ROOM, stream), INVALID);
    EQUAL(TRIED(made.description, a, b, a, &made.result.algorithm, workspace, ROOM, stream), INVALID);
    EQUAL(TRIED(made.description, a, 4096, d, &made.result.algorithm, workspace, ROOM, stream), INVALID);
    EQUAL(TRIED(made.description, a, b, d, &made.result.algorithm, 0, ROOM, stream), INVALID);
    EQUAL(TRIED(made.description, a, b, d, &made.result.algorithm, workspace, ROOM + 1, stream), INVALID);
    EQUAL(TRIED(made.description, a, b, d, &made.result.algorithm, workspace, 16, stream), INVALID);
    EQUAL(TRIED(made.description, a, b, d, &made.result.algorithm, workspace, ROOM, (void *)0x777), FAILED);
    EQUAL(TRIED(made.a, a, b, d, &made.result.algorithm, workspace, ROOM, stream), INVALID);
    EQUAL(cublasLtMatmul((void *)0x777, made.description, &one, a, made.a, b, made.b, &zero, d, made.d, d, made.d,
                         &made.result.algorithm, workspace, ROOM, stream), NOT_INITIALIZED);
    /* Sizes that do not fit each other. */
    EQUAL(cublasLtMatmul(handle, made.description, &one, a, made.a, b, other.b, &zero, d, made.d, d, made.d, NULL, 0, 0,
                         stream), INVALID);
    problem.type = 3;
    EQUAL(plan(&problem, &other, 256), UNSUPPORTED);
    problem.type = F32;
    EQUAL(plan(&problem, &other, 2), UNSUPPORTED);
    problem.epilogue = 32;
    EQUAL(plan(&problem, &other, 256), UNSUPPORTED);
    unplan(&made);
    EQUAL(cublasLtMatmulDescDestroy(made.description), INVALID);
    EQUAL(TRIED(made.description, a, b, d, &made.result.algorithm, workspace, ROOM, stream), INVALID);
}

static void fault_wrong(void) {
    start();
    struct Problem problem = {F32, 8, 8, 8, 8, {0, 0}, 1, 1, 0};
    int from = strchr(getenv("STAND_IN_LT_FAULT"), ':') != NULL;
    for (int product = 0; product < 4; product++) EQUAL(wrong_elements(problem), product >= 2 || !from);
}

static void fault_error(void) {
    start();
    struct Problem problem = {F32, 8, 8, 8, 8, {0, 0}, 1, 1, 0};
    struct Made made;
    Address x = new_memory(256), d = new_memory(256);
    OK(plan(&problem, &made, 4));
    EQUAL(cublasLtMatmul(handle, made.description, &problem.alpha, x, made.a, x, made.b, &problem.beta, d, made.d, d,
                         made.d, NULL, 0, 0, stream), FAILED);
}

static void fault_none(void) {
    start();
    struct Problem problem = {F32, 8, 8, 8, 8, {0, 0}, 1, 1, 0};
    struct Made made;
    EQUAL(plan(&problem, &made, 256), UNSUPPORTED);
}

static void fault_create(void) {
    use_device(0);
    EQUAL(cublasLtCreate(&handle), NOT_INITIALIZED);
}

const struct Case cublaslt_cases[] = {
    {"cublaslt: products", products, "STAND_IN_JITTER=3 STAND_IN_JITTER_US=50", 1, 0, 0},
    {"cublaslt: halves", halves, "", 1, 0, 0},
    {"cublaslt: in order", in_order, "STAND_IN_JITTER=3 STAND_IN_JITTER_US=200", 1, 0, 0},
    {"cublaslt: a product takes its time", takes_time, "STAND_IN_FLOPS=5e6", 1, 0, 0},
    {"cublaslt: wrong use is refused", refused, "", 1, 0, 0},
    {"cublaslt: fault wrong", fault_wrong, "STAND_IN_LT_FAULT=wrong", 1, 0, 0},
    {"cublaslt: fault wrong, later", fault_wrong, "STAND_IN_LT_FAULT=wrong:2", 1, 0, 0},
    {"cublaslt: fault error", fault_error, "STAND_IN_LT_FAULT=error", 1, 0, 0},
    {"cublaslt: fault none", fault_none, "STAND_IN_LT_FAULT=none", 1, 0, 0},
    {"cublaslt: no algorithms", fault_none, "STAND_IN_LT_ALGORITHMS=0", 1, 0, 0},
    {"cublaslt: fault create", fault_create, "STAND_IN_LT_FAULT=create", 1, 0, 0},
    {NULL, NULL, NULL, 0, 0, 0},
};
