// Where the latent frames of a shot live in the KV arena: [context slots | sink | ring].
//
// All units are latent frames; the caller multiplies by tokens_per_frame. Attention is order-free
// over keys, so the ring never moves memory: a frame is written once and overwritten in place.
#pragma once

#include <vector>

namespace shotstream {

class CachePlan {
 public:
  // context_frames: read-only slots in front, 0..512. local_frames: capacity of the local part,
  // sink included, 1..1000. sink_frames: frames of the shot's start that are never evicted.
  CachePlan(int context_frames, int local_frames, int sink_frames);

  [[nodiscard]] int context_frames() const noexcept { return context_frames_; }
  [[nodiscard]] int local_frames() const noexcept { return local_frames_; }
  [[nodiscard]] int sink_frames() const noexcept { return sink_frames_; }
  [[nodiscard]] int ring_frames() const noexcept { return local_frames_ - sink_frames_; }
  [[nodiscard]] int arena_frames() const noexcept { return context_frames_ + local_frames_; }

  // Arena slot that frame `shot_frame` (0-based within the shot) is written to.
  [[nodiscard]] int slot_of(int shot_frame) const noexcept;

  // Local frames that hold data once `frames_written` frames of the shot were written.
  [[nodiscard]] int valid_local_frames(int frames_written) const noexcept;

  // Shot frame held by each valid local slot, in slot order (sink, then ring), after
  // `frames_written` frames of the shot were written.
  [[nodiscard]] std::vector<int> slot_frames(int frames_written) const;

 private:
  int context_frames_;
  int local_frames_;
  int sink_frames_;
};

}  // namespace shotstream
