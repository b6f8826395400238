// The kernels for processors with AVX2: 16 codes, widened to 16 bits, times 16 activations of 16 bits in one instruction.
// All sums of a group are exact in 32 bits: 32 products of at most 255 x 32639.
#if defined(__x86_64__)
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

// Included before the pragma below: the linker might keep an inline function that was compiled for these processors as
// the one copy for all of them.
#include "grouped_matmul.hpp"

#pragma GCC target("avx2,f16c,fma")
#include <immintrin.h>

#define INLINE __attribute__((always_inline)) inline
#define UNROLLED _Pragma("GCC unroll 8")

namespace orchestrar {
namespace {

constexpr size_t HALF_BLOCK = BLOCK_ROWS / 2;

// Joins each activation's two bytes, in their place: the products need no separate bytes.
void round_token(const float* x, size_t columns, const Around& around, int8_t* halves, float* scales) {
    plain_kernels.round(x, columns, around, halves, scales);
    for (size_t g = 0; g < columns / GROUP; ++g, halves += GROUP_BYTES) {
        int16_t whole[GROUP];
        for (size_t i = 0; i < GROUP; ++i) whole[i] = int16_t(halves[i] * 256 + halves[GROUP + i]);
        std::memcpy(halves, whole, sizeof whole);
    }
}

// Four columns of four rows.
template <int BITS>
INLINE __m256i widened(const uint8_t* codes, int four, int part) {
    if (BITS == 8) return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(codes + four * 64) + part));
    const __m128i both = _mm_loadu_si128((const __m128i*)(codes + four / 2 * 64) + part);
    const __m128i shifted = four % 2 ? _mm_srli_epi16(both, 4) : both;
    return _mm256_cvtepu8_epi16(_mm_and_si128(shifted, _mm_set1_epi8(15)));
}

// Computes TOKENS tokens by HALVES times 8 rows of a block; `out` is [TOKENS][BLOCK_ROWS].
template <int BITS, int TOKENS, int HALVES>
INLINE void tile(const Weights& weights, const uint8_t* codes, size_t half, const Rounded& x, size_t token,
                 float (*out)[BLOCK_ROWS]) {
    const size_t groups = weights.groups();
    const int8_t* wholes = x.halves + token * groups * GROUP_BYTES;
    const float* scales = x.scales + token * groups * 2;
    __m256 sums[TOKENS][HALVES];
    UNROLLED for (int t = 0; t < TOKENS; ++t)
        UNROLLED for (int h = 0; h < HALVES; ++h) sums[t][h] = _mm256_setzero_ps();
    for (size_t g = 0; g < groups; ++g, codes += weights.group_bytes()) {
        __m256i products[TOKENS][2 * HALVES];
        UNROLLED for (int t = 0; t < TOKENS; ++t)
            UNROLLED for (int p = 0; p < 2 * HALVES; ++p) products[t][p] = _mm256_setzero_si256();
        UNROLLED for (int four = 0; four < 8; ++four) {
            __m256i columns[2 * HALVES];
            UNROLLED for (int p = 0; p < 2 * HALVES; ++p) columns[p] = widened<BITS>(codes, four, 2 * int(half) + p);
            UNROLLED for (int t = 0; t < TOKENS; ++t) {
                int64_t activations;
                std::memcpy(&activations, wholes + (t * groups + g) * GROUP_BYTES + 8 * four, sizeof activations);
                const __m256i same = _mm256_set1_epi64x(activations);
                UNROLLED for (int p = 0; p < 2 * HALVES; ++p)
                    products[t][p] = _mm256_add_epi32(products[t][p], _mm256_madd_epi16(columns[p], same));
            }
        }
        UNROLLED for (int h = 0; h < HALVES; ++h) {
            const __m128i* halfs = (const __m128i*)(codes + BITS * 64) + half + h;
            const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128(halfs));
            const __m256 offset = _mm256_cvtph_ps(_mm_loadu_si128(halfs + 2));
            UNROLLED for (int t = 0; t < TOKENS; ++t) {
                const float* own = scales + 2 * (t * groups + g);
                // The two sums of each row, rows 0 1 4 5 2 3 6 7.
                const __m256i mixed = _mm256_hadd_epi32(products[t][2 * h], products[t][2 * h + 1]);
                const __m256i rows = _mm256_permute4x64_epi64(mixed, 0xD8);
                const __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(rows), _mm256_set1_ps(own[0]));
                sums[t][h] = _mm256_fmadd_ps(product, scale, sums[t][h]);
                sums[t][h] = _mm256_fmadd_ps(offset, _mm256_set1_ps(own[1]), sums[t][h]);
            }
        }
    }
    UNROLLED for (int t = 0; t < TOKENS; ++t)
        UNROLLED for (int h = 0; h < HALVES; ++h)
            _mm256_storeu_ps(out[t] + (half + h) * HALF_BLOCK, sums[t][h]);
}

// More tokens would not leave a register for each sum of a whole block.
template <int BITS, int TOKENS>
INLINE void whole_block(const Weights& weights, const uint8_t* codes, const Rounded& x, size_t token,
                        float (*out)[BLOCK_ROWS]) {
    if (TOKENS <= 2) {
        tile<BITS, TOKENS, 2>(weights, codes, 0, x, token, out);
    } else {
        tile<BITS, TOKENS, 1>(weights, codes, 0, x, token, out);
        tile<BITS, TOKENS, 1>(weights, codes, 1, x, token, out);
    }
}

template <int BITS>
void blocks_of(const Weights& weights, size_t first, size_t last, const Rounded& x, const float* residual, float* out) {
    constexpr size_t TOKENS = 4;
    for (size_t block = first; block < last; ++block) {
        const uint8_t* codes = weights.blocks + block * weights.block_bytes();
        const size_t row = block * BLOCK_ROWS, rows = std::min(BLOCK_ROWS, weights.rows - row);
        for (size_t token = 0; token < x.tokens; token += TOKENS) {
            float sums[TOKENS][BLOCK_ROWS];
            const size_t tokens = std::min(TOKENS, x.tokens - token);
            switch (tokens) {
                case 4: whole_block<BITS, 4>(weights, codes, x, token, sums); break;
                case 3: whole_block<BITS, 3>(weights, codes, x, token, sums); break;
                case 2: whole_block<BITS, 2>(weights, codes, x, token, sums); break;
                default: whole_block<BITS, 1>(weights, codes, x, token, sums); break;
            }
            for (size_t t = 0; t < tokens; ++t)
                for (size_t r = 0; r < rows; ++r) {
                    const size_t place = (token + t) * weights.rows + row + r;
                    out[place] = sums[t][r] + (residual ? residual[place] : 0);
                }
        }
    }
}

void multiply_blocks(const Weights& weights, size_t first, size_t last, const Rounded& x, const float* residual,
                     float* out) {
    if (weights.bits == 4)
        blocks_of<4>(weights, first, last, x, residual, out);
    else
        blocks_of<8>(weights, first, last, x, residual, out);
}

}  // namespace

const Kernels avx2_kernels{round_token, multiply_blocks};

}  // namespace orchestrar
#endif
