package classifier

import kotlin.math.abs
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round

/*
 * From an image of any size to the pixels that the model takes. Needs nothing but Kotlin.
 *
 * Resizing is that of Pillow to the bit, with which the model was trained and checked: its filters widen as an image
 * shrinks, so that nothing aliases. `Bitmap.createScaledBitmap` samples four neighbours instead, and costs accuracy.
 */

/** `bytes` holds `height * width * channels` values, 0 to 255 without a sign, channels last. */
class Pixels(val height: Int, val width: Int, val channels: Int, val bytes: ByteArray)

enum class Interpolation { NEAREST, BILINEAR, BICUBIC }

/**
 * An image is resized, keeping its proportions, until it just covers `resizedHeight` by `resizedWidth`; of that the
 * centre is taken. 1 channel is grey, 3 are RGB.
 */
class Rule(
    val height: Int,
    val width: Int,
    val channels: Int,
    val resizedHeight: Int,
    val resizedWidth: Int,
    val interpolation: Interpolation,
)

/** An upright RGB image as the model takes it. */
fun preprocess(rgb: Pixels, rule: Rule): Pixels {
    val scale = max(rule.resizedWidth.toDouble() / rgb.width, rule.resizedHeight.toDouble() / rgb.height)
    val width = max(rule.resizedWidth, round(rgb.width * scale).toInt()) // half to even
    val height = max(rule.resizedHeight, round(rgb.height * scale).toInt())
    val left = (width - rule.width) / 2
    val top = (height - rule.height) / 2
    val across = side(rule.interpolation, rgb.width, width, left, rule.width)
    val down = side(rule.interpolation, rgb.height, height, top, rule.height)
    val image = if (rule.channels == 1) grey(rgb) else rgb
    // Pillow rounds between its two passes, so that their order counts; since version 13 tall images take height first.
    val heightFirst = rgb.height > height && rgb.height - height > 2 * (rgb.width - width)
    return if (heightFirst) across(down(image, down), across) else down(across(image, across), down)
}

/** RGB of what Android keeps in a bitmap, one ARGB number a pixel. Transparency lies on white, as in training. */
fun rgbOfArgb(argb: IntArray, height: Int, width: Int): Pixels {
    val bytes = ByteArray(argb.size * 3)
    for ((k, colour) in argb.withIndex()) {
        val alpha = colour ushr 24
        for (c in 0 until 3) {
            val value = colour ushr (16 - 8 * c) and 255
            bytes[3 * k + c] = (if (alpha == 255) value else onWhite(value, alpha)).toByte()
        }
    }
    return Pixels(height, width, 3, bytes)
}

private fun onWhite(value: Int, alpha: Int): Int {
    val blend = 128 * (value * alpha + 255 * (255 - alpha)) + 128 * 128 // as Pillow's alpha_composite rounds
    return ((blend shr 8) + blend) shr 15
}

private fun grey(rgb: Pixels): Pixels {
    val bytes = ByteArray(rgb.height * rgb.width) { k -> // ITU-R 601-2 luma
        val red = rgb.bytes[3 * k].toInt() and 255
        val green = rgb.bytes[3 * k + 1].toInt() and 255
        val blue = rgb.bytes[3 * k + 2].toInt() and 255
        (red * 19595 + green * 38470 + blue * 7471 + 0x8000 shr 16).toByte()
    }
    return Pixels(rgb.height, rgb.width, 1, bytes)
}

private const val FRACTION_BITS = 22 // of a weight in fixed point, as in Pillow

/** Where one pixel of a side comes from: the first of its sources, and a weight for each of them. */
private class Sources(val first: Int, val weights: IntArray)

/** The sources of `count` pixels from `first` on, of a side of `size` pixels that becomes `resized` long. */
private fun side(interpolation: Interpolation, size: Int, resized: Int, first: Int, count: Int): List<Sources> {
    if (interpolation == Interpolation.NEAREST) return nearest(size, resized, first, count)
    val scale = size.toDouble() / resized
    val stretch = max(scale, 1.0)
    val reach = stretch * if (interpolation == Interpolation.BILINEAR) 1 else 2
    return List(count) { k ->
        val centre = (first + k + 0.5) * scale
        val begin = max((centre - reach + 0.5).toInt(), 0)
        val end = min((centre + reach + 0.5).toInt(), size)
        val weights = DoubleArray(end - begin) { weight(interpolation, (begin + it - centre + 0.5) * (1 / stretch)) }
        val sum = weights.sum()
        Sources(begin, IntArray(weights.size) { fixed(weights[it] / sum) })
    }
}

private fun nearest(size: Int, resized: Int, first: Int, count: Int): List<Sources> {
    val step = size.toDouble() / resized
    // Added up, not multiplied: at a border between two pixels the rounding decides, and it has to be the same.
    val places = generateSequence(step * 0.5) { it + step }.drop(first).take(count)
    return places.map { Sources(min(it.toInt(), size - 1), intArrayOf(1 shl FRACTION_BITS)) }.toList()
}

private fun weight(interpolation: Interpolation, place: Double): Double {
    val x = abs(place)
    if (interpolation == Interpolation.BILINEAR) return max(1 - x, 0.0)
    val a = -0.5
    return when {
        x < 1 -> ((a + 2) * x - (a + 3)) * x * x + 1
        x < 2 -> (((x - 5) * x + 8) * x - 4) * a
        else -> 0.0
    }
}

private fun fixed(weight: Double) = (weight * (1 shl FRACTION_BITS) + if (weight < 0) -0.5 else 0.5).toInt()

private fun across(image: Pixels, side: List<Sources>): Pixels {
    val bytes = ByteArray(image.height * side.size * image.channels)
    var at = 0
    for (y in 0 until image.height) {
        for (sources in side) {
            val first = (y * image.width + sources.first) * image.channels
            for (c in 0 until image.channels) {
                bytes[at++] = weighed(image.bytes, first + c, image.channels, sources.weights)
            }
        }
    }
    return Pixels(image.height, side.size, image.channels, bytes)
}

private fun down(image: Pixels, side: List<Sources>): Pixels {
    val row = image.width * image.channels
    val bytes = ByteArray(side.size * row)
    var at = 0
    for (sources in side) {
        for (x in 0 until row) bytes[at++] = weighed(image.bytes, sources.first * row + x, row, sources.weights)
    }
    return Pixels(side.size, image.width, image.channels, bytes)
}

/** Weighs bytes that lie `step` apart. */
private fun weighed(bytes: ByteArray, first: Int, step: Int, weights: IntArray): Byte {
    var sum = 1 shl (FRACTION_BITS - 1)
    var at = first
    for (weight in weights) {
        sum += (bytes[at].toInt() and 255) * weight
        at += step
    }
    return (sum shr FRACTION_BITS).coerceIn(0, 255).toByte()
}
