// From an image of any size to the pixels that the model takes. Needs nothing but the standard library.
//
// Resizing is that of Pillow to the bit, with which the model was trained and checked: its filters widen as an image
// shrinks, so that nothing aliases. Most other libraries sample four neighbours instead, and cost accuracy.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace classifier {

// `data` holds height * width * channels bytes, channels last, upright.
struct Image {
  int height = 0;
  int width = 0;
  int channels = 0;
  std::vector<uint8_t> data;
};

enum class Interpolation { nearest, bilinear, bicubic };

// An image is resized, keeping its proportions, until it just covers `resized_height` by `resized_width`; of that the
// centre is taken. 1 channel is grey, 3 are RGB.
struct Rule {
  int height, width, channels, resized_height, resized_width;
  Interpolation interpolation;
};

namespace internal {

constexpr int kFractionBits = 22;  // of a weight in fixed point, as in Pillow

// Where one pixel of a side comes from: the first of its sources, and a weight for each of them.
struct Sources {
  int first;
  std::vector<int32_t> weights;
};

inline double Weight(Interpolation interpolation, double x) {
  x = std::fabs(x);
  if (interpolation == Interpolation::bilinear) return x < 1 ? 1 - x : 0;
  constexpr double a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

inline std::vector<Sources> Nearest(int size, int resized, int first, int count) {
  const double step = static_cast<double>(size) / resized;
  std::vector<Sources> side;
  double place = step * 0.5;
  // Added up, not multiplied: at a border between two pixels the rounding decides, and it has to be the same.
  for (int k = 0; k < first + count; k++, place += step) {
    if (k >= first) side.push_back({std::min(static_cast<int>(place), size - 1), {1 << kFractionBits}});
  }
  return side;
}

// The sources of `count` pixels from `first` on, of a side of `size` pixels that becomes `resized` long.
inline std::vector<Sources> Side(Interpolation interpolation, int size, int resized, int first, int count) {
  if (interpolation == Interpolation::nearest) return Nearest(size, resized, first, count);
  const double scale = static_cast<double>(size) / resized;
  const double stretch = std::max(scale, 1.0);
  const double reach = (interpolation == Interpolation::bilinear ? 1 : 2) * stretch;
  std::vector<Sources> side;
  std::vector<double> weights;
  for (int k = first; k < first + count; k++) {
    const double centre = (k + 0.5) * scale;
    const int begin = std::max(static_cast<int>(centre - reach + 0.5), 0);
    const int end = std::min(static_cast<int>(centre + reach + 0.5), size);
    double sum = 0;
    weights.clear();
    for (int x = begin; x < end; x++) {
      weights.push_back(Weight(interpolation, (x - centre + 0.5) * (1 / stretch)));
      sum += weights.back();
    }
    Sources sources{begin, {}};
    for (double weight : weights) {
      weight /= sum;
      sources.weights.push_back(static_cast<int32_t>(weight * (1 << kFractionBits) + (weight < 0 ? -0.5 : 0.5)));
    }
    side.push_back(std::move(sources));
  }
  return side;
}

// Weighs bytes that lie `step` apart.
inline uint8_t Weighed(const uint8_t* from, size_t step, const std::vector<int32_t>& weights) {
  int32_t sum = 1 << (kFractionBits - 1);
  for (int32_t weight : weights) {
    sum += *from * weight;
    from += step;
  }
  return static_cast<uint8_t>(std::clamp(sum >> kFractionBits, 0, 255));
}

inline Image Across(const Image& image, const std::vector<Sources>& side) {
  Image out{image.height, static_cast<int>(side.size()), image.channels, {}};
  for (int y = 0; y < image.height; y++) {
    for (const Sources& sources : side) {
      const size_t first = (static_cast<size_t>(y) * image.width + sources.first) * image.channels;
      for (int c = 0; c < image.channels; c++) {
        out.data.push_back(Weighed(&image.data[first + c], image.channels, sources.weights));
      }
    }
  }
  return out;
}

inline Image Down(const Image& image, const std::vector<Sources>& side) {
  const size_t row = static_cast<size_t>(image.width) * image.channels;
  Image out{static_cast<int>(side.size()), image.width, image.channels, {}};
  for (const Sources& sources : side) {
    const uint8_t* top = &image.data[sources.first * row];
    for (size_t x = 0; x < row; x++) out.data.push_back(Weighed(top + x, row, sources.weights));
  }
  return out;
}

inline Image Grey(const Image& rgb) {
  Image grey{rgb.height, rgb.width, 1, {}};
  for (size_t k = 0; k < rgb.data.size(); k += 3) {  // ITU-R 601-2 luma
    const int luma = rgb.data[k] * 19595 + rgb.data[k + 1] * 38470 + rgb.data[k + 2] * 7471 + 0x8000;
    grey.data.push_back(static_cast<uint8_t>(luma >> 16));
  }
  return grey;
}

}  // namespace internal

// An RGB image as the model takes it: rule.height * rule.width * rule.channels bytes, channels last.
inline Image Preprocess(const Image& rgb, const Rule& rule) {
  const double scale = std::max(static_cast<double>(rule.resized_width) / rgb.width,
                                static_cast<double>(rule.resized_height) / rgb.height);
  const int width = std::max(rule.resized_width, static_cast<int>(std::nearbyint(rgb.width * scale)));  // half to even
  const int height = std::max(rule.resized_height, static_cast<int>(std::nearbyint(rgb.height * scale)));
  const int left = (width - rule.width) / 2;
  const int top = (height - rule.height) / 2;
  const auto across = internal::Side(rule.interpolation, rgb.width, width, left, rule.width);
  const auto down = internal::Side(rule.interpolation, rgb.height, height, top, rule.height);
  const Image image = rule.channels == 1 ? internal::Grey(rgb) : rgb;
  // Pillow rounds between its two passes, so that their order counts; since version 13 tall images take height first.
  const bool height_first = rgb.height > height && rgb.height - height > 2 * (rgb.width - width);
  return height_first ? internal::Across(internal::Down(image, down), across)
                      : internal::Down(internal::Across(image, across), down);
}

}  // namespace classifier
