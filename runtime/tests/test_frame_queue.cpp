#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "check.h"
#include "shotstream/frame_queue.h"
#include "shotstream/status.h"

using shotstream::FrameQueue;
using shotstream::QueuePolicy;
using shotstream::QueueResult;
using namespace std::chrono_literals;

namespace {

FrameQueue::Item item_of(int value) { return std::make_shared<int>(value); }
int value_of(const FrameQueue::Item& item) { return *static_cast<int*>(item.get()); }

QueueResult put(FrameQueue& queue, int value, FrameQueue::Timeout timeout = 10s) {
  FrameQueue::Item item = item_of(value);
  const QueueResult result = queue.put(item, timeout);
  // A refused item stays with the caller.
  CHECK((item == nullptr) == (result == QueueResult::kDone));
  return result;
}

int get(FrameQueue& queue) {
  FrameQueue::Item item;
  CHECK(queue.get(item, 10s) == QueueResult::kDone);
  return value_of(item);
}

void blocks_when_full_and_times_out() {
  FrameQueue queue(2, QueuePolicy::kBlock);
  CHECK(put(queue, 1) == QueueResult::kDone && put(queue, 2) == QueueResult::kDone);
  CHECK(put(queue, 3, 1ms) == QueueResult::kTimeout);
  CHECK(queue.size() == 2 && queue.dropped() == 0);
  CHECK(get(queue) == 1 && get(queue) == 2);
  FrameQueue::Item item;
  CHECK(queue.get(item, 0ns) == QueueResult::kTimeout && item == nullptr);
}

void drops_the_oldest() {
  FrameQueue queue(2, QueuePolicy::kDropOldest);
  for (int value = 0; value < 5; ++value) CHECK(put(queue, value, 0ns) == QueueResult::kDone);
  CHECK(queue.dropped() == 3 && get(queue) == 3 && get(queue) == 4);
}

void keeps_only_the_latest() {
  FrameQueue queue(8, QueuePolicy::kLatest);
  CHECK(queue.capacity() == 1);
  for (int value = 0; value < 5; ++value) CHECK(put(queue, value, 0ns) == QueueResult::kDone);
  CHECK(queue.size() == 1 && queue.dropped() == 4 && get(queue) == 4);
}

void drains_after_close() {
  FrameQueue queue(4, QueuePolicy::kBlock);
  put(queue, 1);
  queue.close();
  queue.close();
  CHECK(queue.closed() && put(queue, 2) == QueueResult::kClosed);
  CHECK(get(queue) == 1);
  FrameQueue::Item item;
  CHECK(queue.get(item, 10s) == QueueResult::kClosed);
}

void close_wakes_every_waiter() {
  FrameQueue empty(1, QueuePolicy::kBlock);
  FrameQueue full(1, QueuePolicy::kBlock);
  put(full, 0);
  std::atomic<int> woken{0};
  std::vector<std::thread> waiters;
  for (int i = 0; i < 3; ++i) {
    waiters.emplace_back([&] {
      FrameQueue::Item item;
      if (empty.get(item, 60s) == QueueResult::kClosed) ++woken;
    });
    waiters.emplace_back([&] {
      if (put(full, 1, 60s) == QueueResult::kClosed) ++woken;
    });
  }
  std::this_thread::sleep_for(5ms);
  empty.close();
  full.close();
  for (std::thread& waiter : waiters) waiter.join();
  CHECK(woken == 6);
}

void clear_makes_room() {
  FrameQueue queue(2, QueuePolicy::kBlock);
  put(queue, 1);
  put(queue, 2);
  CHECK(queue.clear() == 2 && queue.size() == 0 && queue.dropped() == 0);
  CHECK(put(queue, 3, 0ns) == QueueResult::kDone && get(queue) == 3);
}

// Every item arrives once, and each producer's items in order, whatever the interleaving.
void loses_nothing_between_threads() {
  constexpr int kProducers = 3;
  constexpr int kConsumers = 3;
  constexpr int kItems = 2000;
  FrameQueue queue(5, QueuePolicy::kBlock);
  std::vector<std::thread> producers;
  for (int p = 0; p < kProducers; ++p) {
    producers.emplace_back([&queue, p] {
      for (int i = 0; i < kItems; ++i) CHECK(put(queue, p * kItems + i, 60s) == QueueResult::kDone);
    });
  }
  std::vector<std::vector<int>> received(kConsumers);
  std::vector<std::thread> consumers;
  for (int c = 0; c < kConsumers; ++c) {
    consumers.emplace_back([&queue, &mine = received[static_cast<std::size_t>(c)]] {
      FrameQueue::Item item;
      while (queue.get(item, 60s) == QueueResult::kDone) mine.push_back(value_of(item));
    });
  }
  for (std::thread& producer : producers) producer.join();
  queue.close();
  for (std::thread& consumer : consumers) consumer.join();
  std::vector<int> seen(kProducers * kItems, 0);
  for (const std::vector<int>& mine : received) {
    std::vector<int> last(kProducers, -1);
    for (const int value : mine) {
      ++seen[static_cast<std::size_t>(value)];
      int& previous = last[static_cast<std::size_t>(value / kItems)];
      CHECK(value > previous);
      previous = value;
    }
  }
  for (const int count : seen) CHECK(count == 1);
}

// The deleter of an evicted item may come back to the queue: it runs outside the lock.
void destroys_items_outside_the_lock() {
  FrameQueue queue(1, QueuePolicy::kLatest);
  std::size_t size_seen = 99;
  int target = 0;
  FrameQueue::Item first(&target, [&](void*) { size_seen = queue.size(); });
  CHECK(queue.put(first, 0ns) == QueueResult::kDone);
  put(queue, 2);
  CHECK(size_seen == 1);
}

void rejects_nonsense() {
  CHECK_THROWS(FrameQueue(0, QueuePolicy::kBlock), Status::kConfig);
  CHECK_THROWS(shotstream::parse_queue_policy("newest"), Status::kConfig);
  CHECK(shotstream::parse_queue_policy("drop_oldest") == QueuePolicy::kDropOldest);
}

}  // namespace

int main() {
  blocks_when_full_and_times_out();
  drops_the_oldest();
  keeps_only_the_latest();
  drains_after_close();
  close_wakes_every_waiter();
  clear_makes_room();
  loses_nothing_between_threads();
  destroys_items_outside_the_lock();
  rejects_nonsense();
  return 0;
}
