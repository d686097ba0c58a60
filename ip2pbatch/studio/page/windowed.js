// A long list of which only what is near the window is in the page.
//
// `layout()` says where everything is: { extent: [width, height] in pixels (0: as wide or high as there is room),
// between(area): the items in an area }. An item is { key, x, y, width, height, make(), fill(element) }: `make` builds
// its element, `fill` brings it up to date. `settled(element)` is told of each once scrolling is slow enough to see it.
export function windowed(scroller, sheet, layout, settled = () => {}) {
  const shown = new Map();
  let [asked, last, rest, size] = [false, 0, null, [-1, -1]];

  // The part of the sheet that is seen, with a quarter of a window around it, whatever scrolls: the list or the page.
  function area() {
    const [outer, inner] = [scroller.getBoundingClientRect(), sheet.getBoundingClientRect()];
    const seen = {
      left: Math.max(outer.left, 0) - inner.left, right: Math.min(outer.right, innerWidth) - inner.left,
      top: Math.max(outer.top, 0) - inner.top, bottom: Math.min(outer.bottom, innerHeight) - inner.top,
    };
    const [across, down] = [(seen.right - seen.left) / 4, (seen.bottom - seen.top) / 4];
    return { left: seen.left - across, right: seen.right + across, top: seen.top - down, bottom: seen.bottom + down, seen };
  }

  function draw() {
    asked = false;
    const now = layout();
    sized(now.extent);
    const part = area();
    const place = part.seen.top + part.seen.left;
    const quick = Math.abs(place - last) > (part.seen.bottom - part.seen.top) / 2;
    last = place;
    const items = new Map([...now.between(part)].map((item) => [item.key, item]));
    for (const [key, { element }] of shown) {
      if (!items.has(key)) { element.remove(); letGo(element); shown.delete(key); }
    }
    let next = sheet.firstChild;
    for (const [key, item] of items) {
      let one = shown.get(key);
      if (!one) {
        one = { element: item.make(), x: NaN };
        shown.set(key, one);
      }
      if (one.element === next) next = next.nextSibling; else sheet.insertBefore(one.element, next);
      put(one, item);
      item.fill(one.element);
      if (!quick) settled(one.element);
    }
    clearTimeout(rest);
    if (quick) rest = setTimeout(() => shown.forEach(({ element }) => settled(element)), 90);
  }

  function sized([width, height]) {
    if (width === size[0] && height === size[1]) return;
    size = [width, height];
    sheet.style.width = width ? `${width}px` : "";
    sheet.style.height = `${height}px`;
  }

  function put(one, { x, y, width, height }) {
    if (one.x === x && one.y === y && one.width === width && one.height === height) return;
    Object.assign(one, { x, y, width, height });
    Object.assign(one.element.style, { transform: `translate(${x}px, ${y}px)`, width: `${width}px`, height: `${height}px` });
  }

  const ask = () => { if (!asked) { asked = true; requestAnimationFrame(draw); } };
  scroller.addEventListener("scroll", ask, { passive: true });
  addEventListener("scroll", ask, { passive: true });
  addEventListener("resize", ask);
  new ResizeObserver(ask).observe(scroller);
  return { draw: ask, element: (key) => shown.get(key)?.element };
}

// A picture that has not come is waited for no longer: a browser asks for few at a time, and those that are seen come first.
function letGo(element) {
  for (const image of element.querySelectorAll("img[src]")) if (!image.complete) image.removeAttribute("src");
}

// A picture's address waits in data-src until scrolling has come to rest.
export function settle(element) {
  for (const image of element.querySelectorAll("img[data-src]")) {
    image.src = image.dataset.src;
    delete image.dataset.src;
  }
}

export function address(image, src) {
  if (image.dataset.of === src) return;
  image.dataset.of = src;
  image.dataset.src = src;
}
