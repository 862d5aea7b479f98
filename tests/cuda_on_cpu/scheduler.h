// Runs a kernel: one fiber for each thread, a few blocks at a time, in an order that a seed decides.
//
// A fiber runs until it meets a barrier, a warp operation, or a point where it may be interrupted (an atomic, an
// element of a Span). Then another one is chosen. So whatever a kernel leaves to chance, some seed tries.
// A launch ends with an error where a GPU would hang or give undefined results: threads that wait for others that have
// ended or wait elsewhere, an index out of bounds, a read of shared memory that nobody wrote.
#pragma once
#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"

namespace cuda_on_cpu {

struct Index3 {
    unsigned x = 0, y = 0, z = 0;
};

// Where in the kernels a thread is.
struct Site {
    const char* what = nullptr;
    const char* file = nullptr;
    int line = 0;

    bool operator==(const Site& other) const {
        const auto same = [](const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; };
        return line == other.line && same(what, other.what) && same(file, other.file);
    }
    std::string text() const {
        const char* name = std::strrchr(file, '/');
        return std::string(what) + " (" + (name ? name + 1 : file) + ":" + std::to_string(line) + ")";
    }
};

enum class State { ready, at_barrier, in_warp, ended };

struct Block;

struct Thread {
    Fiber fiber;
    Block* block = nullptr;
    unsigned number = 0;
    State state = State::ended;
    Site site;           // where it waits
    unsigned lanes = 0;  // of the warp operation it waits in
    uint64_t operand = 0;
    uint64_t operands[32];  // of the lanes of its last warp operation

    unsigned lane() const { return number % 32; }
};

struct Block {
    Index3 index;
    std::vector<std::unique_ptr<Thread>> threads;
    std::unique_ptr<unsigned char[]> shared;   // as long as asked for, so that AddressSanitizer sees what lies beyond
    std::unique_ptr<unsigned char[]> written;  // for each byte of it, whether it was
    std::vector<unsigned> waiting;             // for each warp, the lanes in a warp operation
    unsigned at_barrier = 0, ended = 0;
};

class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 0xD1B54A32D192ED03u) {}
    unsigned below(unsigned bound) {
        state_ ^= state_ >> 12, state_ ^= state_ << 25, state_ ^= state_ >> 27;
        return static_cast<unsigned>((state_ * 0x2545F4914F6CDD1Du >> 32) * bound >> 32);
    }

  private:
    uint64_t state_;
};

class Launch {
  public:
    Launch(std::function<void()> kernel, unsigned grid, unsigned block, size_t shared_bytes, uint64_t seed)
        : kernel_(std::move(kernel)), grid_(grid), block_(block), shared_bytes_(shared_bytes), random_(seed) {
        // Some seeds prefer the thread that came last, which then runs far ahead of the others.
        depth_first_ = random_.below(3) == 0;
        resident_ = 1 + random_.below(4);
    }

    // Returns what went wrong, or nothing.
    std::string run();

    // Called by fibers.
    static Launch& current() { return *current_; }
    Thread& thread() { return *running_; }
    unsigned grid() const { return grid_; }
    unsigned block() const { return block_; }
    size_t shared_bytes() const { return shared_bytes_; }

    void maybe_yield() {
        if (random_.below(4) == 0) {
            ready_.push_back(running_);
            running_->fiber.suspend();
        }
    }
    void barrier(Site site);
    // Waits for `lanes` and returns their operands, by lane.
    const uint64_t* exchange(unsigned lanes, uint64_t operand, Site site);
    [[noreturn]] void fail(const std::string& message) {
        if (error_.empty()) error_ = where(*running_) + ": " + message;
        running_->fiber.suspend(true);
        std::abort();
    }

  private:
    static void enter();
    void begin_block();
    void end_thread();
    Thread* choose();
    void resume(Thread& thread);
    void wake(Thread& thread) {
        thread.state = State::ready;
        ready_.push_back(&thread);
    }
    std::string deadlock() const;
    static std::string where(const Thread& thread) {
        return "block " + std::to_string(thread.block->index.x) + ", thread " + std::to_string(thread.number);
    }

    std::function<void()> kernel_;
    unsigned grid_, block_;
    size_t shared_bytes_;
    Random random_;
    bool depth_first_;
    unsigned resident_;
    std::vector<unsigned> order_;  // blocks still to begin
    std::vector<std::unique_ptr<Block>> blocks_;
    std::vector<Thread*> ready_;
    Thread* running_ = nullptr;
    std::string error_;

    inline static Launch* current_ = nullptr;
    inline static std::vector<std::unique_ptr<Thread>> spare_;  // stacks are worth keeping
};

}  // namespace cuda_on_cpu

inline cuda_on_cpu::Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

inline std::string Launch::run() {
    current_ = this;
    blockDim = {block_, 1, 1};
    gridDim = {grid_, 1, 1};
    order_.resize(grid_);
    for (unsigned i = 0; i < grid_; ++i) order_[i] = i;
    for (unsigned i = grid_; i > 1; --i) std::swap(order_[i - 1], order_[random_.below(i)]);
    while (blocks_.size() < resident_ && !order_.empty()) begin_block();

    while (error_.empty() && !ready_.empty()) {
        resume(*choose());
        if (running_->state != State::ended) continue;
        for (auto& block : blocks_) {
            if (block->ended < block_) continue;
            for (auto& thread : block->threads) spare_.push_back(std::move(thread));
            block = std::move(blocks_.back());
            blocks_.pop_back();
            if (!order_.empty()) begin_block();
            break;
        }
    }
    if (error_.empty() && !blocks_.empty()) error_ = deadlock();
    for (auto& block : blocks_)
        for (auto& thread : block->threads) spare_.push_back(std::move(thread));
    current_ = nullptr;
    return error_;
}

inline void Launch::begin_block() {
    auto block = std::make_unique<Block>();
    block->index.x = order_.back();
    order_.pop_back();
    block->shared.reset(new unsigned char[shared_bytes_]);
    block->written.reset(new unsigned char[shared_bytes_]());
    block->waiting.resize(block_ / 32);
    for (unsigned t = 0; t < block_; ++t) {
        if (spare_.empty()) spare_.push_back(std::make_unique<Thread>());
        block->threads.push_back(std::move(spare_.back()));
        spare_.pop_back();
        Thread& thread = *block->threads.back();
        thread.block = block.get();
        thread.number = t;
        thread.fiber.start(enter);
        wake(thread);
    }
    blocks_.push_back(std::move(block));
}

inline void Launch::enter() {
    Launch& launch = *current_;
    launch.running_->fiber.begun();
    launch.kernel_();
    current_->end_thread();
}

inline void Launch::end_thread() {
    running_->state = State::ended;
    ++running_->block->ended;
    running_->fiber.suspend(true);
}

inline Thread* Launch::choose() {
    const unsigned count = static_cast<unsigned>(ready_.size());
    const bool last = depth_first_ && random_.below(16) != 0;
    std::swap(ready_[last ? count - 1 : random_.below(count)], ready_.back());
    Thread* const thread = ready_.back();
    ready_.pop_back();
    return thread;
}

inline void Launch::resume(Thread& thread) {
    running_ = &thread;
    threadIdx.x = thread.number;
    blockIdx = thread.block->index;
    thread.fiber.resume();
}

inline void Launch::barrier(Site site) {
    Block& block = *running_->block;
    running_->state = State::at_barrier;
    running_->site = site;
    if (++block.at_barrier == block_) {
        block.at_barrier = 0;
        for (auto& thread : block.threads) {
            if (!(thread->site == site))
                fail("waits at " + site.text() + ", thread " + std::to_string(thread->number) + " at " +
                     thread->site.text());
        }
        const size_t first = ready_.size();
        for (auto& thread : block.threads) wake(*thread);
        for (size_t i = ready_.size() - 1; i > first; --i)
            std::swap(ready_[i], ready_[first + random_.below(static_cast<unsigned>(i - first + 1))]);
    }
    running_->fiber.suspend();
}

inline const uint64_t* Launch::exchange(unsigned lanes, uint64_t operand, Site site) {
    Thread& own = *running_;
    Block& block = *own.block;
    if (!(lanes >> own.lane() & 1)) fail(site.text() + " names lanes without the one that calls it");
    const unsigned warp = own.number / 32;
    own.state = State::in_warp;
    own.site = site;
    own.lanes = lanes;
    own.operand = operand;
    block.waiting[warp] |= 1u << own.lane();
    if ((block.waiting[warp] & lanes) == lanes) {
        bool together = true;
        for (unsigned lane = 0; lane < 32; ++lane) {
            const Thread& other = *block.threads[warp * 32 + lane];
            if (lanes >> lane & 1) together &= other.lanes == lanes && other.site == site;
        }
        if (together) {
            block.waiting[warp] &= ~lanes;
            uint64_t operands[32] = {};
            for (unsigned lane = 0; lane < 32; ++lane)
                if (lanes >> lane & 1) operands[lane] = block.threads[warp * 32 + lane]->operand;
            for (unsigned lane = 0; lane < 32; ++lane) {
                if (!(lanes >> lane & 1)) continue;
                Thread& other = *block.threads[warp * 32 + lane];
                std::memcpy(other.operands, operands, sizeof operands);
                wake(other);
            }
        }
    }
    own.fiber.suspend();
    return own.operands;
}

inline std::string Launch::deadlock() const {
    for (const auto& block : blocks_) {
        for (const auto& thread : block->threads) {
            if (thread->state == State::at_barrier) {
                for (const auto& other : block->threads) {
                    if (other->state != State::at_barrier)
                        return where(*thread) + ": waits at " + thread->site.text() + ", but thread " +
                               std::to_string(other->number) +
                               (other->state == State::ended ? " has ended" : " waits at " + other->site.text());
                }
            }
            if (thread->state != State::in_warp) continue;
            for (unsigned lane = 0; lane < 32; ++lane) {
                const Thread& other = *block->threads[thread->number / 32 * 32 + lane];
                if (!(thread->lanes >> lane & 1)) continue;
                const bool together = other.state == State::in_warp && other.site == thread->site;
                if (together && other.lanes == thread->lanes) continue;
                return where(*thread) + ": waits at " + thread->site.text() + ", but lane " + std::to_string(lane) +
                       (other.state == State::ended ? " has ended"
                        : together                  ? " names other lanes"
                                                    : " waits at " + other.site.text());
            }
        }
    }
    return "threads wait for each other";
}

}  // namespace cuda_on_cpu
