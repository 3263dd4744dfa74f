// Status codes and the one exception type of the native core.
//
// Every code maps one to one onto a class of python/shotstream_rt/errors.py (see bind_errors.cpp).
#pragma once

#include <stdexcept>
#include <string>

namespace shotstream {

enum class Status {
  kConfig,
  kWeights,
  kManifest,
  kBackendUnavailable,
  kSessionClosed,
  kFrameTimeout,
  kOutput,
  kDevice,
};

// Name of the Python class that a code becomes, for example "ConfigError".
const char* error_class_name(Status status) noexcept;

// Carries a code and a message that says what happened, what was got, what was wanted, what to do.
class Error : public std::runtime_error {
 public:
  Error(Status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  [[nodiscard]] Status status() const noexcept { return status_; }

 private:
  Status status_;
};

// Throws Error(kConfig, "name: got <got>, wanted <wanted>") unless `ok`.
void require(bool ok, const char* name, long long got, const std::string& wanted);

}  // namespace shotstream
