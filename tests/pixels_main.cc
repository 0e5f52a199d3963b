// Reads cases from stdin, eight int32 and the bytes of an RGB image each, and writes what the model would get.
// With an argument: prints the SHA-256 of 0 to 199 bytes.

#include <cstdio>

#include "pixels.h"
#include "sha256.h"

int main(int count, char**) {
  if (count > 1) {
    for (std::vector<uint8_t> text; text.size() < 200; text.push_back(static_cast<uint8_t>(text.size()))) {
      std::puts(classifier::Sha256(text).c_str());
    }
    return 0;
  }
  for (int32_t n[8]; std::fread(n, 4, 8, stdin) == 8;) {
    classifier::Image image{n[0], n[1], 3, std::vector<uint8_t>(n[0] * n[1] * 3)};
    if (std::fread(image.data.data(), 1, image.data.size(), stdin) != image.data.size()) return 1;
    const auto interpolation = static_cast<classifier::Interpolation>(n[7]);
    const auto pixels = classifier::Preprocess(image, {n[2], n[3], n[4], n[5], n[6], interpolation});
    std::fwrite(pixels.data.data(), 1, pixels.data.size(), stdout);
  }
  return 0;
}
