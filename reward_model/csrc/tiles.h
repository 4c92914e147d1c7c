/* Matrices of bf16 as tiles, and their products: in AMX's tile registers, or by AVX-512 BF16's instruction on the same
 * layout, which has pairs of a right matrix's rows side by side (Intel, "Intel Architecture Instruction Set Extensions
 * Programming Reference", 319433, chapter 3). Knows matrices, not what they are for.
 */

#pragma once

#include <string.h>

#include "lanes.h"

enum {
    PAIRS = 2 * LANES,   /* bf16 in a row of a tile, which has 16 rows */
    TILE = LANES * PAIRS /* bf16 in a tile */
};

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* The first n lanes of 16 bits. */
static __mmask32 first32(int64_t n) { return n >= 32 ? ~0u : n <= 0 ? 0 : (1u << n) - 1; }

/* A register whose first lane is number j: its lanes [low, high). */
static __mmask16 lanes_within(int64_t j, int64_t low, int64_t high) {
    return first16(high - j) & (__mmask16)~first16(low - j);
}

/* 16 x 16 values of 32 bits. */
static void transpose(__m512i r[LANES]) {
    __m512i t[LANES];
    for (int i = 0; i < LANES; i += 4) {
        __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]), b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
        __m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]), d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
        t[i] = _mm512_unpacklo_epi64(a, c), t[i + 1] = _mm512_unpackhi_epi64(a, c);
        t[i + 2] = _mm512_unpacklo_epi64(b, d), t[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    for (int i = 0; i < 4; i++) {
        __m512i a = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88), b = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xdd);
        __m512i c = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88), d = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xdd);
        r[i] = _mm512_shuffle_i32x4(a, c, 0x88), r[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88), r[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
}

/* For a product by their transpose: tiles [keys / 16][size / 32], each 16 pairs of a key's for 16 keys, else zeros. */
static void lay_out_keys(const bf16 *key, int64_t stride, const int32_t *rows, int64_t keys, int64_t size, bf16 *to) {
    for (int64_t block = 0; block < round_up(keys, PAIRS); block += LANES)
        for (int64_t at = 0; at < size; at += PAIRS, to += TILE) {
            __m512i r[LANES];
            for (int i = 0; i < LANES; i++)
                r[i] = block + i < keys
                           ? _mm512_maskz_loadu_epi16(first32(size - at), key + rows[block + i] * stride + at)
                           : _mm512_setzero_si512();
            transpose(r);
            for (int i = 0; i < LANES; i++) _mm512_store_si512(to + i * PAIRS, r[i]);
        }
}

/* Themselves, in whole tiles; what they do not fill is zeros. */
static void copy_keys(const bf16 *key, int64_t stride, const int32_t *rows, int64_t keys, int64_t size, bf16 *to) {
    for (int64_t i = 0; i < round_up(keys, LANES); i++)
        for (int64_t at = 0; at < size; at += PAIRS, to += PAIRS)
            _mm512_store_si512(to, i < keys ? _mm512_maskz_loadu_epi16(first32(size - at), key + rows[i] * stride + at)
                                            : _mm512_setzero_si512());
}

/* 16 values of one key as 32 bits each. */
static __m512i widened(const bf16 *value, int64_t stride, const int32_t *rows, int64_t k, int64_t keys, __mmask16 some) {
    if (k >= keys) return _mm512_setzero_si512();
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, value + rows[k] * stride));
}

/* For a product by them: tiles [keys / 32][size / 16, an even number], each 16 pairs of keys for 16 of size, else zeros. */
static void lay_out_values(const bf16 *value, int64_t stride, const int32_t *rows, int64_t keys, int64_t size, bf16 *to) {
    for (int64_t block = 0; block < keys; block += PAIRS)
        for (int64_t at = 0; at < round_up(size, PAIRS); at += LANES)
            for (int64_t k = block; k < block + PAIRS; k += 2, to += PAIRS) {
                __m512i even = widened(value + at, stride, rows, k, keys, first16(size - at));
                __m512i odd = widened(value + at, stride, rows, k + 1, keys, first16(size - at));
                _mm512_store_si512(to, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
            }
}

/* What is multiplied: [16, 2 * pairs] bf16, of which the first `rows` rows count, by tiles, of which the one for 16 pairs
 * and a column of 16 is tile number step * down + column * right. Rows are apart by so many of their own. */
typedef struct {
    float *out; /* [16, 16 * columns, an even number]; what does not count is undefined */
    int64_t out_row;
    const bf16 *left; /* as wide as whole tiles */
    int64_t left_row;
    const bf16 *tiles;
    int64_t down, right;
    int64_t rows, pairs, columns;
} Product;

static void by_amx(const Product *p) {
    int64_t steps = round_up(p->pairs, LANES) / LANES;
    /* Compilers do not know that tiles are loaded from memory. */
    __asm__ volatile("" ::: "memory");
    for (int64_t column = 0; column < p->columns; column += 2) {
        _tile_zero(0);
        _tile_zero(1);
        for (int64_t step = 0; step < steps; step++) {
            const bf16 *tile = p->tiles + (step * p->down + column * p->right) * TILE;
            _tile_loadd(2, p->left + step * PAIRS, p->left_row * sizeof(bf16));
            _tile_loadd(3, tile, PAIRS * sizeof(bf16));
            _tile_loadd(4, tile + p->right * TILE, PAIRS * sizeof(bf16));
            _tile_dpbf16ps(0, 2, 3);
            _tile_dpbf16ps(1, 2, 4);
        }
        _tile_stored(0, p->out + column * LANES, p->out_row * sizeof(float));
        _tile_stored(1, p->out + (column + 1) * LANES, p->out_row * sizeof(float));
    }
}

enum { HALF = LANES / 2 };

/* 8 rows from `first` on by one or two columns: what is loaded of the left matrix is used for both. */
static inline __attribute__((always_inline)) void part(const Product *p, int64_t first, int64_t column, int two) {
    __m512 sums[HALF], more[HALF];
    for (int i = 0; i < HALF; i++) sums[i] = more[i] = _mm512_setzero_ps();
    for (int64_t step = 0; step * LANES < p->pairs; step++) {
        const bf16 *tile = p->tiles + (step * p->down + column * p->right) * TILE;
        const bf16 *from = p->left + first * p->left_row + step * PAIRS;
        int64_t pairs = least(LANES, p->pairs - step * LANES);
        for (int64_t pair = 0; pair < pairs; pair++) {
            __m512bh row = (__m512bh)_mm512_load_si512(tile + pair * PAIRS), other = row;
            if (two) other = (__m512bh)_mm512_load_si512(tile + p->right * TILE + pair * PAIRS);
#pragma GCC unroll 8
            for (int i = 0; i < HALF; i++) {
                int32_t both;
                memcpy(&both, from + i * p->left_row + 2 * pair, sizeof both);
                __m512bh twice = (__m512bh)_mm512_set1_epi32(both);
                sums[i] = _mm512_dpbf16_ps(sums[i], row, twice);
                if (two) more[i] = _mm512_dpbf16_ps(more[i], other, twice);
            }
        }
    }
    float *out = p->out + first * p->out_row + column * LANES;
    for (int i = 0; i < HALF; i++) {
        _mm512_store_ps(out + i * p->out_row, sums[i]);
        if (two) _mm512_store_ps(out + i * p->out_row + LANES, more[i]);
    }
}

static void by_avx512(const Product *p) {
    for (int64_t column = 0; column + 1 < p->columns; column += 2)
        for (int64_t first = 0; first < p->rows; first += HALF) part(p, first, column, 1);
    if (p->columns % 2)
        for (int64_t first = 0; first < p->rows; first += HALF) part(p, first, p->columns - 1, 0);
}

/* AMX's own: the first palette, 8 tiles of 16 rows of 64 bytes. */
static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TILES = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

