/* AMX's tiles and their instructions written out in C, for CPUs that lack them: included before the kernels, whose
 * instructions become calls (Intel, "Intel Architecture Instruction Set Extensions Programming Reference", 319433,
 * chapter 3). Tiles have no size until they are configured and once they are released; that ends the process.
 */

#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local struct { uint8_t rows, row_bytes; char row[16][64]; } written_out[8];

static void written_out_loadconfig(const void *config) {
    const uint8_t *bytes = config;
    if (bytes[0] != 1 || bytes[1] != 0) abort(); /* the only palette that there is, from its first row on */
    memset(written_out, 0, sizeof written_out);
    for (int tile = 0; tile < 8; tile++) {
        written_out[tile].row_bytes = bytes[16 + 2 * tile];
        written_out[tile].rows = bytes[48 + tile];
        if (bytes[17 + 2 * tile] || written_out[tile].row_bytes > 64 || written_out[tile].rows > 16) abort();
    }
}

static void written_out_release(void) { memset(written_out, 0, sizeof written_out); }

static void written_out_zero(int tile) {
    if (!written_out[tile].rows) abort();
    memset(written_out[tile].row, 0, sizeof written_out[tile].row);
}

static void written_out_load(int tile, const void *from, int64_t stride) {
    if (!written_out[tile].rows) abort();
    written_out_zero(tile);
    for (int i = 0; i < written_out[tile].rows; i++)
        memcpy(written_out[tile].row[i], (const char *)from + i * stride, written_out[tile].row_bytes);
}

static void written_out_store(int tile, void *to, int64_t stride) {
    if (!written_out[tile].rows) abort();
    for (int i = 0; i < written_out[tile].rows; i++)
        memcpy((char *)to + i * stride, written_out[tile].row[i], written_out[tile].row_bytes);
}

static float written_out_value(int tile, int row, int place) {
    uint16_t half;
    memcpy(&half, &written_out[tile].row[row][2 * place], sizeof half);
    uint32_t whole = (uint32_t)half << 16;
    float value;
    memcpy(&value, &whole, sizeof value);
    return value;
}

/* sums[i][j] += left[i][2k] * right[k][2j] + left[i][2k + 1] * right[k][2j + 1] */
static void written_out_multiply(int sums, int left, int right) {
    if (!written_out[sums].rows || written_out[right].rows * 4 != written_out[left].row_bytes) abort();
    for (int i = 0; i < written_out[sums].rows; i++)
        for (int j = 0; j < written_out[sums].row_bytes / 4; j++) {
            float sum;
            memcpy(&sum, &written_out[sums].row[i][4 * j], sizeof sum);
            for (int k = 0; k < written_out[right].rows; k++)
                for (int odd = 0; odd < 2; odd++)
                    sum = fmaf(written_out_value(left, i, 2 * k + odd), written_out_value(right, k, 2 * j + odd), sum);
            memcpy(&written_out[sums].row[i][4 * j], &sum, sizeof sum);
        }
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig written_out_loadconfig
#define _tile_release written_out_release
#define _tile_zero written_out_zero
#define _tile_loadd written_out_load
#define _tile_stored written_out_store
#define _tile_dpbf16ps written_out_multiply
