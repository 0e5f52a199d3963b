// From an image of any size to the pixels that the model takes. Needs nothing but Swift.
//
// Resizing is that of Pillow to the bit, with which the model was trained and checked: its filters widen as an image
// shrinks, so that nothing aliases. Core Graphics and vImage use other filters, and cost accuracy.

/// `bytes` holds `height * width * channels` values, channels last.
public struct Pixels {
  public var height: Int
  public var width: Int
  public var channels: Int
  public var bytes: [UInt8]

  public init(height: Int, width: Int, channels: Int, bytes: [UInt8]) {
    self.height = height
    self.width = width
    self.channels = channels
    self.bytes = bytes
  }
}

public enum Interpolation: String {
  case nearest, bilinear, bicubic
}

/// An image is resized, keeping its proportions, until it just covers `resizedHeight` by `resizedWidth`; of that the
/// centre is taken. 1 channel is grey, 3 are RGB.
public struct Rule {
  var height: Int
  var width: Int
  var channels: Int
  var resizedHeight: Int
  var resizedWidth: Int
  var interpolation: Interpolation
}

/// An upright RGB image as the model takes it.
func preprocess(_ rgb: Pixels, _ rule: Rule) -> Pixels {
  let scale = max(Double(rule.resizedWidth) / Double(rgb.width), Double(rule.resizedHeight) / Double(rgb.height))
  let width = max(rule.resizedWidth, Int((Double(rgb.width) * scale).rounded(.toNearestOrEven)))
  let height = max(rule.resizedHeight, Int((Double(rgb.height) * scale).rounded(.toNearestOrEven)))
  let left = (width - rule.width) / 2
  let top = (height - rule.height) / 2
  let columns = side(rule.interpolation, size: rgb.width, resized: width, first: left, count: rule.width)
  let rows = side(rule.interpolation, size: rgb.height, resized: height, first: top, count: rule.height)
  let image = rule.channels == 1 ? grey(rgb) : rgb
  // Pillow rounds between its two passes, so that their order counts; since version 13 tall images take height first.
  let heightFirst = rgb.height > height && rgb.height - height > 2 * (rgb.width - width)
  return heightFirst ? across(down(image, rows), columns) : down(across(image, columns), rows)
}

private func grey(_ rgb: Pixels) -> Pixels {
  var bytes: [UInt8] = []
  bytes.reserveCapacity(rgb.height * rgb.width)
  for k in stride(from: 0, to: rgb.bytes.count, by: 3) {
    var luma = 0x8000  // ITU-R 601-2
    luma += Int(rgb.bytes[k]) * 19595
    luma += Int(rgb.bytes[k + 1]) * 38470
    luma += Int(rgb.bytes[k + 2]) * 7471
    bytes.append(UInt8(luma >> 16))
  }
  return Pixels(height: rgb.height, width: rgb.width, channels: 1, bytes: bytes)
}

private let fractionBits = 22  // of a weight in fixed point, as in Pillow

/// Where one pixel of a side comes from: the first of its sources, and a weight for each of them.
private struct Sources {
  var first: Int
  var weights: [Int]
}

/// The sources of `count` pixels from `first` on, of a side of `size` pixels that becomes `resized` long.
private func side(
  _ interpolation: Interpolation, size: Int, resized: Int, first: Int, count: Int
) -> [Sources] {
  if interpolation == .nearest { return nearest(size: size, resized: resized, first: first, count: count) }
  let scale = Double(size) / Double(resized)
  let stretch = max(scale, 1)
  let reach = stretch * (interpolation == .bilinear ? 1 : 2)
  return (first..<first + count).map { k in
    let centre = (Double(k) + 0.5) * scale
    let begin = max(Int(centre - reach + 0.5), 0)
    let end = min(Int(centre + reach + 0.5), size)
    let weights = (begin..<end).map { weight(interpolation, (Double($0) - centre + 0.5) * (1 / stretch)) }
    let sum = weights.reduce(0, +)
    return Sources(first: begin, weights: weights.map { fixed($0 / sum) })
  }
}

private func nearest(size: Int, resized: Int, first: Int, count: Int) -> [Sources] {
  let step = Double(size) / Double(resized)
  var place = step * 0.5
  var places: [Sources] = []
  // Added up, not multiplied: at a border between two pixels the rounding decides, and it has to be the same.
  for k in 0..<first + count {
    if k >= first { places.append(Sources(first: min(Int(place), size - 1), weights: [1 << fractionBits])) }
    place += step
  }
  return places
}

private func weight(_ interpolation: Interpolation, _ place: Double) -> Double {
  let x = abs(place)
  if interpolation == .bilinear { return max(1 - x, 0) }
  let a = -0.5
  if x < 1 { return ((a + 2) * x - (a + 3)) * x * x + 1 }
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0
}

private func fixed(_ weight: Double) -> Int {
  Int(weight * Double(1 << fractionBits) + (weight < 0 ? -0.5 : 0.5))
}

private func across(_ image: Pixels, _ columns: [Sources]) -> Pixels {
  var bytes: [UInt8] = []
  bytes.reserveCapacity(image.height * columns.count * image.channels)
  image.bytes.withUnsafeBufferPointer { from in
    for y in 0..<image.height {
      for sources in columns {
        let first = (y * image.width + sources.first) * image.channels
        for c in 0..<image.channels {
          bytes.append(weighed(from, first: first + c, step: image.channels, sources.weights))
        }
      }
    }
  }
  return Pixels(height: image.height, width: columns.count, channels: image.channels, bytes: bytes)
}

private func down(_ image: Pixels, _ rows: [Sources]) -> Pixels {
  let row = image.width * image.channels
  var bytes: [UInt8] = []
  bytes.reserveCapacity(rows.count * row)
  image.bytes.withUnsafeBufferPointer { from in
    for sources in rows {
      for x in 0..<row { bytes.append(weighed(from, first: sources.first * row + x, step: row, sources.weights)) }
    }
  }
  return Pixels(height: rows.count, width: image.width, channels: image.channels, bytes: bytes)
}

/// Weighs bytes that lie `step` apart.
private func weighed(_ bytes: UnsafeBufferPointer<UInt8>, first: Int, step: Int, _ weights: [Int]) -> UInt8 {
  var sum = 1 << (fractionBits - 1)
  var at = first
  for weight in weights {
    sum += Int(bytes[at]) * weight
    at += step
  }
  return UInt8(min(max(sum >> fractionBits, 0), 255))
}
