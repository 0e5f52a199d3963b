import LiteRT

// The network alone, in LiteRT's Swift API: pixels in, probabilities out.
//
// The edges of the file: number = value / scale + zero point.
private typealias Input = @@INPUT_TYPE@@
private let inputScale = @@INPUT_SCALE@@
private let inputZeroPoint = @@INPUT_ZERO_POINT@@
private typealias Output = @@OUTPUT_TYPE@@
private let outputScale: Float = @@OUTPUT_SCALE@@
private let outputZeroPoint: Float = @@OUTPUT_ZERO_POINT@@

// The names that files have for them.
private typealias float32 = Float
private typealias uint8 = UInt8
private typealias int8 = Int8
private typealias int16 = Int16

/// Options with the accelerator `.gpu` run on the GPU, which may compute in half precision. Where the self-test fails
/// then, make another `Classifier` without.
public typealias NetworkOptions = Options

final class Network {
  private let model: CompiledModel
  private let inputs: [TensorBuffer]
  private let outputs: [TensorBuffer]

  init(path: String, options: NetworkOptions?) throws {
    let processor = try Options()
    try processor.setHardwareAccelerators([.cpu])
    model = try CompiledModel(filePath: path, environment: try Environment(), options: options ?? processor)
    inputs = try model.createInputBuffers()
    outputs = try model.createOutputBuffers()
  }

  /// Probabilities of the pixels, `height * width * channels` of them, channels last.
  func run(_ pixels: [UInt8]) throws -> [Float] {
    try inputs[0].write(pixels.map(stored))
    try model.run(inputs: inputs, outputs: outputs)
    let numbers: [Output] = try outputs[0].read()
    return numbers.map { (Float($0) - outputZeroPoint) * outputScale }
  }
}

private func stored(_ pixel: UInt8) -> Input {
  let number = (Double(pixel) / inputScale + Double(inputZeroPoint)).rounded(.toNearestOrEven)
  return Input(number)
}
