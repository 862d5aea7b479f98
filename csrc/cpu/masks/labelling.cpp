#include "masks/labelling.h"

#include <algorithm>
#include <limits>

#include "core/thread_pool.h"
#include "core/union_find.h"

namespace fastia {
namespace {

constexpr int64_t kKeptBytes = int64_t{32} << 20;  // scratch memory that a thread keeps for its next image
thread_local Labelling kept;

constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();

template <class Id>
Participants<Id> participants(const Map& map, const ComponentOptions& options) {
    const auto mask = [](bool present) { return present ? ~uint64_t{0} : 0; };
    const auto holds = [](fastia_id id) {
        return id.present && id.value >= 0 && id.value <= std::numeric_limits<Id>::max();
    };
    const Id ignored = static_cast<Id>(sizeof(Id) == 1 ? map.ignored : kIgnoredCode);
    Participants<Id> ids{};
    ids.ignored = ignored;
    ids.ignored_mask = mask(map.has_ignored);
    ids.background = static_cast<Id>(holds(options.background) ? options.background.value : 0);
    ids.background_mask = mask(holds(options.background));
    ids.limit = static_cast<Id>(holds(options.num_classes) ? options.num_classes.value : 0);
    ids.limit_mask = mask(holds(options.num_classes));
    return ids;
}

// Contours are sets of run ends. A run end goes on to the next row, turns around a gap between two runs, or closes
// around a run's tip.
class ContourTracer {
  public:
    // `upper` and `lower` give the element of a run end (2 * run: left, 2 * run + 1: right) of each row in `parent`.
    template <class Upper, class Lower>
    void trace(uint32_t* parent, const RunPair* pairs, uint32_t count, uint32_t first_upper, uint32_t uppers,
               uint32_t first_lower, uint32_t lowers, Upper upper, Lower lower) {
        below_.fill(uppers, kNone);
        above_.fill(lowers, kNone);
        for (const RunPair* pair = pairs; pair < pairs + count; ++pair) {
            const uint32_t u = pair->upper, l = pair->lower;
            uint32_t& below = below_[u - first_upper];
            uint32_t& above = above_[l - first_lower];
            if (below != kNone) {  // a gap between two lower runs: its two sides are one contour
                unite(parent, lower(2 * below + 1), lower(2 * l));
            } else if (above != kNone) {  // a gap between two upper runs
                unite(parent, upper(2 * above + 1), upper(2 * u));
            } else {
                unite(parent, upper(2 * u), lower(2 * l));
            }
            below = l;
            above = u;
        }
        for (uint32_t i = 0; i < uppers; ++i) {
            const uint32_t u = first_upper + i, l = below_[i];
            if (l == kNone) {
                unite(parent, upper(2 * u), upper(2 * u + 1));
            } else if (above_[l - first_lower] == u) {
                unite(parent, upper(2 * u + 1), lower(2 * l + 1));
            }
        }
        for (uint32_t i = 0; i < lowers; ++i) {
            if (above_[i] == kNone) unite(parent, lower(2 * (first_lower + i)), lower(2 * (first_lower + i) + 1));
        }
    }

  private:
    Buffer<uint32_t> below_, above_;
};

void close_row(uint32_t* contour, uint32_t first, uint32_t last) {
    for (uint32_t run = first; run < last; ++run) unite(contour, 2 * run, 2 * run + 1);
}

// A run's parent is set when it is met, and the smaller root wins, so a run never linked before can be hung below any
// root. Nearly always the run above is one step from its root, and the lower run is new or hangs there already.
void unite_runs(uint32_t* parent, const RunPair* pairs, uint32_t count) {
    for (const RunPair* pair = pairs; pair < pairs + count; ++pair) {
        uint32_t upper = parent[pair->upper];
        if (__builtin_expect(parent[upper] != upper, 0)) upper = parent[pair->upper] = find(parent, upper);
        const uint32_t lower = parent[pair->lower];
        if (__builtin_expect((lower == pair->lower) | (lower == upper), 1)) {
            parent[pair->lower] = upper;
        } else {
            link(parent, upper, find(parent, lower));
        }
    }
}

// Components of the runs from their parents, without a branch: in noise a root is as likely as not.
template <bool kAreas>
void number_components(Strip& strip) {
    uint32_t* component = strip.component.data();
    uint32_t* first = strip.first.reserve(strip.runs + 1);
    int64_t* area = strip.area.reserve(kAreas ? strip.runs + 1 : 0);
    const uint32_t* start = strip.start.data();
    first[kNoComponent] = first[kBackgroundComponent] = 0;
    if (kAreas) area[kNoComponent] = area[kBackgroundComponent] = area[kFirstComponent] = 0;
    uint32_t next = kFirstComponent;
    for (uint32_t run = kFirstComponent; run < strip.runs; ++run) {
        const uint32_t parent = component[run];
        component[run] = next;  // if the run is a root (parent == run), the next line reads this value back
        const uint32_t number = component[parent];
        component[run] = number;
        first[next] = run;
        next += parent == run;
        if (kAreas) {
            area[number] += start[run + 1] - start[run];
            area[next] = 0;  // not in use yet
        }
    }
    strip.components = next;
}

void scan_row(const RowKernels& kernels, RowScan<uint8_t>& row, const Participants<uint8_t>& ids) {
    kernels.scan_uint8(row, ids);
}
void scan_row(const RowKernels& kernels, RowScan<int32_t>& row, const Participants<int32_t>& ids) {
    kernels.scan_int32(row, ids);
}

template <class Id>
class StripScan {
  public:
    StripScan(Strip& strip, const Map& map, const ComponentOptions& options, const RowKernels& kernels)
        : strip_(strip), map_(map), options_(options), kernels_(kernels), ids_(participants<Id>(map, options)) {}

    void run() {
        const int64_t width = map_.width, words = words_of(width);
        RowReader reader(map_, kernels_);
        strip_.edges.reserve(strip_.rows() * words);
        strip_.first_run.reserve(strip_.rows() + 1);
        strip_.start.reserve(kFirstComponent + width + kListPadding);
        strip_.start[0] = strip_.start[1] = 0;
        uint32_t runs = kFirstComponent;
        uint32_t* component = strip_.component.reserve(kFirstComponent + width + kListPadding);
        component[kNoComponent] = kNoComponent;
        component[kBackgroundComponent] = kBackgroundComponent;
        const NeighbourRow neighbour = neighbour_row(options_.connectivity);
        const Id* above = nullptr;
        for (int64_t y = strip_.begin; y < strip_.end; ++y) {
            const int64_t r = y - strip_.begin;
            if (r == 1) pairs_.reserve(2 * width + kListPadding);
            RowScan<Id> row{};
            const Row read = reader.read(y);
            read.get(&row.ids);
            row.padded = read.padded;
            row.width = width;
            row.position = static_cast<uint32_t>(r * width);
            row.first_run = runs;
            if (r + neighbour.dy >= 0) {
                const int64_t earlier = r + neighbour.dy;
                row.earlier = {above, strip_.edges.data() + earlier * words, strip_.first_run[earlier],
                               neighbour.corners};
            }
            row.edges = strip_.edges.data() + r * words;
            row.starts = strip_.start.reserve(runs + width + kListPadding) + runs;
            row.parents = strip_.component.reserve(runs + width + kListPadding) + runs;
            row.pairs = pairs_.data();
            scan_row(kernels_, row, ids_);
            strip_.first_run[r] = runs;
            runs += row.run_count;
            unite_runs(strip_.component.data(), row.pairs, row.pair_count);
            if (options_.contours) trace(r, runs, row.pair_count);
            above = row.ids;
        }
        strip_.first_run[strip_.rows()] = runs;
        strip_.start[runs] = static_cast<uint32_t>(strip_.rows() * width);
        strip_.runs = runs;
        options_.areas ? number_components<true>(strip_) : number_components<false>(strip_);
        if (options_.contours) number_contours();
    }

  private:
    // The contours between row r and the one above, whose runs touch in so many pairs.
    void trace(int64_t r, uint32_t runs, uint32_t pairs) {
        uint32_t* contour = strip_.contour.reserve(2 * runs);
        const uint32_t first = strip_.first_run[r];
        for (uint32_t end = r ? 2 * first : 0; end < 2 * runs; ++end) contour[end] = end;
        if (r == 0) return;
        const auto same = [](uint32_t end) { return end; };
        const uint32_t first_above = strip_.first_run[r - 1];
        tracer_.trace(contour, pairs_.data(), pairs, first_above, first - first_above, first, runs - first, same, same);
    }

    void number_contours() {
        uint32_t* contour = strip_.contour.reserve(2 * strip_.runs);
        if (strip_.begin == 0) close_row(contour, strip_.first_run[0], strip_.first_run[1]);
        if (strip_.end == map_.height) close_row(contour, strip_.first_run[strip_.rows() - 1], strip_.runs);
        strip_.contours = number_sets(contour, 2 * strip_.runs);
    }

    Strip& strip_;
    const Map& map_;
    const ComponentOptions& options_;
    const RowKernels& kernels_;
    const Participants<Id> ids_;
    Buffer<RunPair> pairs_;
    ContourTracer tracer_;
};

// The pairs of runs that touch across the borders of strips.
template <class Id>
class BorderScan {
  public:
    BorderScan(const Map& map, const ComponentOptions& options, const RowKernels& kernels)
        : map_(map), options_(options), kernels_(kernels), ids_(participants<Id>(map, options)) {}

    // Fills `pairs`, and returns their number.
    uint32_t between(const Strip& upper, const Strip& lower, Buffer<RunPair>* pairs) {
        RowReader reader(map_, kernels_);
        const int64_t width = map_.width;
        const NeighbourRow neighbour = neighbour_row(options_.connectivity);
        RowScan<Id> row{};
        row.earlier = {nullptr, upper.edges_of(lower.begin + neighbour.dy),
                       upper.first_run[upper.rows() + neighbour.dy], neighbour.corners};
        reader.read(lower.begin + neighbour.dy).get(&row.earlier.ids);
        const Row read = reader.read(lower.begin);
        read.get(&row.ids);
        row.padded = read.padded;
        row.width = width;
        row.first_run = lower.first_run[0];
        row.edges = edges_.reserve(words_of(width));
        row.starts = starts_.reserve(width + kListPadding);
        row.parents = parents_.reserve(width + kListPadding);
        row.pairs = pairs->reserve(2 * width + kListPadding);
        scan_row(kernels_, row, ids_);
        return row.pair_count;
    }

  private:
    const Map& map_;
    const ComponentOptions& options_;
    const RowKernels& kernels_;
    const Participants<Id> ids_;
    Buffer<uint64_t> edges_;
    Buffer<uint32_t> starts_, parents_;
};

template <class Id>
void unite_across(Labelling& labelling, uint32_t* components, uint32_t* contours,
                  const std::vector<int64_t>& component_offset, const std::vector<int64_t>& contour_offset,
                  const Map& map, const ComponentOptions& options, const RowKernels& kernels) {
    BorderScan<Id> border(map, options, kernels);
    ContourTracer tracer;
    Buffer<RunPair> pairs;
    for (size_t s = 0; s + 1 < labelling.strips.size(); ++s) {
        const Strip &upper = labelling.strips[s], &lower = labelling.strips[s + 1];
        const uint32_t count = border.between(upper, lower, &pairs);
        for (const RunPair* pair = pairs.data(); pair < pairs.data() + count; ++pair) {
            unite(components, static_cast<uint32_t>(component_offset[s] + upper.component[pair->upper]),
                  static_cast<uint32_t>(component_offset[s + 1] + lower.component[pair->lower]));
        }
        if (!options.contours) continue;
        const auto element = [&](size_t strip) {
            return [&contour = labelling.strips[strip].contour, offset = contour_offset[strip]](uint32_t end) {
                return static_cast<uint32_t>(offset + contour[end]);
            };
        };
        const uint32_t first_above = upper.first_run[upper.rows() - 1], first = lower.first_run[0];
        tracer.trace(contours, pairs.data(), count, first_above, upper.runs - first_above, first,
                     lower.first_run[1] - first, element(s), element(s + 1));
    }
}

// Offsets of the strips' elements in one array, whose first values are written as 0, 1, 2...
std::vector<int64_t> concatenate(const std::vector<Strip>& strips, uint32_t Strip::* count, Buffer<uint32_t>* parent) {
    std::vector<int64_t> offset;
    int64_t total = 0;
    for (const Strip& strip : strips) {
        offset.push_back(total);
        total += strip.*count;
    }
    if (total > std::numeric_limits<uint32_t>::max()) throw TooManyComponents();
    parent->reserve(total);
    for (int64_t i = 0; i < total; ++i) (*parent)[i] = static_cast<uint32_t>(i);
    offset.push_back(total);
    return offset;
}

}  // namespace

NeighbourRow neighbour_row(int connectivity) {
    static constexpr NeighbourRow kTable[] = {{4, 0, -1, false}, {8, 0, -1, true}};
    return kTable[connectivity == 8];
}

void scan_strip(Strip& strip, const Map& map, const ComponentOptions& options, const RowKernels& kernels) {
    strip.width = map.width;
    map.is_uint8() ? StripScan<uint8_t>(strip, map, options, kernels).run()
                   : StripScan<int32_t>(strip, map, options, kernels).run();
}

void Labelling::merge(const Map& map, const ComponentOptions& options, const RowKernels& kernels) {
    if (strips.size() == 1) {
        components = strips[0].components;
        contours = strips[0].contours;
        return;
    }
    component_offset_ = concatenate(strips, &Strip::components, &merged_);
    if (options.contours) contour_offset_ = concatenate(strips, &Strip::contours, &merged_contours_);
    for (size_t s = 1; s < strips.size(); ++s) {
        merged_[component_offset_[s] + kNoComponent] = kNoComponent;
        merged_[component_offset_[s] + kBackgroundComponent] = kBackgroundComponent;
    }
    const auto unite_all = map.is_uint8() ? unite_across<uint8_t> : unite_across<int32_t>;
    unite_all(*this, merged_.data(), merged_contours_.data(), component_offset_, contour_offset_, map, options,
              kernels);
    components = number_sets(merged_.data(), component_offset_.back());
    if (options.contours) contours = number_sets(merged_contours_.data(), contour_offset_.back());
}

const int64_t* Labelling::areas(Buffer<int64_t>* sums) const {
    if (strips.size() == 1) return strips[0].area.data();
    sums->fill(components, 0);
    for (size_t s = 0; s < strips.size(); ++s) {
        for (uint32_t c = 0; c < strips[s].components; ++c) (*sums)[of_image(s, c)] += strips[s].area[c];
    }
    return sums->data();
}

// The first run of a component has, on its left in its row, either no run of its class, and then nothing encloses it,
// or one of a component D met before: if what lies right of that run is a hole of D, D encloses it; otherwise both lie
// in the same surroundings.
void outermost(const Labelling& labelling, const Map& map, Buffer<uint32_t>* top) {
    top->reserve(labelling.components);
    Buffer<uint32_t> outer_contour, last_run, row_stamp;
    outer_contour.reserve(labelling.components);
    last_run.reserve(map.maximum + 1);
    row_stamp.fill(map.maximum + 1, 0);
    (*top)[kNoComponent] = kNoComponent;
    (*top)[kBackgroundComponent] = kBackgroundComponent;
    uint32_t stamp = 0, cursor = 0;
    int64_t row = -1;
    labelling.for_each_component([&](uint32_t component, const FirstRun& first) {
        const Strip& strip = labelling.strips[first.strip];
        if (first.y != row) {
            row = first.y;
            ++stamp;
            cursor = strip.first_run[row - strip.begin];
        }
        for (; cursor < first.run; ++cursor) {
            if (strip.component[cursor] < kFirstComponent) continue;
            const int32_t id = map.code(row, strip.column_of(cursor, row));
            last_run[id] = cursor;
            row_stamp[id] = stamp;
        }
        const int32_t id = map.code(row, first.x);
        outer_contour[component] = labelling.contour_of_image(first.strip, strip.contour[2 * first.run]);
        (*top)[component] = component;
        if (row_stamp[id] != stamp) return;
        const uint32_t left = labelling.of_image(first.strip, strip.component[last_run[id]]);
        const uint32_t between = labelling.contour_of_image(first.strip, strip.contour[2 * last_run[id] + 1]);
        if (between != outer_contour[left] || (*top)[left] != left) (*top)[component] = (*top)[left];
    });
}

Division::Division(int64_t batch, int64_t height, int64_t width, int threads) : rows(height) {
    constexpr int64_t kMostPixels = int64_t{1} << 30, kFewestPixels = int64_t{1} << 15;
    if (threads > 1 && batch < 4 * threads) {
        const int64_t wanted = (4 * threads + batch - 1) / batch;
        rows = std::max((height + wanted - 1) / wanted, kFewestPixels / width + 1);
    }
    rows = std::max<int64_t>(1, std::min({rows, height, kMostPixels / width}));
    strips = (height + rows - 1) / rows;
}

void Division::assign(Labelling& labelling, int64_t height) const {
    labelling.strips.resize(strips);
    for (int64_t s = 0; s < strips; ++s) {
        labelling.strips[s].begin = s * rows;
        labelling.strips[s].end = std::min(height, (s + 1) * rows);
    }
}

void for_each_image(const fastia_masks& maps, int threads,
                    const std::function<void(int64_t, const Division&, int)>& body) {
    const int64_t batch = maps.shape[0], height = maps.shape[1], width = maps.shape[2];
    if (batch == 0 || height == 0 || width == 0) return;
    const Division division(batch, height, width, threads);
    const bool side_by_side = division.strips == 1;
    parallel_for(batch, side_by_side ? threads : 1,
                 [&](int64_t image) { body(image, division, side_by_side ? 1 : threads); });
}

void for_each_labelling(const fastia_masks& maps, const ComponentOptions& options, fastia_id ignore_index, int threads,
                        const std::function<void(int64_t, const Map&, Labelling&, int)>& finish) {
    const RowKernels& kernels = row_kernels();
    for_each_image(maps, threads, [&](int64_t image, const Division& division, int strip_threads) {
        Labelling& labelling = kept;
        const Map map(maps, image, ignore_index, 0);
        division.assign(labelling, map.height);
        parallel_for(division.strips, strip_threads,
                     [&](int64_t s) { scan_strip(labelling.strips[s], map, options, kernels); });
        labelling.merge(map, options, kernels);
        finish(image, map, labelling, strip_threads);
        int64_t bytes = 0;
        for (const Strip& strip : labelling.strips) bytes += strip.bytes();
        if (bytes > kKeptBytes) labelling = Labelling();
    });
}

}  // namespace fastia
