// Reads cases from stdin, eight int32 and the bytes of an RGB image each, and writes what the model would get.

import Foundation

@main
struct Main {
  static func main() {
    let cases = [UInt8](FileHandle.standardInput.readDataToEndOfFile())
    let interpolations: [Interpolation] = [.nearest, .bilinear, .bicubic]
    var at = 0
    while at < cases.count {
      var n: [Int] = []
      for k in 0..<8 { n.append(Int(cases[at + 4 * k]) + 256 * Int(cases[at + 4 * k + 1])) }
      let end = at + 32 + n[0] * n[1] * 3
      let image = Pixels(height: n[0], width: n[1], channels: 3, bytes: [UInt8](cases[at + 32..<end]))
      let rule = Rule(
        height: n[2], width: n[3], channels: n[4], resizedHeight: n[5], resizedWidth: n[6],
        interpolation: interpolations[n[7]])
      FileHandle.standardOutput.write(Data(preprocess(image, rule).bytes))
      at = end
    }
  }
}
