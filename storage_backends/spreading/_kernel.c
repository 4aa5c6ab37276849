/* Spreading activation for a batch of queries. model.py says what it means; twin.py computes the
 * same in numpy, to the bit. So each floating-point expression has one order on both sides, and the
 * compiler must not fuse them (-ffp-contract=off).
 *
 * What one query touches is small beside the memory: its concepts stand in a dense array of nodes,
 * found by slot through a hash table. In each hop they write messages, which then arrive. All this
 * grows with a query and is used again by the next.
 * Nothing here knows Python. Arrays are read where they lie, and calls may run at once. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ONE 4294967296.0 /* units of one whole activation */
#define SEED UINT32_MAX  /* the parent of a seed */
#define AHEAD 8          /* senders whose memory is on its way at each stage */
#define EDGES_AHEAD 32   /* edges of each that are asked for, so many in a line of the cache: */
#define EDGES_A_LINE 8
#define LEAST_BITS 10    /* of the hash table: room for 256 nodes */
#define MOST_BITS 31     /* so that marks have a bit more */
#define BUCKET_BITS 10   /* of what is sent in a hop */
#define LEAST_ROOM 4096  /* for messages */
#define STEPS 2048       /* see step_of */

enum { OUT_OF_MEMORY = -1, OUT_OF_BOUNDS = -2 };

/* Rows as they once were (with stride 0 one stands for all), those behind them, and those of the
 * first that were replaced. */
typedef struct {
    const char *base, *tail, *rows;
    const int64_t *changed;
    int64_t base_size, tail_size, changed_size, base_stride, tail_stride, rows_stride;
} Column;

typedef struct {
    Column rows, leads, rest, ids, regions;
    int64_t first, size; /* slots first .. first + size - 1 are of this part */
    double weight;
} Part;

typedef struct {
    double decay, multiplier;
    const double *fading;
    int64_t ages, epoch, hops, frontier, least;
    uint32_t kinds, part_count;
} Settings;

/* The records of adjacency.py. */
typedef struct { int64_t start; uint32_t count, kinds; float total; uint32_t epoch; } Row;
typedef struct { uint32_t target; float strength; } Lead;
typedef struct { float weight, confidence; uint32_t use, kind; } Rest;

/* An active concept: all that it has, what of it arrived in `hop`, when something last did, and the
 * most that came at once in the hop in which it was born. */
typedef struct {
    int64_t total, heard, loudest;
    uint32_t slot, parent, hop, born;
} Node;

/* Where the table has a node. */
typedef struct { uint32_t marked, slot; } Place;

/* What one concept sends to a slot. */
typedef struct { int64_t units; uint32_t slot, sender; } Message;

/* A node in a list that is ordered by activation. */
typedef struct { int64_t units; uint32_t node; } Entry;

/* A concept that is about to send. */
typedef struct {
    const Part *part;
    const char *place; /* of the row */
    Row row;
    const Lead *leads;
    const Rest *rest;
    Entry entry;
} Sender;

typedef struct {
    const Part *parts;
    const Settings *how;
    Node *nodes;
    Place *table; /* `marked` is mark + node; what is below was left by an earlier query */
    uint32_t *hearers; /* nodes where something arrived in this hop */
    Entry *list;
    Message *messages; /* of this hop */
    double *shares; /* of one row; there is room for as many of both */
    uint32_t *favoured; /* region, by part */
    uint32_t mark, hop;
    int bits, status; /* the table has 2**bits places, what belongs to nodes a quarter of that */
    int64_t count, hearer_count, message_count, room;
    int64_t bar; /* who has less in the end is not among the top */
    int64_t buckets[1 << BUCKET_BITS]; /* what is sent in this hop, by hash of the slot */
} Query;

static const char *at(const Column *column, int64_t slot)
{
    if (slot >= column->base_size)
        return column->tail + (slot - column->base_size) * column->tail_stride;
    if (column->changed_size) {
        const int64_t *low = column->changed;
        for (int64_t left = column->changed_size; left > 1; left -= left / 2)
            low += low[left / 2] <= slot ? left / 2 : 0;
        if (*low == slot)
            return column->rows + (low - column->changed) * column->rows_stride;
    }
    return column->base + slot * column->base_stride;
}

static const Part *part_of(const Query *query, uint32_t slot)
{
    const Part *part = query->parts + query->how->part_count - 1;
    while (slot < part->first)
        part--;
    return part;
}

static uint64_t id_of(const Part *part, uint32_t slot)
{
    return *(const uint64_t *)at(&part->ids, slot - part->first);
}

static uint32_t region_of(const Part *part, uint32_t slot)
{
    return *(const uint32_t *)at(&part->regions, slot - part->first);
}

/* The leading bits of a slot's hash (Fibonacci hashing). */
static uint32_t hashed(uint32_t slot, int bits)
{
    return slot * 2654435769u >> (32 - bits);
}

/* The place of a slot in the table, or the empty one where it belongs. */
static Place *place_of(const Query *query, uint32_t slot)
{
    uint32_t mask = ((uint32_t)1 << query->bits) - 1;
    uint32_t at = hashed(slot, query->bits);
    while (query->table[at].marked >= query->mark && query->table[at].slot != slot)
        at = (at + 1) & mask;
    return query->table + at;
}

static void *resized(Query *query, void *array, int64_t bytes)
{
    void *larger = realloc(array, bytes);
    if (!larger)
        query->status = OUT_OF_MEMORY;
    return larger ? larger : array;
}

/* Make room for more nodes. Three quarters of the table stay empty: to look at a node that is not
 * the right one costs more than the space. */
static void grow(Query *query)
{
    int bits = query->table ? query->bits + 1 : LEAST_BITS;
    int64_t nodes = (int64_t)1 << (bits - 2), places = (int64_t)1 << bits;
    if (bits > MOST_BITS) {
        query->status = OUT_OF_MEMORY;
        return;
    }
    query->nodes = resized(query, query->nodes, nodes * sizeof(Node));
    query->list = resized(query, query->list, nodes * sizeof(Entry));
    query->hearers = resized(query, query->hearers, nodes * sizeof(uint32_t));
    query->table = resized(query, query->table, places * sizeof(Place));
    if (query->status)
        return;
    memset(query->table, 0, places * sizeof(Place));
    query->bits = bits;
    query->mark = 1;
    for (int64_t node = 0; node < query->count; node++) {
        uint32_t slot = query->nodes[node].slot;
        *place_of(query, slot) = (Place){query->mark + node, slot};
    }
}

/* Make room for so many messages more; return whether there is. */
static int writable(Query *query, int64_t more)
{
    int64_t room = query->room ? query->room : LEAST_ROOM;
    while (room < query->message_count + more)
        room *= 2;
    if (room > query->room) {
        query->messages = resized(query, query->messages, room * sizeof(Message));
        query->shares = resized(query, query->shares, room * sizeof(double));
        query->room = room;
    }
    return !query->status;
}

/* Forget all nodes. Marks rise, so that the table need not be cleared until they run out. */
static void cleared(Query *query)
{
    query->mark += query->count;
    query->count = query->hearer_count = query->hop = query->bar = 0;
    if (query->mark > UINT32_MAX / 2) {
        memset(query->table, 0, ((size_t)1 << query->bits) * sizeof(Place));
        query->mark = 1;
    }
}

/* Whether of two nodes with the same activation one comes first: by part, then by concept id. */
static int precedes(const Query *query, uint32_t one, uint32_t other)
{
    uint32_t slot = query->nodes[one].slot, others = query->nodes[other].slot;
    const Part *part = part_of(query, slot), *its = part_of(query, others);
    return part == its ? id_of(part, slot) < id_of(part, others) : part < its;
}

/* Let a message arrive. The parent of a concept is the loudest of those that sent first. */
static void receive(Query *query, Message message)
{
    Place *place = place_of(query, message.slot);
    uint32_t hop = query->hop;
    int64_t units = message.units;
    if (place->marked < query->mark) {
        Node born = {units, units, units, message.slot, message.sender, hop, hop};
        *place = (Place){query->mark + query->count, message.slot};
        query->hearers[query->hearer_count++] = query->count;
        query->nodes[query->count++] = born;
        if (query->count == (int64_t)1 << (query->bits - 2))
            grow(query);
        return;
    }
    uint32_t found = place->marked - query->mark;
    Node *node = query->nodes + found;
    query->hearers[query->hearer_count] = found; /* without a branch: it would be guessed wrong */
    query->hearer_count += node->hop != hop;
    node->heard = (node->hop == hop ? node->heard : 0) + units;
    node->total += units;
    node->hop = hop;
    if (node->born == hop && units >= node->loudest && message.sender != SEED
        && (units > node->loudest || precedes(query, message.sender, node->parent))) {
        node->loudest = units;
        node->parent = message.sender;
    }
}

static void swap(Entry *left, Entry *right)
{
    Entry kept = *left;
    *left = *right;
    *right = kept;
}

static int weaker(const Query *query, Entry one, Entry other)
{
    return one.units < other.units
           || (one.units == other.units && precedes(query, other.node, one.node));
}

/* Let an entry sink to its place in a heap that has the weakest on top. */
static void sink(const Query *query, int64_t size, int64_t place)
{
    Entry *heap = query->list;
    for (int64_t child; (child = 2 * place + 1) < size; place = child) {
        if (child + 1 < size && weaker(query, heap[child + 1], heap[child]))
            child++;
        if (weaker(query, heap[place], heap[child]))
            return;
        swap(heap + place, heap + child);
    }
}

/* Units on a scale of few steps: the exponent of a float and two bits more. */
static uint32_t step_of(int64_t units)
{
    float rounded = units;
    uint32_t bits;
    memcpy(&bits, &rounded, sizeof(bits));
    return bits >> 21;
}

/* Drop most of those entries that `most` others are stronger than; return how many are left. */
static int64_t sieved(Entry *list, int64_t size, int64_t most)
{
    uint32_t counts[STEPS] = {0}, step = 0;
    for (int64_t i = 0; i < size; i++) {
        uint32_t its = step_of(list[i].units);
        counts[its]++;
        step = its > step ? its : step;
    }
    for (int64_t above = counts[step]; step && above < most; above += counts[step])
        step--;
    int64_t kept = 0;
    for (int64_t i = 0; i < size; i++) {
        list[kept] = list[i];
        kept += step_of(list[i].units) >= step;
    }
    return kept;
}

/* Bring the strongest entries to the front of the list, as such a heap; return their number. */
static int64_t strongest(const Query *query, int64_t size, int64_t most)
{
    int64_t kept = most < size ? most : size;
    for (int64_t place = kept / 2 - 1; place >= 0; place--)
        sink(query, kept, place);
    for (int64_t i = kept; kept && i < size; i++)
        if (query->list[i].units >= query->list[0].units
            && weaker(query, query->list[0], query->list[i])) {
            query->list[0] = query->list[i];
            sink(query, kept, 0);
        }
    return kept;
}

static int by_region(const void *left, const void *right)
{
    uint32_t one = ((const Entry *)left)->node, other = ((const Entry *)right)->node;
    return (one > other) - (one < other);
}

/* The region that holds most of the seeds' activation, of several the lowest. */
static uint32_t dominant_region(const Query *query, const Part *part)
{
    Entry *list = query->list; /* with the region in place of the node */
    int64_t count = 0, held = 0, most = -1;
    uint32_t favoured = 0;
    for (const Node *node = query->nodes; node < query->nodes + query->count; node++)
        if (part_of(query, node->slot) == part)
            list[count++] = (Entry){node->total, region_of(part, node->slot)};
    qsort(list, count, sizeof(Entry), by_region);
    for (int64_t i = 0; i < count; i++) {
        held = (i && list[i].node == list[i - 1].node ? held : 0) + list[i].units;
        if (list[i].node && held > most) {
            most = held;
            favoured = list[i].node;
        }
    }
    return favoured;
}

static void seeded(Query *query, const int64_t *seeds, const float *activations, int64_t width)
{
    const Part *parts = query->parts, *last = parts + query->how->part_count - 1;
    for (int64_t i = 0; i < width && !query->status; i++) {
        if (seeds[i] >= last->first + last->size)
            query->status = OUT_OF_BOUNDS;
        if (seeds[i] >= 0 && !query->status) {
            const Part *part = part_of(query, seeds[i]);
            int64_t units = (int64_t)(activations[i] * part->weight * ONE);
            receive(query, (Message){units, seeds[i], SEED});
        }
    }
    int favour = query->how->multiplier != 1.0 && query->how->hops;
    for (const Part *part = parts; part <= last; part++)
        query->favoured[part - parts] = favour ? dominant_region(query, part) : 0;
}

/* Work out what each edge of a row counts for, 0 where it is not followed; return their sum. */
static double weighed(Query *query, const Sender *sender, uint32_t favoured)
{
    const Part *part = sender->part;
    uint32_t kinds = query->how->kinds;
    int mixed = (sender->row.kinds & ~kinds) != 0;
    const double factors[2] = {1.0, query->how->multiplier}; /* a branch would be guessed wrong */
    double sum = 0.0;
    for (int64_t edge = 0; edge < sender->row.count; edge++) {
        const Lead lead = sender->leads[edge];
        double share = lead.strength;
        if (favoured && lead.target < part->size)
            share *= factors[region_of(part, part->first + lead.target) == favoured];
        if (mixed && !(sender->rest[edge].kind & kinds))
            share = 0.0;
        query->shares[edge] = share;
        sum += share;
    }
    return sum;
}

/* Write down what one concept passes on. */
static void send(Query *query, const Sender *sender)
{
    const Settings *how = query->how;
    const Part *part = sender->part;
    const Row *row = &sender->row;
    uint32_t favoured = query->favoured[part - query->parts];
    int plain = !favoured && !(row->kinds & ~how->kinds); /* each edge counts for its strength */
    if (!writable(query, row->count))
        return;
    double fan = plain ? row->total : weighed(query, sender, favoured);
    int64_t age = how->epoch > row->epoch ? how->epoch - row->epoch : 0;
    double fading = how->fading[age < how->ages ? age : how->ages - 1];
    double divisor = fan * fading > 1.0 ? fan * fading : 1.0;
    double passed = sender->entry.units * (how->decay * fading / divisor), least = how->least;
    double bonus = favoured && how->multiplier > 1.0 ? how->multiplier : 1.0;
    Message *message = query->messages + query->message_count;
    for (int64_t edge = 0; edge < row->count; edge++) {
        const Lead lead = sender->leads[edge];
        double heard = passed * (lead.strength * bonus);
        if (heard < least)
            break; /* nor do those that follow reach it: they are sorted */
        if (lead.target >= part->size) {
            query->status = OUT_OF_BOUNDS;
            break;
        }
        if (!plain)
            heard = passed * query->shares[edge];
        if (heard < least)
            continue;
        *message = (Message){(int64_t)heard, part->first + lead.target, sender->entry.node};
        query->buckets[hashed(message->slot, BUCKET_BITS)] += message->units;
        message++;
    }
    query->message_count = message - query->messages;
}

/* Ask for the memory of a concept's row. */
static void located(const Query *query, Entry entry, Sender *sender)
{
    uint32_t slot = query->nodes[entry.node].slot;
    sender->entry = entry;
    sender->part = part_of(query, slot);
    sender->place = at(&sender->part->rows, slot - sender->part->first);
    __builtin_prefetch(sender->place);
    __builtin_prefetch(sender->place + sizeof(Row) - 1); /* which may lie in the next line */
}

/* Read the row and ask for its edges. */
static void fetched(Query *query, Sender *sender)
{
    const Column *leads = &sender->part->leads;
    memcpy(&sender->row, sender->place, sizeof(Row));
    int64_t start = sender->row.start, end = start + sender->row.count;
    if (start < 0 || end > leads->base_size + (start < leads->base_size ? 0 : leads->tail_size)) {
        query->status = OUT_OF_BOUNDS;
        return;
    }
    sender->leads = (const Lead *)at(leads, start);
    sender->rest = (const Rest *)at(&sender->part->rest, start);
    int64_t ahead = sender->row.count < EDGES_AHEAD ? sender->row.count : EDGES_AHEAD;
    for (int64_t edge = 0; edge < ahead; edge += EDGES_A_LINE)
        __builtin_prefetch(sender->leads + edge);
    __builtin_prefetch(sender->leads + ahead); /* the first and the last line may be cut */
}

/* Write down what all that heard something in the hop before send on. Rows and edges lie anywhere in
 * a large memory, and waiting for one after the other would take most of the time. */
static void sent(Query *query)
{
    const Settings *how = query->how;
    int64_t count = 0;
    Sender line[2 * AHEAD];
    for (int64_t i = 0; i < query->hearer_count; i++) {
        int64_t units = query->nodes[query->hearers[i]].heard;
        if (units * how->decay >= how->least) /* no share exceeds one */
            query->list[count++] = (Entry){units, query->hearers[i]};
    }
    if (how->frontier && count > how->frontier)
        count = strongest(query, sieved(query->list, count, how->frontier), how->frontier);
    query->message_count = 0;
    memset(query->buckets, 0, sizeof(query->buckets));
    for (int64_t i = 0; i < count + 2 * AHEAD && !query->status; i++) {
        Sender *sender = line + i % (2 * AHEAD);
        if (i >= 2 * AHEAD)
            send(query, sender);
        if (i >= AHEAD && i < count + AHEAD && !query->status)
            fetched(query, line + (i - AHEAD) % (2 * AHEAD));
        if (i < count && !query->status)
            located(query, query->list[i], sender);
    }
}

/* Drop the messages to concepts that will not be among the top, where no hop follows: most of all
 * messages. No concept will have more than those of its bucket together have and are sent. */
static void sift(Query *query, int64_t top)
{
    int64_t *buckets = query->buckets;
    for (int64_t node = 0; node < query->count; node++) {
        query->list[node] = (Entry){query->nodes[node].total, node};
        buckets[hashed(query->nodes[node].slot, BUCKET_BITS)] += query->nodes[node].total;
    }
    if (strongest(query, query->count, top) == top)
        query->bar = query->list[0].units;
    Message *kept = query->messages;
    const Message *end = kept + query->message_count;
    for (const Message *message = kept; message < end; message++) {
        *kept = *message;
        kept += buckets[hashed(message->slot, BUCKET_BITS)] >= query->bar;
    }
    query->message_count = kept - query->messages;
}

/* Let what arrived in the hop before go on. */
static void hop(Query *query, int64_t top)
{
    sent(query);
    query->hop++;
    query->hearer_count = 0;
    if (query->hop == query->how->hops)
        sift(query, top);
    for (int64_t i = 0; i < query->message_count && !query->status; i++)
        receive(query, query->messages[i]);
}

static void written(Query *query, int64_t top, int64_t *slots, float *activations, int64_t *paths)
{
    const Settings *how = query->how;
    int64_t count = 0;
    for (int64_t node = 0; node < query->count; node++) {
        query->list[count] = (Entry){query->nodes[node].total, node};
        count += query->nodes[node].total >= query->bar;
    }
    int64_t kept = strongest(query, count, top);
    for (int64_t last = kept - 1; last > 0; last--) {
        swap(query->list, query->list + last); /* the weakest goes behind the others */
        sink(query, last, 0);
    }
    for (int64_t i = 0; i < top; i++) {
        const Node *node = i < kept ? query->nodes + query->list[i].node : NULL;
        slots[i] = node ? (int64_t)node->slot : -1;
        activations[i] = node ? (float)(node->total / ONE) : 0.0f;
        for (int64_t step = 0; step < how->hops; step++) {
            node = node && node->parent != SEED ? query->nodes + node->parent : NULL;
            paths[i * how->hops + step] = node ? (int64_t)node->slot : -1;
        }
    }
}

/* Spread from each row of seeds (queries, width); return the bytes of scratch or what went wrong.
 * The results are (queries, top) and, for paths, (queries, top, hops). */
int64_t aesg_spread(const Part *parts, const Settings *how, const int64_t *seeds,
                    const float *activations, int64_t queries, int64_t width, int64_t top,
                    int64_t *slots, float *heard, int64_t *paths)
{
    Query query = {.parts = parts, .how = how};
    query.favoured = resized(&query, NULL, how->part_count * sizeof(uint32_t));
    grow(&query);
    for (int64_t i = 0; i < queries && !query.status; i++) {
        cleared(&query);
        seeded(&query, seeds + i * width, activations + i * width, width);
        while (query.hop < how->hops && query.hearer_count && !query.status)
            hop(&query, top);
        if (!query.status)
            written(&query, top, slots + i * top, heard + i * top, paths + i * top * how->hops);
    }
    int64_t node = sizeof(Node) + sizeof(Entry) + sizeof(uint32_t) + 4 * sizeof(Place);
    int64_t bytes = (node << query.bits) / 4 + (sizeof(Message) + sizeof(double)) * query.room;
    free(query.favoured);
    free(query.nodes);
    free(query.table);
    free(query.list);
    free(query.messages);
    free(query.shares);
    free(query.hearers);
    return query.status ? query.status : bytes;
}

/* Changed with the layout of anything above that Python fills in or reads. */
int64_t aesg_layout(void)
{
    return 1;
}
