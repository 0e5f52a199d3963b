/**
 * From an image of any size to the pixels that a model takes. Needs nothing but the language: it runs in a page, in a
 * worker and in Node.
 *
 * It resizes as Pillow does, to the bit, because the model was checked on images that Pillow resized: filters widen as
 * the image shrinks, so that nothing aliases. A canvas resizes otherwise, differently in each browser.
 */

const FRACTION_BITS = 22; // of Pillow's fixed-point weights: what an int32 leaves beside 8 bits of pixel and 2 of room

const WHOLE = Int32Array.of(1 << FRACTION_BITS);

const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: bicubic },
};

/**
 * @param {{data: Uint8ClampedArray|Uint8Array, width: number, height: number}} image RGBA, as ImageData has it,
 *     already turned as its EXIF tag says (browsers do so when they decode).
 * @param {{height: number, width: number, channels: number, resizedHeight: number, resizedWidth: number,
 *     interpolation: string}} rule 1 channel is grey, 3 are RGB. The image is resized, keeping its proportions, until it
 *     just covers `resizedHeight` by `resizedWidth`; of that the centre is taken.
 * @returns {Uint8Array} `height * width * channels` values, 0 to 255, channels last.
 */
export function preprocess(image, rule) {
  const { width, height } = image;
  const scale = Math.max(rule.resizedWidth / width, rule.resizedHeight / height);
  const covering = [
    Math.max(rule.resizedWidth, roundHalfToEven(width * scale)),
    Math.max(rule.resizedHeight, roundHalfToEven(height * scale)),
  ];
  const left = Math.floor((covering[0] - rule.width) / 2);
  const top = Math.floor((covering[1] - rule.height) / 2);
  const across = axis(rule.interpolation, width, covering[0], left, rule.width);
  const down = axis(rule.interpolation, height, covering[1], top, rule.height);
  const raw = rule.channels === 1 ? grey(image) : rgb(image);
  // Pillow rounds between the two passes, so that their order matters. Since version 13 it is another for tall images.
  if (height > covering[1] && height - covering[1] > 2 * (width - covering[0])) {
    return resizeRows(resizeColumns(raw, width, rule.channels, down), width, rule.height, rule.channels, across);
  }
  return resizeColumns(resizeRows(raw, width, height, rule.channels, across), rule.width, rule.channels, down);
}

/** Where each pixel of one side comes from: the first of its sources, and their weights in fixed point. */
function axis(interpolation, size, resized, first, count) {
  if (interpolation === "nearest") return nearest(size, resized, first, count);
  if (size === resized) return unchanged(first, count);
  const { support, weight } = FILTERS[interpolation];
  const scale = size / resized;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: count }, (_, k) => {
    const centre = (first + k + 0.5) * scale;
    const begin = Math.max(Math.trunc(centre - support * stretch + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support * stretch + 0.5), size);
    const weights = [];
    for (let x = begin; x < end; x++) weights.push(weight((x - centre + 0.5) * (1 / stretch)));
    const sum = weights.reduce((total, value) => total + value, 0);
    return { begin, weights: Int32Array.from(weights, (value) => fixed(sum === 0 ? value : value / sum)) };
  });
}

function nearest(size, resized, first, count) {
  const step = size / resized;
  const places = [];
  // Added up, not multiplied: at a border between two pixels the rounding decides, and it has to be the same.
  for (let k = 0, place = step * 0.5; k < first + count; k++, place += step) places.push(Math.trunc(place));
  return places.slice(first).map((place) => ({ begin: Math.min(place, size - 1), weights: WHOLE }));
}

function unchanged(first, count) {
  return Array.from({ length: count }, (_, k) => ({ begin: first + k, weights: WHOLE }));
}

function bicubic(x) {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

const fixed = (weight) => Math.trunc(weight * (1 << FRACTION_BITS) + (weight < 0 ? -0.5 : 0.5));

const rounded = (sum) => Math.min(Math.max((sum + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS, 0), 255);

function resizeRows(raw, width, height, channels, places) {
  const out = new Uint8Array(places.length * height * channels);
  for (let y = 0, at = 0; y < height; y++) {
    for (const { begin, weights } of places) {
      for (let c = 0; c < channels; c++, at++) {
        let from = (y * width + begin) * channels + c;
        let sum = 0;
        for (let k = 0; k < weights.length; k++, from += channels) sum += raw[from] * weights[k];
        out[at] = rounded(sum);
      }
    }
  }
  return out;
}

function resizeColumns(raw, width, channels, places) {
  const row = width * channels;
  const out = new Uint8Array(places.length * row);
  places.forEach(({ begin, weights }, y) => {
    for (let x = 0; x < row; x++) {
      let sum = 0;
      for (let k = 0, from = begin * row + x; k < weights.length; k++, from += row) sum += raw[from] * weights[k];
      out[y * row + x] = rounded(sum);
    }
  });
  return out;
}

/** Transparent pixels lie on white, as they did when the model was trained. */
const onWhite = (value, alpha) => {
  const blend = 128 * (value * alpha + 255 * (255 - alpha)) + 128 * 128;
  return ((blend >> 8) + blend) >> 15;
};

function rgb({ data, width, height }) {
  const out = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    const alpha = data[from + 3];
    for (let c = 0; c < 3; c++) out[to++] = alpha === 255 ? data[from + c] : onWhite(data[from + c], alpha);
  }
  return out;
}

function grey(image) {
  const colours = rgb(image);
  const out = new Uint8Array(image.width * image.height);
  for (let to = 0, k = 0; to < out.length; to++, k += 3) {
    out[to] = (colours[k] * 19595 + colours[k + 1] * 38470 + colours[k + 2] * 7471 + 0x8000) >> 16; // ITU-R 601-2 luma
  }
  return out;
}

function roundHalfToEven(value) {
  const below = Math.floor(value);
  const isHalf = value - below === 0.5;
  return isHalf ? below + (below % 2) : Math.round(value);
}
