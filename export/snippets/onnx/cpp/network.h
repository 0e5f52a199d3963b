// The network alone, in ONNX Runtime's C++ API: pixels in, probabilities out.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace classifier {

namespace internal {

constexpr char kInput[] = "@@INPUT_NAME@@";
constexpr char kOutput[] = "@@OUTPUT_NAME@@";
constexpr int kHeight = @@HEIGHT@@, kWidth = @@WIDTH@@, kChannels = @@CHANNELS@@;
constexpr bool kChannelsFirst = @@CHANNELS_FIRST@@;  // the order of the input's sides

}  // namespace internal

class Network {
 public:
  explicit Network(const std::vector<uint8_t>& file)
      : environment_(ORT_LOGGING_LEVEL_WARNING, "classifier"),
        session_(environment_, file.data(), file.size(), Options()) {}

  // Probabilities of the pixels, height * width * channels of them, channels last.
  std::vector<float> Run(const std::vector<uint8_t>& pixels) {
    using namespace internal;
    std::vector<float> numbers(pixels.begin(), pixels.end());
    std::array<int64_t, 4> shape = {1, kHeight, kWidth, kChannels};
    if (kChannelsFirst) {
      constexpr int kArea = kHeight * kWidth;
      for (int c = 0, k = 0; c < kChannels; c++) {
        for (int at = 0; at < kArea; at++) numbers[k++] = pixels[at * kChannels + c];
      }
      shape = {1, kChannels, kHeight, kWidth};
    }
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto input = Ort::Value::CreateTensor<float>(memory, numbers.data(), numbers.size(), shape.data(), 4);
    const char *input_name = kInput, *output_name = kOutput;
    const auto outputs = session_.Run(Ort::RunOptions(), &input_name, &input, 1, &output_name, 1);
    const float* first = outputs[0].GetTensorData<float>();
    return {first, first + outputs[0].GetTensorTypeAndShapeInfo().GetElementCount()};
  }

 private:
  static Ort::SessionOptions Options() {
    Ort::SessionOptions options;
    std::ifstream file("/proc/cpuinfo");
    const std::string cpu((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (cpu.find("vnni") == std::string::npos) {
      // Without VNNI, x86-64 processors would add up int8 networks in 16 bits, which overflow.
      options.AddConfigEntry("session.x64quantprecision", "1");
    }
    return options;
  }

  Ort::Env environment_;
  Ort::Session session_;
};

}  // namespace classifier
