// Which decoded frames of past shots become the context of the next shot.
#pragma once

#include <vector>

namespace shotstream {

struct ContextPick {
  int shot;           // index into frame_counts
  int frame_in_shot;  // decoded (pixel) frame, 0-based

  bool operator==(const ContextPick&) const = default;
};

// Picks `budget` frames of the past shots, oldest shot first. Every shot gets budget / shots
// frames, the remainder goes one each to the most recent shots; inside a shot the frames are
// linspace(first, last, count) in float32 over the film's frame numbers, rounded half to even; a
// count of one is the first frame. No past shot: empty.
//
// The film's frame numbers decide ties (82.5 -> 82 but 1.5 -> 2), so the pick depends on where a
// shot starts. Starts are reduced modulo 2^19 (9 hours), which keeps the parity and keeps float32
// exact enough however long the film gets.
//
// Source: ShotStream reference, dynamic context sampling.
std::vector<ContextPick> sample_context(const std::vector<int>& frame_counts, int budget);

// Every frame_in_shot that sample_context can pick, now or later, from a shot of `frame_count`
// frames, sorted: all that a session must keep of it.
std::vector<int> context_candidates(int frame_count, int budget);

}  // namespace shotstream
