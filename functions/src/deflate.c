/* See deflate.h.
 *
 * Why not stb's own: it searches for repeated strings, which a scaled photograph does not have, and then writes the
 * fixed Huffman code, which does not fit one. It takes longer than decoding and scaling together and saves little.
 * Here each block gets a Huffman code of its own, and the only repetition looked for is a run of one byte, which is
 * what filtered rows of even colour become. Smaller and several times as fast on photographs; on line drawings larger.
 *
 * Bits of a block, least significant first (RFC 1951 section 3.2.7):
 *
 *   bits      what
 *   1, 2      last block?; 2: a Huffman code of its own
 *   5, 5, 4   286 literal and length codes; 1 distance code; 19 lengths of the code for code lengths
 *   19 x 3    those lengths: 4 for each of 0..15, so that a code length is written as itself; 0 for the run codes 16..18
 *   286 x 4   code lengths of literals (0..255), end of block (256), run lengths (257..285)
 *   4         code length of the one distance that is used, 1 byte back: 1
 *   ...       the literals and runs, then end of block
 */
#include "deflate.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK_BYTES = 128 * 1024, /* the code adapts this often; its description takes 152 bytes */
    SYMBOLS = 286,
    END_OF_BLOCK = 256,
    CODE_BITS_MAX = 15,
    RUN_MIN = 3,
    RUN_MAX = 258,
    HEADER_BITS = 3 + 14 + 19 * 3 + SYMBOLS * 4 + 4,
};

struct writer {
    unsigned char *bytes;
    size_t length, capacity;
    uint64_t pending; /* bits not yet written, fewer than 32 between calls */
    int pending_count;
};

struct code {
    uint8_t bits[SYMBOLS];
    uint16_t value[SYMBOLS]; /* bit-reversed: the first bit of a Huffman code is written first */
};

static void put(struct writer *out, uint32_t value, int count) {
    out->pending |= (uint64_t)value << out->pending_count;
    out->pending_count += count;
    if (out->pending_count < 32) return;
    uint32_t word = (uint32_t)out->pending; /* little-endian, as WebAssembly is */
    memcpy(out->bytes + out->length, &word, 4);
    out->length += 4;
    out->pending >>= 32;
    out->pending_count -= 32;
}

static bool reserve(struct writer *out, size_t bytes) {
    size_t needed = out->length + bytes;
    if (needed <= out->capacity) return true;
    size_t capacity = needed + needed / 2;
    unsigned char *larger = realloc(out->bytes, capacity);
    if (larger == NULL) return false;
    out->bytes = larger;
    out->capacity = capacity;
    return true;
}

/* The symbol for a run, and the bits that say where in the symbol's range it lies. */
static int run_symbol(int run, int *extra_bits, int *extra) {
    *extra_bits = *extra = 0;
    if (run == RUN_MAX) return 285;
    int offset = run - RUN_MIN;
    if (offset < 8) return 257 + offset;
    *extra_bits = 29 - __builtin_clz((unsigned)offset); /* four symbols for each doubling */
    *extra = offset & ((1 << *extra_bits) - 1);
    return 257 + 4 * *extra_bits + (offset >> *extra_bits);
}

/* How many bytes from `at` on equal the byte before it; 0 where they are too few to be written as a run. */
static int run_at(const unsigned char *at, const unsigned char *start, const unsigned char *end) {
    if (at == start || *at != at[-1]) return 0;
    const unsigned char *stop = end - at > RUN_MAX ? at + RUN_MAX : end;
    const unsigned char *next = at;
    while (next < stop && *next == at[-1]) next++;
    return next - at >= RUN_MIN ? (int)(next - at) : 0;
}

static void count_symbols(const unsigned char *at, const unsigned char *start, const unsigned char *end,
                          uint32_t count[SYMBOLS]) {
    memset(count, 0, SYMBOLS * sizeof *count);
    int bits, extra;
    while (at < end) {
        int run = run_at(at, start, end);
        count[run ? run_symbol(run, &bits, &extra) : *at]++;
        at += run ? run : 1;
    }
    count[END_OF_BLOCK] = 1;
}

static int compare(const void *a, const void *b) {
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

/* Huffman's algorithm with two queues: the leaves, sorted, and the inner nodes, which come into being in order. Returns
 * the longest code's bits. `count` has at least two symbols that occur. */
static int code_lengths(const uint32_t count[SYMBOLS], uint8_t bits[SYMBOLS]) {
    uint32_t leaf[SYMBOLS]; /* count << 9 | symbol: the symbol breaks ties, so the result is always the same */
    uint32_t weight[2 * SYMBOLS];
    uint16_t parent[2 * SYMBOLS];
    int leaves = 0;
    for (uint32_t symbol = 0; symbol < SYMBOLS; symbol++)
        if (count[symbol]) leaf[leaves++] = count[symbol] << 9 | symbol;
    qsort(leaf, (size_t)leaves, sizeof *leaf, compare);
    for (int i = 0; i < leaves; i++) weight[i] = leaf[i] >> 9;

    int next_leaf = 0, next_inner = leaves, nodes = leaves;
    while (nodes < 2 * leaves - 1) {
        weight[nodes] = 0;
        for (int child = 0; child < 2; child++) {
            bool take_leaf = next_leaf < leaves && (next_inner == nodes || weight[next_leaf] <= weight[next_inner]);
            int lightest = take_leaf ? next_leaf++ : next_inner++;
            weight[nodes] += weight[lightest];
            parent[lightest] = (uint16_t)nodes;
        }
        nodes++;
    }

    uint16_t depth[2 * SYMBOLS];
    int longest = 0;
    depth[nodes - 1] = 0;
    memset(bits, 0, SYMBOLS);
    for (int i = nodes - 2; i >= 0; i--) {
        depth[i] = depth[parent[i]] + 1;
        if (i >= leaves) continue;
        bits[leaf[i] & 511] = (uint8_t)depth[i];
        if (depth[i] > longest) longest = depth[i];
    }
    return longest;
}

static void build_code(uint32_t count[SYMBOLS], struct code *code) {
    while (code_lengths(count, code->bits) > CODE_BITS_MAX)
        for (int i = 0; i < SYMBOLS; i++) count[i] = (count[i] + 1) / 2; /* evens out; what occurs stays above 0 */

    uint16_t next = 0;
    for (int bits = 1; bits <= CODE_BITS_MAX; bits++, next = (uint16_t)(next << 1)) {
        for (int symbol = 0; symbol < SYMBOLS; symbol++) {
            if (code->bits[symbol] != bits) continue;
            uint16_t reversed = 0;
            for (int i = 0; i < bits; i++) reversed |= (uint16_t)((next >> i & 1) << (bits - 1 - i));
            code->value[symbol] = reversed;
            next++;
        }
    }
}

static void write_header(struct writer *out, const struct code *code, bool last) {
    /* The order in which RFC 1951 lists the lengths of the code for code lengths: 16, 17, 18 come first. */
    put(out, last, 1);
    put(out, 2, 2);
    put(out, SYMBOLS - 257, 5);
    put(out, 0, 5);
    put(out, 19 - 4, 4);
    for (int i = 0; i < 19; i++) put(out, i < 3 ? 0 : 4, 3);
    for (int symbol = 0; symbol <= SYMBOLS; symbol++) {
        unsigned bits = symbol < SYMBOLS ? code->bits[symbol] : 1;
        unsigned reversed = (bits & 1) << 3 | (bits & 2) << 1 | (bits & 4) >> 1 | bits >> 3;
        put(out, reversed, 4);
    }
}

static void write_symbols(struct writer *out, const struct code *code, const unsigned char *at,
                          const unsigned char *start, const unsigned char *end) {
    int extra_bits, extra;
    while (at < end) {
        int run = run_at(at, start, end);
        if (run == 0) {
            put(out, code->value[*at], code->bits[*at]);
            at++;
            continue;
        }
        int symbol = run_symbol(run, &extra_bits, &extra);
        put(out, code->value[symbol], code->bits[symbol]);
        put(out, (uint32_t)extra, extra_bits + 1); /* and the distance code, one bit: 0 */
        at += run;
    }
    put(out, code->value[END_OF_BLOCK], code->bits[END_OF_BLOCK]);
}

static uint32_t adler32(const unsigned char *data, size_t length) {
    uint32_t sum = 1, sum_of_sums = 0;
    while (length > 0) {
        size_t piece = length < 5552 ? length : 5552; /* as many as fit before a 32-bit sum overflows */
        for (size_t i = 0; i < piece; i++) sum_of_sums += sum += data[i];
        sum %= 65521;
        sum_of_sums %= 65521;
        data += piece;
        length -= piece;
    }
    return sum_of_sums << 16 | sum;
}

unsigned char *zlib_compress(const unsigned char *data, int length, int *out_length) {
    const unsigned char *at = data, *end = data + length;
    struct writer out = {0};
    struct code code;
    uint32_t count[SYMBOLS];
    if (!reserve(&out, (size_t)length / 2 + 16)) return NULL;
    put(&out, 0x78, 8); /* deflate, window of 32 KiB */
    put(&out, 0x01, 8); /* fastest; makes the two bytes a multiple of 31 */
    do {
        const unsigned char *stop = end - at > BLOCK_BYTES ? at + BLOCK_BYTES : end;
        count_symbols(at, data, stop, count);
        if (at == stop) count[0] = 1; /* nothing at all: still two symbols, as the algorithm needs */
        build_code(count, &code);
        /* A symbol takes at most 15 bits, a run 21, and a run stands for three bytes or more. */
        if (!reserve(&out, HEADER_BITS / 8 + 2 * (size_t)(stop - at) + 16)) goto no_memory;
        write_header(&out, &code, stop == end);
        write_symbols(&out, &code, at, data, stop);
        at = stop;
    } while (at < end);
    put(&out, 0, -out.pending_count & 7); /* to the byte's end */
    uint32_t sum = adler32(data, (size_t)length);
    for (int shift = 24; shift >= 0; shift -= 8) put(&out, sum >> shift & 255, 8);
    for (; out.pending_count > 0; out.pending_count -= 8, out.pending >>= 8)
        out.bytes[out.length++] = (unsigned char)out.pending;
    *out_length = (int)out.length;
    return out.bytes;

no_memory:
    free(out.bytes);
    return NULL;
}
