// Connected components of one image on runs: a union-find over the runs of a strip of rows, then one over the
// components of its strips.
//
// Components 0 and 1 stand for ignored and background pixels; the others count from 2 in raster order of
// their first pixel.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "core/buffer.h"
#include "core/exceptions.h"
#include "core/map.h"

namespace fastia {

// A row whose runs may touch those of a row at (z, y): the one at (z + dz, y + dy), which comes earlier in raster
// order.
struct NeighbourRow {
    int connectivity, dz, dy;
    bool corners;  // runs touch across corners too
};

// The table of such rows by connectivity has one for each of images.
NeighbourRow neighbour_row(int connectivity);

// What forms components: ids other than the background and below the number of classes.
struct ComponentOptions {
    int connectivity = 8;
    fastia_id background{0, 0};
    fastia_id num_classes{0, 0};
    bool areas = true;      // count the pixels of components
    bool contours = false;  // keep contours, which tell components that lie in holes
};

// Rows begin..end-1 of an image.
struct Strip {
    int64_t begin = 0, end = 0, width = 0;
    Buffer<uint64_t> edges;      // [rows, words]
    Buffer<uint32_t> first_run;  // [rows + 1]
    Buffer<uint32_t> start;      // [runs + 1] position of each run in the strip; runs 0 and 1 are not in the image
    Buffer<uint32_t> component;  // [runs]
    Buffer<uint32_t> contour;    // [2 * runs] of the left and the right end of each run
    Buffer<uint32_t> first;      // [components] first run of each
    Buffer<int64_t> area;        // [components]
    uint32_t runs = 0, components = 0, contours = 0;

    int64_t rows() const { return end - begin; }
    const uint64_t* edges_of(int64_t y) const { return edges.data() + (y - begin) * words_of(width); }
    int64_t column_of(uint32_t run, int64_t y) const { return start[run] - (y - begin) * width; }
    int64_t bytes() const {
        return edges.bytes() + first_run.bytes() + start.bytes() + component.bytes() + contour.bytes() + first.bytes() +
               area.bytes();
    }
};

// Where a component begins.
struct FirstRun {
    size_t strip;
    uint32_t run;
    int64_t y, x;
};

// The components of a whole image.
struct Labelling {
    std::vector<Strip> strips;
    uint32_t components = 0;  // with the two that are none
    uint32_t contours = 0;

    // Component and contour of the image, from those of a strip.
    uint32_t of_image(size_t strip, uint32_t component) const {
        return strips.size() == 1 ? component : merged_[component_offset_[strip] + component];
    }
    uint32_t contour_of_image(size_t strip, uint32_t contour) const {
        return strips.size() == 1 ? contour : merged_contours_[contour_offset_[strip] + contour];
    }
    // Calls visit(component, first run) in raster order.
    template <class Visit>
    void for_each_component(Visit visit) const {
        uint32_t next = kFirstComponent;
        for (size_t s = 0; s < strips.size(); ++s) {
            const Strip& strip = strips[s];
            const uint32_t* whole = strips.size() == 1 ? nullptr : merged_.data() + component_offset_[s];
            const uint32_t *first = strip.first.data(), *next_row = strip.first_run.data() + 1,
                           *start = strip.start.data();
            int64_t row = 0, row_start = 0;
            for (uint32_t c = kFirstComponent, count = strip.components; c < count; ++c) {
                if (whole && whole[c] != next) continue;
                const uint32_t run = first[c];
                for (; next_row[row] <= run; ++row) row_start += strip.width;
                visit(next++, FirstRun{s, run, strip.begin + row, start[run] - row_start});
            }
        }
    }
    // Pixels of each component, [components]; kept in `sums` where strips have to be added up.
    const int64_t* areas(Buffer<int64_t>* sums) const;

    void merge(const Map& map, const ComponentOptions& options, const RowKernels& kernels);

  private:
    Buffer<uint32_t> merged_, merged_contours_;
    std::vector<int64_t> component_offset_, contour_offset_;
};

void scan_strip(Strip& strip, const Map& map, const ComponentOptions& options, const RowKernels& kernels);

// For each component of the image the outermost one that encloses it, or itself. Needs contours.
void outermost(const Labelling& labelling, const Map& map, Buffer<uint32_t>* top);

// How an image is cut into strips: so that a batch gives every thread work, and no strip outgrows 32-bit positions.
struct Division {
    int64_t rows, strips;

    Division(int64_t batch, int64_t height, int64_t width, int threads);
    void assign(Labelling& labelling, int64_t height) const;
};

// Calls body(image, division, threads) for every image that has pixels: images side by side on a thread each, or one
// after the other, each with all threads for its strips.
void for_each_image(const fastia_masks& maps, int threads,
                    const std::function<void(int64_t, const Division&, int)>& body);

// Labels every image and calls finish(image, map, labelling, threads).
void for_each_labelling(const fastia_masks& maps, const ComponentOptions& options, fastia_id ignore_index, int threads,
                        const std::function<void(int64_t, const Map&, Labelling&, int)>& finish);

}  // namespace fastia
