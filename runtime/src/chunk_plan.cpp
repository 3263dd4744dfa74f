#include "shotstream/chunk_plan.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "shotstream/status.h"

namespace shotstream {
namespace {

constexpr int kMaxFlag = 1 << 20;
constexpr int kMaxFrames = 1 << 30;

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
  require(config.rotate_on_read || !config.number_by_slot, "number_by_slot", 1,
          "false where keys are rotated as they are written");
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
  for (const int flag : flags) check_flag(flag);
  plan.valid_frames = count;
  return plan;
}

ChunkPlan Planner::chunk(int shot, int chunk, int flag) const {
  require(shot >= 0, "shot", shot, "0 or more");
  const int length = config_.chunk_frames;
  const int max_chunks = longest_shot_chunks().value_or(kMaxFrames / length);
  require(chunk >= 0 && chunk < max_chunks, "chunk", chunk,
          "0 to " + std::to_string(max_chunks - 1) + " (rotary positions end at " +
              std::to_string(kMaxPositions) + "); begin a new shot or use key_rotation 'on_read'");
  FrameSpan span;
  span.first = chunk * length;
  span.count = length;
  ChunkPlan plan = frames(span, flag);
  plan.shot = shot;
  plan.chunk = chunk;
  return plan;
}

ChunkPlan Planner::frames(const FrameSpan& span, int flag) const {
  const int context = cache_.context_frames();
  const int end = config_.rotate_on_read ? kMaxFrames : kMaxPositions - context;
  require(span.origin >= 0 && span.origin <= kMaxFrames, "origin", span.origin, "a frame number");
  require(span.first >= span.origin && span.first <= kMaxFrames, "first", span.first,
          "a frame number, not below origin " + std::to_string(span.origin));
  require(span.count >= 1 && span.count <= cache_.local_frames(), "count", span.count,
          "1 to the window's " + std::to_string(cache_.local_frames()) + " frames");
  require(span.count <= cache_.ring_frames() || span.first == span.origin, "count", span.count,
          "at most " + std::to_string(cache_.ring_frames()) +
              " (window minus sink) behind the first frames: a pass must not overwrite itself");
  require(span.first + span.count <= end, "frame", span.first + span.count - 1,
          "below " + std::to_string(end) +
              ", where rotary positions end; begin a new shot or use key_rotation 'on_read'");
  require(!span.own_position || config_.number_by_slot, "own_position",
          span.own_position.value_or(0), "none unless queries are numbered by slot");
  require(span.own_position.value_or(0) >= 0 && span.own_position.value_or(0) <= kMaxFrames,
          "own_position", span.own_position.value_or(0), "a rotary position");
  check_flag(flag);

  ChunkPlan plan;
  plan.flag = flag;
  plan.first_frame = span.first;
  const int local = span.first - span.origin;
  for (int f = local; f < local + span.count; ++f) plan.write_slots.push_back(cache_.slot_of(f));
  plan.slot_frames = cache_.slot_frames(local + span.count);
  for (int& frame : plan.slot_frames) frame += span.origin;
  plan.valid_frames = context + static_cast<int>(plan.slot_frames.size());
  plan.key_positions = key_positions(plan.slot_frames);
  if (span.own_position) {
    for (int own = 0; own < span.count; ++own) {
      const int slot = plan.write_slots[static_cast<std::size_t>(own)];
      plan.key_positions[static_cast<std::size_t>(slot)] = *span.own_position + own;
    }
  }
  plan.positions = query_positions(plan);
  return plan;
}

std::optional<int> Planner::longest_shot_chunks() const noexcept {
  if (config_.rotate_on_read) return std::nullopt;
  return (kMaxPositions - cache_.context_frames()) / config_.chunk_frames;
}

std::vector<int> Planner::query_positions(const ChunkPlan& plan) const {
  const int count = static_cast<int>(plan.write_slots.size());
  if (!config_.number_by_slot) {
    const int first =
        config_.rotate_on_read ? std::min(plan.first_frame, kOnReadQueryCap) : plan.first_frame;
    return counting_from(cache_.context_frames() + first, count);
  }
  std::vector<int> positions;
  for (const int slot : plan.write_slots) {
    positions.push_back(plan.key_positions[static_cast<std::size_t>(slot)]);
  }
  return positions;
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
  const int base = sink > 0 || config_.number_by_slot ? context : kOnReadFirstKey;
  const auto ring_begin =
      slot_frames.begin() + std::min<std::ptrdiff_t>(sink, std::ssize(slot_frames));
  const int oldest =
      ring_begin == slot_frames.end() ? 0 : *std::min_element(ring_begin, slot_frames.end());
  for (std::size_t local = 0; local < slot_frames.size(); ++local) {
    const bool in_sink = static_cast<int>(local) < sink;
    positions.push_back(base +
                        (in_sink ? static_cast<int>(local) : sink + slot_frames[local] - oldest));
  }
  return positions;
}

}  // namespace shotstream
