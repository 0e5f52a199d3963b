package classifier

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import java.io.Closeable
import java.nio.FloatBuffer

// The network alone, in ONNX Runtime: pixels in, probabilities out.
private const val INPUT = "@@INPUT_NAME@@"
private const val OUTPUT = "@@OUTPUT_NAME@@"
private const val HEIGHT = @@HEIGHT@@
private const val WIDTH = @@WIDTH@@
private const val CHANNELS = @@CHANNELS@@
private const val CHANNELS_FIRST = @@CHANNELS_FIRST@@ // the order of the input's sides

/**
 * An execution provider, such as that of `addNnapi()`, may compute otherwise than the processor: run the self-test on
 * it. Closed with the classifier.
 */
typealias NetworkOptions = OrtSession.SessionOptions

fun onProcessor(): NetworkOptions = OrtSession.SessionOptions().apply {
    // In an emulator on x86-64 without VNNI, int8 networks would be added up in 16 bits, which overflow. Arm ignores it.
    addConfigEntry("session.x64quantprecision", "1")
}

internal class Network(folder: BundleFolder, file: String, private val options: NetworkOptions) : Closeable {
    private val environment = OrtEnvironment.getEnvironment()
    private val session = environment.createSession(folder.read(file), options)

    /** Probabilities of the pixels, `height * width * channels` of them, channels last. */
    fun run(pixels: ByteArray): FloatArray {
        val area = HEIGHT * WIDTH
        val numbers = FloatArray(area * CHANNELS) { k ->
            val from = if (CHANNELS_FIRST) k % area * CHANNELS + k / area else k
            (pixels[from].toInt() and 255).toFloat()
        }
        val sides = if (CHANNELS_FIRST) listOf(1, CHANNELS, HEIGHT, WIDTH) else listOf(1, HEIGHT, WIDTH, CHANNELS)
        val shape = LongArray(sides.size) { sides[it].toLong() }
        OnnxTensor.createTensor(environment, FloatBuffer.wrap(numbers), shape).use { input ->
            session.run(mapOf(INPUT to input), setOf(OUTPUT)).use { outputs ->
                val probabilities = (outputs[0] as OnnxTensor).floatBuffer
                return FloatArray(probabilities.remaining()).also { probabilities.get(it) }
            }
        }
    }

    override fun close() {
        session.close()
        options.close()
    }
}
