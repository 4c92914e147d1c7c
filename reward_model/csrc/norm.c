/* Layer and RMS norms of bf16 rows, in fp32 within. Knows rows, not models. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>

typedef uint16_t bf16;

enum { LANES = 16 /* fp32 in a register */ };

static const __mmask16 ALL = 0xffff;

static inline __mmask16 first(int64_t n) { return n >= LANES ? ALL : (__mmask16)((1u << n) - 1); }

static inline __m512 load(const bf16 *from, __mmask16 some) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline float sum_of(const bf16 *x, int64_t size) {
    __m512 sum = _mm512_setzero_ps(), more = sum;
    int64_t i = 0;
    for (; i + 2 * LANES <= size; i += 2 * LANES) {
        sum = _mm512_add_ps(sum, load(x + i, ALL));
        more = _mm512_add_ps(more, load(x + i + LANES, ALL));
    }
    for (; i < size; i += LANES) sum = _mm512_add_ps(sum, load(x + i, first(size - i)));
    return _mm512_reduce_add_ps(_mm512_add_ps(sum, more));
}

/* Of (x - mean)^2. */
static inline float squares_of(const bf16 *x, int64_t size, float mean) {
    __m512 level = _mm512_set1_ps(mean), sum = _mm512_setzero_ps(), more = sum;
    int64_t i = 0;
    for (; i + 2 * LANES <= size; i += 2 * LANES) {
        __m512 left = _mm512_sub_ps(load(x + i, ALL), level), right = _mm512_sub_ps(load(x + i + LANES, ALL), level);
        sum = _mm512_fmadd_ps(left, left, sum), more = _mm512_fmadd_ps(right, right, more);
    }
    for (; i < size; i += LANES) {
        __m512 apart = _mm512_maskz_sub_ps(first(size - i), load(x + i, first(size - i)), level);
        sum = _mm512_fmadd_ps(apart, apart, sum);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(sum, more));
}

/* One row: (x - mean) / sqrt(variance + epsilon) * weight + bias, the mean being 0 where it is not `centred`. */
static inline void norm(const bf16 *x, bf16 *out, int64_t size, const float *weight, const float *bias, float epsilon,
                        int centred) {
    float mean = centred ? sum_of(x, size) / size : 0;
    float factor = 1 / sqrtf(squares_of(x, size, mean) / size + epsilon);
    __m512 by = _mm512_set1_ps(factor), plus = _mm512_set1_ps(-mean * factor);
    for (int64_t i = 0; i < size; i += LANES) {
        __mmask16 some = first(size - i);
        __m512 y = _mm512_fmadd_ps(load(x + i, some), by, plus);
        y = _mm512_fmadd_ps(y, _mm512_maskz_loadu_ps(some, weight + i), _mm512_maskz_loadu_ps(some, bias + i));
        _mm256_mask_storeu_epi16(out + i, some, (__m256i)_mm512_cvtneps_pbh(y));
    }
}

/* `rows` of `size`, apart by `stride` in x and side by side in out. */
void reward_model_norm(const bf16 *x, bf16 *out, const float *weight, const float *bias, int64_t rows, int64_t size,
                       int64_t stride, float epsilon, int centred, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++)
        norm(x + row * stride, out + row * size, size, weight, bias, epsilon, centred);
}
