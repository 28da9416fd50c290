// What a browser does before it runs a model file: the same as docs/reference.py, in JavaScript.

// Height and width that the network sees: `size` and `stride` are the file's metadata.
export function workingSize(height, width, size, stride) {
  let best = [Infinity];
  const longest = Math.ceil((2 * size) / stride) * stride;
  for (let h = stride; h <= longest; h += stride)
    for (let w = stride; w <= longest; w += stride) {
      const shape = Math.abs(Math.log(w / h) - Math.log(width / height));
      const cost = shape + 0.1 * Math.abs(Math.log((h * w) / size ** 2));
      if (cost < best[0]) best = [cost, h, w]; // of equal ones the first
    }
  return best.slice(1);
}

// For each new pixel, [old pixel, share] pairs: areas where the axis shrinks, cubic where it grows.
function weights(old, count) {
  const scale = old / count;
  return Array.from({ length: count }, (_, i) => {
    const pairs = [];
    if (count <= old) {
      for (let j = Math.floor(i * scale); j < Math.min(old, Math.ceil((i + 1) * scale)); j++)
        pairs.push([j, (Math.min((i + 1) * scale, j + 1) - Math.max(i * scale, j)) / scale]);
      return pairs;
    }
    const at = (i + 0.5) * scale - 0.5, a = -0.75;
    for (let j = Math.floor(at) - 1; j <= Math.floor(at) + 2; j++) {
      const d = Math.abs(at - j);
      const share = d <= 1 ? ((a + 2) * d - a - 3) * d * d + 1 : ((a * d - 5 * a) * d + 8 * a) * d - 4 * a;
      pairs.push([Math.min(Math.max(j, 0), old - 1), share]); // borders are repeated
    }
    return pairs;
  });
}

function pass(photo, height, width, h, w) {
  const down = weights(height, h), across = weights(width, w);
  const wide = new Float64Array(height * w * 3), result = new Uint8ClampedArray(h * w * 3); // rounds, clips
  for (let y = 0; y < height; y++)
    for (let x = 0; x < w; x++)
      for (const [from, share] of across[x])
        for (let c = 0; c < 3; c++) wide[(y * w + x) * 3 + c] += share * photo[(y * width + from) * 3 + c];
  for (let y = 0; y < h; y++)
    for (let k = 0; k < w * 3; k++)
      result[y * w * 3 + k] = down[y].reduce((sum, [from, share]) => sum + share * wide[from * w * 3 + k], 0);
  return result;
}

// RGB bytes, row by row → Float32Array (3, h, w) in [0, 1], the input `image`. Shrink first, then grow.
export function image(photo, height, width, h, w) {
  const [lowest, narrowest] = [Math.min(height, h), Math.min(width, w)];
  if (lowest < height || narrowest < width) photo = pass(photo, height, width, lowest, narrowest);
  if (lowest < h || narrowest < w) photo = pass(photo, lowest, narrowest, h, w);
  return Float32Array.from({ length: 3 * h * w }, (_, i) => photo[(i % (h * w)) * 3 + Math.floor(i / (h * w))] / 255);
}
