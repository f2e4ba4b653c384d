// What a mask can be turned into. `painted` holds 1 where it is painted, in rows of `width`.

// Squared distance to the nearest entry that is 1 (Felzenszwalb and Huttenlocher, 2012): lower envelopes of parabolas,
// along the columns and then along the rows.
function squaredDistance(painted, width, height) {
  const far = 1e10, out = Float64Array.from(painted, (v) => (v ? 0 : far));
  const most = Math.max(width, height), f = new Float64Array(most), at = new Int32Array(most), end = new Float64Array(most + 1);
  function along(start, step, n) {
    for (let i = 0; i < n; i++) f[i] = out[start + i * step];
    let k = 0;
    at[0] = 0;
    end[0] = -Infinity;
    end[1] = Infinity;
    for (let i = 1; i < n; i++) {
      const cross = () => (f[i] + i * i - f[at[k]] - at[k] * at[k]) / (2 * (i - at[k]));
      while (cross() <= end[k]) k--;
      const s = cross();
      at[++k] = i;
      end[k] = s;
      end[k + 1] = Infinity;
    }
    k = 0;
    for (let i = 0; i < n; i++) {
      while (end[k + 1] < i) k++;
      out[start + i * step] = (i - at[k]) * (i - at[k]) + f[at[k]];
    }
  }
  for (let x = 0; x < width; x++) along(x, width, height);
  for (let y = 0; y < height; y++) along(y * width, 1, width);
  return out;
}

// 1 where one can go from the edge of the picture without crossing what is painted.
function outside(painted, width, height) {
  const found = new Uint8Array(painted.length), next = [];
  const see = (i) => {
    if (painted[i] || found[i]) return;
    found[i] = 1;
    next.push(i);
  };
  for (let x = 0; x < width; x++) [x, (height - 1) * width + x].forEach(see);
  for (let y = 0; y < height; y++) [y * width, y * width + width - 1].forEach(see);
  while (next.length) {
    const i = next.pop(), x = i % width;
    if (x > 0) see(i - 1);
    if (x < width - 1) see(i + 1);
    if (i >= width) see(i - width);
    if (i < painted.length - width) see(i + width);
  }
  return found;
}

const MASKS = {
  invert: (m) => m.map((v) => 1 - v),
  grow: (m, w, h, by) => Uint8Array.from(squaredDistance(m, w, h), (d) => Number(d <= by * by)),
  shrink: (m, w, h, by) => Uint8Array.from(squaredDistance(m.map((v) => 1 - v), w, h), (d) => Number(d > by * by)),
  "fill-inside": (m, w, h) => outside(m, w, h).map((v) => 1 - v),
  "fill-outside": (m, w, h) => outside(m, w, h).map((v, i) => v | m[i]),
};
