/* What decoders do to single values of bf16 between their matrix products, each in one pass and in fp32 within: gated
 * activations and rotary embeddings. Knows rows, not models.
 */

#include "lanes.h"

/* Which activation the gate goes through; `reward_model.pointwise` says the same. */
enum { SILU = 0, GELU_TANH = 1 };

/* x times the logistic function of z. */
static inline __m512 times_logistic(__m512 x, __m512 z) {
    __m512 one = _mm512_set1_ps(1.0f);
    __m512 exponent = _mm512_mul_ps(_mm512_abs_ps(z), _mm512_set1_ps(-1.44269504f)); /* 1 / log(2) */
    /* exp(-|z|), which is nothing long before it would be infinitely little. */
    __m512 power = power_of_two(_mm512_max_ps(exponent, _mm512_set1_ps(-200.0f)));
    /* The function is 1 / (1 + power) where z is positive, and power / (1 + power) where it is negative. */
    __mmask16 negative = _mm512_cmp_ps_mask(z, _mm512_setzero_ps(), _CMP_LT_OQ);
    __m512 above = _mm512_mask_mov_ps(one, negative, power);
    return _mm512_div_ps(_mm512_mul_ps(x, above), _mm512_add_ps(one, power));
}

static inline __m512 activated(__m512 x, int kind) {
    if (kind == SILU) return times_logistic(x, x);
    /* 0.5 * (1 + tanh(z)) is the logistic function of 2 * z; z = sqrt(2 / pi) * (x + 0.044715 * x^3). */
    __m512 factor = _mm512_set1_ps(2 * 0.79788456f), cubic = _mm512_set1_ps(2 * 0.79788456f * 0.044715f);
    return times_logistic(x, _mm512_mul_ps(x, _mm512_fmadd_ps(_mm512_mul_ps(x, x), cubic, factor)));
}

/* out = activation(gate) * up: `rows` of `size`, apart by so many in gate and up and side by side in out. */
void reward_model_gated(const bf16 *gate, const bf16 *up, bf16 *out, int64_t rows, int64_t size, int64_t gate_row,
                        int64_t up_row, int kind, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < size; i += LANES) {
            __mmask16 some = first16(size - i);
            __m512 x = activated(load(gate + row * gate_row + i, some), kind);
            store(out + row * size + i, some, _mm512_mul_ps(x, load(up + row * up_row + i, some)));
        }
}

/* Pairs of values `half` apart in each head turned by the row's angles (Su et al. 2021, arXiv 2104.09864). */
static inline void rotate(const bf16 *x, bf16 *out, const bf16 *cos, const bf16 *sin, int64_t half) {
    for (int64_t i = 0; i < half; i += LANES) {
        __mmask16 some = first16(half - i);
        __m512 a = load(x + i, some), b = load(x + half + i, some);
        __m512 left = _mm512_mul_ps(b, load(sin + i, some)), right = _mm512_mul_ps(a, load(sin + half + i, some));
        store(out + i, some, _mm512_fmsub_ps(a, load(cos + i, some), left));
        store(out + half + i, some, _mm512_fmadd_ps(b, load(cos + half + i, some), right));
    }
}

/* x: `rows` of `heads` of 2 * `half`, apart by so many; out: [rows, heads, 2 * half]; cos and sin: [rows, 2 * half]. */
void reward_model_rotated(const bf16 *x, bf16 *out, const bf16 *cos, const bf16 *sin, int64_t rows, int64_t heads,
                          int64_t half, int64_t x_row, int64_t x_head, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t head = 0; head < heads; head++)
            rotate(x + row * x_row + head * x_head, out + (row * heads + head) * 2 * half, cos + row * 2 * half,
                   sin + row * 2 * half, half);
}
