#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>

#include "bindings.h"
#include "shotstream/chunk_plan.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shotstream::bindings {
namespace {

std::string describe(const ContextPlan& plan) {
  return "ContextPlan(valid_frames=" + std::to_string(plan.valid_frames) + ")";
}

std::string describe(const ChunkPlan& plan) {
  return "ChunkPlan(shot=" + std::to_string(plan.shot) + ", chunk=" + std::to_string(plan.chunk) +
         ", flag=" + std::to_string(plan.flag) +
         ", valid_frames=" + std::to_string(plan.valid_frames) + ")";
}

}  // namespace

void bind_plans(nb::module_& module) {
  nb::class_<ContextPlan>(module, "ContextPlan")
      .def_ro("slots", &ContextPlan::slots)
      .def_ro("positions", &ContextPlan::positions)
      .def_ro("flags", &ContextPlan::flags)
      .def_ro("valid_frames", &ContextPlan::valid_frames)
      .def("__repr__", [](const ContextPlan& plan) { return describe(plan); });

  nb::class_<ChunkPlan>(module, "ChunkPlan")
      .def_ro("shot", &ChunkPlan::shot)
      .def_ro("chunk", &ChunkPlan::chunk)
      .def_ro("flag", &ChunkPlan::flag)
      .def_ro("first_frame", &ChunkPlan::first_frame)
      .def_ro("write_slots", &ChunkPlan::write_slots)
      .def_ro("valid_frames", &ChunkPlan::valid_frames)
      .def_ro("positions", &ChunkPlan::positions)
      .def_ro("key_positions", &ChunkPlan::key_positions)
      .def_ro("slot_frames", &ChunkPlan::slot_frames)
      .def("__repr__", [](const ChunkPlan& plan) { return describe(plan); });

  nb::class_<Planner>(module, "Planner")
      .def(
          "__init__",
          [](Planner* self, int context_frames, int chunk_frames, int shot_frames, int sink_frames,
             int window_frames, bool rotate_on_read, bool number_by_slot) {
            new (self) Planner({.context_frames = context_frames,
                                .chunk_frames = chunk_frames,
                                .shot_frames = shot_frames,
                                .sink_frames = sink_frames,
                                .window_frames = window_frames,
                                .rotate_on_read = rotate_on_read,
                                .number_by_slot = number_by_slot});
          },
          "context_frames"_a, "chunk_frames"_a, "shot_frames"_a, "sink_frames"_a = 0,
          "window_frames"_a = 0, "rotate_on_read"_a = false, "number_by_slot"_a = false)
      .def_prop_ro("context_frames", [](const Planner& p) { return p.config().context_frames; })
      .def_prop_ro("chunk_frames", [](const Planner& p) { return p.config().chunk_frames; })
      .def_prop_ro("shot_frames", [](const Planner& p) { return p.config().shot_frames; })
      .def_prop_ro("sink_frames", [](const Planner& p) { return p.config().sink_frames; })
      .def_prop_ro("rotate_on_read", [](const Planner& p) { return p.config().rotate_on_read; })
      .def_prop_ro("number_by_slot", [](const Planner& p) { return p.config().number_by_slot; })
      .def_prop_ro("local_frames", [](const Planner& p) { return p.cache().local_frames(); })
      .def_prop_ro("arena_frames", [](const Planner& p) { return p.cache().arena_frames(); })
      .def_prop_ro("chunks", &Planner::chunks)
      .def_prop_ro("longest_shot_chunks", &Planner::longest_shot_chunks)
      .def("context", &Planner::context, "flags"_a)
      .def("chunk", &Planner::chunk, "shot"_a, "chunk"_a, "flag"_a)
      .def(
          "frames",
          [](const Planner& p, int first, int count, int flag, int origin,
             std::optional<int> own_position) {
            return p.frames(
                {.first = first, .count = count, .origin = origin, .own_position = own_position},
                flag);
          },
          "first"_a, "count"_a, "flag"_a = 0, "origin"_a = 0, "own_position"_a = nb::none());
}

}  // namespace shotstream::bindings
