// A CUDA driver that runs nothing and remembers what it was asked: two launchers that ask the same
// of it pass the same parameters to a kernel. Handles are the addresses of static variables.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { kSuccess = 0, kNotFound = 500, kMaxParameters = 64, kMapWords = 16 };

static int handle;
static int parameter_count, parameter_sizes[kMaxParameters];
static unsigned char parameters[8192];
static int parameter_bytes;
static unsigned launch_shape[8];
static int shared_limit;
static void* current_context;

void stub_expect(int count, const int* sizes) {
  parameter_count = count;
  memcpy(parameter_sizes, sizes, count * sizeof(int));
  parameter_bytes = 0;
}

int stub_seen(unsigned char* out, unsigned* shape, int* limit) {
  memcpy(out, parameters, parameter_bytes);
  memcpy(shape, launch_shape, sizeof launch_shape);
  *limit = shared_limit;
  return parameter_bytes;
}

static int remember(const unsigned shape[8], void** given) {
  memcpy(launch_shape, shape, sizeof launch_shape);
  parameter_bytes = 0;
  for (int i = 0; i < parameter_count; ++i) {
    memcpy(parameters + parameter_bytes, given[i], parameter_sizes[i]);
    parameter_bytes += parameter_sizes[i];
  }
  return kSuccess;
}

int cuInit(unsigned flags) { return kSuccess; }

int cuDriverGetVersion(int* version) {
  *version = 13000;
  return kSuccess;
}

int cuGetErrorName(int code, const char** text) {
  *text = "CUDA_ERROR_OF_THE_STUB";
  return kSuccess;
}

int cuGetErrorString(int code, const char** text) {
  *text = "the stub says no";
  return kSuccess;
}

int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return kSuccess;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = 232448;
  return kSuccess;
}

int cuCtxGetCurrent(void** context) {
  *context = current_context;
  return kSuccess;
}

int cuCtxSetCurrent(void* context) {
  current_context = context;
  return kSuccess;
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = &handle;
  return kSuccess;
}

int cuCtxSetLimit(int limit, size_t value) { return kSuccess; }

int cuCtxGetLimit(size_t* value, int limit) {
  *value = 0;
  return kSuccess;
}

int cuModuleLoadData(void** module, const void* image) {
  *module = &handle;
  // Nothing is loaded outside of a context, and what is no ELF file is refused.
  if (!current_context) return 201;
  return memcmp(image, "\177ELF", 4) == 0 ? kSuccess : 200;
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = &handle;
  shared_limit = 0;
  return kSuccess;
}

int cuFuncGetAttribute(int* value, int attribute, void* function) {
  // CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK is 0; all others count as none.
  *value = attribute == 0 ? 1024 : 0;
  return kSuccess;
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES is 8.
  if (attribute == 8) shared_limit = value;
  return kSuccess;
}

int cuFuncSetCacheConfig(void* function, int config) { return kSuccess; }

int cuPointerGetAttribute(void* value, int attribute, uint64_t pointer) {
  memcpy(value, &pointer, sizeof pointer);
  return kSuccess;
}

// A map that tells all it was made of.
int cuTensorMapEncodeTiled(uint64_t* map, int type, unsigned rank, void* address,
                           const uint64_t* sizes, const uint64_t* strides, const unsigned* box,
                           const unsigned* steps, int interleave, int swizzle, int promotion,
                           int fill) {
  memset(map, 0, kMapWords * sizeof *map);
  map[0] = (uint64_t)type << 32 | rank;
  map[1] = (uint64_t)(uintptr_t)address;
  map[2] = (uint64_t)interleave << 48 | (uint64_t)swizzle << 32 | (uint64_t)promotion << 16 | fill;
  for (unsigned i = 0; i < rank && i < 3; ++i) {
    map[3 + i] = sizes[i];
    map[6 + i] = i + 1 < rank ? strides[i] : 0;
    map[9 + i] = (uint64_t)box[i] << 32 | steps[i];
  }
  return kSuccess;
}

int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads_x,
                   unsigned threads_y, unsigned threads_z, unsigned shared, void* stream,
                   void** given, void** extra) {
  const unsigned shape[8] = {x, y, z, threads_x, threads_y, threads_z, shared, 0};
  return remember(shape, given);
}

typedef struct {
  int id, padding;
  unsigned value[16];
} LaunchAttribute;

typedef struct {
  unsigned x, y, z, threads_x, threads_y, threads_z, shared;
  void* stream;
  LaunchAttribute* attributes;
  unsigned attribute_count;
} LaunchConfig;

// Every attribute as id * 16 + first value, added up: CLUSTER_DIMENSION is 4, its scheduling 5,
// PROGRAMMATIC_STREAM_SERIALIZATION 6, COOPERATIVE 2.

int cuLaunchKernelEx(const LaunchConfig* c, void* function, void** given, void** extra) {
  unsigned sum = 0;
  for (unsigned i = 0; i < c->attribute_count; ++i) {
    sum += c->attributes[i].id * 16 + c->attributes[i].value[0];
  }
  const unsigned shape[8] = {c->x,         c->y,         c->z,      c->threads_x,
                             c->threads_y, c->threads_z, c->shared, sum};
  return remember(shape, given);
}

int cuGetProcAddress_v2(const char* name, void** function, int version, uint64_t flags,
                        int* status) {
  void* self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  *function = self ? dlsym(self, name) : 0;
  if (status) *status = *function ? 0 : 1;
  return *function ? kSuccess : kNotFound;
}
