// Components with their holes filled, for `wacv2024`: the outermost component that encloses each.
//
// Contours are sets of run ends, by a union-find of their own. Element 2 * run is the left end of a run of the image,
// 2 * run + 1 its right end. A run end goes on to the next row, turns around a gap between two runs, or closes around a
// run's tip. The contour of the left end of a component's first run is its outer one; all others are holes.
#include "core/runs.cuh"

namespace fastia {

constexpr unsigned kNothing = 0xFFFFFFFFu;

// The runs of an image and their components.
struct ImageRuns {
    Division division;
    const Word32* words;
    const unsigned* run_component;
    const unsigned short* component_class;
    const unsigned* component_root;
    const unsigned* first_run;

    __device__ ImageRuns(const Strip& strip, const Labelling<unsigned>& labelling)
        : division(strip.division),
          words(labelling.words + strip.image * strip.division.height * strip.words_per_row),
          run_component(labelling.run_component + strip.image_slot()),
          component_class(labelling.component_class + strip.image_slot()),
          component_root(labelling.component_parent + strip.image_slot()),
          first_run(labelling.first_run + strip.image_slot()) {}

    // The first run of a component of the image.
    __device__ unsigned first_run_of(unsigned component) const {
        const unsigned strip_pixels = static_cast<unsigned>(division.strip_pixels());
        return component / strip_pixels * strip_pixels + first_run[component];
    }
};

// One row of them. Pixels stand for the run that they lie in.
class RunRow {
  public:
    __device__ RunRow(const ImageRuns& image, unsigned y)
        : image_(image),
          words_(image.words + static_cast<unsigned long long>(y) * image.division.words_per_row()),
          base_(y / static_cast<unsigned>(image.division.rows) * static_cast<unsigned>(image.division.strip_pixels())) {
    }

    __device__ unsigned run(unsigned x) const { return base_ + words_[x / 32].run(x % 32); }
    // The component of the image, kBackgroundComponent or kNoComponent; not its root.
    __device__ unsigned component(unsigned x) const {
        const unsigned component = image_.run_component[run(x)];
        return is_component(component) ? base_ + component : component;
    }
    // kNothing where the run belongs to no component.
    __device__ unsigned class_of(unsigned x) const {
        const unsigned own = component(x);
        return is_component(own) ? image_.component_class[own] : kNothing;
    }
    __device__ unsigned begin(unsigned x) const {
        unsigned word = x / 32, edges = words_[word].edges & ((2u << x % 32) - 1);
        while (!edges) edges = words_[--word].edges;
        return 32 * word + 31 - __clz(edges);
    }
    // One past the last pixel: where the next run begins.
    __device__ unsigned end(unsigned x) const {
        unsigned word = x / 32, edges = words_[word].edges & ~((2u << x % 32) - 1);
        while (!edges) {
            if (++word == image_.division.words_per_row()) return width();
            edges = words_[word].edges;
        }
        return 32 * word + __ffs(edges) - 1;
    }
    __device__ unsigned width() const { return static_cast<unsigned>(image_.division.width); }

  private:
    const ImageRuns& image_;
    const Word32* words_;
    unsigned base_;
};

// Calls visit(x of the run's first pixel in this strip's row, row) for each run of a strip that a word starts.
template <class Visit>
__device__ void for_each_run(const Strip& strip, const ImageRuns& image, Visit visit) {
    for (Cursor at = words_of_thread(strip); at.number < strip.words(); at.advance()) {
        const unsigned y = strip.first_row + at.row;
        const RunRow row(image, y);
        const unsigned edges = image.words[static_cast<unsigned long long>(y) * strip.words_per_row + at.column].edges;
        for (unsigned starts = edges; starts; starts &= starts - 1) visit(32 * at.column + __ffs(starts) - 1, y, row);
    }
}

// Of the runs of `row` that touch pixels begin..end - 1 of the next or the row before, the first pixel of the first one
// of a class, from the run of pixel `x` on; or kNothing.
__device__ inline unsigned next_of_class(const RunRow& row, unsigned x, unsigned end, unsigned class_id) {
    for (; x <= end && x < row.width(); x = row.end(x))
        if (row.class_of(x) == class_id) return x;
    return kNothing;
}

// What becomes of the ends of a run `x` of the upper row.
__device__ inline void trace_down(Span<unsigned> contour, const RunRow& upper, const RunRow& lower, unsigned x,
                                  unsigned class_id) {
    const unsigned begin = x, end = upper.end(x), own = 2 * upper.run(x);
    unsigned below = kNothing;
    for (unsigned l = next_of_class(lower, begin ? begin - 1 : 0, end, class_id); l != kNothing;
         l = next_of_class(lower, lower.end(l), end, class_id)) {
        const unsigned lower_left = 2 * lower.run(l);
        if (below != kNothing) {
            unite(contour, 2 * lower.run(below) + 1, lower_left);  // a gap between two lower runs
        } else {
            const unsigned lower_begin = lower.begin(l);
            unsigned before = kNothing;  // an upper run that touches the same lower run
            for (unsigned u = begin; u > 0 && u >= lower_begin && before == kNothing;) {
                if (upper.class_of(u - 1) == class_id) before = u - 1;
                u = upper.begin(u - 1);
            }
            if (before != kNothing)
                unite(contour, 2 * upper.run(before) + 1, own);  // a gap between two upper runs
            else
                unite(contour, own, lower_left);
        }
        below = l;
    }
    if (below == kNothing)
        unite(contour, own, own + 1);
    else if (next_of_class(upper, end, lower.end(below), class_id) == kNothing)
        unite(contour, own + 1, 2 * lower.run(below) + 1);
}

struct TraceContours {
    Labelling<unsigned> labelling;
    unsigned* contour_parent;  // [images, 2 * pixels] of run ends
};

__device__ inline void trace_contours(const TraceContours& parameters) {
    const Strip strip = strip_of_block(parameters.labelling.division);
    const ImageRuns image(strip, parameters.labelling);
    const Span<unsigned> contour(parameters.contour_parent + 2 * strip.image_slot(), 2 * strip.division.pixels());
    const unsigned last = static_cast<unsigned>(strip.division.height - 1);
    for_each_run(strip, image, [&](unsigned x, unsigned y, const RunRow& row) {
        const unsigned class_id = row.class_of(x);
        if (class_id == kNothing) return;
        const unsigned own = 2 * row.run(x);
        bool tip = y == 0 || y == last;
        if (y > 0) tip |= next_of_class(RunRow(image, y - 1), x ? x - 1 : 0, row.end(x), class_id) == kNothing;
        if (tip) unite(contour, own, own + 1);
        if (y < last) trace_down(contour, row, RunRow(image, y + 1), x, class_id);
    });
}

// The component whose first run is that of pixel x, or kNothing.
__device__ inline unsigned component_that_begins(const ImageRuns& image, const RunRow& row, unsigned x) {
    const unsigned own = row.component(x);
    if (!is_component(own) || image.component_root[own] != own) return kNothing;
    return image.first_run_of(own) == row.run(x) ? own : kNothing;
}

struct FindNeighbours {
    Labelling<unsigned> labelling;
    unsigned* contour_parent;  // [images, 2 * pixels] of run ends
    unsigned* sibling;    // of each component of the image, one in the same surroundings that began before, or itself
    unsigned* enclosing;  // the component that encloses it, or kNothing: as far as its row tells
};

// What lies left of a component's first run, in its row, is either no run of its class, and then nothing encloses it,
// or one of a component D that began before: if what follows that run is a hole of D, D encloses it; otherwise both lie
// in the same surroundings.
__device__ inline void find_neighbours(const FindNeighbours& parameters) {
    const Strip strip = strip_of_block(parameters.labelling.division);
    const ImageRuns image(strip, parameters.labelling);
    const Span<unsigned> contour(parameters.contour_parent + 2 * strip.image_slot(), 2 * strip.division.pixels());
    for_each_run(strip, image, [&](unsigned x, unsigned, const RunRow& row) {
        const unsigned own = component_that_begins(image, row, x);
        if (own == kNothing) return;
        const unsigned class_id = image.component_class[own];
        unsigned left = x;
        while (left > 0 && row.class_of(left - 1) != class_id) left = row.begin(left - 1);
        unsigned same = own, above = kNothing;
        if (left > 0) {
            const unsigned found = image.component_root[row.component(left - 1)];
            const unsigned between = find(contour, 2 * row.run(left - 1) + 1);
            if (between == find(contour, 2 * image.first_run_of(found)))
                same = found;
            else
                above = found;
        }
        parameters.sibling[strip.image_slot() + own] = same;
        parameters.enclosing[strip.image_slot() + own] = above;
    });
}

struct FindOutermost {
    Labelling<unsigned> labelling;
    unsigned* sibling;  // as FindNeighbours leaves them
    const unsigned* enclosing;
};

// Gives every component of a strip the outermost one that encloses it in place of its root.
__device__ inline void find_outermost(const FindOutermost& parameters) {
    const Strip strip = strip_of_block(parameters.labelling.division);
    const Span<unsigned> sibling(parameters.sibling + strip.image_slot(), strip.division.pixels());
    unsigned* const component_root = parameters.labelling.component_parent + strip.slot;
    const unsigned components = parameters.labelling.counts[blockIdx.x].components;
    for (unsigned component = threadIdx.x; component < components; component += blockDim.x) {
        unsigned outermost = component_root[component];
        for (unsigned above = outermost; above != kNothing;) {
            outermost = above;
            above = parameters.enclosing[strip.image_slot() + find(sibling, outermost)];
        }
        component_root[component] = outermost;
    }
}

}  // namespace fastia

extern "C" __global__ void fastia_trace_contours(fastia::TraceContours parameters) {
    fastia::trace_contours(parameters);
}
extern "C" __global__ void fastia_find_neighbours(fastia::FindNeighbours parameters) {
    fastia::find_neighbours(parameters);
}
extern "C" __global__ void fastia_find_outermost(fastia::FindOutermost parameters) {
    fastia::find_outermost(parameters);
}
