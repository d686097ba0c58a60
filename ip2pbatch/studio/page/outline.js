// What was painted, as polygons: the outlines of a mask, made simple. Holes are filled.
const LEAST = 12;  // pixels: less is a slip of the hand

// Outer outlines of a mask of width × height truths, as lists of [x, y] on the corners of pixels.
function loops(mask, width, height) {
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[y * width + x];
  const edges = new Map();  // from a corner to the next, with the inside on the right
  const edge = (x0, y0, x1, y1) => {
    const from = y0 * (width + 1) + x0;
    if (!edges.has(from)) edges.set(from, []);
    edges.get(from).push(y1 * (width + 1) + x1);
  };
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      if (!at(x, y)) continue;
      if (!at(x, y - 1)) edge(x, y, x + 1, y);
      if (!at(x + 1, y)) edge(x + 1, y, x + 1, y + 1);
      if (!at(x, y + 1)) edge(x + 1, y + 1, x, y + 1);
      if (!at(x - 1, y)) edge(x, y + 1, x, y);
    }
  }
  const found = [];
  for (const [start, ends] of edges) {
    while (ends.length) {
      const loop = [start];
      for (let corner = ends.pop(); corner !== start; corner = edges.get(corner).pop()) loop.push(corner);
      found.push(loop.map((corner) => [corner % (width + 1), Math.floor(corner / (width + 1))]));
    }
  }
  return found;
}

const area = (points) => points.reduce((sum, [x, y], at) => {
  const [u, v] = points[(at + 1) % points.length];
  return sum + (x * v - u * y) / 2;
}, 0);

// Douglas and Peucker: no point that is left out lies farther than `far` from the line.
function simple(points, far) {
  if (points.length < 3) return points;
  const [[ax, ay], [bx, by]] = [points[0], points.at(-1)];
  const long = Math.hypot(bx - ax, by - ay);
  const away = ([x, y]) => (long ? Math.abs((bx - ax) * (ay - y) - (ax - x) * (by - ay)) / long : Math.hypot(x - ax, y - ay));
  let most = 0;
  for (let at = 1; at < points.length - 1; at += 1) if (away(points[at]) > away(points[most || 1])) most = at;
  most ||= 1;
  if (away(points[most]) <= far) return [points[0], points.at(-1)];
  return [...simple(points.slice(0, most + 1), far).slice(0, -1), ...simple(points.slice(most), far)];
}

// Polygons of a mask, in per cent of its width and height, of at most `points` points each.
export function outlines(mask, width, height, points = 200) {
  const per = ([x, y]) => [Math.round((1000 * x) / width) / 10, Math.round((1000 * y) / height) / 10];
  return loops(mask, width, height).filter((loop) => area(loop) >= LEAST).map((loop) => {
    const half = Math.floor(loop.length / 2);  // a ring has no two ends: each half of it has
    for (let far = 1; ; far *= 1.5) {
      const found = [...simple(loop.slice(0, half + 1), far).slice(0, -1), ...simple([...loop.slice(half), loop[0]], far).slice(0, -1)];
      if (found.length <= points) return found.map(per);
    }
  }).filter((polygon) => polygon.length >= 3);
}
