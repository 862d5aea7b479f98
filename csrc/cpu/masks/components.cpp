// label, weights and components: fills of the runs with a value of their component.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/api.h"
#include "core/fastia.h"
#include "core/thread_pool.h"
#include "masks/labelling.h"

struct fastia_component_table {
    struct Component {
        int32_t class_id;
        int64_t area;
        int32_t bbox[4];
    };
    std::vector<std::vector<Component>> images;
};

namespace fastia {
namespace {

ComponentOptions options_of(const fastia_component_options& options) {
    ComponentOptions component_options;
    component_options.connectivity = options.connectivity;
    component_options.background = options.background;
    return component_options;
}

// A fresh result of many megabytes costs more in page faults than in work; huge pages make them few.
void prefer_huge_pages(void* data, size_t bytes) {
#if defined(MADV_HUGEPAGE)
    constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~(kHugePage - 1);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kHugePage - 1);
    if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)data, (void)bytes;
#endif
}

void expand(const RowKernels& kernels, const uint64_t* edges, int64_t width, const uint16_t* values, uint16_t* out) {
    kernels.expand2(edges, width, values, out);
}
void expand(const RowKernels& kernels, const uint64_t* edges, int64_t width, const uint32_t* values, uint32_t* out) {
    kernels.expand4(edges, width, values, out);
}
void expand(const RowKernels& kernels, const uint64_t* edges, int64_t width, const uint64_t* values, uint64_t* out) {
    kernels.expand8(edges, width, values, out);
}

// Writes values[component] to every pixel of an image.
template <class Value>
void fill(const Labelling& labelling, const Value* values, Value* image, int threads) {
    const RowKernels& kernels = row_kernels();
    parallel_for(static_cast<int64_t>(labelling.strips.size()), threads, [&](int64_t s) {
        const Strip& strip = labelling.strips[s];
        const bool whole = labelling.strips.size() == 1;
        Buffer<Value> local, runs;
        if (!whole) {
            local.reserve(strip.components);
            for (uint32_t c = 0; c < strip.components; ++c) local[c] = values[labelling.of_image(s, c)];
        }
        const Value* value = whole ? values : local.data();
        // Many rows at a time: a vector load of values that were stored just before one by one would stall.
        constexpr int64_t kRows = 32;
        for (int64_t r = 0; r < strip.rows(); r += kRows) {
            const int64_t end = std::min(r + kRows, strip.rows());
            const uint32_t first = strip.first_run[r], count = strip.first_run[end] - first;
            const uint32_t* component = strip.component.data() + first;
            Value* run = runs.reserve(1 + count + 16) + 1;  // the fill reads around the row's runs
            for (uint32_t k = 0; k < count; ++k) run[k] = value[component[k]];
            for (int64_t row = r; row < end; ++row) {
                expand(kernels, strip.edges_of(strip.begin + row), strip.width, run + (strip.first_run[row] - first),
                       image + (strip.begin + row) * strip.width);
            }
        }
    });
}

void fill_labels(const Labelling& labelling, int32_t* image, int threads) {
    if (labelling.components - kFirstComponent > static_cast<uint32_t>(std::numeric_limits<int32_t>::max()))
        throw TooManyComponents();
    Buffer<uint32_t> label;
    label.reserve(labelling.components);
    for (uint32_t c = 0; c < labelling.components; ++c) label[c] = c < kFirstComponent ? 0 : c - kBackgroundComponent;
    fill(labelling, label.data(), reinterpret_cast<uint32_t*>(image), threads);
}

// The bits of a weight (0, or 1 and more) in a dtype, rounded once, ties to even.
struct Float16 {
    using Bits = uint16_t;
    static constexpr int kMantissa = 10, kBias = 15;
};
struct BFloat16 {
    using Bits = uint16_t;
    static constexpr int kMantissa = 7, kBias = 127;
};
struct Float32 {
    using Bits = uint32_t;
    static constexpr int kMantissa = 23, kBias = 127;
};
struct Float64 {
    using Bits = uint64_t;
    static constexpr int kMantissa = 52, kBias = 1023;
};

template <class Format>
typename Format::Bits round_to(double weight) {
    if (weight == 0) return 0;
    uint64_t bits;
    std::memcpy(&bits, &weight, sizeof bits);
    constexpr int kDropped = 52 - Format::kMantissa;
    if (kDropped > 0) bits = (bits + (uint64_t{1} << (kDropped - 1)) - 1 + (bits >> kDropped & 1)) >> kDropped;
    const uint64_t rebias = static_cast<uint64_t>(1023 - Format::kBias) << Format::kMantissa;
    const uint64_t infinity = static_cast<uint64_t>(2 * Format::kBias + 1) << Format::kMantissa;
    return static_cast<typename Format::Bits>(std::min(bits - rebias, infinity));
}

// Eq. 3: the pixels of the class (or of all classes) over those of the component, at most tau.
template <class Format>
void weigh(const fastia_masks& masks, const fastia_component_options& options, int32_t normalizer, double tau,
           typename Format::Bits* weights) {
    const int64_t pixels = masks.shape[1] * masks.shape[2];
    for_each_labelling(
        masks, options_of(options), options.ignore_index, options.threads,
        [&](int64_t image, const Map& map, Labelling& labelling, int threads) {
            const uint32_t count = labelling.components;
            Buffer<int64_t> sums, totals;
            Buffer<int32_t> ids;
            Buffer<typename Format::Bits> values;
            const int64_t* area = labelling.areas(&sums);
            int64_t* total = totals.reserve(map.maximum + 1);
            int32_t* id = ids.reserve(count);
            auto* value = values.reserve(count);
            labelling.for_each_component([=, &map](uint32_t component, const FirstRun& first) {
                id[component] = normalizer == FASTIA_PER_CLASS ? map.code(first.y, first.x) : 0;
                total[id[component]] = 0;
            });
            for (uint32_t c = kFirstComponent; c < count; ++c) total[id[c]] += area[c];
            value[kNoComponent] = round_to<Format>(0.0);
            value[kBackgroundComponent] = round_to<Format>(1.0);
            // Far above tau no division is needed to know that the weight is tau.
            const double far_above = tau + 1;
            const auto capped = round_to<Format>(tau);
            for (uint32_t c = kFirstComponent; c < count; ++c) {
                const double of_class = static_cast<double>(total[id[c]]), own = static_cast<double>(area[c]);
                value[c] = of_class > far_above * own ? capped : round_to<Format>(std::min(tau, of_class / own));
            }
            fill(labelling, value, weights + image * pixels, threads);
        });
}

std::vector<fastia_component_table::Component> describe(const Labelling& labelling, const Map& map) {
    Buffer<int64_t> sums;
    const int64_t* area = labelling.areas(&sums);
    std::vector<fastia_component_table::Component> out(labelling.components - kFirstComponent);
    labelling.for_each_component([&](uint32_t component, const FirstRun& first) {
        const int32_t y = static_cast<int32_t>(first.y), x = static_cast<int32_t>(first.x);
        out[component - kFirstComponent] = {map.code(y, x), area[component], {y, x, y + 1, x + 1}};
    });
    for (size_t s = 0; s < labelling.strips.size(); ++s) {
        const Strip& strip = labelling.strips[s];
        for (int64_t r = 0; r < strip.rows(); ++r) {
            const uint32_t row_start = static_cast<uint32_t>(r * strip.width);
            for (uint32_t run = strip.first_run[r]; run < strip.first_run[r + 1]; ++run) {
                if (strip.component[run] < kFirstComponent) continue;
                const uint32_t end = run + 1 < strip.first_run[r + 1] ? strip.start[run + 1] - row_start
                                                                      : static_cast<uint32_t>(strip.width);
                int32_t* box = out[labelling.of_image(s, strip.component[run]) - kFirstComponent].bbox;
                box[1] = std::min(box[1], static_cast<int32_t>(strip.start[run] - row_start));
                box[2] = static_cast<int32_t>(strip.begin + r + 1);
                box[3] = std::max(box[3], static_cast<int32_t>(end));
            }
        }
    }
    return out;
}

}  // namespace
}  // namespace fastia

using namespace fastia;

const char* fastia_instruction_set(void) { return row_kernels().name; }

int32_t fastia_label(const fastia_masks* masks, const fastia_component_options* options, int32_t* labels,
                     fastia_error* error) {
    return guarded(error, [&] {
        const int64_t pixels = masks->shape[1] * masks->shape[2];
        prefer_huge_pages(labels, masks->shape[0] * pixels * sizeof(int32_t));
        ComponentOptions component_options = options_of(*options);
        component_options.areas = false;
        for_each_labelling(*masks, component_options, options->ignore_index, options->threads,
                           [&](int64_t image, const Map&, Labelling& labelling, int threads) {
                               fill_labels(labelling, labels + image * pixels, threads);
                           });
    });
}

int32_t fastia_weights(const fastia_masks* masks, const fastia_component_options* options, int32_t normalizer,
                       double tau, int32_t weight_dtype, void* weights, fastia_error* error) {
    return guarded(error, [&] {
        const auto run = [&](auto format) {
            using Bits = typename decltype(format)::Bits;
            prefer_huge_pages(weights, masks->shape[0] * masks->shape[1] * masks->shape[2] * sizeof(Bits));
            weigh<decltype(format)>(*masks, *options, normalizer, tau, static_cast<Bits*>(weights));
        };
        switch (weight_dtype) {
            case FASTIA_FLOAT16:
                return run(Float16());
            case FASTIA_BFLOAT16:
                return run(BFloat16());
            case FASTIA_FLOAT32:
                return run(Float32());
            default:
                return run(Float64());
        }
    });
}

int32_t fastia_components(const fastia_masks* masks, const fastia_component_options* options, int32_t* labels,
                          int32_t* count, fastia_component_table** table, fastia_error* error) {
    return guarded(error, [&] {
        const int64_t pixels = masks->shape[1] * masks->shape[2];
        prefer_huge_pages(labels, masks->shape[0] * pixels * sizeof(int32_t));
        auto result = std::make_unique<fastia_component_table>();
        result->images.resize(masks->shape[0]);
        for_each_labelling(*masks, options_of(*options), options->ignore_index, options->threads,
                           [&](int64_t image, const Map& map, Labelling& labelling, int threads) {
                               fill_labels(labelling, labels + image * pixels, threads);
                               result->images[image] = describe(labelling, map);
                           });
        for (int64_t image = 0; image < masks->shape[0]; ++image)
            count[image] = static_cast<int32_t>(result->images[image].size());
        *table = result.release();
    });
}

void fastia_components_copy(const fastia_component_table* table, int64_t columns, int32_t* class_id, int64_t* area,
                            int32_t* bbox) {
    for (const auto& image : table->images) {
        for (int64_t k = 0; k < columns; ++k) {
            const bool present = k < static_cast<int64_t>(image.size());
            *class_id++ = present ? image[k].class_id : -1;
            *area++ = present ? image[k].area : 0;
            for (int side = 0; side < 4; ++side) *bbox++ = present ? image[k].bbox[side] : 0;
        }
    }
}

void fastia_components_free(fastia_component_table* table) { delete table; }
