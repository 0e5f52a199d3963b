// @@NAME@@: from a picture to labels with probabilities.
//
// The constants describe this very file, as it was measured when it was exported: export again rather than edit them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "network.h"
#include "pixels.h"
#include "sha256.h"

namespace classifier {

// Paths are those in the bundle.
constexpr char kModel[] = "@@FILE@@";
constexpr char kModelSha256[] = "@@SHA256@@";
constexpr char kLabels[] = "@@LABELS@@";
constexpr int kClasses = @@CLASSES@@;
constexpr Rule kRule = {@@HEIGHT@@, @@WIDTH@@, @@CHANNELS@@,
                        @@RESIZED_HEIGHT@@, @@RESIZED_WIDTH@@, Interpolation::@@INTERPOLATION@@};
constexpr int kPixels = kRule.height * kRule.width * kRule.channels;

// What the self-test compares with.
constexpr char kPhoto[] = "@@PHOTO@@";
constexpr int kPhotoHeight = @@PHOTO_HEIGHT@@;
constexpr int kPhotoWidth = @@PHOTO_WIDTH@@;
constexpr char kPhotoPixels[] = "@@PHOTO_PIXELS@@";
constexpr int kPhotoTolerance = @@PHOTO_TOLERANCE@@;  // of 255
constexpr char kGoldenImages[] = "@@GOLDEN_IMAGES@@";
constexpr int kGoldenCount = @@GOLDEN_COUNT@@;
constexpr char kExpected[] = "@@EXPECTED@@";
constexpr double kTolerance = @@TOLERANCE@@;  // of a probability, on a processor

struct Answer {
  std::string label;
  int index;
  float probability;
};

template <typename... Parts>
[[noreturn]] void Fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// For one thread at a time. What fails throws a std::runtime_error that says what to do.
class Classifier {
 public:
  // Reads the bundle in `folder`. A model file that is not the proven one is refused before the runtime sees it: what
  // is damaged can crash the runtime.
  explicit Classifier(std::string folder) : folder_(std::move(folder)), network_(Model()), labels_(Labels()) {}

  // The most probable labels of an upright RGB image of any size, best first.
  std::vector<Answer> Classify(const Image& rgb, int count = 5) {
    const std::vector<float> probabilities = Probabilities(Pixels(rgb));
    std::vector<int> order(kClasses);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return probabilities[a] > probabilities[b]; });
    order.resize(std::min(count, kClasses));
    std::vector<Answer> answers;
    for (int k : order) answers.push_back({labels_[k], k, probabilities[k]});
    return answers;
  }

  // What the model takes: height * width * channels bytes.
  std::vector<uint8_t> Pixels(const Image& rgb) const { return Preprocess(rgb, kRule).data; }

  // One for each class.
  std::vector<float> Probabilities(const std::vector<uint8_t>& pixels) { return network_.Run(pixels); }

  // Proves that this machine computes what was exported: the preprocessing of a photo, then the probabilities of the
  // golden images. (The constructor has proven the model file.) Returns the largest difference of a probability.
  double SelfTest() {
    TestPreprocessing();
    const std::vector<uint8_t> images = Read(kGoldenImages, kGoldenCount * kPixels);
    const std::vector<uint8_t> bytes = Read(kExpected, kGoldenCount * kClasses * sizeof(float));
    double largest = 0;
    for (int k = 0; k < kGoldenCount; k++) {
      const auto pixels = images.begin() + k * kPixels;
      std::vector<float> expected(kClasses);
      std::memcpy(expected.data(), &bytes[k * kClasses * sizeof(float)], kClasses * sizeof(float));  // little-endian
      largest = std::max(largest, TestProbabilities(k, Probabilities({pixels, pixels + kPixels}), expected));
    }
    return largest;
  }

 private:
  std::string folder_;
  Network network_;
  std::vector<std::string> labels_;

  void TestPreprocessing() const {
    const Image photo{kPhotoHeight, kPhotoWidth, 3, Read(kPhoto, kPhotoHeight * kPhotoWidth * 3)};
    const std::vector<uint8_t> pixels = Pixels(photo), expected = Read(kPhotoPixels, kPixels);
    int largest = 0;
    for (int k = 0; k < kPixels; k++) largest = std::max(largest, std::abs(pixels[k] - expected[k]));
    if (largest > kPhotoTolerance) {
      Fail("Self-test of the preprocessing failed: the pixels of ", kPhoto, " differ by up to ", largest,
           " levels. Expected: ", kPhotoTolerance, " at most. Take pixels.h as it is in the bundle.");
    }
  }

  double TestProbabilities(int image, const std::vector<float>& probabilities, const std::vector<float>& expected) {
    double largest = 0;
    bool within = true;
    for (int k = 0; k < kClasses; k++) {
      const double difference = std::fabs(probabilities[k] - expected[k]);
      within = within && difference <= kTolerance;  // false for what is not a number
      largest = std::max(largest, difference);
    }
    const auto answer = std::max_element(probabilities.begin(), probabilities.end()) - probabilities.begin();
    const auto right = std::max_element(expected.begin(), expected.end()) - expected.begin();
    if (answer != right || !within) {
      Fail("Self-test of the probabilities failed at golden image ", image, ": '", labels_[answer],
           "', differing by up to ", largest, ". Expected: '", labels_[right], "', differing by ", kTolerance,
           " at most. The runtime computes something else here: @@RUNTIME_VERSION@@ on a processor was proven.");
    }
    return largest;
  }

  std::vector<uint8_t> Model() const {
    std::vector<uint8_t> model = Read(kModel);
    const std::string hash = Sha256(model);
    if (hash != kModelSha256) {
      Fail("Self-test of the model file failed: ", kModel, " has SHA-256 ", hash, ". Expected: ", kModelSha256,
           ". It is damaged or another model: copy the whole bundle again.");
    }
    return model;
  }

  std::vector<std::string> Labels() const {
    const std::vector<uint8_t> bytes = Read(kLabels);
    std::istringstream text(std::string(bytes.begin(), bytes.end()));
    std::vector<std::string> labels;
    for (std::string line; std::getline(text, line);) labels.push_back(line);
    if (labels.size() != kClasses) {
      Fail(kLabels, " has ", labels.size(), " lines. Expected: ", kClasses, ". Copy the whole bundle again.");
    }
    return labels;
  }

  std::vector<uint8_t> Read(const std::string& name, int size = 0) const {
    const std::string path = folder_ + "/" + name;
    std::ifstream file(path, std::ios::binary);
    if (!file) Fail("There is no file ", path, ". Name the folder of the bundle, in which bundle.json lies.");
    std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (size > 0 && static_cast<int>(bytes.size()) != size) {
      Fail(path, " has ", bytes.size(), " bytes. Expected: ", size, ". Copy the whole bundle again.");
    }
    return bytes;
  }
};

}  // namespace classifier
