#include "rotary.hpp"

#include <tbb/parallel_for.h>

#include <cmath>
#include <cstring>

namespace orchestrar {
namespace {

// Up to this many, waking another thread costs more than it saves.
constexpr size_t MAX_TOKENS_ON_ONE_THREAD = 16;

void rotate_head(const float* x, const float* norm, const Heads& heads, const float* cosines, const float* sines,
                 float* out) {
    const size_t half = heads.size / 2;
    float inverse_root = 1;
    if (norm) {
        float squares = 0;
        for (size_t i = 0; i < heads.size; ++i) squares += x[i] * x[i];
        inverse_root = 1 / std::sqrt(squares / float(heads.size) + heads.epsilon);
    }
    for (size_t i = 0; i < half; ++i) {
        const float first = x[i] * inverse_root * (norm ? norm[i] : 1);
        const float second = x[half + i] * inverse_root * (norm ? norm[half + i] : 1);
        out[i] = first * cosines[i] - second * sines[i];
        out[half + i] = second * cosines[i] + first * sines[i];
    }
}

void rotate_token(const Heads& heads, const float* x, const float* cosines, const float* sines, float* out) {
    for (size_t head = 0; head < heads.queries + heads.keys; ++head) {
        const float* norm = head < heads.queries ? heads.query_norm : heads.key_norm;
        rotate_head(x + head * heads.size, norm, heads, cosines, sines, out + head * heads.size);
    }
    const size_t values_at = (heads.queries + heads.keys) * heads.size;
    std::memcpy(out + values_at, x + values_at, heads.keys * heads.size * sizeof(float));
}

}  // namespace

void rotate(const Heads& heads, const float* x, const float* cosines, const float* sines, size_t tokens, float* out) {
    const auto one = [&](size_t token) {
        const size_t at = token * heads.width(), angle = token * (heads.size / 2);
        rotate_token(heads, x + at, cosines + angle, sines + angle, out + at);
    };
    if (tokens <= MAX_TOKENS_ON_ONE_THREAD)
        for (size_t token = 0; token < tokens; ++token) one(token);
    else
        tbb::parallel_for(size_t(0), tokens, one, tbb::static_partitioner());
}

}  // namespace orchestrar
