// The rotary position embedding of queries and keys that lie in one row: [queries | keys | values], heads beside each
// other, with the two halves of a head as pairs (Su et al., RoFormer, in the order of GPT-NeoX).
#pragma once

#include <cstddef>

namespace orchestrar {

struct Heads {
    size_t queries;
    size_t keys;
    size_t size;
    // [size] each, or null: RMS normalisation of every head before it is turned.
    const float* query_norm;
    const float* key_norm;
    float epsilon;

    size_t width() const { return (queries + 2 * keys) * size; }
};

// x and out [tokens, heads.width()], cosines and sines [tokens, heads.size / 2]; values are copied.
void rotate(const Heads& heads, const float* x, const float* cosines, const float* sines, size_t tokens, float* out);

}  // namespace orchestrar
