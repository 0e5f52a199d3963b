// The network alone, in LiteRT's C API of version 2.3: pixels in, probabilities out.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "litert/c/litert_common.h"
#include "litert/c/litert_compiled_model.h"
#include "litert/c/litert_environment.h"
#include "litert/c/litert_model.h"
#include "litert/c/litert_options.h"
#include "litert/c/litert_tensor_buffer.h"

namespace classifier {

namespace internal {

using float32 = float;
using uint8 = uint8_t;
using int8 = int8_t;
using int16 = int16_t;

// The two edges of the file: number = value / scale + zero point.
using Input = @@INPUT_TYPE@@;
constexpr char kInput[] = "@@INPUT_NAME@@";
constexpr double kInputScale = @@INPUT_SCALE@@;
constexpr int kInputZeroPoint = @@INPUT_ZERO_POINT@@;
using Output = @@OUTPUT_TYPE@@;
constexpr char kOutput[] = "@@OUTPUT_NAME@@";
constexpr double kOutputScale = @@OUTPUT_SCALE@@;
constexpr int kOutputZeroPoint = @@OUTPUT_ZERO_POINT@@;

inline Input Stored(uint8_t pixel) {
  if constexpr (std::is_floating_point_v<Input>) return pixel;
  using Limits = std::numeric_limits<Input>;
  const double number = std::nearbyint(pixel / kInputScale + kInputZeroPoint);
  return static_cast<Input>(std::clamp<double>(number, Limits::lowest(), Limits::max()));
}

inline float Meant(Output number) {
  return (static_cast<float>(number) - kOutputZeroPoint) * static_cast<float>(kOutputScale);
}

inline void Check(LiteRtStatus status, const char* what) {
  if (status == kLiteRtStatusOk) return;
  throw std::runtime_error(std::string("LiteRT could not ") + what + " (status " + std::to_string(status) +
                           "). Expected: version @@RUNTIME_VERSION@@, headers and library of one release.");
}

struct Destroy {
  void operator()(LiteRtEnvironment it) const { LiteRtDestroyEnvironment(it); }
  void operator()(LiteRtModel it) const { LiteRtDestroyModel(it); }
  void operator()(LiteRtOptions it) const { LiteRtDestroyOptions(it); }
  void operator()(LiteRtCompiledModel it) const { LiteRtDestroyCompiledModel(it); }
  void operator()(LiteRtTensorBuffer it) const { LiteRtDestroyTensorBuffer(it); }
};

// A handle of LiteRT, destroyed with its owner.
template <typename Handle>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy>;

// What `create` makes, a call that takes the handle's place as its argument.
template <typename Handle, typename Create>
Owned<Handle> Made(const char* what, Create create) {
  Handle handle = nullptr;
  Check(create(&handle), what);
  return Owned<Handle>(handle);
}

}  // namespace internal

// For one thread at a time.
class Network {
 public:
  explicit Network(std::vector<uint8_t> file) : file_(std::move(file)) {
    using internal::Check, internal::Made;
    environment_ = Made<LiteRtEnvironment>("start", [](auto it) { return LiteRtCreateEnvironment(0, nullptr, it); });
    model_ = Made<LiteRtModel>("read the model file", [&](auto it) {
      return LiteRtCreateModelFromBuffer(environment_.get(), file_.data(), file_.size(), it);
    });
    const auto options = Made<LiteRtOptions>("make options", LiteRtCreateOptions);
    Check(LiteRtSetOptionsHardwareAccelerators(options.get(), kLiteRtHwAcceleratorCpu), "choose the processor");
    compiled_ = Made<LiteRtCompiledModel>("compile the model", [&](auto it) {
      return LiteRtCreateCompiledModel(environment_.get(), model_.get(), options.get(), it);
    });
    LiteRtSignature signature = nullptr;
    Check(LiteRtGetModelSignature(model_.get(), 0, &signature), "find the model's signature");
    LiteRtTensor tensor = nullptr;
    LiteRtTensorBufferRequirements requirements = nullptr;
    Check(LiteRtGetSignatureInputTensor(signature, internal::kInput, &tensor), "find the input");
    Check(LiteRtGetCompiledModelInputBufferRequirements(compiled_.get(), 0, 0, &requirements), "size the input");
    input_ = Buffer(tensor, requirements);
    Check(LiteRtGetSignatureOutputTensor(signature, internal::kOutput, &tensor), "find the output");
    Check(LiteRtGetCompiledModelOutputBufferRequirements(compiled_.get(), 0, 0, &requirements), "size the output");
    output_ = Buffer(tensor, requirements);
  }

  // Probabilities of the pixels, height * width * channels of them, channels last.
  std::vector<float> Run(const std::vector<uint8_t>& pixels) {
    std::vector<internal::Input> numbers(pixels.size());
    std::transform(pixels.begin(), pixels.end(), numbers.begin(), internal::Stored);
    Locked(input_, kLiteRtTensorBufferLockModeWrite, [&](void* memory, size_t size) {
      if (size != numbers.size() * sizeof(numbers[0])) throw std::invalid_argument("These are not the model's pixels.");
      std::memcpy(memory, numbers.data(), size);
    });
    LiteRtTensorBuffer input = input_.get(), output = output_.get();
    internal::Check(LiteRtRunCompiledModel(compiled_.get(), 0, 1, &input, 1, &output), "run the model");
    std::vector<float> probabilities;
    Locked(output_, kLiteRtTensorBufferLockModeRead, [&](const void* memory, size_t size) {
      const auto* first = static_cast<const internal::Output*>(memory);
      probabilities.resize(size / sizeof(*first));
      std::transform(first, first + probabilities.size(), probabilities.begin(), internal::Meant);
    });
    return probabilities;
  }

 private:
  std::vector<uint8_t> file_;  // the model reads from it as long as it lives
  internal::Owned<LiteRtEnvironment> environment_;
  internal::Owned<LiteRtModel> model_;
  internal::Owned<LiteRtCompiledModel> compiled_;
  internal::Owned<LiteRtTensorBuffer> input_, output_;

  internal::Owned<LiteRtTensorBuffer> Buffer(LiteRtTensor tensor, LiteRtTensorBufferRequirements requirements) {
    LiteRtRankedTensorType type;
    internal::Check(LiteRtGetRankedTensorType(tensor, &type), "read a tensor's type");
    return internal::Made<LiteRtTensorBuffer>("make a buffer", [&](auto it) {
      return LiteRtCreateManagedTensorBufferFromRequirements(environment_.get(), &type, requirements, it);
    });
  }

  // Gives `use` the memory of a buffer and its size in bytes.
  template <typename Use>
  static void Locked(const internal::Owned<LiteRtTensorBuffer>& buffer, LiteRtTensorBufferLockMode mode, Use use) {
    size_t size = 0;
    void* memory = nullptr;
    internal::Check(LiteRtGetTensorBufferPackedSize(buffer.get(), &size), "size a buffer");
    internal::Check(LiteRtLockTensorBuffer(buffer.get(), &memory, mode), "open a buffer");
    use(memory, size);
    internal::Check(LiteRtUnlockTensorBuffer(buffer.get()), "close a buffer");
  }
};

}  // namespace classifier
