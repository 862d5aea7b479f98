// Bilinear interpolation fused with what is done to the interpolated logits, once per instruction set.
//
// The work is cut into pieces: output rows that lie between the same two rows of logits. A piece is worked on in tiles
// of as many output columns as a vector has lanes, so that its two rows are interpolated horizontally once per tile and
// only vertically once per output pixel. Gradients go the same way back.
#pragma once
#include <cstdint>

namespace fastia {

constexpr int kMostRows = 32;   // output rows of a piece
constexpr int kMostLanes = 16;  // of a vector; tables of columns and rows of logits are padded by as many values

template <class T>
struct Piece {
    int64_t classes;
    const T* upper;  // [classes, stride] a row of logits
    const T* lower;  // the row below it; null: the output rows lie on the upper one
    int64_t stride;
    // Of each output column, [tiles * lanes]: it lies between `column` and `column + 1`.
    const int32_t* column;
    const T* left_weight;
    const T* right_weight;
    bool same_width;  // column x is x, with weight 1
    int64_t tiles;
    int rows;
    const T* upper_weight;  // [rows]
    const T* lower_weight;
    T* scratch;  // scratch_size(classes, lanes) values
};

inline int64_t padded(int64_t count, int64_t lanes) { return (count + lanes - 1) / lanes * lanes; }
inline int64_t scratch_size(int64_t classes, int64_t lanes) { return (4 * lanes + 1) * padded(classes, lanes); }

// What a pixel loss is computed from. With nll_c = log-sum-exp - z_c, the loss of a pixel is
//     weight * (class_weight[target] * f(nll_target) + class_share * sum_c class_weight[c] * nll_c),
// where f and class_share are those of the pixel loss (upsample_cross_entropy.h).
//
// Arrays of pixels are [rows, tiles * lanes]; `target` is -1 where a pixel is ignored. Nothing is written for a row of
// a tile that is not live: one whose pixels are all ignored.
template <class T>
struct LossPiece : Piece<T> {
    const double* parameters;  // of the pixel loss
    const T* class_weight;     // [classes], null: 1
    T class_weight_sum;
    const int32_t* target;
    const uint8_t* live;  // [rows, tiles]
};

template <class T>
struct ForwardPiece : LossPiece<T> {
    const T* weight;  // null: 1
    T* loss;
    T* lse;       // log-sum-exp is the sum of these two: rounded to T it would lose digits that
    T* lse_rest;  // the softmax of large logits still has
};

template <class T>
struct BackwardPiece : LossPiece<T> {
    const T* lse;
    const T* lse_rest;
    const T* upstream;  // gradient of the loss of each pixel, times its weight; 0 where ignored
    // Added to, [columns + 1, padded classes].
    T* upper_gradient;
    T* lower_gradient;
};

template <class T>
struct ArgmaxPiece : Piece<T> {
    int32_t* ids;
};

template <class T>
struct LossKernels {
    const char* name;
    void (*forward)(const ForwardPiece<T>&);
    void (*backward)(const BackwardPiece<T>&);
};

template <class T>
struct UpsampleKernels {
    int lanes;
    void (*argmax)(const ArgmaxPiece<T>&);
    const LossKernels<T>* losses;
    int loss_count;
};

struct AllUpsampleKernels {
    UpsampleKernels<float> float32;
    UpsampleKernels<double> float64;

    const UpsampleKernels<float>& of(float) const { return float32; }
    const UpsampleKernels<double>& of(double) const { return float64; }
};

// The best kernels for this processor; FASTIA_CPU in the environment names a lesser set.
const AllUpsampleKernels& upsample_kernels();

#if defined(__x86_64__) || defined(_M_X64)
extern const AllUpsampleKernels kUpsampleAvx2;
extern const AllUpsampleKernels kUpsampleAvx512;
#endif
extern const AllUpsampleKernels kUpsampleBaseline;

}  // namespace fastia
