// instance_iou: overlaps of ground-truth instances with predicted components, counted on segments of rows.
//
// A row is cut wherever prediction, target or instance changes; each segment has one (component, instance, class)
// triple, and its length is added to a small hash. No label map is written. Sums are integers, so they do not depend on
// how the image was cut into strips.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "core/api.h"
#include "core/fastia.h"
#include "core/hash_table.h"
#include "core/thread_pool.h"
#include "masks/labelling.h"

struct fastia_instance_table {
    struct Instance {
        int32_t class_id, instance_id;
        int64_t area, intersection;
        double covered, iou;
    };
    struct Unmatched {
        int32_t class_id;
        int64_t area;
    };
    // The instance of its class with which a component has an IoU above 1/2 off void: there is one at most.
    struct Match {
        int64_t instance_area = 0;  // in its record
        int64_t intersection = 0, union_area = 0;
    };
    // A predicted component with pixels void in neither map, which `area` counts.
    struct Component {
        int32_t class_id;
        int64_t area, void_area;
        Match match;
    };
    struct Image {
        std::vector<Instance> instances;
        std::vector<Unmatched> unmatched;
        std::vector<Component> components;
    };
    std::vector<Image> images;
};

namespace fastia {
namespace {

constexpr int32_t kPreds = 0, kTarget = 1, kInstances = 2;
constexpr int32_t kNoClass = -1;

// The inputs of one image. Without an instance map the components of the target serve.
struct OverlapInputs {
    Map preds, target, instances;
    bool has_instances;

    OverlapInputs(int64_t image, const fastia_masks& preds_, const fastia_masks& target_,
                  const fastia_masks* instances_, const fastia_overlap_options& options)
        : preds(preds_, image, options.components.ignore_index, kPreds),
          target(target_, image, options.components.ignore_index, kTarget),
          instances(instances_ ? Map(*instances_, image, options.instance_ignore_index, kInstances, INT32_MAX)
                               : target),
          has_instances(instances_ != nullptr) {}
};

// `area` and `pixels` count what is void in neither map. Under `wacv2024` instance void alone is void to the records:
// there `unlabelled` counts what the target alone ignores, which belongs to them too.
struct Instance {
    int32_t id = 0;
    int32_t class_id = kNoClass;  // the largest target id seen under it
    int64_t area = 0, unlabelled = 0;

    int64_t record_area() const { return area + unlabelled; }
};

struct Overlap {
    int64_t pixels = 0, unlabelled = 0;
    int64_t hit = 0;  // those of `pixels` whose target is the component's class
};

struct Component {
    int64_t area = 0, unlabelled = 0;
    int64_t hit = 0;        // as in an overlap
    int64_t void_area = 0;  // pixels void in either map, those of `unlabelled` too
    int64_t matched = 0;    // those of `area` on instances of its class

    void add(const Component& part) {
        area += part.area;
        unlabelled += part.unlabelled;
        hit += part.hit;
        void_area += part.void_area;
    }
};

struct BackgroundOverlap {
    int64_t area = 0, predicted = 0, both = 0;

    void add(const BackgroundOverlap& other) {
        area += other.area;
        predicted += other.predicted;
        both += other.both;
    }
};

// What one strip adds up, by its own components and instances.
struct Counts {
    Buffer<Component> components;
    std::vector<Instance> instances;
    HashTable<Empty> instance_index;
    HashTable<Overlap> overlaps;  // key: component, index of the instance
    BackgroundOverlap background;
};

uint64_t key_of(uint32_t component, uint32_t instance) { return static_cast<uint64_t>(component) << 32 | instance; }

class ImageOverlaps {
  public:
    ImageOverlaps(const OverlapInputs& inputs, const fastia_overlap_options& options, const Division& division,
                  int threads, int64_t* confusion)
        : inputs_(inputs), options_(options), division_(division), threads_(threads), confusion_(confusion) {}

    void run(fastia_instance_table::Image* result) {
        form_and_count(options_.components.background);
        // Under `wacv2024` such an instance has a record, and components of the background class count too.
        if (!exact() && has_instance_of_background()) {
            confusion_ = nullptr;
            form_and_count(fastia_id{0, 0});
        }
        combine(result);
    }

  private:
    bool exact() const { return options_.protocol == FASTIA_EXACT; }
    bool is_background(int32_t id) const {
        return options_.components.background.present && id == options_.components.background.value;
    }

    void form_and_count(fastia_id background) {
        ComponentOptions prediction, ground_truth;
        prediction.areas = ground_truth.areas = false;
        prediction.background = background;
        prediction.num_classes = options_.num_classes;
        prediction.contours = !exact();
        ground_truth.background = options_.components.background;
        division_.assign(predicted_, inputs_.preds.height);
        if (!inputs_.has_instances) division_.assign(true_, inputs_.target.height);
        counts_.clear();
        counts_.resize(division_.strips);
        parallel_for(division_.strips, threads_, [&](int64_t s) {
            scan_strip(predicted_.strips[s], inputs_.preds, prediction, kernels_);
            if (!inputs_.has_instances) scan_strip(true_.strips[s], inputs_.target, ground_truth, kernels_);
            count(s);
        });
        predicted_.merge(inputs_.preds, prediction, kernels_);
        if (!inputs_.has_instances) true_.merge(inputs_.target, ground_truth, kernels_);
        gather();
    }

    void count(int64_t s) {
        const Strip& strip = predicted_.strips[s];
        Counts& counts = counts_[s];
        counts.components.fill(strip.components, Component());
        if (!inputs_.has_instances) counts.instances.resize(true_.strips[s].components);
        const int64_t width = strip.width, words = words_of(width);
        RowReader preds(inputs_.preds, kernels_), target(inputs_.target, kernels_),
            instances(inputs_.instances, kernels_);
        Buffer<uint64_t> cuts, other;
        Buffer<uint32_t> position;
        cuts.reserve(words);
        other.reserve(words);
        for (int64_t y = strip.begin; y < strip.end; ++y) {
            const Codes pred_row(inputs_.preds, preds.read(y)), target_row(inputs_.target, target.read(y));
            const uint64_t* pred_edges = strip.edges_of(y);
            const uint64_t* target_edges = other.data();
            if (inputs_.has_instances) {
                edges_of(kernels_, target_row.row, width, other.data());
            } else {
                target_edges = true_.strips[s].edges_of(y);
            }
            for (int64_t w = 0; w < words; ++w) cuts[w] = pred_edges[w] | target_edges[w];
            Codes instance_row = target_row;
            if (inputs_.has_instances) {
                instance_row = Codes(inputs_.instances, instances.read(y));
                edges_of(kernels_, instance_row.row, width, other.data());
                for (int64_t w = 0; w < words; ++w) cuts[w] |= other[w];
            }
            position.reserve(width + kListPadding);
            const uint32_t segments = kernels_.positions(cuts.data(), words, position.data());
            position[segments] = static_cast<uint32_t>(width);

            uint32_t run = strip.first_run[y - strip.begin] - 1;
            uint32_t true_run = inputs_.has_instances ? 0 : true_.strips[s].first_run[y - strip.begin] - 1;
            for (uint32_t k = 0; k < segments; ++k) {
                const uint32_t x = position[k];
                run += pred_edges[x / 64] >> (x % 64) & 1;
                if (!inputs_.has_instances) true_run += target_edges[x / 64] >> (x % 64) & 1;
                Segment segment{position[k + 1] - x, pred_row[x], target_row[x], strip.component[run], -1, 0};
                if (inputs_.has_instances) {
                    segment.instance_id = instance_row[x];
                } else if (segment.target != kIgnoredCode) {
                    segment.instance_id = static_cast<int32_t>(true_.strips[s].component[true_run]) -
                                          static_cast<int32_t>(kBackgroundComponent);
                    segment.instance = true_.strips[s].component[true_run];
                }
                add(segment, counts);
            }
        }
    }

    struct Segment {
        int64_t length;
        int32_t pred, target;  // codes
        uint32_t component;
        int32_t instance_id;  // kIgnoredCode: void; 0: none
        uint32_t instance;    // index
    };

    void add(Segment& segment, Counts& counts) {
        const auto [length, pred, target, component, instance_id, unused] = segment;
        if (target != kIgnoredCode) {
            if (options_.num_classes.present && target >= options_.num_classes.value) throw InvalidId{kTarget, target};
            if (confusion_) add_confusion(pred, target, length);
        }
        Component& predicted = counts.components[component];
        if (instance_id == kIgnoredCode || target == kIgnoredCode) predicted.void_area += length;
        if (instance_id == kIgnoredCode || (exact() && target == kIgnoredCode)) return;  // void to the records
        if (is_background(target)) {
            counts.background.area += length;
            if (is_background(pred)) counts.background.both += length;
        }
        if (is_background(pred)) counts.background.predicted += length;
        const bool labelled = target != kIgnoredCode, hit = pred == target && labelled;
        (labelled ? predicted.area : predicted.unlabelled) += length;
        if (hit) predicted.hit += length;
        if (instance_id == 0) return;
        if (inputs_.has_instances) segment.instance = index_of(instance_id, counts);
        Instance& instance = counts.instances[segment.instance];
        instance.id = instance_id;
        (labelled ? instance.area : instance.unlabelled) += length;
        instance.class_id = std::max(instance.class_id, target);  // kIgnoredCode is kNoClass
        if (component < kFirstComponent) return;
        Overlap& overlap = counts.overlaps[key_of(component, segment.instance)];
        (labelled ? overlap.pixels : overlap.unlabelled) += length;
        if (hit) overlap.hit += length;
    }

    void add_confusion(int32_t pred, int32_t target, int64_t length) {
        const int64_t classes = options_.num_classes.value;
        int64_t* cell =
            confusion_ + target * (classes + 1) + (pred == kIgnoredCode || pred >= classes ? classes : pred);
        if (division_.strips == 1) {
            *cell += length;
        } else {
            __atomic_fetch_add(cell, length, __ATOMIC_RELAXED);
        }
    }

    static uint32_t index_of(int32_t id, Counts& counts) {
        const uint32_t index = counts.instance_index.index_of(static_cast<uint64_t>(id));
        if (index == counts.instances.size()) counts.instances.emplace_back();
        return index;
    }

    // From the strips' components and instances to those of the image, components in holes with the one that encloses
    // them.
    void gather() {
        Buffer<uint32_t> top;
        const auto component_of = [&](size_t s, uint32_t component) {
            const uint32_t whole = predicted_.of_image(s, component);
            return exact() ? whole : top[whole];
        };
        if (!exact()) outermost(predicted_, inputs_.preds, &top);
        components_.fill(predicted_.components, Component());
        class_.reserve(predicted_.components);
        predicted_.for_each_component([&](uint32_t component, const FirstRun& first) {
            class_[component] = inputs_.preds.code(first.y, first.x);
        });
        Counts image;
        if (!inputs_.has_instances) image.instances.resize(true_.components);
        overlaps_.clear();
        background_ = BackgroundOverlap();
        for (size_t s = 0; s < counts_.size(); ++s) {
            const Counts& counts = counts_[s];
            background_.add(counts.background);
            for (uint32_t c = kFirstComponent; c < predicted_.strips[s].components; ++c) {
                components_[component_of(s, c)].add(counts.components[c]);
            }
            std::vector<uint32_t> index(counts.instances.size());
            for (uint32_t i = 0; i < index.size(); ++i) {
                const Instance& part = counts.instances[i];
                if (part.record_area() == 0) continue;
                index[i] = inputs_.has_instances ? index_of(part.id, image) : true_.of_image(s, i);
                Instance& whole = image.instances[index[i]];
                whole.id = inputs_.has_instances ? part.id : static_cast<int32_t>(index[i] - kBackgroundComponent);
                whole.area += part.area;
                whole.unlabelled += part.unlabelled;
                whole.class_id = std::max(whole.class_id, part.class_id);
            }
            counts.overlaps.for_each([&](uint64_t key, const Overlap& overlap) {
                const uint32_t component = component_of(s, static_cast<uint32_t>(key >> 32)),
                               instance = index[static_cast<uint32_t>(key)];
                overlaps_.push_back({key_of(instance, component), overlap});
            });
        }
        instances_ = std::move(image.instances);
    }

    bool has_instance_of_background() const {
        return std::any_of(instances_.begin(), instances_.end(),
                           [&](const Instance& instance) { return is_background(instance.class_id); });
    }

    // Parts of a share: its whole part is summed as it is, its fraction in units of 2^-40, so that sums do not depend
    // on their order.
    struct Covered {
        static constexpr double kUnit = 1099511627776.0;  // 2^40
        int64_t intersection = 0, whole = 0, fraction = 0;

        // The component's `rest` lies on no instance of its class; `other` of its pixels lie on others of them.
        void add(int64_t pixels, int64_t other, int64_t rest, bool keep_fraction) {
            const double share =
                static_cast<double>(pixels) / static_cast<double>(pixels + other) * static_cast<double>(rest);
            const double floor = std::floor(share);
            intersection += pixels;
            whole += pixels + static_cast<int64_t>(floor);
            if (keep_fraction) fraction += static_cast<int64_t>(std::rint((share - floor) * kUnit));
        }
        double total() const { return static_cast<double>(whole) + static_cast<double>(fraction) / kUnit; }
    };

    void combine(fastia_instance_table::Image* result) {
        std::sort(overlaps_.begin(), overlaps_.end(),
                  [](const KeyedOverlap& a, const KeyedOverlap& b) { return a.key < b.key; });
        std::vector<KeyedOverlap>::iterator last = overlaps_.begin();
        for (const KeyedOverlap& part : overlaps_) {  // one for each key, of those of one class
            const uint32_t instance = static_cast<uint32_t>(part.key >> 32),
                           component = static_cast<uint32_t>(part.key);
            if (class_[component] != instances_[instance].class_id) continue;
            components_[component].matched += part.overlap.pixels;
            if (last == overlaps_.begin() || last[-1].key != part.key) {
                *last++ = part;
            } else {
                last[-1].add(part);
            }
        }
        overlaps_.erase(last, overlaps_.end());
        std::vector<Covered> covered(instances_.size());
        std::vector<fastia_instance_table::Match> matches(predicted_.components);
        for (const auto& [key, overlap] : overlaps_) {
            const uint32_t instance = static_cast<uint32_t>(key >> 32), index = static_cast<uint32_t>(key);
            const Component& component = components_[index];
            const int64_t union_area = instances_[instance].area + component.area - overlap.pixels;
            if (2 * overlap.pixels > union_area)
                matches[index] = {instances_[instance].record_area(), overlap.pixels, union_area};
            const int64_t pixels = overlap.pixels + overlap.unlabelled;
            const int64_t other = exact() ? component.matched - pixels : component.hit - overlap.hit;
            const int64_t rest = component.area + component.unlabelled - pixels - other;
            covered[instance].add(pixels, other, rest, exact());
        }
        if (!exact() && options_.components.background.present && background_.area > 0) {
            const double predicted = static_cast<double>(background_.predicted);
            result->instances.push_back({static_cast<int32_t>(options_.components.background.value), 0,
                                         background_.area, background_.both, predicted,
                                         iou_of(background_.area, background_.both, predicted)});
        }
        for (size_t i = 0; i < instances_.size(); ++i) {
            const Instance& instance = instances_[i];
            if (instance.class_id == kNoClass || (exact() && is_background(instance.class_id))) continue;
            const double total = covered[i].total();
            const int64_t area = instance.record_area();
            result->instances.push_back({instance.class_id, instance.id, area, covered[i].intersection, total,
                                         iou_of(area, covered[i].intersection, total)});
        }
        std::stable_sort(result->instances.begin(), result->instances.end(),
                         [](const auto& a, const auto& b) { return a.instance_id < b.instance_id; });
        for (uint32_t c = kFirstComponent; c < predicted_.components; ++c) {
            const Component& component = components_[c];
            if (component.area == 0 || is_background(class_[c])) continue;
            const bool met = component.matched > 0 || component.hit > 0;
            if (!met && component.void_area <= component.area) result->unmatched.push_back({class_[c], component.area});
            result->components.push_back({class_[c], component.area, component.void_area, matches[c]});
        }
    }

    static double iou_of(int64_t area, int64_t intersection, double covered) {
        return static_cast<double>(intersection) /
               (static_cast<double>(area) + covered - static_cast<double>(intersection));
    }

    struct KeyedOverlap {
        uint64_t key;  // instance, component
        Overlap overlap;

        void add(const KeyedOverlap& part) {
            overlap.pixels += part.overlap.pixels;
            overlap.unlabelled += part.overlap.unlabelled;
            overlap.hit += part.overlap.hit;
        }
    };

    const OverlapInputs& inputs_;
    const fastia_overlap_options& options_;
    const Division& division_;
    const int threads_;
    int64_t* confusion_;
    const RowKernels& kernels_ = row_kernels();
    Labelling predicted_, true_;
    std::vector<Counts> counts_;
    // Of the image.
    Buffer<Component> components_;
    Buffer<int32_t> class_;
    std::vector<Instance> instances_;
    std::vector<KeyedOverlap> overlaps_;
    BackgroundOverlap background_;
};

}  // namespace
}  // namespace fastia

using namespace fastia;

int32_t fastia_instance_iou(const fastia_masks* preds, const fastia_masks* target, const fastia_masks* instances,
                            const fastia_overlap_options* options, int64_t* confusion, int32_t* count,
                            int32_t* unmatched_count, fastia_instance_table** table, fastia_error* error) {
    return guarded(error, [&] {
        auto result = std::make_unique<fastia_instance_table>();
        result->images.resize(preds->shape[0]);
        const int64_t cells = options->num_classes.value * (options->num_classes.value + 1);
        if (confusion) std::memset(confusion, 0, static_cast<size_t>(preds->shape[0] * cells) * sizeof(int64_t));
        for_each_image(*preds, options->components.threads, [&](int64_t image, const Division& division, int threads) {
            const OverlapInputs inputs(image, *preds, *target, instances, *options);
            ImageOverlaps(inputs, *options, division, threads, confusion ? confusion + image * cells : nullptr)
                .run(&result->images[image]);
        });
        for (size_t image = 0; image < result->images.size(); ++image) {
            count[image] = static_cast<int32_t>(result->images[image].instances.size());
            unmatched_count[image] = static_cast<int32_t>(result->images[image].unmatched.size());
        }
        *table = result.release();
    });
}

void fastia_instances_copy(const fastia_instance_table* table, int64_t columns, int32_t* class_id, int32_t* instance_id,
                           int64_t* area, int64_t* intersection, double* covered, double* iou) {
    for (const auto& image : table->images) {
        for (int64_t k = 0; k < columns; ++k) {
            const bool present = k < static_cast<int64_t>(image.instances.size());
            const fastia_instance_table::Instance instance =
                present ? image.instances[k] : fastia_instance_table::Instance{-1, -1, 0, 0, 0, NAN};
            *class_id++ = instance.class_id;
            *instance_id++ = instance.instance_id;
            *area++ = instance.area;
            *intersection++ = instance.intersection;
            *covered++ = instance.covered;
            *iou++ = instance.iou;
        }
    }
}

void fastia_unmatched_copy(const fastia_instance_table* table, int64_t columns, int32_t* class_id, int64_t* area) {
    for (const auto& image : table->images) {
        for (int64_t k = 0; k < columns; ++k) {
            const bool present = k < static_cast<int64_t>(image.unmatched.size());
            *class_id++ = present ? image.unmatched[k].class_id : -1;
            *area++ = present ? image.unmatched[k].area : 0;
        }
    }
}

void fastia_matches_count(const fastia_instance_table* table, int32_t* count) {
    for (const auto& image : table->images) *count++ = static_cast<int32_t>(image.components.size());
}

void fastia_matches_copy(const fastia_instance_table* table, int64_t columns, int32_t* class_id, int64_t* area,
                         int64_t* void_area, int64_t* instance_area, int64_t* intersection, int64_t* union_area) {
    for (const auto& image : table->images) {
        for (int64_t k = 0; k < columns; ++k) {
            const bool present = k < static_cast<int64_t>(image.components.size());
            const fastia_instance_table::Component component =
                present ? image.components[k] : fastia_instance_table::Component{-1, 0, 0, {}};
            *class_id++ = component.class_id;
            *area++ = component.area;
            *void_area++ = component.void_area;
            *instance_area++ = component.match.instance_area;
            *intersection++ = component.match.intersection;
            *union_area++ = component.match.union_area;
        }
    }
}

void fastia_instances_free(fastia_instance_table* table) { delete table; }
