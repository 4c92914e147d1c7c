/* Layer and RMS norms of bf16 rows, in fp32 within. Knows rows, not models. */

#include <math.h>

#include "lanes.h"

enum { FEW = 16 /* rows that one thread is done with before another has begun */ };

static inline float sum_of(const bf16 *x, int64_t size) {
    __m512 sum = _mm512_setzero_ps(), more = sum;
    int64_t i = 0;
    for (; i + 2 * LANES <= size; i += 2 * LANES) {
        sum = _mm512_add_ps(sum, load(x + i, ALL));
        more = _mm512_add_ps(more, load(x + i + LANES, ALL));
    }
    for (; i < size; i += LANES) sum = _mm512_add_ps(sum, load(x + i, first16(size - i)));
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
        __m512 apart = _mm512_maskz_sub_ps(first16(size - i), load(x + i, first16(size - i)), level);
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
        __mmask16 some = first16(size - i);
        __m512 y = _mm512_fmadd_ps(load(x + i, some), by, plus);
        y = _mm512_fmadd_ps(y, _mm512_maskz_loadu_ps(some, weight + i), _mm512_maskz_loadu_ps(some, bias + i));
        store(out + i, some, y);
    }
}

static inline void add(const bf16 *x, const bf16 *y, bf16 *sum, int64_t size) {
    for (int64_t i = 0; i < size; i += LANES) {
        __mmask16 some = first16(size - i);
        store(sum + i, some, _mm512_add_ps(load(x + i, some), load(y + i, some)));
    }
}

/* `rows` of `size`, apart by `stride` in x and side by side elsewhere; where there is a y, of x + y, which is kept in
 * `sum` if that is somewhere. */
void reward_model_norm(const bf16 *x, const bf16 *y, bf16 *sum, bf16 *out, const float *weight, const float *bias,
                       int64_t rows, int64_t size, int64_t stride, float epsilon, int centred, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows > FEW)
    for (int64_t row = 0; row < rows; row++) {
        const bf16 *from = x + row * stride;
        if (y) {
            bf16 *both = (sum ? sum : out) + row * size;
            add(from, y + row * size, both, size);
            from = both;
        }
        norm(from, out + row * size, size, weight, bias, epsilon, centred);
    }
}
