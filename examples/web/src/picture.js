/** From a file or a frame of the camera to RGBA pixels. */

const LARGEST_SIDE = 16384;
const LARGEST_AREA = 100_000_000; // pixels; four bytes each
const STRIP_PIXELS = 4_000_000; // phones refuse larger canvases

/**
 * @param {Blob} blob a picture; it is turned as its EXIF tag says.
 * @returns {Promise<ImageBitmap>}
 * @throws {Error} the browser cannot decode it, or it is too large.
 */
export async function decoded(blob) {
  // Colour profiles are left unapplied, as in training.
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" }).catch(() => null);
  if (bitmap === null) {
    throw new Error("This browser cannot read the file. Expected a JPEG, PNG or WebP picture; Safari alone reads HEIC.");
  }
  const { width, height } = bitmap;
  if (Math.max(width, height) > LARGEST_SIDE || width * height > LARGEST_AREA) {
    bitmap.close();
    throw new Error(`The picture is too large: ${width} x ${height}. At most 100 megapixels are taken.`);
  }
  return bitmap;
}

/**
 * @param {CanvasImageSource} source of `width` x `height` pixels.
 * @returns {{data: Uint8ClampedArray, width: number, height: number}} RGBA.
 */
export function rgba(source, width, height) {
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP_PIXELS / width)));
  const canvas = new OffscreenCanvas(width, rows);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (rows === height) {
    context.drawImage(source, 0, 0);
    return context.getImageData(0, 0, width, height);
  }
  const data = new Uint8ClampedArray(width * height * 4);
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.clearRect(0, 0, width, rows);
    context.drawImage(source, 0, top, width, count, 0, 0, width, count);
    data.set(context.getImageData(0, 0, width, count).data, top * width * 4);
  }
  return { data, width, height };
}

/**
 * Draws a picture small, and dims what the crop leaves out.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {CanvasImageSource} source of `width` x `height` pixels.
 * @param {object} preprocess of the bundle.
 */
export function drawPreview(canvas, source, { width, height }, preprocess) {
  const side = 320;
  const shrink = Math.min(1, side / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * shrink));
  canvas.height = Math.max(1, Math.round(height * shrink));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  const seen = seenPart({ width, height }, preprocess);
  const [across, down] = [canvas.width * seen.width, canvas.height * seen.height];
  const outside = new Path2D();
  outside.rect(0, 0, canvas.width, canvas.height);
  outside.rect((canvas.width - across) / 2, (canvas.height - down) / 2, across, down);
  context.fillStyle = "rgb(0 0 0 / 55%)";
  context.fill(outside, "evenodd");
}

/** The share of a picture, centred, that the model sees: of its width and of its height. */
function seenPart({ width, height }, preprocess) {
  const scale = Math.max(preprocess.width / width, preprocess.height / height) / preprocess.crop_fraction;
  return { width: preprocess.width / (width * scale), height: preprocess.height / (height * scale) };
}

/** Draws the pixels that the model takes: one or three values each. */
export function drawPixels(canvas, pixels, { width, height }) {
  canvas.width = width;
  canvas.height = height;
  const channels = pixels.length / (width * height);
  const image = new ImageData(width, height);
  for (let k = 0; k < width * height; k++) {
    for (let c = 0; c < 3; c++) image.data[4 * k + c] = pixels[k * channels + (channels === 1 ? 0 : c)];
    image.data[4 * k + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
