/* Attention over a packed row of bf16 in one call: softmax(Q K^T) V for spans of queries that see ranges of keys.
 *
 * For each span and key head, keys and values are laid out once as tiles; then 16 queries at a time are multiplied by
 * the keys, go through the softmax, and are multiplied by the values, all within a core's cache. Weights are bf16, sums
 * fp32. The caller has made sure that the CPU has the instructions. Knows rows and heads, not models.
 */

#include <stdlib.h>

#include "tiles.h"

enum { FAR = INT32_MAX /* as many positions away as any key may be */ };

/* One of `reward_model.native`'s spans: query rows, the position of the first among its keys, and ranges of keys. */
typedef struct {
    int32_t start, stop, position, first_range, last_range;
} Span;

/* `reward_model.native.Attention`; rows and heads are apart by so many bf16, sizes adjoin. */
typedef struct {
    const bf16 *query, *key, *value;
    bf16 *out; /* [rows, heads, value_size] */
    int64_t query_head, query_row, key_head, key_row, value_head, value_row;
    const Span *spans;
    const int32_t (*ranges)[2];
    int32_t num_spans, heads, key_heads, head_size, value_size;
    int32_t causal, window; /* window 0: none */
    int32_t amx, threads;
    float scale;
    /* Of disentangled attention, else NULL: for each head tiles of 2 * half rows, one for each distance of a query from
     * a key: what the query is multiplied by, row half - 1 - distance, and what the key is, row half - 1 + distance.
     * There is one key head for each head, and everybody sees all keys. */
    const bf16 *by_query, *by_key;
    int64_t half;
} Attention;

/* What one thread works in. */
typedef struct {
    int32_t *rows;               /* of the keys */
    bf16 *keys, *values;         /* tiles */
    bf16 *queries, *weights;     /* [LANES, ...] */
    float *logits, *products;    /* [LANES, ...] */
    bf16 *plain;                 /* keys, [..., LANES * steps] */
    float *shifted;              /* [LANES, ...] */
} Room;

static inline __m512 weights_of(const float *logits, __m512 factor, __m512 level) {
    return power_of_two(_mm512_fmsub_ps(_mm512_load_ps(logits), factor, level));
}

/* Weights of one query that sees keys [low, high) of `width`, before they are divided by their sum, which it returns. */
static float softmax(const float *logits, bf16 *weights, int64_t width, int64_t low, int64_t high, float scale) {
    int64_t whole = round_up(low, PAIRS), rest = high / PAIRS * PAIRS;
    __m512 top = _mm512_set1_ps(-__builtin_inff()), other = top;
    for (int64_t j = 0; j < width; j += PAIRS) {
        __m512 left = _mm512_load_ps(logits + j), right = _mm512_load_ps(logits + j + LANES);
        if (j >= whole && j < rest) {
            top = _mm512_max_ps(top, left), other = _mm512_max_ps(other, right);
        } else {
            top = _mm512_mask_max_ps(top, lanes_within(j, low, high), top, left);
            other = _mm512_mask_max_ps(other, lanes_within(j + LANES, low, high), other, right);
        }
    }
    __m512 factor = _mm512_set1_ps(scale * 1.44269504f); /* 1 / log(2) */
    __m512 level = _mm512_mul_ps(_mm512_set1_ps(_mm512_reduce_max_ps(_mm512_max_ps(top, other))), factor);
    __m512 sum = _mm512_setzero_ps(), more = sum;
    for (int64_t j = 0; j < width; j += PAIRS) {
        __m512 left = weights_of(logits + j, factor, level), right = weights_of(logits + j + LANES, factor, level);
        if (j < whole || j >= rest) {
            left = _mm512_maskz_mov_ps(lanes_within(j, low, high), left);
            right = _mm512_maskz_mov_ps(lanes_within(j + LANES, low, high), right);
        }
        sum = _mm512_add_ps(sum, left), more = _mm512_add_ps(more, right);
        _mm512_store_si512(weights + j, (__m512i)_mm512_cvtne2ps_pbh(right, left));
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(sum, more));
}

/* So many floats stand between rows of `room->shifted`. */
static int64_t pitch_of_shifted(int64_t keys) { return round_up(keys, PAIRS) + 2 * PAIRS; }

/* Adds to the logits of up to 16 queries, the first of them at `position`, the products of queries and keys with what
 * stands for their distances. Each row of products begins one further to the left than the row before it. */
static void add_distances(const Attention *a, int64_t keys, int64_t head, int64_t queries, int64_t position,
                          int64_t pitch, const Room *room) {
    void (*multiply)(const Product *) = a->amx ? by_amx : by_avx512;
    int64_t steps = round_up(a->head_size, PAIRS) / PAIRS, row = steps * PAIRS, shifted = pitch_of_shifted(keys);
    Product product = {
        .out = room->shifted, .out_row = shifted, .left_row = row, .down = 1, .right = steps,
        .pairs = round_up(a->head_size, 2) / 2,
    };
    /* The last query and the first key. */
    int64_t first = a->half - LANES - position, skip = first % LANES;
    product.left = room->queries, product.rows = queries;
    product.tiles = a->by_query + (2 * a->half * head + first - skip) * row;
    product.columns = round_up(skip + LANES + keys, LANES) / LANES;
    multiply(&product);
    for (int64_t i = 0; i < queries; i++) {
        const float *from = room->shifted + i * shifted + skip + LANES - 1 - i;
        for (int64_t j = 0; j < keys; j += LANES) {
            float *logits = room->logits + i * pitch + j;
            _mm512_store_ps(logits, _mm512_add_ps(_mm512_load_ps(logits), _mm512_loadu_ps(from + j)));
        }
    }
    product.rows = LANES;
    for (int64_t block = 0; block < keys; block += LANES) {
        /* The first query and the last key. */
        first = a->half - LANES + position - block, skip = first % LANES;
        product.left = room->plain + block * row;
        product.tiles = a->by_key + (2 * a->half * head + first - skip) * row;
        product.columns = skip ? 3 : 2;
        multiply(&product);
        __m512i r[LANES];
        for (int i = 0; i < LANES; i++) r[i] = _mm512_loadu_si512(room->shifted + i * shifted + skip + LANES - 1 - i);
        transpose(r);
        for (int64_t i = 0; i < queries; i++) {
            float *logits = room->logits + i * pitch + block;
            _mm512_store_ps(logits, _mm512_add_ps(_mm512_load_ps(logits), _mm512_castsi512_ps(r[i])));
        }
    }
}

/* Up to 16 queries of one head, the first of them row `first`. */
static void attend(const Attention *a, const Span *span, int64_t keys, int64_t head, int64_t first, const Room *room) {
    void (*multiply)(const Product *) = a->amx ? by_amx : by_avx512;
    int64_t queries = least(LANES, span->stop - first), position = span->position + first - span->start;
    int64_t before = a->window ? a->window - 1 : FAR, after = a->causal ? 0 : before;
    /* What any of them sees, in whole tiles. */
    int64_t low = most(0, position - before) / PAIRS * PAIRS;
    int64_t seen = least(keys, position + queries + after) - low, width = round_up(seen, PAIRS);
    /* Rows at powers of two would share their places in the cache. */
    int64_t pitch = width + PAIRS, steps = round_up(a->head_size, PAIRS) / PAIRS;
    int64_t columns = round_up(a->value_size, PAIRS) / LANES;

    const bf16 *query = a->query + head * a->query_head + first * a->query_row;
    for (int64_t i = 0; i < LANES; i++)
        for (int64_t at = 0; at < a->head_size; at += PAIRS)
            _mm512_store_si512(
                room->queries + i * steps * PAIRS + at,
                i < queries ? _mm512_maskz_loadu_epi16(first32(a->head_size - at), query + i * a->query_row + at)
                            : _mm512_setzero_si512());
    multiply(&(Product){
        .out = room->logits, .out_row = pitch, .left = room->queries, .left_row = steps * PAIRS,
        .tiles = room->keys + low / LANES * steps * TILE, .down = 1, .right = steps,
        .rows = queries, .pairs = round_up(a->head_size, 2) / 2, .columns = round_up(seen, LANES) / LANES,
    });
    if (a->by_key) add_distances(a, keys, head, queries, position, pitch, room);
    float sums[LANES];
    for (int64_t i = 0; i < queries; i++) {
        int64_t from = most(0, position + i - before), to = least(keys, position + i + after + 1);
        sums[i] = softmax(room->logits + i * pitch, room->weights + i * pitch, width, from - low, to - low, a->scale);
    }
    multiply(&(Product){
        .out = room->products, .out_row = columns * LANES, .left = room->weights, .left_row = pitch,
        .tiles = room->values + low / PAIRS * columns * TILE, .down = columns, .right = 1,
        .rows = queries, .pairs = round_up(seen, 2) / 2, .columns = round_up(a->value_size, LANES) / LANES,
    });
    for (int64_t i = 0; i < queries; i++) {
        bf16 *out = a->out + ((first + i) * a->heads + head) * a->value_size;
        __m512 share = _mm512_set1_ps(1.0f / sums[i]);
        for (int64_t at = 0; at < a->value_size; at += LANES) {
            __m512 sum = _mm512_load_ps(room->products + i * columns * LANES + at);
            store(out + at, first16(a->value_size - at), _mm512_mul_ps(sum, share));
        }
    }
}

static inline void fetch(const bf16 *row, int64_t size) {
    for (int64_t i = 0; i < size; i += PAIRS) _mm_prefetch((const char *)(row + i), _MM_HINT_T0);
}

/* All queries of a span of the heads that share a key head. */
static void attend_all(const Attention *a, const Span *span, int64_t key_head, const Room *room) {
    int64_t keys = 0, repeats = a->heads / a->key_heads;
    for (int32_t range = span->first_range; range < span->last_range; range++)
        for (int32_t row = a->ranges[range][0]; row < a->ranges[range][1]; row++) room->rows[keys++] = row;
    lay_out_keys(a->key + key_head * a->key_head, a->key_row, room->rows, keys, a->head_size, room->keys);
    lay_out_values(a->value + key_head * a->value_head, a->value_row, room->rows, keys, a->value_size, room->values);
    if (a->by_key) copy_keys(a->key + key_head * a->key_head, a->key_row, room->rows, keys, a->head_size, room->plain);
    /* The next head's rows are far apart, so that no CPU foresees them. */
    const bf16 *key = a->key + (key_head + 1) * a->key_head, *value = a->value + (key_head + 1) * a->value_head;
    int64_t fetched = key_head + 1 < a->key_heads ? 0 : keys;
    for (int64_t head = key_head * repeats; head < (key_head + 1) * repeats; head++)
        for (int64_t first = span->start; first < span->stop; first += LANES) {
            for (int64_t until = least(keys, fetched + LANES); fetched < until; fetched++) {
                fetch(key + room->rows[fetched] * a->key_row, a->head_size);
                fetch(value + room->rows[fetched] * a->value_row, a->value_size);
            }
            if (head + repeats < a->heads)
                for (int64_t row = first; row < least(first + LANES, span->stop); row++)
                    fetch(a->query + (head + repeats) * a->query_head + row * a->query_row, a->head_size);
            attend(a, span, keys, head, first, room);
        }
}

static void *cut(char **from, int64_t bytes) {
    void *here = *from;
    *from += round_up(bytes, 64);
    return here;
}

/* Lays out `room` for so many keys, from `memory` on; how many bytes that takes. */
static int64_t make_room(const Attention *a, int64_t keys, char *memory, Room *room) {
    int64_t size = round_up(a->head_size, PAIRS), value_size = round_up(a->value_size, PAIRS);
    int64_t width = round_up(keys, PAIRS), pitch = width + PAIRS;
    char *end = memory;
    room->rows = cut(&end, keys * sizeof(int32_t));
    room->keys = cut(&end, width * size * sizeof(bf16));
    room->values = cut(&end, width * value_size * sizeof(bf16));
    room->queries = cut(&end, LANES * size * sizeof(bf16));
    room->weights = cut(&end, LANES * pitch * sizeof(bf16));
    room->logits = cut(&end, LANES * pitch * sizeof(float));
    room->products = cut(&end, LANES * value_size * sizeof(float));
    room->plain = cut(&end, a->by_key ? width * size * sizeof(bf16) : 0);
    room->shifted = cut(&end, a->by_key ? LANES * pitch_of_shifted(keys) * sizeof(float) : 0);
    return end - memory;
}

static int64_t most_keys(const Attention *a) {
    int64_t found = 0;
    for (int32_t s = 0; s < a->num_spans; s++) {
        int64_t keys = 0;
        for (int32_t range = a->spans[s].first_range; range < a->spans[s].last_range; range++)
            keys += a->ranges[range][1] - a->ranges[range][0];
        found = most(found, keys);
    }
    return found;
}

/* Its name is the version of all kernels' arguments, which reward_model/compiled.py asks for: change both with them. */
void reward_model_version_4(void) {}

/* 0, or 1 where there was no memory for it. */
int reward_model_attention(const Attention *a) {
    int failed = 0;
    int64_t keys = most_keys(a);
#pragma omp parallel num_threads(a->threads) if (a->threads > 1)
    {
        Room room;
        int64_t bytes = make_room(a, keys, NULL, &room);
        char *memory = aligned_alloc(64, bytes);
        if (memory) {
            make_room(a, keys, memory, &room);
            if (a->amx) _tile_loadconfig(&TILES);
        } else {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic) collapse(2)
        for (int32_t s = 0; s < a->num_spans; s++)
            for (int32_t key_head = 0; key_head < a->key_heads; key_head++)
                if (memory) attend_all(a, &a->spans[s], key_head, &room);
        if (memory && a->amx) _tile_release();
        free(memory);
    }
    return failed;
}
