// Which form this processor takes, and how the work is shared out among threads.
#include "grouped_matmul.hpp"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <cstdlib>
#include <vector>

namespace orchestrar {
namespace {

const Kernels& chosen() {
#if defined(__x86_64__)
    static const bool has_vnni = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
                                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    // For tests of the other form on a processor that has this one.
    static const bool is_refused = std::getenv("ORCHESTRAR_PLAIN_KERNELS") != nullptr;
    if (has_vnni && !is_refused) return vnni_kernels;
#endif
    return plain_kernels;
}

// Below this, waking another thread costs more than it saves.
constexpr size_t TOKENS_ROUNDED_ALONE = 4;
// Two blocks go through the tiles together.
constexpr size_t SHARED_OUT_PAIRS = 2;

}  // namespace

void multiply(const Weights& weights, const float* x, size_t tokens, const Around& around, float* out) {
    const Kernels& kernels = chosen();
    const size_t groups = weights.groups(), width = weights.columns * (around.gated ? 2 : 1);
    // The calling thread's own, and kept: a pass makes some hundred calls of the same sizes. Named by references,
    // since another thread that ran a lambda would find its own.
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
    if (tokens <= TOKENS_ROUNDED_ALONE)
        for (size_t token = 0; token < tokens; ++token) round(token);
    else
        tbb::parallel_for(size_t(0), tokens, round, tbb::static_partitioner());
    const Rounded rounded{halves.data(), scales.data(), tokens};
    const size_t pairs = (weights.block_count() + 1) / 2;
    tbb::parallel_for(
        tbb::blocked_range<size_t>(0, pairs, SHARED_OUT_PAIRS),
        [&](const tbb::blocked_range<size_t>& range) {
            const size_t end = range.end() == pairs ? weights.block_count() : 2 * range.end();
            kernels.multiply(weights, 2 * range.begin(), end, rounded, around.residual, out);
        },
        tbb::static_partitioner());
}

}  // namespace orchestrar
