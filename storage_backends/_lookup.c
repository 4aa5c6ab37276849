/* The nearest keys to a query by inner product: in a graph, or by comparison with each. lookup.py
 * says what it means.
 *
 * An inner product is summed in one order whatever the machine, the batch and the way that led to
 * the key, so the compiler must not fuse or reorder (-ffp-contract=off): sixteen sums side by side,
 * each of every sixteenth product, which are then added by halves.
 * A graph lies anywhere in memory. What is needed soon is asked for while something else is summed.
 * Nothing here knows Python. Arrays are read where they lie, and calls may run at once. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SUMS 16              /* side by side */
#define LINE 16              /* floats in a line of the cache */
#define AHEAD 8              /* keys that are on their way */
#define BLOCK 32768          /* floats of keys that stay in the cache for all queries */
#define EXPANDED 0x80000000u /* beside a slot: its links have been followed */

/* Built for several processors where the loader can choose among them; all sum alike. */
#if defined(__x86_64__) && defined(__GLIBC__)
#define FOR_EACH_MACHINE __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_MACHINE
#endif
#define INLINE static inline __attribute__((always_inline))

enum { OUT_OF_MEMORY = -1, OUT_OF_BOUNDS = -2 };

typedef float Eight __attribute__((vector_size(32), aligned(4), may_alias));
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t Places __attribute__((vector_size(16)));

#if defined(__clang__)
#define SHUFFLED(one, other, ...) __builtin_shufflevector(one, other, __VA_ARGS__)
#else
#define SHUFFLED(one, other, ...) __builtin_shuffle(one, other, (Places){__VA_ARGS__})
#endif

/* As FAISS lays it out: the links of a key on each of its levels stand one after the other, from
 * `offsets` of the key plus `room` of the level; -1 ends those of a level. */
typedef struct {
    const int32_t *links;
    const uint64_t *offsets;
    const int32_t *room;
    const float *keys;
    int64_t link_count, size, width, entry, top_level;
} Graph;

/* Keys that are compared one by one. Row i is slot first + chosen[i], or first + i where nothing was
 * chosen. */
typedef struct {
    const float *keys;
    const int64_t *chosen;
    int64_t first, count, width;
} Rows;

typedef struct { float cosine; uint32_t slot; } Entry;

typedef struct {
    const Graph *graph;
    const float *query;
    uint64_t *seen; /* a bit for each slot */
    uint32_t *met;  /* slots that were seen; the last ones are to be compared */
    float *cosines; /* of those */
    Entry *beam;    /* the nearest that were found, best first */
    int64_t met_count, room, size, next, effort;
} Search;

/* Floats of a query as Python lays it out. Where the width is no multiple of SUMS, its end is filled
 * up to SUMS: it meets the last SUMS floats of a key, and zeros those that have had their turn. */
INLINE int64_t laid_out(int64_t width)
{
    return (width + SUMS - 1) / SUMS * SUMS;
}

/* What the end of a query meets; a shorter key is copied before zeros. */
INLINE const float *end_of(const float *key, int64_t width, float *copy)
{
    if (width >= SUMS)
        return key + width - SUMS;
    memset(copy, 0, SUMS * sizeof(float));
    memcpy(copy, key, width * sizeof(float));
    return copy;
}

INLINE void added(Eight *left, Eight *right, const float *one, const float *other)
{
    *left += *(const Eight *)one * *(const Eight *)other;
    *right += *(const Eight *)(one + SUMS / 2) * *(const Eight *)(other + SUMS / 2);
}

INLINE Four halved(Eight left, Eight right)
{
    left += right;
    return *(const Four *)&left + *((const Four *)&left + 1);
}

INLINE float product(const float *key, const float *query, int64_t width)
{
    Eight left = {0}, right = {0};
    int64_t rest = width % SUMS, i = 0;
    for (; i < width - rest; i += SUMS)
        added(&left, &right, key + i, query + i);
    if (rest) {
        float copy[SUMS];
        added(&left, &right, end_of(key, width, copy), query + i);
    }
    Four sums = halved(left, right);
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

/* Four of them at once: each sums as one alone does. */
INLINE Four products(const float *const keys[4], const float *const queries[4], int64_t width)
{
    Eight left[4] = {0}, right[4] = {0};
    int64_t rest = width % SUMS, i = 0;
    for (; i < width - rest; i += SUMS) {
        added(left, right, keys[0] + i, queries[0] + i);
        added(left + 1, right + 1, keys[1] + i, queries[1] + i);
        added(left + 2, right + 2, keys[2] + i, queries[2] + i);
        added(left + 3, right + 3, keys[3] + i, queries[3] + i);
    }
    if (rest) {
        float copies[4][SUMS];
        added(left, right, end_of(keys[0], width, copies[0]), queries[0] + i);
        added(left + 1, right + 1, end_of(keys[1], width, copies[1]), queries[1] + i);
        added(left + 2, right + 2, end_of(keys[2], width, copies[2]), queries[2] + i);
        added(left + 3, right + 3, end_of(keys[3], width, copies[3]), queries[3] + i);
    }
    Four a = halved(left[0], right[0]), b = halved(left[1], right[1]);
    Four c = halved(left[2], right[2]), d = halved(left[3], right[3]);
    Four ab = SHUFFLED(a, b, 0, 4, 1, 5) + SHUFFLED(a, b, 2, 6, 3, 7);
    Four cd = SHUFFLED(c, d, 0, 4, 1, 5) + SHUFFLED(c, d, 2, 6, 3, 7);
    return SHUFFLED(ab, cd, 0, 1, 4, 5) + SHUFFLED(ab, cd, 2, 3, 6, 7);
}

INLINE const float *key_of(const Graph *graph, int64_t slot)
{
    return graph->keys + slot * graph->width;
}

INLINE void ask_for_key(const Graph *graph, int64_t slot)
{
    const float *key = key_of(graph, slot);
    for (int64_t i = 0; i < graph->width; i += LINE)
        __builtin_prefetch(key + i);
}

/* The links of a slot on a level; their end in `end`. NULL if they would lie outside. */
INLINE const int32_t *links_of(const Graph *graph, int64_t slot, int64_t level, const int32_t **end)
{
    uint64_t first = graph->offsets[slot], last = first + graph->room[level + 1];
    *end = graph->links + last;
    return last <= (uint64_t)graph->link_count ? graph->links + first + graph->room[level] : NULL;
}

/* Go down to the ground, on each level to where no link leads nearer; -1 if a link leads outside. */
INLINE int64_t descended(Search *search, float *best)
{
    const Graph *graph = search->graph;
    int64_t at = graph->entry;
    *best = product(key_of(graph, at), search->query, graph->width);
    for (int64_t level = graph->top_level; level > 0;) {
        int64_t before = at;
        const int32_t *end, *first = links_of(graph, at, level, &end);
        if (!first)
            return -1;
        for (const int32_t *link = first; link < end && *link >= 0 && *link < graph->size; link++)
            ask_for_key(graph, *link);
        for (const int32_t *link = first; link < end && *link >= 0; link++) {
            if (*link >= graph->size)
                return -1;
            float cosine = product(key_of(graph, *link), search->query, graph->width);
            if (cosine > *best) {
                *best = cosine;
                at = *link;
            }
        }
        level -= at == before;
    }
    return at;
}

/* Note which links lead to what was not seen before; return their number, -1 if one leads outside. */
INLINE int64_t met(Search *search, const int32_t *link, const int32_t *end)
{
    uint32_t *fresh = search->met + search->met_count;
    int64_t count = 0;
    for (; link < end && *link >= 0; link++) {
        uint32_t slot = *link;
        if (slot >= search->graph->size)
            return -1;
        uint64_t *word = search->seen + slot / 64, bit = (uint64_t)1 << slot % 64;
        fresh[count] = slot; /* without a branch: it would be guessed wrong */
        count += !(*word & bit);
        *word |= bit;
    }
    return count;
}

/* Put a slot in its place; of equally near ones the lower comes first. */
INLINE void keep(Search *search, float cosine, uint32_t slot)
{
    Entry *beam = search->beam;
    int64_t low = 0, high = search->size;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        Entry other = beam[middle];
        int before = other.cosine > cosine
                     || (other.cosine == cosine && (other.slot & ~EXPANDED) < slot);
        low = before ? middle + 1 : low;
        high = before ? high : middle;
    }
    if (low == search->effort)
        return;
    search->size += search->size < search->effort;
    memmove(beam + low + 1, beam + low, (search->size - 1 - low) * sizeof(Entry));
    beam[low] = (Entry){cosine, slot};
    search->next = low < search->next ? low : search->next;
    __builtin_prefetch(search->graph->offsets + slot);
}

/* The least cosine with which a slot may come into the beam; what is not a number never does. */
INLINE float faintest(const Search *search)
{
    return search->size < search->effort ? -INFINITY : search->beam[search->size - 1].cosine;
}

/* Compare with the query what was met last. */
INLINE void weighed(Search *search, int64_t count)
{
    const uint32_t *fresh = search->met + search->met_count;
    const Graph *graph = search->graph;
    float *cosines = search->cosines;
    search->met_count += count;
    for (int64_t i = 0; i < count && i < AHEAD; i++)
        ask_for_key(graph, fresh[i]);
    for (int64_t i = 0; i < count; i += 4) {
        const float *keys[4], *query = search->query, *const queries[4] = {query, query, query, query};
        for (int64_t j = 0; j < 4; j++) {
            keys[j] = key_of(graph, fresh[i + j < count ? i + j : i]);
            if (i + j + AHEAD < count)
                ask_for_key(graph, fresh[i + j + AHEAD]);
        }
        *(Four *)(cosines + i) = products(keys, queries, graph->width);
    }
    for (int64_t i = 0; i < count; i++)
        if (cosines[i] >= faintest(search))
            keep(search, cosines[i], fresh[i]);
}

/* Make room for so many more slots that are met; return whether there is. */
static int roomy(Search *search, int64_t more)
{
    int64_t room = search->room ? search->room : 1024;
    while (room < search->met_count + more)
        room *= 2;
    if (room > search->room) {
        uint32_t *larger = realloc(search->met, room * sizeof(uint32_t));
        if (!larger)
            return 0;
        search->met = larger;
        search->room = room;
    }
    return 1;
}

/* Follow the links of the nearest that was not followed yet, until all of the beam are (Malkov and
 * Yashunin, 2018, algorithm 2), or until something is as near as is enough. */
INLINE int64_t explored(Search *search, float enough)
{
    const Graph *graph = search->graph;
    float best;
    int64_t at = descended(search, &best), most = graph->room[1];
    if (at < 0)
        return OUT_OF_BOUNDS;
    search->size = search->next = 0;
    search->seen[at / 64] |= (uint64_t)1 << at % 64;
    search->met[search->met_count++] = at;
    if (best >= -INFINITY)
        keep(search, best, at);
    while (search->next < search->size && search->beam[0].cosine < enough) {
        Entry *entry = search->beam + search->next;
        const int32_t *end, *link = links_of(graph, entry->slot, 0, &end);
        entry->slot |= EXPANDED;
        while (search->next < search->size && search->beam[search->next].slot & EXPANDED)
            search->next++;
        if (search->next < search->size) { /* likely to be followed after this one */
            uint64_t first = graph->offsets[search->beam[search->next].slot];
            for (int64_t i = 0; i < most; i += LINE)
                __builtin_prefetch(graph->links + first + i);
        }
        if (!roomy(search, most + 1))
            return OUT_OF_MEMORY;
        int64_t count = link ? met(search, link, end) : -1;
        if (count < 0)
            return OUT_OF_BOUNDS;
        weighed(search, count);
    }
    return 0;
}

/* Find in a graph; `slots` and `cosines` are (queries, k), best first; -1 and 0 where no more is
 * found. A query that has found something as near as `enough` of it, if given, looks no further.
 * Return what went wrong, or 0. */
FOR_EACH_MACHINE
int64_t aesg_search_graph(const Graph *graph, const float *queries, const float *enough,
                          int64_t count, int64_t effort, int64_t k, int64_t *slots, float *cosines)
{
    Search search = {.graph = graph, .effort = effort};
    search.seen = calloc(graph->size / 64 + 1, sizeof(uint64_t));
    search.beam = malloc((effort + 1) * sizeof(Entry));
    search.cosines = malloc((graph->room[1] + 4) * sizeof(float));
    int64_t status = search.seen && search.beam && search.cosines && roomy(&search, 1)
                         ? 0 : OUT_OF_MEMORY;
    for (int64_t q = 0; q < count && !status; q++) {
        search.query = queries + q * laid_out(graph->width);
        status = explored(&search, enough ? enough[q] : INFINITY);
        for (int64_t i = 0; i < search.met_count; i++)
            search.seen[search.met[i] / 64] = 0;
        search.met_count = 0;
        for (int64_t i = 0; i < k; i++) {
            int found = i < search.size;
            slots[q * k + i] = found ? (int64_t)(search.beam[i].slot & ~EXPANDED) : -1;
            cosines[q * k + i] = found ? search.beam[i].cosine : 0.0f;
        }
    }
    free(search.seen);
    free(search.beam);
    free(search.cosines);
    free(search.met);
    return status;
}

/* The least cosine with which a slot may come among the k best. */
INLINE float least_of(const int64_t *slots, const float *cosines, int64_t k)
{
    return slots[k - 1] < 0 ? -INFINITY : cosines[k - 1];
}

/* Put a slot in its place among the k best of a query, of equally near ones the lower first; return
 * the least cosine with which another may come among them. */
static float ranked(int64_t *slots, float *cosines, int64_t k, float cosine, int64_t slot)
{
    int64_t place = k;
    while (place && (slots[place - 1] < 0 || cosine > cosines[place - 1]
                     || (cosine == cosines[place - 1] && slot < slots[place - 1])))
        place--;
    if (place < k) {
        memmove(slots + place + 1, slots + place, (k - 1 - place) * sizeof(int64_t));
        memmove(cosines + place + 1, cosines + place, (k - 1 - place) * sizeof(float));
        slots[place] = slot;
        cosines[place] = cosine;
    }
    return least_of(slots, cosines, k);
}

INLINE int64_t slot_of(const Rows *rows, int64_t row)
{
    return rows->first + (rows->chosen ? rows->chosen[row] : row);
}

/* Compare four queries with some rows. */
INLINE void compared_together(const Rows *rows, int64_t begin, int64_t end, const float *query,
                              int64_t k, int64_t *slots, float *cosines)
{
    int64_t width = rows->width, step = laid_out(width);
    const float *const queries[4] = {query, query + step, query + 2 * step, query + 3 * step};
    Four least;
    for (int q = 0; q < 4; q++)
        least[q] = least_of(slots + q * k, cosines + q * k, k);
    for (int64_t row = begin; row < end; row++) {
        const float *key = rows->keys + row * width, *const keys[4] = {key, key, key, key};
        Four found = products(keys, queries, width);
        Places near = found >= least;
        if ((near[0] | near[1]) | (near[2] | near[3]))
            for (int q = 0; q < 4; q++)
                if (near[q])
                    least[q] = ranked(slots + q * k, cosines + q * k, k, found[q],
                                      slot_of(rows, row));
    }
}

/* Compare one query with some rows. */
INLINE void compared(const Rows *rows, int64_t begin, int64_t end, const float *query, int64_t k,
                     int64_t *slots, float *cosines)
{
    const float *const queries[4] = {query, query, query, query};
    float least = least_of(slots, cosines, k);
    for (int64_t row = begin; row < end; row += 4) {
        const float *keys[4];
        for (int64_t i = 0; i < 4; i++)
            keys[i] = rows->keys + (row + i < end ? row + i : row) * rows->width;
        Four found = products(keys, queries, rows->width);
        for (int64_t i = 0; i < 4 && row + i < end; i++)
            if (found[i] >= least)
                least = ranked(slots, cosines, k, found[i], slot_of(rows, row + i));
    }
}

/* Compare each query with each row. `slots` and `cosines` are (queries, k) and hold the best of what
 * was compared before. */
FOR_EACH_MACHINE
void aesg_search_rows(const Rows *rows, const float *queries, int64_t count, int64_t k,
                      int64_t *slots, float *cosines)
{
    int64_t width = laid_out(rows->width), step = width && width < BLOCK ? BLOCK / width : 1;
    for (int64_t begin = 0; begin < rows->count; begin += step) {
        int64_t end = begin + step < rows->count ? begin + step : rows->count, q = 0;
        for (; q + 4 <= count; q += 4)
            compared_together(rows, begin, end, queries + q * width, k, slots + q * k,
                              cosines + q * k);
        for (; q < count; q++)
            compared(rows, begin, end, queries + q * width, k, slots + q * k, cosines + q * k);
    }
}

/* Changed with the layout of anything above that Python fills in or reads. */
int64_t aesg_layout(void)
{
    return 1;
}
