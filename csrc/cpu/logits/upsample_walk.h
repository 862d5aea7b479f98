// The walk over the logits of a batch: where output pixels lie between them, and the pieces that the kernels work on.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/buffer.h"
#include "core/floats.h"
#include "core/thread_pool.h"
#include "logits/upsample.h"

namespace fastia {

// Where output positions lie along an axis: between `index` and `index` + 1, which count with `near` and `far`. These
// are quotients of integers, exact but for the rounding of `far`; on the last row or column `far` is 0.
template <class T>
struct Axis {
    std::vector<int32_t> index;
    std::vector<T> near, far;

    Axis(int64_t from, int64_t to, bool align_corners, int64_t length)
        : index(length, static_cast<int32_t>(std::max<int64_t>(from - 1, 0))), near(length, 0), far(length, 0) {
        const int64_t whole = align_corners ? std::max<int64_t>(to - 1, 1) : 2 * to;
        for (int64_t i = 0; i < to; ++i) {
            // (i + 1/2) from / to - 1/2, but not before the first; with aligned corners i (from - 1) / (to - 1)
            const int64_t part = align_corners ? i * (from - 1) : std::max<int64_t>((2 * i + 1) * from - to, 0);
            index[i] = static_cast<int32_t>(part / whole);
            const double fraction = static_cast<double>(part % whole) / static_cast<double>(whole);
            far[i] = index[i] + 1 == from ? 0 : static_cast<T>(fraction);
            near[i] = 1 - far[i];
        }
    }
};

// A working array, aligned to cache lines.
template <class T>
class Scratch {
  public:
    T* reserve(int64_t count) {
        char* raw = buffer_.reserve(count * static_cast<int64_t>(sizeof(T)) + 64);
        return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(raw) + 63) & ~uintptr_t{63});
    }
    T* zeros(int64_t count) {
        T* data = reserve(count);
        std::memset(static_cast<void*>(data), 0, static_cast<size_t>(count) * sizeof(T));
        return data;
    }

  private:
    Buffer<char> buffer_;
};

template <class Source, class T>
void read_row(const char* from, int64_t class_stride, int64_t column_stride, int64_t classes, int64_t width, T* to,
              int64_t stride) {
    const bool dense = column_stride == static_cast<int64_t>(sizeof(Source));
    for (int64_t c = 0; c < classes; ++c, from += class_stride, to += stride) {
        for (int64_t x = 0; x < width; ++x) {
            Source value;
            std::memcpy(&value, from + x * (dense ? static_cast<int64_t>(sizeof(Source)) : column_stride),
                        sizeof value);
            to[x] = static_cast<T>(value);
        }
    }
}

// A row of logits as [C, stride], zeros behind each class.
template <class T>
void read_logits(const fastia_logits& logits, int64_t image, int64_t y, T* out, int64_t stride) {
    const char* from = static_cast<const char*>(logits.data) + image * logits.strides[0] + y * logits.strides[2];
    const auto read = [&](auto read_as) {
        read_as(from, logits.strides[1], logits.strides[3], logits.shape[1], logits.shape[3], out, stride);
    };
    switch (logits.dtype) {
        case FASTIA_FLOAT16:
            return read(read_row<Float16, T>);
        case FASTIA_BFLOAT16:
            return read(read_row<BFloat16, T>);
        case FASTIA_FLOAT32:
            return read(read_row<float, T>);
        default:
            return read(read_row<double, T>);
    }
}

template <class Target, class T>
void write_row(const T* from, int64_t pixel_stride, char* to, int64_t class_stride, int64_t column_stride,
               int64_t classes, int64_t width) {
    constexpr int64_t kBlock = 16;  // pixels of a cache line of the gradient
    for (int64_t begin = 0; begin < width; begin += kBlock) {
        const int64_t end = std::min(width, begin + kBlock);
        for (int64_t c = 0; c < classes; ++c) {
            char* row = to + c * class_stride;
            for (int64_t x = begin; x < end; ++x) {
                const Target value = Conversion<Target>::from(from[x * pixel_stride + c]);
                std::memcpy(row + x * column_stride, &value, sizeof value);
            }
        }
    }
}

// A row of the gradient from [w, pixel_stride].
template <class T>
void write_gradient(const fastia_logits& gradient, int64_t image, int64_t y, const T* from, int64_t pixel_stride) {
    char* to = static_cast<char*>(gradient.data) + image * gradient.strides[0] + y * gradient.strides[2];
    const auto write = [&](auto write_as) {
        write_as(from, pixel_stride, to, gradient.strides[1], gradient.strides[3], gradient.shape[1],
                 gradient.shape[3]);
    };
    switch (gradient.dtype) {
        case FASTIA_FLOAT16:
            return write(write_row<Float16, T>);
        case FASTIA_BFLOAT16:
            return write(write_row<BFloat16, T>);
        case FASTIA_FLOAT32:
            return write(write_row<float, T>);
        default:
            return write(write_row<double, T>);
    }
}

// What the walks over the logits of a batch share.
template <class T>
struct Plan {
    const fastia_logits& logits;
    const int64_t height, width;  // of the output
    const UpsampleKernels<T>& kernels;
    const int64_t tiles, padded_width, stride;
    const Axis<T> rows, columns;
    std::vector<int64_t> first;  // [h + 1] first output row below each row of logits

    Plan(const fastia_logits& l, int64_t h, int64_t w, bool align_corners)
        : logits(l),
          height(h),
          width(w),
          kernels(upsample_kernels().of(T())),
          tiles(padded(w, kernels.lanes) / kernels.lanes),
          padded_width(tiles * kernels.lanes),
          stride(padded(l.shape[3], kMostLanes) + kMostLanes),
          rows(l.shape[2], h, align_corners, h),
          columns(l.shape[3], w, align_corners, padded_width),
          first(l.shape[2] + 1) {
        for (int64_t i = 0; i <= l.shape[2]; ++i) {
            first[i] = std::lower_bound(rows.index.begin(), rows.index.end(), i) - rows.index.begin();
        }
    }

    // Calls body(image, begin, end) for bands of rows of logits.
    template <class Body>
    void for_each_band(int threads, Body body) const {
        const int64_t batch = logits.shape[0], low = logits.shape[2];
        const int64_t wanted = batch % threads == 0 ? 1 : (2 * threads + batch - 1) / batch;
        const int64_t bands = std::min(low, wanted);
        parallel_for(batch * bands, threads, [&](int64_t i) {
            const int64_t band = i % bands;
            body(i / bands, low * band / bands, low * (band + 1) / bands);
        });
    }
};

// Reads the rows of logits that pieces need, and sets where each piece lies.
template <class T>
class Reader {
  public:
    Reader(const Plan<T>& plan, int64_t image)
        : plan_(plan), image_(image), size_(plan.logits.shape[1] * plan.stride) {}

    // For output rows y .. y + rows - 1 below row `index` of the logits.
    void prepare(Piece<T>& piece, int64_t index, int64_t y, int rows) {
        const T* below = plan_.rows.far.data() + y;
        const bool one_row = std::all_of(below, below + rows, [](T weight) { return weight == 0; });
        piece.classes = plan_.logits.shape[1];
        piece.upper = row(index);
        piece.lower = one_row ? nullptr : row(index + 1);
        piece.stride = plan_.stride;
        piece.column = plan_.columns.index.data();
        piece.left_weight = plan_.columns.near.data();
        piece.right_weight = plan_.columns.far.data();
        piece.same_width = plan_.logits.shape[3] == plan_.width;
        piece.tiles = plan_.tiles;
        piece.rows = rows;
        piece.upper_weight = plan_.rows.near.data() + y;
        piece.lower_weight = below;
        piece.scratch = scratch_.reserve(scratch_size(piece.classes, plan_.kernels.lanes));
    }

  private:
    const T* row(int64_t index) {
        const int slot = index & 1;
        if (!held_[slot]) held_[slot] = rows_[slot].zeros(size_);
        if (index_[slot] != index) read_logits(plan_.logits, image_, index, held_[slot], plan_.stride);
        index_[slot] = index;
        return held_[slot];
    }

    const Plan<T>& plan_;
    const int64_t image_, size_;
    Scratch<T> rows_[2], scratch_;
    T* held_[2] = {nullptr, nullptr};
    int64_t index_[2] = {-1, -1};
};

// Cuts the output rows below one row of logits into pieces and calls body(y, rows).
template <class T, class Body>
void for_each_piece(const Plan<T>& plan, int64_t index, Body body) {
    for (int64_t y = plan.first[index]; y < plan.first[index + 1]; y += kMostRows) {
        body(y, static_cast<int>(std::min<int64_t>(kMostRows, plan.first[index + 1] - y)));
    }
}

}  // namespace fastia
