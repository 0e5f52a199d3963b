// SHA-256 (FIPS 180-4), so that the classifier needs no library besides its runtime.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace classifier {
namespace internal {

constexpr std::array<uint32_t, 64> kRoundConstants = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

inline uint32_t RotatedRight(uint32_t value, int bits) { return value >> bits | value << (32 - bits); }

inline void HashBlock(const uint8_t* block, std::array<uint32_t, 8>& hash) {
  std::array<uint32_t, 64> words;
  for (size_t k = 0; k < 16; k++, block += 4) {
    words[k] = uint32_t{block[0]} << 24 | uint32_t{block[1]} << 16 | uint32_t{block[2]} << 8 | uint32_t{block[3]};
  }
  for (size_t k = 16; k < 64; k++) {
    const uint32_t early = words[k - 15], late = words[k - 2];
    words[k] = words[k - 16] + (RotatedRight(early, 7) ^ RotatedRight(early, 18) ^ early >> 3) + words[k - 7] +
               (RotatedRight(late, 17) ^ RotatedRight(late, 19) ^ late >> 10);
  }
  auto [a, b, c, d, e, f, g, h] = hash;
  for (size_t k = 0; k < 64; k++) {
    const uint32_t mixed = h + (RotatedRight(e, 6) ^ RotatedRight(e, 11) ^ RotatedRight(e, 25)) +
                           ((e & f) ^ (~e & g)) + kRoundConstants[k] + words[k];
    const uint32_t majority = (RotatedRight(a, 2) ^ RotatedRight(a, 13) ^ RotatedRight(a, 22)) +
                              ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + mixed, d = c, c = b, b = a, a = mixed + majority;
  }
  const std::array<uint32_t, 8> result = {a, b, c, d, e, f, g, h};
  for (size_t k = 0; k < 8; k++) hash[k] += result[k];
}

}  // namespace internal

// In hexadecimal, 64 characters.
inline std::string Sha256(std::vector<uint8_t> message) {
  std::array<uint32_t, 8> hash = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const uint64_t bits = uint64_t{message.size()} * 8;
  message.push_back(0x80);
  message.resize((message.size() + 8 + 63) / 64 * 64);
  for (size_t k = 0; k < 8; k++) message[message.size() - 1 - k] = static_cast<uint8_t>(bits >> 8 * k);
  for (size_t at = 0; at < message.size(); at += 64) internal::HashBlock(&message[at], hash);
  std::string text;
  for (uint32_t word : hash) {
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  }
  return text;
}

}  // namespace classifier
