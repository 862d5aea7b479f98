// One map of ids of a batch, read row by row in place: uint8 rows as they are, other dtypes and strided rows through a
// row-sized buffer.
#pragma once
#include <cstdint>

#include "core/buffer.h"
#include "core/exceptions.h"
#include "core/fastia.h"
#include "core/rows.h"

namespace fastia {

struct Map {
    const char* data;
    int64_t height, width, row_stride, column_stride;
    int32_t dtype;
    int32_t argument;  // which argument of the call, for errors
    bool has_ignored;  // false too where the dtype cannot hold the ignored id
    int64_t ignored;
    int64_t maximum;  // the largest id allowed

    Map(const fastia_masks& maps, int64_t image, fastia_id ignore_index, int32_t argument_, int64_t maximum_ = 65535);

    bool is_uint8() const { return dtype == FASTIA_UINT8; }
    int64_t id(int64_t y, int64_t x) const {
        const char* p = data + y * row_stride + x * column_stride;
        return is_uint8() ? static_cast<uint8_t>(*p) : wide_id(p);
    }
    // The id, or kIgnoredCode.
    int32_t code(int64_t y, int64_t x) const {
        const int64_t value = id(y, x);
        return has_ignored && value == ignored ? kIgnoredCode : static_cast<int32_t>(value);
    }

  private:
    int64_t wide_id(const char* p) const;
};

// A row of a map: ids as uint8, or as int32 codes.
struct Row {
    const uint8_t* uint8 = nullptr;
    const int32_t* int32 = nullptr;
    bool padded = true;  // kRowPadding more ids can be read

    void get(const uint8_t** row) const { *row = uint8; }
    void get(const int32_t** row) const { *row = int32; }
};

// Reads rows; a row stays readable until the next but one is read. Throws InvalidId for an id that is not allowed.
class RowReader {
  public:
    explicit RowReader(const Map& map, const RowKernels& kernels) : map_(map), kernels_(kernels) {}
    Row read(int64_t y);

  private:
    const Map& map_;
    const RowKernels& kernels_;
    Buffer<int32_t> staged_;
    Buffer<uint8_t> gathered_;
    int turn_ = 0;
};

// The id of a map whose ignored ids are told apart: uint8 rows hold raw ids, int32 rows codes.
struct Codes {
    Row row;
    bool has_ignored;
    uint8_t ignored;

    Codes(const Map& map, const Row& r)
        : row(r), has_ignored(map.has_ignored), ignored(static_cast<uint8_t>(map.ignored)) {}
    int32_t operator[](int64_t x) const {
        if (!row.uint8) return row.int32[x];
        return has_ignored && row.uint8[x] == ignored ? kIgnoredCode : row.uint8[x];
    }
};

void edges_of(const RowKernels& kernels, const Row& row, int64_t width, uint64_t* edges);

}  // namespace fastia
