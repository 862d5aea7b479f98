#include "core/map.h"

#include <cstring>
#include <limits>

namespace fastia {
namespace {

template <class T>
bool holds(int64_t value) {
    return value >= static_cast<int64_t>(std::numeric_limits<T>::min()) &&
           value <= static_cast<int64_t>(std::numeric_limits<T>::max());
}

bool dtype_holds(int32_t dtype, int64_t value) {
    switch (dtype) {
        case FASTIA_UINT8:
            return holds<uint8_t>(value);
        case FASTIA_INT16:
            return holds<int16_t>(value);
        case FASTIA_UINT16:
            return holds<uint16_t>(value);
        case FASTIA_INT32:
            return holds<int32_t>(value);
        default:
            return true;
    }
}

template <class T>
int64_t load(const char* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return static_cast<int64_t>(value);
}

}  // namespace

Map::Map(const fastia_masks& maps, int64_t image, fastia_id ignore_index, int32_t argument_, int64_t maximum_)
    : data(static_cast<const char*>(maps.data) + image * maps.strides[0]),
      height(maps.shape[1]),
      width(maps.shape[2]),
      row_stride(maps.strides[1]),
      column_stride(maps.strides[2]),
      dtype(maps.dtype),
      argument(argument_),
      has_ignored(ignore_index.present && dtype_holds(maps.dtype, ignore_index.value)),
      ignored(has_ignored ? ignore_index.value : 0),
      maximum(maximum_) {}

int64_t Map::wide_id(const char* p) const {
    switch (dtype) {
        case FASTIA_INT16:
            return load<int16_t>(p);
        case FASTIA_UINT16:
            return load<uint16_t>(p);
        case FASTIA_INT32:
            return load<int32_t>(p);
        case FASTIA_INT64:
            return load<int64_t>(p);
        default:
            return load<uint8_t>(p);
    }
}

Row RowReader::read(int64_t y) {
    const char* source = map_.data + y * map_.row_stride;
    const int64_t slot = map_.width + kRowPadding;
    turn_ ^= 1;
    Row row;
    if (map_.is_uint8()) {
        if (map_.column_stride == 1) {
            row.uint8 = reinterpret_cast<const uint8_t*>(source);
            row.padded =
                (map_.height - 1 - y) * map_.row_stride >= kRowPadding;  // then the rows below lie behind this one
            return row;
        }
        uint8_t* out = gathered_.reserve(2 * slot) + turn_ * slot;
        for (int64_t x = 0; x < map_.width; ++x) out[x] = static_cast<uint8_t>(source[x * map_.column_stride]);
        row.uint8 = out;
        return row;
    }
    int32_t* out = staged_.reserve(2 * slot) + turn_ * slot;
    const Staging staging{map_.dtype, map_.column_stride, map_.has_ignored, map_.ignored, map_.maximum};
    if (kernels_.stage(staging, source, map_.width, out)) {
        for (int64_t x = 0; x < map_.width; ++x) {
            if (out[x] == kInvalidCode) throw InvalidId{map_.argument, map_.id(y, x)};
        }
    }
    row.int32 = out;
    return row;
}

void edges_of(const RowKernels& kernels, const Row& row, int64_t width, uint64_t* edges) {
    row.uint8 ? kernels.edges_uint8(row.uint8, width, row.padded, edges)
              : kernels.edges_int32(row.int32, width, row.padded, edges);
}

}  // namespace fastia
