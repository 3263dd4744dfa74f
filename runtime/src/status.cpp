#include "shotstream/status.h"

namespace shotstream {

const char* error_class_name(Status status) noexcept {
  switch (status) {
    case Status::kConfig:
      return "ConfigError";
    case Status::kWeights:
      return "WeightsError";
    case Status::kManifest:
      return "ManifestError";
    case Status::kBackendUnavailable:
      return "BackendUnavailableError";
    case Status::kSessionClosed:
      return "SessionClosedError";
    case Status::kFrameTimeout:
      return "FrameTimeoutError";
    case Status::kOutput:
      return "OutputError";
    case Status::kDevice:
      return "DeviceError";
  }
  return "ShotStreamError";
}

void require(bool ok, const char* name, long long got, const std::string& wanted) {
  if (!ok) {
    throw Error(Status::kConfig,
                std::string(name) + ": got " + std::to_string(got) + ", wanted " + wanted);
  }
}

}  // namespace shotstream
