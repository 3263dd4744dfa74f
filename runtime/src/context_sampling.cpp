#include "shotstream/context_sampling.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>

#include "shotstream/status.h"

namespace shotstream {
namespace {

constexpr int kMaxShotFrames = 1 << 19;
constexpr std::int64_t kStartModulus = 1 << 19;
constexpr int kMaxBudget = 512;

void check_frame_count(int frame_count) {
  require(frame_count >= 1 && frame_count <= kMaxShotFrames, "frame_count", frame_count,
          "1 to 524288 decoded frames in a shot");
}

void check_budget(int budget) {
  require(budget >= 1 && budget <= kMaxBudget, "budget", budget, "1 to 512 context frames");
}

// Element `i` of a float32 linspace as torch computes it: from the nearer end.
float linspace_at(float first, float last, int count, int i) {
  const float step = (last - first) / static_cast<float>(count - 1);
  if (i < count / 2) return first + step * static_cast<float>(i);
  return last - step * static_cast<float>(count - 1 - i);
}

std::set<int> possible_counts(int budget) {
  std::set<int> counts;
  for (int shots = 1; shots <= budget; ++shots) {
    counts.insert(budget / shots);
    if (budget % shots > 0) counts.insert(budget / shots + 1);
  }
  return counts;
}

}  // namespace

std::vector<ContextPick> sample_context(const std::vector<int>& frame_counts, int budget) {
  check_budget(budget);
  for (const int frame_count : frame_counts) check_frame_count(frame_count);
  const int shots = static_cast<int>(frame_counts.size());
  std::vector<ContextPick> picks;
  if (shots == 0) return picks;
  const int base = budget / shots;
  const int with_one_more = budget % shots;
  std::int64_t film_start = 0;
  for (int shot = 0; shot < shots; ++shot) {
    const int frame_count = frame_counts[static_cast<std::size_t>(shot)];
    const int count = base + (shot >= shots - with_one_more ? 1 : 0);
    const auto start = static_cast<int>(film_start % kStartModulus);
    film_start += frame_count;
    if (count == 1) picks.push_back({shot, 0});
    if (count <= 1) continue;
    const auto first = static_cast<float>(start);
    const auto last = static_cast<float>(start + frame_count - 1);
    for (int i = 0; i < count; ++i) {
      // nearbyint rounds half to even in the default rounding mode.
      const float film_frame = std::nearbyint(linspace_at(first, last, count, i));
      picks.push_back({shot, static_cast<int>(film_frame) - start});
    }
  }
  return picks;
}

std::vector<int> context_candidates(int frame_count, int budget) {
  check_budget(budget);
  check_frame_count(frame_count);
  std::set<int> frames;
  const double last = frame_count - 1;
  // Numbers below 2^20 in float32 are off by at most 2^-5 when stored, and the multiplied step by
  // two roundings of its own: anything this near a tie may fall on either side of it.
  const double near_tie = std::ldexp(1.0, -5) + last * std::ldexp(1.0, -22);
  for (const int count : possible_counts(budget)) {
    if (count == 1) frames.insert(0);
    for (int i = 0; count > 1 && i < count; ++i) {
      const double exact = last * i / (count - 1);
      for (const double shifted : {exact - near_tie, exact + near_tie}) {
        const int frame = static_cast<int>(std::floor(shifted + 0.5));
        frames.insert(std::clamp(frame, 0, frame_count - 1));
      }
    }
  }
  return {frames.begin(), frames.end()};
}

}  // namespace shotstream
