/* Registers of 16 fp32, read from and written to bf16. Knows numbers, not what they are for. */

#pragma once

#include <immintrin.h>
#include <stdint.h>

typedef uint16_t bf16;

enum { LANES = 16 /* fp32 in a register */ };

static const __mmask16 ALL = 0xffff;

/* The first n lanes. */
static inline __mmask16 first16(int64_t n) { return n >= 16 ? ALL : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }

static inline __m512 load(const bf16 *from, __mmask16 some) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline void store(bf16 *to, __mmask16 some, __m512 x) {
    _mm256_mask_storeu_epi16(to, some, (__m256i)_mm512_cvtneps_pbh(x));
}

/* 2^x for x <= 0, to 3e-6 of it: a polynomial for what is left of x beside its whole part. */
static inline __m512 power_of_two(__m512 x) {
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 part = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(0.0095701f);
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(0.05591786f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(0.24024745f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(0.69312181f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(0.99999926f));
    return _mm512_scalef_ps(y, whole);
}
