// The rotary position embedding of queries and keys in one row: [queries | keys | values], one head after another. The
// two halves of a head form the pairs (Su et al., RoFormer, in the order of GPT-NeoX).
#pragma once

#include <cstddef>

namespace orchestrar {

struct Heads {
    size_t queries;
    size_t keys;
    size_t size;
    // [size] each, or null: the RMS normalisation of each head before its rotation.
    const float* query_norm;
    const float* key_norm;
    float epsilon;

    size_t width() const { return (queries + 2 * keys) * size; }
};

// x and out are [tokens, heads.width()], cosines and sines [tokens, heads.size / 2]; values are copied.
void rotate(const Heads& heads, const float* x, const float* cosines, const float* sines, size_t tokens, float* out);

}  // namespace orchestrar
