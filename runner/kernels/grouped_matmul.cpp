// Chooses the kernels for this processor, and divides the work among threads.
#include "grouped_matmul.hpp"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace orchestrar {
namespace {

const Kernels& kernels_for_processor() {
#if defined(__x86_64__)
    static const bool has_vnni = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
                                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    static const bool has_avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    // Lets tests use the kernels of a lesser processor: `avx2` or `plain`.
    static const char* const variable = std::getenv("ORCHESTRAR_KERNELS");
    static const std::string forced = variable ? variable : "";
    if (has_vnni && forced.empty()) return vnni_kernels;
    if (has_avx2 && forced != "plain") return avx2_kernels;
#endif
    return plain_kernels;
}

// Up to this many, waking another thread costs more than it saves.
constexpr size_t MAX_TOKENS_ON_ONE_THREAD = 4;
// How many pairs of blocks a thread takes at least; a tile covers one pair.
constexpr size_t MIN_PAIRS_PER_THREAD = 2;

}  // namespace

void multiply(const Weights& weights, const float* x, size_t tokens, const Around& around, float* out) {
    const Kernels& kernels = kernels_for_processor();
    const size_t groups = weights.groups(), width = weights.columns * (around.gated ? 2 : 1);
    // Each calling thread keeps its buffers: a pass makes some hundred calls of the same sizes. The lambdas use
    // references, since another thread that runs a lambda would otherwise use its own buffers.
    static thread_local std::vector<int8_t> own_halves;
    static thread_local std::vector<float> own_scales;
    std::vector<int8_t>& halves = own_halves;
    std::vector<float>& scales = own_scales;
    halves.resize(tokens * groups * GROUP_BYTES);
    scales.resize(tokens * groups * 2);
    const auto round = [&](size_t token) {
        kernels.round(x + token * width, weights.columns, around, halves.data() + token * groups * GROUP_BYTES,
                      scales.data() + token * groups * 2);
    };
    if (tokens <= MAX_TOKENS_ON_ONE_THREAD)
        for (size_t token = 0; token < tokens; ++token) round(token);
    else
        tbb::parallel_for(size_t(0), tokens, round, tbb::static_partitioner());
    const Rounded rounded{halves.data(), scales.data(), tokens};
    const size_t pairs = (weights.block_count() + 1) / 2;
    tbb::parallel_for(
        tbb::blocked_range<size_t>(0, pairs, MIN_PAIRS_PER_THREAD),
        [&](const tbb::blocked_range<size_t>& range) {
            const size_t end = range.end() == pairs ? weights.block_count() : 2 * range.end();
            kernels.multiply(weights, 2 * range.begin(), end, rounded, around.residual, out);
        },
        tbb::static_partitioner());
}

}  // namespace orchestrar
