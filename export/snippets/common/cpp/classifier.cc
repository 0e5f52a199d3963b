// The classifier as a command:
//
//   classifier --self-test [BUNDLE]       proves that this machine computes what was exported
//   classifier PHOTO.ppm [BUNDLE]         prints the five most probable labels
//
// BUNDLE is the folder with bundle.json in it; without it, the current one. Exit status: 0 good, 1 failed, 2 bad usage.

#include "classifier.h"

#include <cstdio>
#include <exception>
#include <fstream>
#include <string>

namespace {

// A number of a PPM file's header, which may have comments.
int HeaderNumber(std::istream& file) {
  while ((file >> std::ws).peek() == '#') file.ignore(1 << 20, '\n');
  int number = 0;
  file >> number;
  return number;
}

// A binary PPM file of 8 bits: what `convert photo.jpg -auto-orient photo.ppm` writes.
classifier::Image ReadPpm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) classifier::Fail("There is no file ", path, ".");
  std::string magic(2, ' ');
  file.read(magic.data(), 2);
  classifier::Image image;
  image.channels = 3;
  image.width = HeaderNumber(file);
  image.height = HeaderNumber(file);
  const int largest = HeaderNumber(file);
  constexpr int kLongest = 16384;
  if (magic != "P6" || largest != 255 || std::min(image.width, image.height) < 1 ||
      std::max(image.width, image.height) > kLongest) {
    classifier::Fail(path, " is not a binary PPM file of 8 bits. Convert it: convert PHOTO -auto-orient PHOTO.ppm");
  }
  file.ignore(1);
  image.data.resize(static_cast<size_t>(image.width) * image.height * 3);
  if (!file.read(reinterpret_cast<char*>(image.data.data()), image.data.size())) {
    classifier::Fail(path, " ends too early. Expected: ", image.data.size(), " bytes of pixels.");
  }
  return image;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2 || count > 3) {
    std::fprintf(stderr, "usage: %s --self-test|PHOTO.ppm [BUNDLE]\n", arguments[0]);
    return 2;
  }
  try {
    const std::string what = arguments[1];
    classifier::Classifier classifier(count == 3 ? arguments[2] : ".");
    if (what == "--self-test") {
      const double difference = classifier.SelfTest();
      std::printf("self-test passed: %d images, largest difference %.2g of %.2g allowed\n", classifier::kGoldenCount,
                  difference, classifier::kTolerance);
      return 0;
    }
    for (const classifier::Answer& answer : classifier.Classify(ReadPpm(what))) {
      std::printf("%6.2f %%  %s\n", 100 * answer.probability, answer.label.c_str());
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
