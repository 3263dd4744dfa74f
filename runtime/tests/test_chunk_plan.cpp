#include "check.h"
#include "shotstream/chunk_plan.h"
#include "shotstream/status.h"

using shotstream::ChunkPlan;
using shotstream::ContextPlan;
using shotstream::Planner;
using Ints = std::vector<int>;

namespace {

void plans_the_shipped_shot() {
  const Planner planner({});
  CHECK(planner.chunks() == 7);
  for (int chunk = 0; chunk < 7; ++chunk) {
    const ChunkPlan plan = planner.chunk(2, chunk, 3);
    const int first = 6 + 3 * chunk;
    CHECK(plan.shot == 2 && plan.chunk == chunk && plan.flag == 3);
    CHECK(plan.first_frame == 3 * chunk);
    CHECK(plan.write_slots == (Ints{first, first + 1, first + 2}));
    CHECK(plan.positions == plan.write_slots);
    CHECK(plan.valid_frames == first + 3);
    for (int slot = 0; slot < plan.valid_frames; ++slot) {
      CHECK(plan.key_positions[static_cast<std::size_t>(slot)] == slot);
    }
  }
}

void extends_a_shot_over_the_ring() {
  const Planner planner({});
  const ChunkPlan plan = planner.chunk(0, 7, 1);
  CHECK(plan.write_slots == (Ints{6, 7, 8}));
  CHECK(plan.valid_frames == 27);
  CHECK(plan.positions == (Ints{27, 28, 29}));
  CHECK(plan.key_positions[6] == 27 && plan.key_positions[9] == 9);
  CHECK(planner.chunk(0, 338, 1).positions.back() == 1022);
  CHECK_THROWS(planner.chunk(0, 339, 1), Status::kConfig);
  CHECK(planner.longest_shot_chunks() == 339);
  CHECK(!Planner({.rotate_on_read = true}).longest_shot_chunks().has_value());
}

void plans_frames_anywhere() {
  const Planner planner({.context_frames = 0, .sink_frames = 3, .window_frames = 12});
  shotstream::FrameSpan span;
  span.first = 0;
  span.count = 12;  // a whole window at once, as when held keys are computed anew
  CHECK(planner.frames(span, 0).slot_frames == (Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  span.first = 18;
  CHECK_THROWS(planner.frames(span, 0), Status::kConfig);
  span.count = 9;
  CHECK(planner.frames(span, 0).slot_frames == (Ints{0, 1, 2, 21, 22, 23, 24, 25, 26, 18, 19, 20}));
  span.origin = 15;
  CHECK(planner.frames(span, 0).slot_frames ==
        (Ints{15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26}));
  span.own_position = 45;
  CHECK_THROWS(planner.frames(span, 0), Status::kConfig);
}

void numbers_queries_by_slot() {
  const Planner planner({.context_frames = 0,
                         .sink_frames = 1,
                         .window_frames = 6,
                         .rotate_on_read = true,
                         .number_by_slot = true});
  CHECK(planner.chunk(0, 0, 0).positions == (Ints{0, 1, 2}));
  CHECK(planner.chunk(0, 50, 0).positions == (Ints{3, 4, 5}));
  shotstream::FrameSpan span;
  span.first = 12;
  span.count = 3;
  span.own_position = 45;
  const ChunkPlan cut = planner.frames(span, 0);
  CHECK(cut.positions == (Ints{45, 46, 47}));
  CHECK(cut.slot_frames == (Ints{0, 11, 12, 13, 14, 10}));
  CHECK(cut.key_positions == (Ints{0, 2, 45, 46, 47, 1}));
  CHECK_THROWS(Planner({.number_by_slot = true}), Status::kConfig);
}

void rotates_on_read() {
  const Planner rolling({.window_frames = 9, .rotate_on_read = true});
  const ChunkPlan plan = rolling.chunk(0, 6, 1);
  CHECK(plan.slot_frames == (Ints{18, 19, 20, 12, 13, 14, 15, 16, 17}));
  CHECK(plan.key_positions == (Ints{0, 1, 2, 3, 4, 5, 12, 13, 14, 6, 7, 8, 9, 10, 11}));
  CHECK(plan.positions == (Ints{24, 25, 26}));
  // Past the trained length only the query cap moves: nothing counts past the table's end.
  CHECK(rolling.chunk(0, 5000, 1).positions == (Ints{24, 25, 26}));

  // The literal 6 of the original, whatever the context length is.
  const Planner other_context({.context_frames = 4, .rotate_on_read = true});
  const ChunkPlan first = other_context.chunk(0, 0, 1);
  CHECK(first.key_positions == (Ints{0, 1, 2, 3, 6, 7, 8}));
  CHECK(first.positions == (Ints{4, 5, 6}));

  const Planner with_sink({.sink_frames = 2, .window_frames = 7, .rotate_on_read = true});
  const ChunkPlan wrapped = with_sink.chunk(0, 3, 1);
  CHECK(wrapped.slot_frames == (Ints{0, 1, 7, 8, 9, 10, 11}));
  CHECK(wrapped.key_positions == (Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}));
}

void plans_the_context() {
  const ContextPlan plan = Planner({}).context({0, 0, 1, 1, 2, 2});
  CHECK(plan.slots == (Ints{0, 1, 2, 3, 4, 5}) && plan.positions == plan.slots);
  CHECK(plan.valid_frames == 6);
  CHECK(plan.flags == (Ints{0, 0, 1, 1, 2, 2}));
}

void rejects_what_cannot_work() {
  CHECK_THROWS(Planner({.chunk_frames = 0}), Status::kConfig);
  CHECK_THROWS(Planner({.shot_frames = 20}), Status::kConfig);
  CHECK_THROWS(Planner({.sink_frames = 7, .window_frames = 9}), Status::kConfig);
  CHECK_THROWS(Planner({.window_frames = -1}), Status::kConfig);
  const Planner planner({});
  CHECK_THROWS(planner.context({0, 0}), Status::kConfig);
  CHECK_THROWS(planner.context({0, 0, 0, 0, 0, -1}), Status::kConfig);
  CHECK_THROWS(planner.chunk(-1, 0, 0), Status::kConfig);
  CHECK_THROWS(planner.chunk(0, -1, 0), Status::kConfig);
  CHECK_THROWS(planner.chunk(0, 0, -1), Status::kConfig);
}

}  // namespace

int main() {
  plans_the_shipped_shot();
  extends_a_shot_over_the_ring();
  plans_frames_anywhere();
  numbers_queries_by_slot();
  rotates_on_read();
  plans_the_context();
  rejects_what_cannot_work();
  return 0;
}
