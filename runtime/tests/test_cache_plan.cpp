#include "check.h"
#include "shotstream/cache_plan.h"
#include "shotstream/status.h"

using shotstream::CachePlan;
using Ints = std::vector<int>;

int main() {
  const CachePlan whole(6, 21, 0);
  CHECK(whole.arena_frames() == 27);
  CHECK(whole.slot_of(0) == 6 && whole.slot_of(20) == 26);
  CHECK(whole.slot_of(21) == 6);
  CHECK(whole.slot_frames(3) == (Ints{0, 1, 2}));

  // Sink of 3 and a ring of 6: frames 0..2 stay, frame 9 takes the slot of frame 3.
  const CachePlan rolling(6, 9, 3);
  CHECK(rolling.ring_frames() == 6);
  CHECK(rolling.slot_of(2) == 8 && rolling.slot_of(3) == 9 && rolling.slot_of(9) == 9);
  CHECK(rolling.valid_local_frames(6) == 6 && rolling.valid_local_frames(30) == 9);
  CHECK(rolling.slot_frames(9) == (Ints{0, 1, 2, 3, 4, 5, 6, 7, 8}));
  CHECK(rolling.slot_frames(12) == (Ints{0, 1, 2, 9, 10, 11, 6, 7, 8}));
  CHECK(rolling.slot_frames(21) == (Ints{0, 1, 2, 15, 16, 17, 18, 19, 20}));

  // A ring that is no multiple of anything; a sink that is only partly written.
  CHECK(CachePlan(1, 7, 2).slot_frames(10) == (Ints{0, 1, 7, 8, 9, 5, 6}));
  CHECK(CachePlan(1, 7, 5).slot_frames(3) == (Ints{0, 1, 2}));

  CHECK(CachePlan(0, 21, 0).slot_of(0) == 0);
  CHECK_THROWS(CachePlan(-1, 21, 0), Status::kConfig);
  CHECK_THROWS(CachePlan(6, 0, 0), Status::kConfig);
  CHECK_THROWS(CachePlan(6, 9, 9), Status::kConfig);
  CHECK_THROWS(CachePlan(6, 9, -1), Status::kConfig);
  return 0;
}
