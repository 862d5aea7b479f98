// From C++ exceptions to the status codes of the C interface.
#pragma once
#include <memory>
#include <new>

#include "core/exceptions.h"
#include "core/fastia.h"

namespace fastia {

template <class Body>
int32_t guarded(fastia_error* error, Body body) {
    try {
        body();
        return FASTIA_OK;
    } catch (const InvalidId& invalid) {
        *error = {invalid.argument, invalid.value};
        return FASTIA_INVALID_ID;
    } catch (const NegativeWeight& negative) {
        *error = {0, negative.index};
        return FASTIA_NEGATIVE_WEIGHT;
    } catch (const UnknownLoss&) {
        return FASTIA_UNKNOWN_LOSS;
    } catch (const TooManyComponents&) {
        return FASTIA_TOO_MANY_COMPONENTS;
    } catch (const std::bad_alloc&) {
        return FASTIA_OUT_OF_MEMORY;
    }
}

}  // namespace fastia
