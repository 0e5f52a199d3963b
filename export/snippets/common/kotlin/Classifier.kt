package classifier

import android.content.res.AssetManager
import android.graphics.Bitmap
import java.io.Closeable
import java.io.File
import java.io.FileNotFoundException
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest
import kotlin.math.abs

/*
 * @@NAME@@: from a picture to labels with probabilities.
 *
 * The constants describe this very file, as it was measured when it was exported: export again rather than edit them.
 * Paths are those in the bundle.
 */
private const val MODEL = "@@FILE@@"
private const val MODEL_SHA256 = "@@SHA256@@"
private const val LABELS = "@@LABELS@@"
private const val CLASSES = @@CLASSES@@
private val RULE = Rule(
    height = @@HEIGHT@@,
    width = @@WIDTH@@,
    channels = @@CHANNELS@@,
    resizedHeight = @@RESIZED_HEIGHT@@,
    resizedWidth = @@RESIZED_WIDTH@@,
    interpolation = Interpolation.valueOf("@@INTERPOLATION@@".uppercase()),
)
private const val PIXELS = @@HEIGHT@@ * @@WIDTH@@ * @@CHANNELS@@

// What the self-test compares with.
private const val PHOTO = "@@PHOTO@@"
private const val PHOTO_HEIGHT = @@PHOTO_HEIGHT@@
private const val PHOTO_WIDTH = @@PHOTO_WIDTH@@
private const val PHOTO_PIXELS = "@@PHOTO_PIXELS@@"
private const val PHOTO_TOLERANCE = @@PHOTO_TOLERANCE@@ // of 255
private const val GOLDEN_IMAGES = "@@GOLDEN_IMAGES@@"
private const val GOLDEN_COUNT = @@GOLDEN_COUNT@@
private const val EXPECTED = "@@EXPECTED@@"
private const val TOLERANCE = @@TOLERANCE@@ // of a probability, on a processor

/** Where the bundle lies: below `path` in the app's assets, or in a folder of the device. */
class BundleFolder private constructor(val assets: AssetManager?, private val path: String) {
    constructor(assets: AssetManager) : this(assets, "")
    constructor(folder: File) : this(null, "${folder.path}/")

    fun path(name: String) = path + name

    fun read(name: String, size: Int? = null): ByteArray {
        val bytes = try {
            assets?.open(path(name))?.use { it.readBytes() } ?: File(path(name)).readBytes()
        } catch (error: FileNotFoundException) {
            throw IOException("There is no file ${path(name)}. Put the whole bundle there, unchanged.", error)
        }
        check(size == null || bytes.size == size) {
            "${path(name)} has ${bytes.size} bytes. Expected: $size. Copy the whole bundle again."
        }
        return bytes
    }
}

data class Answer(val label: String, val index: Int, val probability: Float)

/** `images` compared, and the largest difference of a probability. */
data class SelfTest(val images: Int, val largestDifference: Float, val tolerance: Float)

/**
 * Reads the bundle. A model file that is not the proven one is refused before the runtime sees it: what is damaged can
 * crash the runtime. For one thread at a time. Close it when done.
 *
 * What fails throws an `IllegalStateException` or an `IOException` that says what to do.
 */
class Classifier(private val folder: BundleFolder, options: NetworkOptions = onProcessor()) : Closeable {
    val labels: List<String> = folder.read(LABELS).decodeToString().split("\n")
    private val network: Network

    init {
        check(labels.size == CLASSES) { "$LABELS has ${labels.size} lines. Expected: $CLASSES. Copy the bundle again." }
        val digest = MessageDigest.getInstance("SHA-256").digest(folder.read(MODEL))
        val hash = digest.joinToString("") { "%02x".format(it) }
        check(hash == MODEL_SHA256) {
            "Self-test of the model file failed: $MODEL has SHA-256 $hash. Expected: $MODEL_SHA256. " +
                "It is damaged or another model: copy the whole bundle again."
        }
        network = Network(folder, MODEL, options)
    }

    /** The most probable labels of an upright picture of any size, best first. */
    fun classify(bitmap: Bitmap, count: Int = 5): List<Answer> {
        val probabilities = probabilities(pixels(bitmap))
        return probabilities.indices.sortedByDescending { probabilities[it] }.take(count)
            .map { Answer(labels[it], it, probabilities[it]) }
    }

    /** What the model takes: `height * width * channels` bytes. */
    fun pixels(bitmap: Bitmap): ByteArray {
        // The pixels of a hardware bitmap cannot be read.
        val readable =
            if (bitmap.config == Bitmap.Config.HARDWARE) bitmap.copy(Bitmap.Config.ARGB_8888, false) else bitmap
        val argb = IntArray(bitmap.width * bitmap.height)
        readable.getPixels(argb, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
        return preprocess(rgbOfArgb(argb, bitmap.height, bitmap.width), RULE).bytes
    }

    /** One for each class. */
    fun probabilities(pixels: ByteArray): FloatArray = network.run(pixels)

    /**
     * Proves that this device computes what was exported: the preprocessing of a photo, then the probabilities of the
     * golden images. (The constructor has proven the model file.)
     */
    fun selfTest(): SelfTest {
        testPreprocessing()
        val images = folder.read(GOLDEN_IMAGES, GOLDEN_COUNT * PIXELS)
        val expected = ByteBuffer.wrap(folder.read(EXPECTED, GOLDEN_COUNT * CLASSES * Float.SIZE_BYTES))
            .order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        val differences = List(GOLDEN_COUNT) { k ->
            val probabilities = probabilities(images.copyOfRange(k * PIXELS, (k + 1) * PIXELS))
            testProbabilities(k, probabilities, FloatArray(CLASSES).also { expected.get(it) })
        }
        return SelfTest(GOLDEN_COUNT, differences.max(), TOLERANCE.toFloat())
    }

    private fun testPreprocessing() {
        val photo = Pixels(PHOTO_HEIGHT, PHOTO_WIDTH, 3, folder.read(PHOTO, PHOTO_HEIGHT * PHOTO_WIDTH * 3))
        val pixels = preprocess(photo, RULE).bytes
        val expected = folder.read(PHOTO_PIXELS, PIXELS)
        val largest = pixels.indices.maxOf { abs((pixels[it].toInt() and 255) - (expected[it].toInt() and 255)) }
        check(largest <= PHOTO_TOLERANCE) {
            "Self-test of the preprocessing failed: the pixels of $PHOTO differ by up to $largest levels. " +
                "Expected: $PHOTO_TOLERANCE at most. Take Pixels.kt as it is in the bundle."
        }
    }

    private fun testProbabilities(image: Int, probabilities: FloatArray, expected: FloatArray): Float {
        val largest = expected.indices.maxOf { abs(probabilities[it] - expected[it]) } // NaN is larger than all
        val answer = probabilities.indices.maxBy { probabilities[it] }
        val right = expected.indices.maxBy { expected[it] }
        check(answer == right && largest <= TOLERANCE) {
            "Self-test of the probabilities failed at golden image $image: '${labels[answer]}', differing by up to " +
                "$largest. Expected: '${labels[right]}', differing by $TOLERANCE at most. The runtime computes " +
                "something else here: @@RUNTIME_VERSION@@ on a processor was proven."
        }
        return largest
    }

    override fun close() = network.close()
}
