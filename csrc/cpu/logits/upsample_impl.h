// The tile kernels, compiled once per instruction set. No standard templates here: the linker could keep this file's
// instantiation of one for callers on lesser processors.
#pragma once
#include "logits/upsample.h"
#include "logits/upsample_simd.h"

namespace fastia {
namespace {

// The two rows of logits of a piece at the columns of a tile, [classes, lanes] each, and which output rows are live.
template <class T>
struct Tile {
    static constexpr int L = kLanes<T>;
    const int64_t classes;
    T* const upper;
    T* const lower;
    int rows = 0;
    int row[kMostRows];

    Tile(const Piece<T>& piece) : classes(piece.classes), upper(piece.scratch), lower(upper + padded(classes, L) * L) {}

    // Lists the live rows; false if there is none.
    bool find_live_rows(const uint8_t* live, const Piece<T>& piece, int64_t tile) {
        rows = 0;
        for (int r = 0; r < piece.rows; ++r) {
            if (live[r * piece.tiles + tile]) row[rows++] = r;
        }
        return rows > 0;
    }
};

template <class T>
FASTIA_INLINE void interpolate_columns(const Piece<T>& piece, const T* source, int64_t x, T* out) {
    constexpr int L = kLanes<T>;
    const int64_t classes = piece.classes, stride = piece.stride;
    if (piece.same_width) {
        for (int64_t c = 0; c < classes; ++c) store(out + c * L, load(source + c * stride + x));
        return;
    }
    const Integers<T> left = load_ids(piece.column + x, T());
    const int32_t first = piece.column[x], last = piece.column[x + L - 1] + 1;
    const Vector<T> left_weight = load(piece.left_weight + x), right_weight = load(piece.right_weight + x);
    const T* base = source + first;
    const Integers<T> near = left - first, far = near + 1;
    if (last - first < L) {
        for (int64_t c = 0; c < classes; ++c) {
            const Vector<T> window = load(base + c * stride);
            store(out + c * L, fused(permute(window, far), right_weight, permute(window, near) * left_weight));
        }
    } else {
        for (int64_t c = 0; c < classes; ++c) {
            const T* row = base + c * stride;
            store(out + c * L, fused(gather(row, far), right_weight, gather(row, near) * left_weight));
        }
    }
}

template <class T, bool kTwoRows>
FASTIA_INLINE void interpolate_tile(const Piece<T>& piece, const Tile<T>& tile, int64_t x) {
    interpolate_columns(piece, piece.upper, x, tile.upper);
    if (kTwoRows) interpolate_columns(piece, piece.lower, x, tile.lower);
}

// An output row of a tile: its logits are an interpolation of the tile's two rows.
template <class T, bool kTwoRows>
struct Pixels {
    const Tile<T>& tile;
    const T upper_weight, lower_weight;

    Pixels(const Tile<T>& t, const Piece<T>& piece, int r)
        : tile(t),
          upper_weight(kTwoRows ? piece.upper_weight[r] : 1),
          lower_weight(kTwoRows ? piece.lower_weight[r] : 0) {}

    FASTIA_INLINE Vector<T> mix(Vector<T> upper, Vector<T> lower) const {
        return kTwoRows ? fused(lower, lower_weight, upper * upper_weight) : upper;
    }
    FASTIA_INLINE Vector<T> logits(int64_t c) const {
        constexpr int L = kLanes<T>;
        return mix(load(tile.upper + c * L), kTwoRows ? load(tile.lower + c * L) : Vector<T>{});
    }
    Vector<T> largest() const {
        Vector<T> result = logits(0);
        for (int64_t c = 1; c < tile.classes; ++c) result = maximum(logits(c), result);
        return result;
    }
    // Sum over classes of e^(logits - offset).
    Vector<T> sum_exp(Vector<T> offset) const {
        Vector<T> even{}, odd{};
        int64_t c = 0;
        for (; c + 1 < tile.classes; c += 2) {
            even += exp_nonpositive(logits(c) - offset);
            odd += exp_nonpositive(logits(c + 1) - offset);
        }
        if (c < tile.classes) even += exp_nonpositive(logits(c) - offset);
        return even + odd;
    }
    Vector<T> of_class(Integers<T> class_id) const {
        constexpr int L = kLanes<T>;
        Integers<T> index = class_id * L;
        for (int i = 0; i < L; ++i) index[i] += i;
        return mix(gather(tile.upper, index), kTwoRows ? gather(tile.lower, index) : Vector<T>{});
    }
};

// A vector of pixels of which a loss is taken: the target's class, 0 where ignored, and its weight.
template <class T>
struct Target {
    Integers<T> id, ignored, class_id;
    Vector<T> class_weight;

    FASTIA_INLINE Target(const LossPiece<T>& piece, int64_t x)
        : id(load_ids(piece.target + x, T())),
          ignored(id < 0),
          class_id(ignored ? 0 : id),
          class_weight(piece.class_weight ? gather(piece.class_weight, class_id) : splat(T(1))) {}
};

// Largest value of a row of the tile over classes, and, if asked for, the sum over classes of
// class_weight * (largest - value).
template <class T>
FASTIA_INLINE void summarise(const ForwardPiece<T>& piece, const T* values, bool with_sum, Vector<T>& largest,
                             Vector<T>& below) {
    constexpr int L = kLanes<T>;
    largest = load(values);
    for (int64_t c = 1; c < piece.classes; ++c) largest = maximum(load(values + c * L), largest);
    below = Vector<T>{};
    if (!with_sum) return;
    for (int64_t c = 0; c < piece.classes; ++c) {
        const T weight = piece.class_weight ? piece.class_weight[c] : 1;
        below = fused(largest - load(values + c * L), weight, below);
    }
}

// The sum of exponentials is taken relative to a bound that needs no pass over the classes: an interpolation of the
// largest logits of the tile's rows. Where rows disagree so much that digits would be lost, the true maximum is found.
template <class PixelLoss, class T, bool kTwoRows>
void forward_piece(const ForwardPiece<T>& piece) {
    constexpr int L = kLanes<T>;
    const PixelLoss pixel_loss(piece.parameters, piece.classes);
    const bool with_sum = pixel_loss.class_share != 0;
    Tile<T> tile(piece);
    const int64_t width = piece.tiles * L;
    for (int64_t t = 0; t < piece.tiles; ++t) {
        if (!tile.find_live_rows(piece.live, piece, t)) continue;
        interpolate_tile<T, kTwoRows>(piece, tile, t * L);
        Vector<T> upper_largest, upper_below, lower_largest{}, lower_below{};
        summarise(piece, tile.upper, with_sum, upper_largest, upper_below);
        if (kTwoRows) summarise(piece, tile.lower, with_sum, lower_largest, lower_below);
        for (int k = 0; k < tile.rows; ++k) {
            const int r = tile.row[k];
            const Pixels<T, kTwoRows> pixels(tile, piece, r);
            const int64_t x = r * width + t * L;
            const Vector<T> bound = pixels.mix(upper_largest, lower_largest);
            Vector<T> shift = bound, sum = pixels.sum_exp(shift);
            if (any_below(sum, T(0.0625))) {
                shift = pixels.largest();
                sum = pixels.sum_exp(shift);
            }
            const Vector<T> log_sum = log_positive(sum);
            const Target<T> target(piece, x);
            const Vector<T> nll = log_sum - (pixels.of_class(target.class_id) - shift);
            Vector<T> loss = pixel_loss.forward(nll) * target.class_weight;
            if (with_sum) {
                const Vector<T> common = (shift - bound + log_sum) * piece.class_weight_sum;
                loss += (common + pixels.mix(upper_below, lower_below)) * pixel_loss.class_share;
            }
            if (piece.weight) loss *= load(piece.weight + x);
            store(piece.loss + x, target.ignored ? Vector<T>{} : loss);
            const Vector<T> lse = shift + log_sum, part = lse - shift;
            const Vector<T> rest = (shift - (lse - part)) + (log_sum - part);  // what the sum was rounded by
            store(piece.lse + x, target.ignored ? Vector<T>{} : lse);
            store(piece.lse_rest + x, target.ignored ? Vector<T>{} : rest);
        }
    }
}

// Adds the transposed interpolation of a tile, [classes, lanes], to a row of the gradient, [columns + 1, classes].
template <class T>
void spread_columns(const Piece<T>& piece, const T* values, int64_t x, T* gradient) {
    constexpr int L = kLanes<T>;
    const int64_t classes = padded(piece.classes, L);
    for (int64_t c = 0; c < classes; c += L) {
        Vector<T> rows[L];
        transpose(values + c * L, rows);
        if (piece.same_width) {
            for (int i = 0; i < L; ++i) {
                T* pixel = gradient + piece.column[x + i] * classes + c;
                store(pixel, load(pixel) + rows[i] * piece.left_weight[x + i]);
            }
            continue;
        }
        int32_t column = piece.column[x];
        T* near = gradient + column * classes + c;
        Vector<T> left = load(near), right = load(near + classes);
        for (int i = 0; i < L; ++i) {
            if (piece.column[x + i] != column) {
                store(near, left);
                const bool next = piece.column[x + i] == ++column;
                T* far = near + classes;
                if (next) {
                    left = right;
                } else {
                    store(far, right);
                    column = piece.column[x + i];
                    far = gradient + column * classes + c;
                    left = load(far);
                }
                near = far;
                right = load(near + classes);
            }
            left = fused(rows[i], piece.left_weight[x + i], left);
            right = fused(rows[i], piece.right_weight[x + i], right);
        }
        store(near, left);
        store(near + classes, right);
    }
}

struct Yes {
    static constexpr bool value = true;
};
struct No {
    static constexpr bool value = false;
};

// The pixels of the live rows of a tile, whose gradient is
//     dloss/dz_c = softmax_factor * p_c - target_factor * [c = target] - class_factor * class_weight[c]
// The last term is interpolated and summed over the rows once, for it has the same class_weight[c] in all of them.
template <class T>
struct LivePixels {
    static constexpr int L = kLanes<T>;
    Vector<T> lse[kMostRows], softmax_factor[kMostRows], target_factor[kMostRows];
    Vector<T> upper_softmax_factor[kMostRows], lower_softmax_factor[kMostRows];
    Integers<T> target[kMostRows];
    Vector<T> upper_class_factor{}, lower_class_factor{};
};

template <class PixelLoss, class T, bool kTwoRows>
void backward_piece(const BackwardPiece<T>& piece) {
    constexpr int L = kLanes<T>;
    const PixelLoss pixel_loss(piece.parameters, piece.classes);
    const bool with_sum = pixel_loss.class_share != 0;
    const int64_t classes = piece.classes, padded_classes = padded(classes, L), width = piece.tiles * L;
    Tile<T> tile(piece);
    T* const upper_sum = tile.lower + padded_classes * L;
    T* const lower_sum = upper_sum + padded_classes * L;
    uint8_t* const is_target = reinterpret_cast<uint8_t*>(lower_sum + padded_classes * L);  // of a pixel of the tile
    std::memset(is_target, 0, static_cast<size_t>(classes));
    for (int64_t c = classes; c < padded_classes; ++c) {
        store(upper_sum + c * L, Vector<T>{});
        store(lower_sum + c * L, Vector<T>{});
    }
    LivePixels<T> live;
    for (int64_t t = 0; t < piece.tiles; ++t) {
        if (!tile.find_live_rows(piece.live, piece, t)) continue;
        interpolate_tile<T, kTwoRows>(piece, tile, t * L);
        live.upper_class_factor = live.lower_class_factor = Vector<T>{};
        for (int k = 0; k < tile.rows; ++k) {
            const int r = tile.row[k];
            const Pixels<T, kTwoRows> pixels(tile, piece, r);
            const int64_t x = r * width + t * L;
            const Target<T> target(piece, x);
            for (int i = 0; i < L; ++i) {
                if (piece.target[x + i] >= 0) is_target[piece.target[x + i]] = 1;
            }
            const Vector<T> lse = load(piece.lse + x), rest = load(piece.lse_rest + x);
            const Vector<T> upstream = load(piece.upstream + x);
            const auto nll = [&] { return lse - pixels.of_class(target.class_id) + rest; };
            const Vector<T> slope = pixel_loss.backward(nll) * upstream * target.class_weight;
            const Vector<T> target_factor = target.ignored ? Vector<T>{} : slope;
            const Vector<T> class_factor = pixel_loss.class_share * upstream;
            // The exponentials are relative to the rounded log-sum-exp; e^-rest makes up for it.
            const Vector<T> softmax_factor = (target_factor + class_factor * piece.class_weight_sum) * (1 - rest);
            live.lse[k] = target.ignored ? splat(T(1e30)) : lse;  // softmax 0
            live.target[k] = target.id;
            live.softmax_factor[k] = softmax_factor;
            live.target_factor[k] = target_factor;
            live.upper_softmax_factor[k] = softmax_factor * pixels.upper_weight;
            live.lower_softmax_factor[k] = softmax_factor * pixels.lower_weight;
            if (with_sum) {
                live.upper_class_factor += class_factor * pixels.upper_weight;
                live.lower_class_factor += class_factor * pixels.lower_weight;
            }
        }
        Integers<T> class_id{};
        for (int64_t c = 0; c < classes; ++c, class_id += 1) {
            const Vector<T> upper = load(tile.upper + c * L), lower = kTwoRows ? load(tile.lower + c * L) : Vector<T>{};
            const T class_weight = piece.class_weight ? piece.class_weight[c] : 1;
            Vector<T> upper_total = live.upper_class_factor * -class_weight;
            Vector<T> lower_total = live.lower_class_factor * -class_weight;
            const auto add_rows = [&](auto has_target) {
                for (int k = 0; k < tile.rows; ++k) {
                    const Pixels<T, kTwoRows> pixels(tile, piece, tile.row[k]);
                    const Vector<T> p = exp_nonpositive(pixels.mix(upper, lower) - live.lse[k]);
                    if (decltype(has_target)::value) {
                        const Vector<T> one_hot = live.target[k] == class_id ? live.target_factor[k] : Vector<T>{};
                        const Vector<T> g = fused(p, live.softmax_factor[k], -one_hot);
                        upper_total = fused(g, pixels.upper_weight, upper_total);
                        if (kTwoRows) lower_total = fused(g, pixels.lower_weight, lower_total);
                    } else {
                        upper_total = fused(p, live.upper_softmax_factor[k], upper_total);
                        if (kTwoRows) lower_total = fused(p, live.lower_softmax_factor[k], lower_total);
                    }
                }
            };
            is_target[c] ? add_rows(Yes()) : add_rows(No());
            is_target[c] = 0;
            store(upper_sum + c * L, upper_total);
            if (kTwoRows) store(lower_sum + c * L, lower_total);
        }
        spread_columns(piece, upper_sum, t * L, piece.upper_gradient);
        if (kTwoRows) spread_columns(piece, lower_sum, t * L, piece.lower_gradient);
    }
}

template <class T, bool kTwoRows>
void argmax_piece(const ArgmaxPiece<T>& piece) {
    constexpr int L = kLanes<T>;
    Tile<T> tile(piece);
    for (int64_t t = 0; t < piece.tiles; ++t) {
        interpolate_tile<T, kTwoRows>(piece, tile, t * L);
        for (int r = 0; r < piece.rows; ++r) {
            const Pixels<T, kTwoRows> pixels(tile, piece, r);
            Vector<T> largest = pixels.logits(0);
            Integers<T> id{}, c_id{};
            for (int64_t c = 1; c < tile.classes; ++c) {
                c_id += 1;
                const Vector<T> z = pixels.logits(c);
                // As torch: NaN is the largest, and the first of equals wins.
                const Integers<T> better = ~(z <= largest) & (largest == largest);
                largest = better ? z : largest;
                id = better ? c_id : id;
            }
            int32_t* out = piece.ids + (r * piece.tiles + t) * L;
            for (int i = 0; i < L; ++i) out[i] = static_cast<int32_t>(id[i]);
        }
    }
}

template <class PixelLoss, class T>
void forward(const ForwardPiece<T>& piece) {
    const FlushDenormals flush;
    piece.lower ? forward_piece<PixelLoss, T, true>(piece) : forward_piece<PixelLoss, T, false>(piece);
}
template <class PixelLoss, class T>
void backward(const BackwardPiece<T>& piece) {
    const FlushDenormals flush;
    piece.lower ? backward_piece<PixelLoss, T, true>(piece) : backward_piece<PixelLoss, T, false>(piece);
}
template <class T>
void argmax(const ArgmaxPiece<T>& piece) {
    const FlushDenormals flush;
    piece.lower ? argmax_piece<T, true>(piece) : argmax_piece<T, false>(piece);
}

template <class T, template <class> class... PixelLosses>
struct LossTable {
    static constexpr int kCount = sizeof...(PixelLosses);
    static constexpr LossKernels<T> kKernels[] = {
        {PixelLosses<T>::kName, forward<PixelLosses<T>, T>, backward<PixelLosses<T>, T>}...};
};

}  // namespace
}  // namespace fastia
