// Parallel loops on a pool of threads that survives a fork: a child process starts with a fresh, empty pool.
#pragma once
#include <cstdint>
#include <functional>

namespace fastia {

// Calls task(i) for every i in 0..count-1 on at most `threads` threads, the caller's among them. Of several exceptions
// the one of the lowest i is thrown again here. A loop inside a loop, or beside another thread's loop, runs on its
// caller alone.
void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& task);

}  // namespace fastia
