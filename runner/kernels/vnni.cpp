// The kernels for processors with AVX-512 VNNI: one instruction multiplies 64 codes by 64 bytes of activations.
#if defined(__x86_64__)
#include <cstddef>
#include <cstdint>

// Included before the pragma below: the linker might keep an inline function that was compiled for these processors as
// the one copy for all of them.
#include "grouped_matmul.hpp"

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma")
#include <immintrin.h>

#define INLINE __attribute__((always_inline)) inline
#define UNROLLED _Pragma("GCC unroll 8")

namespace orchestrar {
namespace {

// e^x: 2^n times the Taylor series of the rest up to the sixth power, whose error is below 2^-23 for |rest| <= ln(2)/2.
INLINE __m512 exponential(__m512 x) {
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 rest = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145752f), x);
    rest = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), rest);
    __m512 sum = _mm512_set1_ps(1.0f / 720);
    const float factors[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    for (float factor : factors) sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(factor));
    return _mm512_scalef_ps(sum, n);
}

INLINE __m512 gate(__m512 x, __m512 up) {
    const __m512 one = _mm512_set1_ps(1);
    const __m512 below = _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x)));
    return _mm512_mul_ps(_mm512_div_ps(x, below), up);
}

INLINE __m512 values_at(const float* x, size_t column, size_t columns, const Around& around, __m512 inverse_root) {
    const __m512 value = _mm512_loadu_ps(x + column);
    if (around.gated) return gate(value, _mm512_loadu_ps(x + columns + column));
    if (!around.norm) return value;
    return _mm512_mul_ps(_mm512_mul_ps(value, inverse_root), _mm512_loadu_ps(around.norm + column));
}

INLINE void store_halves(__m512i whole, int8_t* high, int8_t* low) {
    const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(128)), 8);
    _mm_storeu_si128((__m128i*)high, _mm512_cvtepi32_epi8(upper));
    _mm_storeu_si128((__m128i*)low, _mm512_cvtepi32_epi8(_mm512_sub_epi32(whole, _mm512_slli_epi32(upper, 8))));
}

void round_token(const float* x, size_t columns, const Around& around, int8_t* halves, float* scales) {
    __m512 inverse_root = _mm512_setzero_ps();
    if (around.norm) {
        __m512 squares = _mm512_setzero_ps();
        for (size_t i = 0; i < columns; i += 16) {
            const __m512 values = _mm512_loadu_ps(x + i);
            squares = _mm512_fmadd_ps(values, values, squares);
        }
        const float mean = _mm512_reduce_add_ps(squares) / float(columns);
        inverse_root = _mm512_div_ps(_mm512_set1_ps(1), _mm512_sqrt_ps(_mm512_set1_ps(mean + around.epsilon)));
    }
    for (size_t g = 0; g < columns / GROUP; ++g, halves += GROUP_BYTES, scales += 2) {
        const __m512 a = values_at(x, g * GROUP, columns, around, inverse_root);
        const __m512 b = values_at(x, g * GROUP + 16, columns, around, inverse_root);
        const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
        const __m512 inverse = _mm512_set1_ps(largest > 0 ? LARGEST_CODE / largest : 0);
        const __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
        const __m512i second = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
        store_halves(first, halves, halves + GROUP);
        store_halves(second, halves + 16, halves + GROUP + 16);
        scales[0] = largest / LARGEST_CODE;
        scales[1] = scales[0] * float(_mm512_reduce_add_epi32(_mm512_add_epi32(first, second)));
    }
}

// Computes TOKENS tokens by BLOCKS blocks; `last` is the mask of the rows that the last block has.
template <int BITS, int TOKENS, int BLOCKS>
INLINE void tile(const Weights& weights, const uint8_t* codes, const Rounded& x, size_t token, __mmask16 last,
                 const float* residual, float* out) {
    const size_t groups = weights.groups(), block_bytes = weights.block_bytes();
    const int8_t* halves = x.halves + token * groups * GROUP_BYTES;
    const float* scales = x.scales + token * groups * 2;
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512 sums[BLOCKS][TOKENS];
    UNROLLED for (int b = 0; b < BLOCKS; ++b)
        UNROLLED for (int t = 0; t < TOKENS; ++t) sums[b][t] = _mm512_setzero_ps();
    for (size_t g = 0; g < groups; ++g, codes += weights.group_bytes()) {
        __m512i high[BLOCKS][TOKENS], low[BLOCKS][TOKENS], both[BLOCKS], four[BLOCKS];
        UNROLLED for (int b = 0; b < BLOCKS; ++b)
            UNROLLED for (int t = 0; t < TOKENS; ++t) high[b][t] = low[b][t] = _mm512_setzero_si512();
        UNROLLED for (int i = 0; i < 8; ++i) {
            UNROLLED for (int b = 0; b < BLOCKS; ++b) {
                const uint8_t* block = codes + b * block_bytes;
                if (BITS == 8) {
                    four[b] = _mm512_loadu_si512(block + i * 64);
                } else {
                    if (i % 2 == 0) both[b] = _mm512_loadu_si512(block + i / 2 * 64);
                    four[b] = _mm512_and_si512(i % 2 ? _mm512_srli_epi16(both[b], 4) : both[b], nibble);
                }
            }
            UNROLLED for (int t = 0; t < TOKENS; ++t) {
                const int32_t* fours = (const int32_t*)(halves + (t * groups + g) * GROUP_BYTES);
                const __m512i upper = _mm512_set1_epi32(fours[i]), lower = _mm512_set1_epi32(fours[8 + i]);
                UNROLLED for (int b = 0; b < BLOCKS; ++b) {
                    high[b][t] = _mm512_dpbusd_epi32(high[b][t], four[b], upper);
                    low[b][t] = _mm512_dpbusd_epi32(low[b][t], four[b], lower);
                }
            }
        }
        UNROLLED for (int b = 0; b < BLOCKS; ++b) {
            const __m256i* halfs = (const __m256i*)(codes + b * block_bytes + BITS * 64);
            const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(halfs));
            const __m512 offset = _mm512_cvtph_ps(_mm256_loadu_si256(halfs + 1));
            UNROLLED for (int t = 0; t < TOKENS; ++t) {
                const float* own = scales + 2 * (t * groups + g);
                const __m512i whole = _mm512_add_epi32(_mm512_slli_epi32(high[b][t], 8), low[b][t]);
                const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(whole), _mm512_set1_ps(own[0]));
                sums[b][t] = _mm512_fmadd_ps(product, scale, sums[b][t]);
                sums[b][t] = _mm512_fmadd_ps(offset, _mm512_set1_ps(own[1]), sums[b][t]);
            }
        }
    }
    UNROLLED for (int b = 0; b < BLOCKS; ++b) {
        const __mmask16 rows = b == BLOCKS - 1 ? last : __mmask16(-1);
        UNROLLED for (int t = 0; t < TOKENS; ++t) {
            const size_t place = (token + t) * weights.rows + b * BLOCK_ROWS;
            __m512 sum = sums[b][t];
            if (residual) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(rows, residual + place));
            _mm512_mask_storeu_ps(out + place, rows, sum);
        }
    }
}

template <int BITS, int BLOCKS>
INLINE void all_tokens(const Weights& weights, size_t block, const Rounded& x, const float* residual, float* out) {
    const uint8_t* codes = weights.blocks + block * weights.block_bytes();
    const size_t row = block * BLOCK_ROWS, left = weights.rows - row - (BLOCKS - 1) * BLOCK_ROWS;
    const __mmask16 last = left < BLOCK_ROWS ? __mmask16((1u << left) - 1) : __mmask16(-1);
    const float* added = residual ? residual + row : nullptr;
    size_t token = 0;
    for (; token + 4 <= x.tokens; token += 4) tile<BITS, 4, BLOCKS>(weights, codes, x, token, last, added, out + row);
    switch (x.tokens - token) {
        case 3: tile<BITS, 3, BLOCKS>(weights, codes, x, token, last, added, out + row); break;
        case 2: tile<BITS, 2, BLOCKS>(weights, codes, x, token, last, added, out + row); break;
        case 1: tile<BITS, 1, BLOCKS>(weights, codes, x, token, last, added, out + row); break;
        default: break;
    }
}

// Two blocks at a time, so that each activation that fills a register is used twice.
template <int BITS>
void blocks_of(const Weights& weights, size_t first, size_t last, const Rounded& x, const float* residual, float* out) {
    size_t block = first;
    for (; block + 2 <= last; block += 2) all_tokens<BITS, 2>(weights, block, x, residual, out);
    if (block < last) all_tokens<BITS, 1>(weights, block, x, residual, out);
}

void multiply_blocks(const Weights& weights, size_t first, size_t last, const Rounded& x, const float* residual,
                     float* out) {
    if (weights.bits == 4)
        blocks_of<4>(weights, first, last, x, residual, out);
    else
        blocks_of<8>(weights, first, last, x, residual, out);
}

}  // namespace

const Kernels vnni_kernels{round_token, multiply_blocks};

}  // namespace orchestrar
#endif
