// Bilinear interpolation fused with what is done to the interpolated logits, once per instruction set.
//
// The work is cut into pieces: output rows that lie between the same two rows of logits. A piece is worked on in tiles
// of as many output columns as a vector has lanes, so that its two rows are interpolated horizontally once per tile and
// only vertically once per output pixel. Gradients go the same way back.
#pragma once
#include <cstdint>

namespace fastia {

struct NegativeWeight {
    int64_t index;  // in [B * H * W]
};

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

// Arrays of pixels are [rows, tiles * lanes]; `target` is -1 where a pixel is ignored. Nothing is written for a row of
// a tile that is not live: one whose pixels are all ignored.
template <class T>
struct ForwardPiece : Piece<T> {
    const int32_t* target;
    const uint8_t* live;    // [rows, tiles]
    const T* weight;        // null: 1
    const T* class_weight;  // [classes], null: 1
    T class_weight_sum;
    T on_target, on_each;  // 1 - label_smoothing, label_smoothing / classes
    T* loss;
    T* lse;       // log-sum-exp is the sum of these two: rounded to T it would lose digits that
    T* lse_rest;  // the softmax of large logits still has
};

template <class T>
struct BackwardPiece : Piece<T> {
    const int32_t* target;
    const uint8_t* live;
    const T* lse;  // rounded; on_softmax makes up for it
    // dloss/dz_c = on_softmax * p_c - on_target * [c = target] - on_each * class_weight[c]
    const T* on_softmax;
    const T* on_target;
    const T* on_each;  // null: 0
    const T* class_weight;
    // Added to, [columns + 1, padded classes].
    T* upper_gradient;
    T* lower_gradient;
};

template <class T>
struct ArgmaxPiece : Piece<T> {
    int32_t* ids;
};

template <class T>
struct UpsampleKernels {
    int lanes;
    void (*forward)(const ForwardPiece<T>&);
    void (*backward)(const BackwardPiece<T>&);
    void (*argmax)(const ArgmaxPiece<T>&);
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
