// Bounded queue between the decode thread and the consumer; any number of threads on either side.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string_view>

namespace shotstream {

// What put() does when the queue is full.
enum class QueuePolicy {
  kBlock,       // wait for room
  kDropOldest,  // discard the oldest item
  kLatest,      // discard everything: the consumer sees only the newest item
};

// "block", "drop_oldest" or "latest"; anything else throws Error(kConfig).
QueuePolicy parse_queue_policy(std::string_view text);
std::string_view queue_policy_name(QueuePolicy policy) noexcept;

enum class QueueResult { kDone, kTimeout, kClosed };

class FrameQueue {
 public:
  // Type-erased owner of one item. Its deleter never runs while the queue's lock is held, so it
  // may take locks of its own (Python's, for one).
  using Item = std::shared_ptr<void>;
  using Timeout = std::chrono::nanoseconds;

  // capacity: 1 or more items; "latest" always holds one.
  FrameQueue(int capacity, QueuePolicy policy);

  // Moves `item` in, or leaves it untouched and says why not. A closed queue takes nothing.
  QueueResult put(Item& item, Timeout timeout);

  // Moves the oldest item out. After close() what is left is still handed out.
  QueueResult get(Item& item, Timeout timeout);

  // Wakes every waiter; idempotent.
  void close();

  // Discards what is queued without counting it as dropped (a cut that abandons queued frames).
  std::size_t clear();

  [[nodiscard]] std::size_t size() const;
  [[nodiscard]] std::uint64_t dropped() const;
  [[nodiscard]] bool closed() const;
  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }
  [[nodiscard]] QueuePolicy policy() const noexcept { return policy_; }

 private:
  const std::size_t capacity_;
  const QueuePolicy policy_;
  mutable std::mutex mutex_;
  std::condition_variable not_full_;
  std::condition_variable not_empty_;
  std::deque<Item> items_;
  std::uint64_t dropped_ = 0;
  bool closed_ = false;
};

}  // namespace shotstream
