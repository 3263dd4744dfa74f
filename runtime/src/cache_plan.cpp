#include "shotstream/cache_plan.h"

#include <algorithm>

#include "shotstream/status.h"

namespace shotstream {

CachePlan::CachePlan(int context_frames, int local_frames, int sink_frames)
    : context_frames_(context_frames), local_frames_(local_frames), sink_frames_(sink_frames) {
  require(context_frames >= 0 && context_frames <= 512, "context_frames", context_frames,
          "an integer from 0 to 512");
  require(local_frames >= 1 && local_frames <= 1000, "local_frames", local_frames,
          "an integer from 1 to 1000");
  require(sink_frames >= 0 && sink_frames < local_frames, "sink_frames", sink_frames,
          "0 or more, and below the local cache's " + std::to_string(local_frames) + " frames");
}

int CachePlan::slot_of(int shot_frame) const noexcept {
  if (shot_frame < sink_frames_) return context_frames_ + shot_frame;
  return context_frames_ + sink_frames_ + (shot_frame - sink_frames_) % ring_frames();
}

int CachePlan::valid_local_frames(int frames_written) const noexcept {
  return std::min(frames_written, local_frames_);
}

std::vector<int> CachePlan::slot_frames(int frames_written) const {
  const int valid = valid_local_frames(frames_written);
  const int ring = ring_frames();
  std::vector<int> frames(static_cast<std::size_t>(valid));
  for (int local = 0; local < valid; ++local) {
    int frame = local;
    if (local >= sink_frames_) {
      // The newest frame that is congruent to this ring slot.
      const int newest = frames_written - 1;
      frame = newest - (newest - local) % ring;
    }
    frames[static_cast<std::size_t>(local)] = frame;
  }
  return frames;
}

}  // namespace shotstream
