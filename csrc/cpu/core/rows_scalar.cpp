// Plain C++, the fallback that every test can force.
#define FASTIA_SCALAR
#include "core/rows_impl.h"

namespace fastia {

extern const RowKernels kRowsScalar = FASTIA_ROW_KERNELS("scalar");

}  // namespace fastia
