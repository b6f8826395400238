// The kernels for any processor: plain loops for the compiler to vectorise.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "grouped_matmul.hpp"

#if defined(__x86_64__)
#define EACH_PROCESSOR __attribute__((target_clones("arch=haswell", "default")))
#else
#define EACH_PROCESSOR
#endif

namespace orchestrar {
namespace {

float from_half(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = (half >> 10) & 31, fraction = half & 1023;
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * std::ldexp(float(fraction), -24);
    const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

int code(const uint8_t* group, size_t bits, size_t row, size_t column) {
    const size_t four = column / 4, place = row * 4 + column % 4;
    if (bits == 8) return group[four * 64 + place];
    const uint8_t both = group[four / 2 * 64 + place];
    return four % 2 ? both >> 4 : both & 15;
}

float half_at(const uint8_t* group, const Weights& weights, size_t index) {
    uint16_t half;
    std::memcpy(&half, group + weights.bits * 64 + 2 * index, sizeof half);
    return from_half(half);
}

float value_at(const float* x, size_t column, size_t columns, const Around& around, float inverse_root) {
    if (around.gated) return x[column] / (1 + std::exp(-x[column])) * x[columns + column];
    return around.norm ? x[column] * inverse_root * around.norm[column] : x[column];
}

void round_token(const float* x, size_t columns, const Around& around, int8_t* halves, float* scales) {
    float squares = 0;
    if (around.norm)
        for (size_t i = 0; i < columns; ++i) squares += x[i] * x[i];
    const float inverse_root = 1 / std::sqrt(squares / float(columns) + around.epsilon);
    for (size_t g = 0; g < columns / GROUP; ++g, halves += GROUP_BYTES, scales += 2) {
        float values[GROUP], largest = 0;
        for (size_t i = 0; i < GROUP; ++i) {
            values[i] = value_at(x, g * GROUP + i, columns, around, inverse_root);
            largest = std::max(largest, std::abs(values[i]));
        }
        const float inverse = largest > 0 ? LARGEST_CODE / largest : 0;
        int sum = 0;
        for (size_t i = 0; i < GROUP; ++i) {
            const int whole = int(std::nearbyint(values[i] * inverse)), high = (whole + 128) >> 8;
            halves[i] = int8_t(high);
            halves[GROUP + i] = int8_t(whole - high * 256);
            sum += whole;
        }
        scales[0] = largest / LARGEST_CODE;
        scales[1] = scales[0] * float(sum);
    }
}

// Adds one group of a block for all tokens, so that its codes are widened only once.
EACH_PROCESSOR
void add_group(const float (*codes)[BLOCK_ROWS], const float* row_scales, const float* row_offsets, const Rounded& x,
               size_t group, size_t groups, float* sums) {
    for (size_t t = 0; t < x.tokens; ++t) {
        const int8_t* halves = x.halves + (t * groups + group) * GROUP_BYTES;
        const float* scale = x.scales + 2 * (t * groups + group);
        float products[BLOCK_ROWS] = {};
        for (size_t k = 0; k < GROUP; ++k) {
            const float activation = float(halves[k]) * 256 + float(halves[GROUP + k]);
            for (size_t r = 0; r < BLOCK_ROWS; ++r) products[r] += activation * codes[k][r];
        }
        for (size_t r = 0; r < BLOCK_ROWS; ++r)
            sums[t * BLOCK_ROWS + r] += products[r] * scale[0] * row_scales[r] + scale[1] * row_offsets[r];
    }
}

void multiply_blocks(const Weights& weights, size_t first, size_t last, const Rounded& x, const float* residual,
                     float* out) {
    const size_t groups = weights.groups();
    float* sums = new float[x.tokens * BLOCK_ROWS];
    for (size_t block = first; block < last; ++block) {
        std::fill_n(sums, x.tokens * BLOCK_ROWS, 0.0f);
        for (size_t g = 0; g < groups; ++g) {
            const uint8_t* group = weights.blocks + block * weights.block_bytes() + g * weights.group_bytes();
            float codes[GROUP][BLOCK_ROWS], scales[BLOCK_ROWS], offsets[BLOCK_ROWS];
            for (size_t r = 0; r < BLOCK_ROWS; ++r) {
                scales[r] = half_at(group, weights, r);
                offsets[r] = half_at(group, weights, BLOCK_ROWS + r);
                for (size_t k = 0; k < GROUP; ++k) codes[k][r] = float(code(group, weights.bits, r, k));
            }
            add_group(codes, scales, offsets, x, g, groups, sums);
        }
        const size_t row = block * BLOCK_ROWS, count = std::min(BLOCK_ROWS, weights.rows - row);
        for (size_t t = 0; t < x.tokens; ++t)
            for (size_t r = 0; r < count; ++r) {
                const size_t place = t * weights.rows + row + r;
                out[place] = sums[t * BLOCK_ROWS + r] + (residual ? residual[place] : 0);
            }
    }
    delete[] sums;
}

}  // namespace

const Kernels plain_kernels{round_token, multiply_blocks};

void read_row(const Weights& weights, size_t row, float* out) {
    const uint8_t* block = weights.blocks + row / BLOCK_ROWS * weights.block_bytes();
    const size_t r = row % BLOCK_ROWS;
    for (size_t g = 0; g < weights.groups(); ++g, block += weights.group_bytes()) {
        const float scale = half_at(block, weights, r), offset = half_at(block, weights, BLOCK_ROWS + r);
        for (size_t k = 0; k < GROUP; ++k) out[g * GROUP + k] = scale * float(code(block, weights.bits, r, k)) + offset;
    }
}

}  // namespace orchestrar
