import Foundation
import OnnxRuntimeBindings

// The network alone, in ONNX Runtime: pixels in, probabilities out.
private let input = "@@INPUT_NAME@@"
private let output = "@@OUTPUT_NAME@@"
private let height = @@HEIGHT@@
private let width = @@WIDTH@@
private let channels = @@CHANNELS@@
private let channelsFirst = @@CHANNELS_FIRST@@  // the order of the input's sides

/// An execution provider such as Core ML's may compute otherwise than the processor: run the self-test on it.
public typealias NetworkOptions = ORTSessionOptions

final class Network {
  private let environment: ORTEnv
  private let session: ORTSession

  init(path: String, options: NetworkOptions?) throws {
    environment = try ORTEnv(loggingLevel: .warning)
    session = try ORTSession(env: environment, modelPath: path, sessionOptions: options)
  }

  /// Probabilities of the pixels, `height * width * channels` of them, channels last.
  func run(_ pixels: [UInt8]) throws -> [Float] {
    let area = height * width
    let numbers = pixels.indices.map { k in
      Float(pixels[channelsFirst ? k % area * channels + k / area : k])
    }
    let data = numbers.withUnsafeBytes { NSMutableData(bytes: $0.baseAddress, length: $0.count) }
    let sides = channelsFirst ? [1, channels, height, width] : [1, height, width, channels]
    let value = try ORTValue(tensorData: data, elementType: .float, shape: sides.map { NSNumber(value: $0) })
    let outputs = try session.run(withInputs: [input: value], outputNames: [output], runOptions: nil)
    let probabilities = try outputs[output]!.tensorData() as Data
    return probabilities.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
  }
}
