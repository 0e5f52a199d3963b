import CoreGraphics
import CryptoKit
import Foundation

// @@NAME@@: from a picture to labels with probabilities.
//
// The constants describe this very file, as it was measured when it was exported: export again rather than edit them.
// Paths are those in the bundle.
private let modelFile = "@@FILE@@"
private let modelSHA256 = "@@SHA256@@"
private let labelsFile = "@@LABELS@@"
private let classes = @@CLASSES@@
private let rule = Rule(
  height: @@HEIGHT@@, width: @@WIDTH@@, channels: @@CHANNELS@@,
  resizedHeight: @@RESIZED_HEIGHT@@, resizedWidth: @@RESIZED_WIDTH@@, interpolation: .@@INTERPOLATION@@)

// What the self-test compares with.
private let photoFile = "@@PHOTO@@"
private let photoHeight = @@PHOTO_HEIGHT@@
private let photoWidth = @@PHOTO_WIDTH@@
private let photoPixelsFile = "@@PHOTO_PIXELS@@"
private let photoTolerance = @@PHOTO_TOLERANCE@@  // of 255
private let goldenImagesFile = "@@GOLDEN_IMAGES@@"
private let goldenCount = @@GOLDEN_COUNT@@
private let expectedFile = "@@EXPECTED@@"
private let tolerance: Float = @@TOLERANCE@@  // of a probability, on a processor

public struct Answer {
  public let label: String
  public let index: Int
  public let probability: Float
}

/// `images` compared, and the largest difference of a probability.
public struct SelfTest {
  public let images: Int
  public let largestDifference: Float
  public let tolerance: Float
}

public struct ClassifierError: LocalizedError {
  public let errorDescription: String?
}

/// For one thread at a time. What fails throws an error whose description says what to do.
public final class Classifier {
  public let labels: [String]
  private let folder: URL
  private let network: Network

  /// Reads the bundle.
  ///
  /// A model file that is not the proven one is refused before the runtime sees it: what is damaged can crash the
  /// runtime.
  ///
  /// - Parameters:
  ///   - folder: the bundle, such as `Bundle.main.url(forResource: "bundle", withExtension: nil)!` of a folder that was
  ///     added to the app as a folder reference.
  ///   - options: where the model runs; nil for the processor.
  public init(folder: URL, options: NetworkOptions? = nil) throws {
    self.folder = folder
    labels = String(decoding: try read(labelsFile, in: folder), as: UTF8.self).components(separatedBy: "\n")
    guard labels.count == classes else {
      throw failure("\(labelsFile) has \(labels.count) lines. Expected: \(classes). Copy the whole bundle again.")
    }
    let model = try read(modelFile, in: folder)
    let hash = SHA256.hash(data: model).map { String(format: "%02x", $0) }.joined()
    guard hash == modelSHA256 else {
      throw failure(
        "Self-test of the model file failed: \(modelFile) has SHA-256 \(hash). Expected: \(modelSHA256). "
          + "It is damaged or another model: copy the whole bundle again.")
    }
    network = try Network(path: folder.appendingPathComponent(modelFile).path, options: options)
  }

  /// The most probable labels of an upright picture of any size, best first.
  public func classify(_ image: CGImage, count: Int = 5) throws -> [Answer] {
    let probabilities = try self.probabilities(pixels(image))
    // By index where two are equal: sorting is not stable.
    let order = probabilities.indices.sorted { (-probabilities[$0], $0) < (-probabilities[$1], $1) }
    return order.prefix(count).map { Answer(label: labels[$0], index: $0, probability: probabilities[$0]) }
  }

  /// What the model takes: `height * width * channels` bytes.
  public func pixels(_ image: CGImage) throws -> [UInt8] { preprocess(try rgb(image), rule).bytes }

  /// One for each class.
  public func probabilities(_ pixels: [UInt8]) throws -> [Float] { try network.run(pixels) }

  /// Proves that this device computes what was exported: the preprocessing of a photo, then the probabilities of the
  /// golden images. (`init` has proven the model file.)
  public func selfTest() throws -> SelfTest {
    try testPreprocessing()
    let size = rule.height * rule.width * rule.channels
    let images = [UInt8](try read(goldenImagesFile, in: folder, size: goldenCount * size))
    let bytes = try read(expectedFile, in: folder, size: goldenCount * classes * MemoryLayout<Float>.size)
    let expected = bytes.withUnsafeBytes { raw in  // little-endian, as every Apple device
      (0..<goldenCount * classes).map { raw.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
    }
    var largest: Float = 0
    for k in 0..<goldenCount {
      let probabilities = try self.probabilities([UInt8](images[k * size..<(k + 1) * size]))
      let right = [Float](expected[k * classes..<(k + 1) * classes])
      largest = max(largest, try testProbabilities(k, probabilities, right))
    }
    return SelfTest(images: goldenCount, largestDifference: largest, tolerance: tolerance)
  }

  private func testPreprocessing() throws {
    let bytes = [UInt8](try read(photoFile, in: folder, size: photoHeight * photoWidth * 3))
    let photo = Pixels(height: photoHeight, width: photoWidth, channels: 3, bytes: bytes)
    let pixels = preprocess(photo, rule).bytes
    let expected = [UInt8](try read(photoPixelsFile, in: folder, size: pixels.count))
    let largest = zip(pixels, expected).map { abs(Int($0) - Int($1)) }.max() ?? 0
    guard largest <= photoTolerance else {
      throw failure(
        "Self-test of the preprocessing failed: the pixels of \(photoFile) differ by up to \(largest) levels. "
          + "Expected: \(photoTolerance) at most. Take Pixels.swift as it is in the bundle.")
    }
  }

  private func testProbabilities(_ image: Int, _ probabilities: [Float], _ expected: [Float]) throws -> Float {
    let differences = zip(probabilities, expected).map { abs($0 - $1) }
    let answer = probabilities.firstIndex(of: probabilities.max()!) ?? 0
    let right = expected.firstIndex(of: expected.max()!)!
    guard answer == right, differences.allSatisfy({ $0 <= tolerance }) else {  // false for what is not a number
      throw failure(
        "Self-test of the probabilities failed at golden image \(image): '\(labels[answer])', differing by up to "
          + "\(differences.max()!). Expected: '\(labels[right])', differing by \(tolerance) at most. The runtime "
          + "computes something else here: @@RUNTIME_VERSION@@ on a processor was proven.")
    }
    return differences.max()!
  }
}

private func failure(_ text: String) -> ClassifierError { ClassifierError(errorDescription: text) }

private func read(_ name: String, in folder: URL, size: Int? = nil) throws -> Data {
  let file = folder.appendingPathComponent(name)
  guard let data = try? Data(contentsOf: file) else {
    throw failure("There is no file \(file.path). Put the whole bundle there, unchanged.")
  }
  guard size == nil || data.count == size else {
    throw failure("\(file.path) has \(data.count) bytes. Expected: \(size!). Copy the whole bundle again.")
  }
  return data
}

/// The numbers of a picture as sRGB has them, whatever its colour space is. Transparency lies on white, as in training.
private func rgb(_ image: CGImage) throws -> Pixels {
  let (height, width) = (image.height, image.width)
  var rgbx = [UInt8](repeating: 255, count: height * width * 4)  // white
  let drawn = rgbx.withUnsafeMutableBytes { memory -> Bool in
    let context = CGContext(
      data: memory.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: width * 4,
      space: CGColorSpace(name: CGColorSpace.sRGB)!, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
    context?.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
    return context != nil
  }
  guard drawn else { throw failure("No memory for a picture of \(width) x \(height) pixels. Take a smaller one.") }
  var bytes: [UInt8] = []
  bytes.reserveCapacity(height * width * 3)
  for k in stride(from: 0, to: rgbx.count, by: 4) { bytes.append(contentsOf: rgbx[k..<k + 3]) }
  return Pixels(height: height, width: width, channels: 3, bytes: bytes)
}
