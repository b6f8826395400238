// Products of float32 activations with weights in groups of 32 codes, each group with a scale and an offset:
//     weight = scale * code + offset,   code in 0..15 or 0..255
// which is the form of GGUF's 4- and 8-bit types, so that they lose nothing. Activations are rounded to 16 bits in the
// same groups (an error of 2^-16 of a group's largest value) and multiplied as integers; where an instruction takes
// bytes alone, their two bytes are multiplied separately.
//
// Weights are stored in blocks of 16 rows. A block has, for each group of 32 columns:
//     codes   4 bits: 4 x 64 bytes, each with a low nibble of columns 8i..8i+3 and a high one of columns 8i+4..8i+7;
//             8 bits: 8 x 64 bytes, each with columns 4i..4i+3. Within 64 bytes: for each of the 16 rows, 4 columns.
//     scales  16 values of float16, one for each row
//     offsets 16 values of float16, one for each row
// The last block has 16 rows, too; those beyond the matrix are ignored.
#pragma once

#include <cstddef>
#include <cstdint>

namespace orchestrar {

constexpr size_t GROUP = 32;
constexpr size_t BLOCK_ROWS = 16;
// The bytes of a group of activations: 32 high bytes, then 32 low ones.
constexpr size_t GROUP_BYTES = 2 * GROUP;
constexpr float LARGEST_CODE = 127 * 256 + 127;

struct Weights {
    const uint8_t* blocks;
    size_t rows;
    size_t columns;
    size_t bits;

    size_t groups() const { return columns / GROUP; }
    size_t group_bytes() const { return bits * 64 + 2 * 2 * BLOCK_ROWS; }
    size_t block_bytes() const { return groups() * group_bytes(); }
    size_t block_count() const { return (rows + BLOCK_ROWS - 1) / BLOCK_ROWS; }
};

// The operations before a product, on a token's activations, and what is added after it.
struct Around {
    const float* norm = nullptr;      // [columns]: RMS normalisation with this weight
    float epsilon = 0;
    bool gated = false;               // the input is [2 x columns]: silu(first half) * second half
    const float* residual = nullptr;  // [tokens, rows]
};

// Rounded activations, in the form of the kernels that rounded them. Each token and group has GROUP_BYTES in `halves`,
// and in `scales` its scale and its sum.
struct Rounded {
    const int8_t* halves;
    const float* scales;
    size_t tokens;
};

struct Kernels {
    void (*round)(const float* x, size_t columns, const Around& around, int8_t* halves, float* scales);
    // Computes the output columns of the blocks from `first` up to `last`; `out` is [tokens, weights.rows].
    void (*multiply)(const Weights& weights, size_t first, size_t last, const Rounded& x, const float* residual,
                     float* out);
};

extern const Kernels plain_kernels;
#if defined(__x86_64__)
extern const Kernels vnni_kernels;
extern const Kernels avx2_kernels;
#endif

// Reads one row of weights as floats; out is [weights.columns].
void read_row(const Weights& weights, size_t row, float* out);

// Computes out [tokens, weights.rows] = around(x [tokens, columns]) x weights, on the threads of the caller's arena.
void multiply(const Weights& weights, const float* x, size_t tokens, const Around& around, float* out);

}  // namespace orchestrar
