// What the C++ snippet uses of ONNX Runtime's C++ API, written by hand over its table of C functions, whose order never
// changes: the Python package brings the library without headers. Nothing is released; the process is short.
// Where ONNX Runtime's own headers are (Debian's libonnxruntime-dev, or ORT_INCLUDE), the tests compile against those.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

struct OrtApiBase {
  const void* const* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};
extern "C" const OrtApiBase* OrtGetApiBase();

enum OrtLoggingLevel { ORT_LOGGING_LEVEL_WARNING = 2 };
enum OrtAllocatorType { OrtArenaAllocator = 1 };
enum OrtMemType { OrtMemTypeDefault = 0 };

namespace Ort {

namespace internal {

enum Function : size_t {
  kGetErrorMessage = 2,
  kCreateEnv = 3,
  kCreateSessionFromArray = 8,
  kRun = 9,
  kCreateSessionOptions = 10,
  kCreateTensor = 49,
  kGetTensorData = 51,
  kGetElementCount = 64,
  kGetTypeAndShape = 65,
  kCreateCpuMemoryInfo = 69,
  kAddSessionConfigEntry = 130,
};

constexpr uint32_t kVersion = 17;
constexpr int kFloat = 1;

template <typename... Arguments>
void Call(Function function, Arguments... arguments) {
  static const void* const* table = OrtGetApiBase()->GetApi(kVersion);
  auto* call = reinterpret_cast<void* (*)(Arguments...)>(const_cast<void*>(table[function]));
  if (void* status = call(arguments...)) {
    auto* message = reinterpret_cast<const char* (*)(void*)>(const_cast<void*>(table[kGetErrorMessage]));
    throw std::runtime_error(message(status));
  }
}

}  // namespace internal

struct Env {
  void* handle = nullptr;
  Env(OrtLoggingLevel level, const char* name) { internal::Call(internal::kCreateEnv, level, name, &handle); }
};

struct SessionOptions {
  void* handle = nullptr;
  SessionOptions() { internal::Call(internal::kCreateSessionOptions, &handle); }
  SessionOptions& AddConfigEntry(const char* key, const char* value) {
    internal::Call(internal::kAddSessionConfigEntry, handle, key, value);
    return *this;
  }
};

struct RunOptions {};

struct MemoryInfo {
  void* handle = nullptr;
  static MemoryInfo CreateCpu(OrtAllocatorType allocator, OrtMemType type) {
    MemoryInfo made;
    internal::Call(internal::kCreateCpuMemoryInfo, allocator, type, &made.handle);
    return made;
  }
};

struct TensorTypeAndShapeInfo {
  void* handle = nullptr;
  size_t GetElementCount() const {
    size_t count = 0;
    internal::Call(internal::kGetElementCount, handle, &count);
    return count;
  }
};

struct Value {
  void* handle = nullptr;

  template <typename T>
  static Value CreateTensor(const MemoryInfo& info, T* data, size_t count, const int64_t* shape, size_t rank) {
    Value made;
    void* memory = data;
    internal::Call(internal::kCreateTensor, info.handle, memory, count * sizeof(T), shape, rank, internal::kFloat,
                   &made.handle);
    return made;
  }

  template <typename T>
  const T* GetTensorData() const {
    void* data = nullptr;
    internal::Call(internal::kGetTensorData, handle, &data);
    return static_cast<const T*>(data);
  }

  TensorTypeAndShapeInfo GetTensorTypeAndShapeInfo() const {
    TensorTypeAndShapeInfo info;
    internal::Call(internal::kGetTypeAndShape, handle, &info.handle);
    return info;
  }
};

struct Session {
  void* handle = nullptr;

  Session(const Env& environment, const void* data, size_t size, const SessionOptions& options) {
    internal::Call(internal::kCreateSessionFromArray, environment.handle, data, size, options.handle, &handle);
  }

  std::vector<Value> Run(const RunOptions&, const char* const* inputs, const Value* values, size_t count,
                         const char* const* outputs, size_t outputs_count) {
    std::vector<Value> found(outputs_count);
    void* options = nullptr;
    internal::Call(internal::kRun, handle, options, inputs, reinterpret_cast<void* const*>(values), count, outputs,
                   outputs_count, reinterpret_cast<void**>(found.data()));
    return found;
  }
};

}  // namespace Ort
