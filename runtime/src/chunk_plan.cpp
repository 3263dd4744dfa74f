#include "shotstream/chunk_plan.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "shotstream/status.h"

namespace shotstream {
namespace {

constexpr int kMaxFlag = 1 << 20;

int local_capacity(const PlannerConfig& config) {
  return config.window_frames > 0 ? config.window_frames : config.shot_frames;
}

std::vector<int> counting_from(int first, int count) {
  std::vector<int> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), first);
  return values;
}

void check_flag(int flag) {
  require(flag >= 0 && flag <= kMaxFlag, "flag", flag, "a shot number from 0 to 1048576");
}

}  // namespace

Planner::Planner(const PlannerConfig& config)
    : config_(config), cache_(config.context_frames, local_capacity(config), config.sink_frames) {
  require(config.window_frames >= 0, "window_frames", config.window_frames,
          "0 (the whole shot) or a number of latent frames");
  require(config.chunk_frames >= 1 && config.chunk_frames <= cache_.ring_frames(), "chunk_frames",
          config.chunk_frames,
          "1 to " + std::to_string(cache_.ring_frames()) +
              " (window minus sink): a chunk must not overwrite itself; widen window_frames");
  require(config.shot_frames >= 1 && config.shot_frames % config.chunk_frames == 0, "shot_frames",
          config.shot_frames, "a multiple of chunk_frames " + std::to_string(config.chunk_frames));
}

ContextPlan Planner::context(const std::vector<int>& flags) const {
  const int count = cache_.context_frames();
  require(flags.size() == static_cast<std::size_t>(count), "flags",
          static_cast<long long>(flags.size()),
          "one shot number per context frame, " + std::to_string(count));
  ContextPlan plan;
  plan.slots = counting_from(0, count);
  plan.positions = counting_from(0, count);
  plan.flags = flags;
  for (const int flag : flags) {
    check_flag(flag);
    plan.phases_rad.push_back(config_.shot_phase ? static_cast<float>(flag) * kShotPhaseRad : 0.0f);
  }
  plan.valid_frames = count;
  return plan;
}

ChunkPlan Planner::chunk(int shot, int chunk, int flag) const {
  require(shot >= 0, "shot", shot, "0 or more");
  const int context = cache_.context_frames();
  const int length = config_.chunk_frames;
  // Keys rotated on write need a tabulated position for every frame of the shot.
  const int max_chunks =
      config_.rotate_on_read ? (1 << 30) / length : (kMaxPositions - context) / length;
  require(chunk >= 0 && chunk < max_chunks, "chunk", chunk,
          "0 to " + std::to_string(max_chunks - 1) +
              " (rotary positions end at 1024); begin a new shot or use key_rotation 'on_read'");
  check_flag(flag);

  ChunkPlan plan;
  plan.shot = shot;
  plan.chunk = chunk;
  plan.flag = flag;
  plan.phase_rad = config_.shot_phase ? static_cast<float>(flag) * kShotPhaseRad : 0.0f;
  plan.first_frame = chunk * length;
  for (int f = plan.first_frame; f < plan.first_frame + length; ++f) {
    plan.write_slots.push_back(cache_.slot_of(f));
  }
  const int written = plan.first_frame + length;
  plan.slot_frames = cache_.slot_frames(written);
  plan.valid_frames = context + static_cast<int>(plan.slot_frames.size());
  plan.positions = counting_from(first_query_position(plan.first_frame), length);
  plan.key_positions = key_positions(plan.slot_frames);
  return plan;
}

int Planner::first_query_position(int first_frame) const noexcept {
  const int first = config_.rotate_on_read ? std::min(first_frame, kOnReadQueryCap) : first_frame;
  return cache_.context_frames() + first;
}

std::vector<int> Planner::key_positions(const std::vector<int>& slot_frames) const {
  const int context = cache_.context_frames();
  std::vector<int> positions = counting_from(0, context);
  positions.reserve(static_cast<std::size_t>(cache_.arena_frames()));
  if (!config_.rotate_on_read) {
    for (const int frame : slot_frames) positions.push_back(context + frame);
    return positions;
  }
  // Re-numbered at every pass: sink frames keep their number, the ring follows without a gap in
  // temporal order. The original crashes with a sink here; this is the numbering it aims at.
  const int sink = cache_.sink_frames();
  const int base = sink > 0 ? context : kOnReadFirstKey;
  const auto ring_begin =
      slot_frames.begin() + std::min<std::ptrdiff_t>(sink, std::ssize(slot_frames));
  const int oldest =
      ring_begin == slot_frames.end() ? 0 : *std::min_element(ring_begin, slot_frames.end());
  for (std::size_t local = 0; local < slot_frames.size(); ++local) {
    const int frame = slot_frames[local];
    const bool in_sink = static_cast<int>(local) < sink;
    positions.push_back(base + (in_sink ? frame : sink + frame - oldest));
  }
  return positions;
}

}  // namespace shotstream
