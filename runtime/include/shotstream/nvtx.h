// Nsight ranges of the native core: one domain, fixed registered names, numbers as payload.
//
// The names equal those of python/shotstream_rt/nvtx.py and the metric stems of the benchmark.
// Without CUDA the whole header is a no-op.
#pragma once

#include <array>
#include <cstdint>

#ifdef SHOTSTREAM_WITH_CUDA
#include <nvtx3/nvToolsExt.h>
#endif

namespace shotstream {

inline constexpr const char* kNvtxDomain = "shotstream";

enum class NvtxName {
  kSessionOpen,
  kTextEncode,
  kContextEncode,
  kContextPass,
  kChunk,
  kStep,
  kRenoise,
  kCommit,
  kVaeDecode,
  kFramePack,
  kHostCopy,
  kQueuePut,
  kQueueWait,
  kCount,
};

inline constexpr std::array<const char*, static_cast<std::size_t>(NvtxName::kCount)> kNvtxNames = {
    "session.open", "text.encode", "context.encode", "context.pass", "chunk",
    "step",         "renoise",     "commit",         "vae.decode",   "frame.pack",
    "host.copy",    "queue.put",   "queue.wait",
};

#ifdef SHOTSTREAM_WITH_CUDA

namespace nvtx_detail {

inline nvtxDomainHandle_t domain() {
  static const nvtxDomainHandle_t handle = nvtxDomainCreateA(kNvtxDomain);
  return handle;
}

inline nvtxStringHandle_t registered(NvtxName name) {
  static const auto handles = [] {
    std::array<nvtxStringHandle_t, kNvtxNames.size()> made{};
    for (std::size_t i = 0; i < made.size(); ++i) {
      made[i] = nvtxDomainRegisterStringA(domain(), kNvtxNames[i]);
    }
    return made;
  }();
  return handles[static_cast<std::size_t>(name)];
}

}  // namespace nvtx_detail

// Range from construction to destruction on the calling thread.
class NvtxRange {
 public:
  explicit NvtxRange(NvtxName name, std::int64_t payload = 0) {
    nvtxEventAttributes_t attributes{};
    attributes.version = NVTX_VERSION;
    attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    attributes.messageType = NVTX_MESSAGE_TYPE_REGISTERED;
    attributes.message.registered = nvtx_detail::registered(name);
    attributes.payloadType = NVTX_PAYLOAD_TYPE_INT64;
    attributes.payload.llValue = payload;
    nvtxDomainRangePushEx(nvtx_detail::domain(), &attributes);
  }
  ~NvtxRange() { nvtxDomainRangePop(nvtx_detail::domain()); }
  NvtxRange(const NvtxRange&) = delete;
  NvtxRange& operator=(const NvtxRange&) = delete;
};

#else

class NvtxRange {
 public:
  explicit NvtxRange(NvtxName /*name*/, std::int64_t /*payload*/ = 0) {}
  ~NvtxRange() {}  // user-provided, so that an unused range is no unused variable
  NvtxRange(const NvtxRange&) = delete;
  NvtxRange& operator=(const NvtxRange&) = delete;
};

#endif

}  // namespace shotstream
