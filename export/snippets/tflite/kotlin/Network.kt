package classifier

import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import java.io.Closeable
import kotlin.math.round

/*
 * The network alone, in LiteRT's CompiledModel API: pixels in, probabilities out.
 *
 * The edges of the file: number = value / scale + zero point.
 */
private const val INPUT_TYPE = "@@INPUT_TYPE@@"
private const val INPUT_SCALE = @@INPUT_SCALE@@
private const val INPUT_ZERO_POINT = @@INPUT_ZERO_POINT@@
private const val OUTPUT_TYPE = "@@OUTPUT_TYPE@@"
private const val OUTPUT_SCALE = @@OUTPUT_SCALE@@
private const val OUTPUT_ZERO_POINT = @@OUTPUT_ZERO_POINT@@

/**
 * `CompiledModel.Options(Accelerator.GPU)` runs on the GPU, which may compute in half precision. Where the self-test
 * fails then, make another `Classifier` with `onProcessor()`.
 */
typealias NetworkOptions = CompiledModel.Options

fun onProcessor(): NetworkOptions = CompiledModel.Options(Accelerator.CPU)

internal class Network(folder: BundleFolder, file: String, options: NetworkOptions) : Closeable {
    private val model =
        if (folder.assets != null) CompiledModel.create(folder.assets, folder.path(file), options)
        else CompiledModel.create(folder.path(file), options)
    private val inputs = model.createInputBuffers()
    private val outputs = model.createOutputBuffers()

    /** Probabilities of the pixels, `height * width * channels` of them, channels last. */
    fun run(pixels: ByteArray): FloatArray {
        when (INPUT_TYPE) {
            "float32" -> inputs[0].writeFloat(FloatArray(pixels.size) { (pixels[it].toInt() and 255).toFloat() })
            "int8" -> inputs[0].writeInt8(ByteArray(pixels.size) { stored(pixels[it].toInt() and 255) })
            else -> error("LiteRT for Kotlin takes float32 or int8. The file takes: $INPUT_TYPE. Export it anew.")
        }
        model.run(inputs, outputs)
        return when (OUTPUT_TYPE) {
            "float32" -> outputs[0].readFloat()
            "int8" -> outputs[0].readInt8().let { numbers -> FloatArray(numbers.size) { meant(numbers[it]) } }
            else -> error("LiteRT for Kotlin gives float32 or int8. The file gives: $OUTPUT_TYPE. Export it anew.")
        }
    }

    private fun stored(pixel: Int) = round(pixel / INPUT_SCALE + INPUT_ZERO_POINT).toInt().coerceIn(-128, 127).toByte()

    private fun meant(number: Byte) = (number - OUTPUT_ZERO_POINT) * OUTPUT_SCALE.toFloat()

    override fun close() {
        (inputs + outputs).forEach { it.close() }
        model.close()
    }
}
