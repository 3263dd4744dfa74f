#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "bindings.h"
#include "shotstream/frame_queue.h"
#include "shotstream/status.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shotstream::bindings {
namespace {

using Clock = std::chrono::steady_clock;

// A wait is cut into slices so that Ctrl-C reaches a waiting main thread.
constexpr std::chrono::milliseconds kSignalSlice{50};
constexpr double kForever_s = 1e9;

// The queue of Python objects, and the exception that ended it, if one did.
class ObjectQueue {
 public:
  ObjectQueue(int capacity, const std::string& policy)
      : queue_(capacity, parse_queue_policy(policy)) {}

  bool put(const nb::object& object, std::optional<double> timeout_s) {
    FrameQueue::Item item(nb::object(object).release().ptr(), [](void* owned) {
      const nb::gil_scoped_acquire locked;
      Py_DECREF(static_cast<PyObject*>(owned));
    });
    const QueueResult result =
        wait(timeout_s, [&](FrameQueue::Timeout slice) { return queue_.put(item, slice); });
    if (result == QueueResult::kClosed) {
      throw Error(Status::kSessionClosed,
                  "put: the frame queue is closed and takes no more frames");
    }
    return result == QueueResult::kDone;
  }

  nb::object get(std::optional<double> timeout_s) {
    FrameQueue::Item item;
    const QueueResult result =
        wait(timeout_s, [&](FrameQueue::Timeout slice) { return queue_.get(item, slice); });
    if (result == QueueResult::kTimeout) {
      throw Error(Status::kFrameTimeout, "get: no frame within " + std::to_string(*timeout_s) +
                                             " s; wait longer or check that a shot is queued");
    }
    if (result == QueueResult::kClosed) {
      if (failure_.is_valid()) raise_failure();
      throw Error(Status::kSessionClosed, "get: the frame queue is closed and empty");
    }
    return nb::borrow(static_cast<PyObject*>(item.get()));
  }

  void fail(const nb::object& exception) {
    if (!PyExceptionInstance_Check(exception.ptr())) {
      throw Error(Status::kConfig, "fail: got " + nb::cast<std::string>(nb::repr(exception)) +
                                       ", wanted an exception instance");
    }
    if (!failure_.is_valid()) failure_ = exception;
    close();
  }

  void close() {
    const nb::gil_scoped_release unlocked;
    queue_.close();
  }

  std::size_t clear() {
    const nb::gil_scoped_release unlocked;
    return queue_.clear();
  }

  const FrameQueue& queue() const { return queue_; }
  nb::object& failure() { return failure_; }

 private:
  [[noreturn]] void raise_failure() const {
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(failure_.ptr())), failure_.ptr());
    throw nb::python_error();
  }

  // Repeats `attempt(slice)` without the GIL until it is done, closed or out of time.
  template <class Attempt>
  QueueResult wait(std::optional<double> timeout_s, Attempt attempt) {
    const double seconds = timeout_s.value_or(kForever_s);
    if (!(seconds >= 0.0 && seconds <= kForever_s)) {
      throw Error(Status::kConfig, "timeout_s: got " + std::to_string(seconds) +
                                       ", wanted None or seconds from 0 to 1e9");
    }
    const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                             std::chrono::duration<double>(seconds));
    while (true) {
      const auto left = std::max<Clock::duration>(deadline - Clock::now(), Clock::duration::zero());
      const auto slice = std::min<Clock::duration>(left, kSignalSlice);
      QueueResult result;
      {
        const nb::gil_scoped_release unlocked;
        result = attempt(std::chrono::duration_cast<FrameQueue::Timeout>(slice));
      }
      if (result != QueueResult::kTimeout) return result;
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
      if (timeout_s && Clock::now() >= deadline) return result;
    }
  }

  FrameQueue queue_;
  nb::object failure_;
};

// The stored exception's traceback can lead back to the queue: let the collector see it.
int traverse(PyObject* self, visitproc visit, void* arg) {
  // Py_VISIT expands to uses of `visit` and `arg`.
  Py_VISIT(Py_TYPE(self));
  if (!nb::inst_ready(self)) return 0;
  Py_VISIT(nb::inst_ptr<ObjectQueue>(self)->failure().ptr());
  return 0;
}

int clear(PyObject* self) {
  if (nb::inst_ready(self)) nb::inst_ptr<ObjectQueue>(self)->failure().reset();
  return 0;
}

PyType_Slot kCollectorSlots[] = {{Py_tp_traverse, reinterpret_cast<void*>(traverse)},
                                 {Py_tp_clear, reinterpret_cast<void*>(clear)},
                                 {0, nullptr}};

}  // namespace

void bind_frame_queue(nb::module_& module) {
  nb::class_<ObjectQueue>(module, "FrameQueue", nb::type_slots(kCollectorSlots))
      .def(nb::init<int, const std::string&>(), "capacity"_a, "policy"_a = "block")
      .def("put", &ObjectQueue::put, "item"_a.none(), "timeout_s"_a = nb::none())
      .def("get", &ObjectQueue::get, "timeout_s"_a = nb::none())
      .def("fail", &ObjectQueue::fail, "exception"_a)
      .def("close", &ObjectQueue::close)
      .def("clear", &ObjectQueue::clear)
      .def("__len__", [](const ObjectQueue& self) { return self.queue().size(); })
      .def_prop_ro("capacity", [](const ObjectQueue& self) { return self.queue().capacity(); })
      .def_prop_ro("policy",
                   [](const ObjectQueue& self) {
                     return std::string(queue_policy_name(self.queue().policy()));
                   })
      .def_prop_ro("dropped", [](const ObjectQueue& self) { return self.queue().dropped(); })
      .def_prop_ro("closed", [](const ObjectQueue& self) { return self.queue().closed(); });
}

}  // namespace shotstream::bindings
