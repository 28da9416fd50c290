// CUDA's words for a CPU, so that tests run guided_filter.cu without a GPU: g++ -DFGF_HOST -include host_shim.h.
//
// A thread of a block is a fibre (ucontext) with a stack of its own; __syncthreads() goes on to the next one. Blocks
// run one after the other. This shows wrong arithmetic, wrong indices, a missing barrier (run the threads in another
// order, and the result changes), a barrier that not all threads reach, and with g++'s checks for undefined behaviour an
// access of several values at an address that is no multiple of them. It cannot show what depends on the hardware:
// warps, the memory model, approximate instructions, speed.

#pragma once

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __launch_bounds__(threads)
// In a section of its own, so that it can be filled between blocks: memory that nobody wrote is then no number.
#define __shared__ static __attribute__((section("fgf_shared")))

struct Dim3 {
    int x, y, z;
};

struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) ushort4 {
    unsigned short x, y, z, w;
};
struct alignas(4) uchar4 {
    unsigned char x, y, z, w;
};

static Dim3 threadIdx, blockIdx, blockDim;

static inline int max(int x, int y) { return x > y ? x : y; }
static inline int min(int x, int y) { return x < y ? x : y; }
#define __expf expf  // glibc has a function of CUDA's name
static inline float __fdividef(float x, float y) { return x / y; }

// binary16 → float, exact.
static inline float widen(unsigned short bits) {
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                      : exponent     ? ldexpf((float)(1024 + fraction), exponent - 25)
                                     : ldexpf((float)fraction, -24);
    return bits & 0x8000 ? -magnitude : magnitude;
}

// float → binary16, to the nearest, ties to even: scaled so that the last digit kept is worth 1, then rounded. Digits
// that round up to the next power of two carry into the exponent by themselves.
static inline unsigned short narrow(float value) {
    unsigned short sign = signbit(value) ? 0x8000 : 0;
    if (isnan(value)) return 0x7e00;
    int exponent;  // |value| = [½, 1) · 2^exponent
    if (isinf(value) || (frexpf(value, &exponent), exponent > 16)) return sign | 0x7c00;
    if (value == 0.0f || exponent < -13) exponent = -13;  // subnormal: fewer digits, all worth 2^-24
    int digits = (int)nearbyintf(ldexpf(fabsf(value), 11 - exponent));
    return sign | (unsigned short)(((exponent + 13) << 10) + digits);
}

namespace shim {

extern "C" char __start_fgf_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_fgf_shared[] __attribute__((weak, visibility("hidden")));

constexpr size_t STACK_BYTES = 64 * 1024;
enum Outcome { DONE = 0, UNEVEN_BARRIER = 1, UNDEFINED_BEHAVIOUR = 2, OUT_OF_MEMORY = 3 };

struct Fibre {
    ucontext_t context;
    bool finished;
};

static ucontext_t scheduler;
static Fibre *fibres;
static int current;
static volatile bool trapped;

// -fsanitize=undefined -fsanitize-undefined-trap-on-error makes an illegal instruction of what it finds.
static void on_trap(int) {
    trapped = true;
    setcontext(&scheduler);
}

static void prepare(Fibre &fibre, void (*entry)(), char *stack) {
    fibre.finished = false;
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = stack;
    fibre.context.uc_stack.ss_size = STACK_BYTES;
    fibre.context.uc_link = &scheduler;
    makecontext(&fibre.context, entry, 0);
}

static Outcome run_block(void (*entry)(), int threads, char *stacks, bool backwards) {
    if (__start_fgf_shared) memset(__start_fgf_shared, 0xff, __stop_fgf_shared - __start_fgf_shared);
    for (int thread = 0; thread < threads; ++thread) prepare(fibres[thread], entry, stacks + thread * STACK_BYTES);
    for (int waiting = threads; waiting;) {
        waiting = 0;
        for (int turn = 0; turn < threads; ++turn) {
            current = backwards ? threads - 1 - turn : turn;
            threadIdx = {current % blockDim.x, current / blockDim.x % blockDim.y, current / blockDim.x / blockDim.y};
            swapcontext(&scheduler, &fibres[current].context);
            if (trapped) return UNDEFINED_BEHAVIOUR;
            waiting += !fibres[current].finished;
        }
        if (waiting && waiting < threads) return UNEVEN_BARRIER;
    }
    return DONE;
}

template <class Kernel>
static int launch(const Kernel &kernel, const int grid[3], const int block[3], bool backwards) {
    static const Kernel *running;
    running = &kernel;
    void (*entry)() = [] {
        (*running)();
        fibres[current].finished = true;  // then on to uc_link, the scheduler
    };
    void (*before)(int) = signal(SIGILL, on_trap);
    trapped = false;
    blockDim = {block[0], block[1], block[2]};
    int threads = block[0] * block[1] * block[2];
    fibres = (Fibre *)calloc(threads, sizeof(Fibre));
    char *stacks = (char *)malloc(threads * STACK_BYTES);
    Outcome outcome = fibres && stacks ? DONE : OUT_OF_MEMORY;
    for (int i = 0; outcome == DONE && i < grid[0] * grid[1] * grid[2]; ++i) {
        blockIdx = {i % grid[0], i / grid[0] % grid[1], i / grid[0] / grid[1]};
        outcome = run_block(entry, threads, stacks, backwards);
    }
    signal(SIGILL, before);
    free(stacks);
    free(fibres);
    return outcome;
}

}  // namespace shim

static inline void __syncthreads() { swapcontext(&shim::fibres[shim::current].context, &shim::scheduler); }

// For ctypes. `kernel` is one of guided_filter.cu's; the types of its pointers make no difference to the call.
extern "C" int run_coefficients(
    void (*kernel)(const void *, const void *, int, int, void *), const int *grid, const int *block, int backwards,
    const void *guide, const void *logits, int h, int w, void *coefficients) {
    return shim::launch([=] { kernel(guide, logits, h, w, coefficients); }, grid, block, backwards);
}

extern "C" int run_apply(
    void (*kernel)(const void *, const void *, int, int, int, int, void *), const int *grid, const int *block,
    int backwards, const void *coefficients, const void *guide, int h, int w, int H, int W, void *alpha) {
    return shim::launch([=] { kernel(coefficients, guide, h, w, H, W, alpha); }, grid, block, backwards);
}
