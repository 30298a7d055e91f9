// What `kernels.py` calls. A text's numbers never depend on the texts beside it, or on the threads.
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "attention.h"
#include "decoder.h"
#include "linear.h"
#include "norm.h"
#include "words.h"

namespace native {

struct Layer {
  Linear qkv, attended, inner, outer;
  Norm attention_norm, output_norm;
};

// Tables of embeddings, one row each; without types, `types` is null.
struct Embeddings {
  const Half* words;
  const float *positions, *types;
  Norm norm;
  double epsilon;
};

// The tokens of texts; without types all are of the first.
struct Tokens {
  const int32_t *ids, *positions, *types;
};

struct Encoder {
  Embeddings embeddings;
  const Layer* layers;
  int64_t count;
  Heads heads;
  double epsilon;
};

// Memory for the rows between layers, which a team shares.
struct Rows {
  Levels levels;
  float *wide, *narrow;
};

class RowsBuffer {
 public:
  Rows of(const Encoder& encoder, int64_t rows) {
    const int64_t size = encoder.heads.hidden(), inner = encoder.layers->inner.outputs;
    const int64_t widest = std::max(3 * size, inner);
    return {levels_.of(rows, widest), wide_.of(rows * widest), narrow_.of(rows * size)};
  }

 private:
  LevelsBuffer levels_;
  Buffer<float> wide_, narrow_;
};

constexpr int64_t kLeastShare = 1 << 20;  // products that are worth another thread

// One head of one text, whose rows of queries, keys and values begin at `qkv`.
void attend(const Heads& heads, int64_t head, const float* qkv, int64_t length, float* context) {
  static thread_local AttentionBuffer buffer;
  const int64_t hidden = heads.hidden();
  const float* query = qkv + head * heads.size;
  HeadAttention attention(heads, length, buffer);
  attention.read(query, query + hidden, query + 2 * hidden, 3 * hidden);
  attention.write(context + head * heads.size, hidden);
}

// Takes the rows of whole texts, text i from starts[i] to starts[i + 1], through one layer.
void run_layer(const Layer& layer, const Encoder& encoder, float* hidden, const int64_t* starts,
               int64_t texts, const Rows& rows, const Team& team) {
  const int64_t size = encoder.heads.hidden(), count = starts[texts] - starts[0];
  const auto join = [&](const float* added, const Norm& norm) {
    team.share(count, [&](int64_t row) {
      add_and_normalize(hidden + row * size, added + row * size, size, norm, encoder.epsilon);
    });
  };
  apply<Then::kNothing>(layer.qkv, hidden, count, rows.levels, rows.wide, team);
  team.share(texts * encoder.heads.count, [&](int64_t task) {
    const int64_t text = task / encoder.heads.count, first = starts[text] - starts[0];
    attend(encoder.heads, task % encoder.heads.count, rows.wide + first * 3 * size,
           starts[text + 1] - starts[text], rows.narrow + first * size);
  });
  team.wait();
  apply<Then::kNothing>(layer.attended, rows.narrow, count, rows.levels, rows.wide, team);
  join(rows.wide, layer.attention_norm);
  apply<Then::kGelu>(layer.inner, hidden, count, rows.levels, rows.wide, team);
  apply<Then::kNothing>(layer.outer, rows.wide, count, rows.levels, rows.narrow, team);
  join(rows.narrow, layer.output_norm);
}

// hidden = norm(word + type + position) of one token.
void embed(const Embeddings& from, const Tokens& tokens, int64_t token, int64_t size, float* hidden) {
  const Half* word = from.words + tokens.ids[token] * size;
  const float* type = from.types + (tokens.types ? tokens.types[token] * size : 0);
  for (int64_t i = 0; i < size; i += kLanes) {
    store(hidden + i, from.types ? add(load(word + i), load(type + i)) : load(word + i));
  }
  add_and_normalize(hidden, from.positions + tokens.positions[token] * size, size, from.norm, from.epsilon);
}

// Takes the tokens of whole texts through all layers, and first through the embeddings where `tokens` has ids.
void run_layers(const Encoder& encoder, const Tokens& tokens, float* hidden, const int64_t* starts,
                int64_t texts, const Rows& rows, const Team& team) {
  const int64_t size = encoder.heads.hidden();
  float* own = hidden + starts[0] * size;
  if (tokens.ids) {
    team.share(starts[texts] - starts[0], [&](int64_t row) {
      embed(encoder.embeddings, tokens, starts[0] + row, size, own + row * size);
    });
  }
  for (int64_t layer = 0; layer < encoder.count; ++layer) {
    run_layer(encoder.layers[layer], encoder, own, starts, texts, rows, team);
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

// All else is hidden: where a process loads the kernels for two instruction sets, each calls its own.
#define EXPORTED extern "C" __attribute__((visibility("default")))

// How many columns a panel of a weight has.
EXPORTED int32_t panel_columns() { return kTileColumns; }

// Takes the tokens of texts through all layers: hidden [starts[texts]][hidden], which is what the layers are
// given if there are no ids.
EXPORTED void encode(const Encoder* encoder, const Tokens* tokens, float* hidden, const int64_t* starts,
                       int64_t texts, int32_t threads) {
  static thread_local RowsBuffer buffer;
  const int64_t share = (starts[texts] + threads - 1) / threads;
  const std::vector<int64_t> firsts = divide(starts, texts, std::min(kChunkRows, share));
  const int64_t chunks = static_cast<int64_t>(firsts.size()) - 1;
  if (chunks < threads) {
    const Rows rows = buffer.of(*encoder, starts[texts]);
    Barrier barrier;
#pragma omp parallel num_threads(threads)
    {
      const Team team(omp_get_thread_num(), omp_get_num_threads(), barrier);
      run_layers(*encoder, *tokens, hidden, starts, texts, rows, team);
    }
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
    const int64_t* own = starts + firsts[chunk];
    const int64_t count = firsts[chunk + 1] - firsts[chunk];
    const Rows rows = buffer.of(*encoder, own[count] - own[0]);
    run_layers(*encoder, *tokens, hidden, own, count, rows, Team());
  }
}

// Writes out [rows][outputs], the outputs of one layer for rows [rows][inputs].
EXPORTED void run_linear(const Linear* linear, const float* rows, int64_t count, float* out,
                           int32_t threads) {
  static thread_local LevelsBuffer buffer;
  const Levels levels = buffer.of(count, linear->inputs);
  const bool is_shared = count * linear->inputs * linear->outputs > kLeastShare;
  Barrier barrier;
#pragma omp parallel num_threads(threads) if (is_shared)
  {
    const Team team(omp_get_thread_num(), omp_get_num_threads(), barrier);
    apply<Then::kNothing>(*linear, rows, count, levels, out, team);
  }
}

// Takes one token of each row through all layers: hidden [rows][size], in place. On the calling thread alone:
// batches are decoded side by side, each on a core of its own.
EXPORTED void decode_step(const Decoder* decoder, const DecodedRows* rows, float* hidden, int64_t count) {
  static thread_local StepBuffer buffer;
  for (int64_t first = 0; first < count; first += kChunkRows) {
    const int64_t own = std::min(kChunkRows, count - first);
    Step(*decoder, *rows, first, own, hidden + first * decoder->size(), buffer).run();
  }
}

// Writes scores [rows][width], each row's outputs of the layer at its words [rows][width]; see `score_words`.
EXPORTED void score_words(const OutputRows* outputs, const float* rows, int64_t count, const int32_t* words,
                            int64_t width, float* scores) {
  for (int64_t row = 0; row < count; ++row) {
    const int64_t place = row * width;
    native::score_words(*outputs, rows + row * outputs->linear.inputs, words + place, width, scores + place);
  }
}
