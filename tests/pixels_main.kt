// Reads cases from stdin, eight int32 and the bytes of an RGB image each, and writes what the model would get.

import classifier.Interpolation
import classifier.Pixels
import classifier.Rule
import classifier.preprocess
import java.nio.ByteBuffer
import java.nio.ByteOrder

fun main() {
    val cases = ByteBuffer.wrap(System.`in`.readBytes()).order(ByteOrder.LITTLE_ENDIAN)
    while (cases.hasRemaining()) {
        val n = List(8) { cases.int }
        val image = Pixels(n[0], n[1], 3, ByteArray(n[0] * n[1] * 3).also { cases.get(it) })
        val rule = Rule(n[2], n[3], n[4], n[5], n[6], Interpolation.entries[n[7]])
        System.out.write(preprocess(image, rule).bytes)
    }
    System.out.flush()
}
