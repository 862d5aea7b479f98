// Pixel losses of upsampled logits, their gradients, and argmax: what the tile kernels are given, and the C interface.
#include "logits/upsample.h"

#include <algorithm>
#include <cstring>

#include "core/api.h"
#include "core/exceptions.h"
#include "core/map.h"
#include "logits/upsample_walk.h"

namespace fastia {

const AllUpsampleKernels& upsample_kernels() {
#if defined(__x86_64__) || defined(_M_X64)
    static const AllUpsampleKernels& chosen = []() -> const AllUpsampleKernels& {
        const char* rows = row_kernels().name;
        if (std::strcmp(rows, "avx512") == 0) return kUpsampleAvx512;
        if (std::strcmp(rows, "avx2") == 0 && __builtin_cpu_supports("fma")) return kUpsampleAvx2;
        return kUpsampleBaseline;
    }();
    return chosen;
#else
    return kUpsampleBaseline;
#endif
}

namespace {

// The target rows of a piece, padded with ignored pixels, and which rows of which tiles hold others.
template <class T>
class Targets {
  public:
    Targets(const fastia_pixel_loss& problem, const Plan<T>& plan, int64_t image)
        : plan_(plan),
          map_(problem.target, image, problem.ignore_index, 0, problem.logits.shape[1] - 1),
          reader_(map_, row_kernels()) {
        const int64_t size = kMostRows * plan.padded_width;
        ids = ids_.reserve(size);
        std::fill(ids, ids + size, kIgnoredCode);
        live = live_.reserve(kMostRows * plan.tiles);
    }

    // False if every pixel is ignored.
    bool read(int64_t y, int rows) {
        bool any = false;
        const int lanes = plan_.kernels.lanes;
        for (int r = 0; r < rows; ++r) {
            int32_t* out = ids + r * plan_.padded_width;
            const Row row = reader_.read(y + r);
            if (row.uint8) {
                const int32_t ignored = map_.has_ignored ? static_cast<int32_t>(map_.ignored) : kIgnoredCode;
                int32_t largest = 0;
                for (int64_t x = 0; x < plan_.width; ++x) {
                    const int32_t id = row.uint8[x];
                    out[x] = id == ignored ? kIgnoredCode : id;
                    largest = std::max(largest, out[x]);
                }
                if (largest > map_.maximum) throw InvalidId{0, largest};
            } else {
                std::copy(row.int32, row.int32 + plan_.width, out);
            }
            for (int64_t t = 0; t < plan_.tiles; ++t) {
                int32_t both = -1;
                for (int i = 0; i < lanes; ++i) both &= out[t * lanes + i];  // negative only where all are
                live[r * plan_.tiles + t] = both >= 0;
                any |= both >= 0;
            }
        }
        return any;
    }

    int32_t* ids;
    uint8_t* live;

  private:
    const Plan<T>& plan_;
    const Map map_;
    RowReader reader_;
    Scratch<int32_t> ids_;
    Scratch<uint8_t> live_;
};

template <class T>
const LossKernels<T>& find_loss(const UpsampleKernels<T>& kernels, const char* name) {
    const LossKernels<T>* end = kernels.losses + kernels.loss_count;
    const auto found = std::find_if(kernels.losses, end, [&](auto& loss) { return std::strcmp(loss.name, name) == 0; });
    if (found == end) throw UnknownLoss{};
    return *found;
}

// Sets what a piece has of the loss and of its targets.
template <class T>
void describe_loss(const fastia_pixel_loss& problem, const Targets<T>& targets, LossPiece<T>& piece) {
    piece.parameters = problem.parameters;
    piece.class_weight = static_cast<const T*>(problem.class_weight);
    double sum = 0;
    for (int64_t c = 0; c < problem.logits.shape[1]; ++c) sum += piece.class_weight ? piece.class_weight[c] : 1;
    piece.class_weight_sum = static_cast<T>(sum);
    piece.target = targets.ids;
    piece.live = targets.live;
}

// Adds a row's loss, weight and number of pixels to `sums`, in an order that the width alone decides.
template <class T>
void add_row(const ForwardPiece<T>& piece, int r, int64_t padded_width, int64_t width, double* sums) {
    constexpr int kParts = 8;
    const int32_t* target = piece.target + r * padded_width;
    const T* loss = piece.loss + r * padded_width;
    const T* weight = piece.weight ? piece.weight + r * padded_width : nullptr;
    double losses[kParts] = {}, weights[kParts] = {};
    int64_t counts[kParts] = {};
    const auto add = [&](int64_t x, int part) {
        const bool counted = target[x] >= 0;
        double share = weight ? weight[x] : 1;
        if (piece.class_weight) share *= piece.class_weight[std::max(target[x], 0)];
        losses[part] += loss[x];
        weights[part] += counted ? share : 0;
        counts[part] += counted;
    };
    int64_t x = 0;
    for (; x + kParts <= width; x += kParts) {
        for (int part = 0; part < kParts; ++part) add(x + part, part);
    }
    for (; x < width; ++x) add(x, 0);
    for (int part = 0; part < kParts; ++part) {
        sums[0] += losses[part];
        sums[1] += weights[part];
        sums[2] += static_cast<double>(counts[part]);
    }
}

template <class T>
void forward(const fastia_pixel_loss& problem, T* loss, double* lse, double* sums) {
    const int64_t height = problem.target.shape[1], width = problem.target.shape[2];
    const Plan<T> plan(problem.logits, height, width, problem.align_corners);
    const LossKernels<T>& kernels = find_loss(plan.kernels, problem.name);
    const T* weights = static_cast<const T*>(problem.weights);
    const int64_t all_rows = problem.target.shape[0] * height;
    Buffer<double> row_sums;  // added up in the order of rows, so that threads make no difference
    row_sums.fill(3 * all_rows, 0);
    plan.for_each_band(problem.threads, [&](int64_t image, int64_t begin, int64_t end) {
        Reader<T> reader(plan, image);
        Targets<T> targets(problem, plan, image);
        Scratch<T> pixels;
        const int64_t padded_width = plan.padded_width, size = kMostRows * padded_width;
        ForwardPiece<T> piece;
        T* weight = pixels.zeros(4 * size);
        describe_loss(problem, targets, piece);
        piece.weight = weights ? weight : nullptr;
        piece.loss = weight + size;
        piece.lse = weight + 2 * size;
        piece.lse_rest = weight + 3 * size;
        const auto run = [&](int64_t y, int rows, int64_t index) {
            const int64_t row = image * height + y, offset = row * width;
            const size_t bytes = static_cast<size_t>(width) * sizeof(T);
            if (weights) {
                for (int r = 0; r < rows; ++r) {
                    const T* from = weights + offset + r * width;
                    int32_t negative = 0;  // as wide as a float, or the loop is not vectorized
                    for (int64_t x = 0; x < width; ++x) negative |= from[x] < 0;
                    if (negative)
                        throw NegativeWeight{offset + r * width +
                                             (std::find_if(from, from + width, [](T w) { return w < 0; }) - from)};
                    std::memcpy(weight + r * padded_width, from, bytes);
                }
            }
            const size_t used = static_cast<size_t>(rows * padded_width) * sizeof(T);
            std::memset(piece.loss, 0, used);
            std::memset(piece.lse, 0, used);
            std::memset(piece.lse_rest, 0, used);
            if (targets.read(y, rows)) {
                reader.prepare(piece, index, y, rows);
                kernels.forward(piece);
            }
            for (int r = 0; r < rows; ++r) {
                std::memcpy(loss + offset + r * width, piece.loss + r * padded_width, bytes);
                for (int64_t x = 0, at = r * padded_width; x < width; ++x, ++at) {
                    lse[offset + r * width + x] = static_cast<double>(piece.lse[at]) + piece.lse_rest[at];
                }
                add_row(piece, r, padded_width, width, &row_sums[3 * (row + r)]);
            }
        };
        for (int64_t index = begin; index < end; ++index) {
            for_each_piece(plan, index, [&](int64_t y, int rows) { run(y, rows, index); });
        }
    });
    std::fill(sums, sums + 3, 0.0);
    for (int64_t i = 0; i < 3 * all_rows; ++i) sums[i % 3] += row_sums[i];
}

// Each band of rows of logits gathers from the output rows that touch it; those between two bands are worked on twice.
// A row's gradient is the sum of the pieces above it, then of those below, whatever the bands.
template <class T>
void backward(const fastia_pixel_loss& problem, const char* grad, const int64_t* grad_strides, const double* lse,
              const fastia_logits& gradient) {
    const int64_t height = problem.target.shape[1], width = problem.target.shape[2];
    const Plan<T> plan(problem.logits, height, width, problem.align_corners);
    const LossKernels<T>& kernels = find_loss(plan.kernels, problem.name);
    const T* weights = static_cast<const T*>(problem.weights);
    plan.for_each_band(problem.threads, [&](int64_t image, int64_t begin, int64_t end) {
        Reader<T> reader(plan, image);
        Targets<T> targets(problem, plan, image);
        Scratch<T> pixels, sums[2];
        const int64_t padded_width = plan.padded_width, size = kMostRows * padded_width;
        const int64_t pixel_stride = padded(problem.logits.shape[1], plan.kernels.lanes);
        const int64_t row_size = (problem.logits.shape[3] + 1) * pixel_stride;
        T* const lse_rows = pixels.zeros(3 * size);
        T *const lse_rests = lse_rows + size, *const upstream = lse_rests + size;
        BackwardPiece<T> piece;
        describe_loss(problem, targets, piece);
        piece.lse = lse_rows;
        piece.lse_rest = lse_rests;
        piece.upstream = upstream;
        piece.upper_gradient = sums[0].zeros(row_size);
        piece.lower_gradient = sums[1].zeros(row_size);
        const auto run = [&](int64_t y, int rows, int64_t index) {
            if (!targets.read(y, rows)) return;
            for (int r = 0; r < rows; ++r) {
                const int64_t from = ((image * height) + y + r) * width, to = r * padded_width;
                const char* grad_row = grad + image * grad_strides[0] + (y + r) * grad_strides[1];
                for (int64_t x = 0; x < width; ++x) {
                    T share;
                    std::memcpy(&share, grad_row + x * grad_strides[2], sizeof share);
                    if (weights) share *= weights[from + x];
                    upstream[to + x] = targets.ids[to + x] < 0 ? 0 : share;
                    lse_rows[to + x] = static_cast<T>(lse[from + x]);
                    lse_rests[to + x] = static_cast<T>(lse[from + x] - lse_rows[to + x]);
                }
            }
            reader.prepare(piece, index, y, rows);
            kernels.backward(piece);
        };
        for (int64_t index = std::max<int64_t>(begin - 1, 0); index < end; ++index) {
            for_each_piece(plan, index, [&](int64_t y, int rows) { run(y, rows, index); });
            if (index >= begin) write_gradient(gradient, image, index, piece.upper_gradient, pixel_stride);
            std::fill(piece.upper_gradient, piece.upper_gradient + row_size, T(0));
            std::swap(piece.upper_gradient, piece.lower_gradient);
        }
    });
}

template <class T>
void argmax(const fastia_logits& logits, int64_t height, int64_t width, bool align_corners, int threads, void* ids) {
    const Plan<T> plan(logits, height, width, align_corners);
    plan.for_each_band(threads, [&](int64_t image, int64_t begin, int64_t end) {
        Reader<T> reader(plan, image);
        Scratch<int32_t> found;
        ArgmaxPiece<T> piece;
        piece.ids = found.reserve(kMostRows * plan.padded_width);
        for (int64_t index = begin; index < end; ++index) {
            for_each_piece(plan, index, [&](int64_t y, int rows) {
                reader.prepare(piece, index, y, rows);
                plan.kernels.argmax(piece);
                for (int r = 0; r < rows; ++r) {
                    const int32_t* from = piece.ids + r * plan.padded_width;
                    const int64_t offset = (image * height + y + r) * width;
                    if (logits.shape[1] <= 256) {
                        std::copy(from, from + width, static_cast<uint8_t*>(ids) + offset);
                    } else {
                        std::copy(from, from + width, static_cast<int32_t*>(ids) + offset);
                    }
                }
            });
        }
    });
}

bool is_empty(const fastia_logits& logits, int64_t height, int64_t width) {
    return logits.shape[0] == 0 || height == 0 || width == 0;
}

}  // namespace
}  // namespace fastia

using namespace fastia;

int32_t fastia_upsample_loss(const fastia_pixel_loss* problem, void* loss, double* lse, double* sums,
                             fastia_error* error) {
    return guarded(error, [&] {
        std::fill(sums, sums + 3, 0.0);
        if (is_empty(problem->logits, problem->target.shape[1], problem->target.shape[2])) return;
        if (problem->logits.dtype == FASTIA_FLOAT64) {
            forward(*problem, static_cast<double*>(loss), lse, sums);
        } else {
            forward(*problem, static_cast<float*>(loss), lse, sums);
        }
    });
}

int32_t fastia_upsample_loss_backward(const fastia_pixel_loss* problem, const void* grad, const int64_t* grad_strides,
                                      const double* lse, const fastia_logits* grad_logits, fastia_error* error) {
    return guarded(error, [&] {
        if (is_empty(problem->logits, problem->target.shape[1], problem->target.shape[2])) return;
        const char* grad_bytes = static_cast<const char*>(grad);
        if (problem->logits.dtype == FASTIA_FLOAT64) {
            backward<double>(*problem, grad_bytes, grad_strides, lse, *grad_logits);
        } else {
            backward<float>(*problem, grad_bytes, grad_strides, lse, *grad_logits);
        }
    });
}

int32_t fastia_upsample_argmax(const fastia_logits* logits, int64_t height, int64_t width, int32_t align_corners,
                               int32_t threads, void* ids, fastia_error* error) {
    return guarded(error, [&] {
        if (is_empty(*logits, height, width)) return;
        if (logits->dtype == FASTIA_FLOAT64) {
            argmax<double>(*logits, height, width, align_corners, threads, ids);
        } else {
            argmax<float>(*logits, height, width, align_corners, threads, ids);
        }
    });
}
