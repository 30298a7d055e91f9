// What `kernels.py` calls. A text's numbers never depend on the texts beside it, or on the threads.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "attention.h"
#include "linear.h"

namespace native {

struct Norm {
  const float* weight;
  const float* bias;
};

struct Layer {
  Linear qkv, attended, inner, outer;
  Norm attention_norm, output_norm;
};

struct Encoder {
  const Layer* layers;
  int64_t count;
  Heads heads;
  double epsilon;
};

struct Scratch {
  LevelsBuffer levels;
  AttentionBuffer attention;
  Buffer<float> wide, narrow;
};

constexpr int64_t kChunkRows = 64;  // enough to use each weight often, few enough to stay in the L2 cache
constexpr int64_t kLeastShare = 1 << 20;  // products that are worth another thread

// hidden = norm(hidden + added), by one row. Sums of float64 round to the same float32 in any order.
void add_and_normalize(float* hidden, const float* added, int64_t size, const Norm& norm, double epsilon) {
  __m512d sum = _mm512_setzero_pd();
  for (int64_t i = 0; i < size; i += kLanes) {
    const __m512 both = _mm512_add_ps(load(hidden + i), load(added + i));
    _mm512_storeu_ps(hidden + i, both);
    sum = _mm512_add_pd(sum, _mm512_add_pd(lower_half(both), upper_half(both)));
  }
  const __m512 mean = _mm512_set1_ps(static_cast<float>(_mm512_reduce_add_pd(sum) / size));
  sum = _mm512_setzero_pd();
  for (int64_t i = 0; i < size; i += kLanes) {
    const __m512 apart = _mm512_sub_ps(load(hidden + i), mean);
    _mm512_storeu_ps(hidden + i, apart);
    const __m512d lower = lower_half(apart), upper = upper_half(apart);
    sum = _mm512_add_pd(sum, _mm512_add_pd(_mm512_mul_pd(lower, lower), _mm512_mul_pd(upper, upper)));
  }
  const double spread = __builtin_sqrt(_mm512_reduce_add_pd(sum) / size + epsilon);
  const __m512 factor = _mm512_set1_ps(static_cast<float>(1.0 / spread));
  for (int64_t i = 0; i < size; i += kLanes) {
    const __m512 scaled = _mm512_mul_ps(load(hidden + i), factor);
    _mm512_storeu_ps(hidden + i, multiply_then_add(scaled, load(norm.weight + i), load(norm.bias + i)));
  }
}

void attend(const Heads& heads, const float* qkv, int64_t length, float* context, AttentionBuffer& buffer) {
  const int64_t hidden = heads.hidden();
  HeadAttention attention(heads, length, buffer);
  for (int64_t head = 0; head < heads.count; ++head) {
    const float* query = qkv + head * heads.size;
    attention.read(query, query + hidden, query + 2 * hidden, 3 * hidden);
    attention.write(context + head * heads.size, hidden);
  }
}

// Takes the rows of whole texts, text i from starts[i] to starts[i + 1], through one layer.
void run_layer(const Layer& layer, const Encoder& encoder, float* hidden, const int64_t* starts,
               int64_t texts, Scratch& scratch) {
  const int64_t size = encoder.heads.hidden(), rows = starts[texts] - starts[0];
  float* wide = scratch.wide.of(rows * std::max(3 * size, layer.inner.outputs));
  float* narrow = scratch.narrow.of(rows * size);
  apply<Then::kNothing>(layer.qkv, hidden, rows, wide, scratch.levels);
  for (int64_t text = 0; text < texts; ++text) {
    const int64_t first = starts[text] - starts[0], length = starts[text + 1] - starts[text];
    attend(encoder.heads, wide + first * 3 * size, length, narrow + first * size, scratch.attention);
  }
  apply<Then::kNothing>(layer.attended, narrow, rows, wide, scratch.levels);
  for (int64_t row = 0; row < rows; ++row) {
    add_and_normalize(hidden + row * size, wide + row * size, size, layer.attention_norm, encoder.epsilon);
  }
  apply<Then::kGelu>(layer.inner, hidden, rows, wide, scratch.levels);
  apply<Then::kNothing>(layer.outer, wide, rows, narrow, scratch.levels);
  for (int64_t row = 0; row < rows; ++row) {
    add_and_normalize(hidden + row * size, narrow + row * size, size, layer.output_norm, encoder.epsilon);
  }
}

// Where runs of whole texts begin that hold about `rows` rows each, and the end.
std::vector<int64_t> divide(const int64_t* starts, int64_t texts, int64_t rows) {
  std::vector<int64_t> firsts{0};
  for (int64_t text = 1; text < texts; ++text) {
    if (starts[text + 1] - starts[firsts.back()] > rows) firsts.push_back(text);
  }
  firsts.push_back(texts);
  return firsts;
}

}  // namespace native

using namespace native;

// Takes hidden [starts[texts]][hidden] through all layers, in place.
extern "C" void encode(const Encoder* encoder, float* hidden, const int64_t* starts, int64_t texts,
                       int32_t threads) {
  const int64_t share = (starts[texts] + threads - 1) / threads;
  const std::vector<int64_t> firsts = divide(starts, texts, std::min(kChunkRows, share));
  const int64_t chunks = static_cast<int64_t>(firsts.size()) - 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
    static thread_local Scratch scratch;
    const int64_t* own = starts + firsts[chunk];
    for (int64_t layer = 0; layer < encoder->count; ++layer) {
      run_layer(encoder->layers[layer], *encoder, hidden + own[0] * encoder->heads.hidden(), own,
                firsts[chunk + 1] - firsts[chunk], scratch);
    }
  }
}

// Writes out [rows][outputs], the outputs of one layer for rows [rows][inputs].
extern "C" void run_linear(const Linear* linear, const float* rows, int64_t count, float* out,
                           int32_t threads) {
  static thread_local LevelsBuffer buffer;
  const Levels levels = buffer.of(count, linear->inputs);
  const int64_t panels = (linear->outputs + kTileColumns - 1) / kTileColumns;
  const int64_t chunks = (count + kChunkRows - 1) / kChunkRows;
  const bool is_shared = count * linear->inputs * linear->outputs > kLeastShare;
#pragma omp parallel num_threads(threads) if (is_shared)
  {
#pragma omp for
    for (int64_t row = 0; row < count; ++row) {
      quantize(rows + row * linear->inputs, linear->inputs, row, levels);
    }
#pragma omp for schedule(static)
    for (int64_t task = 0; task < chunks * panels; ++task) {
      const int64_t first = task / panels * kChunkRows;
      apply_columns<Then::kNothing>(*linear, levels, first, std::min(kChunkRows, count - first),
                                    task % panels * kTileColumns, out);
    }
  }
}
