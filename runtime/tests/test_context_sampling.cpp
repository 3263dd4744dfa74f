#include <algorithm>

#include "check.h"
#include "shotstream/context_sampling.h"
#include "shotstream/status.h"

using shotstream::context_candidates;
using shotstream::ContextPick;
using shotstream::sample_context;
using Ints = std::vector<int>;
using Picks = std::vector<ContextPick>;

namespace {

void follows_the_published_table() {
  CHECK(sample_context({}, 6).empty());
  CHECK(sample_context({81}, 6) == (Picks{{0, 0}, {0, 16}, {0, 32}, {0, 48}, {0, 64}, {0, 80}}));
  CHECK(sample_context({81, 81}, 6) == (Picks{{0, 0}, {0, 40}, {0, 80}, {1, 0}, {1, 40}, {1, 80}}));
  CHECK(sample_context({81, 81, 81, 81}, 6) ==
        (Picks{{0, 0}, {1, 0}, {2, 0}, {2, 80}, {3, 0}, {3, 80}}));
  const Ints nine(9, 81);
  CHECK(sample_context(nine, 6) == (Picks{{3, 0}, {4, 0}, {5, 0}, {6, 0}, {7, 0}, {8, 0}}));
}

void rounds_ties_by_the_films_frame_number() {
  // Four frames, three picks: the middle is film frame 1.5 -> 2, or 5.5 -> 6, or 6.5 -> 6.
  CHECK(sample_context({4}, 3) == (Picks{{0, 0}, {0, 2}, {0, 3}}));
  const Picks even = sample_context({4, 4}, 6);
  CHECK(even[4].frame_in_shot == 2);
  const Picks odd = sample_context({5, 4}, 6);
  CHECK(odd[4].frame_in_shot == 1);
  CHECK(context_candidates(4, 3) == (Ints{0, 1, 2, 3}));
}

void repeats_frames_of_a_short_shot() {
  CHECK(sample_context({1}, 3) == (Picks{{0, 0}, {0, 0}, {0, 0}}));
}

void keeps_going_however_long_the_film() {
  Ints counts(20000, 81);  // 28 hours
  const Picks picks = sample_context(counts, 6);
  CHECK(picks.size() == 6 && picks.front().shot == 19994 && picks.back().frame_in_shot == 0);
}

void candidates_cover_every_pick() {
  CHECK(context_candidates(81, 6) == (Ints{0, 16, 32, 40, 48, 64, 80}));
  for (int budget = 1; budget <= 9; ++budget) {
    for (int frames = 1; frames <= 40; ++frames) {
      const Ints candidates = context_candidates(frames, budget);
      for (int shots = 1; shots <= budget; ++shots) {
        for (int before = 1; before <= 2; ++before) {
          Ints counts(static_cast<std::size_t>(shots), frames);
          if (shots > 1) counts.front() = before;  // moves where the others start
          for (const ContextPick& pick : sample_context(counts, budget)) {
            CHECK((pick.shot == 0 && shots > 1) ||
                  std::binary_search(candidates.begin(), candidates.end(), pick.frame_in_shot));
          }
        }
      }
    }
  }
}

void rejects_nonsense() {
  CHECK_THROWS(sample_context({81}, 0), Status::kConfig);
  CHECK_THROWS(sample_context({0}, 6), Status::kConfig);
  CHECK_THROWS(context_candidates(-3, 6), Status::kConfig);
  CHECK_THROWS(context_candidates(3, 1000), Status::kConfig);
}

}  // namespace

int main() {
  follows_the_published_table();
  rounds_ties_by_the_films_frame_number();
  repeats_frames_of_a_short_shot();
  keeps_going_however_long_the_film();
  candidates_cover_every_pick();
  rejects_nonsense();
  return 0;
}
