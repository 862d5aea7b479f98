#include "core/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

namespace fastia {
namespace {

thread_local bool inside_loop = false;

// One loop: indices are handed out one by one, failures remembered in index order.
struct Loop {
    Loop(int64_t n, const std::function<void(int64_t)>& f) : task(f), count(n) {}

    const std::function<void(int64_t)>& task;
    const int64_t count;
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    int64_t failed_index = 0;
    std::exception_ptr failure;

    void run() {
        const bool nested = inside_loop;
        inside_loop = true;
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
            try {
                task(i);
            } catch (...) {
                std::lock_guard<std::mutex> lock(mutex);
                if (!failure || i < failed_index) {
                    failed_index = i;
                    failure = std::current_exception();
                }
            }
        }
        inside_loop = nested;
    }
};

// Loops of one image follow each other closely, and a thread that sleeps takes tens of microseconds to wake: so it
// looks out for a while before it does, and lets others have the core meanwhile.
template <class Ready>
void look_out(Ready ready) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(100);
    while (!ready() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

class Pool {
  public:
    // False when another loop is using the pool.
    bool run(Loop& loop, int helpers) {
        std::unique_lock<std::mutex> user(users_, std::try_to_lock);
        if (!user.owns_lock()) return false;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            while (threads_ < helpers) {
                try {
                    std::thread([this] { serve(); }).detach();
                } catch (const std::system_error&) {
                    break;  // as many threads as the system gives
                }
                ++threads_;
            }
            loop_ = &loop;
            wanted_ = std::min(helpers, threads_);
        }
        wake_.notify_all();
        loop.run();
        {
            std::lock_guard<std::mutex> lock(mutex_);
            wanted_ = 0;
        }
        look_out([this] { return active_ == 0; });
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return active_ == 0; });
        loop_ = nullptr;
        return true;
    }

  private:
    void serve() {
        for (;;) {
            look_out([this] { return wanted_ > 0; });
            Loop* loop;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [this] { return wanted_ > 0; });
                --wanted_;
                ++active_;
                loop = loop_;
            }
            loop->run();
            std::lock_guard<std::mutex> lock(mutex_);
            if (--active_ == 0) done_.notify_one();
        }
    }

    std::mutex users_, mutex_;
    std::condition_variable wake_, done_;
    Loop* loop_ = nullptr;
    int threads_ = 0;
    std::atomic<int> wanted_{0}, active_{0};  // changed under mutex_
};

// Never destroyed: its threads may outlive every static object. After a fork the child's copy, whose threads are gone,
// is left behind.
std::atomic<Pool*> current_pool{nullptr};

Pool& pool() {
    static const int registered = pthread_atfork(nullptr, nullptr, [] {
        current_pool.store(nullptr);
        inside_loop = false;
    });
    (void)registered;
    Pool* existing = current_pool.load();
    if (!existing) {
        Pool* fresh = new Pool;
        if (current_pool.compare_exchange_strong(existing, fresh)) return *fresh;
        delete fresh;
    }
    return *existing;
}

}  // namespace

void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& task) {
    Loop loop(count, task);
    const int helpers = static_cast<int>(std::min<int64_t>(threads, count)) - 1;
    if (helpers < 1) {  // not a loop of the pool: one inside it may use the threads
        for (int64_t i = 0; i < count; ++i) task(i);
        return;
    }
    if (inside_loop || !pool().run(loop, helpers)) loop.run();
    if (loop.failure) std::rethrow_exception(loop.failure);
}

}  // namespace fastia
