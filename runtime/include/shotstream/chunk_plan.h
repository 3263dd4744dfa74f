// (shot, chunk) -> plain integers that every backend executes: slots, valid length, positions.
//
// Host planning only: no tensor, no device, no allocation beyond the small vectors returned.
// Units are latent frames. Source of the numbers: the ShotStream reference; the slow, obvious twin
// is the list model in tests/native/test_chunk_plan.py.
#pragma once

#include <optional>
#include <vector>

#include "shotstream/cache_plan.h"

namespace shotstream {

// Rotary positions are tabulated up to this many latent frames by the original model.
inline constexpr int kMaxPositions = 1024;
// With keys rotated on read, queries stop counting at context_frames + 18 (the original's literal:
// the first frame of the last chunk of a 21-frame shot).
inline constexpr int kOnReadQueryCap = 18;
// With keys rotated on read and no sink, local keys are numbered from 6 whatever the context
// length is (the original's literal).
inline constexpr int kOnReadFirstKey = 6;

struct PlannerConfig {
  int context_frames = 6;
  int chunk_frames = 3;
  int shot_frames = 21;
  int sink_frames = 0;
  int window_frames = 0;  // capacity of the local cache, sink included; 0 = the whole shot
  bool rotate_on_read = false;
  // With keys rotated on read: queries are numbered as the keys of their own slots are. Otherwise
  // they count as the original's do, up to kOnReadQueryCap.
  bool number_by_slot = false;
};

// Which frames a pass is over, where they are not simply those of the next chunk of a shot.
struct FrameSpan {
  int first = 0;  // number of the first frame, counted from the beginning of the film or shot
  int count = 0;
  int origin = 0;  // the frame that the sink begins with; 0 unless the sink was renewed
  // Rotary position of the first frame; the other keys keep theirs. Only with number_by_slot.
  std::optional<int> own_position;
};

struct ContextPlan {
  std::vector<int> slots;
  std::vector<int> positions;
  std::vector<int> flags;
  int valid_frames = 0;
};

struct ChunkPlan {
  int shot = 0;
  int chunk = 0;
  int flag = 0;
  int first_frame = 0;             // of the chunk within its shot
  std::vector<int> write_slots;    // arena slot of each frame of the chunk
  int valid_frames = 0;            // length of the valid arena prefix
  std::vector<int> positions;      // rotary position of each of the chunk's frames, as queries
  std::vector<int> key_positions;  // rotary position of every valid arena slot
  std::vector<int> slot_frames;    // shot frame held by every valid local slot
};

class Planner {
 public:
  explicit Planner(const PlannerConfig& config);

  [[nodiscard]] const PlannerConfig& config() const noexcept { return config_; }
  [[nodiscard]] const CachePlan& cache() const noexcept { return cache_; }
  // Chunks of a shot of the trained length; plans exist beyond it (an extended shot).
  [[nodiscard]] int chunks() const noexcept { return config_.shot_frames / config_.chunk_frames; }
  // Chunks of the longest shot that can be planned. Keys rotated as they are written keep their
  // position for the whole shot, and positions end; keys rotated on read are numbered anew in
  // every pass, so there is no limit.
  [[nodiscard]] std::optional<int> longest_shot_chunks() const noexcept;

  // Plan of the context pass. flags: shot number of each context frame.
  [[nodiscard]] ContextPlan context(const std::vector<int>& flags) const;

  // Plan of every pass over one chunk; the valid prefix includes the chunk itself.
  [[nodiscard]] ChunkPlan chunk(int shot, int chunk, int flag) const;

  // Plan of a pass over any neighbouring frames; the valid prefix ends with the last of them.
  [[nodiscard]] ChunkPlan frames(const FrameSpan& span, int flag) const;

 private:
  [[nodiscard]] std::vector<int> query_positions(const ChunkPlan& plan) const;
  [[nodiscard]] std::vector<int> key_positions(const std::vector<int>& slot_frames) const;

  PlannerConfig config_;
  CachePlan cache_;
};

}  // namespace shotstream
