#include "shotstream/frame_queue.h"

#include <string>
#include <utility>

#include "shotstream/nvtx.h"
#include "shotstream/status.h"

namespace shotstream {
namespace {

std::size_t checked_capacity(int capacity, QueuePolicy policy) {
  require(capacity >= 1, "capacity", capacity, "1 or more items");
  return policy == QueuePolicy::kLatest ? 1 : static_cast<std::size_t>(capacity);
}

}  // namespace

QueuePolicy parse_queue_policy(std::string_view text) {
  for (const QueuePolicy policy :
       {QueuePolicy::kBlock, QueuePolicy::kDropOldest, QueuePolicy::kLatest}) {
    if (text == queue_policy_name(policy)) return policy;
  }
  throw Error(Status::kConfig,
              "policy: got '" + std::string(text) + "', wanted 'block', 'drop_oldest' or 'latest'");
}

std::string_view queue_policy_name(QueuePolicy policy) noexcept {
  switch (policy) {
    case QueuePolicy::kBlock:
      return "block";
    case QueuePolicy::kDropOldest:
      return "drop_oldest";
    case QueuePolicy::kLatest:
      return "latest";
  }
  return "";
}

FrameQueue::FrameQueue(int capacity, QueuePolicy policy)
    : capacity_(checked_capacity(capacity, policy)), policy_(policy) {}

QueueResult FrameQueue::put(Item& item, Timeout timeout) {
  const NvtxRange range(NvtxName::kQueuePut);
  Item evicted;  // outlives the lock
  {
    std::unique_lock lock(mutex_);
    if (policy_ == QueuePolicy::kBlock) {
      const bool ready = not_full_.wait_for(
          lock, timeout, [this] { return closed_ || items_.size() < capacity_; });
      if (!ready) return QueueResult::kTimeout;
    }
    if (closed_) return QueueResult::kClosed;
    if (items_.size() == capacity_) {
      evicted = std::move(items_.front());
      items_.pop_front();
      ++dropped_;
    }
    items_.push_back(std::move(item));
  }
  not_empty_.notify_one();
  return QueueResult::kDone;
}

QueueResult FrameQueue::get(Item& item, Timeout timeout) {
  const NvtxRange range(NvtxName::kQueueWait);
  Item taken;
  {
    std::unique_lock lock(mutex_);
    const bool ready =
        not_empty_.wait_for(lock, timeout, [this] { return closed_ || !items_.empty(); });
    if (!ready) return QueueResult::kTimeout;
    if (items_.empty()) return QueueResult::kClosed;
    taken = std::move(items_.front());
    items_.pop_front();
  }
  not_full_.notify_one();
  item = std::move(taken);
  return QueueResult::kDone;
}

void FrameQueue::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  not_full_.notify_all();
  not_empty_.notify_all();
}

std::size_t FrameQueue::clear() {
  std::deque<Item> discarded;
  {
    const std::lock_guard lock(mutex_);
    discarded.swap(items_);
  }
  not_full_.notify_all();
  return discarded.size();
}

std::size_t FrameQueue::size() const {
  const std::lock_guard lock(mutex_);
  return items_.size();
}

std::uint64_t FrameQueue::dropped() const {
  const std::lock_guard lock(mutex_);
  return dropped_;
}

bool FrameQueue::closed() const {
  const std::lock_guard lock(mutex_);
  return closed_;
}

}  // namespace shotstream
