/* One step of a generator on a CPU, fp32: the next token of up to 8 sequences through all layers, in one call.

   Bound by reading the weights once. All threads go through `decode_step` together; rows of a matrix are shared out
   among them, and they meet after each product. What is small (norms) every thread computes for itself, which is
   cheaper than meeting. The same steps in torch: `Decoder._layers` in decoding.py.

   R rows (sequences), D width, h heads, d = D / h, E hidden width, V vocabulary, M cache length.
   D and E are multiples of 64, d of 16. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define MAX_ROWS 8
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));

typedef struct {
    const float *norm1, *qkv, *out, *norm2, *gate_up, *down; /* D; 3D D; D D; D; 2E D; D E */
    float *keys, *values;                                    /* R h M d */
} Layer;

typedef struct {
    int depth, width, heads, hidden, vocabulary, length;
    float eps;
    const float *embedding, *norm, *head; /* V D; D; V D */
    const float *rotation;                /* M d/2 2: cosine and sine */
    const Layer *layers;
} Model;

typedef struct {
    float *x, *qkv, *attended, *hidden, *scores; /* R D; R 3D; R D; R E; R h M */
} Workspace;

static inline Lanes load(const float *p) { return *(const Lanes *)p; }

static inline float sum(Lanes v) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}

/* Products of one row of a matrix with ROWS vectors that lie behind one another. Reading one row after the other is what
   memory is fastest at. SPLIT sums for each vector, so that additions need not wait for each other; they stay in
   registers, which takes unrolled loops. */
#define UNROLL _Pragma("GCC unroll 8")
#define DOTS(ROWS, SPLIT)                                                                                  \
    static void dots_##ROWS(const float *restrict w, const float *restrict x, int in, float *restrict y) { \
        Lanes total[ROWS][SPLIT];                                                                          \
        UNROLL for (int r = 0; r < ROWS; r++)                                                              \
            UNROLL for (int k = 0; k < SPLIT; k++) total[r][k] = (Lanes){0};                               \
        for (int i = 0; i < in; i += SPLIT * LANES)                                                        \
            UNROLL for (int k = 0; k < SPLIT; k++) {                                                       \
                Lanes weight = load(w + i + k * LANES);                                                    \
                UNROLL for (int r = 0; r < ROWS; r++)                                                      \
                    total[r][k] += weight * load(x + (int64_t)r * in + i + k * LANES);                        \
            }                                                                                              \
        UNROLL for (int r = 0; r < ROWS; r++) {                                                            \
            UNROLL for (int k = 1; k < SPLIT; k++) total[r][0] += total[r][k];                             \
            y[r] = sum(total[r][0]);                                                                       \
        }                                                                                                  \
    }
DOTS(1, 4)
DOTS(2, 2)
DOTS(3, 1)
DOTS(4, 1)
DOTS(5, 1)
DOTS(6, 1)
DOTS(7, 1)
DOTS(8, 1)
typedef void Dots(const float *restrict, const float *restrict, int, float *restrict);
static Dots *const dots_of[] = {NULL, dots_1, dots_2, dots_3, dots_4, dots_5, dots_6, dots_7, dots_8};

static void rms_norm(const float *x, const float *weight, int width, int rows, float eps, float *y) {
    for (int r = 0; r < rows; r++) {
        Lanes squares = {0};
        for (int i = 0; i < width; i += LANES) squares += load(x + r * width + i) * load(x + r * width + i);
        float scale = 1.0f / sqrtf(sum(squares) / width + eps);
        for (int i = 0; i < width; i++) y[r * width + i] = x[r * width + i] * scale * weight[i];
    }
}

static void rotate(float *x, const float *rotation, int d) {
    for (int i = 0; i < d; i += 2) {
        float a = x[i], b = x[i + 1];
        x[i] = a * rotation[i] - b * rotation[i + 1];
        x[i + 1] = a * rotation[i + 1] + b * rotation[i];
    }
}

/* One head of one row: its new key and value into the cache, and what its query gathers from all so far. */
static void attend(float *query, float *key, const float *value, float *keys, float *values, const float *rotation,
                   int position, int d, float *scores, float *result) {
    rotate(query, rotation + (int64_t)position * d, d);
    rotate(key, rotation + (int64_t)position * d, d);
    memcpy(keys + (int64_t)position * d, key, d * sizeof(float));
    memcpy(values + (int64_t)position * d, value, d * sizeof(float));
    float highest = -INFINITY, total = 0, scale = 1.0f / sqrtf(d);
    for (int j = 0; j <= position; j++) {
        Lanes product = {0};
        for (int i = 0; i < d; i += LANES) product += load(query + i) * load(keys + (int64_t)j * d + i);
        scores[j] = sum(product) * scale;
        highest = fmaxf(highest, scores[j]);
    }
    memset(result, 0, d * sizeof(float));
    for (int j = 0; j <= position; j++) {
        float weight = expf(scores[j] - highest);
        total += weight;
        for (int i = 0; i < d; i++) result[i] += weight * values[(int64_t)j * d + i];
    }
    for (int i = 0; i < d; i++) result[i] /= total;
}

/* tokens and positions (R), logits (R, V). */
void decode_step(const Model *m, int rows, const int64_t *tokens, const int64_t *positions, Workspace *s, float *logits,
                 int threads) {
    Dots *const dots = dots_of[rows];
    const int D = m->width, d = D / m->heads, E = m->hidden;
    for (int r = 0; r < rows; r++) memcpy(s->x + r * D, m->embedding + tokens[r] * D, D * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        float normed[MAX_ROWS * D], y[MAX_ROWS], gate[MAX_ROWS];
        for (int l = 0; l < m->depth; l++) {
            const Layer *layer = m->layers + l;
            rms_norm(s->x, layer->norm1, D, rows, m->eps, normed);
#pragma omp for schedule(static)
            for (int o = 0; o < 3 * D; o++) {
                dots(layer->qkv + (int64_t)o * D, normed, D, y);
                for (int r = 0; r < rows; r++) s->qkv[(int64_t)r * 3 * D + o] = y[r];
            }
#pragma omp for schedule(static)
            for (int i = 0; i < rows * m->heads; i++) {
                float *query = s->qkv + (int64_t)(i / m->heads) * 3 * D + (i % m->heads) * d;
                int64_t offset = (int64_t)i * m->length * d;
                attend(query, query + D, query + 2 * D, layer->keys + offset, layer->values + offset, m->rotation,
                       positions[i / m->heads], d, s->scores + (int64_t)i * m->length, s->attended + (int64_t)i * d);
            }
#pragma omp for schedule(static)
            for (int o = 0; o < D; o++) {
                dots(layer->out + (int64_t)o * D, s->attended, D, y);
                for (int r = 0; r < rows; r++) s->x[r * D + o] += y[r];
            }
            rms_norm(s->x, layer->norm2, D, rows, m->eps, normed);
#pragma omp for schedule(static)
            for (int o = 0; o < E; o++) {
                dots(layer->gate_up + (int64_t)o * D, normed, D, gate);
                dots(layer->gate_up + (int64_t)(E + o) * D, normed, D, y);
                for (int r = 0; r < rows; r++) s->hidden[(int64_t)r * E + o] = gate[r] / (1.0f + expf(-gate[r])) * y[r];
            }
#pragma omp for schedule(static)
            for (int o = 0; o < D; o++) {
                dots(layer->down + (int64_t)o * E, s->hidden, E, y);
                for (int r = 0; r < rows; r++) s->x[r * D + o] += y[r];
            }
        }
        rms_norm(s->x, m->norm, D, rows, m->eps, normed);
#pragma omp for schedule(static)
        for (int o = 0; o < m->vocabulary; o++) {
            dots(m->head + (int64_t)o * D, normed, D, y);
            for (int r = 0; r < rows; r++) logits[(int64_t)r * m->vocabulary + o] = y[r];
        }
    }
}
